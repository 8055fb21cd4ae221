#!/usr/bin/env bash
# Package: onnx_graphsurgeon 0.6.1 (and polygraphy 0.53.6, which uses it), onnxsim 0.8.1, onnxslim 0.1.98; onnx 1.23.2.
# One would guess: a graph tool leaves metadata_props alone.
# What happens: importing and exporting with onnx_graphsurgeon, changing nothing, drops every metadata_props entry and the
#   doc_string of the model; so does polygraphy surgeon sanitize --cleanup. onnxsim keeps them and adds 20 entries of its own,
#   with the names of the nodes it removed. onnxslim keeps them, and empties doc_string.
# Hits: whoever lets a streaming model describe itself (names, shapes and starting values of states) in metadata_props.
# Instead: keep the description beside the model too; or copy metadata_props back after the tool, and compare.
# Seen (own entries, others):
#   onnx_graphsurgeon  0, 0
#   polygraphy         0, 0
#   onnxsim            2, 20
#   onnxslim           2, 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export ORT_DISABLE_TELEMETRY=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile onnxslim==0.1.98 onnxsim==0.8.1 polygraphy==0.53.6 onnx-graphsurgeon==0.6.1 \
    onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > make.py <<'PY'
import onnx
import onnx_graphsurgeon
from onnx import TensorProto, helper

rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 8)) for name in ("state", "x", "next")]
nodes = [helper.make_node("Add", ["state", "x"], ["sum"]), helper.make_node("Tanh", ["sum"], ["next"])]
graph = helper.make_graph(nodes, "step", rows[:2], rows[2:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10, doc_string="one step")
helper.set_model_props(model, {"state": "next", "start": "zeros"})
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "step.onnx")
onnx.save(onnx_graphsurgeon.export_onnx(onnx_graphsurgeon.import_onnx(model)), "onnx_graphsurgeon.onnx")
PY
cat > judge.py <<'PY'
import sys
from importlib.metadata import version

import onnx

own = {"state": "next", "start": "zeros"}
seen = {}
names = ("onnx-graphsurgeon", "polygraphy", "onnxsim", "onnxslim", "onnx")
print(", ".join(f"{name} {version(name)}" for name in names))
print("expected by a reader: 2 own entries, 0 others in every row")
for tool in ("onnx_graphsurgeon", "polygraphy", "onnxsim", "onnxslim"):
    model = onnx.load(f"{tool}.onnx")
    found = {entry.key: entry.value for entry in model.metadata_props}
    kept = sum(found.get(key) == value for key, value in own.items())
    seen[tool] = (kept, len(found) - kept)
    print(f"{tool:<17}  {kept}, {len(found) - kept}; doc_string {model.doc_string!r}")
if seen != {"onnx_graphsurgeon": (0, 0), "polygraphy": (0, 0), "onnxsim": (2, 20), "onnxslim": (2, 0)}:
    sys.exit("changed: one of the tools treats metadata_props differently now")
PY
venv/bin/python make.py
venv/bin/onnxslim step.onnx onnxslim.onnx > onnxslim.log
venv/bin/onnxsim step.onnx onnxsim.onnx > onnxsim.log
venv/bin/polygraphy surgeon sanitize step.onnx --cleanup -o polygraphy.onnx > polygraphy.log
venv/bin/python judge.py
