"""The kernels of a C bundle: one per instruction set, plain C, ARM and Cortex-M emulated; and the programs in it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.native_spec import NativeSpec
from causalrn.compiling.processor import ARM_DOT_PRODUCT
from causalrn.errors import BundleError
from causalrn.runtimes.kernel_list import KERNEL_EQUALITIES, Kernel, KernelList, Program, WholeKernel
from causalrn.runtimes.native import builds
from causalrn.runtimes.native.builds import Build
from causalrn.runtimes.native.interface_check import InterfaceCheck
from causalrn.runtimes.native.library import ISAS
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.runtimes.session_options import SessionOptions
from causalrn.training.card import card_of

TITLES = {"portable": "portable", "avx2": "AVX2", "avx512": "AVX-512"}
PLAIN = "plain C"
_PLAIN_FLAGS = ("-O2", "-DCAUSALRN_NO_VECTORS")
_ONCE, _TWICE = "products and sums rounded once", "products and sums rounded twice"
_SEGMENT = 512  # rows of a pool that no second thread shares
_EXAMPLE_TOKENS, _EXAMPLE_PROMPT = 1024, "ab"


def list_native(bundle: Bundle, options: SessionOptions) -> KernelList:
    """All that a C bundle's source can be compiled into and run as here."""
    assert bundle.manifest.native is not None
    return _NativeKernels(bundle, bundle.manifest.native).listed()


