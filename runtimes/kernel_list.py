"""What a bundle's results can be computed by: its kernels, and the programs in it. The level `kernels` runs them all.

A target's row of the table names the function that lists them; without one, the session itself is the only kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.targets import EQUALITIES, Target
from causalrn.runtimes.cell_session import CellSession
from causalrn.runtimes.opening import open_or_evaluate, target_of
from causalrn.runtimes.session_options import SessionOptions
from causalrn.runtimes.snapshot import FloatArray, IntArray

KERNEL_EQUALITIES = {
    "prefill": "tokens one by one, and in any prefill",
    "batch": "a sequence in a batch, and alone",
    "threads": "one thread, two, three, and as many as the machine has processors",
    "kernels": "all kernels of one family",
}
"""What can be equal bit for bit between calls and kernels on one machine."""


@dataclass(frozen=True)
class Kernel:
    """One way of computing all that a bundle computes.

    Attributes:
        name: e.g. "AVX2", "step.onnx" or "without SIMD".
        open: a session that computes with it alone, with so many threads.
        files: of the bundle, that it executes.
        family: kernels of one family give the same bits; empty where nothing is claimed.
        thread_files: executed beside them by more than one thread.
        few_prefills: whether some prefills are enough: another kernel shares their code, and takes all of them.
    """

    name: str
    open: Callable[[int], CellSession]
    files: tuple[str, ...] = ()
    family: str = ""
    thread_files: tuple[str, ...] = ()
    few_prefills: bool = False


@dataclass(frozen=True)
class WholeKernel:
    """A kernel that takes whole sequences only: a program, which may run emulated.

    Attributes:
        name, files, family: as of a :class:`Kernel`.
        logits: gives float32 [T, V] of tokens [T], taken so many at once.
    """

    name: str
    logits: Callable[[IntArray, int], FloatArray]
    files: tuple[str, ...] = ()
    family: str = ""


@dataclass(frozen=True)
class Program:
    """Something of a bundle that is run to its end and judges itself, or is judged by what it gives.

    Attributes:
        name: e.g. "selftest.c".
        run: gives whether it is right, and a few words.
        files: of the bundle, that it executes.
    """

    name: str
    run: Callable[[], tuple[bool, str]]
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class KernelList:
    """All that a bundle has, and what of it cannot run here.

    Attributes:
        kernels: the default one first.
        whole: kernels that take whole sequences only.
        programs: in the order in which they are run.
        missing: what cannot run on this machine, with the reason, in words.
        equalities: keys of :data:`KERNEL_EQUALITIES` that are claimed.
        shared_rows: rows of a state beyond which threads share work: no shorter run says anything of them; None where
            they never do.
        preparations: what kernels and programs would wait for, such as compilers: run beside other levels, in this
            order; what fails there fails again where it is needed.
    """

    kernels: Sequence[Kernel]
    whole: Sequence[WholeKernel] = ()
    programs: Sequence[Program] = ()
    missing: Sequence[str] = ()
    equalities: frozenset[str] = frozenset()
    shared_rows: int | None = None
    preparations: Sequence[Callable[[], object]] = ()


def list_kernels(bundle: Bundle, options: SessionOptions, runtime: str | None = None) -> KernelList:
    """The kernels of a bundle, as its target's row lists them: the default runtime's, or another one's.

    Raises:
        RuntimeUnavailableError, BundleError: they cannot be opened here.
    """
    row = target_of(bundle, runtime)
    if row.kernels is None:
        return _only_session(bundle, options, row)
    lister: Callable[[Bundle, SessionOptions], KernelList] = row.load(row.kernels)
    return lister(bundle, options)


def _only_session(bundle: Bundle, options: SessionOptions, row: Target) -> KernelList:
    """The session as the kernel: it may use any file of the bundle, so that none is said to be executed."""

    def open_kernel(threads: int) -> CellSession:
        session = open_or_evaluate(bundle, options, row.runtime)
        assert isinstance(session, CellSession)
        return session

    assert set(row.equalities) <= set(EQUALITIES)
    return KernelList([Kernel(row.runtime, open_kernel)])
