"""Times, sizes and ratios as people read them."""

import pytest

from causalrn.runtimes.bench.timing import Spread
from causalrn.workflows.pages import figures


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [(1.234, "1.23 us"), (57.2, "57.2 us"), (999.6, "1.00 ms"), (1292.0, "1.29 ms"), (18.1e6, "18.1 s")],
)
def test_times_have_the_unit_that_fits(microseconds, text):
    assert figures.time_text(microseconds) == text


def test_sizes_and_ratios_are_short():
    assert [figures.bytes_text(size) for size in (None, 0, 147456, 37748736, 2.5e9)] == [
        "-",
        "0 B",
        "147 kB",
        "37.7 MB",
        "2.50 GB",
    ]
    assert figures.ratio_text(Spread(1.02, 0.98, 1.1)) == "~1.02"
    assert figures.ratio_text(Spread(2.5, 2.4, 2.6)) == "2.50"
    assert figures.share_text(0.003) == "<1%"
    assert [figures.counted(count, "line") for count in (0, 1, 2048)] == ["0 lines", "1 line", "2,048 lines"]
