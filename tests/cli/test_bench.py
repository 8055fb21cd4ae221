"""`bench`: tables, files, comparisons, predictions, profiles, and what it refuses."""

import csv
import dataclasses
import json
import re

import pytest

from causalrn.bundle.json_values import to_json
from causalrn.cli import group
from causalrn.cli.console import run_reporting_errors
from causalrn.runtimes.bench.devices import DEVICES
from causalrn.runtimes.bench.results import BenchReport, Row, Workload
from causalrn.runtimes.bench.running import Bench
from causalrn.workflows import bench as bench_run
from causalrn.workflows.bench_comparison import Comparison, Earlier

QUICK = ("-r", 3, "--turn-ms", 1, "-n", 2)


@pytest.fixture(scope="module")
def measured(bundles, tmp_path_factory):
    """One real run: a bundle, and a folder that is none; the report and its files."""
    folder = tmp_path_factory.mktemp("bench")
    names = {kind: folder / f"bench.{kind}" for kind in ("json", "csv", "html")}
    files = [part for kind, path in names.items() for part in (f"--{kind}", str(path))]
    arguments = [str(bundles["exact"]), str(folder / "nope"), *files]
    arguments += ["-d", "4,8", "-d", "12,16", "-p", "8", "-b", "1,2"]
    code = run_reporting_errors(lambda: group(["bench", *arguments, *map(str, QUICK)], standalone_mode=False))
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
            assert float(line["median_us"]) == pytest.approx(row["time_us"]["median"], rel=1e-5)
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


@pytest.fixture
def slower(measured, monkeypatch):
    """What runs next takes twice as long as `measured`, lacks its prefills, and has a row of its own."""
    before = Earlier.load(measured[1]["json"])
    rows = [row for row in before.rows.values() if row.workload.kind == "decode"]
    steady = [dataclasses.replace(row, times_us=(2 * row.time_us.median,) * 3) for row in rows]
    new = Row("new", "native", 1, "m", rows[0].workload, times_us=(1.0,) * 3)
    report = BenchReport({"folders": [], "repeats": 3}, dict(before.environment), [*steady, new])
    monkeypatch.setattr(bench_run, "run_bench", lambda *_, **__: report)
    return len(steady)


def test_later_run_is_compared_as_ratios(measured, slower, call, bundles, tmp_path):
    _, names = measured
    places = tmp_path / "b.json", tmp_path / "b.html"
    code, out, _ = call("bench", bundles["exact"], "--against", names["json"], "--json", places[0], "--html", places[1])
    assert code == 0
    assert "only measured before: 2 rows of exact" in out
    assert "not the same" not in out
    compared = json.loads(places[0].read_text())["comparisons"]
    assert len(compared) == slower
    assert all(entry["ratio"] == pytest.approx(2.0) for entry in compared)
    if compared[0]["floor_ratio"] is not None:
        assert all(entry["floor_ratio"] == pytest.approx(2.0) for entry in compared)
    assert "Now over before" in places[1].read_text()


@pytest.mark.parametrize(("limit", "expected"), [(3, 0), (1.5, 1)])
def test_slower_than_allowed_is_exit_code_1(measured, slower, call, bundles, monkeypatch, limit, expected):
    monkeypatch.setattr(Comparison, "noisy", False)
    code, _, err = call("bench", bundles["exact"], "--against", measured[1]["json"], "--fail-above", limit)
    assert code == expected
    assert ("2.00 times what it took before" in err) == bool(expected)


def test_a_gate_that_compares_nothing_fails(measured, slower, call, bundles, monkeypatch):
    monkeypatch.setattr(Earlier, "compare", lambda self, rows: [])
    code, _, err = call("bench", bundles["exact"], "--against", measured[1]["json"], "--fail-above", 2)
    assert code == 2
    assert "nothing could be compared" in err


def test_folder_that_is_not_there_is_one_line(call, tmp_path):
    code, out, err = call("bench", tmp_path / "nowhere", *QUICK)
    assert (code, out) == (2, "")
    assert err.count("nowhere: no such folder") == len(err.splitlines()) == 1


def test_nothing_measured_is_an_error(call, exact_bundle):
    code, out, err = call("bench", exact_bundle, "-d", "99", "-p", "0", *QUICK)
    assert code == 2
    assert "nothing could be measured: beyond its capacity of 40" in err
    assert "decode 2 at depth 99: not measured" in out


def test_files_are_written_though_one_cannot_be(call, exact_bundle, tmp_path, monkeypatch):
    work = Workload("decode", 2, 4, 1)
    report = BenchReport({"folders": [], "repeats": 3}, {}, [Row("a", "native", 1, "m", work, times_us=(1.0,) * 3)])
    monkeypatch.setattr(bench_run, "run_bench", lambda *_, **__: report)
    long = tmp_path / ("n" * 250)
    code, out, err = call("bench", exact_bundle, "--json", long, "--csv", tmp_path / "b.csv")
    assert code == 2
    assert str(long) in err
    assert "decode 2 at depth 4" in out
    assert (tmp_path / "b.csv").read_text().startswith("name,runtime")


