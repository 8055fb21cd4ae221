"""Answers so far, beside the output: what a killed run leaves is gone on with, and becomes the output at the end.

`OUT.part` has whole lines, and at its end what a killed process had begun; `OUT.part.json` says what they belong to. A
process holds the lock of the first as long as it writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from causalrn.bundle.disk.files import named_errors, open_mode, written_file
from causalrn.bundle.disk.leftovers import try_lock
from causalrn.bundle.disk.reading import open_input, read_json_object
from causalrn.bundle.json_values import json_text, parse_json_line
from causalrn.errors import ConfigError, InputError

_RESTART = "`restart` begins anew"


class _Written(msgspec.Struct):
    index: int
    error: str | None = None


class PartFile:
    """What has been written of an output; a context manager.

    Args:
        output: file that it becomes, symbolic links resolved.
        belongs: what its lines depend on: JSON values, by names that users know.
        restart: forget what is there.

    Attributes:
        lines: whole lines that it has; `errors` of them are of prompts that could not run.

    Raises:
        InputError: it belongs to something else, or another process writes it.
    """

    def __init__(self, output: Path, belongs: Mapping[str, Any], *, restart: bool = False) -> None:
        self.output, self.path = output, part_path(output)
        self.lines = self.errors = 0
        self._handle = self._open()
        try:
            if not try_lock(self._handle):
                raise InputError(f"{self.path}: another process writes it: wait for its end, or name another output")
            if restart:
                os.truncate(self._handle, 0)
            self._claim(belongs)
            self._find_end()
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> PartFile:
        """It is open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it; what is there is kept."""
        os.close(self._handle)

    def append(self, lines: tuple[bytes, ...], errors: int = 0) -> None:
        """Write whole lines; so many of them are of prompts that could not run.

        Raises:
            OSError: the disk is full, ...; it names the output.
        """
        content = memoryview(b"".join(lines))
        with named_errors(self.output):
            while content:
                content = content[os.write(self._handle, content) :]
        self.lines += len(lines)
        self.errors += errors

    def finish(self) -> None:
        """Put it in the output's place."""
        with named_errors(self.output):
            os.fsync(self._handle)
            self.path.replace(self.output)
        settings_path(self.output).unlink(missing_ok=True)

    def _open(self) -> int:
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            raise InputError(f"{self.path} is no regular file, and answers go there until they are whole: move it away")
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        with named_errors(self.output):
            return os.open(self.path, flags, open_mode(is_folder=False))

    def _claim(self, belongs: Mapping[str, Any]) -> None:
        """Check what it belongs to, or say so where it is empty."""
        settings = settings_path(self.output)
        if not os.fstat(self._handle).st_size:
            with written_file(settings) as partial:
                partial.write_text(json_text(dict(belongs)), encoding="utf-8")
            return
        if not settings.exists():
            raise InputError(f"{self.path} lacks {settings.name}, which says what it belongs to: {_RESTART}")
        found = read_json_object(settings, _RESTART)
        other = [name for name in {**found, **belongs} if found.get(name) != belongs.get(name)]
        if other:
            words = ", ".join(f"`{name}`" for name in other)
            raise InputError(f"{self.path} was begun with another {words}: give what it was begun with, or {_RESTART}")

    def _find_end(self) -> None:
        """Count whole lines, and cut off what comes behind them: a killed process's, or garbage of a lost machine."""
        end = 0
        with open_input(self.path, _RESTART) as file:
            for line in file:
                try:
                    written = parse_json_line(line, _Written) if line.endswith(b"\n") else None
                except ConfigError:
                    written = None
                if written is None or written.index != self.lines:
                    break
                end += len(line)
                self.lines += 1
                self.errors += written.error is not None
        os.truncate(self._handle, end)


def part_path(output: Path) -> Path:
    """Where an output's lines are until it is whole."""
    return output.with_name(output.name + ".part")


def settings_path(output: Path) -> Path:
    """Where it says what they belong to."""
    return output.with_name(output.name + ".part.json")


def forget_settings(output: Path) -> None:
    """Delete what a process leaves that is killed between its last two steps."""
    if not part_path(output).exists():
        with contextlib.suppress(OSError):
            settings_path(output).unlink(missing_ok=True)
