"""Packages of the npm registry in tests: pinned, fetched once in a test run; without the registry tests skip."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

AXE = {"axe-core": "4.14.1"}
BUNDLERS = {"esbuild": "0.28.2", "vite": "8.4.0", "webpack": "5.113.0"}
TYPESCRIPT = {"typescript": "7.0.2"}

Share = Callable[[str, Callable[[Path], object]], Path]


def npm(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run npm in a folder."""
    command = ["npm", *map(str, arguments), "--no-audit", "--no-fund", "--loglevel", "error", "--prefer-offline"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def install(share: Share, name: str, packages: dict[str, str]) -> Path:
    """The `node_modules` of packages; skips where npm or its registry cannot be reached."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm: apt-get install npm")

    def fill(folder: Path) -> None:
        (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": packages}))
        result = npm(folder, "install")
        if result.returncode != 0:
            raise ConnectionError(result.stderr.strip().splitlines()[0] if result.stderr.strip() else "npm failed")

    try:
        return share(f"npm-{name}", fill) / "node_modules"
    except ConnectionError as error:
        pytest.skip(f"needs the npm registry: {error}")
