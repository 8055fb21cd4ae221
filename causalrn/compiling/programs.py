"""Programs that are run to their end, or stopped with all that they started: compilers, emulators, browsers."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Container, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

_LONGEST_DETAIL = 160

_SHORTEST_S = 0.1

_running: dict[subprocess.Popen[bytes], int] = {}
"""By process the thread that waits for it."""
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


@dataclass(frozen=True)
class Outcome:
    """How a program ended: `code` is its exit status, None if it had to be stopped."""

    code: int | None
    stdout: str
    stderr: str
    timeout_s: float

    @property
    def reason(self) -> str:
        """Why it failed, in one line."""
        if self.code is None:
            return f"no answer in {self.timeout_s:.3g} s"
        if self.code < 0:
            return f"crashed: {signal.strsignal(-self.code)}"
        errors = [line for line in self.stderr.splitlines() if "error: " in line]  # a compiler's first one counts
        return last_line(errors[0] if errors else self.stderr or self.stdout) or f"exit code {self.code}"


def execute(
    command: Sequence[str], timeout_s: float, folder: Path | None = None, scratch: Path | None = None
) -> Outcome:
    """Run a program to its end, or stop it and all that it started: after so long, or at :func:`ending_at`.

    Args:
        folder: where it runs.
        scratch: where its temporary files go, which a compiler that is stopped leaves behind.
    """
    timeout_s = max(_SHORTEST_S, min(timeout_s, _deadline.get() - time.monotonic()))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C"}
    if scratch is not None:
        environment["TMPDIR"] = str(scratch)
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=null, stdout=pipe, stderr=pipe, start_new_session=True
        )
    except OSError as error:
        return Outcome(126, "", f"cannot be started: {error.strerror}", timeout_s)
    with process:
        _running[process] = threading.get_ident()
        code: int | None = None
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
            code = process.returncode
        except subprocess.TimeoutExpired:
            _kill(process)
            stdout, stderr = process.communicate()
        except BaseException:  # such as Ctrl-C, which reaches this process alone
            _kill(process)
            raise
        finally:
            _running.pop(process, None)
    return Outcome(code, stdout.decode(errors="replace"), stderr.decode(errors="replace"), timeout_s)


@contextlib.contextmanager
def ending_at(deadline: float) -> Iterator[None]:
    """Whatever this thread executes inside is stopped at a time of `time.monotonic`."""
    token = _deadline.set(min(deadline, _deadline.get()))
    try:
        yield
    finally:
        _deadline.reset(token)


def stop_running(threads: Container[int] | None = None) -> None:
    """Stop every program that still runs, or those that some threads wait for."""
    for process, thread in tuple(_running.items()):
        if threads is None or thread in threads:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Stop a program with its children, where the system has process groups."""
    with contextlib.suppress(OSError):  # it has just ended
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def last_line(text: str) -> str:
    """The last line that says something, without folders, addresses and most of its length."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    line = re.sub(r"\w+://\S+", "", lines[-1])
    line = re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^\s/\\:'\"]+[/\\])+", "", line)
    line = " ".join(line.split())
    return line if len(line) <= _LONGEST_DETAIL else line[: _LONGEST_DETAIL - 3] + "..."


def find_tool(*names: str) -> str | None:
    """The first of these programs that is there."""
    return next((found for name in names if (found := shutil.which(name))), None)
