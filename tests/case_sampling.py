"""A pytest plugin: of tests whose many cases take long, some cases run by default, and all with --every-case."""

from __future__ import annotations

from collections import defaultdict

import pytest

_OPTION = "--every-case"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --every-case."""
    what = "run every case of the tests that are marked `cases(n)`, not n of them; `make test-all` does"
    parser.addoption(_OPTION, action="store_true", help=what)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave n cases of each such test, evenly spread, unless all are wanted or single ones are named."""
    if config.getoption(_OPTION) or any("::" in argument for argument in config.args):
        return
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("cases") is not None:
            cases[item.nodeid.partition("[")[0]].append(item)
    left_out = {item for group in cases.values() for item in set(group) - set(_sample(group))}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def _sample(group: list[pytest.Item]) -> list[pytest.Item]:
    """The first, the last, and others at equal distances."""
    marker = group[0].get_closest_marker("cases")
    assert marker is not None
    count = marker.args[0]
    if count >= len(group) or count == 0:
        return group if count else []
    return [group[round(index * (len(group) - 1) / max(1, count - 1))] for index in range(count)]
