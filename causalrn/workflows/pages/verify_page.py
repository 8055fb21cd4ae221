"""A verification as one self-contained page: no script, no request, light and dark, readable on a phone.

Every number on it comes from the report's JSON, which the page carries; cells name their place in it (`data-figure`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from causalrn.bundle.json_values import to_json
from causalrn.runtimes.parity.report import CONVERTED, VerifyReport
from causalrn.workflows.pages.page import embedded_json, page_environment
from causalrn.workflows.pages.verify_charts import charts_of, heats_of
from causalrn.workflows.pages.verify_rows import group_rows
from causalrn.workflows.pages.verify_words import describe_side, explain_limits, figure_text, headline


def render_page(report: VerifyReport) -> str:
    """The page of a report, as HTML."""
    environment, data = page_environment(), to_json(report)
    environment.filters.update(figure=figure_text, side=describe_side)
    groups = group_rows(report, data)
    results = [row.result for group in groups for row in group.rows]
    walks = [(result, result["figures"]["calls"]["failing"]) for result in results if "calls" in result["figures"]]
    return environment.get_template("verify_page.html.j2").render(
        report=data,
        data=embedded_json(data),
        headline=headline(report.results),
        limits=explain_limits(report),
        known_by=report.known_by.describe() if report.known_by else None,
        not_run="The bundle's runtime did" if report.verdict == CONVERTED else "The engines were",
        groups=groups,
        walks=[(result, walk) for result, walk in walks if walk],
        attributions=report.attributions,
        charts=charts_of(data),
        heats=heats_of(data),
        settings=list(_settings(data)),
    )


def _settings(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings and versions, by name."""
    for name, value in (*report["settings"].items(), *report["environment"].items()):
        if isinstance(value, Mapping):
            for limit, entry in value.items():
                yield f"{name}: {limit.replace('_', ' ')}", f"{entry:g}"
        else:
            yield name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else str(value)
