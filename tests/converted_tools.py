"""Converted bundles in tests: whether their toolchains are here, and files that were changed after their conversion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import seal_bundle
from causalrn.bundle.conversions import CONVERSIONS
from causalrn.bundle.manifest import Manifest
from causalrn.model.cell import RecurrentCell
from causalrn.training.checkpoint import load_checkpoint


def needs(target: str) -> pytest.MarkDecorator:
    """Skip where the toolchain of a target is missing; the reason is the command that installs it."""
    row = CONVERSIONS[target]
    return pytest.mark.skipif(not row.is_installed, reason=f"needs {row.title}: {row.install}")


def one_weight_off(content: bytes, run: Path) -> bytes:
    """A file in which one number of block 1's W3 is off by 1e-3, wherever it is stored."""
    cell = RecurrentCell.from_model(load_checkpoint(run).model)
    weight = cell.blocks[1].w3.numpy()
    off = weight.copy()
    off[3, 4] += 1e-3
    assert content.count(weight.tobytes()) == 1, "the weight is not stored as it is"
    return content.replace(weight.tobytes(), off.astype(np.float32).tobytes())


def names_swapped(content: bytes, first: bytes, second: bytes) -> bytes:
    """A file in which two names of the same length have changed places."""
    assert len(first) == len(second)
    assert content.count(first) > 0 < content.count(second)
    aside = b"\xff" * len(first)
    assert aside not in content
    return content.replace(first, aside).replace(second, first).replace(aside, second)


def reseal_changed(bundle: Path, file: str, change: Callable[[bytes], bytes]) -> None:
    """Change a file of a bundle, and make the manifest fit."""
    place = bundle / file
    place.write_bytes(change(place.read_bytes()))
    seal_bundle(bundle, Manifest.read(bundle))
