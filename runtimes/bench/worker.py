"""An object that lives in a process of its own: what one candidate does to memory, threads and caches is its own.

The process ends with the worker, or with this process. Ctrl-C reaches this process only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from causalrn.errors import CausalRNError, RuntimeUnavailableError

_GRACE_S, _END_S = 2.0, 5.0
_PR_SET_PDEATHSIG = 1


class Worker:
    """Calls methods of an object in another process.

    Args:
        factory: makes the object there; it has to be picklable, and so have arguments and results.

    Raises:
        CausalRNError: what the factory raised; other exceptions come as RuntimeUnavailableError.
    """

    def __init__(self, factory: Callable[[], Any]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would carry this process's threads and libraries along
        self._connection, theirs = context.Pipe()
        self._owes_reply = self._started = False
        self._process = context.Process(target=_serve, args=(theirs, factory), daemon=True)
        with _without_ctrl_c():
            self._process.start()
        theirs.close()
        try:
            self._result()
            self._started = True
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method gives.

        Raises:
            CausalRNError: as for the constructor; also where the process has died, or a call before was interrupted.
        """
        if self._owes_reply:
            raise RuntimeUnavailableError("interrupted in the middle of a call")
        self._owes_reply = True
        try:
            self._connection.send((method, arguments))
        except OSError:
            raise self._death() from None
        return self._result()

    def _result(self) -> Any:
        try:
            fine, value = self._connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        self._owes_reply = False
        if not fine:
            raise value
        return value

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a call: not while one is under way, nor after one that was interrupted."""
        return not self._owes_reply

    def _death(self) -> RuntimeUnavailableError:
        self._owes_reply = False
        self._process.join(_END_S)
        code = self._process.exitcode
        if code is not None and code < 0:
            return RuntimeUnavailableError(f"its process was killed (signal {-code}), perhaps for want of memory")
        remedy = '; a script that starts it needs `if __name__ == "__main__":`' if not self._started else ""
        return RuntimeUnavailableError(f"its process died (exit code {code}){remedy}")

    def close(self) -> None:
        """End the process: at once where it is idle; a call that is under way is cut off."""
        self._connection.close()
        if self.is_idle:
            self._process.join(_GRACE_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_END_S)


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes that start inside never see Ctrl-C; here it waits for the end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Have Linux kill this process when its parent dies, even in the middle of a call (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve(connection: Connection, factory: Callable[[], Any]) -> None:
    """The other process: make the object, then answer calls until nobody is there any more."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a compiler that runs for us ends, its folder goes
    served = None

    def answer(action: Callable[[], Any]) -> None:
        try:
            reply = True, action()
        except Exception as error:
            reply = False, _portable(error)
        connection.send(reply)

    def make() -> None:
        nonlocal served
        served = factory()
        gc.disable()  # it would strike in the middle of some step; there are no cycles to speak of

    with contextlib.suppress(EOFError, OSError):
        answer(make)
        while served is not None:
            method, arguments = connection.recv()
            answer(lambda: getattr(served, method)(*arguments))  # noqa: B023 - it is called at once
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends already, and what it holds is being tidied


def _portable(error: Exception) -> CausalRNError:
    """An error that can be sent: ours as it is, others by their text."""
    if isinstance(error, CausalRNError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return RuntimeUnavailableError(f"needs {error.name}, which is not installed")
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return RuntimeUnavailableError("not enough memory: ask for fewer sequences, or less depth")
    reason = " ".join(str(error).split())
    return RuntimeUnavailableError(f"{type(error).__name__}: {reason}" if reason else type(error).__name__)
