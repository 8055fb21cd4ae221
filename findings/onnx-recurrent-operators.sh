#!/usr/bin/env bash
# Package: onnx 1.23.2 (reference evaluator), tract 0.23.9, MNN 3.6.1, iree-base-compiler and iree-base-runtime 3.13.0, beside
#   onnxruntime 1.32.0 and openvino 2026.4.1.
# One would guess: a runtime that loads a GRU, LSTM or RNN node computes it, or refuses the attributes it does not know.
# What happens: several load the node and leave an attribute or input out, with an error of order 1 and no message. Even the
#   default form of GRU is wrong in MNN (right only with linear_before_reset=1, which is what PyTorch's GRU exports). The
#   reference evaluator leaves out sequence_lens, clip and activations, so it is no oracle for them.
# Hits: whoever deploys recurrent layers in ONNX: padded batches, backward layers, Keras-style GRUs, clipped cells.
# Instead: write the step with MatMul, Sigmoid and Tanh and loop outside; or test the very node in the very runtime, from a
#   state that is not zero.
# Seen (G, L, R: GRU, LSTM, RNN wrong without an error; -g, -l, -r: refused; against NumPy in float64):
#                        onnxruntime openvino    reference   tract       MNN         IREE
#   default              .           .           .           .           G           .
#   linear_before_reset  .           .           .           .           .           .
#   sequence_lens        .           .           GLR         -glr        GLR         GLR
#   reverse              .           .           .           GLR         GLR         -glr
#   clip                 .           .           GLR         GLR         GLR         R-gl
#   activations          .           .           GL-r        GLR         GR          .
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export ORT_DISABLE_TELEMETRY=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 tract==0.23.9 MNN==3.6.1 \
    'iree-base-compiler[onnx]==3.13.0' iree-base-runtime==3.13.0 numpy==2.4.6
