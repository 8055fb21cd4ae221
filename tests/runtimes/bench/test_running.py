"""A run: turns, failures, interruptions. Candidates are made here, in this process, and count what they do."""

import dataclasses
from functools import partial

import pytest

from causalrn.errors import InputError, NotExecutedError, RuntimeUnavailableError
from causalrn.runtimes.bench import running
from causalrn.runtimes.bench.candidates import Candidate, Facts
from causalrn.runtimes.bench.cost import FLOAT, StepCost
from causalrn.runtimes.bench.entries import Entry, find_entries
from causalrn.runtimes.bench.machine import Machine
from causalrn.runtimes.bench.results import BenchReport, Row, Workload
from causalrn.runtimes.bench.running import Bench, BenchPlan
from causalrn.runtimes.bench.timing import Spread

COST = StepCost(4000, 1000, FLOAT, 0, 400, 100, 0)
MACHINE = Machine("test", "made up", ((1.0, 1e9),), 1e9, 1e9, 1e9)


class Counter(Candidate):
    """Takes as long as it is told to."""

    def __init__(self, step_us, capacity=None, max_batch=None, fault=None, faulty_from=0):
        self.step_us, self.calls, self.fault, self.faulty_from = step_us, 0, fault, faulty_from
        self.facts = Facts("a model", COST, None, capacity, max_batch, load_ms=1.5)

    def hold(self, depth, batch): ...
    def step(self): ...
    def prefill(self, tokens): ...

    def state_bytes(self):
        return 8

    def decode_us(self, depth, batch, tokens, budget_s):
        self.calls += 1
        if self.fault is not None and self.calls > self.faulty_from:
            raise self.fault
        return self.step_us * (1 + depth / 1000) + self.calls

    def prefill_us(self, batch, tokens, budget_s):
        return self.decode_us(0, batch, tokens, budget_s) * tokens


class Floor:
    faulty_from = 1000

    def __init__(self, threads):
        self.calls = 0

    def rates(self, sizes):
        assert sizes == sorted(sizes)
        self.calls += 1
        if self.calls >= self.faulty_from:
            raise RuntimeUnavailableError("not enough memory")
        curve = tuple((float(size), 1e9) for size in sizes)
        return dataclasses.replace(MACHINE, bytes_per_s=curve, exps_per_s=MACHINE.exps_per_s * self.calls / 10)


class Local:
    """A worker without a process."""

    def __init__(self, factory):
        self.served, self.closed, self.is_idle = factory(), False, True
        made.append(self)

    def call(self, method, *arguments):
        assert not self.closed
        return getattr(self.served, method)(*arguments)

    def close(self):
        self.closed = True


made: list["Local"] = []


@pytest.fixture(autouse=True)
def here(monkeypatch):
    made.clear()
    monkeypatch.setattr(running, "Worker", Local)
    monkeypatch.setattr(running, "Kernels", Floor)


def entry(name, threads=1, **options):
    return Entry(name, "onnxruntime", threads, partial(Counter, **{"step_us": 100.0, **options}))


def run(entries, workloads, repeats=5, advance=lambda *_: None):
    report = BenchReport({}, {})
    Bench(entries, BenchPlan(workloads, repeats, 0.0), report, advance).run()
    return report


DECODE = Workload("decode", 16, 1000, 1)


def test_rows_hold_times_ratios_floor_and_memory():
    report = run([entry("a"), entry("b", step_us=300.0)], [DECODE, Workload("prefill", 8, 0, 2)])
    assert [(row.name, row.workload.kind) for row in report.rows] == [
        ("a", "decode"),
        ("b", "decode"),
        ("a", "prefill"),
        ("b", "prefill"),
    ]
    a, b = report.rows[:2]
    assert len(a.times_us) == 5
    assert a.ratio is None
    assert b.ratio.median == pytest.approx(600 / 200, rel=0.05)
    parts = dataclasses.replace(MACHINE, exps_per_s=1e9).parts_s(COST, DECODE.call)
    assert a.floor_us == pytest.approx(parts.floor * 1e6), "by the best rates of the whole run, not of the first rows"
    assert a.share_of_floor == pytest.approx(a.floor_us / a.time_us.median)
    assert a.tokens_per_s == pytest.approx(1e6 / a.time_us.median)
    assert (a.state_bytes, a.formula_bytes) == (8, None)
    assert report.load_ms == {"a": 1.5, "b": 1.5}
    prefill = report.rows[2]
    assert prefill.tokens_per_s == pytest.approx(2 * 8 * 1e6 / prefill.time_us.median)
    assert all(worker.closed for worker in made)


def test_what_cannot_be_opened_is_a_row_and_stops_nobody(monkeypatch):
    def broken():
        raise InputError("no such folder")

    report = run([Entry("x", "", 1, broken), entry("a"), entry("b")], [DECODE])
    assert [row.status for row in report.rows] == ["failed", "measured", "measured"]
    assert report.rows[0].reason == "no such folder"
    assert report.base == "a", "ratios relate to the first that could be opened"
    assert report.rows[2].ratio is not None
    assert report.fault.exit_code == 2


def test_ratios_relate_to_one_candidate_or_to_none():
    report = run([entry("short", capacity=40), entry("a"), entry("b")], [Workload("decode", 16, 8, 1), DECODE])
    assert report.base == "short"
    assert [row.ratio is None for row in report.rows] == [True, False, False, True, True, True]


