"""`bench`: tables, files, comparisons, predictions, profiles, and what it refuses."""

import csv
import json
import re

import pytest

from causalrn.export.cli import bench_run, bench_table, group
from causalrn.export.cli.console import run_guarded
from causalrn.runtimes.bench.devices import DEVICES
from causalrn.runtimes.bench.results import BenchReport, Row, Workload
from causalrn.runtimes.bench.running import Bench
from causalrn.runtimes.bench.timing import Spread

QUICK = ("-r", 3, "--turn-ms", 1, "-n", 2)


@pytest.fixture(scope="module")
def measured(bundles, tmp_path_factory):
    """One real run: a bundle, and a folder that is none; the report and its files."""
    folder = tmp_path_factory.mktemp("bench")
    names = {kind: folder / f"bench.{kind}" for kind in ("json", "csv", "html")}
    files = [part for kind, path in names.items() for part in (f"--{kind}", str(path))]
    arguments = [str(bundles["exact"]), str(folder / "nope"), *files]
    arguments += ["-d", "4,8", "-d", "12,16", "-p", "8", "-b", "1,2"]
    code = run_guarded(lambda: group(["bench", *arguments, *map(str, QUICK)], standalone_mode=False))
    return code, names


def test_failed_folder_is_a_row_and_the_exit_code(measured):
    code, names = measured
    assert code == 2
    rows = json.loads(names["json"].read_text())["rows"]
    assert {(row["name"], row["status"]) for row in rows} == {("exact", "measured"), ("nope", "failed")}
    assert all("no such folder" in row["reason"] for row in rows if row["name"] == "nope")


def test_json_and_csv_hold_every_row(measured):
    _, names = measured
    data = json.loads(names["json"].read_text())
    lines = list(csv.DictReader(names["csv"].read_text().splitlines()))
    assert len(lines) == len(data["rows"]) == 2 * 2 * 5
    for line, row in zip(lines, data["rows"], strict=True):
        assert (line["name"], line["kind"], line["depth"]) == (row["name"], row["kind"], str(row["depth"]))
        if row["status"] == "measured":
            assert float(line["median_us"]) == row["time_us"]["median"]
            assert len(row["times_us"]) == 3
            assert row["state_bytes"] == row["formula_bytes"]
            assert row["peak_bytes"] is None or row["peak_bytes"] > 1 << 20
    assert {growth["batch"] for growth in data["growth"]} == {1, 2}
    assert data["settings"]["repeats"] == 3


def test_page_shows_the_numbers_that_it_carries(measured):
    _, names = measured
    page = names["html"].read_text()
    carried = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    data = json.loads(carried[1])
    found = re.findall(r'data-figure="(rows[^"]*)" data-value="([^"]*)"', page)
    assert len(found) >= 10 * 6
    for place, value in found:
        node = data
        for part in place.split("."):
            node = None if node is None else node[int(part)] if isinstance(node, list) else node[part]
        assert json.loads(value) == node
    assert page.count("<svg") == 6, "time, state and peak, for one and for two sequences"
    assert "no such folder" in page
    assert "http://" not in page
    assert "https://" not in page


def test_later_run_is_compared_as_ratios(measured, call, bundles, monkeypatch):
    _, names = measured
    before = bench_run.load_rows(names["json"])
    rows = [row for row in before.values() if row.workload.kind == "decode"]
    slower = [Row(**{**row.__dict__, "times_us": tuple(2 * t for t in row.times_us)}) for row in rows]
    fresh = BenchReport({"repeats": 3}, {}, [*slower, Row("new", "native", 1, "m", rows[0].workload, times_us=(1.0,))])
    monkeypatch.setattr(bench_run, "run_bench", lambda *_: fresh)
    code, out, _ = call("bench", bundles["exact"], "--against", names["json"])
    assert code == 0
    assert len(re.findall(r"\b2\.00\b", out)) == (2 if slower[0].floor_us else 1) * len(slower)
    assert re.search(r"^new\s+decode .* new\b", out, re.MULTILINE)


def test_interrupted_run_writes_what_it_has(call, bundles, tmp_path, monkeypatch):
    def interrupted(self):
        work = Workload("decode", 2, 4, 1)
        self._report.rows.append(Row("exact", "onnxruntime", 1, "m", work, times_us=(5.0, 6.0, 7.0)))
        raise KeyboardInterrupt

    monkeypatch.setattr(Bench, "run", interrupted)
    code, out, _ = call("bench", bundles["exact"], "--json", tmp_path / "b.json")
    assert code == 130
    assert "interrupted: 1 rows were measured before" in out
    data = json.loads((tmp_path / "b.json").read_text())
    assert data["interrupted"]
    assert len(data["rows"]) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("-d", "x"), "'x' is no list of whole numbers such as 16,128"),
        (("-d", "16,-1"), "each number lies between 0 and"),
        (("-t", "0"), "each number lies between 1 and"),
        (("-r", "0"), "0 is not in the range"),
        (("--turn-ms", "nan"), "nan is no finite number"),
        (("-n", "0", "-p", "0"), "leave nothing to measure"),
        (("--runtime", "abacus"), "runtime 'abacus' is unknown"),
        (("--runtime", "native"), "does not run it: onnxruntime does"),
        (("--device", "apple-m1"), "--device needs --predict"),
        (("--predict", "--profile"), "--predict and --profile contradict each other"),
        (("--predict", "-r", "5"), "--repeats and --predict contradict each other"),
        (("--predict", "--html", "x.html"), "--html and --predict contradict each other"),
        (("--profile", "--against", "x.json"), "--against and --profile contradict each other"),
        (("--profile", "-t", "1,2"), "--profile takes one number of --threads"),
        (("--predict", "--device", "abacus"), "device 'abacus' is unknown"),
        (("--predict", "--device", "apple-m1", "-d", "50"), "--depth 50 is beyond the model's 40 positions"),
        (("--against", "nowhere.json"), "no file that can be read"),
        (("--json", "nowhere/b.json"), "nowhere"),
    ],
    ids=str,
)
def test_bad_usage_is_one_line(call, exact_bundle, options, text):
    code, out, err = call("bench", exact_bundle, *options)
    assert code == 2
    assert text in err
    assert "Traceback" not in err
    assert out == ""


