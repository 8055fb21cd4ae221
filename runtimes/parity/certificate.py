"""Certificates: what was verified, on what, with which figures; void as soon as the bundle is another one."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalrn.errors import BundleError, ConfigError, InputError
from causalrn.files import json_text, parse_json_object, sha256_file, written_file
from causalrn.manifest import MANIFEST_NAME, Bundle

CERTIFICATE_VERSION = 1
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


def save_certificate(path: Path, bundle: Path, report: Mapping[str, Any]) -> None:
    """Certify a report that passed, for the bundle as it lies there.

    Raises:
        InputError: the report did not pass.
        BundleError: the bundle is not the one that was verified.
    """
    if not report["passed"]:
        raise InputError("only what passes is certified")
    opened = Bundle.open(bundle)
    if opened.sha256 != report["bundle"]["sha256"]:
        raise BundleError(f"{bundle} changed while it was verified: verify it again")
    files = {name: sha256_file(bundle / name) for name in (MANIFEST_NAME, *opened.manifest.files)}
    data = {
        "certificate": _FORMAT,
        "version": CERTIFICATE_VERSION,
        "issued": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "files": files,
        "report": dict(report),
    }
    with written_file(path) as partial:
        partial.write_text(json_text({**data, _OWN_HASH: _own_hash(data)}), encoding="utf-8")


def load_certificate(path: Path) -> Certificate:
    """Read a certificate.

    Raises:
        InputError: the file is missing, no certificate of this version, or changed since it was written.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = parse_json_object(text, str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: name a certificate that `verify --certificate` wrote") from None
    except (UnicodeDecodeError, ConfigError):
        raise InputError(f"{path}: not a certificate: name one that `verify --certificate` wrote") from None
    if data.get("certificate") != _FORMAT:
        raise InputError(f"{path}: not a certificate: name one that `verify --certificate` wrote")
    if data.get("version") != CERTIFICATE_VERSION:
        raise InputError(
            f"{path}: certificate version {data.get('version')!r}, this toolkit reads {CERTIFICATE_VERSION}"
        )
    if data.pop(_OWN_HASH, None) != _own_hash(data):
        raise InputError(f"{path}: changed since it was written: it certifies nothing; verify again")
    return Certificate(data["issued"], data["files"], data["report"])


def _own_hash(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_text(data).encode()).hexdigest()
