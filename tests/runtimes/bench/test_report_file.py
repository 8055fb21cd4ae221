"""A benchmark's JSON: read back as it was, and refused where no benchmark wrote it."""

import dataclasses
import json

import pytest

from causalrn.bundle.json_values import json_text
from causalrn.errors import InputError
from causalrn.runtimes.bench.growth import fit_growth
from causalrn.runtimes.bench.report_file import BENCH_VERSION, growth_json, read_report, report_json
from causalrn.runtimes.bench.results import BenchReport, Row, Workload
from causalrn.runtimes.bench.timing import Spread
from tests.runtimes.bench.test_growth import DEPTHS, points
from tests.runtimes.bench.test_machine import MACHINE

MEASURED = Row(
    "a",
    "native",
    2,
    "a model",
    Workload("decode", 16, 1000, 1),
    times_us=(100.0, 150.0, 200.0),
    ratio=Spread(2.0, 1.5, 2.5),
    floor_us=75.0,
    formula_bytes=8,
    state_bytes=8,
    resident_bytes=-4096,
    peak_bytes=1 << 20,
)
SKIPPED = Row("b", "native", 1, "a model", MEASURED.workload, status="skipped", reason="beyond its capacity of 4")


def saved(*rows):
    """As a file has it."""
    report = BenchReport({"repeats": 3}, {"python": "3"}, list(rows), floors={2: MACHINE}, no_floor={1: "no compiler"})
    return json.loads(json_text(report_json(report)))


def test_rows_are_read_back():
    data = saved(MEASURED, SKIPPED)
    assert read_report(data, "b.json") == ([MEASURED, SKIPPED], {"python": "3"})
    first, second = data["rows"]
    assert (first["kind"], first["depth"], first["time_us"]) == ("decode", 1000, dataclasses.asdict(MEASURED.time_us))
    assert (first["tokens_per_s"], first["share_of_floor"], first["noisy"]) == (1e6 / 150, 0.5, True)
    assert "time_us" not in second
    assert data["noisy_rows"] == 1
    assert data["machine"]["2"]["report"] == "causalrn-machine"
    assert data["no_floor"] == {"1": "no compiler"}


def test_lines_have_what_follows_from_them():
    data = growth_json(fit_growth("exact", 2, points(60.0, 0.5)))
    assert (data["name"], data["batch"], data["kind"]) == ("exact", 2, "grows")
    assert len(data["rows"]) == len(data["residuals"]) == len(DEPTHS)
    assert data["rise_us"] == pytest.approx(0.5 * 4080)


@pytest.mark.parametrize(
    "change",
    [
        {"times_us": "12"},
        {"times_us": [10**400]},
        {"times_us": [float("inf")]},
        {"times_us": [float("nan")]},
        {"times_us": [-1.0]},
        {"tokens": "x"},
        {"tokens": 1.5},
        {"threads": True},
        {"name": 3},
        {"kind": "other"},
        {"status": 5},
        {"ratio": {"median": "x", "low": 1, "high": 1}},
        {"floor_us": 0},
    ],
    ids=str,
)
def test_rows_that_no_run_wrote_are_refused(change):
    data = saved(MEASURED)
    (name,) = change
    data["rows"] = [{**data["rows"][0], **change}]
    with pytest.raises(InputError, match=rf"b\.json: a malformed report, measure again: .*\[0\].*{name}"):
        read_report(data, "b.json")


@pytest.mark.parametrize("change", [{"rows": 5}, {"rows": [5]}, {"rows": [{}]}, {"environment": 5}], ids=str)
def test_reports_of_another_shape_are_refused(change):
    data = {"report": "causalrn-bench", "version": BENCH_VERSION, "rows": [], "environment": {}}
    assert read_report(data, "b.json") == ([], {})
    with pytest.raises(InputError, match="a malformed report"):
        read_report({**data, **change}, "b.json")
    for other in ({"report": "causalrn-verify"}, {"version": BENCH_VERSION + 1}):
        with pytest.raises(InputError, match="no report of this version's bench"):
            read_report({**data, **other}, "b.json")
