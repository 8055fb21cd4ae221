"""Compiling C with this machine's compiler, once: what it made is kept by the hash of all that went in."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from causalrn.compiling.code_cache import (
    CACHE_VARIABLE,
    cache_folder,
    find_entry,
    keep_entry,
    private_folder,
    work_folder,
)
from causalrn.compiling.programs import execute
from causalrn.errors import RuntimeUnavailableError

_FLAGS = ("-std=c99", "-O3", "-fPIC", "-shared")
_COMPILERS = ("cc", "gcc", "clang")
_TIMEOUT_S = 600.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def find_compiler() -> list[str]:
    """The compiler's command: $CC, or the first of cc, gcc and clang.

    Raises:
        RuntimeUnavailableError: there is none.
    """
    chosen = shlex.split(os.environ.get("CC", ""))
    found = next((name for name in chosen[:1] or _COMPILERS if shutil.which(name)), None)
    if found is None:
        what = f"CC={chosen[0]} is not there" if chosen else "no C compiler (cc, gcc or clang) was found"
        raise RuntimeUnavailableError(f"{what}: install gcc or clang, or set CC")
    return chosen or [found]


class SourceError(RuntimeUnavailableError):
    """What the compiler says of a source."""


def shared_library(sources: Mapping[str, bytes], flags: Sequence[str], what: str) -> Path:
    """A shared library of C99 sources, compiled unless that has been done before.

    Args:
        sources: the content of files by name; the first one includes the others, or what it needs of them.
        flags: for this library, after those for all of them.
        what: is compiled, as errors say it.

    Raises:
        RuntimeUnavailableError: there is no compiler, it does not work, or refuses the source.
    """
    return compiled(find_compiler(), sources, (*_FLAGS, next(iter(sources)), *flags), what, ".so")


def compiled(
    compiler: Sequence[str], sources: Mapping[str, bytes], arguments: Sequence[str], what: str, suffix: str
) -> Path:
    """What a compiler makes of files, kept by the hash of all that went in.

    Args:
        compiler: its command.
        sources: the content of files by name; they lie in the folder in which it runs.
        arguments: of the command, without its output.
        what: is compiled, as errors say it.
        suffix: of what it makes: ".so", ".o", or ".run" for a program.

    Raises:
        RuntimeUnavailableError: it does not work; SourceError: it refuses the source.
    """
    command = [*compiler, *arguments, "-o"]
    parts = [*sources.values(), _identity(*compiler).encode(), " ".join(command).encode()]
    key = hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()
    make = functools.partial(_made, command, sources, what, key[:32], suffix)
    folder = cache_folder()
    try:
        return find_entry(folder, key[:32], suffix) or make(folder)
    except OSError as error:  # it is full
        private = private_folder(f"{folder}: {error.strerror or error}")
    try:
        return find_entry(private, key[:32], suffix) or make(private)
    except OSError as error:
        raise RuntimeUnavailableError(
            f"{private}: {error.strerror or error}: free some space, or set {CACHE_VARIABLE} to a folder that has some"
        ) from None


def _made(command: Sequence[str], sources: Mapping[str, bytes], what: str, key: str, suffix: str, folder: Path) -> Path:
    """Compile in a folder, and keep what comes out there.

    Raises:
        OSError: there is no room.
        RuntimeUnavailableError, SourceError: as :func:`compiled`.
    """
    with work_folder(folder) as work:
        for name, content in sources.items():
            (work / name).write_bytes(content)
        made = work / f"made{suffix}"
        _compile([*command, made.name], made, what)
        return keep_entry(made, folder, key, suffix)


@functools.cache  # verify opens a bundle half a dozen times
def _identity(*compiler: str) -> str:
    """The compiler's command, version and target."""
    try:
        result = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeUnavailableError(f"{compiler[0]} does not start ({error}): set CC to another compiler") from None
    return " ".join([*compiler, platform.machine(), result.stdout])


def _compile(command: Sequence[str], made: Path, what: str) -> None:
    result = execute(command, _TIMEOUT_S, made.parent, made.parent)
    if result.code is None:
        raise RuntimeUnavailableError(f"{command[0]} took more than {result.timeout_s:.0f} s for {what}")
    if result.code != 0 or not made.is_file():
        for code in _NO_ROOM:
            if os.strerror(code) in result.stderr:
                raise OSError(code, os.strerror(code))
        errors = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines()[-1:]
        reason = errors[0].strip() if errors else f"exit code {result.code}"
        raise SourceError(f"{command[0]} cannot compile {what}: {reason}")
