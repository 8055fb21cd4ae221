#!/usr/bin/env bash
# Package: onnxruntime 1.32.0 (onnxruntime.quantization.quantize_dynamic).
# One would guess: quantize_dynamic shrinks the three recurrent operators alike, or says which it leaves alone.
# What happens: LSTM becomes int8. GRU and RNN stay float32, even when asked for by name, without a message; the file that is
#   called quantized is a little larger than before. The body of a Scan stays float32 too, unless
#   extra_options={"EnableSubgraph": True} is passed.
# Hits: whoever ships a GRU or a Scan as "int8" and measures accuracy (perfect) before size.
# Instead: write the step as MatMul nodes and loop outside; or Scan with EnableSubgraph; and compare file sizes.
# Seen (size in bytes before, after; largest change of the state):
#   LSTM               131228   33244  8.7e-03
#   GRU                 98459   98549  0.0e+00
#   GRU by name         98459   98549  0.0e+00
#   RNN                 32921   33011  0.0e+00
#   Scan                17011   17145  0.0e+00
#   Scan, subgraphs     17011    5316  6.4e-03
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export ORT_DISABLE_TELEMETRY=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > quantize.py <<'PY'
import logging
import os
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

logging.disable(logging.WARNING)
SIZE, STEPS = 64, 5
random = np.random.default_rng(0)


def tensor(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def weights(name, *shape):
    return numpy_helper.from_array(random.uniform(-0.2, 0.2, shape).astype(np.float32), name)


def recurrent(kind, gates):
    node = helper.make_node(kind, ["x", "W", "R"], ["all", "last"], hidden_size=SIZE)
    return [node], [weights("W", 1, gates * SIZE, SIZE), weights("R", 1, gates * SIZE, SIZE)], [tensor("last", 1, 1, SIZE)]


def scanned():
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "R"], ["product"]),
            helper.make_node("Add", ["product", "row"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["h_next"]),
            helper.make_node("Identity", ["h_next"], ["row_out"]),
        ],
        "body",
        [tensor("h", 1, SIZE), tensor("row", 1, SIZE)],
        [tensor("h_next", 1, SIZE), tensor("row_out", 1, SIZE)],
    )
    zero = numpy_helper.from_array(np.zeros((1, SIZE), np.float32), "zero")
    node = helper.make_node("Scan", ["zero", "x"], ["last", "all"], body=body, num_scan_inputs=1)
    return [node], [zero, weights("R", SIZE, SIZE)], [tensor("last", 1, SIZE)]


def last_state(path, x):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def measure(title, parts, **options):
    nodes, constants, outputs = parts
    graph = helper.make_graph(nodes, "g", [tensor("x", STEPS, 1, SIZE)], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "before.onnx")
    quantize_dynamic("before.onnx", "after.onnx", **options)
    x = random.standard_normal((STEPS, 1, SIZE)).astype(np.float32)
    change = float(abs(last_state("before.onnx", x) - last_state("after.onnx", x)).max())
    before, after = os.path.getsize("before.onnx"), os.path.getsize("after.onnx")
    print(f"{title:<16} {before:>8} {after:>7}  {change:.1e}")
    return after < 0.5 * before


print("onnxruntime", onnxruntime.__version__)
print("expected by a reader: about a quarter of the size in every row")
smaller = {
    "LSTM": measure("LSTM", recurrent("LSTM", 4)),
    "GRU": measure("GRU", recurrent("GRU", 3)),
    "GRU by name": measure("GRU by name", recurrent("GRU", 3), op_types_to_quantize=["GRU"]),
    "RNN": measure("RNN", recurrent("RNN", 1)),
    "Scan": measure("Scan", scanned()),
    "subgraphs": measure("Scan, subgraphs", scanned(), extra_options={"EnableSubgraph": True}),
}
if [name for name, yes in smaller.items() if yes] != ["LSTM", "subgraphs"]:
    sys.exit("changed: quantize_dynamic now treats another set of recurrent operators")
PY
venv/bin/python quantize.py
