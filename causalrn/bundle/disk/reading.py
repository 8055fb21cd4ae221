"""The one way to read a file that a user names or hands over: a regular file, no larger than it can be.

A pipe or a device would block, or never end: it is refused before it is opened. Sizes are checked before memory is
taken for them. Errors say what is there instead of the file, and the caller's remedy.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import Any

from causalrn.bundle.json_values import parse_json_object
from causalrn.errors import CausalRNError, ConfigError, InputError

LARGEST_JSON_BYTES = 32 << 20
"""No JSON file of this toolkit comes near it."""
_MOST_VALUE_BYTES = 64 << 20
_VALUE_BYTES = {b"{": 64, b"[": 56, b'"': 28, b",": 32}
"""What Python takes, about, for a value that begins with this byte, half a text, or any value in a list."""

_Error = type[CausalRNError]


def open_input(path: Path, remedy: str, error: _Error = InputError, most_bytes: int | None = None) -> io.BufferedReader:
    """Open a regular file for reading.

    Args:
        remedy: what to do where there is none.
        error: what is raised.
        most_bytes: of a larger file nothing is read.

    Raises:
        CausalRNError: of the kind `error`: there is no such file, something else, or one that is too large.
    """
    check_input(path, remedy, error)
    try:  # not blocking: a pipe may have taken the file's place
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(path, flags), "rb")
    except OSError as fault:
        raise error(f"{path}: {_in_words(fault)}: {remedy}") from None
    status = os.fstat(file.fileno())
    problem = _kind_in_words(status.st_mode)
    if most_bytes is not None and status.st_size > most_bytes:
        problem = f"has {status.st_size:,} bytes, more than {most_bytes:,}"
    if problem:
        file.close()
        raise error(f"{path}: {problem}: {remedy}")
    return file


def check_input(path: Path, remedy: str, error: _Error = InputError) -> int:
    """Check that a path is a regular file's, for a library that opens it itself; gives the file's size in bytes.

    Raises:
        CausalRNError: as :func:`open_input`.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as fault:
        raise error(f"{path}: {_in_words(fault)}: {remedy}") from None
    if problem := _kind_in_words(status.st_mode):
        raise error(f"{path}: {problem}: {remedy}")
    return status.st_size


def read_input(path: Path, remedy: str, error: _Error = InputError, most_bytes: int | None = None) -> bytes:
    """All bytes of a regular file; arguments and errors as :func:`open_input`."""
    with open_input(path, remedy, error, most_bytes) as file:
        try:
            return file.read() if most_bytes is None else file.read(most_bytes)
        except OSError as fault:
            raise error(f"{path}: {_in_words(fault)}: {remedy}") from None


def read_json_text(path: Path, remedy: str, error: _Error = InputError) -> str:
    """Text of a JSON file, not parsed yet, each end of a line one character; arguments as for :func:`open_input`.

    Raises:
        CausalRNError: of the kind `error`: as :func:`open_input`, or the file is no text of a size that JSON has.
    """
    content = read_input(path, remedy, error, LARGEST_JSON_BYTES)
    try:
        check_values(content)
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise error(f"{path}: not a text file: {remedy}") from None
    except ValueError as fault:
        raise error(f"{path}: {fault}: {remedy}") from None


def check_values(content: bytes) -> None:
    """Refuse JSON whose values would take a hundred times the memory of its text.

    Raises:
        ValueError: there are too many of them.
    """
    if sum(content.count(byte) * size for byte, size in _VALUE_BYTES.items()) > _MOST_VALUE_BYTES:
        raise ValueError("more values than a file of this kind has")


def read_json_object(path: Path, remedy: str, error: _Error = InputError) -> dict[str, Any]:
    """A JSON object from a file; arguments and errors as :func:`read_json_text`."""
    text = read_json_text(path, remedy, error)
    try:
        return parse_json_object(text, str(path))
    except ConfigError as fault:
        raise error(f"{fault}: {remedy}") from None


def _kind_in_words(mode: int) -> str:
    """What is there instead of a regular file; empty where it is one."""
    if stat.S_ISREG(mode):
        return ""
    return "a folder, not a file" if stat.S_ISDIR(mode) else "a pipe, socket or device, not a file"


def _in_words(fault: OSError | ValueError) -> str:
    code = fault.errno if isinstance(fault, OSError) else None
    known = {
        errno.ENOENT: "no such file",
        errno.ENOTDIR: "no such file",
        errno.ELOOP: "a circle of symbolic links",
        errno.EACCES: "cannot be read (permission denied)",
        errno.ENXIO: "a pipe, socket or device, not a file",
    }
    return known.get(code or 0) or f"cannot be read ({(isinstance(fault, OSError) and fault.strerror) or fault})"
