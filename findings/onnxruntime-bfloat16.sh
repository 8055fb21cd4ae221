#!/usr/bin/env bash
# Package: onnxruntime 1.32.0, ml_dtypes 0.6.0, numpy 2.4.6, onnx 1.23.2: where four packages meet over one type.
# One would guess: an array of ml_dtypes.bfloat16, which onnx itself makes and reads (numpy_helper), can be fed to a session
#   that has a bfloat16 input, and saved with numpy.
# What happens: the session loads, but run() raises for the array; OrtValue.numpy() raises for the output; numpy.save writes
#   it and numpy.load gives back raw two-byte items (|V2) that no arithmetic takes.
# Hits: whoever keeps a recurrent state in bfloat16 between steps in Python.
# Instead: Cast to float32 at the graph's inputs and outputs, which loses nothing; or feed the bits as uint16 with
#   OrtValue.ortvalue_from_numpy_with_onnx_type and leave the state an OrtValue; or view the loaded items as bfloat16.
# Seen:
#   onnx numpy_helper        bfloat16, equal
#   onnxruntime run          RuntimeError
#   onnxruntime OrtValue     tensor(bfloat16) from uint16 bits; numpy(): RuntimeError
#   numpy save and load      |V2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export ORT_DISABLE_TELEMETRY=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile onnxruntime==1.32.0 ml_dtypes==0.6.0 onnx==1.23.2 numpy==2.4.6
cat > meet.py <<'PY'
import io
import sys
from importlib.metadata import version

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

state = np.array([[1.5, 2.0, 3.0]], ml_dtypes.bfloat16)
rows = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, (1, 3)) for name in ("state", "next")]
graph = helper.make_graph([helper.make_node("Identity", ["state"], ["next"])], "step", rows[:1], rows[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
onnx.checker.check_model(model, full_check=True)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def outcome(action):
    try:
        return str(action())
    except RuntimeError:
        return "RuntimeError"


again = numpy_helper.to_array(numpy_helper.from_array(state, "state"))
bits = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(state.view(np.uint16), TensorProto.BFLOAT16)
following = session.run_with_ort_values(None, {"state": bits})[0]
file = io.BytesIO()
np.save(file, state)
file.seek(0)
loaded = np.load(file)
seen = [
    outcome(lambda: session.run(None, {"state": state})),
    following.data_type(),
    outcome(following.numpy),
    str(loaded.dtype),
]
print(", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "ml_dtypes", "numpy", "onnx")))
print("expected by a reader: bfloat16 everywhere")
print(f"onnx numpy_helper        {again.dtype}, {'equal' if np.array_equal(again, state) else 'different'}")
print(f"onnxruntime run          {seen[0]}")
print(f"onnxruntime OrtValue     {seen[1]} from uint16 bits; numpy(): {seen[2]}")
print(f"numpy save and load      {seen[3]}; viewed as bfloat16: {loaded.view(ml_dtypes.bfloat16).tolist()}")
if seen != ["RuntimeError", "tensor(bfloat16)", "RuntimeError", "|V2"]:
    sys.exit("changed: one of the packages treats bfloat16 arrays differently now")
PY
venv/bin/python meet.py
