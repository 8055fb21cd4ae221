"""Turns, spreads and ratios."""

import pytest

from causalrn.runtimes.bench.timing import Spread, fastest_s, paired_ratio, step_times_us, turns


def test_everyone_has_a_turn_per_repeat_and_changing_neighbours():
    order = list(turns(["a", "b", "c"], 3))
    assert order == ["a", "b", "c", "a", "c", "b", "c", "a", "b"]
    assert list(turns([], 3)) == []


def test_spread_is_the_quartiles():
    spread = Spread.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (spread.low, spread.median, spread.high) == (2.0, 3.0, 4.0)
    assert spread.half_width == 1.0
    assert spread.noisy
    assert not Spread.of([100.0, 101.0, 102.0]).noisy
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_ratio_is_paired_so_that_a_slow_phase_cancels():
    times = {"a": [10.0, 100.0, 10.0], "b": [5.0, 50.0, 5.0]}
    assert paired_ratio(times, "a", "b") == Spread(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio({"a": [1.0, 2.0], "b": [1.0]}, "a", "b")


def test_steps_end_with_the_budget_but_not_before_the_first():
    taken = []
    assert len(step_times_us(lambda: taken.append(1), 5, budget_s=10.0)) == 5
    assert len(step_times_us(lambda: taken.append(1), 5, budget_s=0.0)) == 1
    assert len(taken) == 6
    assert fastest_s(lambda: taken.append(1), 3) >= 0
    assert len(taken) == 9
