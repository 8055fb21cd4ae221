#!/usr/bin/env bash
# Package: tract 0.23.9, beside onnxruntime 1.32.0.
# One would guess: a Slice whose start is computed as 8 - rows, with rows a free dimension of an input, takes the last rows of 8.
# What happens: tract has to decide once, when loading, whether the symbolic start counts from the front or from the back. It
#   takes 8 - rows for negative and adds 8 again at run time: "Invalid range", or no rows at all where all 8 were due.
#   The same start written as -rows is right.
# Hits: whoever slices a window, a mask or a table of positions by how far a growing state has come.
# Instead: write the start as -rows (count from the end), or cut the table outside the graph.
# Seen (rows 1, 3, 8):
#   start 8 - rows: Invalid range 15..8; Invalid range 13..8; wrong, 0 rows
#   start -rows: right; right; right
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export ORT_DISABLE_TELEMETRY=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile tract==0.23.9 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > slices.py <<'PY'
import re
import sys
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper, numpy_helper

TABLE = np.arange(32, dtype=np.float32).reshape(8, 4)


def save(start_node):
    nodes = [
        helper.make_node("Shape", ["pool"], ["rows"], start=0, end=1),
        start_node,
        helper.make_node("Slice", ["table", "start", "eight", "axis"], ["last"]),
    ]
    constants = [
        numpy_helper.from_array(TABLE, "table"),
        numpy_helper.from_array(np.array([8], np.int64), "eight"),
        numpy_helper.from_array(np.array([0], np.int64), "axis"),
    ]
    pool = helper.make_tensor_value_info("pool", TensorProto.FLOAT, ("rows", 4))
    last = helper.make_tensor_value_info("last", TensorProto.FLOAT, ("kept", 4))
    graph = helper.make_graph(nodes, "window", [pool], [last], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "window.onnx")


def outcome(model, rows):
    pool = np.zeros((rows, 4), np.float32)
    session = onnxruntime.InferenceSession("window.onnx", providers=["CPUExecutionProvider"])
    if not np.array_equal(session.run(None, {"pool": pool})[0], TABLE[8 - rows :]):
        sys.exit("changed: onnxruntime no longer takes the last rows")
    try:
        last = model.run([pool])[0].to_numpy()
    except Exception as error:
        return re.search(r"Invalid range \S+|$", str(error))[0] or type(error).__name__
    return "right" if np.array_equal(last, TABLE[8 - rows :]) else f"wrong, {len(last)} rows"


print("tract", version("tract"))
print("expected by a reader: right in every case, as in onnxruntime")
seen = {}
for title, node in {
    "8 - rows": helper.make_node("Sub", ["eight", "rows"], ["start"]),
    "-rows": helper.make_node("Neg", ["rows"], ["start"]),
}.items():
    save(node)
    model = tract.onnx().load("window.onnx").into_model().into_runnable()
    seen[title] = [outcome(model, rows) for rows in (1, 3, 8)]
    print(f"start {title}: {'; '.join(seen[title])}")
if "right" in seen["8 - rows"]:
    sys.exit("changed: a start of 8 - rows is no longer taken for negative")
if seen["-rows"] != ["right"] * 3:
    sys.exit("changed: a start of -rows is no longer right")
PY
venv/bin/python slices.py
