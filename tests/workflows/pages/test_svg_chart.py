"""Axes have round numbers, lines break where nothing is known."""

import math

import pytest

from causalrn.workflows.pages.svg_chart import Axis, Curve, draw_chart, round_logarithms, round_numbers
from causalrn.workflows.pages.verify_charts import Heat


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 17, [0, 5, 10, 15]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (3, 4095, [1000, 2000, 3000, 4000]),
        (7, 9, [7, 7.5]),
    ],
)
def test_linear_ticks_are_round(low, high, ticks):
    assert round_numbers(low, high)[: len(ticks)] == pytest.approx(ticks)
    assert len(round_numbers(low, high)) <= 6


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1, 18, [1, 2, 5, 10]),
        (2e-8, 1e-1, [1e-7, 1e-5, 1e-3, 1e-1]),
        (1.5, 750, [5, 10, 50, 100, 500]),
        (1e-7, 1e-4, [1e-7, 1e-6, 1e-5, 1e-4]),
    ],
)
def test_logarithmic_ticks_are_round(low, high, ticks):
    assert round_logarithms(low, high) == pytest.approx(ticks)


def test_lines_break_where_nothing_is_known():
    axis = Axis("x", str)
    curve = Curve("a", [0, 1, 2, 3], [1.0, None, 1.0, 10.0], "place", 1)
    chart = draw_chart("title", [curve], axis, axis, logarithmic=False)
    assert chart.lines[0].path.count("M") == 2
    assert draw_chart("title", [Curve("a", [0, 1], [None, None], "p", 1)], axis, axis, logarithmic=False) is None


def test_tenth_of_the_limit_looks_calm_and_nothing_beyond_it_does():
    heat = Heat(0, "native", (), is_budget=False, largest=2.0)
    assert heat.strength(0.1) <= 0.2
    assert heat.strength(1.0) == 1
    assert [heat.is_over(ratio) for ratio in (1.0, 1.01, None)] == [False, True, True]
    judged = Heat(0, "native", (), is_budget=True, largest=math.inf)
    assert [judged.is_over(ratio) for ratio in (1e4, None)] == [False, True]
    assert judged.strength(1.0) == 0 < judged.strength(100.0) < judged.strength(1e4) == 1
