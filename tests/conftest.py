"""Fixtures: small bundles and RUNs, exported once per test session."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

# Tests run in as many processes as there are cores: with threads of their own on top, PyTorch's barriers wait for each
# other, and training takes up to 50 times as long. Commands that tests start inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Some tests import onnxruntime before the package, which sets this.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Where readline is loaded it sets this for all that is started: what is printed would depend on it.
os.environ.pop("COLUMNS", None)
import onnx
import onnx_ir as ir
import pytest
import torch
from filelock import FileLock

from causalrn.bundle.alphabet import Alphabet
from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.conversions import CONVERSIONS
from causalrn.bundle.disk.files import sha256_file
from causalrn.cli import group
from causalrn.cli.console import run_reporting_errors
from causalrn.errors import RuntimeUnavailableError
from causalrn.export import graph_tracing, onnx_exporter
from causalrn.export.c99.c99_exporter import COptions
from causalrn.export.converted_graphs import ConvertedOptions
from causalrn.export.web import wasm_builder
from causalrn.export.web.web_exporter import WebOptions
from causalrn.model.cell import RecurrentCell
from causalrn.runtimes import progress
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.training.tasks import CopyTask
from causalrn.workflows.export_converted import export_converted
from causalrn.workflows.export_targets import export_bundle, export_c_bundle, export_web_bundle
from tests.builders import random_model
from tests.c_tools import HAS_C_COMPILER
from tests.case_sampling import pytest_addoption, pytest_collection_modifyitems  # noqa: F401  # hooks
from tests.web_tools import HAS_WEB

# Shells start what runs in the background with Ctrl-C switched off; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collectstart() -> None:
    """Weights that a module draws while it is imported are the same whatever was collected before."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Weights that a test or its fixtures draw are the same whatever ran before: no verdict is left to chance."""
    torch.manual_seed(0)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Call a command: (exit code, standard output, standard error); no progress, however slow the machine is."""
    monkeypatch.setattr(progress, "PLAIN_AFTER_S", math.inf)

    def _call(*arguments: object) -> tuple[int, str, str]:
        code = run_reporting_errors(lambda: group([str(a) for a in arguments], standalone_mode=False))
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return _call


torch.set_num_threads(1)  # tests are many and small: threads cost more than they give

READOUTS = ("exact", "linear", "plain")


@pytest.fixture(scope="session", autouse=True)
def one_registry() -> Iterator[None]:
    """torch.onnx collects its 3,000 translations anew for every graph, a fifth of each export: once is enough here."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


Share = Callable[[str, Callable[[Path], object]], Path]
"""Makes a folder once for all processes of a test run: (name, what fills it) -> the folder."""


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory) -> Share:
    """Bundles take seconds to export: the first process that wants one makes it, the others wait and read it."""
    own = tmp_path_factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    root.mkdir(exist_ok=True)

    def make_once(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make_once


@pytest.fixture(scope="session", autouse=True)
def traced_once(share: Share) -> Iterator[Callable[..., ir.Model]]:
    """Weights are initializers of a graph, named as in the cell: cells that differ in nothing else are traced once.

    tests/export/test_onnx_exporter.py compares what comes from here with a graph traced anew.
    """
    trace = graph_tracing.trace_cell

    def look_up(cell: RecurrentCell, graph: str, index_type: str = "int64") -> ir.Model:
        buffers = dict(cell.named_buffers())
        shapes = {name: (buffer.shape, buffer.dtype) for name, buffer in buffers.items()}
        key = hashlib.sha256(repr((cell.config, cell.spec, graph, index_type, shapes)).encode()).hexdigest()
        made = share(
            f"trace-{key}", lambda folder: onnx.save(ir.to_proto(trace(cell, graph, index_type)), folder / "graph.onnx")
        )
        model = ir.from_proto(onnx.load(made / "graph.onnx"))
        for name, value in model.graph.initializers.items():
            if name in buffers:
                value.const_value = ir.tensor(buffers[name].numpy(), name=name)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_exporter, "trace_cell", look_up)
        yield look_up


@pytest.fixture(scope="session", autouse=True)
def compiled_modules(share: Share) -> Iterator[None]:
    """The same C is compiled to WebAssembly once in a test run; what the compiler refuses is not kept."""
    build = wasm_builder._build

    def look_up(clang: str, role: str, name: str, bundle: Path, environment: dict[str, str]) -> None:
        sources = sorted([*bundle.glob("*.c"), *bundle.glob("*.h")])
        parts = [clang, role, *(f"{source.name} {sha256_file(source)}" for source in sources)]

        def fill(folder: Path) -> None:
            build(clang, role, name, bundle, environment)
            shutil.copy(bundle / name, folder / name)

        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        made = share(f"module-{key}", fill)
        shutil.copy(made / name, bundle / name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wasm_builder, "_build", look_up)
        yield


