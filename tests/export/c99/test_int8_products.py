"""int8 products of every processor that has instructions for them, emulated: the bits of plain C."""

import dataclasses
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from causalrn.bundle.bundle_folder import Bundle
from causalrn.compiling.processor import ARM_DOT_PRODUCT
from causalrn.runtimes.native.builds import ARM_COMPILER, arm_emulator
from tests.builders import ROOT, random_model
from tests.c_tools import CLANG, c_bundle, compile_c, logits_of, needs

PRODUCTS = ROOT / "tests" / "export" / "c99" / "products.c"
STEPPER = ROOT / "tests" / "export" / "c99" / "step_tokens.c"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-O1")
TOKENS = np.random.default_rng(0).integers(0, 29, 24)
RISCV_COMPILER, RISCV_EMULATOR = "riscv64-linux-gnu-gcc", "qemu-riscv64"
CORES = ("cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55")
PACKAGES = (
    "gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, gcc-riscv64-linux-gnu, libc6-dev-riscv64-cross, clang, qemu-user"
)


@dataclass(frozen=True)
class Processor:
    """What compiles for it, and runs that, in one way or more; its int8 products in compiler.h; a mistake in them."""

    compiler: tuple[str, ...]
    emulators: tuple[tuple[str, ...], ...]
    int8_by: int
    mistake: tuple[str, str]

    @property
    def needed(self) -> set[str]:
        """The programs."""
        return {self.compiler[0], self.emulators[0][0], RISCV_COMPILER if self.compiler[0] == CLANG else ARM_COMPILER}

    def program(self, source: Path, bundle: Bundle, output: Path, *flags: str) -> Path:
        """Compiled by GCC; or compiled by clang and linked by GCC, which knows the libraries."""
        command = [*self.compiler, *STRICT, *flags]
        if self.compiler[0] != CLANG:
            return compile_c([*command, "-static"], sources(source, bundle), bundle, output)
        objects = []
        for number, path in enumerate(sources(source, bundle)):
            objects.append(compile_c([*command, "-c"], [path], bundle, output.with_suffix(f".{number}.o")))
        return compile_c([RISCV_COMPILER, "-static"], objects, bundle, output)


def arm(*flags: str, cpu: str, mistake: tuple[str, str]) -> Processor:
    return Processor((ARM_COMPILER, *flags), ((arm_emulator()[0], "-cpu", cpu),), 1, mistake)


def riscv(*widths: int) -> Processor:
    headers = f"/usr/{RISCV_COMPILER.removesuffix('-gcc')}/include"
    flags = ("--target=riscv64-linux-gnu", "-march=rv64gcv", "-isystem", headers, "-Wno-unused-command-line-argument")
    emulators = tuple((RISCV_EMULATOR, "-cpu", f"rv64,v=true,vext_spec=v1.0,vlen={bits}") for bits in widths)
    return Processor((CLANG or "clang", *flags), emulators, 4, ("two, in[k + 3]", "two, in[k + 2]"))


PROCESSORS = {
    "NEON": arm(cpu="cortex-a53", mistake=("vmull_high_s8(weights, all)", "vmull_high_s8(all, all)")),
    "dot product": arm(ARM_DOT_PRODUCT, cpu="cortex-a76", mistake=("vdotq_s32(c.v[i]", "vdotq_s32(c.v[0]")),
    "RISC-V vectors": riscv(128, 512),
}
each_processor = pytest.mark.parametrize(
    "processor",
    [
        pytest.param(processor, id=name, marks=needs(*processor.needed, packages=PACKAGES))
        for name, processor in PROCESSORS.items()
    ],
)
needs_firmware = needs(
    "arm-none-eabi-gcc", "qemu-system-arm", "make", packages="gcc-arm-none-eabi, qemu-system-arm, make"
)


