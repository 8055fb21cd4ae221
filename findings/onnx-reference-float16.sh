#!/usr/bin/env bash
# Package: onnx 1.23.2 (onnx.reference.ReferenceEvaluator), beside onnxruntime 1.32.0.
# One would guess: the reference evaluator follows the operator's text: RMSNormalization with float16 input computes the mean
#   square in float32 (stash_type, default 1).
# What happens: it squares in float16. From a magnitude of 256 the square is infinite and the output is 0.
#   onnxruntime does compute in float32 and is right to float16 rounding.
# Hits: whoever uses the reference evaluator as the oracle for a float16 recurrent model: residual streams reach hundreds.
# Instead: an oracle of one's own in float64 on the float16 values.
# Seen (relative error, input of magnitude 1 / 1000):
#   onnxruntime          4e-04 / 3e-04
#   reference evaluator  4e-04 / 1e+00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export ORT_DISABLE_TELEMETRY=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > norm.py <<'PY'
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

warnings.filterwarnings("ignore")
SIZE = 64
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape)
          for name, shape in (("x", (2, SIZE)), ("scale", (SIZE,)), ("y", (2, SIZE)))]
node = helper.make_node("RMSNormalization", ["x", "scale"], ["y"], epsilon=1e-5, stash_type=1)
graph = helper.make_graph([node], "norm", values[:2], values[2:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
onnx.checker.check_model(model, full_check=True)

random = np.random.default_rng(0)
scale = np.ones(SIZE, np.float16)
forms = {
    "onnxruntime": onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]),
    "reference evaluator": ReferenceEvaluator(model),
}
errors = {form: [] for form in forms}
for magnitude in (1, 1000):
    x = (magnitude * random.standard_normal((2, SIZE))).astype(np.float16)
    exact = x.astype(np.float64)
    exact = exact / np.sqrt((exact**2).mean(axis=-1, keepdims=True) + 1e-5)
    for form, session in forms.items():
        y = session.run(None, {"x": x, "scale": scale})[0].astype(np.float64)
        errors[form].append(float(abs(y - exact).max() / abs(exact).max()))
print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
print("expected by a reader: below 1e-03 in both rows, at magnitude 1 and 1000")
for form, (small, large) in errors.items():
    print(f"{form:<20} {small:.0e} / {large:.0e}")
if max(errors["onnxruntime"]) > 1e-3:
    sys.exit("changed: onnxruntime's RMSNormalization is no longer right in float16")
if errors["reference evaluator"][1] < 0.5:
    sys.exit("changed: the reference evaluator no longer squares in float16")
PY
venv/bin/python norm.py