@pytest.fixture(scope="session", autouse=True)
def compiled_code(share: Share) -> Iterator[None]:
    """Compiled bundles are kept for the time of the tests, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAUSALRN_CACHE", str(share("compiled", lambda folder: folder.chmod(0o700))))
        yield


@pytest.fixture(scope="session")
def runs(share: Share) -> dict[str, Path]:
    """A RUN with random weights per readout: capacity 40, and a card as training writes it."""

    def fill(folder: Path) -> None:
        for seed, readout in enumerate(READOUTS):
            model = random_model(seed, readout=readout)
            card = ModelCard(model.config, Alphabet("letters"), CopyTask(19))
            save_checkpoint(folder / readout, model, card, {})

    folder = share("runs", fill)
    return {readout: folder / readout for readout in READOUTS}


@pytest.fixture(scope="session")
def bundles(runs: dict[str, Path], share: Share) -> dict[str, Path]:
    """A bundle per readout, default options."""

    def fill(folder: Path) -> None:
        for readout, run in runs.items():
            export_bundle(run, folder / readout, pool="growing", capacity=None, opset=23)

    folder = share("bundles", fill)
    return {readout: folder / readout for readout in runs}


@pytest.fixture(scope="session")
def c_bundles(runs: dict[str, Path], share: Share) -> dict[str, Path]:
    """C source per readout, default options."""
    if not HAS_C_COMPILER:
        pytest.skip("needs a C compiler: install gcc or clang")

    def fill(folder: Path) -> None:
        for readout, run in runs.items():
            export_c_bundle(run, folder / readout, COptions())

    folder = share("c-bundles", fill)
    return {readout: folder / readout for readout in runs}


@pytest.fixture(scope="session")
def web_bundles(runs: dict[str, Path], share: Share) -> dict[str, Path]:
    """Web bundles, default options: linear, and exact with linear beside it."""
    if not HAS_WEB:
        pytest.skip("the web target: install clang, lld and nodejs")

    def fill(folder: Path) -> None:
        linear = export_web_bundle(runs["linear"], folder / "linear", WebOptions())
        export_web_bundle(runs["exact"], folder / "exact", WebOptions(beside=linear))

    folder = share("web-bundles", fill)
    return {readout: folder / readout for readout in ("exact", "linear")}


@pytest.fixture(scope="session")
def ort_web_bundle(runs: dict[str, Path], share: Share) -> Path:
    """The exact RUN with onnxruntime-web, which comes from the npm registry."""

    def fill(folder: Path) -> None:
        export_web_bundle(runs["exact"], folder / "site", WebOptions(engine="onnxruntime-web"))

    try:
        return share("ort-web", fill) / "site"
    except RuntimeUnavailableError as error:
        pytest.skip(f"needs nodejs, npm and the npm registry: {error}")


@pytest.fixture(scope="session")
def fixed_bundle(runs: dict[str, Path], share: Share) -> Path:
    """The exact RUN with a pool of 40 rows and a mask: what TensorRT takes."""

    def fill(folder: Path) -> None:
        export_bundle(runs["exact"], folder / "bundle", pool="fixed", capacity=None, opset=23)

    return share("fixed", fill) / "bundle"


@pytest.fixture(scope="session")
def litert_bundles(runs: dict[str, Path], share: Share) -> dict[str, Path]:
    """LiteRT bundles: exact, linear, and exact with a capacity of 20."""
    return _converted("litert", runs, share)


@pytest.fixture(scope="session")
def coreml_bundles(runs: dict[str, Path], share: Share) -> dict[str, Path]:
    """The same for Core ML."""
    return _converted("coreml", runs, share)


def _converted(target: str, runs: dict[str, Path], share: Share) -> dict[str, Path]:
    cases = {"exact": ("exact", None), "linear": ("linear", None), "short": ("exact", 20)}

    def fill(folder: Path, name: str) -> None:
        readout, capacity = cases[name]
        options = ConvertedOptions(CONVERSIONS[target].backends[0], "fixed", capacity)
        export_converted(runs[readout], folder / "bundle", options, target=target, is_checked=False)

    return {name: share(f"{target}-{name}", functools.partial(fill, name=name)) / "bundle" for name in cases}


@pytest.fixture(scope="session")
def exact_bundle(bundles: dict[str, Path]) -> Path:
    """The exact bundle, for tests of what does not depend on the readout."""
    return bundles["exact"]


@pytest.fixture
def quantize(
    call: Callable[..., tuple[int, str, str]], exact_bundle: Path, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Quantize the exact bundle into a folder of `tmp_path`: (exit code, standard output, standard error)."""

    def run(*options: object, output: str = "out") -> tuple[int, str, str]:
        return call("quantize", exact_bundle, "-o", tmp_path / output, *options)

    return run


@pytest.fixture(scope="session")
def damaged(exact_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose block 1 has another W3 than was trained."""
    folder = tmp_path_factory.mktemp("damaged") / "bundle"
    shutil.copytree(exact_bundle, folder)
    for graph in Bundle.open(exact_bundle).manifest.graphs.values():
        model = onnx.load(folder / graph.file)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "blocks.1.w3")
        array = onnx.numpy_helper.to_array(tensor).copy()
        array[3, 4] += 0.01
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        onnx.save(model, folder / graph.file)
    seal_bundle(folder, Bundle.open(exact_bundle).manifest)
    return folder