def sources(source: Path, bundle: Bundle) -> list[Path]:
    """products.c includes the kernel, to call what is static there."""
    return [source] if source == PRODUCTS else [source, bundle.path / "causalrn.c"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    """Widths that are no multiples of 16."""
    model = random_model(embedding=20, hidden=44, vocabulary=29, blocks=2)
    return c_bundle(model, tmp_path_factory.mktemp("c"), scheme="w8a8-dynamic")


@pytest.fixture(scope="module")
def firmware(tmp_path_factory) -> Path:
    model = random_model(embedding=20, hidden=44, vocabulary=29, blocks=2)
    options = {"scheme": "w8a8-dynamic", "weights": "inline", "profile": "cortex-m"}
    folder = c_bundle(model, tmp_path_factory.mktemp("firmware"), **options).path
    shutil.copy(PRODUCTS, folder)
    (folder / "golden.h").touch()  # the rules name it, and products.c needs none
    return folder


def run_products(processor: Processor, bundle: Bundle, folder: Path) -> set[str]:
    program = processor.program(PRODUCTS, bundle, folder / "products")
    commands = ([*emulator, program] for emulator in processor.emulators)
    return {subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands}


def run_firmware(core: str, folder: Path, build: Path) -> str:
    command = ["make", "--no-print-directory", "-f", "cortex_m.mk", f"CORE={core}"]
    command += ["SOURCES=cortex_m.c products.c", "CFLAGS=-O1 -Werror"]
    result = subprocess.run(
        [*command, f"BUILD={build}", "run"], cwd=folder, capture_output=True, text=True, check=False
    )
    return result.stdout.splitlines()[-1].partition(":")[0] if result.stdout else result.stderr


@pytest.mark.cases(3)
@each_processor
def test_products_are_exact(bundle, tmp_path, processor):
    """Panels of all widths, rows alone and together, zeros and the largest values."""
    assert run_products(processor, bundle, tmp_path) == {f"int8 by {processor.int8_by}, 0 wrong\n"}


@pytest.mark.cases(1)
@each_processor
def test_mistake_in_products_is_noticed(bundle, tmp_path, processor):
    text = (bundle.path / "causalrn.c").read_text()
    assert text.count(processor.mistake[0]) == 1
    shutil.copytree(bundle.path, tmp_path / "wrong")
    (tmp_path / "wrong" / "causalrn.c").write_text(text.replace(*processor.mistake))
    outputs = run_products(processor, dataclasses.replace(bundle, path=tmp_path / "wrong"), tmp_path)
    assert not any(words.endswith(", 0 wrong\n") for words in outputs)


@each_processor
def test_model_of_odd_widths_has_the_bits_of_plain_products(bundle, tmp_path, processor):
    """Floats are computed as before: everything else is the same code."""
    outputs = set()
    for number, flags in enumerate(((), ("-DCAUSALRN_PLAIN_INT8",))):
        program = processor.program(STEPPER, bundle, tmp_path / f"stepper{number}", "-O0", *flags)
        for emulator in processor.emulators:
            outputs.add(logits_of([*emulator, program], TOKENS, bundle).tobytes())
    assert len(outputs) == 1


@pytest.mark.cases(2)
@needs_firmware
@pytest.mark.parametrize("core", CORES)
def test_products_of_a_cortex_m_are_exact(firmware, tmp_path, core):
    assert run_firmware(core, firmware, tmp_path) == "passed"


@pytest.mark.cases(1)
@needs_firmware
@pytest.mark.parametrize(
    ("core", "mistake"),
    [
        ("cortex-m4", ("sxtb16 %0, %1, ror #8", "sxtb16 %0, %1")),
        ("cortex-m55", ("p3 = vaddq_n_u32(p0, 12)", "p3 = p2")),
    ],
)
def test_mistake_in_products_of_a_cortex_m_is_noticed(firmware, tmp_path, core, mistake):
    shutil.copytree(firmware, tmp_path / "wrong")
    text = (firmware / "causalrn.c").read_text()
    assert text.count(mistake[0]) == 1
    (tmp_path / "wrong" / "causalrn.c").write_text(text.replace(*mistake))
    assert run_firmware(core, tmp_path / "wrong", tmp_path) == "failed"
