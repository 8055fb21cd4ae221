"""The house rules: imports run downhill, half needs no torch, names shadow nothing, the links are there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom to the top: a room imports from itself and from what is named before it.
ROOMS = ("causalrn", "runtimes", "calibration", "export")
LINKED_ROOMS = ROOMS[1:]

TORCH_FREE = (
    *(
        f"causalrn.{name}"
        for name in (
            "config",
            "engine_spec",
            "trt_flavors",
            "native_spec",
            "web_spec",
            "state_spec",
            "alphabet",
            "tasks",
            "card",
            "files",
            "manifest",
            "manifest_checks",
            "quantization",
            "run_folder",
            "processor",
            "tolerances",
        )
    ),
    "causalrn.errors",
    "causalrn.runtimes",
    *(
        f"causalrn.runtimes.{name}"
        for name in ("ort_session", "onnx_bytes", "generation", "task_accuracy", "state_file", "state_values")
    ),
    *(
        f"causalrn.runtimes.bench.{name}"
        for name in (
            "contestants",
            "entries",
            "running",
            "results",
            "measuring",
            "prediction",
            "devices",
            "worker",
        )
    ),
    *(f"causalrn.runtimes.native.{name}" for name in ("c_compiler", "library", "native_state", "native_session")),
    *(f"causalrn.runtimes.web.{name}" for name in ("node_process", "node_session")),
    *(f"causalrn.runtimes.trt.{name}" for name in ("cuda_device", "device_state", "engine", "trt_session")),
    *(
        f"causalrn.runtimes.parity.{name}"
        for name in (
            "reference",
            "golden",
            "comparison",
            "results",
            "attribution",
            "verification",
            "report",
            "certificate",
        )
    ),
)

SHADOWING_NAMES = {"onnx", "onnxruntime", "tensorrt", "torch", "copy"}


# --- imports run downhill -------------------------------------------------------------------------------------------


def module_name(path: Path) -> str:
    """`export/cli/options.py` -> `causalrn.export.cli.options`; a package's name for its `__init__.py`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "causalrn" else ("causalrn", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str | None:
    """The room of a module, None for what lies outside the house."""
    first, _, rest = module.partition(".")
    second = rest.partition(".")[0]
    if first == "causalrn":
        return second if second in LINKED_ROOMS else "causalrn"
    return first if first in LINKED_ROOMS else None