@pytest.mark.parametrize("faulty_from", [1, 4])
def test_a_floor_that_fails_costs_no_row(monkeypatch, faulty_from):
    monkeypatch.setattr(Floor, "faulty_from", faulty_from)
    report = run([entry("a"), entry("b")], [DECODE, Workload("decode", 16, 2000, 1)])
    assert [row.status for row in report.rows] == ["measured"] * 4
    assert report.no_floor == {1: "not enough memory"}
    assert (report.rows[0].floor_us is None) == (faulty_from == 1)
    assert report.rows[2].floor_us is None, "reading so much has not been measured"


def test_death_after_the_last_turn_costs_one_candidate(monkeypatch):
    def die(self):
        raise RuntimeUnavailableError("its process died")

    class Dying(Counter):
        peak_bytes = die

    report = run([entry("a"), Entry("b", "native", 1, partial(Dying, 100.0))], [DECODE, DECODE])
    assert [row.status for row in report.rows] == ["measured", "failed"] * 2
    first = run([Entry("b", "native", 1, partial(Dying, 100.0)), entry("a")], [DECODE])
    assert first.rows[1].ratio is None, "its base has failed"


def test_more_threads_than_processors_have_no_floor():
    report = run([entry("a", threads=100_000)], [DECODE])
    assert report.no_floor == {100_000: "there are fewer processors"}
    assert report.rows[0].floor_us is None


def test_fault_is_the_first_failure():
    def engine():
        raise NotExecutedError("no GPU")

    assert run([entry("a"), Entry("e", "tensorrt", 1, engine)], [DECODE]).fault.exit_code == 3


def test_what_fails_in_the_middle_is_a_row_too():
    fault = RuntimeUnavailableError("its process died")
    report = run([entry("a"), entry("b", fault=fault, faulty_from=3)], [DECODE, Workload("decode", 16, 2000, 1)])
    assert [(row.name, row.status) for row in report.rows] == [
        ("a", "measured"),
        ("b", "failed"),
        ("a", "measured"),
        ("b", "failed"),
    ]
    assert len(report.rows[0].times_us) == 5
    assert {row.reason for row in report.rows if row.name == "b"} == {"its process died"}


def test_beyond_the_capacity_or_the_batch_a_row_is_skipped():
    workloads = [Workload("decode", 16, 40, 1), Workload("decode", 16, 10, 4)]
    report = run([entry("a"), entry("b", capacity=40, max_batch=1)], workloads)
    assert [row.status for row in report.rows] == ["measured", "skipped", "measured", "skipped"]
    assert report.rows[1].reason == "beyond its capacity of 40"
    assert report.rows[3].reason == "takes 1 sequence at most"
    assert report.fault is None


@pytest.mark.parametrize(("turns", "kept"), [(3, 0), (7, 3), (9, 4)])
def test_interrupting_keeps_what_has_been_measured(turns, kept):
    """Ctrl-C in the second workload: the first is whole, of the second what has repeats enough."""
    seen = []

    def advance(count, note=""):
        if count == 1 and "2,000" in note:
            seen.append(note)
            if len(seen) == turns:
                raise KeyboardInterrupt

    report = BenchReport({}, {})
    workloads = [DECODE, Workload("decode", 16, 2000, 1), Workload("decode", 16, 3000, 1)]
    with pytest.raises(KeyboardInterrupt):
        Bench([entry("a"), entry("b")], BenchPlan(workloads, 5, 0.0), report, advance).run()
    assert report.interrupted
    assert [len(row.times_us) for row in report.rows] == [5, 5, *([kept] * 2 if kept else [])]
    assert all(worker.closed for worker in made)


def test_growth_is_in_the_report_where_there_are_depths_enough():
    workloads = [Workload("decode", 16, depth, 1) for depth in (0, 1000, 2000, 4000)]
    report = run([entry("a")], workloads)
    (growth,) = report.growths()
    assert growth.slope_us == pytest.approx(0.1, rel=0.2)
    assert run([entry("a")], workloads[:3]).growths() == []


def test_noise_is_seen():
    row = Row("a", "native", 1, "m", DECODE, times_us=(100.0, 150.0, 200.0))
    assert BenchReport({}, {}, [row]).noisy == [row]
    assert row.time_us == Spread(150.0, 125.0, 175.0)


def test_entries_are_runs_in_both_runtimes_and_bundles_in_theirs(runs, bundles, tmp_path):
    entries = find_entries([runs["exact"], bundles["exact"], tmp_path], [], [1, 2])
    named = [(entry.runtime, entry.threads) for entry in entries]
    assert named == [
        *((name, count) for name in ("parallel", "recurrent", "onnxruntime", "") for count in (1, 2)),
    ]
    assert len({entry.name for entry in entries}) == len(entries)
    (only,) = find_entries([runs["exact"]], ["recurrent"], [1])
    assert only.runtime == "recurrent"
    assert [entry.runtime for entry in find_entries([runs["exact"], bundles["exact"]], ["onnxruntime"], [1])] == [
        "onnxruntime"
    ]
    with pytest.raises(InputError, match=r"`runtime` native runs none of these: onnxruntime, openvino would"):
        find_entries([bundles["exact"]], ["native"], [1])
    with pytest.raises(InputError, match="a folder is named twice"):
        find_entries([bundles["exact"], bundles["exact"] / ".." / "exact"], [], [1])


def test_names_are_unique_whatever_folders_are_called(runs, bundles, tmp_path):
    run, other = tmp_path / "x", tmp_path / "x (parallel)"
    run.symlink_to(runs["exact"])
    other.symlink_to(bundles["exact"])
    names = [entry.name for entry in find_entries([run, other], [], [1])]
    assert len(set(names)) == 3
    assert "x (recurrent)" in names
