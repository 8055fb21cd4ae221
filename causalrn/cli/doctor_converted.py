"""What `doctor` tries with the runtimes of phones and boards, each in an interpreter of its own."""

from __future__ import annotations

from causalrn.bundle.conversions import CONVERSIONS
from causalrn.cli.doctor_probe import Probe
from causalrn.cli.doctor_probes import probe_python

# Made with executorch 1.5.1 of a module that gives torch.exp(x), x float32 [1, 4], lowered to XNNPACK; compressed by
# zlib, then base64.
_EXP_PROGRAM = (
    "eNqtVM1u00AQHhuTmtSKjGtFOSBkWT1wiJDTE1QcKgRSDghx4BApjfoTG8XCcqzEEa1Q3oFH4Qk4c+TAgQOHPkCfIWZ2PHbWTloJtRt93vU68803"
    "szP7CgDefuwdBBPPc3D98wHkQ8unRIFymNDBp42zATr+waQ3gH3EOwl/VlkmzCVTUPl/BkInSw3nKr9Gv/UQn57Qqg3P0NrBt47kv82cLwQP4xfi"
    "t9CA+IYEf9XcdzFOa/zC348sywzWZvO377jH0pQWPgZxnJyNP79GBLG/tjdp1Sw1NZnniKGUMRuwyzGbnBKd3jR+rnUqNY2KtKdyDBprFCcCDy2w"
    "4DF50jmTFsfSKXLYaJC+BnOpTK5KedBR/SPWU/DasLfBa8q8yHyFOsxbefPc6LQGeIN4iRj2us5XN71MAvfQiRdR1HXc8TROg4tU2piEkT8L4pN5"
    "EoxxezhajtB2Vbd3zxdhlIbx/Hm6SKLArXC5gszdxnZv9v+jf7lVtx+O05rb4ci9iQKTsIM5+DSdfTmb+XCXMeh73lMQ3f9BqXYk0O7gvdcTPejQ"
    "GRp4/nZeH1gB1INocY1zn89f9GOXz17ukaKGmuvrpVLvilRDx2XftDBOnW1Byf1a6L9BWvJ7yaa6FNYq28lcch3KXDbfaQWTSXfLJo9a45FjsojR"
    "oJhE2GYZT7XfBDzEP+Evnck="
)

_IMPORT_TIMEOUT_S = 120.0
"""Its runtime imports its converter, which takes 10 seconds by itself."""

_EXECUTORCH = f"""
import base64, logging, warnings, zlib
from importlib.metadata import version
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import torch
from executorch.runtime import Runtime
program = Runtime.get().load_program(zlib.decompress(base64.b64decode("{_EXP_PROGRAM}")))
y, = program.load_method("forward").execute([torch.zeros(1, 4)])
assert bool((y == 1).all()), "exp(0) is not 1"
print("ran a program in XNNPACK, version", version("executorch"))
"""


def probe_executorch() -> Probe:
    """A program whose exponential XNNPACK computes."""
    row = CONVERSIONS["executorch"]
    return probe_python(row.title, _EXECUTORCH, row.modules, row.install, timeout_s=_IMPORT_TIMEOUT_S)