def imported_modules(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Every module that a source imports, wherever it does so: at the top, in a function, or by `import_module`.

    `from p import n` gives both `p` and `p.n`: n may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute_base(node, module, is_package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and _called_name(node) in ("import_module", "__import__"):
            yield _leading_text(node.args[0])


def _absolute_base(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".") if is_package else module.split(".")[:-1]
    parents = package[: len(package) - node.level + 1]
    return ".".join([*parents, node.module] if node.module else parents)


def _called_name(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _leading_text(node: ast.expr) -> str:
    """The text of a string, or what an f-string starts with."""
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def uphill_imports(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module must not import: higher rooms, and for an exporter the runtimes."""
    room = room_of(module)
    assert room is not None
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    if room == "export" and not module.startswith("causalrn.export.cli"):
        allowed.remove("runtimes")
    found = imported_modules(source, module, is_package=is_package)
    return sorted({name for name in found if room_of(name) not in (None, *allowed)})


def room_sources() -> list[Path]:
    """Every source of the four rooms, each once: the links below causalrn/ are not followed."""
    linked = {ROOT / "causalrn" / room for room in LINKED_ROOMS}
    return sorted(
        path for room in ROOMS for path in (ROOT / room).rglob("*.py") if not linked.intersection(path.parents)
    )


@pytest.mark.parametrize("path", room_sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_downhill(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert uphill_imports(source, module_name(path), is_package=path.name == "__init__.py") == []


def test_rooms_are_all_checked() -> None:
    names = [module_name(path) for path in room_sources()]
    assert len(names) == len(set(names))
    assert {room_of(name) for name in names} == set(ROOMS)
    assert {"causalrn.model", "causalrn.runtimes", "causalrn.export.cli.console"} < set(names)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("causalrn.model", "import causalrn.runtimes"),
        ("causalrn.model", "from causalrn.runtimes.session import Session"),
        ("causalrn.model", "from causalrn import runtimes"),
        ("causalrn.model", "from .runtimes import session"),
        ("causalrn.model", "from . import export"),
        ("causalrn.model", "def f():\n    if True:\n        import causalrn.calibration"),
        ("causalrn.model", "import importlib\nimportlib.import_module('causalrn.export.cli')"),
        ("causalrn.model", "import export.cli"),
        ("causalrn.runtimes.session", "from ..export import onnx_exporter"),
        ("causalrn.runtimes.session", "from causalrn.export.onnx_exporter import export_onnx"),
        ("causalrn.runtimes.session", "import causalrn.calibration.observers as observers"),
        ("causalrn.runtimes.session", "from importlib import import_module\nimport_module(f'causalrn.export.{name}')"),
        ("causalrn.calibration.observers", "from causalrn import export"),
        ("causalrn.export.onnx_exporter", "from causalrn.runtimes import Session"),
        ("causalrn.export.onnx_exporter", "def f():\n    from ..runtimes.session import Session"),
    ],
)
def test_imports_uphill_are_found(module: str, source: str) -> None:
    assert uphill_imports(source, module)


def test_imports_uphill_are_found_in_a_package() -> None:
    assert uphill_imports("from ..export import cli", "causalrn.runtimes", is_package=True)
    assert uphill_imports("from .export import cli", "causalrn.runtimes", is_package=True) == []  # runtimes/export.py


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("causalrn.model", "import torch\nfrom causalrn.config import ModelConfig\nfrom . import config"),
        ("causalrn.runtimes.session", "from ..config import ModelConfig\nfrom . import parity"),
        ("causalrn.calibration.observers", "from causalrn.runtimes import Session"),
        ("causalrn.export.onnx_exporter", "from causalrn.calibration import observers"),
        ("causalrn.export.cli.verify_run", "from causalrn.runtimes import Session"),
    ],
)
def test_imports_downhill_are_allowed(module: str, source: str) -> None:
    assert uphill_imports(source, module) == []


# --- the torch-free half --------------------------------------------------------------------------------------------


def import_without(blocked: Iterable[str], modules: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Import modules in a fresh interpreter in which some packages cannot be imported."""
    code = f"""
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(blocked)!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Blocker())
for module in {list(modules)!r}:
    importlib.import_module(module)
"""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_torch_free_half_imports_without_torch() -> None:
    result = import_without(["torch", "onnx"], TORCH_FREE)
    assert result.returncode == 0, result.stderr


def test_quantization_imports_without_torch() -> None:
    modules = [f"causalrn.calibration.{name}" for name in ("schemes", "table", "sensitivity", "report")]
    result = import_without(["torch"], modules)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("package", "module"), [("torch", "causalrn.model"), ("onnx", "causalrn.export.onnx_exporter")]
)
def test_blocked_package_is_missed(package: str, module: str) -> None:
    result = import_without([package], [module])
    assert result.returncode != 0
    assert f"blocked: {package}" in result.stderr


# --- names and links ------------------------------------------------------------------------------------------------


def shadowing(paths: Iterable[Path]) -> list[Path]:
    """Files and folders that would hide a real package once their folder is on sys.path."""
    return [path for path in paths if path.suffix in ("", ".py") and path.stem in SHADOWING_NAMES]


def test_no_file_shadows_a_package() -> None:
    folders = [ROOT / name for name in (*ROOMS, "tests", "benchmarks")]
    assert shadowing(path for folder in folders for path in folder.rglob("*")) == []
    assert shadowing(ROOT.iterdir()) == []


def test_shadowing_names_are_found() -> None:
    bad = [Path("export/onnx.py"), Path("runtimes/tensorrt.py"), Path("causalrn/copy.py"), Path("runtimes/torch")]
    fine = [
        Path("export/onnx_exporter.py"),
        Path("runtimes/copying.py"),
        Path("bundle/model.onnx"),
        Path("docs/onnx.md"),
    ]
    assert shadowing(bad + fine) == bad


def broken_links(root: Path) -> list[str]:
    """Rooms whose link below causalrn/ is missing, absolute, or leads elsewhere."""
    links = {room: root / "causalrn" / room for room in LINKED_ROOMS}
    return [room for room, link in links.items() if not link.is_symlink() or str(link.readlink()) != f"../{room}"]


def test_links_lead_to_the_rooms() -> None:
    assert broken_links(ROOT) == []
    for room in LINKED_ROOMS:
        assert (ROOT / "causalrn" / room).samefile(ROOT / room)


def test_broken_links_are_found(tmp_path: Path) -> None:
    for room in ROOMS:
        (tmp_path / room).mkdir()
    (tmp_path / "causalrn" / "export").symlink_to(tmp_path / "export")  # absolute
    (tmp_path / "causalrn" / "runtimes").symlink_to("../calibration")  # elsewhere
    assert broken_links(tmp_path) == ["runtimes", "calibration", "export"]  # calibration is missing


# --- documents ------------------------------------------------------------------------------------------------------


def dead_links(path: Path) -> list[str]:
    """Relative links of a Markdown file that lead nowhere."""
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    return [link for link in links if "://" not in link and not (path.parent / link).exists()]


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name)
def test_links_in_documents_lead_somewhere(path: Path) -> None:
    assert dead_links(path) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("[self](a.md) [gone](b.md#part) [far](https://example.org/c.md)")
    assert dead_links(tmp_path / "a.md") == ["b.md"]