@dataclass
class _NativeKernels:
    """What can be run of one bundle on this machine, and what has to be compiled for it."""

    bundle: Bundle
    native: NativeSpec
    missing: list[str] = field(default_factory=list)
    preparations: list[Callable[[], object]] = field(default_factory=list)

    def listed(self) -> KernelList:
        vectors = list(self._vector_kernels())
        kernels = [*vectors, self._plain_kernel()]
        here = Build(self.bundle, self.native, ("-O2",))
        built = WholeKernel("built with -O2", here.logits, self.native.cell_files, vectors[0].family)
        whole = [built, *self._arm_kernels()]
        header = self.native.header
        programs = [Program(header, partial(self._check_interfaces, kernels), (header,)), *self._programs(here)]
        return KernelList(
            kernels,
            whole,
            programs,
            tuple(self.missing),
            frozenset(KERNEL_EQUALITIES),
            _SEGMENT if self.bundle.manifest.state.has_pool else None,
            tuple(self.preparations),
        )

    def _kernel(self, name: str, isa: str, flags: tuple[str, ...] = (), *, few_prefills: bool = True) -> Kernel:
        opener = partial(self._open, isa, flags)
        cell, threads = self.native.cell_files, self.native.threads
        return Kernel(name, opener, cell, _family(isa), threads, few_prefills=few_prefills)

    def _vector_kernels(self) -> Iterator[Kernel]:
        """Those between which the library chooses, the best one first."""
        with NativeSession(self.bundle) as session:
            best = ISAS.index(session.isa)
        for isa in ISAS[best::-1]:
            yield self._kernel(TITLES[isa], isa, few_prefills=ISAS.index(isa) < best)
        here = "not compiled in, or this processor does not have it" if _is_x86() else "this processor is no x86"
        self.missing += [f"the kernel for {TITLES[isa]}: {here}" for isa in ISAS[best + 1 :]]

    def _plain_kernel(self) -> Kernel:
        """Without vectors, as compilers other than GCC and Clang see it, and small processors."""
        kernel = self._kernel(PLAIN, "portable", _PLAIN_FLAGS)
        self.preparations.append(lambda: kernel.open(1).close())
        return kernel

    def _open(self, isa: str, flags: tuple[str, ...], threads: int) -> NativeSession:
        session = NativeSession(self.bundle, threads=threads, isa=isa, flags=flags)
        if session.isa != isa:
            session.close()
            raise BundleError(f"{self.bundle.path}: causalrn_choose_isa gives {session.isa}, not {isa}: export again")
        return session

    def _arm_kernels(self) -> Iterator[WholeKernel]:
        compiler, emulator = (builds.ARM_COMPILER,), builds.arm_emulator()
        lacking = builds.missing_tools((builds.ARM_COMPILER, emulator[0]))
        why = f"needs {' and '.join(lacking)}" if lacking else builds.cannot_build(compiler, emulator)
        if why:
            self.missing.append(f"the kernel for ARM: {why}")
            return
        ways = {
            "ARM (emulated)": (("-O2",), ""),
            "ARM (reproducible)": (("-O1", "-DCAUSALRN_REPRODUCIBLE"), "portable"),
        }
        quantization = self.bundle.manifest.quantization
        if quantization is not None and quantization.scheme == "w8a8-dynamic":
            ways["ARM dot product (emulated)"] = (("-O2", ARM_DOT_PRODUCT), "")
        for name, (flags, like) in ways.items():
            build = Build(self.bundle, self.native, flags, compiler, emulator)
            self.preparations.append(build.compiled_object)
            yield WholeKernel(name, build.logits, self.native.cell_files, _family(like) if _is_x86() else "")

    def _check_interfaces(self, kernels: Sequence[Kernel]) -> tuple[bool, str]:
        """causalrn.h as programs use it, with every kernel."""
        ways = {title: (isa, ()) for isa, title in TITLES.items()} | {PLAIN: ("portable", _PLAIN_FLAGS)}
        for kernel in kernels:
            right, words = InterfaceCheck(self.bundle, self.native, *ways[kernel.name]).judge()
            if not right:
                return False, f"{kernel.name}: {words}"
        return True, f"{len(kernels)} kernels between guards"

    def _programs(self, here: Build) -> Iterator[Program]:
        self.preparations.append(here.compiled_object)
        if builds.SELFTEST in self.bundle.manifest.files and builds.GOLDEN_HEADER in self.bundle.manifest.files:
            yield Program(builds.SELFTEST, here.self_test, (builds.SELFTEST, builds.GOLDEN_HEADER))
        if builds.EXAMPLE in self.bundle.manifest.files:
            yield Program(builds.EXAMPLE, partial(_check_example, here), (builds.EXAMPLE,))
        if not all(name in self.bundle.manifest.files for name in builds.FIRMWARE):
            return
        if lacking := builds.missing_tools(builds.FIRMWARE_TOOLS):
            self.missing.append(f"the firmware for a Cortex-M7: needs {', '.join(lacking)}")
            return
        files = (*builds.FIRMWARE, builds.SELFTEST, builds.GOLDEN_HEADER, *self.native.cell_files)
        yield Program("Cortex-M7 (emulated)", partial(builds.run_firmware, self.bundle), files)


def _check_example(build: Build) -> tuple[bool, str]:
    """Whether example.c makes of a prompt what the session generates."""
    card, tokens = card_of(build.bundle), []
    alphabet = card.alphabet
    prompt = _EXAMPLE_PROMPT if alphabet else "0 0"
    ids = alphabet.prompt(prompt) if alphabet else [0, 0]
    with NativeSession(build.bundle) as session:
        room = min(session.capacity or _EXAMPLE_TOKENS, _EXAMPLE_TOKENS)
        if len(ids) > room:
            return True, f"capacity {room} leaves no room for its prompt"
        logits = session.prefill([ids])[0, -1]
        while (token := int(np.argmax(logits))) not in (alphabet.stop_ids if alphabet else ()):
            tokens.append(token)
            if session.position == room:
                break
            logits = session.step([token])[0]
    problem, printed = build.example(prompt)
    if problem:
        return False, problem
    expected = alphabet.decode(tokens) if alphabet else "".join(f"{token} " for token in tokens)
    if printed.removesuffix("\n") != expected:
        return False, "it prints another text than the session generates"
    return True, f"{len(tokens)} tokens after a prompt, as the session"


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def _family(isa: str) -> str:
    """Kernels that round in the same places: on x86 plain C and SSE do not fuse, elsewhere there is but one."""
    return _TWICE if _is_x86() and isa == "portable" else _ONCE
