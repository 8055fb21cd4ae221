"""Which calls every kernel has to answer."""

import pytest

from causalrn.runtimes.parity.kernels.answers import BATCHES, window_lengths


@pytest.mark.parametrize("steps", [2, 17, 40, 48])
def test_of_short_sequences_every_prefill_is_taken(steps):
    lengths = window_lengths(steps, 0)
    assert lengths == [list(range(1, steps - position + 1)) for position in range(steps)]


@pytest.mark.parametrize("most", [2_000, 20_000])
@pytest.mark.parametrize("steps", [49, 64, 256])
def test_of_long_sequences_every_length_and_every_position_is_taken(steps, most):
    lengths = window_lengths(steps, 3, most)
    assert all(chosen and chosen[0] == 1 for chosen in lengths)
    assert all(position + chosen[-1] <= steps for position, chosen in enumerate(lengths))
    taken = {length for chosen in lengths for length in chosen}
    assert {*range(1, min(66, steps) + 1), steps} <= taken
    assert sum(map(sum, lengths)) <= 2.5 * 20_000


def test_batches_lie_around_what_is_computed_together():
    assert {6, 7, 31, 32, 33, 64} <= set(BATCHES)
