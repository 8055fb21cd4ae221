#!/usr/bin/env bash
# Package: torch 2.13.0 (torch.onnx.export) and openvino 2026.4.1 (convert_model).
# One would guess: a module that keeps its state in a buffer and writes it in forward() is either refused, or exported
#   with a state input and output (torch.export itself does report the write, as a mutated buffer).
# What happens: both return normally with a graph of one input and one output. The buffer has become a constant,
#   the write is gone: every call starts again from the starting value. The first step, the one people compare, is right.
#   (litert-torch 0.10.0 did the same when it was tried by hand; it is left out here because it installs 2 GB.)
# Hits: whoever exports a streaming model that holds its own state.
# Instead: make the state an argument and a result of forward(), and compare at least two steps.
# Seen:
#   torch reports the write: ['state']
#   eager       [6.0, 7.0, 8.0]
#   torch.onnx  [6.0, 6.0, 6.0]
#   openvino    [6.0, 6.0, 6.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 openvino==2026.4.1
cat > steps.py <<'PY'
import logging
import os
import sys
import warnings

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import numpy as np
import onnxruntime
import openvino
import torch


class Counter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("state", torch.full((1, 4), 5.0))

    def forward(self, x):
        self.state.add_(x)
        return self.state.clone()


x = torch.ones(1, 4)
program = torch.export.export(Counter(), (x,)).run_decompositions({})
mutated = program.graph_signature.buffers_to_mutate
print("torch", torch.__version__, "reports the write:", list(mutated.values()))

eager = Counter()
graph = torch.onnx.export(Counter(), (x,), dynamo=True, verbose=False).model_proto
session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
converted = openvino.convert_model(program)
request = openvino.compile_model(converted, "CPU").create_infer_request()

steps = {
    "eager": lambda: eager(x),
    "torch.onnx": lambda: session.run(None, {name: x.numpy()})[0],
    "openvino": lambda: request.infer([x.numpy()])[0],
}
seen = {form: [float(np.asarray(step())[0, 0]) for _ in range(3)] for form, step in steps.items()}
print("expected by a reader: 6, 7, 8 everywhere, or an error at export")
for form, values in seen.items():
    print(f"{form:<11} {values}")
for form in ("torch.onnx", "openvino"):
    if seen[form] != [6.0, 6.0, 6.0]:
        sys.exit(f"changed: {form} no longer drops a state that is held in a buffer")
PY
venv/bin/python steps.py 2> errors.log || { tail -n 5 errors.log >&2; exit 1; }
