"""State files: bound to their bundle, whole or refused."""

import numpy as np
import pytest

from causalrn.errors import StateError
from causalrn.runtimes import open_session
from causalrn.runtimes.state_file import load_state, save_state


@pytest.fixture
def state(exact_bundle, tmp_path):
    with open_session(exact_bundle) as session:
        session.reset(2)
        session.prefill([[0, 3, 4], [0, 5, 6]])
        save_state(tmp_path / "state.safetensors", session.snapshot())
        return tmp_path / "state.safetensors", session.snapshot()


def test_round_trip_is_bit_equal(state):
    path, snapshot = state
    loaded = load_state(path)
    assert (loaded.position, loaded.batch, loaded.owner) == (3, 2, snapshot.owner)
    assert np.array_equal(loaded.logits, snapshot.logits)
    assert loaded.tensors.keys() == snapshot.tensors.keys()
    assert all(np.array_equal(loaded.tensors[name], tensor) for name, tensor in snapshot.tensors.items())


def test_state_of_another_bundle_is_refused(state, bundles):
    with open_session(bundles["linear"]) as session, pytest.raises(StateError, match="another bundle"):
        session.restore(load_state(state[0]))


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_truncated_file_is_refused(state, keep):
    path, _ = state
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StateError, match=r"state\.safetensors"):
        load_state(path)


def test_weights_are_no_state(runs):
    with pytest.raises(StateError, match="not a state file"):
        load_state(runs["exact"] / "model.safetensors")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(StateError, match="no such file"):
        load_state(tmp_path / "nothing")
