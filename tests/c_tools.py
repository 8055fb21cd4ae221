"""C bundles in tests: which tools are here, exporting without golden vectors, and running programs over a bundle."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.export.c99.c99_exporter import COptions, export_c
from causalrn.export.web.wasm_builder import CLANGS
from causalrn.model.sequence_model import SequenceModel
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

CLANG = next((name for name in CLANGS if shutil.which(name)), None)
HAS_C_COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))

needs_c_compiler = pytest.mark.skipif(not HAS_C_COMPILER, reason="needs a C compiler: install gcc or clang")
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
needs_clang = pytest.mark.skipif(CLANG is None, reason="needs clang")


def needs(*tools: str, packages: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if not shutil.which(tool)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}: install {packages}")


def checkpoint_of(model: SequenceModel, folder: Path, alphabet: Alphabet | None = None) -> Checkpoint:
    save_checkpoint(folder, model, ModelCard(model.config, alphabet), {})
    return load_checkpoint(folder)


def c_bundle(model: SequenceModel, folder: Path, alphabet: Alphabet | None = None, **options: Any) -> Bundle:
    """C source of a model, without golden vectors: nothing has to be compiled for it."""
    checkpoint = checkpoint_of(model, folder / "run", alphabet)
    target = folder / "bundle"
    target.mkdir()
    return seal_bundle(target, export_c(checkpoint, target, COptions(**options)))


def compile_c(command: Sequence[str], sources: Sequence[Path | str], bundle: Bundle, output: Path) -> Path:
    """Compile and link a program with a bundle's folder as include path."""
    include = ["-I", str(bundle.path)]
    result = subprocess.run(
        [*command, *include, *map(str, sources), "-o", str(output), "-lm", "-pthread"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return output


def logits_of(program: Sequence[Path | str], tokens: np.ndarray, bundle: Bundle) -> np.ndarray:
    """Logits [T, V] of tests/export/c99/step_tokens.c, which steps through the tokens."""
    result = subprocess.run(
        [*map(str, program), str(bundle.path / "weights.bin")],
        input=tokens.astype(np.int32).tobytes(),
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()
    return np.frombuffer(result.stdout, np.float32).reshape(len(tokens), -1)
