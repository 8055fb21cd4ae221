"""Compiling a bundle's C to WebAssembly with clang: once with SIMD, and once for browsers that have none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.errors import RuntimeUnavailableError

CLANG_VARIABLE = "CLANG"
CLANGS = ("clang", *(f"clang-{version}" for version in range(24, 12, -1)))
"""Names under which the compiler may be installed."""
WASM_SOURCE = "causalrn_wasm.c"
MODULES = {"simd": "engine_simd.wasm", "plain": "engine_plain.wasm"}
"""The files that are built, by role in the manifest."""

_FLAGS = ("--target=wasm32", "-mcpu=mvp", "-std=c99", "-ffreestanding", "-nostdlib", "-fno-math-errno")
_FLAGS_OF = {"simd": ("-O3", "-msimd128"), "plain": ("-O2",)}  # at -O3 lanes are unrolled, and it gets too large
_LINK = ("-Wl,--no-entry", "-Wl,--strip-all", "-Wl,--stack-first", "-Wl,--export=__heap_base")
_TIMEOUT_S = 300.0
_REMEDY = "install clang and lld (Debian, Ubuntu: apt-get install clang lld), or set CLANG"


def find_clang() -> str:
    """The compiler's path: $CLANG, clang, or the newest clang-N.

    Raises:
        RuntimeUnavailableError: there is none.
    """
    chosen = os.environ.get(CLANG_VARIABLE)
    found = next((path for name in ([chosen] if chosen else CLANGS) if (path := shutil.which(name))), None)
    if found is None:
        what = f"CLANG={chosen} is not there" if chosen else "no clang was found"
        raise RuntimeUnavailableError(f"{what}: the web target is compiled with it: {_REMEDY}")
    return str(Path(found).absolute())


def build_modules(folder: Path) -> None:
    """Compile the source that lies in a bundle's folder into :data:`MODULES` beside it.

    Raises:
        RuntimeUnavailableError: there is no clang, or none that can compile and link for wasm32.
    """
    clang = find_clang()
    with temporary_folder() as temporary:  # clang leaves files there when it is stopped
        for role, name in MODULES.items():
            _build(clang, role, name, folder, {**os.environ, "LC_ALL": "C", "TMPDIR": str(temporary)})


def _build(clang: str, role: str, name: str, folder: Path, environment: dict[str, str]) -> None:
    command = [clang, *_FLAGS, *_FLAGS_OF[role], *_LINK, WASM_SOURCE, "-o", name]
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeUnavailableError(f"{clang} does not work ({error}): {_REMEDY}") from None
    if result.returncode != 0:
        errors = [line for line in result.stderr.splitlines() if "error" in line] or [f"exit {result.returncode}"]
        raise RuntimeUnavailableError(f"{clang} cannot compile for WebAssembly ({errors[0].strip()}): {_REMEDY}")
    (folder / name).chmod(0o644)  # a linker makes programs executable
