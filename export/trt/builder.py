"""One graph to one engine: parse the ONNX file, set profiles and options, build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causalrn.bundle.disk.files import written_file
from causalrn.bundle.disk.reading import read_input
from causalrn.bundle.engine_spec import Profile
from causalrn.bundle.json_values import to_json
from causalrn.bundle.state_spec import StateSpec
from causalrn.bundle.trt_flavors import HARDWARE_LEVELS, TensorRT, uncollected
from causalrn.errors import CompileError, DriverMissingError


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        tf32: allow float32 products to be rounded to TF32.
        compute_capabilities: to build for, as "8.6"; none takes the flavor's default.
        hardware_compatibility: a key of :data:`HARDWARE_LEVELS`, with TensorRT.
        version_compatible: let later versions of the same major one run the engine, with TensorRT.
        workspace_mib: most scratch memory that a kernel may use; None takes what there is.
        timing_cache: file that keeps what was timed, with TensorRT.
        layer_details: keep enough in the engine to show its layers.
    """

    tf32: bool = False
    compute_capabilities: tuple[str, ...] = ()
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    workspace_mib: int | None = None
    timing_cache: Path | None = None
    layer_details: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        """The compute capabilities, each once."""
        return tuple(dict.fromkeys(self.compute_capabilities))

    def check(self, tensorrt: TensorRT) -> None:
        """Refuse what a flavor does not have.

        Raises:
            CompileError: an option of the other flavor, or an unknown compute capability.
        """
        flavor, known = tensorrt.flavor, tensorrt.flavor.compute_capabilities
        if self.compute_capabilities and not known:
            raise CompileError(f"{flavor.title} compiles for the GPU that is there: leave `compute_capability` out")
        for text in self.compute_capabilities:
            if text not in known:
                raise CompileError(
                    f"{flavor.title} {tensorrt.version} does not compile for compute capability {text}: "
                    f"choose from {', '.join(known)}"
                )
        if flavor.tuned:
            return
        for option, is_set, instead in (
            ("`hardware_compatibility`", self.hardware_compatibility != "none", "name GPUs by `compute_capability`"),
            ("`version_compatible`", self.version_compatible, "compile again after an update; it takes seconds"),
            ("`timing_cache`", self.timing_cache is not None, "it times nothing here; see `runtime_cache` of `run`"),
        ):
            if is_set:
                raise CompileError(f"{option} is not for {flavor.title}: {instead}")

    def entries(self) -> dict[str, Any]:
        """What was not left to its default, for the manifest."""
        chosen = {
            "hardware_compatibility": self.hardware_compatibility,
            "version_compatible": self.version_compatible,
            "workspace_mib": self.workspace_mib,
            "layer_details": self.layer_details,
        }
        return {name: value for name, value in chosen.items() if value not in (None, False, "none")}


@dataclass
class Built:
    """An engine, and the layers of the network that it was built from."""

    content: bytes
    layers: list[dict[str, Any]] = field(default_factory=list)


