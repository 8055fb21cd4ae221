"""Token ids from a user's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.array_files import read_array
from causalrn.errors import InputError
from causalrn.training.card import card_of


def load_token_ids(path: Path) -> npt.NDArray[np.integer]:
    """Read a .npy file of token ids, integers [B, T].

    Raises:
        InputError: missing, or something else.
    """
    ids = read_array(path, "write token ids [B, T] with numpy.save")
    if ids.ndim != 2 or ids.size == 0 or ids.dtype.kind not in "iu":
        what = f"{ids.dtype} {list(ids.shape)}"
        raise InputError(f"{path}: holds {what}, expected integers [B, T] with at least one token")
    return ids


def checked_token_ids(path: Path, bundle: Bundle) -> npt.NDArray[np.int64]:
    """Read token ids that a bundle can take, int64 [B, T] with at least 2 tokens per sequence.

    Raises:
        InputError: a file that does not fit the model.
    """
    tokens = load_token_ids(path)
    vocabulary, capacity = card_of(bundle).config.vocabulary, bundle.manifest.state.capacity
    if tokens.shape[1] < 2:
        raise InputError(f"{path}: one token per sequence is too short to compare on: give at least 2")
    if tokens.min() < 0 or tokens.max() >= vocabulary:
        raise InputError(f"{path}: token ids from {tokens.min()} to {tokens.max()}, the vocabulary is {vocabulary}")
    if capacity is not None and tokens.shape[1] > capacity:
        raise InputError(f"{path}: {tokens.shape[1]} tokens per sequence, the bundle's capacity is {capacity}")
    return tokens.astype(np.int64)
