"""Lines through times: what is known comes out, and noise is told from growth."""

import numpy as np
import pytest

from causalrn.runtimes.bench.growth import fit_growth

DEPTHS = (16, 128, 256, 512, 1024, 1536, 2048, 3072, 4096)


def points(start, slope, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return [(t, [(start + slope * t) * (1 + noise * x) for x in rng.standard_normal(9)]) for t in DEPTHS]


def test_line_is_recovered():
    line = fit_growth("exact", 1, points(60.0, 0.5))
    assert line.start_us == pytest.approx(60.0)
    assert line.slope_us == pytest.approx(0.5)
    assert line.largest_residual < 1e-9
    assert line.kind == "grows"
    assert line.rise_us == pytest.approx(0.5 * 4080)
    assert "60.0 us + 0.500 us per token before it" in line.describe()


def test_bend_shows_in_the_residuals():
    bent = [(t, [60.0 + 0.5 * t + 2e-4 * t * t] * 3) for t in DEPTHS]
    assert fit_growth("bent", 1, bent).largest_residual > 0.15


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_flat_and_growth_of_a_tenth_is_not(seed):
    assert fit_growth("linear", 1, points(50.0, 0.0, 0.01, seed)).kind == "flat"
    assert fit_growth("creeping", 1, points(50.0, 50.0 * 0.1 / 4096, 0.005, seed)).kind == "grows"


def test_what_grows_with_the_square_is_no_line_and_not_flat():
    squares = fit_growth("parallel", 1, [(t, [0.1 * t * t] * 3) for t in DEPTHS])
    assert squares.kind == "no line"
    assert squares.describe().startswith("no line")


def test_line_misses_no_point_by_more_than_it_must():
    """y = 1, 2, 1 at 1, 2, 3: the best constant for relative errors is 4/3, off by a third everywhere."""
    line = fit_growth("peak", 1, [(1.0, [1.0] * 3), (2.0, [2.0] * 3), (3.0, [1.0] * 3)])
    assert line.largest_residual == pytest.approx(1 / 3, rel=1e-3)
    assert line.start_us == pytest.approx(4 / 3, rel=1e-2)


def test_a_fall_is_no_growth():
    assert fit_growth("falling", 1, [(t, [100 - 0.01 * t] * 3) for t in DEPTHS]).kind == "unclear"


def test_one_noisy_point_does_not_make_growth_flat():
    rising = [(1.0, [100.0] * 3), (2.0, [101.0] * 3), (3.0, [110.0] * 3), (4.0, [100.0, 140.0, 190.0])]
    assert fit_growth("rising", 1, rising).kind == "unclear"


def test_small_and_large_times_weigh_the_same():
    skewed = [(t, [(60.0 + 0.5 * t) * (1.1 if t == 16 else 1.0)]) for t in DEPTHS]
    assert 0.02 < fit_growth("skewed", 1, skewed).largest_residual < 0.1
