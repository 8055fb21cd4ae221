"""Certificates: what was verified, on what, with which figures; void as soon as the bundle is another one."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.files import sha256_file, written_file
from causalrn.bundle.json_values import json_text, own_hash, parse_json_object
from causalrn.bundle.manifest import MANIFEST_NAME
from causalrn.errors import BundleError, ConfigError, InputError
from causalrn.runtimes.parity.report import VerifyReport

CERTIFICATE_VERSION = 1
SHOWN_VERSIONS = ("causalrn", "onnxruntime", "machine")
"""What of the environment is shown with a certificate."""
_FORMAT = "causalrn-certificate"
_OWN_HASH = "certificate_sha256"


@dataclass(frozen=True)
class Certificate:
    """A certificate that has been read.

    Attributes:
        issued: when, ISO 8601 in UTC.
        files: SHA-256 of every file of the bundle, the manifest among them.
        report: the verification's report, as JSON values.
    """

    issued: str
    files: Mapping[str, str]
    report: Mapping[str, Any]

    def faults(self, bundle: Path) -> list[str]:
        """Why it does not hold for a bundle; nothing where it does. Hashes every file anew."""
        faults = []
        for name, sha256 in self.files.items():
            path = bundle / name
            if not path.is_file():
                faults.append(f"{name} is missing")
            elif sha256_file(path) != sha256:
                faults.append(f"{name} is not the file that was verified")
        return faults


def save_certificate(path: Path, report: VerifyReport) -> None:
    """Certify a report for the bundle as it lies there.

    Raises:
        InputError: the report did not pass, or does not speak of the bundle.
        BundleError: the bundle is not the one that was verified.
    """
    if report.why_not_certified:
        raise InputError(report.why_not_certified)
    bundle = Bundle.open(report.bundle)
    if bundle.sha256 != report.bundle_sha256:
        raise BundleError(f"{report.bundle} changed while it was verified: verify it again")
    data = {
        "certificate": _FORMAT,
        "version": CERTIFICATE_VERSION,
        "issued": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "files": {name: sha256_file(report.bundle / name) for name in (MANIFEST_NAME, *bundle.manifest.files)},
        "report": report.to_json(),
    }
    with written_file(path) as partial:
        partial.write_text(json_text({**data, _OWN_HASH: own_hash(data, _OWN_HASH)}), encoding="utf-8")


def load_certificate(path: Path) -> Certificate:
    """Read a certificate.

    Raises:
        InputError: the file is missing, no certificate of this version, or changed since it was written.
    """
    remedy = "name one that `verify --certificate` wrote"
    try:
        data = parse_json_object(path.read_text(encoding="utf-8"), str(path))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: no such file: {remedy}") from None
    except (UnicodeDecodeError, ConfigError):
        raise InputError(f"{path}: not a certificate: {remedy}") from None
    if data.get("certificate") != _FORMAT:
        raise InputError(f"{path}: not a certificate: {remedy}")
    if data.get("version") is True or data.get("version") != CERTIFICATE_VERSION:
        version = data.get("version")
        raise InputError(f"{path}: certificate version {version!r}, this toolkit reads {CERTIFICATE_VERSION}")
    if data.get(_OWN_HASH) != own_hash(data, _OWN_HASH):
        raise InputError(f"{path}: changed since it was written: it certifies nothing; verify again")
    try:
        return _read(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: malformed certificate ({error}): verify again") from None


def _read(data: Mapping[str, Any]) -> Certificate:
    """Check what is inside, whoever wrote it."""
    report, files = data["report"], data["files"]
    if report["passed"] is not True or not report["results"]:
        raise ValueError("nothing passed")
    if files[MANIFEST_NAME] != report["bundle"]["sha256"]:
        raise ValueError("its manifest is not the bundle's that was verified")
    budget = report["settings"]["budget"]
    if not all(isinstance(limit, int | float) for limit in (budget or {}).values()):
        raise ValueError("a budget that is no number")
    shown = (report["against"], *report["notes"], *(report["environment"][name] for name in SHOWN_VERSIONS))
    if not all(isinstance(text, str) for text in shown):
        raise ValueError("words that are none")
    for result in report["results"]:
        figures = [result[name] for name in ("error", "allowed")]
        words = [result[name] for name in ("level", "form", "summary")]
        if not all(isinstance(word, str) for word in words) or result["passed"] is not True:
            raise ValueError("a result that does not pass")
        if not all(figure is None or isinstance(figure, int | float) for figure in figures):
            raise ValueError("a figure that is no number")
    return Certificate(str(data["issued"]), {str(name): str(sha) for name, sha in files.items()}, report)
