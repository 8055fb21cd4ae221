"""What `doctor` tries with Python packages, each in an interpreter of its own: a crash or a hang there is a result.

Needs nothing but the standard library: a package that is not there is a result too.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from causalrn.cli.doctor_probe import Probe
from causalrn.compiling.programs import Outcome, execute, last_line

PYTHON_TIMEOUT_S = 30.0
EXPORT_EXTRA = "pip install 'causalrn[export]'"

_EXIT_MISSING = 3

# Made with onnx 1.23, x and y float32 [1, 4]: helper.make_node("Exp", ["x"], ["y"]) with opset 21 and IR version 10;
# make_node("RMSNormalization", ["x", "s"], ["y"], epsilon=1e-30) with an initializer s of four ones, opset 23 and IR
# version 11; then the base64 of ModelProto.SerializeToString().
EXP_OPSET_21 = "CAoSADo6CgsKAXgSAXkiA0V4cBIBZ1oTCgF4Eg4KDAgBEggKAggBCgIIBGITCgF5Eg4KDAgBEggKAggBCgIIBEIECgAQFQ=="
RMS_OPSET_23 = (
    "CAsSADp4Ci4KAXgKAXMSAXkiEFJNU05vcm1hbGl6YXRpb24qEQoHZXBzaWxvbhVgQqINoAEBEgFnKhkIBBABQgFzShAAAIA/AACAPwAAgD8A"
    "AIA/WhMKAXgSDgoMCAESCAoCCAEKAggEYhMKAXkSDgoMCAESCAoCCAEKAggEQgQKABAX"
)

# The child shows one line for an exception; it must not see modules of the folder that doctor runs in (-P).
_CHILD = """
import sys
try:
    exec(sys.argv[1], {"__name__": "__main__"})
except Exception as error:
    lines = str(error).strip().splitlines()
    sys.exit(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
"""

_NUMPY = """
import numpy
assert (numpy.ones((2, 3)) @ numpy.ones((3, 2)) == 3).all(), "a product of ones is wrong"
print("matrix product, version", numpy.__version__)
"""

_SAFETENSORS = """
import numpy, safetensors
from safetensors.numpy import load, save
array = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
assert (load(save({"a": array}))["a"] == array).all(), "a tensor came back changed"
print("round trip, version", safetensors.__version__)
"""

_RUN_MODEL = """
import base64, numpy, onnxruntime
onnxruntime.set_default_logger_severity(4)
model, provider = base64.b64decode("@MODEL"), "@PROVIDER"
options = onnxruntime.SessionOptions()
options.log_severity_level, options.intra_op_num_threads = 4, 1
if provider != "CPUExecutionProvider":
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
session = onnxruntime.InferenceSession(model, options, providers=[provider])
assert provider in session.get_providers(), "onnxruntime fell back to " + session.get_providers()[0]
x = numpy.array([[0, 1, 2, 3]], numpy.float32)
numpy.testing.assert_allclose(session.run(None, {"x": x})[0], @WANTED, rtol=1e-3)
print("@DETAIL, version", onnxruntime.__version__)
"""

_PROVIDERS = "import onnxruntime; print(*onnxruntime.get_available_providers())"

# The CPU has probes of its own; Azure calls a web service and runs no model here.
_OTHER_PROVIDERS = {"CPUExecutionProvider", "AzureExecutionProvider"}

_OPENVINO = """
import base64, sys, numpy
sys.modules["openvino_telemetry"] = None  # importing openvino would report it
import openvino
core = openvino.Core()
model = core.compile_model(core.read_model(base64.b64decode("@MODEL")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
x = numpy.array([[0, 1, 2, 3]], numpy.float32)
numpy.testing.assert_allclose(model(x)[0], x / (x**2).mean() ** 0.5, rtol=1e-5)
has = [name for name in ("BF16", "FP16") if name in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")]
print("ran RMSNormalization, version", openvino.__version__.partition("-")[0] + ", float32", *has, sep=" ")
"""

_TORCH = """
import torch
torch.set_num_threads(1)
assert bool((torch.ones(2, 3) @ torch.ones(3, 2) == 3).all()), "a product of ones is wrong"
print("matrix product, version", torch.__version__)
"""

_TORCH_CUDA = f"""
import sys, torch
if not torch.cuda.is_available():
    print("torch sees no GPU" if torch.version.cuda else "this torch is built without CUDA")
    sys.exit({_EXIT_MISSING})
assert bool((torch.ones(2, 3, device="cuda") @ torch.ones(3, 2, device="cuda") == 3).all()), "a product is wrong"
print("matrix product on", torch.cuda.get_device_name(), "CUDA", torch.version.cuda)
"""

_TORCH_EXPORT = """
import logging, torch
logging.disable(logging.CRITICAL)
torch.set_num_threads(1)
class Exp(torch.nn.Module):
    def forward(self, x):
        return torch.exp(x)
program = torch.onnx.export(Exp(), (torch.zeros(1, 4),), dynamo=True, opset_version=23, verbose=False)
operators = [node.op_type for node in program.model_proto.graph.node]
assert operators == ["Exp"], f"exp became {operators}"
print("exported a module with dynamo, opset 23")
"""

_ONNX = """
import base64, numpy, onnx, onnx.checker, onnx.reference
model = onnx.load_from_string(base64.b64decode("@MODEL"))
onnx.checker.check_model(model)
y, = onnx.reference.ReferenceEvaluator(model).run(None, {"x": numpy.zeros((1, 4), numpy.float32)})
assert (y == 1).all(), "exp(0) is not 1"
print("checker and reference, version", onnx.__version__)
"""

_QUANTIZE = """
import logging, pathlib, tempfile
import numpy, onnx, onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
logging.disable(logging.CRITICAL)
onnxruntime.set_default_logger_severity(4)
weights = numpy_helper.from_array(numpy.eye(32, dtype=numpy.float32), "w")
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32]) for name in "xy")
graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "q.onnx")
    quantize_dynamic(model, path)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
