#!/usr/bin/env bash
# Package: onnxslim 0.1.98, onnxsim 0.8.1, polygraphy 0.53.6 with onnx_graphsurgeon 0.6.1, onnxruntime 1.32.0
#   (quantize_dynamic), openvino 2026.4.1, tract 0.23.9; the model is made with onnx 1.23.2.
# One would guess: a graph input that also has an initializer keeps its ONNX meaning, an input with a default. For a state
#   that is handy: leave it out at the first step, feed it from then on. onnxruntime runs it so (get_overridable_initializers).
# What happens: these six read the default as a constant. What they write, or load, has no state input any more. The four
#   tools that write a file end without an error, and the first step is right.
# Hits: whoever gives the state of a recurrent step its starting value in the graph and then simplifies, quantizes or moves it.
# Instead: plain inputs for states, and the starting value beside the model.
# Seen (inputs after each):
#   onnx                x, state
#   onnxslim            x
#   onnxsim             x
#   polygraphy          x
#   quantize_dynamic    x
#   openvino            x
#   tract               x
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export ORT_DISABLE_TELEMETRY=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile onnxslim==0.1.98 onnxsim==0.8.1 polygraphy==0.53.6 onnx-graphsurgeon==0.6.1 \
    onnxruntime==1.32.0 openvino==2026.4.1 tract==0.23.9 onnx==1.23.2 numpy==2.4.6
cat > make.py <<'PY'
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)


def row(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 8))


def constant(name, value):
    return numpy_helper.from_array(np.asarray(value, np.float32), name)


nodes = [
    helper.make_node("MatMul", ["x", "W"], ["from_x"]),
    helper.make_node("MatMul", ["state", "R"], ["from_state"]),
    helper.make_node("Add", ["from_x", "from_state"], ["sum"]),
    helper.make_node("Tanh", ["sum"], ["next"]),
]
constants = [
    constant("W", random.standard_normal((8, 8))),
    constant("R", random.standard_normal((8, 8))),
    constant("state", np.ones((1, 8))),
]
graph = helper.make_graph(nodes, "step", [row("x"), row("state")], [row("next")], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "step.onnx")
PY
cat > judge.py <<'PY'
import sys
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import openvino
import tract
from onnxruntime.quantization import quantize_dynamic

onnxruntime.set_default_logger_severity(3)
quantize_dynamic("step.onnx", "quantize_dynamic.onnx")
files = {"onnx": "step.onnx"} | {
    tool: f"{tool}.onnx" for tool in ("onnxslim", "onnxsim", "polygraphy", "quantize_dynamic")
}
inputs = {tool: [value.name for value in onnx.load(file).graph.input] for tool, file in files.items()}
inputs["openvino"] = [value.any_name for value in openvino.Core().read_model("step.onnx").inputs]
model = tract.onnx().load("step.onnx")
inputs["tract"] = [model.input_name(index) for index in range(model.input_count())]

names = ("onnxslim", "onnxsim", "polygraphy", "onnx-graphsurgeon", "onnxruntime", "openvino", "tract", "onnx")
print(", ".join(f"{name} {version(name)}" for name in names))
print("expected by a reader: x, state everywhere")
for tool, found in inputs.items():
    print(f"{tool:<17} {', '.join(found)}")
session = onnxruntime.InferenceSession("step.onnx", providers=["CPUExecutionProvider"])
x = np.zeros((1, 8), np.float32)
left_out, ones, zeros = (
    session.run(None, {"x": x} | fed)[0] for fed in ({}, {"state": x + 1}, {"state": x})
)
if not (np.array_equal(left_out, ones) and not np.array_equal(ones, zeros)):
    sys.exit("changed: onnxruntime no longer takes a state that has a default")
for tool, found in inputs.items():
    if found != (["x", "state"] if tool == "onnx" else ["x"]):
        sys.exit(f"changed: {tool} treats an input with a default differently now")
PY
venv/bin/python make.py
venv/bin/onnxslim step.onnx onnxslim.onnx > onnxslim.log
venv/bin/onnxsim step.onnx onnxsim.onnx > onnxsim.log
venv/bin/polygraphy surgeon sanitize step.onnx --fold-constants -o polygraphy.onnx > polygraphy.log
venv/bin/python judge.py 2> errors.log || { tail -n 5 errors.log >&2; exit 1; }