def test_bad_files_and_folders_are_named(call, exact_bundle, tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"report": "causalrn-verify"}')
    assert "no report of this version's bench" in call("bench", exact_bundle, "--against", other)[2]
    other.write_text('{"report": "causalrn-bench", "version": 1, "rows": [{}]}')
    assert "a malformed report" in call("bench", exact_bundle, "--against", other)[2]
    other.write_text("{")
    assert "not valid JSON" in call("bench", exact_bundle, "--against", other)[2]
    assert "a folder is named twice" in call("bench", exact_bundle, exact_bundle)[2]
    place = tmp_path / "b"
    assert "named for two outputs" in call("bench", exact_bundle, "--json", place, "--csv", place)[2]
    assert "is an input of this command" in call("bench", exact_bundle, "--json", other, "--against", other)[2]
    code, _, err = call("bench", tmp_path / "nope", "--predict", "--device", "apple-m1")
    assert code == 2
    assert "nope" in err


def test_workloads_are_what_the_longest_model_takes(exact_bundle):
    options = {"depths": (), "prefill": (), "batch": (), "decode": 16}
    found = bench_run.choose_workloads([exact_bundle], options)
    assert [(w.kind, w.tokens, w.depth) for w in found] == [("prefill", 40, 0), ("decode", 16, 16)]
    short = bench_run.choose_workloads([exact_bundle], {**options, "decode": 30})
    assert [w.depth for w in short if w.kind == "decode"] == [0]
    asked = bench_run.choose_workloads([exact_bundle], {**options, "depths": (9, 3), "prefill": (0,), "batch": (1, 2)})
    assert [(w.depth, w.batch) for w in asked] == [(3, 1), (9, 1), (3, 2), (9, 2)]


@pytest.mark.parametrize("given", [("8,32",), ("8", "32"), ("8", "-d", "32")], ids=str)
def test_lists_are_taken_as_people_write_them(call, runs, tmp_path, given):
    path = tmp_path / "p.json"
    assert call("bench", runs["exact"], "--predict", "--device", "apple-m1", "-d", *given, "--json", path)[0] == 0
    (model,) = json.loads(path.read_text())["models"]
    assert list(model["predictions"][0]["native_us"]) == ["8", "32"]


def test_prediction_is_printed_and_written(call, runs, tmp_path):
    code, out, _ = call(
        "bench", runs["exact"], "--predict", "--device", "raspberry-pi-5", "--json", tmp_path / "p.json", "-d", "8,32"
    )
    assert code == 0
    assert "exact *, C" in out
    assert "readout: a step of exact costs" in out
    data = json.loads((tmp_path / "p.json").read_text())
    assert data["machine"]["name"] == "raspberry-pi-5"
    (model,) = data["models"]
    assert [entry["scheme"] for entry in model["predictions"]][:3] == ["float32", "float32", "w8"]
    assert set(model["predictions"][0]["native_us"]) == {"8", "32"}


def test_devices_are_listed(call):
    code, out, _ = call("bench", "x", "--predict", "--device", "list")
    assert code == 0
    assert all(name in out for name in DEVICES)


def test_profile_is_printed_and_written(call, exact_bundle, tmp_path):
    code, out, _ = call("bench", exact_bundle, "--profile", "-d", "8", "--json", tmp_path / "p.json")
    assert code == 0
    assert re.search(r"^block\s+projection\s+pair sum\s+norm\s+exp\s+reduction\s+other\s+all", out, re.MULTILINE)
    (found,) = json.loads((tmp_path / "p.json").read_text())["profiles"]
    assert found["by_block_and_role"]["0"]["projection"] > 0


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [(1.234, "1.23 us"), (57.2, "57.2 us"), (999.6, "1.00 ms"), (1292.0, "1.29 ms"), (18.1e6, "18.1 s")],
)
def test_times_have_the_unit_that_fits(microseconds, text):
    assert bench_table.time_text(microseconds) == text


def test_sizes_and_ratios_are_short():
    assert [bench_table.bytes_text(size) for size in (None, 0, 147456, 37748736, 2.5e9)] == [
        "-",
        "0 B",
        "147 kB",
        "37.7 MB",
        "2.50 GB",
    ]
    assert bench_table.ratio_text(Spread(1.02, 0.98, 1.1)) == "~1.02"
    assert bench_table.ratio_text(Spread(2.5, 2.4, 2.6)) == "2.50"
    assert bench_table.share_text(0.003) == "<1%"
