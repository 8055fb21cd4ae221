"""What `doctor` tries with programs: compilers, emulators, a browser, the driver. How they end is the result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from causalrn.bundle.disk.leftovers import temporary_folder
from causalrn.cli.doctor_probe import Probe
from causalrn.compiling.programs import Outcome, execute, find_tool, last_line
from causalrn.errors import RuntimeUnavailableError
from causalrn.export.web.wasm_builder import find_clang

TOOL_TIMEOUT_S = 15.0

_C_PROGRAM = r"""
#include <stdio.h>
#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif
int main(int count, char **words) {
  float half[] = {[0] = 0.5f * (float)count};
  (void)words;
  return half[0] != 0.5f || puts("compiled and ran C99, " COMPILER) < 0;
}
"""

_VECTOR_PROGRAM = r"""
#include <stdio.h>
int main(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) printf("AVX-512, ");
  if (__builtin_cpu_supports("avx512vnni")) printf("AVX-512 VNNI, ");
  if (__builtin_cpu_supports("avx2")) printf("AVX2, ");
  puts(__builtin_cpu_supports("sse2") ? "SSE2" : "none: scalar C only");
#elif defined(__ARM_NEON)
  puts("NEON");
#else
  puts("none known: portable C only");
#endif
  return 0;
}
"""

# A Cortex-M starts with its stack pointer and reset handler at address 0; semihosting prints (4) and exits (0x18).
_CORTEX_M_PROGRAM = r"""
static void call_host(int operation, const void *argument) {
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}
void start(void) {
  call_host(0x04, "compiled, ran emulated on a Cortex-M7\n");
  call_host(0x18, (const void *)0x20026);
  for (;;) {}
}
__attribute__((section(".vectors"), used)) static const void *const vectors[2] = {(void *)0x20008000, (void *)start};
"""

_CORTEX_M_FLAGS = ["-mcpu=cortex-m7", "-mthumb", "-ffreestanding", "-nostdlib", "-Wl,--section-start=.vectors=0"]
_CORTEX_M_FLAGS += ["-Wl,-Ttext=0x100", "-Wl,-estart"]
_CORTEX_M_EMULATOR = ["-M", "mps2-an500", "-display", "none", "-monitor", "none", "-serial", "none"]
_CORTEX_M_EMULATOR += ["-chardev", "stdio,id=out", "-semihosting-config", "enable=on,chardev=out", "-kernel"]

_WASM_PROGRAM = '__attribute__((export_name("add"))) int add(int a, int b) { return a + b; }\n'
_WASM_FLAGS = ["--target=wasm32", "-O2", "-msimd128", "-ffreestanding", "-nostdlib", "-Wl,--no-entry"]

# Modules of bytes: add(i32, i32), and one function with the SIMD instructions i8x16.splat and i8x16.popcnt.
_NODE_PROGRAM = """
const add = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 127, 127, 1, 127, 3, 2, 1, 0, 7, 7, 1, 3, 97,
  100, 100, 0, 0, 10, 9, 1, 7, 0, 32, 0, 32, 1, 106, 11]);
const simd = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0,
  253, 15, 253, 98, 11]);
