"""The table of targets: one row per kind of bundle says which runtime opens it, how, and what that runtime promises.

A kind that several runtimes open has a row for each: the first is the default, the others run where they are named.

`verify`, `bench`, `run`, `inspect` and `doctor` read it. Adding a target is one exporter, one runtime and one row, here
or in another package, which names its row (a :class:`Target`) under the entry point group "causalrn.targets". Needs no
torch: a row names its session as "module:attribute", and nothing is imported before a bundle is opened.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterator

from causalrn.bundle.conversions import CONVERSIONS
from causalrn.bundle.target import CHECKPOINT as CHECKPOINT
from causalrn.bundle.target import ENTRIES as ENTRIES
from causalrn.bundle.target import EQUALITIES as EQUALITIES
from causalrn.bundle.target import Target as Target
from causalrn.errors import InputError

ENTRY_POINTS = "causalrn.targets"
EXPORT_TARGETS = ("onnx", "c", "web", *CONVERSIONS, "triton")
"""What `export` writes; engines come from `compile`, and what other packages add from their own exporters."""
_ROWS = (
    Target(
        CHECKPOINT,
        "parallel",
        "a checkpoint, in parallel form",
        "causalrn.runtimes.torch_sessions:open_parallel",
        options=("threads",),
        equalities=(),
        written_by="train",
        needs=("numpy", "safetensors", "torch, CPU"),
    ),
    Target(
        CHECKPOINT,
        "recurrent",
        "a checkpoint, in recurrent form",
        "causalrn.runtimes.torch_sessions:open_recurrent",
        options=("threads",),  # of which PyTorch makes no promise
        written_by="train",
        needs=("numpy", "safetensors", "torch, CPU"),
    ),
    Target(
        "onnx",
        "onnxruntime",
        "ONNX graphs",
        "causalrn.runtimes.ort_session:OnnxRuntimeSession.open",
        options=("provider", "threads"),
        equalities=tuple(EQUALITIES),
        has_graphs=True,
        shows_streams=True,
        needs=("numpy", "safetensors", "onnxruntime, CPU"),
        kernels="causalrn.runtimes.onnx_kernels:list_graphs",
    ),
    Target(  # a second runtime of the same bundles: who wants it names it
        "onnx",
        "openvino",
        "ONNX graphs",
        "causalrn.runtimes.ov.ov_session:OpenVINOSession.open",
        options=("threads", "precision"),
        has_graphs=True,
        shows_streams=True,
        needs=("numpy", "safetensors", "OpenVINO, CPU"),
        kernels="causalrn.runtimes.ov.ov_kernels:list_graphs",
    ),
    Target(
        "tensorrt",
        "tensorrt",
        "TensorRT engines",
        "causalrn.runtimes.trt.trt_session:TensorRTSession.open",
        options=("cuda_graph", "runtime_cache"),
        entry="engine",
        has_graphs=True,
        on_cpu=False,
        written_by="compile",
        needs=("cuda-bindings", "TensorRT-RTX, run|TensorRT, run"),
    ),
    Target(
        "c",
        "native",
        "C99 source",
        "causalrn.runtimes.native.native_session:NativeSession.open",
        options=("threads",),
        equalities=tuple(EQUALITIES),
        entry="native",
        shows_streams=True,
        needs=("numpy", "safetensors", "C compiler"),
        kernels="causalrn.runtimes.native.kernels:list_native",
    ),
    Target(
        "web",
        "node",
        "a folder for browsers",
        "causalrn.runtimes.web.node_session:NodeSession.open",
        max_batch=1,
        entry="web",
        shows_streams=True,
        needs=("numpy", "safetensors", "node"),
        kernels="causalrn.runtimes.web.kernels:list_modules",
    ),
    Target(
        "executorch",
        "executorch",
        "ExecuTorch programs",
        "causalrn.runtimes.executorch.executorch_session:ExecuTorchSession.open",
        entry="converted",
        has_graphs=True,
        has_opset=False,
        needs=("numpy", "safetensors", "ExecuTorch"),
    ),
    Target(
        "litert",
        "litert",
        "LiteRT graphs",
        "causalrn.runtimes.litert.litert_session:LiteRTSession.open",
        options=("threads",),
        entry="converted",
        has_graphs=True,
        has_opset=False,
        needs=("numpy", "safetensors", "LiteRT"),
    ),
    Target(
        "coreml",
        "coreml",
        "Core ML packages",
        "causalrn.runtimes.coreml.coreml_session:CoreMLSession.open",
        entry="converted",
        has_graphs=True,
        has_opset=False,
        needs=("numpy", "safetensors", "Core ML"),
    ),
    Target(  # the server is another program: this is what it runs
        "triton",
        "triton",
        "a Triton model folder",
        "causalrn.runtimes.triton_session:open_model_folder",
        options=("provider", "threads"),
        equalities=tuple(EQUALITIES),
        has_opset=False,
        needs=("numpy", "safetensors", "onnxruntime, CPU"),
    ),
)
_registered: dict[str, Target] = {}


def register_target(row: Target) -> None:
    """Add a row for the rest of this process; packages rather name theirs under the entry point group.

    Raises:
        InputError: a target or runtime of this name is there already.
    """
    if row in all_targets():
        return
    for other in all_targets():
        if row.name == other.name or row.runtime == other.runtime:
            raise InputError(f"target {row.name} (runtime {row.runtime}) is there already: choose other names")
    _registered[row.name] = row


def unregister_target(name: str) -> None:
    """Take a row that :func:`register_target` added out again."""
    _registered.pop(name, None)


@functools.cache
def _installed() -> tuple[tuple[Target, ...], tuple[str, ...]]:
    """Rows of other packages, and what is wrong with those that cannot be had."""
    rows, faults = [], []
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            row = point.load()
        except Exception as error:  # whatever that package raises
            faults.append(f"{point.name} ({type(error).__name__}: {' '.join(str(error).split())})")
            continue
        if isinstance(row, Target):
            rows.append(row)
        else:
            faults.append(f"{point.name} (it is no causalrn.bundle.targets.Target)")
    return tuple(rows), tuple(faults)


def installed_faults() -> tuple[str, ...]:
    """Targets of other packages that cannot be loaded, each with the reason."""
    return _installed()[1]


def all_targets() -> Iterator[Target]:
    """Every row: those of checkpoint folders first, then bundles'."""
    yield from _ROWS
    yield from _registered.values()
    yield from (row for row in _installed()[0] if row.name not in _registered)


