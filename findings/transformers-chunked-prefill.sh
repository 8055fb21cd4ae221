#!/usr/bin/env bash
# Package: transformers 5.24.0 with torch 2.13.0, without optional kernels.
# One would guess: a cache that a model returned can be handed back with any number of new tokens; mamba2, and the models
#   that are built like it, do go on from it.
# What happens: with more than one new token mamba, falcon_mamba, jamba and zamba scan from zeros, whatever the cache holds
#   (only the convolution goes on). recurrent_gemma goes on with the recurrence and begins the convolution with
#   zeros. minimax with a recurrent layer first attends to the new tokens only: its mask is as long as the cache of the
#   first layer, which is empty. No error, no warning. One token at a time is right in all of them.
# Hits: prefill in chunks, a second message of a chat on a kept cache, a saved prompt cache, speculative decoding.
# Instead: one prefill from the first token, then single tokens; and compare a split prompt with a whole one.
# Seen (largest difference of a logit after 12 + 12 tokens, relative to the largest |logit|):
#   mamba           one at a time 2e-07   12 + 12 tokens 3e-02
#   falcon_mamba    one at a time 2e-07   12 + 12 tokens 8e-02
#   jamba           one at a time 1e-06   12 + 12 tokens 7e-01
#   zamba           one at a time 3e-06   12 + 12 tokens 7e-02
#   recurrent_gemma one at a time 5e-07   12 + 12 tokens 7e-02
#   minimax         one at a time 6e-07   12 + 12 tokens 1e+00
#   mamba2          one at a time 6e-07   12 + 12 tokens 2e-07
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.24.0
cat > chunks.py <<'PY'
import inspect
import os
import sys
import warnings

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
warnings.filterwarnings("ignore")

import torch
import transformers
from transformers import AutoModelForCausalLM

sizes = {"vocab_size": 29, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 48}
scan = {"mamba_d_state": 8, "mamba_dt_rank": 4}
configurations = {
    "mamba": ("MambaConfig", {"state_size": 8, "time_step_rank": 4}),
    "falcon_mamba": ("FalconMambaConfig", {"state_size": 8, "time_step_rank": 4}),
    "jamba": ("JambaConfig", heads | scan | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4}),
    "zamba": (
        "ZambaConfig",
        heads | scan | {"n_mamba_heads": 2, "num_hidden_layers": 4}
        | {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"]},
    ),
    "recurrent_gemma": ("RecurrentGemmaConfig", heads | {"num_hidden_layers": 3, "intermediate_size": 96}),
    "minimax": (
        "MiniMaxConfig",
        heads | {"layer_types": ["linear_attention", "full_attention"], "num_local_experts": 4, "head_dim": 8},
    ),
    "mamba2": ("Mamba2Config", {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 8}),
}
tokens = torch.randint(3, 29, (2, 24), generator=torch.Generator().manual_seed(1))


def build(name):
    kind, options = configurations[name]
    options = sizes | options
    if name == "recurrent_gemma":
        del options["initializer_range"]  # it has others
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(getattr(transformers, kind)(**options)).eval()


def run(model, sizes):
    """Logits of chunks, each with the cache that the one before returned or filled."""
    cache, start, outputs = None, 0, []
    if model.config.model_type == "recurrent_gemma":
        cache = transformers.DynamicCache(config=model.config)  # it does not return the one that it makes
    for size in sizes:
        chunk = tokens[:, start : start + size]
        given = {"input_ids": chunk, "position_ids": torch.arange(start, start + size).expand(2, -1)}
        if "position_ids" not in inspect.signature(model.forward).parameters:
            del given["position_ids"]
        output = model(**given, cache=cache, use_cache=True)
        cache = getattr(output, "cache", None) or cache
        outputs.append(output.logits)
        start += size
    return torch.cat(outputs, dim=1)


print("transformers", transformers.__version__, "torch", torch.__version__)
print("expected by a reader: rounding everywhere")
changed = []
with torch.no_grad():
    for name in configurations:
        model = build(name)
        whole = model(input_ids=tokens, use_cache=False).logits
        steps, chunks = (
            float((run(model, sizes) - whole).abs().max() / whole.abs().max()) for sizes in ([1] * 24, [12, 12])
        )
        print(f"{name:<15} one at a time {steps:.0e}   12 + 12 tokens {chunks:.0e}")
        if steps > 1e-5 or (chunks > 1e-5) != (name != "mamba2"):
            changed.append(name)
if changed:
    sys.exit(f"changed: {', '.join(changed)}")
PY
venv/bin/python chunks.py 2> errors.log || { tail -n 5 errors.log >&2; exit 1; }
