"""Stored states and the numbers that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from causalrn.bundle.bundle_folder import Bundle
from causalrn.calibration.schemes import Scheme, write_quantized
from causalrn.model.config import CausalRNConfig
from causalrn.model.state import derive_state
from causalrn.runtimes.opening import open_bundle
from causalrn.runtimes.state_values import state_values, stored_state

CONFIG = CausalRNConfig(vocabulary=5, embedding=4, hidden=6, blocks=1, capacity=9)
ROWS = hnp.arrays(np.float32, (3, 2, 6), elements=st.floats(-1e3, 1e3, width=32))
FLOAT32 = np.dtype(np.float32)


@given(ROWS)
def test_int8_rows_are_off_by_half_a_step_at_most(rows):
    spec = derive_state(CONFIG, pool_dtype="int8")
    stored = stored_state(spec, {"00.pool": rows}, FLOAT32)
    assert stored["00.pool"].dtype == np.int8
    assert stored["00.scale"].dtype == np.float32
    values = state_values(spec, stored)
    assert set(values) == {"00.pool"}
    largest = np.abs(rows).max(-1, keepdims=True)
    assert (np.abs(values["00.pool"] - rows) <= largest / 253 + 1e-28).all()
    again = stored_state(spec, values, FLOAT32)
    assert np.array_equal(again["00.pool"], stored["00.pool"])
    assert again["00.scale"] == pytest.approx(stored["00.scale"], rel=1e-6)


@given(ROWS)
def test_float16_rows_keep_eleven_bits(rows):
    spec = derive_state(CONFIG, pool_dtype="float16")
    stored = stored_state(spec, {"00.pool": rows}, FLOAT32)
    assert stored["00.pool"].dtype == np.float16
    assert (np.abs(state_values(spec, stored)["00.pool"] - rows) <= np.abs(rows) * 2.0**-11 + 1e-7).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float32_states_are_what_they_are(dtype):
    spec = derive_state(CONFIG)
    rows = np.ones((3, 2, 6))
    stored = stored_state(spec, {"00.pool": rows}, np.dtype(dtype))
    assert stored["00.pool"].dtype == dtype
    assert state_values(spec, stored)["00.pool"] is stored["00.pool"]


def test_graphs_round_rows_as_states_are_rounded(exact_bundle, tmp_path):
    """Block 0's rows depend on tokens and positions only, so they are known from the float32 bundle."""
    source = Bundle.open(exact_bundle)
    tokens = np.random.default_rng(0).integers(0, 29, (3, 9))
    with open_bundle(source) as session:
        session.reset(3)
        session.prefill(tokens)
        rows = session.snapshot().tensors["00.pool"]
    schemes = (
        Scheme("float32", pool="int8"),
        Scheme("w8", "qdq", pool="int8", keep=frozenset({"blocks.0.w12"})),
        Scheme("float32", pool="float16"),
    )
    for number, scheme in enumerate(schemes):
        folder = tmp_path / str(number)
        folder.mkdir()
        bundle = write_quantized(source, folder, scheme)
        expected = stored_state(bundle.manifest.state, dict.fromkeys(("00.pool", "01.pool"), rows), FLOAT32)
        with open_bundle(bundle) as session:
            session.reset(3)
            session.prefill(tokens[:, :4])
            for column in tokens[:, 4:].T:
                session.step(column)
            stored = session.snapshot().tensors
        step = np.maximum(np.abs(expected["00.pool"]) * 2.0**-10, 2.0**-24) if scheme.pool == "float16" else 1
        assert (np.abs(stored["00.pool"].astype(np.float32) - expected["00.pool"]) <= step).all()
        assert (stored["00.pool"] != expected["00.pool"]).mean() < 0.01
        if scheme.pool == "int8":
            assert stored["00.scale"] == pytest.approx(expected["00.scale"], rel=1e-5)
