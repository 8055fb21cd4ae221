"""What the C source takes on small processors: flash, memory and instructions, as docs/footprint.md shows it. Run it:

    python benchmarks/footprint.py --json docs/footprint.json [--only NAME ...]

For linear models of the sizes tiny and paper (untrained: their values change nothing of this), in float32 and as
w8a8-dynamic, with this processor's int8 products and with those of plain C. Everything runs emulated, so there are no
times: a plugin of QEMU, compiled here, counts the instructions of eight steps. Both ways of w8a8-dynamic have to give
the same logits, bit for bit. It needs gcc, make, clang and the packages gcc-arm-none-eabi, gcc-aarch64-linux-gnu,
gcc-riscv64-linux-gnu, gcc-riscv64-unknown-elf, picolibc-riscv64-unknown-elf, qemu-system-arm, qemu-system-misc and
qemu-user, and takes a few minutes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from models import unit_gain_model
from reporting import write_json

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.export.c99.c99_exporter import COptions, export_c
from causalrn.model.config import CausalRNConfig
from causalrn.runtimes.bench.cost import macs_per_token
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import load_checkpoint, save_checkpoint

HERE = Path(__file__).parent
PROGRAM, PLUGIN = "footprint.c", "count_instructions.c"
SIZES = {"tiny": (64, 4, 34), "paper": (192, 12, 64)}
"""E = H, blocks, positions."""
STEPS = 8  # as in footprint.c
FLAGS = ("-O3", "-fno-math-errno")
PLAIN = ("-DCAUSALRN_PLAIN_INT8",)
FLOAT32, INT8 = "float32", "w8a8-dynamic"


class TooLargeError(Exception):
    """A model does not fit into the memories of a board."""


@dataclass(frozen=True)
class Target:
    """A processor that is emulated.

    Attributes:
        name: of the processor.
        int8_by: whose instructions its int8 products use; "" where there are none.
        compiler: its command; of firmware for a Cortex-M, which cortex_m.mk builds, the value of CORE.
        emulator: its command, in front of the program; of such firmware the program.
        linker: flags that belong to programs, and the command that links them where it is another one.
    """

    name: str
    int8_by: str
    compiler: tuple[str, ...]
    emulator: tuple[str, ...]
    linker: tuple[str, ...] = ()
    link_with: str = ""

    @property
    def is_firmware(self) -> bool:
        """Whether it runs without a system."""
        return self.emulator[0].startswith("qemu-system")

    @property
    def is_cortex_m(self) -> bool:
        """Whether cortex_m.mk builds it."""
        return self.compiler[0].startswith("cortex-m")

    @property
    def tool_prefix(self) -> str:
        """What the names of its binutils begin with."""
        return "arm-none-eabi-" if self.is_cortex_m else (self.link_with or self.compiler[0]).removesuffix("gcc")


def cortex_m(number: str, int8_by: str) -> Target:
    """Firmware."""
    return Target(f"Cortex-M{number.upper()}", int8_by, (f"cortex-m{number.rstrip('f')}",), ("qemu-system-arm",))


RISCV32 = ("riscv64-unknown-elf-gcc", "-march=rv32imf", "-mabi=ilp32f", "--specs=picolibc.specs")
RISCV32_MEMORY = "__flash=0x80000000,__flash_size=16M,__ram=0x81000000,__ram_size=16M,__stack_size=16K"
RISCV32_LINKER = (
    "--oslib=semihost",
    "--crt0=semihost",
    *(f"-Wl,--defsym={symbol}" for symbol in RISCV32_MEMORY.split(",")),
)
RISCV32_BOARD = ("-M", "virt", "-bios", "none", "-display", "none", "-monitor", "none", "-serial", "none")
SEMIHOSTING = ("-chardev", "stdio,id=out", "-semihosting-config", "enable=on,chardev=out")
RISCV64 = ("clang", "--target=riscv64-linux-gnu", "-march=rv64gcv", "-isystem", "/usr/riscv64-linux-gnu/include")
ARM64 = "aarch64-linux-gnu-gcc"
TARGETS = (
    cortex_m("4f", "DSP"),
    cortex_m("7", "DSP"),
    cortex_m("33", "DSP"),
    cortex_m("55", "Helium"),
    Target(
        "RV32IMF",
        "",
        RISCV32,
        ("qemu-system-riscv32", *RISCV32_BOARD, *SEMIHOSTING, "-kernel"),
        RISCV32_LINKER,
    ),
    Target(
        "RV64GCV, 128 bits",
        "vectors",
        RISCV64,
        ("qemu-riscv64", "-cpu", "rv64,v=true,vext_spec=v1.0,vlen=128"),
        ("-static",),
        "riscv64-linux-gnu-gcc",
    ),
    Target("Cortex-A53", "NEON", (ARM64,), ("qemu-aarch64", "-cpu", "cortex-a53"), ("-static",)),
    Target(
        "Cortex-A76",
        "dot product",
        (ARM64, "-march=armv8.2-a+dotprod"),
        ("qemu-aarch64", "-cpu", "cortex-a76"),
        ("-static",),
    ),
)


@dataclass(frozen=True)
class Row:
    """What one model takes on one processor.

    Attributes:
        int8_by: whose instructions multiply int8; "plain C" and "" in float32.
        flash_bytes: code, constants and weights; of a Cortex-M and of RV32IMF the whole firmware.
        memory_bytes: session and weights structures, state and working memory.
        stack_bytes: that a step used.
        instructions_per_token: executed.
        logits_hash: of the logits, in hexadecimal.
        reason: why there are no figures; "" where there are.
    """

    processor: str
    model: str
    scheme: str
    int8_by: str
    weights_bytes: int
    flash_bytes: int | None = None
    memory_bytes: int | None = None
    stack_bytes: int | None = None
    instructions_per_token: int | None = None
    logits_hash: str = ""
    reason: str = ""


def run(command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Raises:
        TooLargeError: it is a linker, and the program does not fit.
        SystemExit: it fails otherwise.
    """
    words = list(map(str, command))
    result = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    if result.returncode != 0:
        if "overflowed by" in result.stderr or "will not fit in region" in result.stderr:
            raise TooLargeError
        raise SystemExit(f"{' '.join(words)}\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result


def config_of(size: str) -> CausalRNConfig:
    """A linear model."""
    width, blocks, capacity = SIZES[size]
    return CausalRNConfig(29, width, width, blocks, capacity, readout="linear")


def make_bundle(size: str, scheme: str, folder: Path) -> Bundle:
    """C source with inline weights, one row at a time."""
    config = config_of(size)
    save_checkpoint(folder / "run", unit_gain_model(config), ModelCard(config), {})
    (place := folder / "bundle").mkdir()
    options = COptions(scheme=scheme, weights="inline", profile="cortex-m")
    bundle = seal_bundle(place, export_c(load_checkpoint(folder / "run"), place, options))
    shutil.copy(HERE / PROGRAM, place)
    (place / "golden.h").touch()  # the rules name it; the self-test that needs it is not compiled
    return bundle


def make_firmware(target: Target, folder: Path, flags: Sequence[str], *goals: str) -> subprocess.CompletedProcess[str]:
    """The rules of the bundle for a Cortex-M, with the program here in the place of the self-test."""
    words = [f"CORE={target.compiler[0]}", f"SOURCES=cortex_m.c {PROGRAM} causalrn.c"]
    return run(["make", "-f", "cortex_m.mk", *words, f"CFLAGS={' '.join((*FLAGS, *flags))}", *goals], folder)


def build(target: Target, folder: Path, flags: Sequence[str]) -> Path:
    """The program."""
    if target.is_cortex_m:
        make_firmware(target, folder, flags, "-B")
        return folder / "build" / f"{target.compiler[0]}.elf"
    command = [*target.compiler, "-std=c99", "-Wall", "-Wextra", "-ffunction-sections", *FLAGS, *flags, "-c"]
    for name in (PROGRAM, "causalrn.c"):
        run([*command, name, "-o", f"{name}.o"], folder)
    linker = [target.link_with] if target.link_with else target.compiler
    run([*linker, *target.linker, f"{PROGRAM}.o", "causalrn.c.o", "-lm", "-o", "program"], folder)
    return folder / "program"


def flash_of(target: Target, program: Path, weights_bytes: int) -> int:
    """Code, constants and what variables begin with: of firmware all of it, else of causalrn.c, and the weights."""
    measured = program if target.is_firmware else program.with_name("causalrn.c.o")
    text, data = run([f"{target.tool_prefix}size", measured], program.parent).stdout.splitlines()[-1].split()[:2]
    return int(text) + int(data) + (0 if target.is_firmware else weights_bytes)


def run_counted(
    target: Target, program: Path, flags: Sequence[str], folder: Path, plugin: Path
) -> tuple[list[int], int]:
    """The numbers that a program prints, and the instructions of a step."""
    symbols = run([f"{target.tool_prefix}nm", program], folder).stdout
    option = f"{plugin},mark=0x{next(line.split()[0] for line in symbols.splitlines() if line.endswith(' mark'))}"
    if target.is_cortex_m:
        result = make_firmware(target, folder, flags, f"QEMU_OPTIONS=-plugin {option}", "run")
    else:
        result = run([target.emulator[0], "-plugin", option, *target.emulator[1:], program], folder)
    before, after = (int(line.split()[1]) for line in result.stderr.splitlines() if line.startswith("executed "))
    line = next(line for line in result.stdout.splitlines() if re.fullmatch(r"([0-9a-f]{8} ?){4}", line))
    *numbers, code = (int(word, 16) for word in line.split())
    if code != 0:
        raise SystemExit(f"{target.name}: the program ends with {code}")
    return numbers, (after - before) // STEPS


def rows_of(target: Target, size: str, scheme: str, bundle: Bundle, plugin: Path) -> Iterator[Row]:
    """The ways of computing a model on a processor, plain C first."""
    assert bundle.manifest.native is not None
    weights_bytes, folder = bundle.manifest.native.weights_bytes, bundle.path
    ways: dict[str, Sequence[str]] = {"": ()} if scheme == FLOAT32 else {"plain C": PLAIN}
    if scheme == INT8 and target.int8_by:
        ways[target.int8_by] = ()
    for int8_by, flags in ways.items():
        row = Row(target.name, size, scheme, int8_by, weights_bytes)
        try:
            program = build(target, folder, flags)
        except TooLargeError:
            yield replace(row, reason="larger than the flash of the board")
            continue
        (logits_hash, memory_bytes, stack_bytes), instructions = run_counted(target, program, flags, folder, plugin)
        yield replace(
            row,
            flash_bytes=flash_of(target, program, weights_bytes),
            memory_bytes=memory_bytes,
            stack_bytes=stack_bytes,
            instructions_per_token=instructions,
            logits_hash=f"{logits_hash:08x}",
        )


def check_bits(rows: Sequence[Row]) -> None:
    """Both ways of int8 have to give the same logits on a processor.

    Raises:
        SystemExit: they do not.
    """
    hashes: dict[tuple[str, str, str], set[str]] = {}
    for row in rows:
        hashes.setdefault((row.processor, row.model, row.scheme), set()).add(row.logits_hash)
    if wrong := [key for key, found in hashes.items() if len(found) > 1]:
        raise SystemExit(f"int8 products differ from those of plain C: {wrong}")


def tool_versions(targets: Sequence[Target]) -> list[str]:
    """The first line of what compilers and emulators say of themselves."""
    compilers = ["arm-none-eabi-gcc" if target.is_cortex_m else target.compiler[0] for target in targets]
    tools = dict.fromkeys([*compilers, *(target.emulator[0] for target in targets)])
    return [f"{tool}: {run([tool, '--version'], HERE).stdout.splitlines()[0]}" for tool in tools]


def markdown(rows: Sequence[Row], size: str) -> Iterator[str]:
    """The table of one model, for docs/footprint.md."""
    yield "| processor | weights | int8 products by | flash | memory | stack | instructions per token | of plain C |"
    yield "|---|---|---|---|---|---|---|---|"
    plain: dict[str, int | None] = {row.processor: row.instructions_per_token for row in rows if is_plain(row, size)}
    for row in rows:
        if row.model != size:
            continue
        head = f"| {row.processor} | {row.scheme} | {row.int8_by}"
        if row.reason:
            yield f"{head} | {row.reason} | | | | |"
            continue
        beside = plain.get(row.processor)
        share = f"{row.instructions_per_token / beside:.2f}" if beside and row.scheme == INT8 else ""
        figures = (row.flash_bytes, row.memory_bytes, row.stack_bytes, row.instructions_per_token)
        yield f"{head} | {' | '.join(f'{figure:,}' for figure in figures)} | {share} |"


def is_plain(row: Row, size: str) -> bool:
    """Whether it is what int8 products are compared with."""
    return row.model == size and row.int8_by == "plain C"


def measure_all(targets: Sequence[Target], place: Path) -> list[Row]:
    """Every model on every processor."""
    plugin = place / "plugin.so"
    run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", HERE / PLUGIN, "-o", plugin], place)
    rows: list[Row] = []
    bundles = {}
    for size in SIZES:
        for scheme in (FLOAT32, INT8):
            (folder := place / size / scheme).mkdir(parents=True)
            bundles[size, scheme] = make_bundle(size, scheme, folder)
    for target in targets:
        for (size, scheme), bundle in bundles.items():
            for row in rows_of(target, size, scheme, bundle, plugin):
                rows.append(row)
                print(row, flush=True)
    return rows


def main() -> None:
    """Measure, check and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", choices=[target.name for target in TARGETS], metavar="NAME")
    options = parser.parse_args()
    targets = [target for target in TARGETS if not options.only or target.name in options.only]
    with tempfile.TemporaryDirectory() as place:
        rows = measure_all(targets, Path(place).resolve())
    check_bits(rows)
    for size, (width, blocks, capacity) in SIZES.items():
        macs = f"{macs_per_token(config_of(size)):,} multiply-accumulates per token"
        print(f"\n{size}: E = H = {width}, {blocks} blocks, {capacity} positions; {macs}\n")
        print("\n".join(markdown(rows, size)))
    data = {"benchmark": "footprint", "flags": FLAGS, "steps": STEPS, "tools": tool_versions(targets)}
    write_json(options.json, {**data, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
