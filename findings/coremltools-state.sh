#!/usr/bin/env bash
# Package: coremltools 9.0 (with torch 2.13.0; converting works on Linux, running does not).
# One would guess: with compute_precision FLOAT32 a float32 buffer becomes a float32 state that starts at the buffer's value.
# What happens: the state is float16 all the same (said in one line of log output), each step rounds it to float16 and
#   back, and the starting value is in neither the program nor the weights: the saved model holds only a shape and a type.
# Hits: whoever moves a recurrent model to Apple devices and expects the accuracy of float32 over long runs.
# Instead: pass the state as an ordinary float32 input and output; set the starting value from the app.
# Seen:
#   state memory (1, 4) FLOAT16
#   casts in a program asked to be float32, to: fp16, fp32
#   constants and files that hold the starting value 5.25: 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 coremltools==9.0
cat > state.py <<'PY'
import logging
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import coremltools
import numpy as np
import torch


class Cell(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)
        self.register_buffer("memory", torch.full((1, 4), 5.25))

    def forward(self, x):
        self.memory.copy_(torch.tanh(self.inner(x) + self.memory))
        return self.memory * 1.0


program = torch.export.export(Cell().eval(), (torch.ones(1, 4),)).run_decompositions({})
model = coremltools.convert(
    program, compute_precision=coremltools.precision.FLOAT32, minimum_deployment_target=coremltools.target.iOS18
)
state = model.get_spec().description.state[0]
kind = state.type.stateType.arrayType
float16 = coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT16
print("coremltools", coremltools.__version__)
print("expected by a reader: a float32 state that starts at 5.25")
print("state", state.name, tuple(kind.shape), "FLOAT16" if kind.dataType == float16 else kind.dataType)

operations = list(model._mil_program.functions["main"].operations)
casts = sorted(op.outputs[0].dtype.__name__ for op in operations if op.op_type == "cast")
constants = [np.asarray(op.val.val) for op in operations if op.op_type == "const" and op.val.val is not None]
holding = sum(bool(np.any(c == np.float32(5.25))) for c in constants if np.issubdtype(c.dtype, np.floating))
model.save("cell.mlpackage")
patterns = [np.full(4, 5.25, dtype).tobytes() for dtype in (np.float16, np.float32)]
files = [path for path in Path("cell.mlpackage").rglob("*") if path.is_file()]
holding += sum(pattern in path.read_bytes() for path in files for pattern in patterns)
print("casts in a program asked to be float32, to:", ", ".join(casts))
print("constants and files that hold the starting value 5.25:", holding)
if kind.dataType != float16:
    sys.exit("changed: a state is no longer float16 when float32 is asked for")
if holding:
    sys.exit("changed: the starting value of a state is now saved")
PY
venv/bin/python state.py 2> errors.log || { tail -n 5 errors.log >&2; exit 1; }
