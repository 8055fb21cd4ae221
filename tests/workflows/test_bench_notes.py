"""The outcome of a benchmark in a sentence."""

from causalrn.runtimes.bench.results import BenchReport, Row, Workload
from causalrn.workflows.bench_notes import headline


def report(**times):
    """Candidates with their time per step by depth, five repeats each."""
    rows = [
        Row(name, "native", 1, "m", Workload("decode", 1, depth, 1), times_us=tuple(time + i / 1e3 for i in range(5)))
        for name, by_depth in times.items()
        for depth, time in by_depth.items()
    ]
    return BenchReport({}, {"packages": {}}, rows)


def test_headline_says_who_is_fastest_and_who_stays_flat():
    depths = (16, 64, 256, 1024)
    found = report(c={d: 10 + d / 10 for d in depths}, ort=dict.fromkeys(depths, 92.8))
    assert headline(found) == (
        "After 16 tokens a step takes 11.6 us in c, 8.0 times faster than ort; ort stays flat; c grows with the tokens "
        "before."
    )


def test_headline_does_not_tell_apart_what_noise_may_be():
    rows = [
        Row("a", "native", 1, "m", Workload("decode", 1, 16, 1), times_us=(1.0, 1.2, 1.0)),
        Row("b", "native", 1, "m", Workload("decode", 1, 16, 1), times_us=(1.1, 1.0, 1.2)),
    ]
    assert headline(BenchReport({}, {}, rows)).endswith("in a, as fast as b, within noise.")


def test_headline_names_few():
    found = report(**{name: {16: time} for name, time in zip("abcdef", range(1, 7), strict=True)})
    assert headline(found).endswith("4.0 times faster than d and faster than 2 others.")


def test_nothing_decoded_is_no_headline():
    assert headline(BenchReport({}, {}, [])) == ""
