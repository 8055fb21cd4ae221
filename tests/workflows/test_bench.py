"""`bench` as a function: arguments, a typed result, files, and benchmarks that were recorded before."""

import json
from pathlib import Path

import pytest

from causalrn.bundle.json_values import from_json
from causalrn.errors import InputError
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.report_file import row_json
from causalrn.runtimes.bench.results import BenchReport, Row, Workload
from causalrn.workflows import bench as bench_workflow
from causalrn.workflows.bench import bench, choose_workloads
from causalrn.workflows.bench_comparison import Comparison, Earlier
from causalrn.workflows.bench_result import BenchResult
from tests.builders import ROOT

RECORD = ROOT / "docs" / "benchmarks.json"
WORK = Workload("decode", 2, 4, 1)


def row(name="a", time_us=1.0, floor_us=None, **options):
    return Row(name, "native", 1, "m", WORK, times_us=(time_us,) * 3, floor_us=floor_us, **options)


def result(now, before=(), fail_above=None, **options):
    earlier = Earlier(Path("b.json"), {each.key: each for each in before}, {})
    report = BenchReport({"folders": []}, {"packages": {}, "cpu_count": 1}, list(now), **options)
    return BenchResult(report, earlier, tuple(earlier.compare(report.measured)), fail_above)


class Steps:
    """A progress that keeps what it was told."""

    def __init__(self):
        self.begun, self.done, self.notes, self.ended = [], 0, [], 0

    def __call__(self, description, total):
        self.begun.append((description, total))
        return self

    def __enter__(self):
        return self.advance

    def __exit__(self, *_):
        self.ended += 1

    def advance(self, count=1, note=None, /):
        self.done += count
        self.notes.append(note)


def test_bundle_is_measured_and_nothing_is_printed(bundles, tmp_path, capfd):
    steps = Steps()
    found = bench(
        str(bundles["exact"]), depth=[8, 4, 8], decode=2, prefill=0, repeats=3, turn_ms=1, progress=steps, threads=1
    )
    assert found.passed
    assert [(row.workload.depth, row.status, len(row.times_us)) for row in found.report.rows] == [
        (4, "measured", 3),
        (8, "measured", 3),
    ]
    assert steps.begun == [("measuring", 6)]
    assert (steps.done, steps.ended) == (6, 1)
    assert any(note and "exact" in note for note in steps.notes)
    path = found.save_json(tmp_path / "b.json")
    found.save_csv(str(tmp_path / "b.csv"))
    found.save_html(tmp_path / "b.html")
    assert json.loads(path.read_text()) == found.to_json()
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 3
    assert "<svg" in (tmp_path / "b.html").read_text()
    assert list(Earlier.load(path).rows.values()) == found.report.rows
    assert capfd.readouterr() == ("", "")


def test_folder_that_cannot_be_opened_is_no_pass(tmp_path, bundles):
    found = bench([tmp_path / "nope", bundles["exact"]], depth=4, decode=2, prefill=[0], repeats=3, turn_ms=1)
    assert [row.status for row in found.report.rows] == ["failed", "measured"]
    assert not found.passed
    (failure,) = found.failures
    assert "no such folder" in failure
    assert isinstance(found.report.fault, Exception)


def test_earlier_run_gives_comparisons(bundles, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_workflow, "run_bench", lambda *_: result([row(time_us=3.0)]).report)
    path = result([row(time_us=2.0)]).save_json(tmp_path / "b.json")
    found = bench(bundles["exact"], against=str(path), fail_above=1.6)
    assert [each.ratio for each in found.comparisons] == [1.5]
    assert found.passed
    assert not bench(bundles["exact"], against=path, fail_above=1.4).passed


