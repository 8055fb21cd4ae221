"""Headers of safetensors files, checked before memory is taken for what they speak of. Needs no torch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from causalrn.bundle.disk.reading import LARGEST_JSON_BYTES, check_values, open_input
from causalrn.bundle.json_values import parse_json_object
from causalrn.errors import CausalRNError

_LENGTH_BYTES = 8

Shapes = Mapping[str, tuple[int, ...]]
"""By the tensor's name."""


def check_tensor_file(path: Path, what: str, remedy: str, error: type[CausalRNError]) -> Shapes:
    """Check a safetensors file's kind, size and header: the shapes of what is in it.

    Args:
        what: the file should be, in words.
        remedy: what to do where it is not.
        error: what is raised.

    Raises:
        CausalRNError: of the kind `error`: no such file, something else, or a header that does not fit its bytes.
    """
    with open_input(path, remedy, error) as file:
        try:
            return read_shapes(file)
        except (CausalRNError, ValueError, LookupError, TypeError, OverflowError) as fault:
            raise error(f"{path}: corrupt {what} ({fault}): {remedy}") from None


def read_shapes(file: IO[bytes]) -> Shapes:
    """The shapes that a header speaks of, which has to account for every byte of the file; stands at its begin after.

    Raises:
        ValueError, LookupError, TypeError, OverflowError, CausalRNError: it does not.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if not 0 < header_bytes <= size - _LENGTH_BYTES:
        raise ValueError("its header is longer than the file")
    if header_bytes > LARGEST_JSON_BYTES:
        raise ValueError(f"its header is longer than {LARGEST_JSON_BYTES:,} bytes")
    header = file.read(header_bytes)
    check_values(header)
    entries = parse_json_object(header.decode(), "header")
    tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
    ends = [entry["data_offsets"][1] for entry in tensors.values()]
    if max(ends, default=0) != size - _LENGTH_BYTES - header_bytes:
        raise ValueError("its header and its size differ")
    file.seek(0)
    return {name: tuple(int(length) for length in entry["shape"]) for name, entry in tensors.items()}
