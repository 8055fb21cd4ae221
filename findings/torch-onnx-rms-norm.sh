#!/usr/bin/env bash
# Package: torch 2.13.0 (torch.onnx.export with dynamo=True, opset 23), onnxscript 0.7.2.
# One would guess: F.rms_norm without a weight exports to an RMSNormalization with a scale of ones of the normalized length.
# What happens: the scale has the full shape of the INPUT, and is made at run time (Shape, ConstantOfShape) where the input
#   is dynamic: a tensor of ones as large as the data, filled and read at every step. With an explicit weight of ones the
#   export is one node and a scale of the normalized length, the numbers agree to rounding, and it takes half the time.
# Hits: whoever normalizes a growing state, all rows at each step, without an affine part.
# Instead: pass weight=torch.ones(size), as a buffer.
# Seen (input [rows, 64]):
#   no weight: Shape, ConstantOfShape, RMSNormalization; initializers []; 565 us for 4,096 rows
#   ones: RMSNormalization; initializers [[64]]; 266 us for 4,096 rows
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export ORT_DISABLE_TELEMETRY=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
cat > norm.py <<'PY'
import logging
import sys
import time
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import numpy as np
import onnxruntime
import torch

SIZE = 64


class Norm(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x):
        return torch.nn.functional.rms_norm(x, (SIZE,), self.weight, 1e-5)


def export(weight):
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    example = (torch.randn(5, SIZE),)
    program = torch.onnx.export(
        Norm(weight), example, dynamo=True, verbose=False, opset_version=23, dynamic_shapes=shapes
    )
    return program.model_proto


def fastest(session, feeds):
    times = []
    for _ in range(50):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return min(times)


print("torch", torch.__version__)
print("expected by a reader: one RMSNormalization with a scale of 64 ones either way")
x = np.random.default_rng(0).standard_normal((4096, SIZE)).astype(np.float32)
seen, outputs = {}, []
for title, weight in (("no weight", None), ("ones", torch.ones(SIZE))):
    model = export(weight)
    graph = model.graph
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: x}
    outputs.append(session.run(None, feeds)[0])
    seen[title] = [node.op_type for node in graph.node]
    scales = [list(constant.dims) for constant in graph.initializer]
    print(f"{title}: {', '.join(seen[title])}; initializers {scales}; {fastest(session, feeds) * 1e6:.0f} us for 4,096 rows")
print(f"largest difference: {abs(outputs[0] - outputs[1]).max():.0e}")
if seen["no weight"] != ["Shape", "ConstantOfShape", "RMSNormalization"]:
    sys.exit("changed: rms_norm without a weight no longer exports a scale of the input's shape")
if seen["ones"] != ["RMSNormalization"]:
    sys.exit("changed: rms_norm with a weight is no longer one node")
PY
venv/bin/python norm.py 2> errors.log || { tail -n 5 errors.log >&2; exit 1; }
