"""Arrays of numbers in files that users hand over, .npy and .npz: headers are believed only as far as there are bytes.

A header of a few bytes may ask for terabytes, and a zip archive may grow a thousandfold: both are refused before memory
is taken. Numbers of the other byte order are turned round.
"""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from causalrn.bundle.disk.reading import open_input
from causalrn.errors import InputError

Array = npt.NDArray[Any]

ARCHIVE = b"PK"
"""How a zip archive begins."""
_MAGIC = b"\x93NUMPY"
_LARGEST_BYTES = 4 << 30
_MOST_GROWTH = 200
"""Of numbers when they are unpacked; logits shrink to no less than a tenth, a few tokens that repeat to a hundredth."""
_SMALL_BYTES = 1 << 20
_KINDS = "iufb"
_DAMAGE = (
    ValueError,
    TypeError,
    EOFError,
    SyntaxError,
    LookupError,
    OverflowError,
    OSError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    RecursionError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile and numpy raise where bytes are not what they should be."""


def read_array(path: Path, remedy: str) -> Array:
    """The numbers in a .npy file, in this machine's byte order; nothing in it is executed.

    Raises:
        InputError: no such file, no such array, or a header that asks for more than there is.
    """
    with open_input(path, remedy, most_bytes=_LARGEST_BYTES) as file:
        if file.read(len(ARCHIVE)) == ARCHIVE:
            raise InputError(f"{path}: holds an archive, not one array: {remedy}")
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        return _read_npy(file, size, str(path), remedy)


def read_archive(path: Path, names: Iterable[str], remedy: str) -> dict[str, Array]:
    """Some arrays out of a .npz file by name, those that are there; errors as :func:`read_array`."""
    with open_input(path, remedy, most_bytes=_LARGEST_BYTES) as file:
        try:
            archive = zipfile.ZipFile(file)
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        except _DAMAGE:
            raise InputError(f"{path}: no archive of numbers, or a damaged one: {remedy}") from None
        found = {}
        for name in names:
            if name not in entries:
                continue
            entry, source = entries[name], f"{path}: {name}"
            if entry.file_size > max(_SMALL_BYTES, _MOST_GROWTH * entry.compress_size):
                raise InputError(f"{source} would grow {_MOST_GROWTH}-fold when it is unpacked: {remedy}")
            try:
                with archive.open(entry) as member:
                    found[name] = _read_npy(member, entry.file_size, source, remedy)
            except _DAMAGE:
                raise InputError(f"{source} is damaged: {remedy}") from None
        return found


def _read_npy(file: IO[bytes], size: int, source: str, remedy: str) -> Array:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise InputError(f"{source}: not a .npy file of numbers: {remedy}")
    file.seek(0)
    try:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        place = file.tell()
    except _DAMAGE:
        raise InputError(f"{source}: not a .npy file of numbers, or a damaged one: {remedy}") from None
    if dtype.hasobject:
        raise InputError(f"{source}: holds Python objects, which are not opened, not numbers: {remedy}")
    if dtype.kind not in _KINDS:
        raise InputError(f"{source}: holds {dtype}, not numbers: {remedy}")
    if math.prod(shape) * dtype.itemsize > size - place:
        raise InputError(f"{source}: its header asks for {dtype} {list(shape)}, more than there is: {remedy}")
    file.seek(0)
    try:
        array = np.lib.format.read_array(file, allow_pickle=False)
    except _DAMAGE:
        raise InputError(f"{source}: not a .npy file of numbers, or a damaged one: {remedy}") from None
    return array.astype(dtype.newbyteorder("="), copy=False)


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
