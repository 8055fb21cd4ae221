"""What a certificate found, as lines of Markdown for a model card."""

from __future__ import annotations

from collections.abc import Iterator

from causalrn.runtimes.parity.certificate import SHOWN_VERSIONS, Certificate
from causalrn.runtimes.parity.results import ALL_LEVELS


def certified_figures(certificate: Certificate) -> list[str]:
    """A table of levels and runtimes with their errors, and what they were measured with and against."""
    return list(_lines(certificate))


def _lines(certificate: Certificate) -> Iterator[str]:
    report = certificate.report
    versions = ", ".join(f"{name} {report.environment[name]}" for name in SHOWN_VERSIONS)
    yield f"Verified {certificate.issued[:10]} with {versions}, against {report.against}. Errors are relative to the"
    yield f"largest |value| (of logits {report.reference.largest_logit:.3g}); allowed is rounding, or the budget of"
    yield "a quantized bundle. `certificate.json` has all of it, and holds for these files alone."
    yield ""
    yield "| level | runtime | error | allowed | outcome |"
    yield "|---|---|---|---|---|"
    for result in sorted(report.results, key=lambda each: ALL_LEVELS.index(each.level)):
        error, allowed = ("-" if value is None else f"{value:.1e}" for value in (result.error, result.allowed))
        yield f"| {result.level} | {result.runtime} | {error} | {allowed} | {result.summary.replace('|', '/')} |"
    if report.coverage is not None and report.coverage.not_covered:
        yield ""
        yield f"Not covered: {'; '.join(report.coverage.not_covered)}."
