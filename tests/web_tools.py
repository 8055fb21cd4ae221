"""Web bundles in tests: which tools are here, and bundles without golden vectors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.export.web.web_exporter import WebOptions, export_web
from causalrn.model.sequence_model import SequenceModel
from tests.c_tools import CLANG, checkpoint_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_MISSING = [
    package
    for package, found in (("clang", CLANG), ("lld", shutil.which("wasm-ld")), ("nodejs", shutil.which("node")))
    if not found
]
HAS_WEB = not _MISSING
needs_web = pytest.mark.skipif(not HAS_WEB, reason=f"the web target: install {', '.join(_MISSING)}")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: install chromium")


def web_bundle(model: SequenceModel, folder: Path, alphabet: Alphabet | None = None, **options: Any) -> Bundle:
    """A web bundle of a model, without golden vectors: nothing has to be run for it."""
    checkpoint = checkpoint_of(model, folder / "run", alphabet)
    target = folder / "bundle"
    target.mkdir()
    return seal_bundle(target, export_web(checkpoint, target, WebOptions(**options)))
