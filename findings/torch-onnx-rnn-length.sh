#!/usr/bin/env bash
# Package: torch 2.13.0 (torch.onnx.export with dynamo=True).
# One would guess: with dynamic_shapes the length of the sequence stays free for nn.RNN as it does for nn.GRU and nn.LSTM.
# What happens: nn.GRU becomes one GRU node and takes any length. nn.RNN is unrolled for the length of the example, while
#   its input is still declared with a free length. Longer sequences run without an error and stop after the example's
#   length: the last state is that of an earlier step. Shorter ones are refused by the runtime.
# Hits: whoever exports a plain (Elman) RNN, or a module with a Python loop over time, and feeds longer text later.
# Instead: export one step with the state as input and output and loop outside; or check the declared shape of the OUTPUT,
#   where the length is a number
#   (for nn.GRU it is a number too, and wrong: the graph takes any length).
# Seen (exported with 6 steps):
#   RNN: input ['s34', 's27', 3], output ['s34', 6, 4], nodes 41 for 6 steps, 71 for 12
#     length 3: refused; length 6: right; length 9: wrong: 6 steps, state off by 1
#   GRU: input ['s34', 's27', 3], output ['s34', 6, 4], nodes 14 for 6 steps, 14 for 12
#     length 3, 6, 9: right
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
cat > lengths.py <<'PY'
import logging
import os
import sys
import warnings

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import onnxruntime
import torch

onnxruntime.set_default_logger_severity(4)
torch.manual_seed(0)


class Layer(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer = getattr(torch.nn, kind)(3, 4, batch_first=True)

    def forward(self, x, state):
        return self.layer(x, state)


def export(model, steps):
    free = torch.export.Dim.AUTO
    example = (torch.randn(2, steps, 3), torch.zeros(1, 2, 4))
    program = torch.onnx.export(model, example, dynamo=True, verbose=False, dynamic_shapes=({0: free, 1: free}, {1: free}))
    return program.model_proto


def shape(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


print("torch", torch.__version__)
print("expected by a reader: every length right, or an export with a fixed length")
wrong = {}
for kind in ("RNN", "GRU"):
    model = Layer(kind).eval()
    graph = export(model, 6)
    print(f"{kind}: input {shape(graph.graph.input[0])}, output {shape(graph.graph.output[0])},"
          f" nodes {len(graph.graph.node)} for 6 steps, {len(export(model, 12).graph.node)} for 12")
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    for length in (3, 6, 9):
        x, state = torch.randn(2, length, 3), torch.randn(1, 2, 4)
        try:
            outputs, last = session.run(None, dict(zip(names, (x.numpy(), state.numpy()))))
        except Exception:
            wrong[kind, length] = "refused"
        else:
            error = abs(last - model(x, state)[1].detach().numpy()).max()
            wrong[kind, length] = "right" if error < 1e-5 else f"wrong: {outputs.shape[1]} steps, state off by {error:.1g}"
        print(f"  length {length}: {wrong[kind, length]}")
if not (wrong["RNN", 9].startswith("wrong: 6 steps") and wrong["RNN", 3] == "refused" and wrong["RNN", 6] == "right"):
    sys.exit("changed: an exported nn.RNN no longer stops silently at the length of its example")
if any(wrong["GRU", length] != "right" for length in (3, 6, 9)):
    sys.exit("changed: an exported nn.GRU no longer takes every length")
PY
venv/bin/python lengths.py 2> errors.log || { tail -n 5 errors.log >&2; exit 1; }
