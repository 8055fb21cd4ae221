"""Pools of float16 in C: every kernel rounds as IEEE 754 says, and what is beyond float16 is an error."""

import subprocess

import numpy as np
import pytest

from causalrn.errors import NonFiniteError
from causalrn.runtimes.native.builds import ARM_COMPILER, arm_emulator
from causalrn.runtimes.native.native_session import NativeSession
from tests.builders import ROOT, model_beyond_float16, random_model
from tests.c_tools import c_bundle, compile_c, needs, needs_c_compiler, needs_gcc

SOURCE = ROOT / "tests" / "export" / "c99" / "halves.c"
LANES = 16


def hard_values() -> np.ndarray:
    """All finite halves, what lies midway between two of them, the floats beside these, and any floats at all."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    midway = (halves[1:] + halves[:-1]) / 2
    limits = np.array([65504, 65519.996, 65520, 65536, 3e38, np.inf, 2**-25, 1e-45, 1.2e-38], np.float32)
    rng = np.random.default_rng(0)
    any_bits = rng.integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    exact = np.concatenate([halves, midway, limits])
    beside = [np.nextafter(exact, np.float32(way)) for way in (-1, np.inf)]
    values = np.concatenate([exact, *beside, any_bits[~np.isnan(any_bits)]])
    values = np.concatenate([values, -values])
    return np.resize(values, -(-len(values) // LANES) * LANES)


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("command", "emulator"),
    [
        pytest.param(["gcc"], (), id="gcc", marks=needs_gcc),
        pytest.param(["gcc", "-DCAUSALRN_NO_VECTORS"], (), id="plain C", marks=needs_gcc),
        pytest.param(
            [ARM_COMPILER, "-static"],
            arm_emulator(),
            id="ARM",
            marks=needs(ARM_COMPILER, arm_emulator()[0], packages="gcc-aarch64-linux-gnu, qemu-user"),
        ),
    ],
)
def test_every_kernel_rounds_to_float16_as_ieee_says(tmp_path, command, emulator):
    bundle, values = c_bundle(random_model(blocks=1), tmp_path, pool_dtype="float16"), hard_values()
    program = compile_c([*command, "-std=c99", "-O2"], [SOURCE], bundle, tmp_path / "halves")
    result = subprocess.run([*emulator, program], input=values.tobytes(), capture_output=True, check=True)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).reshape(-1, 1, LANES)
    parts = np.frombuffer(result.stdout, [("halves", np.float16, LANES), ("back", np.float32, LANES)])
    parts = parts.reshape(len(expected), -1)  # [values / 16, kernels]
    assert (parts["halves"].view(np.uint16) == expected.view(np.uint16)).all()
    finite = np.broadcast_to(np.isfinite(expected), parts["back"].shape)
    assert (parts["back"] == expected.astype(np.float32))[finite].all()


@pytest.mark.cases(0)
@needs_c_compiler
@pytest.mark.parametrize("options", [{}, {"readout": "plain", "activation": "relu"}], ids=["exp", "relu forgets it"])
def test_rows_beyond_float16_are_an_error_and_not_taken(tmp_path, options):
    model = model_beyond_float16(**options)
    for dtype in ("float32", "float16"):
        place = tmp_path / dtype
        place.mkdir()
        with NativeSession(c_bundle(model, place, pool_dtype=dtype)) as session:
            session.prefill(np.array([[3, 4]]))
            if dtype == "float16":
                with pytest.raises(NonFiniteError):
                    session.step(np.array([28]))
                with pytest.raises(NonFiniteError):
                    session.prefill(np.array([[5, 28, 6]]))
            else:
                session.step(np.array([28]))
            assert session.position == (2 if dtype == "float16" else 3)
            assert np.isfinite(session.step(np.array([5]))).all()
