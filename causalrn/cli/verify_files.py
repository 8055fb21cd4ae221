"""What `verify` writes beside its table: the report as JSON and as a page, outputs, and a certificate."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from causalrn.bundle.files import written_file
from causalrn.cli.console import console, write_json
from causalrn.runtimes.parity.report import VerifyReport
from causalrn.workflows.verify import Verified


def write_reports(verified: Verified, json_path: Path | None, html: Path | None, save_outputs: Path | None) -> None:
    """Write what was asked for."""
    report = verified.report.to_json()
    write_json(json_path, report)
    if html is not None:
        from causalrn.workflows.pages.verify_page import render_page

        with written_file(html) as partial:
            partial.write_text(render_page(report), encoding="utf-8", errors="replace")
    if save_outputs is not None:
        archive = io.BytesIO()  # a device or pipe that is written to cannot be searched
        np.savez(archive, **verified.outputs)  # type: ignore[arg-type]
        with written_file(save_outputs) as partial:
            partial.write_bytes(archive.getvalue())


def certify(path: Path, report: VerifyReport) -> None:
    """Write a certificate, or say why there is none."""
    from causalrn.runtimes.parity.certificate import save_certificate

    if report.why_not_certified:
        console().print(f"{path} was not written: {report.why_not_certified}", soft_wrap=True)
    else:
        save_certificate(path, report)
        console().print(f"wrote {path}", soft_wrap=True)