def test_passed_is_the_verdict():
    before = [row(time_us=1.0, floor_us=1.0)]
    assert result([row()]).passed
    assert not result([]).passed, "nothing was measured"
    assert not result([row()], interrupted=True).passed
    assert not result([row(), row("b", status="failed", reason="gone")]).passed
    assert result([row(), row("b", status="skipped", reason="beyond its capacity")]).passed
    assert result([row(time_us=9.0)], before).passed, "without a limit"
    assert not result([row(time_us=9.0)], before, 2.0).passed
    assert result([row(time_us=9.0, floor_us=9.0)], before, 2.0).passed, "the machine is as much slower"
    assert not result([row("b")], before, 2.0).passed, "a gate that compares nothing"
    noisy = Row("a", "native", 1, "m", WORK, times_us=(5.0, 9.0, 13.0))
    assert result([noisy]).passed
    assert not result([noisy], before, 2.0).passed, "a gate that could judge nothing"
    assert result([noisy, row("b")], [*before, row("b")], 2.0).passed, "noisy rows beside one that is judged"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"folders": []}, "`folders` is empty"),
        ({"folders": 5}, "`folders` is 5: it must be a path"),
        ({"folders": b"bundle"}, "`folders` is b'bundle': it must be a path"),
        ({"folders": [None]}, "`folders` is None: it must be a path"),
        ({"depth": "16"}, "`depth` is '16': it must be a whole number"),
        ({"depth": 1.5}, "`depth` is 1.5: give one value or a list"),
        ({"depth": [True]}, "`depth` is True: it must be a whole number"),
        ({"depth": -1}, "`depth` is -1: it must be a whole number from 0 to 16,777,216"),
        ({"decode": -1}, "`decode` is -1"),
        ({"prefill": [None]}, "`prefill` is None"),
        ({"batch": 0}, "`batch` is 0: it must be a whole number from 1"),
        ({"threads": 257}, "`threads` is 257: it must be a whole number from 1 to 256"),
        ({"repeats": 2}, "`repeats` is 2"),
        ({"repeats": None}, "`repeats` is None: it must be a whole number"),
        ({"turn_ms": float("nan")}, "`turn_ms` is nan: it must be a finite number from 1 to 60000"),
        ({"turn_ms": "60"}, "`turn_ms` is '60'"),
        ({"turn_ms": None}, "`turn_ms` is None"),
        ({"runtime": "abacus"}, "runtime 'abacus' is unknown: choose one of"),
        ({"runtime": [3]}, "runtime 3 is unknown"),
        ({"runtime": "native"}, "`runtime` native runs none of these: onnxruntime, openvino would"),
        ({"provider": ["cpu"]}, r"`provider` is \['cpu'\]: give a name"),
        ({"fail_above": 2}, "`fail_above` needs `against`"),
        ({"fail_above": 0, "against": "b.json"}, "`fail_above` is 0: it must be a finite number from 0.01"),
        ({"against": 5}, "`against` is 5: it must be a path"),
        ({"against": "nowhere.json"}, "nowhere.json: no such file"),
        ({"decode": 0, "prefill": 0}, "`decode` 0 and `prefill` 0 leave nothing to measure"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(exact_bundle, arguments, text):
    with pytest.raises(InputError, match=text):
        bench(arguments.pop("folders", exact_bundle), **arguments)


def test_workloads_are_what_the_longest_model_takes(exact_bundle):
    found = choose_workloads([exact_bundle])
    assert [(w.kind, w.tokens, w.depth) for w in found] == [("decode", 16, 16), ("prefill", 40, 0)]
    short = choose_workloads([exact_bundle], decode=30)
    assert [w.depth for w in short if w.kind == "decode"] == [0]
    asked = choose_workloads([exact_bundle], depth=(9, 3), prefill=(0,), batch=(1, 2))
    assert [(w.depth, w.batch) for w in asked] == [(3, 1), (9, 1), (3, 2), (9, 2)]


@pytest.mark.parametrize("name", ["table", "growth", "scaling"])
def test_recorded_benchmarks_are_read(name):
    """What earlier versions wrote can be compared with: every row, with every entry that it had."""
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))[name]
    earlier = Earlier.of(recorded, RECORD)
    measured = [entry for entry in recorded["rows"] if entry["status"] == "measured"]
    assert len(measured) >= 16
    assert [row_json(row) for row in earlier.rows.values()] == measured
    comparisons = earlier.compare(earlier.rows.values())
    assert [each.ratio for each in comparisons] == [1.0] * len(measured)
    assert earlier.missing(comparisons[1:]) == [comparisons[0].earlier]
    machine = recorded["machine"]["1"]
    assert from_json(machine, Machine, "docs").exps_per_s == machine["exps_per_s"]


def test_recorded_machine_is_read():
    assert Machine.load(RECORD).onnxruntime is not None


def test_earlier_files_that_are_none_are_named(tmp_path):
    path = tmp_path / "b.json"
    path.write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        Earlier.load(path)
    path.write_text('{"report": "causalrn-bench", "version": 1, "rows": [{}], "environment": {}}')
    with pytest.raises(InputError, match="a malformed report"):
        Earlier.load(path)


def test_changes_of_the_machine_are_found():
    earlier = Earlier(Path("b.json"), {}, {"processor": "a", "platform": "p", "packages": {"numpy": "1"}})
    assert list(earlier.changes(earlier.environment)) == []
    assert list(earlier.changes({**earlier.environment, "processor": "b", "packages": {}})) == ["processor", "packages"]


def test_comparison_judges_without_the_machine_where_floors_are_known():
    assert Comparison(row(time_us=4.0, floor_us=2.0), row(time_us=2.0, floor_us=1.0)).judged == 1.0
    assert Comparison(row(time_us=4.0), row(time_us=2.0, floor_us=1.0)).judged == 2.0
