"""The levels of a verification as a page shows them: one group each, in it every runtime with what judged it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from causalrn.bundle.targets import checkpoint_runtimes
from causalrn.runtimes.parity.budgets import decisive_figures, describe_judged
from causalrn.runtimes.parity.report import VerifyReport
from causalrn.runtimes.parity.results import ALL_LEVELS, LevelResult
from causalrn.workflows.pages.verify_words import LEVEL_WORDS, describe_shares, figure_text

Json = Mapping[str, Any]

_NAMES = {
    "changed": "most likely tokens changed",
    "itself": "off itself by",
    "itself, typically": "off itself, typically, by",
    "state": "a state off by",
}


@dataclass(frozen=True)
class Measured:
    """A number that nothing limits: as people read it, its place in the report, and as that has it."""

    text: str
    place: str
    raw: float


@dataclass(frozen=True)
class Judged:
    """A number beside its limit.

    Attributes:
        value, limit: as people read them.
        places: of both in the report that the page carries.
        raw: both as the report has them.
        sign: ">" or "<" where the value is beyond its limit, "of" where it is within.
    """

    name: str
    value: str
    limit: str
    places: tuple[str, str]
    raw: tuple[float | None, float | None]
    sign: str
    passed: bool


@dataclass(frozen=True)
class LevelRow:
    """One runtime at one level.

    Attributes:
        verdict: "ok", "FAIL", or "-" for what was measured and has nothing to be compared with.
        outcome: in a few words; without what judges it, which stands beside.
        rule: what judges it, e.g. "rounding" or "budget"; empty where nothing has a limit.
        judged: what decides: all that is beyond its limit, or what came nearest.
        others: what else is judged.
        details: what was measured beside, a sentence each, in parts.
        lists: what was looked at one by one, by title.
    """

    result: Json
    verdict: str
    outcome: str
    rule: str
    judged: tuple[Judged, ...]
    others: tuple[Judged, ...]
    details: tuple[tuple[str | Measured, ...], ...]
    lists: Mapping[str, list[Json]]


@dataclass(frozen=True)
class LevelGroup:
    """A level with all of its rows."""

    level: str
    words: str
    rows: tuple[LevelRow, ...]

    @property
    def judged(self) -> int:
        """How many rows have a verdict."""
        return sum(row.verdict != "-" for row in self.rows)

    @property
    def failing(self) -> int:
        """How many rows fail."""
        return sum(row.verdict == "FAIL" for row in self.rows)


def group_rows(report: VerifyReport, data: Json) -> list[LevelGroup]:
    """The levels that were checked, in their order.

    Args:
        data: the report in its JSON form.
    """
    found = {"results": report.results, "measured": report.measured}
    placed = [(f"{kind}.{index}", each) for kind, results in found.items() for index, each in enumerate(results)]
    groups, budget = [], report.settings.budget is not None
    for level in ALL_LEVELS:
        rows = tuple(_row(place, each, data, budget) for place, each in placed if each.level == level)
        if rows:
            groups.append(LevelGroup(level, LEVEL_WORDS[level], rows))
    return groups


def _row(place: str, found: LevelResult, data: Json, budget: bool) -> LevelRow:
    kind, index = place.split(".")
    result = data[kind][int(index)]
    figures, outcome, rule = result["figures"], found.summary, ""
    judged: tuple[Judged, ...] = ()
    others: tuple[Judged, ...] = ()
    verdict = "-" if kind == "measured" else "ok" if found.passed else "FAIL"
    if found.figures.judged:
        rule, outcome = "budget", outcome.removesuffix(describe_judged(found.figures.judged)).rstrip(", :")
        nearest = decisive_figures(found.figures.judged)
        numbers = [_of_budget(each, f"{place}.figures.judged.{n}") for n, each in enumerate(figures["judged"])]
        split = list(zip(found.figures.judged, numbers, strict=True))
        judged = tuple(number for figure, number in split if figure in nearest)
        others = tuple(number for figure, number in split if figure not in nearest)
    elif result["error"] is not None and result["allowed"] is not None:
        rule, judged = _rule(result, budget), (_of_error(result, place),)
    lists = {"what has to be refused": figures.get("guards", []), "checks": figures.get("checks", [])}
    shown = {title: each for title, each in lists.items() if each}
    return LevelRow(result, verdict, outcome, rule, judged, others, tuple(_details(figures, f"{place}.figures")), shown)


def _rule(result: Json, budget: bool) -> str:
    """What an error is judged by: a budget says only of what comes from the bundle how far calls may differ."""
    if result["level"] == "determinism":
        return "equality of bits"
    return "budget" if budget and result["form"].partition(",")[0] not in checkpoint_runtimes() else "rounding"


def _of_error(result: Json, place: str) -> Judged:
    value, limit = result["error"], result["allowed"]
    places, passed = (f"{place}.error", f"{place}.allowed"), value <= limit
    sign = _sign(value, limit, passed=passed)
    return Judged("error", figure_text(value), figure_text(limit), places, (value, limit), sign, passed)


def _of_budget(figure: Json, place: str) -> Judged:
    name: str = figure["name"]
    value, limit = figure["value"], figure["limit"]
    text: Callable[[float], str] = {"changed": _percent, "scale": "{:.4g}".format}.get(name, figure_text)
    shown, passed = "-" if value is None else text(value), figure["passed"]
    places, sign = (f"{place}.value", f"{place}.limit"), _sign(value, limit, passed=passed)
    return Judged(_NAMES.get(name, name), shown, text(limit), places, (value, limit), sign, passed)


def _sign(value: float | None, limit: float, *, passed: bool) -> str:
    return "of" if passed or value is None else ">" if value > limit else "<"


def _details(figures: Json, place: str) -> Iterator[tuple[str | Measured, ...]]:
    if "after" in figures:
        after = figures["after"]
        names = "accuracy", "token_accuracy"
        whole, single = (Measured(_percent(after[name]), f"{place}.after.{name}", after[name]) for name in names)
        yield "accuracy ", whole, ", of single tokens ", single
        positions = [str(position + 1) for position in range(len(after["by_position"]))]
        yield (f"{describe_shares(after['by_position'], positions, 'position')} of the answer",)
        if len(lengths := after["by_length"]) > 1:
            ordered = sorted(lengths, key=int)
            yield (describe_shares([lengths[length] for length in ordered], ordered, "length"),)
    if "calls" in figures:
        calls = figures["calls"]
        batches = " or ".join(map(str, calls["batches"]))
        yield (f"calls: {calls['calls']:,}, walks: {calls['walks']:,}, sequences at once: {batches}",)
    if claimed := figures.get("claimed"):
        yield (f"equal bit for bit: {', '.join(claimed)}",)


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"
