#!/usr/bin/env bash
# Package: onnxruntime 1.32.0 (IOBinding, CPU).
# One would guess: binding one OrtValue as the state's input and output updates the state in place, and is either safe or
#   refused; or at least that a node listed before the update still reads the old state.
# What happens: nothing is checked. A node that reads the old state but is run after the one that writes the new state gets
#   the NEW state, and the order in which nodes are run is not their order in the file. Here y = 2 * state is listed first
#   and comes out as 2 * (state + x).
# Hits: whoever saves a copy per token by binding a recurrent state in and out to one buffer.
# Instead: two buffers, swapped each step; or one only for graphs in which the new state depends on everything that reads
#   the old one, and test it bit for bit against run().
# Seen (state 1, x 10; y should be 2, next 11):
#   update listed first: next 11, y 2
#   y listed first:      next 11, y 22
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export ORT_DISABLE_TELEMETRY=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > bind.py <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def session_with(nodes):
    def row(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, (4,))

    two = numpy_helper.from_array(np.float32(2), "two")
    graph = helper.make_graph(nodes, "step", [row("state"), row("x")], [row("next"), row("y")], [two])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def step(session, shared):
    x = np.full(4, 10, np.float32)
    binding = session.io_binding()
    state = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones(4, np.float32))
    binding.bind_ortvalue_input("state", state)
    binding.bind_cpu_input("x", x)
    binding.bind_ortvalue_output("next", state) if shared else binding.bind_output("next")
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    return [float(value.numpy()[0]) for value in binding.get_outputs()]


update = helper.make_node("Add", ["state", "x"], ["next"])
read = helper.make_node("Mul", ["state", "two"], ["y"])
print("onnxruntime", onnxruntime.__version__)
print("expected by a reader: next 11, y 2, whatever is bound")
values = []
for title, nodes in (("update listed first", [update, read]), ("y listed first", [read, update])):
    session = session_with(nodes)
    apart, shared = step(session, False), step(session, True)
    values.append(shared[1])
    print(f"{title}: two buffers next {apart[0]:g}, y {apart[1]:g}; one buffer next {shared[0]:g}, y {shared[1]:g}")
    if apart != [11.0, 2.0]:
        sys.exit("changed: even with two buffers the step is wrong")
if 22.0 not in values:
    sys.exit("changed: a state bound in place is no longer overwritten before it is read")
PY
venv/bin/python bind.py
