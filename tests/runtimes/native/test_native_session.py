"""What only a native session has: padded state, sets of tensors that take turns, threads, inline weights."""

import numpy as np
import pytest
import torch

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.tolerances import TOLERANCES
from causalrn.errors import BundleError, NonFiniteError, RuntimeUnavailableError, StateError
from causalrn.model.state import derive_state
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.runtimes.native.native_state import NativeState
from causalrn.runtimes.snapshot import Snapshot
from causalrn.runtimes.state_buffers import aligned_zeros
from tests.builders import overflowing_model, random_model, relative_error
from tests.c_tools import c_bundle, needs_c_compiler

pytestmark = needs_c_compiler
TOKENS = np.random.default_rng(0).integers(0, 29, (2, 40))


def test_arrays_begin_at_cache_lines():
    for shape in ((3,), (7, 5), (1 << 20,)):
        array = aligned_zeros(shape, np.float32)
        assert array.ctypes.data % 64 == 0
        assert array.shape == shape
        assert not array.any()
        array[...] = 1.0


def test_padding_of_heads_goes_and_comes():
    config = random_model(hidden=30, heads=3).config
    spec = derive_state(config)
    state = NativeState(spec, config)
    values = {tensor.name: np.random.default_rng(1).random((5, 2, 30), np.float32) for tensor in spec.tensors}
    state.load(values, 5, 2)
    assert state.arrays[0].shape[1:] == (2, 48)
    assert np.array_equal(state.arrays[0][:5, :, 16:26], values["00.pool"][:, :, 10:20])
    assert not state.arrays[0][:5, :, 26:32].any()
    assert all(np.array_equal(value, values[name]) for name, value in state.copies(5).items())
    with pytest.raises(StateError, match=r"float32 \[5, 2, 48\], expected float32 \[5, 2, 30\]"):
        state.load({name: np.zeros((5, 2, 48), np.float32) for name in values}, 5, 2)


@pytest.mark.cases(1)
@pytest.mark.parametrize("options", [{"hidden": 30, "heads": 3}, {"readout": "plain", "hidden": 30}], ids=str)
def test_state_of_another_runtime_is_taken_over(tmp_path, options):
    """What the oracle remembers, handed in: the padding is the session's own business."""
    from causalrn.model.cell import RecurrentCell
    from causalrn.runtimes.torch_sessions import RecurrentSession
    from causalrn.training.card import ModelCard

    model = random_model(**options)
    other = RecurrentSession(RecurrentCell.from_model(model), ModelCard(model.config))
    other.reset(2)
    other.prefill(TOKENS[:, :20])
    expected = model.oracle()(torch.from_numpy(TOKENS)).numpy()[:, 20:]
    with NativeSession(c_bundle(model, tmp_path)) as session:
        taken = other.snapshot()
        session.restore(Snapshot(20, 2, taken.tensors, taken.logits, session.owner))
        assert relative_error(session.prefill(TOKENS[:, 20:]), expected) <= TOLERANCES["float32", "native"].relative


def test_overflow_in_a_step_leaves_the_state_whole(tmp_path):
    model = overflowing_model()
    with NativeSession(c_bundle(model, tmp_path)) as session:
        expected = np.stack([session.step([token]) for token in TOKENS[0, :10] % 28])
        session.reset()
        for position, token in enumerate(TOKENS[0, :10] % 28):
            for take in (session.step, lambda token: session.prefill([[3, *token]])):
                with pytest.raises(NonFiniteError):
                    take([28])
            assert session.position == position
            assert np.array_equal(session.step([token]), expected[position])


def test_pool_without_capacity_grows(tmp_path):
    model = random_model(positions="none", capacity=None)
    tokens = np.random.default_rng(2).integers(0, 29, (1, 700))
    with NativeSession(c_bundle(model, tmp_path)) as session:
        stepped = np.concatenate([session.step(tokens[:, t]) for t in range(700)])
        session.reset()
        assert np.array_equal(session.prefill(tokens)[0], stepped)


def test_inline_weights_give_the_same_bits(tmp_path):
    model, spoken = random_model(), []
    for weights in ("file", "inline"):
        (tmp_path / weights).mkdir()
        with NativeSession(c_bundle(model, tmp_path / weights, weights=weights)) as session:
            session.reset(2)
            spoken.append(session.prefill(TOKENS))
    assert np.array_equal(*spoken)


@pytest.mark.cases(0)
def test_rows_of_the_firmware_profile_give_the_same_bits(tmp_path):
    model, spoken = random_model(), []
    for profile in ("generic", "cortex-m"):
        (tmp_path / profile).mkdir()
        with NativeSession(c_bundle(model, tmp_path / profile, profile=profile, weights="inline")) as session:
            session.reset(2)
            spoken.append(session.prefill(TOKENS))
    assert np.array_equal(*spoken)


def test_streams_are_shown_in_pieces_that_fit(tmp_path):
    """C shows one block of rows at a time: probing has to split a prefill, and must not change it."""
    model = random_model(embedding=20)
    with NativeSession(c_bundle(model, tmp_path)) as session:
        session.reset(2)
        expected = session.prefill(TOKENS)
        session.reset(2)
        with session.probing():
            assert np.array_equal(session.prefill(TOKENS), expected)
            streams = session.streams
    assert [stream.shape for stream in streams] == [(2, 40, 20)] * 3


def test_memory_is_what_the_header_says(tmp_path):
    bundle = c_bundle(random_model(), tmp_path)
    with NativeSession(bundle) as session:
        whole, work = session.memory_bytes(2, 40)
        assert whole - work == 2 * (40 * 2 * 32 * 4)  # two blocks' pools
        assert session.memory_bytes(1, 41)[0] == 0, "there are no 41 positions"


def test_closed_session_says_so_and_can_be_closed_again(tmp_path):
    session = NativeSession(c_bundle(random_model(), tmp_path), threads=2)
    session.step([1])
    session.close()
    session.close()
    for take in (lambda: session.step([1]), lambda: session.prefill([[1, 2]])):
        with pytest.raises(RuntimeUnavailableError, match="has been closed"):
            take()


def test_bundle_of_another_kind_is_refused(exact_bundle):
    with pytest.raises(BundleError, match="a bundle for onnx, not C source"):
        NativeSession(Bundle.open(exact_bundle))


@pytest.mark.cases(1)
@pytest.mark.parametrize("options", [{}, {"hidden": 30, "heads": 3}], ids=["whole", "padded heads"])
def test_state_at_position_0_goes_and_comes(tmp_path, options):
    with NativeSession(c_bundle(random_model(blocks=1, **options), tmp_path)) as session:
        fresh, before = session.snapshot(), session.prefill(TOKENS[:1, :3])
        session.restore(fresh)
        assert session.position == 0
        assert session.prefill(TOKENS[:1, :3]).tobytes() == before.tobytes()
