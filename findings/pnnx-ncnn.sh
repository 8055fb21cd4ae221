#!/usr/bin/env bash
# Package: pnnx 20261020, ncnn 1.0.20261020 (with torch 2.13.0).
# One would guess: what pnnx converts with exit status 0 is loaded by ncnn and computes what PyTorch computes.
# What happens, all with exit status 0:
#   - nn.RNN(nonlinearity="relu") becomes ncnn's RNN, which is tanh: wrong numbers.
#   - nn.RMSNorm without eps (PyTorch then uses the type's epsilon, 1.2e-7) is written with eps 0: a zero row gives nan, a
#     small one is blown up to size 1.
#   - torch.where(a > b, a, b) is written as layers that ncnn does not have; load_param returns -1.
# Hits: whoever moves a recurrent step to phones: zero is the usual first state, a mask the usual way to freeze one.
# Instead: give RMSNorm an eps; tanh cells only; maximum, minimum or a mask that is fed; check what load_param returns.
# Seen:
#   GRU, tanh RNN: right; relu RNN: off by 0.9
#   RMSNorm of zeros: torch 0.0, ncnn nan; with eps=1e-6: 0.0
#   where: exit status 0, load_param -1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 pnnx==20261020 ncnn==1.0.20261020 numpy==2.4.6
cat > convert.py <<'PY'
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

warnings.filterwarnings("ignore")

import ncnn
import numpy as np
import torch

torch.manual_seed(0)


class Recurrent(torch.nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.layer = getattr(torch.nn, kind)(3, 4, **options)

    def forward(self, x, state):
        return self.layer(x, state)


class Larger(torch.nn.Module):
    def forward(self, x, state):
        return torch.where(x > state, x, state)


def convert(name, model, example):
    """Traces and converts; returns pnnx's exit status, ncnn's load_param, and the network."""
    folder = Path(name)
    folder.mkdir()
    torch.jit.trace(model.eval(), example).save(folder / "m.pt")
    shapes = ",".join("[" + ",".join(map(str, tensor.shape)) + "]f32" for tensor in example)
    command = [Path("venv/bin/pnnx").resolve(), "m.pt", f"inputshape={shapes}", "fp16=0"]
    status = subprocess.run(command, cwd=folder, capture_output=True).returncode
    network = ncnn.Net()
    network.opt.use_fp16_storage = network.opt.use_fp16_packed = network.opt.use_fp16_arithmetic = False
    network.opt.use_bf16_storage = False
    loaded = network.load_param(f"{name}/m.ncnn.param")
    if loaded == 0:
        network.load_model(f"{name}/m.ncnn.bin")
    return status, loaded, network


def first_output(network, example):
    with network.create_extractor() as extractor:
        for index, tensor in enumerate(example):
            rows = np.ascontiguousarray(tensor.reshape(-1, tensor.shape[-1]).numpy())
            extractor.input(f"in{index}", ncnn.Mat(rows).clone())
        return np.array(extractor.extract("out0")[1])


def difference(name, model, example):
    status, loaded, network = convert(name, model, example)
    wanted = model(*example)
    wanted = (wanted[0] if isinstance(wanted, tuple) else wanted).detach().numpy()
    error = float(abs(first_output(network, example).reshape(wanted.shape) - wanted).max())
    print(f"{name:<20} exit status {status}, load_param {loaded}, off by {error:.1e}")
    return error


print("pnnx", version("pnnx"), "ncnn", version("ncnn"), "torch", torch.__version__)
print("expected by a reader: exit status 0, load_param 0, off by 1e-6 or less; or a refusal")
pair = (torch.randn(5, 1, 3), torch.randn(1, 1, 4))
zeros = (torch.zeros(2, 4),)
errors = {
    "gru": difference("gru", Recurrent("GRU"), pair),
    "rnn_tanh": difference("rnn_tanh", Recurrent("RNN"), pair),
    "rnn_relu": difference("rnn_relu", Recurrent("RNN", nonlinearity="relu"), pair),
    "rmsnorm_eps": difference("rmsnorm_eps", torch.nn.RMSNorm(4, eps=1e-6), zeros),
    "rmsnorm": difference("rmsnorm", torch.nn.RMSNorm(4), zeros),
}
status, loaded, _ = convert("where", Larger(), (torch.randn(1, 4), torch.randn(1, 4)))
print(f"{'where':<20} exit status {status}, load_param {loaded}")
if not all(errors[name] < 1e-5 for name in ("gru", "rnn_tanh", "rmsnorm_eps")):
    sys.exit("changed: a form that was right is no longer right")
if not errors["rnn_relu"] > 1e-2:
    sys.exit("changed: a relu RNN is no longer computed as tanh")
if not np.isnan(errors["rmsnorm"]):
    sys.exit("changed: RMSNorm without eps no longer gives nan for zeros")
if (status, loaded) != (0, -1):
    sys.exit("changed: pnnx now fails, or ncnn now loads, what torch.where becomes")
PY
venv/bin/python convert.py 2> errors.log || { tail -n 5 errors.log >&2; exit 1; }
