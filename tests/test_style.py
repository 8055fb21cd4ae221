"""The house rules for sources: they fit a sitting, import in no circle, and leave flags to the command line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_house import ROOT, imported_modules, module_name, room_sources

MOST_LINES, MOST_STATEMENT_LINES = 300, 40
"""Of a module, and of a function beside its signature and docstring: CONTRIBUTING.md gives the reasons."""


def product_sources() -> list[Path]:
    """Every Python file that is installed."""
    return [*room_sources(), *sorted((ROOT / "causalrn").glob("*.py"))]


def long_functions(source: str) -> list[str]:
    """Functions whose statements take more lines than fit a screen."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if first and (first[-1].end_lineno or 0) - first[0].lineno >= MOST_STATEMENT_LINES:
                found.append(node.name)
    return found


@pytest.mark.parametrize("path", product_sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_fit_a_sitting_and_functions_a_screen(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= MOST_LINES
    assert long_functions(source) == []


def test_long_functions_are_found() -> None:
    body = "\n".join(f"    x{line} = {line}" for line in range(MOST_STATEMENT_LINES))
    assert long_functions(f"def short():\n    'words'\n{body}\n") == []
    assert long_functions(f"def long():\n    'words'\n{body}\n    return x1\n") == ["long"]


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by way of others."""
    reached = {name: {name} for name in imports}
    changed = True
    while changed:
        changed = False
        for name, others in imports.items():
            before = len(reached[name])
            for other in others:
                reached[name] |= reached.get(other, set())
            changed |= len(reached[name]) > before
    groups = {tuple(sorted(other for other in reached[name] if name in reached.get(other, ()))) for name in imports}
    return [list(group) for group in groups if len(group) > 1]


def test_no_circle_of_imports() -> None:
    """Also none of imports inside functions, or for types alone."""
    names = {module_name(path): path for path in room_sources()}
    imports = {}
    for name, path in names.items():
        found = set(imported_modules(path.read_text(encoding="utf-8"), name, is_package=path.name == "__init__.py"))
        imports[name] = {other for other in found if other in names and not name.startswith(f"{other}.")} - {name}
    assert circles(imports) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def flags_in(source: str) -> list[str]:
    """Command-line flags of this toolkit in the strings of a source; docstrings count."""
    strings = (
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    return [found for text in strings for found in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)]


FOREIGN_FLAGS = {
    "export/web/npm_package.py": {"--json", "--loglevel", "--prefer-offline"},  # npm's
    "export/web/wasm_builder.py": {"--target", "--stack-first", "--strip-all", "--no-entry", "--export"},  # clang's
    "causalrn/compiling/c_compiler.py": {"--version"},  # of any C compiler
    # a page for people, who call the command in a shell
    "causalrn/bundle/model_card.py": {"--card", "--certificate", "--max-new-tokens", "--prompt"},
    "runtimes/web/kernels.py": {"--json"},  # of verify.mjs in a web bundle
    "runtimes/web/node_process.py": {"--preserve-symlinks", "--preserve-symlinks-main"},  # node's
}
"""Flags of other programs, which only their callers know; and of what is shown as a shell has it."""


@pytest.mark.parametrize(
    "path",
    [path for path in product_sources() if "causalrn/cli" not in path.as_posix()],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_only_the_command_line_knows_flags(path: Path) -> None:
    allowed = FOREIGN_FLAGS.get(path.relative_to(ROOT).as_posix(), set())
    assert set(flags_in(path.read_text(encoding="utf-8"))) - allowed == set()


def test_flags_in_strings_are_found() -> None:
    assert flags_in('raise InputError("give --steps")') == ["--steps"]
    assert flags_in('"""Of `run --state-out`."""') == ["--state-out"]
    assert flags_in('x = "a--b -- c"  # --comment') == []


READS = re.compile(
    r"\.read_text\(|\.read_bytes\(|np\.(?:load|fromfile)\(|load_file\(|safe_open\(|(?:onnx|ir|torch)\.load\(|"
    r"\.open\(\"rb\"\)|os\.open\(|ZipFile\("
)
"""Ways to read a file that know nothing of pipes, devices and sizes."""

OWN_READS = {
    "bundle": {
        "disk.array_files": "an archive that reading.py has opened",
        "disk.files": "hashes of files that were checked, and markers of folders",
        "graph_files": "of an opened bundle",
        "disk.leftovers": "locks, and reads nothing",
        "disk.reading": "the one place",
    },
    "calibration": {"activations": "its own temporary file", "schemes": "of an opened bundle"},
    "cli": {
        "doctor_probes": "its own temporary file",
        "doctor_tools": "its own temporary file",
        "terminal": "no input",
    },
    "compiling": {"processor": "files of the system"},
    "export": {
        "c99.amalgamation": "files of the package",
        "c99.companions": "files of the package, and what it has just written",
        "c99.header": "files of the package",
        "web.web_exporter": "files of the package",
    },
    "model": {"operators.c_library": "files of the package", "weight_files": "what reading.py has opened"},
    "runtimes": {
        "bench.measuring": "files of the package",
        "bench.profiling": "its own temporary file",
        "bench.system": "files of the system",
        "environment": "files of the system",
        "executorch.library": "the null device",
        "native.builds": "of an opened bundle, and its own temporary files",
        "native.interface_check": "of an opened bundle",
        "native.library": "of an opened bundle, and files of the package",
        "parity.golden": "after tensor_files.py",
        "parity.guards.damaged_bundles": "its own copies of an opened bundle",
        "parity.guards.level": "its own temporary file",
        "parity.reference_cache": "its own files, which carry their hash, and files of the package",
        "state_file": "after tensor_files.py",
        "trt.engine": "of an opened bundle",
        "web.kernels": "its own copy of an opened bundle",
    },
    "serving": {"bulk.part_file": "its own file, once it is known to be one"},
    "training": {"checkpoint": "after tensor_files.py"},
    "workflows": {"recorded_logits": "after tensor_files.py", "training_run": "its own log"},
}
"""Modules that read files in another way than by causalrn/bundle/disk/reading.py, and which files those are."""


def test_input_files_are_read_in_one_place() -> None:
    """A pipe would block, a device never ends, and a header of a few bytes may ask for terabytes."""
    reading = {module_name(path) for path in room_sources() if READS.search(path.read_text(encoding="utf-8"))}
    allowed = {f"causalrn.{room}.{name}" for room, names in OWN_READS.items() for name in names}
    assert reading - allowed == set()


def test_other_ways_to_read_are_found() -> None:
    assert all(map(READS.search, ("path.read_text()", "np.load(path)", 'path.open("rb")', "onnx.load(path)")))
    assert not any(map(READS.search, ("read_input(path)", "Bundle.open(path)", "file.read()")))
