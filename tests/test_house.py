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

# From the bottom to the top: a room imports from itself and from what is named before it. `causalrn` itself (errors,
# the public names) lies below all of them: it imports rooms by name, when a user asks for something.
ROOMS = (
    "bundle",
    "compiling",
    "model",
    "adapters",
    "training",
    "runtimes",
    "calibration",
    "export",
    "serving",
    "workflows",
    "cli",
)
LINKED_ROOMS = ("runtimes", "calibration", "export")
"""Those that lie at the top of the repository, and below causalrn/ as links."""

NEEDS_TORCH = {
    *(
        f"causalrn.model.{name}"
        for name in (
            "causalrn_block",
            "causalrn_cell",
            "cell",
            "cell_parts",
            "folding",
            "normalization",
            "official",
            *(
                f"own.{part}"
                for part in (
                    *("copying", "forms", "outside_values", "reaching", "rebuilding", "state_probe", "state_tree"),
                    *("step_cell", "tensor_bytes"),
                )
            ),
            "operators.c_kernels",
            "operators.c_library",
            "operators.kernels",
            "operators.normalize",
            "operators.pair_shapes",
            "operators.pair_sum",
            "operators.registering",
            "operators.tiles",
            "operators.triton_kernels",
            "operators.triton_passes",
            "readouts.naive",
            "readouts.parallel",
            "readouts.recurrent",
            "sequence_model",
            "transformer_block",
            "transformer_cell",
            "weight_containers",
            "weight_files",
        )
    ),
    *(
        f"causalrn.adapters.{name}"
        for name in ("cache_layers", "cache_layouts", "kept_float64", "own_layouts", "transformers")
    ),
    *(f"causalrn.training.{name}" for name in ("checkpoint", "loop", "plan", "processes", "threads")),
    "causalrn.runtimes.torch_sessions",
    *(
        f"causalrn.runtimes.own_model.{name}"
        for name in (
            "agreement",
            "blocks",
            "check",
            "function_levels",
            "isolation",
            "long_agreement",
            "model",
            "opening",
            "oracle",
            "padding",
            "parting",
            "recording",
            "sessions",
            "watching",
        )
    ),
    "causalrn.runtimes.parity.calls.oracle_table",
    *(
        f"causalrn.runtimes.{name}"
        for name in (
            "parity.conditioning",
            "parity.oracle",
            "parity.reference_cache",
            "rounding.errors",
            "rounding.kinds",
            "rounding.noise",
            "rounding.systems",
        )
    ),
    *(
        f"causalrn.workflows.{name}"
        for name in (
            "changed_graphs",
            "convert",
            "export",
            "export_converted",
            "export_quantized",
            "export_recurrent",
            "export_targets",
            "known_settings",
            "recorded_logits",
            "reseal",
            "setting_choice",
            "setting_race",
            "setting_scores",
            "setting_trial",
            "train",
            "training_run",
        )
    ),
    "causalrn.cli.demo_run",
}
"""In rooms that a device has; everything else in them works without."""

NEEDS_ONNX = {
    "causalrn.bundle.graph_files",
    "causalrn.cli.compile_table",
    "causalrn.runtimes.evaluator_session",
    "causalrn.workflows.compile",
    *(f"causalrn.workflows.{name}" for name in ("quantize", "quantize_bundle", "quantize_options", "quantize_result")),
}
NEEDS_OTHER = {
    "causalrn.cli.quantize_report",
    "causalrn.cli.report_schemas",
    "causalrn.cli.report_shapes",
    "causalrn.workflows.pages.quantize_plot",
}
"""What imports calibration/, which needs onnx."""

SHADOWING_NAMES = {"onnx", "onnxruntime", "tensorrt", "torch", "copy"}


# --- imports run downhill -------------------------------------------------------------------------------------------


