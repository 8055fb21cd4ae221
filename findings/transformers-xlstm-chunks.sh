#!/usr/bin/env bash
# Package: transformers 5.24.0 with torch 2.13.0, without the package xlstm.
# One would guess: a forward pass gives the same logits with use_cache=False and True.
# What happens: sequences longer than `max_inference_chunksize` (16,384 by default) are computed in chunks. With
#   use_cache=False the cache between them is made without a dtype, and its default is bfloat16: the state is rounded to 8
#   bits from the second chunk on. With use_cache=True it has the embeddings' dtype.
# Hits: evaluation of long texts, and whoever takes the pass without a cache as the reference.
# Instead: pass use_cache=True, or raise `max_inference_chunksize` above the length.
# Seen (24 tokens, relative to the largest |logit|):
#   use_cache=False, one chunk     0e+00
#   use_cache=True,  chunks of 8   0e+00
#   use_cache=False, chunks of 8   2e-03, first at position 8
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.24.0
cat > chunks.py <<'PY'
import os
import sys
import warnings

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
warnings.filterwarnings("ignore")

import torch
import transformers
from transformers import xLSTMConfig, xLSTMForCausalLM

sizes = {"vocab_size": 29, "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 2, "qk_dim_factor": 1.0, "chunk_size": 8}
tokens = torch.randint(3, 29, (2, 24), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(chunk, use_cache):
    torch.manual_seed(0)
    model = xLSTMForCausalLM(xLSTMConfig(**sizes, max_inference_chunksize=chunk)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model(input_ids=tokens, use_cache=use_cache).logits


print("transformers", transformers.__version__, "torch", torch.__version__)
print("expected by a reader: rounding of float32 everywhere")
expected = logits(16384, True)
errors = {}
for name, chunk, use_cache in (("one chunk", 16384, False), ("chunks of 8", 8, True), ("chunks of 8", 8, False)):
    apart = (logits(chunk, use_cache) - expected).abs().amax(dim=(0, 2)) / expected.abs().max()
    errors[chunk, use_cache] = float(apart.max())
    first = f", first at position {int((apart > 1e-5).nonzero()[0])}" if bool((apart > 1e-5).any()) else ""
    print(f"use_cache={use_cache!s:<5} {name:<13} {float(apart.max()):.0e}{first}")
if errors[16384, False] > 1e-5 or errors[8, True] > 1e-5:
    sys.exit("changed: what was right is not")
if errors[8, False] < 1e-4:
    sys.exit("changed: chunks without a cache are no longer rounded")
PY
venv/bin/python chunks.py 2> errors.log || { tail -n 5 errors.log >&2; exit 1; }