def test_interrupted_run_writes_what_it_has(call, bundles, tmp_path, monkeypatch):
    def interrupted(self):
        work = Workload("decode", 2, 4, 1)
        self._report.rows.append(Row("exact", "onnxruntime", 1, "m", work, times_us=(5.0, 6.0, 7.0)))
        raise KeyboardInterrupt

    monkeypatch.setattr(Bench, "run", interrupted)
    code, out, _ = call("bench", bundles["exact"], "--json", tmp_path / "b.json")
    assert code == 130
    assert "interrupted: 1 rows were measured before that" in out
    data = json.loads((tmp_path / "b.json").read_text())
    assert data["interrupted"]
    assert len(data["rows"]) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("-d", "x"), "'x' is no list of whole numbers such as 16,128"),
        (("-d", "16,-1"), "each number lies between 0 and"),
        (("-t", "0"), "each number lies between 1 and"),
        (("-r", "2"), "2 is not in the range"),
        (("--turn-ms", "nan"), "nan is no finite number"),
        (("-n", "0", "-p", "0"), "leave nothing to measure"),
        (("--runtime", "abacus"), "runtime 'abacus' is unknown"),
        (("--runtime", "native"), "--runtime native runs none of these: onnxruntime, openvino would"),
        (("-t", "257"), "each number lies between 1 and 256"),
        (("--fail-above", "1.1"), "--fail-above needs --against"),
        (("--predict", "-b", "2"), "--batch and --predict contradict each other"),
        (("--predict", "-t", "2"), "--threads and --predict contradict each other"),
        (("--profile", "--runtime", "onnxruntime"), "--runtime and --profile contradict each other"),
        (("--device", "apple-m1"), "--device needs --predict"),
        (("--predict", "--profile"), "--predict and --profile contradict each other"),
        (("--predict", "-r", "5"), "--repeats and --predict contradict each other"),
        (("--predict", "--html", "x.html"), "--html and --predict contradict each other"),
        (("--profile", "--against", "x.json"), "--against and --profile contradict each other"),
        (("--profile", "-t", "1,2"), "--profile takes one number of --threads"),
        (("--predict", "--device", "abacus"), "abacus: neither a file nor a device"),
        (("--predict", "--device", "apple-m1", "-d", "50"), "--depth 50 is beyond the model's 40 positions"),
        (("--against", "nowhere.json"), "no such file"),
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
    device = tmp_path / "device.json"
    device.write_text(json.dumps(to_json(DEVICES["apple-m1"])))
    _, _, err = call("bench", exact_bundle, "--predict", "--device", device, "--json", device)
    assert "is an input of this command" in err
    place = tmp_path / "b"
    assert "named for two outputs" in call("bench", exact_bundle, "--json", place, "--csv", place)[2]
    assert "is an input of this command" in call("bench", exact_bundle, "--json", other, "--against", other)[2]
    code, _, err = call("bench", tmp_path / "nope", "--predict", "--device", "apple-m1")
    assert code == 2
    assert "nope" in err


@pytest.mark.parametrize("given", [("8,32",), ("8", "32"), ("8", "-d", "32")], ids=str)
def test_lists_are_taken_as_people_write_them(call, runs, tmp_path, given):
    path = tmp_path / "p.json"
    assert call("bench", runs["exact"], "--predict", "--device", "apple-m1", "-d", *given, "--json", path)[0] == 0
    (model,) = json.loads(path.read_text())["models"]
    assert list(model["predictions"][0]["native_us"]) == ["8", "32"]


def test_folders_called_like_numbers_are_folders(call, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "32").symlink_to(runs["exact"])
    assert call("bench", "--predict", "--device", "apple-m1", "-d", "8", "32")[0] == 0


def test_prediction_is_printed_and_written(call, runs, tmp_path):
    code, out, _ = call(
        "bench", runs["exact"], "--predict", "--device", "raspberry-pi-5", "--json", tmp_path / "p.json", "-d", "8,32"
    )
    assert code == 0
    assert "exact, C *" in out
    assert "readout: a step of exact takes" in out
    sizes = out.partition("tokens that fit")[2].partition("\n*")[0].strip().splitlines()
    assert {" ".join(line.split()[-2:]) for line in sizes} == {"all 40"}, "a model has no more tokens than positions"
    data = json.loads((tmp_path / "p.json").read_text())
    assert data["machine"]["name"] == "raspberry-pi-5"
    (model,) = data["models"]
    assert [entry["scheme"] for entry in model["predictions"]][:4] == 3 * ["float32"] + ["w8"]
    assert set(model["predictions"][0]["native_us"]) == {"8", "32"}


def test_devices_are_listed(call):
    code, out, _ = call("bench", "--device", "list")
    assert code == 0
    assert all(name in out for name in DEVICES)


def test_profile_is_printed_and_written(call, exact_bundle, tmp_path):
    code, out, _ = call("bench", exact_bundle, "--profile", "-d", "8", "--json", tmp_path / "p.json")
    assert code == 0
    assert re.search(r"^block\s+projection\s+pair sum\s+norm\s+exp\s+reduction\s+other\s+all", out, re.MULTILINE)
    (found,) = json.loads((tmp_path / "p.json").read_text())["profiles"]
    assert found["by_block_and_role"]["0"]["projection"] > 0