def module_name(path: Path) -> str:
    """`export/web/npm_package.py` -> `causalrn.export.web.npm_package`; a package's name for its `__init__.py`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "causalrn" else ("causalrn", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str | None:
    """The room of a module, None for what lies outside the house."""
    first, _, rest = module.partition(".")
    second = rest.partition(".")[0]
    if first == "causalrn":
        return second if second in ROOMS else None
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
    allowed = set() if room is None else set(ROOMS[: ROOMS.index(room) + 1])
    if room == "export":
        allowed.remove("runtimes")
    found = imported_modules(source, module, is_package=is_package)
    return sorted({name for name in found if room_of(name) not in (None, *allowed)})


def room_sources() -> list[Path]:
    """Every source of the rooms, each once: the links below causalrn/ are not followed."""
    own = [ROOT / "causalrn" / room for room in ROOMS if room not in LINKED_ROOMS]
    return sorted(path for folder in (*own, *(ROOT / room for room in LINKED_ROOMS)) for path in folder.rglob("*.py"))


@pytest.mark.parametrize("path", room_sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_downhill(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert uphill_imports(source, module_name(path), is_package=path.name == "__init__.py") == []


def test_rooms_are_all_checked() -> None:
    names = [module_name(path) for path in room_sources()]
    assert len(names) == len(set(names))
    assert {room_of(name) for name in names} == set(ROOMS)
    assert {"causalrn.model.sequence_model", "causalrn.runtimes", "causalrn.cli.console"} < set(names)
    assert set(names) > NEEDS_TORCH | NEEDS_ONNX | NEEDS_OTHER


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("causalrn.model.sequence_model", "import causalrn.runtimes"),
        ("causalrn.model.sequence_model", "from causalrn.runtimes.session import Session"),
        ("causalrn.model.sequence_model", "from causalrn import runtimes"),
        ("causalrn.model.sequence_model", "from ..runtimes import session"),
        ("causalrn.model.sequence_model", "from .. import export"),
        ("causalrn.model.sequence_model", "def f():\n    if True:\n        import causalrn.calibration"),
        ("causalrn.model.sequence_model", "import importlib\nimportlib.import_module('causalrn.cli')"),
        ("causalrn.model.sequence_model", "import export.cli"),
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
        (
            "causalrn.model.sequence_model",
            "import torch\nfrom causalrn.model.config import ModelConfig\nfrom . import config",
        ),
        ("causalrn.runtimes.session", "from ..config import ModelConfig\nfrom . import parity"),
        ("causalrn.calibration.observers", "from causalrn.runtimes import Session"),
        ("causalrn.export.onnx_exporter", "from causalrn.calibration import observers"),
        ("causalrn.workflows.verify", "from causalrn.runtimes import Session"),
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


def modules_of(*rooms: str) -> list[str]:
    return [name for name in map(module_name, room_sources()) if room_of(name) in rooms]


def test_what_a_device_has_imports_without_torch_and_onnx() -> None:
    modules = [name for name in modules_of(*ROOMS) if room_of(name) not in ("calibration", "export")]
    result = import_without(["torch", "onnx"], sorted({*modules} - NEEDS_TORCH - NEEDS_ONNX - NEEDS_OTHER))
    assert result.returncode == 0, result.stderr


def test_quantization_imports_without_torch() -> None:
    result = import_without(["torch"], sorted({*modules_of("calibration"), *NEEDS_ONNX}))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", sorted(NEEDS_TORCH))
def test_modules_that_need_torch_are_no_more_than_that(module: str) -> None:
    """What is listed and needs none belongs off the list: a device can have it."""
    source = (ROOT / "causalrn" / Path(*module.split(".")[1:])).with_suffix(".py").read_text(encoding="utf-8")
    imported = set(imported_modules(source, module))
    assert any(name.partition(".")[0] == "torch" or name in NEEDS_TORCH for name in imported)


@pytest.mark.parametrize(
    ("package", "module"), [("torch", "causalrn.model.sequence_model"), ("onnx", "causalrn.export.onnx_exporter")]
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
    folders = [ROOT / name for name in ("causalrn", *LINKED_ROOMS, "tests", "benchmarks")]
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
    for room in ("causalrn", *LINKED_ROOMS):
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
