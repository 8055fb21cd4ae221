"""What `doctor` tries with LiteRT and Core ML, each in an interpreter of its own."""

from __future__ import annotations

from causalrn.cli.doctor_probe import Probe
from causalrn.cli.doctor_probes import probe_python

_TIMEOUT_S = 90.0
"""coremltools imports torch where it is installed."""

# One operator, written with the package's own schema: y = exp(x) for float32 [4].
_LITERT = """
import flatbuffers, importlib.metadata, os, numpy
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
def tensor(name):
    one = schema.TensorT()
    one.name, one.shape, one.type, one.buffer = name, [4], schema.TensorType.FLOAT32, 0
    return one
kind, step, graph, model = schema.OperatorCodeT(), schema.OperatorT(), schema.SubGraphT(), schema.ModelT()
kind.builtinCode = kind.deprecatedBuiltinCode = schema.BuiltinOperator.EXP
step.opcodeIndex, step.inputs, step.outputs = 0, [0], [1]
graph.tensors, graph.inputs, graph.outputs, graph.operators = [tensor("x"), tensor("y")], [0], [1], [step]
model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [kind], [graph], [schema.BufferT()]
builder = flatbuffers.Builder(1024)
builder.Finish(model.Pack(builder), b"TFL3")
runtime = Interpreter(model_content=bytes(builder.Output()), num_threads=1)
runtime.allocate_tensors()
x = numpy.array([0, 1, 2, 3], numpy.float32)
runtime.set_tensor(0, x)
runtime.invoke()
numpy.testing.assert_allclose(runtime.get_tensor(1), numpy.exp(x), rtol=1e-3)
print("ran a model, version", importlib.metadata.version("ai-edge-litert"))
"""

_COREMLTOOLS = """
import logging
logging.disable(logging.CRITICAL)
import coremltools
from coremltools.converters.mil import Builder
@Builder.program(input_specs=[Builder.TensorSpec(shape=(4,))], opset_version=coremltools.target.iOS16)
def program(x):
    return Builder.exp(x=x, name="y")
model = coremltools.convert(
    program, compute_precision=coremltools.precision.FLOAT32, minimum_deployment_target=coremltools.target.iOS16,
    skip_model_load=@SKIP,
)
"""

_CONVERT = """
kinds = {operation.type for block in model.get_spec().mlProgram.functions["main"].block_specializations.values()
         for operation in block.operations}
assert "exp" in kinds, f"exp became {sorted(kinds)}"
print("converted a program, version", coremltools.__version__)
"""

_RUN = """
import numpy
x = numpy.array([0, 1, 2, 3], numpy.float32)
numpy.testing.assert_allclose(model.predict({"x": x})["y"], numpy.exp(x), rtol=1e-3)
print("ran a program")
"""

_MAC_ONLY = """
import platform, sys
if platform.system() != "Darwin":
    print("runs on Apple's systems only")
    sys.exit(3)
"""


def probe_litert() -> Probe:
    """A model of one operator, in LiteRT's interpreter."""
    return probe_python("LiteRT", _LITERT, ["numpy", "ai_edge_litert"], "pip install ai-edge-litert")


def probe_coremltools() -> Probe:
    """A program of one operation, converted: works on any machine."""
    code = _COREMLTOOLS.replace("@SKIP", "True") + _CONVERT
    return probe_python("coremltools", code, ["coremltools"], "pip install 'causalrn[coreml]'", timeout_s=_TIMEOUT_S)


def probe_core_ml() -> Probe:
    """The same program, run: on a Mac."""
    code, install = _MAC_ONLY + _COREMLTOOLS.replace("@SKIP", "False") + _RUN, "pip install 'causalrn[coreml]'"
    return probe_python("Core ML", code, ["coremltools"], install, "verify the bundle on a Mac", timeout_s=_TIMEOUT_S)
