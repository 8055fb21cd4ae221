"""Files out of a package of the npm registry, fetched with npm: its settings, cache and integrity checks apply."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.errors import RuntimeUnavailableError

_TIMEOUT_S = 600.0


def fetch_files(package: str, version: str, files: Mapping[str, str], folder: Path) -> None:
    """Put files of a package into a folder.

    Args:
        files: by name in the package, their names in `folder`.

    Raises:
        RuntimeUnavailableError: npm is missing, cannot fetch the package, or the package has no such file.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeUnavailableError(f"{package} comes from npm, which was not found: install nodejs and npm")
    with temporary_folder() as temporary:
        archive = _pack(npm, f"{package}@{version}", temporary)
        try:
            with tarfile.open(archive) as content:
                for name, target in files.items():
                    member = content.extractfile(f"package/{name}")
                    if member is None:
                        raise KeyError(name)
                    with member, (folder / target).open("wb") as file:
                        shutil.copyfileobj(member, file)
        except (KeyError, tarfile.TarError, EOFError, zlib.error) as error:
            raise RuntimeUnavailableError(f"{package} {version} is not as expected ({error}): try again") from None


def _pack(npm: str, package: str, folder: Path) -> Path:
    command = [npm, "pack", package, "--json", "--loglevel", "error", "--prefer-offline"]
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        raise RuntimeUnavailableError(f"{npm} does not start ({error}): reinstall nodejs and npm") from None
    except subprocess.TimeoutExpired:
        raise RuntimeUnavailableError(f"npm took more than {_TIMEOUT_S:.0f} s to fetch {package}: try again") from None
    found = sorted(folder.glob("*.tgz"))
    if result.returncode != 0 or not found:
        raise RuntimeUnavailableError(f"npm cannot fetch {package} ({_reason(result)}): check network and npm settings")
    return found[0]


def _reason(result: subprocess.CompletedProcess[str]) -> str:
    try:
        return str(json.loads(result.stdout)["error"]["summary"]).splitlines()[0]
    except (ValueError, KeyError, TypeError, IndexError):
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        return lines[0].strip() if lines else f"exit code {result.returncode}"
