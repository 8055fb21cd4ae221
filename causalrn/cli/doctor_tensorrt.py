"""What `doctor` tries with TensorRT and CUDA, each in an interpreter of its own."""

from __future__ import annotations

from causalrn.bundle.trt_flavors import RTX
from causalrn.cli.doctor_probe import Probe
from causalrn.cli.doctor_probes import EXP_OPSET_21, is_installed, probe_python, run_python

_NEEDS_GPU = "needs an NVIDIA GPU and its driver"

_TENSORRT = """
import base64, ctypes, re, sys
import @PACKAGE as trt
class Log(trt.ILogger):
    last = ""
    def log(self, severity, text):
        if severity <= trt.ILogger.ERROR:
            found = re.search(r"cudaError [0-9]+: [^)]*", text)
            Log.last = found[0] if found else Log.last or text
def need(value):
    return value or sys.exit(Log.last or "it gave nothing back")
log = Log()
print("import", "version " + trt.__version__, sep="\t", flush=True)
builder = need(trt.Builder(log))
network = builder.create_network()
parser = trt.OnnxParser(network, log)
need(parser.parse(base64.b64decode("@MODEL")))
plan = need(builder.build_serialized_network(network, builder.create_builder_config()))
print("build", f"an engine of {plan.nbytes} bytes", sep="\t", flush=True)
engine = need(trt.Runtime(log).deserialize_cuda_engine(plan))
print("deserialize", "deserialized the engine", sep="\t", flush=True)
context = need(engine.create_execution_context())
cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
def call(name, *arguments):
    if code := getattr(cuda, name)(*arguments):
        sys.exit(f"{name} gave CUDA error {code}")
call("cuInit", 0)
device, owner = ctypes.c_int(), ctypes.c_void_p()
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(owner), device)
call("cuCtxSetCurrent", owner)
addresses = {"x": ctypes.c_uint64(), "y": ctypes.c_uint64()}
for name, address in addresses.items():
    call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(16))
    call("cuMemsetD32_v2", address, 0, ctypes.c_size_t(4))
    need(context.set_tensor_address(name, address.value))
need(context.execute_async_v3(0))
call("cuCtxSynchronize")
y = (ctypes.c_float * 4)()
call("cuMemcpyDtoH_v2", y, addresses["y"], ctypes.c_size_t(16))
assert list(y) == [1, 1, 1, 1], f"exp(0) is {list(y)}"
print("run", "ran the engine", sep="\t", flush=True)
"""

_TENSORRT_FACTS = ("import", "build", "deserialize", "run")

_CUDA_BINDINGS = """
import sys
import cuda.bindings
from cuda.bindings import runtime
code, address = runtime.cudaMalloc(16)
if int(code):
    sys.exit("CUDA error %d: %s" % (int(code), runtime.cudaGetErrorString(code)[1].decode()))
runtime.cudaFree(address)
print("allocated memory on the GPU, version", cuda.bindings.__version__)
"""


def probe_cuda_bindings() -> Probe:
    """Memory on the GPU, as engines' states need it."""
    if not is_installed("cuda"):
        return Probe("cuda-bindings", "missing", "cuda-bindings not installed", "pip install cuda-bindings")
    return probe_python("cuda-bindings", _CUDA_BINDINGS, ["cuda.bindings"], _NEEDS_GPU)


def probe_tensorrt(name: str, package: str, extra: str) -> list[Probe]:
    """Import, build, deserialize and run, each on its own: building needs no GPU with TensorRT-RTX, the rest does."""
    if not is_installed(package):
        return [Probe(name, "missing", f"{package} not installed", f"pip install 'causalrn[{extra}]'")]
    outcome = run_python(_TENSORRT.replace("@PACKAGE", package).replace("@MODEL", EXP_OPSET_21))
    done = dict(line.split("\t", 1) for line in outcome.stdout.splitlines() if "\t" in line)
    probes: list[Probe] = []
    for fact in _TENSORRT_FACTS:
        if fact in done:
            probes.append(Probe(f"{name}, {fact}", "works", done[fact]))
        elif probes and probes[-1].status != "works":
            probes.append(Probe(f"{name}, {fact}", "missing", "not tried after that"))
        else:
            without_gpu = ("import", "build") if package == RTX.module else ("import",)
            remedy = "reinstall it" if fact in without_gpu else _NEEDS_GPU
            probes.append(Probe.of_failure(f"{name}, {fact}", outcome, remedy))
    return probes
