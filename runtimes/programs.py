"""Programs that are run to their end, or stopped with all that they started: compilers, emulators, browsers."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LONGEST_DETAIL = 160

_running: set[subprocess.Popen[bytes]] = set()


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
            return f"no answer in {self.timeout_s:g} s"
        if self.code < 0:
            return f"crashed: {signal.strsignal(-self.code)}"
        errors = [line for line in self.stderr.splitlines() if "error: " in line]  # a compiler's first one counts
        return last_line(errors[0] if errors else self.stderr or self.stdout) or f"exit code {self.code}"


def execute(command: Sequence[str], timeout_s: float, folder: Path | None = None) -> Outcome:
    """Run a program to its end, or stop it and all that it started."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C"}
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=null, stdout=pipe, stderr=pipe, start_new_session=True
        )
    except OSError as error:
        return Outcome(126, "", f"cannot be started: {error.strerror}", timeout_s)
    with process:
        _running.add(process)
        code: int | None = None
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
            code = process.returncode
        except subprocess.TimeoutExpired:
            _kill(process)
            stdout, stderr = process.communicate()
        finally:
            _running.discard(process)
    return Outcome(code, stdout.decode(errors="replace"), stderr.decode(errors="replace"), timeout_s)


def stop_running() -> None:
    """Stop every program that still runs."""
    for process in tuple(_running):
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