x = numpy.linspace(0, 1, 32, dtype=numpy.float32)[None]
y, = session.run(None, {"x": x})
assert abs(y - x).max() < 0.02, "the quantized product is wrong"
print("onnxruntime.quantization, ran an int8 product")
"""


def is_installed(package: str) -> bool:
    """Whether Python finds a package; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def run_python(code: str, timeout_s: float = PYTHON_TIMEOUT_S) -> Outcome:
    """Run code in an interpreter of its own, warnings silenced."""
    return execute([sys.executable, "-P", "-W", "ignore", "-c", _CHILD, code], timeout_s)


def probe_python(
    name: str,
    code: str,
    packages: Sequence[str],
    remedy: str,
    missing_remedy: str = "",
    timeout_s: float = PYTHON_TIMEOUT_S,
) -> Probe:
    """Try code that prints what it did; its exit code 3 says that something is not there.

    Args:
        name: what is tried.
        code: its last line of output is the detail.
        packages: what it imports.
        remedy: what helps where a package is missing or fails.
        missing_remedy: what helps on exit code 3.
        timeout_s: after so many seconds it is broken.
    """
    absent = [package for package in packages if not is_installed(package)]
    if absent:
        return Probe(name, "missing", f"{', '.join(absent)} not installed", remedy)
    outcome = run_python(code, timeout_s)
    answer = last_line(outcome.stdout)
    if outcome.code == 0 and answer:
        return Probe(name, "works", answer)
    if outcome.code == _EXIT_MISSING:
        return Probe(name, "missing", answer, missing_remedy)
    return Probe.of_failure(name, outcome, remedy)


def probe_numpy() -> Probe:
    """A matrix product."""
    return probe_python("numpy", _NUMPY, ["numpy"], "pip install --force-reinstall numpy")


def probe_safetensors() -> Probe:
    """A tensor written and read in memory."""
    remedy = "pip install --force-reinstall safetensors"
    return probe_python("safetensors", _SAFETENSORS, ["numpy", "safetensors"], remedy)


def probe_onnxruntime() -> Probe:
    """A model of opset 21 on the CPU."""
    code = _model_code(EXP_OPSET_21, "CPUExecutionProvider", "numpy.exp(x)", "ran an opset 21 model")
    remedy = "pip install --force-reinstall onnxruntime"
    return probe_python("onnxruntime, CPU", code, ["numpy", "onnxruntime"], remedy)


def probe_opset_23() -> Probe:
    """A model of opset 23 on the CPU: what `export` writes by default."""
    wanted = "x / (x**2).mean() ** 0.5"
    code = _model_code(RMS_OPSET_23, "CPUExecutionProvider", wanted, "ran RMSNormalization")
    remedy = "export with --opset 17, or upgrade onnxruntime"
    return probe_python("onnxruntime, opset 23", code, ["numpy", "onnxruntime"], remedy)


def probe_openvino() -> Probe:
    """A model of opset 23, as `export` writes them, and what else the processor has beside float32."""
    code = _OPENVINO.replace("@MODEL", RMS_OPSET_23)
    return probe_python("OpenVINO, CPU", code, ["numpy", "openvino"], "pip install 'causalrn[openvino]'")


def probe_providers() -> list[Probe]:
    """The same model on every other provider that this onnxruntime was built with, without falling back."""
    outcome, probes = run_python(_PROVIDERS), []
    if outcome.code != 0:
        return []  # probe_onnxruntime says why
    for provider in last_line(outcome.stdout).split():
        if provider not in _OTHER_PROVIDERS:
            code = _model_code(EXP_OPSET_21, provider, "numpy.exp(x)", "ran an opset 21 model")
            name = f"onnxruntime, {provider.removesuffix('ExecutionProvider')}"
            remedy = "check its driver and libraries, or use --provider cpu"
            probes.append(probe_python(name, code, ["onnxruntime"], remedy))
    return probes


def _model_code(model: str, provider: str, wanted: str, detail: str) -> str:
    code = _RUN_MODEL.replace("@MODEL", model).replace("@PROVIDER", provider)
    return code.replace("@WANTED", wanted).replace("@DETAIL", detail)


def probe_torch() -> Probe:
    """A matrix product on the CPU."""
    return probe_python("torch, CPU", _TORCH, ["torch"], EXPORT_EXTRA)


def probe_torch_cuda() -> Probe:
    """A matrix product on the GPU."""
    missing = "train on the CPU, or install a CUDA build of torch beside an NVIDIA driver"
    return probe_python("torch, CUDA", _TORCH_CUDA, ["torch"], EXPORT_EXTRA, missing)


def probe_onnx() -> Probe:
    """The checker and the reference implementation on a model."""
    return probe_python("onnx", _ONNX.replace("@MODEL", EXP_OPSET_21), ["numpy", "onnx"], EXPORT_EXTRA)


def probe_torch_export() -> Probe:
    """A module exported as `causalrn-export export` does it."""
    return probe_python("torch.onnx export", _TORCH_EXPORT, ["torch", "onnx", "onnxscript"], EXPORT_EXTRA)


def probe_quantize() -> Probe:
    """A product quantized to int8, and run."""
    return probe_python("quantization", _QUANTIZE, ["numpy", "onnx", "onnxruntime"], EXPORT_EXTRA)
