#!/usr/bin/env bash
# Package: transformers 5.24.0 with torch 2.13.0, without optional kernels.
# One would guess: a model computes the same with one token and a cache as with all tokens.
# What happens: zamba2 and nemotron_h clamp the time step of their scan to `time_step_min` (0.001) from below when they get
#   several tokens, and do not clamp it when they get one and have a cache. mamba2, bamba, falcon_h1 and
#   granitemoehybrid do the same with `time_step_limit`, whose default has no effect. No error, no warning.
# Hits: whoever generates with these models where a time step is below the limit, or takes one form as the reference of
#   the other: the difference can be as small as float32's rounding, and grows with the tokens.
# Instead: set `time_step_min` to 1e-30 and `time_step_limit` to (0.0, inf) if the weights were trained without a limit, and
#   compare in float64.
# Seen (float64, whose norms and scans stay float32; largest difference of a logit of 24 single tokens, relative to the largest |logit|):
#   zamba2     time_step_min 0.001: 2e-04   1e-30: 4e-07
#   nemotron_h time_step_min 0.001: 8e-04   1e-30: 2e-07
#   mamba2     time_step_limit 0.02 to 1: 3e-02   none: 1e-07
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.24.0
cat > time_step.py <<'PY'
import os
import sys
import warnings

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
warnings.filterwarnings("ignore")

import torch
import transformers
from transformers import AutoModelForCausalLM

sizes = {"vocab_size": 29, "hidden_size": 32, "initializer_range": 0.2}
sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 48}
configurations = {
    "zamba2": (
        "Zamba2Config",
        heads | {"layers_block_type": ["linear_attention", "hybrid", "linear_attention"], "num_hidden_layers": 3}
        | {"n_mamba_heads": 4, "mamba_d_state": 8, "chunk_size": 8, "num_mem_blocks": 1}
        | {"use_shared_attention_adapter": True, "adapter_rank": 4},
        {"time_step_min": 0.001},
        {"time_step_min": 1e-30},
    ),
    "nemotron_h": (
        "NemotronHConfig",
        heads | {"layers_block_type": ["mamba", "attention", "mlp", "mamba"], "head_dim": 8}
        | {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8},
        {"time_step_min": 0.001},
        {"time_step_min": 1e-30},
    ),
    "mamba2": (
        "Mamba2Config",
        {"num_hidden_layers": 2, "state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 8},
        {"time_step_limit": (0.02, 1.0)},
        {"time_step_limit": (0.0, float("inf"))},
    ),
}
tokens = torch.randint(3, 29, (2, 24), generator=torch.Generator().manual_seed(1))


def step_error(kind, options):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**options)).eval().double()
    whole = model(input_ids=tokens, use_cache=False).logits
    cache, outputs = None, []
    for position in range(24):
        output = model(input_ids=tokens[:, position : position + 1], cache=cache, use_cache=True)
        cache = output.cache
        outputs.append(output.logits)
    return float((torch.cat(outputs, dim=1) - whole).abs().max() / whole.abs().max())


print("transformers", transformers.__version__, "torch", torch.__version__)
print("expected by a reader: rounding everywhere")
changed = []
with torch.no_grad():
    for name, (kind, options, limited, free) in configurations.items():
        errors = [step_error(kind, sizes | options | chosen) for chosen in (limited, free)]
        print(f"{name:<10} {limited}: {errors[0]:.0e}   {free}: {errors[1]:.0e}")
        if errors[0] < 1e-5 or errors[1] > 3e-6:
            changed.append(name)
if changed:
    sys.exit(f"changed: {', '.join(changed)}")
PY
venv/bin/python time_step.py 2> errors.log || { tail -n 5 errors.log >&2; exit 1; }
