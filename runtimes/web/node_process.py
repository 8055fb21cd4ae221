"""A Node process that holds a web bundle's session, called through pipes; host.mjs explains the frames."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import IO, Any

import numpy as np

from causalrn.compiling.programs import find_tool
from causalrn.errors import (
    BundleError,
    CapacityError,
    InputError,
    NonFiniteError,
    RuntimeUnavailableError,
    StateError,
)
from causalrn.runtimes.snapshot import Array

_ERRORS = {
    "input": InputError,
    "capacity": CapacityError,
    "state": StateError,
    "bundle": BundleError,
    "unavailable": RuntimeUnavailableError,
    "nonfinite": NonFiniteError,
}
_REMEDY = "install nodejs 18 or newer"
_MAGIC = 0x4E524301
_ANSWER_S, _TOKEN_S = 60.0, 1.0
"""What an answer may take, and on top of it each token that it is about."""
_MOST_READ_BYTES = 1 << 20


def find_node() -> str:
    """The program's path.

    Raises:
        RuntimeUnavailableError: it is not installed.
    """
    node = find_tool("node", "nodejs")
    if node is None:
        raise RuntimeUnavailableError(f"node was not found: {_REMEDY} to run web bundles outside a browser")
    return node


def node_command(*words: str) -> list[str]:
    """Node with a script and its arguments. Modules of a bundle may be links: what they import lies beside the link.

    Raises:
        RuntimeUnavailableError: it is not installed.
    """
    return [find_node(), "--preserve-symlinks", "--preserve-symlinks-main", *words]


class NodeProcess:
    """host.mjs over a bundle's folder; ends with this object, or with this process.

    Attributes:
        engine: what computes there, as the module calls it.

    Raises:
        RuntimeUnavailableError: there is no node, or it does not start.
    """

    def __init__(self, folder: Path, *, simd: bool = True) -> None:
        self._folder, command = folder, node_command()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        with as_file(files("causalrn.runtimes.web") / "host.mjs") as host:
            try:
                self._process = subprocess.Popen(
                    [*command, str(host.resolve()), str(folder.resolve())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._stderr,
                    bufsize=0,
                )
            except OSError as error:
                self._stderr.close()
                raise RuntimeUnavailableError(f"node does not start ({error}): {_REMEDY}") from None
            self._stop = weakref.finalize(self, _end, self._process, self._stderr)
            try:
                self.engine = self.call(
                    "open", simd=simd
                ).decode()  # inside: the file has to be there until it has been read
            except BaseException:
                self._stop()
                raise

    def call(self, name: str, payload: Sequence[Array] = (), *, tokens: int = 0, **options: Any) -> bytes:
        """Call a function of host.mjs: its payload.

        Args:
            tokens: that it is about; the more there are, the longer is waited.

        Raises:
            CausalRNError: what went wrong there, by its kind.
            RuntimeUnavailableError: the process has ended, or gives no answer and was ended.
        """
        if not self._stop.alive:
            raise RuntimeUnavailableError(f"{self._folder}: the session has been closed: open it again")
        header, content = json.dumps({"call": name, **options}).encode(), b"".join(a.tobytes() for a in payload)
        sizes = np.array([len(header), len(content)], "<u4").tobytes()
        try:
            answer, result = self._exchange(sizes + header + content, _ANSWER_S + tokens * _TOKEN_S)
        except BaseException:  # half of a frame may be under way: whatever came next would be another call's
            self._stop()
            raise
        if "error" in answer:
            kind = _ERRORS.get(answer["error"]["kind"], BundleError)
            raise kind(f"{self._folder}: {answer['error']['message']}")
        return result

    def _exchange(self, request: bytes, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + timeout_s
        try:
            self._write(request, deadline)
            magic, header_size, size = np.frombuffer(self._read(12, deadline), "<u4").tolist()
            if magic == _MAGIC:
                return json.loads(self._read(header_size, deadline)), self._read(size, deadline)
        except TimeoutError:
            raise RuntimeUnavailableError(
                f"{self._folder}: node gave no answer in {timeout_s:g} s and was ended: give it fewer tokens at once, "
                "or export the bundle again"
            ) from None
        except (BrokenPipeError, EOFError):
            raise self._ended() from None
        except ValueError:
            pass
        raise BundleError(f"{self._folder}: its module writes to standard output: export the bundle again")

    def close(self) -> None:
        """End the process."""
        self._stop()

    def _write(self, content: bytes, deadline: float) -> None:
        """Write to the process, which may have stopped reading.

        Raises:
            TimeoutError: it does not read.
            BrokenPipeError: it has ended.
        """
        assert self._process.stdin is not None
        pipe, rest = self._process.stdin.fileno(), memoryview(content)
        os.set_blocking(pipe, os.name != "posix")
        while rest:
            _wait([], [pipe], deadline)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(pipe, rest) :]

    def _read(self, count: int, deadline: float) -> bytes:
        """So many bytes from the process.

        Raises:
            TimeoutError: they do not come.
            EOFError: it has ended.
        """
        assert self._process.stdout is not None
        pipe, content = self._process.stdout.fileno(), bytearray()
        while len(content) < count:
            _wait([pipe], [], deadline)
            part = os.read(pipe, min(count - len(content), _MOST_READ_BYTES))
            if not part:
                raise EOFError
            content += part
        return bytes(content)

    def _ended(self) -> RuntimeUnavailableError:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").splitlines()
        reason = next((line.strip() for line in lines if "Error" in line), f"exit code {code}")
        remedy = "open it again" if code < 0 else f"export it again, or {_REMEDY}"
        return RuntimeUnavailableError(f"{self._folder}: node ended ({reason}): {remedy}")


def _wait(readable: list[int], writable: list[int], deadline: float) -> None:
    """Wait for a pipe, where the system can do so.

    Raises:
        TimeoutError: nothing happens before the deadline.
    """
    if os.name == "posix" and not any(select.select(readable, writable, [], max(0.0, deadline - time.monotonic()))):
        raise TimeoutError


def _end(process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, stderr):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()
