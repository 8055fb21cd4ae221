"""A C bundle as programs: its source compiled for this processor, or for another one that is emulated, once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.bundle.native_spec import NativeSpec, renamed
from causalrn.compiling.c_compiler import compiled, find_compiler
from causalrn.compiling.programs import Outcome, execute, find_tool
from causalrn.errors import RuntimeUnavailableError
from causalrn.runtimes.snapshot import FloatArray, IntArray
from causalrn.training.card import card_of

SELFTEST, EXAMPLE, GOLDEN_HEADER = "selftest.c", "example.c", "golden.h"
ARM_COMPILER = "aarch64-linux-gnu-gcc"
ARM_EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")
"""Names of one program: systems have the one, the other or both."""
FIRMWARE = ("cortex_m.mk", "cortex_m.c", "cortex_m.ld")
FIRMWARE_TOOLS = ("arm-none-eabi-gcc", "make", "qemu-system-arm")
_TOKENS = "tokens.c"
_TIMEOUT_S = 300.0
_NO_ERROR_ALLOWED = """
#define golden_bounds no_error_allowed
static const float no_error_allowed[GOLDEN_STEPS] = {0.0f};
"""
"""Behind golden.h: a self-test that can fail fails with it."""


@dataclass(frozen=True)
class Build:
    """One way of compiling a bundle's source into programs.

    Attributes:
        flags: of the compiler.
        compiler: its command; empty takes this machine's.
        emulator: command that runs what it makes; empty runs it here.
    """

    bundle: Bundle
    native: NativeSpec
    flags: tuple[str, ...]
    compiler: tuple[str, ...] = ()
    emulator: tuple[str, ...] = ()

    @cached_property
    def _command(self) -> list[str]:
        return list(self.compiler) or find_compiler()

    @property
    def _flags(self) -> tuple[str, ...]:
        """The flags, with macros as the source calls them."""
        return tuple(renamed(flag, self.native.prefix) for flag in self.flags)

    def _sources(self) -> dict[str, bytes]:
        return {name: self.bundle.file(name).read_bytes() for name in self.native.sources}

    def compiled_object(self) -> Path:
        """causalrn.c alone, as a program's build compiles it.

        Raises:
            RuntimeUnavailableError: the compiler does not work, or refuses the source.
        """
        source = self.native.source
        return compiled(self._command, self._sources(), ("-std=c99", *self._flags, "-c", source), source, ".o")

    def program(self, name: str, *, golden: str = "") -> Path:
        """One of the bundle's programs, or tokens.c, linked with the source.

        Args:
            golden: what is put behind golden.h.

        Raises:
            RuntimeUnavailableError: as :meth:`compiled_object`.
        """
        own = (files("causalrn.runtimes.native") / _TOKENS).read_text(encoding="utf-8")
        ours = renamed(own, self.native.prefix).encode()
        text = ours if name == _TOKENS else self.bundle.file(name).read_bytes()
        sources = {name: text, "cell.o": self.compiled_object().read_bytes(), **self._sources()}
        if GOLDEN_HEADER in self.bundle.manifest.files:
            sources[GOLDEN_HEADER] = self.bundle.file(GOLDEN_HEADER).read_bytes() + golden.encode()
        linked = () if not self.emulator else ("-static",)
        arguments = ("-std=c99", *self._flags, name, "cell.o", *linked, "-lm")
        return compiled(self._command, sources, arguments, name, ".run")

    def run(self, program: Path, *arguments: str) -> Outcome:
        """Run a program in the bundle's folder."""
        return execute([*self.emulator, str(program), *arguments], _TIMEOUT_S, self.bundle.path.resolve())

    def self_test(self) -> tuple[bool, str]:
        """Whether selftest.c passes, and fails where no error at all is allowed."""
        result = self.run(self.program(SELFTEST))
        if result.code != 0 or not result.stdout.startswith("passed"):
            return False, result.stdout.strip() or result.reason
        if self.run(self.program(SELFTEST, golden=_NO_ERROR_ALLOWED)).code != 1:
            return False, "it passes whatever comes out"
        return True, result.stdout.strip().partition(", prefill")[0].removeprefix("passed: ")

    def example(self, prompt: str) -> tuple[str, str]:
        """What example.c makes of a prompt; or first why it failed."""
        result = self.run(self.program(EXAMPLE), prompt)
        return ("", result.stdout) if result.code == 0 else (result.reason, "")

    def logits(self, tokens: IntArray, at_once: int) -> FloatArray:
        """Logits [T, V] of tokens [T], taken so many at once.

        Raises:
            RuntimeUnavailableError: it cannot be compiled, or ends with an error.
        """
        with temporary_folder() as temporary:
            given, made = temporary / "tokens", temporary / "logits"
            given.write_bytes(tokens.astype(np.int32).tobytes())
            weights = str(self.bundle.path.resolve() / self.native.weights_name)
            result = self.run(self.program(_TOKENS), weights, str(given), str(made), str(at_once))
            if result.code != 0:
                raise RuntimeUnavailableError(f"{self.bundle.path}: its C source ends with an error: {result.reason}")
            return np.fromfile(made, np.float32).reshape(len(tokens), card_of(self.bundle).config.vocabulary)


def run_firmware(bundle: Bundle) -> tuple[bool, str]:
    """Build the self-test for a Cortex-M7 with the bundle's own rules, and run it emulated."""
    with temporary_folder() as temporary:
        place = temporary / "firmware"
        shutil.copytree(bundle.path, place)
        result = execute(["make", "-f", FIRMWARE[0], "run"], _TIMEOUT_S, place, place)
    lines = [line for line in result.stdout.splitlines() if ": largest error " in line]
    if result.code != 0 or not lines:
        return False, lines[-1] if lines else result.reason
    return lines[-1].startswith("passed"), lines[-1].partition(":")[2].strip()


def cannot_build(compiler: Sequence[str], emulator: Sequence[str]) -> str:
    """Why a compiler and an emulator give no programs that run; empty where they do."""
    source = b'#include <math.h>\n#include <stdio.h>\n#include <stdlib.h>\nint main(void) { return puts("") < 0; }\n'
    try:
        program = compiled(compiler, {"main.c": source}, ("-std=c99", "-static", "main.c", "-lm"), "C at all", ".run")
    except RuntimeUnavailableError as error:
        return str(error)
    result = execute([*emulator, str(program)], _TIMEOUT_S)
    return "" if result.code == 0 else f"{emulator[0]} cannot run it: {result.reason}"


def arm_emulator() -> tuple[str, ...]:
    """The command that runs programs for ARM, dot products too; the usual one where there is none."""
    name = next((name for name in ARM_EMULATORS if find_tool(name)), ARM_EMULATORS[0])
    return (name, "-cpu", "cortex-a76")


def missing_tools(names: Sequence[str]) -> list[str]:
    """Those of these programs that are not there."""
    return [name for name in names if find_tool(name) is None]
