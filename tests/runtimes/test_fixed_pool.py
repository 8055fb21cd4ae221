"""A pool of fixed capacity says what the growing one says, at every length, and ends clearly."""

import numpy as np
import pytest

from causalrn.bundle.tolerances import TOLERANCES
from causalrn.errors import CapacityError
from causalrn.runtimes import open_session
from tests.builders import relative_error

CAPACITY = 40
TOLERANCE = TOLERANCES["float32", "onnxruntime"]


@pytest.fixture(scope="module")
def sessions(exact_bundle, fixed_bundle):
    with open_session(exact_bundle) as growing, open_session(fixed_bundle) as fixed:
        yield growing, fixed


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("by", ["steps", "prefill", "both"])
def test_fixed_pool_equals_the_growing_one_at_every_length(batch, by, sessions):
    tokens = np.random.default_rng(batch).integers(0, 29, (batch, CAPACITY))
    for length in range(1, CAPACITY + 1):
        said = []
        for session in sessions:
            session.reset(batch)
            taken = {"steps": 0, "prefill": length, "both": length // 2}[by]
            parts = [session.prefill(tokens[:, :taken])] if taken else []
            parts += [session.step(column)[:, None] for column in tokens[:, taken:length].T]
            said.append((np.concatenate(parts, axis=1), session.snapshot()))
        (exact, grown), (logits, fixed) = said
        assert relative_error(logits, exact) <= TOLERANCE.relative
        assert fixed.position == grown.position == length
        for name, rows in grown.tensors.items():
            assert fixed.tensors[name].shape == rows.shape == (length, batch, 32)
            assert relative_error(fixed.tensors[name], rows) <= TOLERANCE.state_relative


@pytest.mark.parametrize("taken", [0, CAPACITY - 1, CAPACITY])
def test_beyond_the_capacity_it_says_so_and_keeps_its_state(taken, sessions):
    tokens = np.random.default_rng(7).integers(0, 29, (1, CAPACITY + 1))
    for session in sessions:
        session.reset(1)
        if taken:
            session.prefill(tokens[:, :taken])
        before = session.snapshot()
        with pytest.raises(CapacityError, match=f"after {taken} exceed the capacity of 40: use a shorter prompt"):
            session.prefill(tokens[:, taken:])
        after = session.snapshot()
        assert after.position == taken
        for name, value in before.tensors.items():
            np.testing.assert_array_equal(after.tensors[name], value)


def test_fixed_bundle_is_verified_at_every_level(fixed_bundle, runs, call):
    code, out, err = call("verify", fixed_bundle, "--checkpoint", runs["exact"], "--samples", 20)
    assert code == 0, out + err
