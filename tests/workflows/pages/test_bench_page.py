"""A benchmark's page where there is little to draw."""

from causalrn.runtimes.bench.results import BenchReport, Row, Workload
from causalrn.workflows.pages.bench_page import render_page


def test_two_depths_below_two_are_drawn():
    rows = [Row("a", "native", 1, "m", Workload("decode", 2, depth, 1), times_us=(1.0,) * 3) for depth in (0, 1)]
    environment = {"packages": {}, "cpu_count": 1}
    page = render_page(BenchReport({"folders": []}, environment, rows))
    assert "<h1>" in page
    assert "<svg" not in page, "both stand at 1 in logarithms: there is no curve"
