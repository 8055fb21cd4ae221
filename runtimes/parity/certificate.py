"""Certificates: what was verified, on what, with which figures; void as soon as the bundle is another one."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.files import CERTIFICATE_HASH, sha256_file, written_file
from causalrn.bundle.disk.reading import read_json_object
from causalrn.bundle.json_values import from_json, json_text, own_hash, to_json
from causalrn.bundle.manifest import MANIFEST_NAME
from causalrn.errors import BundleError, InputError
from causalrn.runtimes.parity.entries import ReportEntry
from causalrn.runtimes.parity.report import Sha256, VerifyReport

CERTIFICATE_VERSION = 1
SHOWN_VERSIONS = ("causalrn", "onnxruntime", "machine")
"""What of the environment is shown with a certificate."""
_FORMAT: Literal["causalrn-certificate"] = "causalrn-certificate"


class Certificate(ReportEntry, frozen=True, kw_only=True):
    """A certificate; the fields are the entries of its file.

    Attributes:
        issued: when, ISO 8601 in UTC.
        files: SHA-256 of every file of the bundle, its manifest and what lies in a bundle in it among them.
        report: the verification's report.
        certificate_sha256: of the certificate's own JSON text without this entry; filled in when it is written.

    Raises:
        ValueError: what it certifies did not pass, is another bundle, or was made on a machine that it does not name.
    """

    certificate: Literal["causalrn-certificate"] = _FORMAT
    version: Literal[1] = 1
    issued: str
    files: Mapping[str, Sha256]
    report: VerifyReport
    certificate_sha256: str = ""

    def __post_init__(self) -> None:
        if self.report.why_not_certified:
            raise ValueError(self.report.why_not_certified)
        if self.files.get(MANIFEST_NAME) != self.report.bundle.sha256:
            raise ValueError("its manifest is not the bundle's that was verified")
        missing = [name for name in SHOWN_VERSIONS if name not in self.report.environment]
        if missing:
            raise ValueError(f"no {missing[0]} in its environment")

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
    bundle = Bundle.open(Path(report.bundle.path))
    if bundle.sha256 != report.bundle.sha256:
        raise BundleError(f"{report.bundle.path} changed while it was verified: verify it again")
    certificate = Certificate(
        issued=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        files={name: sha256_file(bundle.path / name) for name in bundle.names},
        report=report,
    )
    data = to_json(certificate)
    with written_file(path) as partial:
        partial.write_text(json_text({**data, CERTIFICATE_HASH: own_hash(data, CERTIFICATE_HASH)}), encoding="utf-8")


def load_certificate(path: Path) -> Certificate:
    """Read a certificate.

    Raises:
        InputError: the file is missing, no certificate of this version, or changed since it was written.
    """
    remedy = "name one that `verify` wrote"
    data = read_json_object(path, remedy)
    if data.get("certificate") != _FORMAT:
        raise InputError(f"{path}: not a certificate: {remedy}")
    if data.get("version") is True or data.get("version") != CERTIFICATE_VERSION:
        version = data.get("version")
        raise InputError(f"{path}: certificate version {version!r}, this toolkit reads {CERTIFICATE_VERSION}")
    if data.get(CERTIFICATE_HASH) != own_hash(data, CERTIFICATE_HASH):
        raise InputError(f"{path}: changed since it was written: it certifies nothing; verify again")
    return from_json(data, Certificate, f"{path}: malformed certificate, verify again", InputError)
