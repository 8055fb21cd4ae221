"""The sum over pairs by Triton: values in its interpreter, registers as compiled for GPUs, and both on a GPU.

In processes of their own: TRITON_INTERPRET is for a whole process, and torch.compile imports Triton where it can.
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from tests.builders import ROOT

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None and (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason=f"there is no Triton for {platform.system()} on {platform.machine()}",
)
pytestmark = [needs_triton, pytest.mark.slow]


def _run(*arguments, folder, interpreted=False):
    """A Python program; what is compiled is kept in `folder`."""
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(ROOT / "benchmarks"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables |= {"PYTHONPATH": os.pathsep.join(paths), "TRITON_CACHE_DIR": str(folder)}
    variables |= {"TRITON_INTERPRET": "1"} if interpreted else {}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)


def _run_tests(folder, interpreted):
    tests = ROOT / "tests" / "model" / "operators" / "on_triton.py"
    return _run("-m", "pytest", "-q", "-p", "no:cacheprovider", tests, folder=folder, interpreted=interpreted)


def test_interpreted_programs_are_right(tmp_path):
    done = _run_tests(tmp_path, interpreted=True)
    assert done.returncode == 0, done.stdout[-8000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and torch for CUDA")
def test_programs_are_right_on_a_gpu(tmp_path):
    done = _run_tests(tmp_path, interpreted=False)
    assert done.returncode == 0, done.stdout[-8000:]


@pytest.mark.cases(0)
def test_no_register_spills_on_the_gpus_that_are_compiled_for(tmp_path):
    """Nor are spills overlooked: 256 sums per thread do not fit 255 registers."""
    program = """
import json
from triton_builds import Blocks, PairFunction, build

def registers_and_spills(name, width, capability, function=PairFunction("exp", "layer")):
    found = build(name, width, capability, "fp32", function, counted=False)
    return found.registers, found.spill_bytes

passes = ("sums", "gradients of q", "gradients of k")
builds = [registers_and_spills(name, width, capability)
          for name in passes for width in (64, 192) for capability in (80, 90)]
builds.append(registers_and_spills("gradients of q", 192, 80, PairFunction("exp", "rms", 1e-3)))
of = Blocks.of
Blocks.of = lambda width, backward: of(width, backward)._replace(pairs=128)
print(json.dumps([*builds, registers_and_spills("sums", 64, 80, PairFunction("relu", None))]))
"""
    done = _run("-c", program, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    *builds, (_, too_many) = json.loads(done.stdout)
    assert [spilled for _, spilled in builds] == 13 * [0]
    assert all(0 < registers <= 168 for registers, _ in builds), "at least twelve warps fit a multiprocessor"
    assert too_many > 0
