#!/usr/bin/env bash
# Package: transformers 5.24.0 with torch 2.13.0.
# One would guess: RwkvForCausalLM continues several rows from its state as it continues one; [2, 1] tokens give [2, 1, V].
# What happens: with one token the stored values [B, E] meet hidden values [B, 1, E], and every row is combined with every
#   row's past, as if these were B tokens one after the other: the logits are [2, 2, V], and the states that come of it
#   are mixed, too. One row is right. generate() takes the last column, without a word.
# Hits: batched generation with RWKV.
# Instead: one row at a time, or two tokens at a time at least: those are computed by another line.
# Seen:
#   one row:  logits [1, 1, 29], difference 2e-07
#   two rows: logits [2, 2, 29], difference of the first column 6e-02
#   generate: second token of the first row, alone and beside another: difference 3e-01
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.24.0
cat > rows.py <<'PY'
import os
import sys
import warnings

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
warnings.filterwarnings("ignore")

import torch
import transformers
from transformers import RwkvConfig, RwkvForCausalLM

torch.manual_seed(0)
model = RwkvForCausalLM(RwkvConfig(vocab_size=29, hidden_size=32, num_hidden_layers=2, context_length=64)).eval()
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
tokens = torch.randint(3, 29, (2, 9), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def last_step(rows):
    """Logits of the last token after a prefill of the others, and how far they are from those of the whole."""
    whole = model(input_ids=rows, use_cache=False).logits[:, -1]
    state = model(input_ids=rows[:, :-1], use_cache=True).state
    logits = model(input_ids=rows[:, -1:], state=state, use_cache=True).logits
    return list(logits.shape), float((logits[:, 0] - whole).abs().max() / whole.abs().max())


def second_logits(rows):
    """Of the second token that generate() makes, for the first row: [V]."""
    result = model.generate(
        input_ids=rows, max_new_tokens=2, do_sample=False, pad_token_id=0, eos_token_id=None, output_logits=True,
        return_dict_in_generate=True,
    )
    return result.logits[1][0]


print("transformers", transformers.__version__, "torch", torch.__version__)
one, two = last_step(tokens[:1]), last_step(tokens)
print(f"one row:  logits {one[0]}, difference {one[1]:.0e}")
print(f"two rows: logits {two[0]}, difference of the first column {two[1]:.0e}")
alone, together = second_logits(tokens[:1]), second_logits(tokens)
generated = float((alone - together).abs().max() / alone.abs().max())
print(f"generate: second token of the first row, alone and beside another: difference {generated:.0e}")
if one[0] != [1, 1, 29] or one[1] > 1e-4:
    sys.exit("changed: one row is no longer right")
if two[0] != [2, 2, 29] or two[1] < 1e-3 or generated < 1e-3:
    sys.exit("changed: two rows are no longer mixed")
PY
venv/bin/python rows.py 2> errors.log || { tail -n 5 errors.log >&2; exit 1; }
