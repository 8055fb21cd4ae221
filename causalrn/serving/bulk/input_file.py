"""The file of prompts: read line by line, twice: for its hash, and to be run. It may be larger than memory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from causalrn.bundle.disk.reading import open_input
from causalrn.errors import InputError
from causalrn.serving.bulk.lines import MOST_LINE_BYTES, Line

_REMEDY = "name a file of lines of JSON, each with a prompt"
_PART_BYTES = 1 << 20
_MARK = b"\xef\xbb\xbf"
"""Of UTF-8, as some editors put it in front of a file."""


@dataclass(frozen=True)
class InputFile:
    """A file of lines as it was when it was looked through.

    Attributes:
        lines: how many; the last one may lack its end.
        sha256: of its content.
    """

    path: Path
    lines: int
    sha256: str

    @classmethod
    def look_through(cls, path: Path) -> InputFile:
        """Count and hash.

        Raises:
            InputError: no regular file, or it cannot be read.
        """
        digest, lines, last = hashlib.sha256(), 0, b"\n"
        with open_input(path, _REMEDY) as file:
            while part := file.read(_PART_BYTES):
                digest.update(part)
                lines += part.count(b"\n")
                last = part[-1:]
        return cls(path, lines + (last != b"\n"), digest.hexdigest())

    def read(self, first: int) -> Iterator[Line]:
        """The lines from number `first` on.

        Raises:
            InputError: at the end, if the file is not what it was.
        """
        digest = hashlib.sha256()
        with open_input(self.path, _REMEDY) as file:
            for index in range(self.lines):
                content = _read_line(file, digest)
                if index >= first:
                    yield Line(index, content if index or content is None else content.removeprefix(_MARK))
            digest.update(file.read(1))
        if digest.hexdigest() != self.sha256:
            raise InputError(
                f"{self.path} has changed while it was read: what was written belongs to neither: `restart`"
            )


def _read_line(file: io.BufferedReader, digest: hashlib._Hash) -> bytes | None:
    """The next line; None for one that is too long."""
    content = file.readline(MOST_LINE_BYTES + 1)
    digest.update(content)
    if len(content) <= MOST_LINE_BYTES or content.endswith(b"\n"):
        return content
    while part := file.readline(_PART_BYTES):
        digest.update(part)
        if part.endswith(b"\n"):
            break
    return None
