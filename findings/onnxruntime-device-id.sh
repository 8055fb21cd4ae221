#!/usr/bin/env bash
# Package: onnxruntime 1.32.0 (Python, Linux).
# One would guess: opening a session reads the model and writes nothing.
# What happens: it creates a folder of its own under the home directory's .cache, with an identifier of the device and a
#   database, unless ORT_DISABLE_TELEMETRY=1 is in the environment before the import.
# Hits: whoever runs models on devices with a read-only or shared home, in build sandboxes that compare files, or where
#   writing an identifier needs someone's consent.
# Instead: set ORT_DISABLE_TELEMETRY=1 for the process before onnxruntime is imported.
# Seen:
#   by default: deviceid, onnxruntime.db
#   with ORT_DISABLE_TELEMETRY=1: nothing
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > open.py <<'PY'
import onnxruntime
from onnx import TensorProto, helper

rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 8)) for name in ("state", "next")]
graph = helper.make_graph([helper.make_node("Tanh", ["state"], ["next"])], "step", rows[:1], rows[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
PY
mkdir home home_off
env -u ORT_DISABLE_TELEMETRY -u XDG_CACHE_HOME HOME="$work/home" venv/bin/python open.py
env -u XDG_CACHE_HOME ORT_DISABLE_TELEMETRY=1 HOME="$work/home_off" venv/bin/python open.py
written=$(find home -type f -printf '%f\n' | LC_ALL=C sort | paste -sd ' ')
written_off=$(find home_off -type f -printf '%f\n' | paste -sd ' ')
venv/bin/python -c 'from importlib.metadata import version; print("onnxruntime", version("onnxruntime"))'
echo "expected by a reader: no file either way"
echo "by default: ${written:-nothing}"
echo "with ORT_DISABLE_TELEMETRY=1: ${written_off:-nothing}"
[[ $written == *deviceid* ]] || { echo "changed: no device identifier is written by default" >&2; exit 1; }
[[ -z $written_off ]] || { echo "changed: ORT_DISABLE_TELEMETRY=1 no longer keeps the home untouched" >&2; exit 1; }