cat > cells.py <<'PY'
"""Cases, and what they should give: the three cells in NumPy, float64, step by step."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUT, HIDDEN, STEPS, BATCH = 3, 4, 5, 2
LENGTHS = np.array([STEPS, 3], np.int32)
GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
DEFAULTS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}
OTHERS = {"GRU": ["Sigmoid", "Relu"], "LSTM": ["Sigmoid", "Tanh", "Relu"], "RNN": ["Relu"]}
OUTPUTS = {"GRU": ["every", "last"], "LSTM": ["every", "last", "memory"], "RNN": ["every", "last"]}
CASES = {
    "default": {},
    "linear_before_reset": {"linear_before_reset": 1},
    "sequence_lens": {},
    "reverse": {"direction": "reverse"},
    "clip": {"clip": 0.2},
    "activations": {},
}
FUNCTIONS = {
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Relu": lambda x: np.maximum(x, 0),
}


def cell(kind, attributes, w, r, b, x, h, c):
    names = attributes.get("activations", DEFAULTS[kind])
    limit = attributes.get("clip", np.inf)
    acts = [lambda v, f=FUNCTIONS[name]: f(np.clip(v, -limit, limit)) for name in names]
    wx, rh = x @ w.T, h @ r.T
    wb, rb = np.split(b, 2)
    if kind == "RNN":
        return acts[0](wx + rh + wb + rb), c
    if kind == "LSTM":
        i, o, f, g = np.split(wx + rh + wb + rb, 4, axis=-1)
        c = acts[0](f) * c + acts[0](i) * acts[1](g)
        return acts[0](o) * FUNCTIONS[names[2]](c), c  # unclipped, as onnxruntime and openvino read the text
    z, reset = np.split(acts[0]((wx + rh + wb + rb)[:, : 2 * HIDDEN]), 2, axis=-1)
    wn, bw, br = wx[:, 2 * HIDDEN :], wb[2 * HIDDEN :], rb[2 * HIDDEN :]
    if attributes.get("linear_before_reset"):
        n = wn + bw + reset * (rh[:, 2 * HIDDEN :] + br)
    else:
        n = wn + bw + (reset * h) @ r[2 * HIDDEN :].T + br
    return (1 - z) * acts[1](n) + z * h, c


def exact(kind, attributes, constants, x, h, c, lengths):
    w, r, b = (constants[name][0].astype(np.float64) for name in "WRB")
    every = np.zeros((STEPS, BATCH, HIDDEN))
    steps = range(STEPS)
    for t in reversed(steps) if attributes.get("direction") == "reverse" else steps:
        live = (t < lengths)[:, None]
        h_new, c_new = cell(kind, attributes, w, r, b, x[t].astype(np.float64), h, c)
        h, c = np.where(live, h_new, h), np.where(live, c_new, c)
        every[t] = np.where(live, h, 0)
    return every, h, c


def make(kind, case):
    random = np.random.default_rng(0)
    attributes = dict(CASES[case])
    if case == "activations":
        attributes["activations"] = OTHERS[kind]

    def draw(*shape):
        return random.standard_normal(shape).astype(np.float32)

    gates = GATES[kind] * HIDDEN
    constants = {"W": draw(1, gates, INPUT), "R": draw(1, gates, HIDDEN), "B": draw(1, 2 * gates)}
    x, h, c = draw(STEPS, BATCH, INPUT), draw(1, BATCH, HIDDEN), draw(1, BATCH, HIDDEN)
    some = case == "sequence_lens"
    every, last, memory = exact(kind, attributes, constants, x, h[0], c[0], LENGTHS if some else np.full(BATCH, STEPS))
    feeds = {"x": x, "h": h} | ({"c": c} if kind == "LSTM" else {})
    wanted = [every[:, None], last[None]] + ([memory[None]] if kind == "LSTM" else [])
    inputs = ["x", "W", "R", "B", "lengths" if some else "", "h"] + (["c"] if kind == "LSTM" else [])
    node = helper.make_node(kind, inputs, OUTPUTS[kind], hidden_size=HIDDEN, **attributes)
    held = constants | ({"lengths": LENGTHS} if some else {})
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feeds.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in zip(OUTPUTS[kind], wanted)],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, "case.onnx")
    return feeds, dict(zip(OUTPUTS[kind], wanted))
PY
cat > table.py <<'PY'
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import iree.runtime
import MNN
import numpy as np
import onnxruntime
import openvino
import tract
from onnx.reference import ReferenceEvaluator

from cells import CASES, GATES, make

onnxruntime.set_default_logger_severity(4)


def run_onnxruntime(feeds, outputs):
    return onnxruntime.InferenceSession("case.onnx", providers=["CPUExecutionProvider"]).run(None, feeds)


def run_openvino(feeds, outputs):
    result = openvino.Core().compile_model("case.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feeds)
    return [result[index] for index in range(len(outputs))]


def run_reference(feeds, outputs):
    return ReferenceEvaluator("case.onnx").run(None, feeds)


def run_tract(feeds, outputs):
    model = tract.onnx().load("case.onnx").into_model().into_runnable()
    return [value.to_numpy() for value in model.run(list(feeds.values()))]


def run_mnn(feeds, outputs):
    convert = ["venv/bin/mnnconvert", "-f", "ONNX", "--modelFile", "case.onnx", "--MNNModel", "case.mnn", "--bizCode", "x"]
    subprocess.run(convert, check=True, capture_output=True)
    module = MNN.nn.load_module_from_file("case.mnn", list(feeds), outputs)
    values = []
    for value in feeds.values():
        values.append(MNN.expr.placeholder(list(value.shape), MNN.expr.NCHW))
        values[-1].write(value)
    return [np.array(MNN.expr.convert(value, MNN.expr.NCHW).read()) for value in module.forward(values)]


def run_iree(feeds, outputs):
    subprocess.run(["venv/bin/iree-import-onnx", "case.onnx", "-o", "case.mlir"], check=True, capture_output=True)
    target = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu"]
    subprocess.run(["venv/bin/iree-compile", "case.mlir", *target, "-o", "case.vmfb"], check=True, capture_output=True)
    module = iree.runtime.load_vm_flatbuffer(Path("case.vmfb").read_bytes(), driver="local-sync")
    return [value.to_host() for value in module.g(*feeds.values())]


RUNTIMES = {
    "onnxruntime": run_onnxruntime,
    "openvino": run_openvino,
    "reference": run_reference,
    "tract": run_tract,
    "MNN": run_mnn,
    "IREE": run_iree,
}


def judge(run, feeds, wanted):
    try:
        got = run(feeds, list(wanted))
    except Exception:
        return "refused"
    if len(got) != len(wanted):
        return "refused"
    pairs = zip(got, wanted.values())
    errors = [abs(np.asarray(value, np.float64).reshape(right.shape) - right).max() for value, right in pairs]
    return "right" if max(errors) < 1e-4 else "wrong"


def cell(verdicts):
    wrong = "".join(kind[0] for kind, verdict in verdicts.items() if verdict == "wrong")
    refused = "".join(kind[0] for kind, verdict in verdicts.items() if verdict == "refused")
    return wrong + (f"-{refused.lower()}" if refused else "") or "."


packages = ("onnx", "onnxruntime", "openvino", "tract", "MNN", "iree-base-compiler")
print(", ".join(f"{name} {version(name)}" for name in packages))
print("expected by a reader: . or - (refused) everywhere. G, L, R: GRU, LSTM, RNN wrong without an error; -g, -l, -r: refused")
print(f"{'':<20}", *(f"{name:<11}" for name in RUNTIMES))
seen = {}
for case in CASES:
    verdicts = {name: {} for name in RUNTIMES}
    for kind in GATES if case != "linear_before_reset" else ["GRU"]:
        feeds, wanted = make(kind, case)
        for name, run in RUNTIMES.items():
            verdicts[name][kind] = judge(run, feeds, wanted)
    seen[case] = {name: cell(by_kind) for name, by_kind in verdicts.items()}
    print(f"{case:<20}", *(f"{mark:<11}" for mark in seen[case].values()), flush=True)
EXPECTED = """
. . . . G .
. . . . . .
. . GLR -glr GLR GLR
. . . GLR GLR -glr
. . GLR GLR GLR R-gl
. . GL-r GLR GR .
"""
for case, line in zip(CASES, EXPECTED.split("\n")[1:]):
    for name, mark in zip(RUNTIMES, line.split()):
        if seen[case][name] != mark:
            sys.exit(f"changed: {name}, {case}: {seen[case][name]} instead of {mark}")
PY
venv/bin/python table.py 2> errors.log || { tail -n 5 errors.log >&2; exit 1; }
