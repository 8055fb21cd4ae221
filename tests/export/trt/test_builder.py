"""What builders are told, with stand-ins for TensorRT's API: its options with the flavor that needs a GPU to build."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest

from causalrn.bundle.trt_flavors import HARDWARE_LEVELS, RTX, TRT, TensorRT
from causalrn.errors import CompileError, DriverMissingError
from causalrn.export.trt.builder import BuildOptions, _configure, _load_timing_cache, build_engine


class Names:
    """Every attribute is its own name, as far as it is known."""

    def __init__(self, *known):
        self.known = known

    def __getattr__(self, name):
        if self.known and name not in self.known:
            raise AttributeError(name)
        return name


class Config:
    def __init__(self):
        self.flags: dict[str, bool] = {}
        self.capabilities: dict[int, str] = {}
        self.limits: dict[str, int] = {}

    def set_flag(self, flag):
        self.flags[flag] = True

    def clear_flag(self, flag):
        self.flags[flag] = False

    def set_compute_capability(self, capability, index):
        self.capabilities[index] = capability

    def set_memory_pool_limit(self, pool, size):
        self.limits[pool] = size


def stub(flavor, builder=None, errors=()):
    flags = ("TF32", "VERSION_COMPATIBLE", *(("REQUIRE_USER_ALLOCATION",) if flavor is RTX else ()))
    api = SimpleNamespace(
        __version__="11.1.0",
        BuilderFlag=Names(*flags),
        HardwareCompatibilityLevel=Names(),
        MemoryPoolType=Names(),
        ComputeCapability=Names(),
        ProfilingVerbosity=Names(),
        Builder=builder,
    )
    return TensorRT(flavor, api, SimpleNamespace(errors=list(errors)))


def configured(flavor, **options):
    config = Config()
    _configure(stub(flavor), config, BuildOptions(**options))
    return config


def test_nothing_is_collected_while_tensorrt_may_log(tmp_path):
    """An object of its API that is freed inside a logger waits for the lock under which it is called."""
    collects = []

    def fails(logger):
        collects.append(gc.isenabled())
        raise TypeError("factory function returned nullptr")

    with pytest.raises(CompileError, match="nullptr"):
        build_engine(stub(TRT, fails), tmp_path / "x.onnx", None, [], BuildOptions())
    assert collects == [False]
    assert gc.isenabled()


@pytest.mark.parametrize("flavor", [RTX, TRT], ids=lambda flavor: flavor.name)
@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_off_unless_asked_for(flavor, tf32):
    config = configured(flavor, tf32=tf32)
    assert config.flags["TF32"] is tf32
    assert config.flags.get("REQUIRE_USER_ALLOCATION", False) == (flavor is RTX), "what a CUDA graph needs"


def test_options_reach_tensorrt():
    config = configured(TRT, version_compatible=True, workspace_mib=3, layer_details=True)
    assert config.flags["VERSION_COMPATIBLE"]
    assert config.limits == {"WORKSPACE": 3 << 20}
    assert config.profiling_verbosity == "DETAILED"
    assert configured(RTX, compute_capabilities=("8.9", "12.0", "8.9")).capabilities == {0: "SM89", 1: "SM120"}


@pytest.mark.parametrize("level", [name for name in HARDWARE_LEVELS if name != "none"])
def test_hardware_levels_are_those_of_trtexec(level):
    assert configured(TRT, hardware_compatibility=level).hardware_compatibility_level == HARDWARE_LEVELS[level]


def test_capabilities_by_name_are_not_for_what_builds_on_its_gpu():
    with pytest.raises(CompileError, match="leave `compute_capability` out"):
        BuildOptions(compute_capabilities=("8.9",)).check(stub(TRT))
    BuildOptions(hardware_compatibility="ampere+", version_compatible=True).check(stub(TRT))


def test_builder_that_needs_a_gpu_says_what_needs_none(tmp_path):
    def builder(logger):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    tensorrt = stub(TRT, builder)
    tensorrt.logger.errors = []

    def fails(logger):
        tensorrt.logger.errors.append("CUDA initialization failure with error: 35")
        return builder(logger)

    tensorrt.api.Builder = fails
    with pytest.raises(DriverMissingError, match="or with `flavor` rtx, which needs none"):
        build_engine(tensorrt, tmp_path / "step.onnx", None, [], BuildOptions())


@pytest.mark.parametrize(("made", "taken"), [(None, True), ("cache", False)], ids=["garbage", "of-another-gpu"])
def test_file_that_is_no_timing_cache_is_not_overwritten(made, taken, tmp_path):
    (tmp_path / "cache").write_bytes(b"something")
    config = SimpleNamespace(
        create_timing_cache=lambda content: made, set_timing_cache=lambda cache, ignore_mismatch: taken
    )
    with pytest.raises(CompileError, match="no timing cache of this TensorRT"):
        _load_timing_cache(config, tmp_path / "cache")
    assert (tmp_path / "cache").read_bytes() == b"something"


def test_timing_cache_is_made_where_there_is_none(tmp_path):
    given: list[bytes] = []

    def create(content):
        given.append(content)
        return "cache"

    config = SimpleNamespace(
        create_timing_cache=create,
        set_timing_cache=lambda cache, ignore_mismatch: cache == "cache",
    )
    assert _load_timing_cache(config, tmp_path / "new") == "cache"
    assert given == [b""]
    assert _load_timing_cache(config, None) is None
