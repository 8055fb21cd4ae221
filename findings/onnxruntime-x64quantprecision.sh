#!/usr/bin/env bash
# Package: onnxruntime 1.32.0, onnx 1.23.2.
# One would guess: the session option session.x64quantprecision = 1, which is there to keep int8 products from saturating on x86
#   processors without VNNI, changes precision only: a valid model runs with it as without it.
# What happens: DequantizeLinear with a scale per channel and no zero point, which the standard allows (it is 0 then), loads and
#   raises at the first run, if a weight is beyond -64 to 64: the option then stores weights as uint8, with a single zero
#   point. With zero points that are written out, all zeros, or with smaller weights, the same model runs.
# Hits: weight-only models whose exporter leaves zero points out, as soon as someone sets the option for older processors.
# Instead: write zero points out; or keep weights within 7 bits, which cannot saturate, and leave the option alone.
# Seen:
#   no zero points,         option off: runs
#   no zero points,         option on:  raises Fail ("per axis quantization")
#   no zero points, 7 bits, option on:  runs
#   zero points of 0,       option off: runs
#   zero points of 0,       option on:  runs
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export ORT_DISABLE_TELEMETRY=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile onnxruntime==1.32.0 onnx==1.23.2
cat > option.py <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = np.linspace(-127, 127, 32).reshape(8, 4).astype(np.int8)
TENSORS = {"scales": np.full(4, 0.5, np.float32), "zeros": np.zeros(4, np.int8)}


def outcome(inputs, option, weights=WEIGHTS):
    nodes = [
        helper.make_node("DequantizeLinear", inputs, ["floats"], axis=1),
        helper.make_node("MatMul", ["x", "floats"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", size]) for n, size in (("x", 8), ("y", 4))]
    tensors = [numpy_helper.from_array({"weights": weights, **TENSORS}[name], name) for name in inputs]
    graph = helper.make_graph(nodes, "product", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if option:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    try:
        session.run(None, {"x": np.ones((1, 8), np.float32)})
    except Exception as error:
        return f"raises {type(error).__name__}" + (' ("per axis quantization")' if "per axis" in str(error) else "")
    return "runs"


print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}; expected by a reader: all of them run")
bare, full = ["weights", "scales"], ["weights", "scales", "zeros"]
seen = {
    "no zero points,         option off": outcome(bare, False),
    "no zero points,         option on": outcome(bare, True),
    "no zero points, 7 bits, option on": outcome(bare, True, WEIGHTS // 2),
    "zero points of 0,       option off": outcome(full, False),
    "zero points of 0,       option on": outcome(full, True),
}
for words, found in seen.items():
    print(f"{words + ':':<35} {found}")
if list(seen.values()) != ["runs", 'raises Fail ("per axis quantization")', "runs", "runs", "runs"]:
    sys.exit("changed: the option treats this model otherwise now")
PY
venv/bin/python option.py