const sum = new WebAssembly.Instance(new WebAssembly.Module(add)).exports.add(40, 2);
if (sum !== 42) throw new Error("40 + 2 is " + sum);
console.log(`ran WebAssembly ${WebAssembly.validate(simd) ? "with" : "without"} SIMD, node ${process.versions.node}`);
"""

_PAGE = "data:text/html,<script>document.write('answer ' + 6 * 7 + ' ' + navigator.userAgent)</script>"


def probe_c_compiler() -> Probe:
    """A C99 program, compiled and run."""
    return _probe_native("C compiler", ["-std=c99", "-O2"], _C_PROGRAM)


def probe_vector_instructions() -> Probe:
    """What the processor runs, asked by a compiled program."""
    return _probe_native("vector instructions", [], _VECTOR_PROGRAM)


def _probe_native(name: str, flags: Sequence[str], source: str) -> Probe:
    compiler = find_tool("cc", "gcc", "clang")
    if compiler is None:
        return Probe(name, "missing", "no cc, gcc or clang", "install gcc or clang")
    return _compile_and_run(name, [compiler, *flags], source, [], "reinstall gcc or clang")


def probe_cortex_m() -> Probe:
    """A bare-metal program for a Cortex-M7, run in an emulator."""
    name, remedy = "Cortex-M", "install gcc-arm-none-eabi, qemu-system-arm"
    compiler, emulator = find_tool("arm-none-eabi-gcc"), find_tool("qemu-system-arm")
    if compiler is None or emulator is None:
        return _missing(name, {"arm-none-eabi-gcc": compiler, "qemu-system-arm": emulator}, remedy)
    runner = [emulator, *_CORTEX_M_EMULATOR]
    return _compile_and_run(name, [compiler, *_CORTEX_M_FLAGS], _CORTEX_M_PROGRAM, runner, remedy)


def probe_aarch64() -> Probe:
    """A static C99 program for aarch64, run in an emulator."""
    name, remedy = "aarch64", "install gcc-aarch64-linux-gnu, qemu-user"
    compiler, emulator = find_tool("aarch64-linux-gnu-gcc"), find_tool("qemu-aarch64", "qemu-aarch64-static")
    if compiler is None or emulator is None:
        return _missing(name, {"aarch64-linux-gnu-gcc": compiler, "qemu-aarch64": emulator}, remedy)
    return _compile_and_run(name, [compiler, "-std=c99", "-O2", "-static"], _C_PROGRAM, [emulator], remedy)


def probe_wasm() -> Probe:
    """A function compiled to WebAssembly."""
    name, remedy = "clang for wasm32", "install clang, lld"
    try:
        compiler = find_clang()
    except RuntimeUnavailableError:
        return Probe(name, "missing", "clang not found", remedy)
    with temporary_folder() as temporary:
        source, target = temporary / "probe.c", temporary / "probe.wasm"
        source.write_text(_WASM_PROGRAM)
        outcome = execute([compiler, *_WASM_FLAGS, source.name, "-o", target.name], TOOL_TIMEOUT_S, source.parent)
        module = target.read_bytes() if target.is_file() else b""
    if outcome.code != 0 or module[:4] != b"\0asm":
        return Probe.of_failure(name, outcome, remedy)
    return Probe(name, "works", f"{Path(compiler).name} compiled {len(module)} bytes with SIMD")


def probe_node() -> Probe:
    """WebAssembly in node."""
    node = find_tool("node", "nodejs")
    if node is None:
        return Probe("node", "missing", "node not found", "install nodejs")
    return _judge("node", execute([node, "-e", _NODE_PROGRAM], TOOL_TIMEOUT_S), "install a newer nodejs")


def probe_chromium() -> Probe:
    """A page with a script, in a browser without a window."""
    name, remedy = "chromium", "install chromium"
    browser = find_tool("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
    if browser is None:
        return Probe(name, "missing", "chromium not found", remedy)
    with temporary_folder() as folder:
        # Its sandbox does not start for root and in most containers; the only page here is our own.
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}"]
        outcome = execute([browser, *options, "--dump-dom", _PAGE], TOOL_TIMEOUT_S)
    found = re.search(r"answer 42 .*?Chrome/([\d.]+)", outcome.stdout)
    if outcome.code == 0 and found:
        return Probe(name, "works", f"ran a page, version {found[1]}")
    return Probe.of_failure(name, outcome, remedy)


def probe_nvidia_driver() -> Probe:
    """The driver's own tool: GPU, driver version, compute capability."""
    name, remedy = "NVIDIA driver", "needs an NVIDIA GPU and its driver"
    tool = find_tool("nvidia-smi")
    if tool is None:
        return Probe(name, "missing", "nvidia-smi not found", remedy)
    query = ["--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    return _judge(name, execute([tool, *query], TOOL_TIMEOUT_S), remedy)


def _missing(name: str, tools: dict[str, str | None], remedy: str) -> Probe:
    absent = [tool for tool, found in tools.items() if found is None]
    return Probe(name, "missing", f"{', '.join(absent)} not found", remedy)


def _judge(name: str, outcome: Outcome, remedy: str) -> Probe:
    """A program that has to end with 0 and print something."""
    if outcome.code == 0 and (answer := last_line(outcome.stdout)):
        return Probe(name, "works", answer)
    return Probe.of_failure(name, outcome, remedy)


def _compile_and_run(name: str, compiler: Sequence[str], source: str, runner: Sequence[str], remedy: str) -> Probe:
    """Compile a program and run it, by `runner` if it is for another processor."""
    with temporary_folder() as folder:
        (folder / "probe.c").write_text(source)
        outcome = execute([*compiler, "probe.c", "-o", "probe.exe"], TOOL_TIMEOUT_S, folder)
        if outcome.code == 0:
            outcome = execute([*runner, str(folder / "probe.exe")], TOOL_TIMEOUT_S, folder)
    return _judge(name, outcome, remedy)