def find_target(name: str, source: object) -> Target:
    """The row of a kind of bundle.

    Args:
        name: of the target.
        source: what is named in errors: the bundle.

    Raises:
        InputError: there is none.
    """
    for row in all_targets():
        if row.name == name != CHECKPOINT:
            return row
    broken = "".join(f"; cannot be loaded: {fault}" for fault in installed_faults())
    raise InputError(f"{source}: no runtime of this version runs bundles for {name!r}{broken}")


def runtimes_of_target(name: str) -> tuple[str, ...]:
    """Names of the runtimes that run bundles for a target, the default first; none for an unknown one."""
    return tuple(row.runtime for row in all_targets() if row.name == name != CHECKPOINT)


def checkpoint_runtimes() -> tuple[str, ...]:
    """Names of the runtimes of checkpoint folders: parallel and recurrent."""
    return tuple(row.runtime for row in all_targets() if row.name == CHECKPOINT)


def runtime_names() -> tuple[str, ...]:
    """Names of all runtimes."""
    return tuple(row.runtime for row in all_targets())


def runtime_words() -> str:
    """Names of all runtimes, for help: "parallel, recurrent, ... or node"."""
    *names, last = runtime_names()
    return f"{', '.join(names)} or {last}"


def runtime_row(runtime: str) -> Target:
    """The row of a runtime.

    Raises:
        InputError: an unknown one.
    """
    for row in all_targets():
        if row.runtime == runtime:
            return row
    raise InputError(f"runtime {runtime!r} is unknown: choose one of {', '.join(runtime_names())}")


def has_threads(runtime: str) -> bool:
    """Whether sessions of a runtime take a number of threads; False where there is no such row."""
    return any(row.has_threads for row in all_targets() if row.runtime == runtime)


def check_runtimes(names: tuple[str, ...]) -> None:
    """Refuse runtimes that there are not.

    Raises:
        InputError: an unknown one.
    """
    for name in names:
        runtime_row(name)