@uncollected()
def build_engine(
    tensorrt: TensorRT, path: Path, spec: StateSpec, profiles: Sequence[Profile], options: BuildOptions
) -> Built:
    """Build one engine.

    Args:
        path: the ONNX file; precision is what it says, nothing is converted.

    Raises:
        CompileError: TensorRT refuses a node, a profile, or the network.
        DriverMissingError: this flavor times kernels, and there is no GPU.
    """
    api = tensorrt.api
    tensorrt.take_errors()
    try:
        builder = api.Builder(tensorrt.logger)
    except Exception as error:  # the bindings' own, by version
        raise _build_error(tensorrt, path, str(error)) from None
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(tensorrt, network, path)
    config = builder.create_builder_config()
    _configure(tensorrt, config, options)
    for profile in profiles:
        _add_profile(builder, config, network, spec, profile, path)
    cache = _load_timing_cache(config, options.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _build_error(tensorrt, path, "")
    if cache is not None and options.timing_cache is not None:
        with written_file(options.timing_cache) as partial:
            partial.write_bytes(bytes(cache.serialize()))
    return Built(bytes(plan), _layers(network))


def _parse(tensorrt: TensorRT, network: Any, path: Path) -> None:
    parser = tensorrt.api.OnnxParser(network, tensorrt.logger)
    if not parser.parse_from_file(str(path)):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        lines = [
            f"{error.node_name() or 'a node'} ({error.node_operator()}): {_clean(error.desc())}" for error in found
        ]
        raise CompileError(
            f"{path}: {tensorrt.flavor.title} {tensorrt.version} cannot read it: {'; '.join(lines[:3])}: export or "
            "quantize the bundle in another form"
        )
    shapes = [network.get_input(index) for index in range(network.num_inputs)]
    hosted = [tensor.name for tensor in shapes if tensor.is_shape_tensor]
    if hosted:
        raise CompileError(f"{path}: the sizes of tensors depend on the value of {hosted[0]}: export the bundle again")


def _clean(text: str) -> str:
    words = " ".join(text.split())
    return "it does not know this operation" if words in ("false", "") else words[:200]


def _configure(tensorrt: TensorRT, config: Any, options: BuildOptions) -> None:
    api = tensorrt.api
    flag = api.BuilderFlag
    (config.set_flag if options.tf32 else config.clear_flag)(flag.TF32)  # it is on by default
    if hasattr(flag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(flag.REQUIRE_USER_ALLOCATION)  # without it a step may not be recorded as a CUDA graph
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.targets)
        for index, text in enumerate(options.targets):
            config.set_compute_capability(getattr(api.ComputeCapability, "SM" + text.replace(".", "")), index)
    if options.hardware_compatibility != "none":
        level = HARDWARE_LEVELS[options.hardware_compatibility]
        config.hardware_compatibility_level = getattr(api.HardwareCompatibilityLevel, level)
    if options.version_compatible:
        config.set_flag(flag.VERSION_COMPATIBLE)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.layer_details:
        config.profiling_verbosity = api.ProfilingVerbosity.DETAILED


def _add_profile(builder: Any, config: Any, network: Any, spec: StateSpec, profile: Profile, path: Path) -> None:
    """Open dimensions get a range; an input without any is what the file says."""
    described = builder.create_optimization_profile()
    ranges = [profile.input_shapes(spec, which) for which in range(3)]
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes = [each[tensor.name] for each in ranges]
        _check_shapes(tensor, shapes, path)
        if -1 in tuple(tensor.shape):
            try:
                described.set_shape(tensor.name, *shapes)
            except (TypeError, ValueError, RuntimeError):
                raise CompileError(
                    f"{path}: TensorRT takes no {tensor.name} of shapes {shapes}: ask for less"
                ) from None
    if config.add_optimization_profile(described) < 0:
        raise CompileError(f"{path}: TensorRT refused the profile {to_json(profile)}: choose other sizes")


def _check_shapes(tensor: Any, shapes: Sequence[tuple[int, ...]], path: Path) -> None:
    """Refuse a profile that a dimension of the file contradicts: early fixed pools had one shape in all graphs."""
    if tensor.name == "tokens" and shapes[2][1] == 1 and tensor.shape[1] != 1:
        raise CompileError(f"{path}: the graph of a prefill, where a step should be: export the bundle again")
    for shape in shapes:
        if any(have not in (-1, want) for have, want in zip(tensor.shape, shape, strict=True)):
            raise CompileError(
                f"{path}: {tensor.name} has the shape {list(tensor.shape)} there, which cannot be compiled as "
                f"{list(shape)}: export the bundle again, or leave `capacity` out"
            )


def _load_timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    cache = config.create_timing_cache(read_input(path, "name another file", CompileError) if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise CompileError(f"{path}: no timing cache of this TensorRT and GPU: name another file, or delete it")
    return cache


def _build_error(tensorrt: TensorRT, path: Path, reason: str) -> Exception:
    errors = [*tensorrt.take_errors(), *([reason] if reason else [])]
    text = " ".join(errors)
    if tensorrt.flavor.tuned and ("cuda" in text.lower() or "driver" in text.lower()):
        return DriverMissingError(
            f"{tensorrt.flavor.title} times kernels on the GPU while it builds, and CUDA does not start here: build on "
            "a machine with a GPU, or with `flavor` rtx, which needs none"
        )
    telling = [error for error in errors if "cudaError" not in error] or errors or ["no reason given"]
    large = any(words in text for words in ("OutOfMemory", "out of memory", "exceeds"))
    remedy = ": ask for less, by `max_batch`, `prefill_chunk` or the largest rows" if large else ""
    remedy = ": allow more by `workspace`" if "workspace" in text.lower() else remedy
    return CompileError(
        f"{path}: {tensorrt.flavor.title} {tensorrt.version} cannot build it: {telling[-1][:300]}{remedy}"
    )


def _layers(network: Any) -> list[dict[str, Any]]:
    """The network's layers: name, kind, and what they write."""
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        layers.append(
            {
                "name": layer.name,
                "type": layer.type.name,
                "onnx": _onnx_name(layer.metadata),
                "outputs": [
                    {"name": tensor.name, "dtype": tensor.dtype.name, "shape": list(tensor.shape)} for tensor in outputs
                ],
            }
        )
    return layers


def _onnx_name(metadata: str) -> str:
    """The ONNX node that a layer comes from."""
    return metadata.removeprefix("[ONNX Layer: ").removesuffix("]")
