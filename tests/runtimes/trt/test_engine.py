"""Why an engine cannot run here, each reason an error of its own: with real engines, built without a GPU."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import importlib.util
from types import SimpleNamespace

import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.bundle.trt_flavors import RTX, TRT, Flavor, TensorRT, load_flavor
from causalrn.errors import (
    BundleError,
    DriverMissingError,
    EngineVersionError,
    FlavorMissingError,
    GpuFailureError,
    InputError,
    MalformedEngineError,
    NotExecutedError,
    UnsupportedGpuError,
)
from causalrn.export.trt.builder import BuildOptions
from causalrn.export.trt.profiles import Sizes
from causalrn.runtimes import open_session
from causalrn.runtimes.trt import engine, trt_session
from causalrn.runtimes.trt.cuda_device import CudaDevice
from causalrn.runtimes.trt.engine import Engines, check_validity, check_version, read_runtime_cache
from causalrn.workflows.compile import compile_bundle
from tests.runtimes.trt.fake_gpu import fake_compile

needs_rtx = pytest.mark.skipif(not RTX.is_installed, reason=f"needs TensorRT-RTX: {RTX.install}")


def has_gpu() -> bool:
    try:
        CudaDevice().close()
    except NotExecutedError:
        return False
    return True


needs_no_gpu = pytest.mark.skipif(has_gpu(), reason="about machines without an NVIDIA GPU; this one has one")


@pytest.fixture
def bundle(bundles, tmp_path):
    """A linear bundle's engines, built for real."""
    (tmp_path / "engine").mkdir()
    source, sizes = Bundle.open(bundles["linear"]), Sizes(max_batch=1)
    return compile_bundle(source, tmp_path / "engine", load_flavor("rtx"), sizes, BuildOptions()).bundle


def changed(bundle: Bundle, **changes) -> Bundle:
    """The same bundle with another entry about its engines."""
    assert bundle.manifest.engine is not None
    engine = dataclasses.replace(bundle.manifest.engine, **changes)
    return seal_bundle(bundle.path, dataclasses.replace(bundle.manifest, engine=engine))


@needs_rtx
@needs_no_gpu
def test_missing_driver(bundle):
    with pytest.raises(DriverMissingError, match=r"step.engine: no NVIDIA GPU, .*cudaError 35.*a current driver"):
        open_session(bundle.path)


@needs_rtx
@pytest.mark.parametrize("content", [b"", b"no engine at all", b"x" * 100_000], ids=len)
def test_malformed_engine(bundle, content):
    (bundle.path / "step.engine").write_bytes(content)
    sealed = seal_bundle(bundle.path, bundle.manifest)
    with pytest.raises(MalformedEngineError, match=r"step.engine: no engine that TensorRT-RTX .* can read"):
        Engines(sealed)


@needs_rtx
def test_engine_that_was_damaged_on_the_way_is_found_by_its_hash(bundle):
    content = bytearray((bundle.path / "step.engine").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.path / "step.engine").write_bytes(content)
    with pytest.raises(BundleError, match="differs from the manifest's SHA-256"):
        open_session(bundle.path)


@needs_rtx
@pytest.mark.parametrize("version", ["1.6.0.0", "1.8.0.0", "2.0.0.0"])
def test_engine_of_another_version(bundle, version):
    with pytest.raises(EngineVersionError, match=f"compiled by TensorRT-RTX {version}, and 1.* is installed"):
        Engines(changed(bundle, version=version))


@needs_rtx
@pytest.mark.skipif(TRT.is_installed, reason="about machines without TensorRT; this one has it")
def test_engine_of_the_other_flavor(bundle):
    words = r"needs TensorRT, which is not installed: .*\[tensorrt\].*TensorRT-RTX is installed: `flavor` rtx"
    with pytest.raises(FlavorMissingError, match=words):
        Engines(changed(bundle, flavor="trt", version="11.0.0"))


def test_flavor_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        FlavorMissingError, match=r"TensorRT-RTX, which is not installed: pip install 'causalrn\[tensorrt"
    ):
        load_flavor("rtx")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (SimpleNamespace(__version__="0.9.1"), "0.9.1 is too old"),
        (SimpleNamespace(), "is installed and cannot be imported"),
        (OSError("libcudart.so.13: cannot open shared object file"), "cannot open shared object file.: reinstall it"),
        (ImportError("no wheel for\n this Python"), "no wheel for this Python"),
    ],
    ids=["old", "no-version", "no-library", "no-wheel"],
)
def test_flavor_that_cannot_be_imported(module, words, monkeypatch):
    def import_module(name):
        if isinstance(module, Exception):
            raise module
        return module

    monkeypatch.setattr(Flavor, "is_installed", True)
    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(FlavorMissingError, match=words):
        load_flavor("rtx")


def stub(flavor=RTX, version="1.7.0", errors=()) -> TensorRT:
    kinds = ("VERSION_MISMATCH", "UNSUPPORTED_CC", "OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME", "INSUFFICIENT_GPU_MEMORY")
    diagnostics = {name: 1 << index for index, name in enumerate((*kinds, "MALFORMED_ENGINE", "CUDA_ERROR"))}
    api = SimpleNamespace(
        __version__=version,
        EngineValidity=SimpleNamespace(INVALID=2),
        EngineInvalidityDiagnostics=SimpleNamespace(**diagnostics),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager", NONE="none"),
    )
    return TensorRT(flavor, api, SimpleNamespace(errors=list(errors)))


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        (1, EngineVersionError, "compile the ONNX bundle again"),
        (2, UnsupportedGpuError, "`compute_capability` for this GPU"),
        (4, DriverMissingError, "update the driver"),
        (8, NotExecutedError, "the CUDA runtime is too old"),
        (16, NotExecutedError, "free some of it"),
        (32, MalformedEngineError, "no engine that TensorRT-RTX 1.7.0 can read"),
        (64, NotExecutedError, "not installed rightly"),
    ],
)
def test_every_diagnosis_of_tensorrt_is_an_error(flags, error, words, tmp_path):
    runtime = SimpleNamespace(get_engine_validity=lambda content: (2, flags))
    with pytest.raises(error, match=words):
        check_validity(stub(), runtime, b"", tmp_path)


@pytest.mark.parametrize("validity", [0, 1], ids=["valid", "suboptimal"])
def test_valid_engine_passes(validity, tmp_path):
    check_validity(stub(), SimpleNamespace(get_engine_validity=lambda content: (validity, 0)), b"", tmp_path)
    check_validity(stub(TRT), SimpleNamespace(), b"", tmp_path)  # older ones cannot tell


@pytest.mark.parametrize(
    ("errors", "error"),
    [
        (["a (cudaError 35: CUDA driver version is insufficient)"], DriverMissingError),
        (["b (cudaError 100: no CUDA-capable device is detected)"], DriverMissingError),
        (["the engine was built for compute capability 8.9"], UnsupportedGpuError),
        (["version tag does not match"], EngineVersionError),
        (["magic tag does not match"], MalformedEngineError),
        (["c (cudaError 2: out of memory)"], NotExecutedError),
        (["Requested size was 1 GiB. OutOfMemory"], NotExecutedError),
        (["d (cudaError 46: all CUDA-capable devices are busy)"], NotExecutedError),
        ([], MalformedEngineError),
    ],
)
def test_what_tensorrt_only_logs_is_told_apart(errors, error, tmp_path):
    runtime = SimpleNamespace(get_engine_validity=lambda content: (2, 0))
    with pytest.raises(error) as raised:
        check_validity(stub(errors=errors), runtime, b"", tmp_path)
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("installed", "compatible", "runs"),
    [
        ("11.1.0", False, True),
        ("11.2.0", False, False),
        ("11.2.0", True, True),
        ("11.0.0", True, False),
        ("12.0.0", True, False),
    ],
)
def test_version_compatible_engines_run_on_later_versions(installed, compatible, runs, tmp_path):
    engine = SimpleNamespace(version="11.1.0", options={"version_compatible": True} if compatible else {})
    bundle = SimpleNamespace(path=tmp_path, manifest=SimpleNamespace(engine=engine))
    if runs:
        check_version(bundle, stub(TRT, installed))
        return
    with pytest.raises(EngineVersionError):
        check_version(bundle, stub(TRT, installed))


def test_device_that_fails_to_open_is_not_executed(monkeypatch):
    def fails():
        raise GpuFailureError("cudaStreamCreateWithFlags failed")

    monkeypatch.setattr(trt_session, "CudaDevice", fails)
    with pytest.raises(NotExecutedError, match="cudaStreamCreateWithFlags failed"):
        trt_session._open_device()


def test_runtime_that_cannot_start_says_why(fixed_bundle, tmp_path, monkeypatch):
    tensorrt = stub(TRT, "11.1.0", ["CUDA initialization failure, see cudaError 35: insufficient driver"])

    def fails(logger):
        assert not gc.isenabled(), "what is freed inside a logger waits for TensorRT's lock"
        raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(tensorrt.api, "Runtime", fails, raising=False)
    monkeypatch.setattr(engine, "load_flavor", lambda name: tensorrt)
    compiled = fake_compile(Bundle.open(fixed_bundle), tmp_path / "engine", monkeypatch)
    with pytest.raises(DriverMissingError, match="cudaError 35"):
        Engines(changed(compiled, flavor="trt", version="11.1.0"))


@needs_no_gpu
def test_device_says_that_there_is_no_driver():
    pytest.importorskip("cuda.bindings", reason="needs cuda-bindings: pip install 'causalrn[tensorrt-rtx]'")
    with pytest.raises(DriverMissingError, match=r"no NVIDIA (driver|GPU).*\(CUDA error \d+\): run this on a machine"):
        CudaDevice()


@needs_rtx
@needs_no_gpu
def test_runtime_cache_is_not_written_where_nothing_ran(bundle, tmp_path):
    with pytest.raises(DriverMissingError):
        open_session(bundle.path, runtime_cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


class FakeConfigured:
    """The parts of an engine's API that have to do with the runtime cache."""

    def __init__(self):
        self.read = None
        self.given = None
        cache = SimpleNamespace(deserialize=self.deserialize, serialize=lambda: b"kernels")
        self.config = SimpleNamespace(create_runtime_cache=lambda: cache, set_runtime_cache=self.set_runtime_cache)

    def deserialize(self, content):
        self.read = content

    def set_runtime_cache(self, cache):
        self.given = cache

    def create_runtime_config(self):
        return self.config

    def create_execution_context(self, config):
        return ("context", config)


def test_runtime_cache_is_read_and_written(tmp_path):
    engine, file = FakeConfigured(), tmp_path / "cache"
    for kept in (b"", b"kernels"):
        engines = Engines.__new__(Engines)
        engines._tensorrt, engines._cache_file, engines._cache = stub(), file, None
        engines._kept = read_runtime_cache(file)
        engines._engines = {"step": engine, "prefill": engine}
        for graph, one_shape, strategy in (("step", True, "eager"), ("prefill", False, "none")):
            assert engines.context(graph, one_shape=one_shape) == ("context", engine.config)
            assert engine.config.dynamic_shapes_kernel_specialization_strategy == strategy
        assert engine.read == (kept or None)
        assert engine.given is engines._cache
        engines.close()
        assert file.read_bytes().endswith(b"kernels")
        assert read_runtime_cache(file) == b"kernels"


def test_damaged_or_old_runtime_cache_is_made_again(tmp_path):
    content = b"causalrn runtime cache 2\n" + hashlib.sha256(b"kernels").digest() + b"kernels"
    file = tmp_path / "cache"
    file.write_bytes(content)
    assert read_runtime_cache(file) == b"kernels"
    for damaged in (content[:-1], content[:40], content[:-1] + b"S", b"causalrn runtime cache 1\nkernels"):
        file.write_bytes(damaged)
        assert read_runtime_cache(file) == b"", damaged


def test_file_that_is_no_runtime_cache_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("chapter one")
    with pytest.raises(InputError, match="is no runtime cache: name another file"):
        read_runtime_cache(tmp_path / "thesis.txt")


def test_context_that_is_refused_is_an_error_of_this_machine():
    engines = Engines.__new__(Engines)
    engines._tensorrt = stub(TRT, errors=["out of memory"])
    engines._engines = {"step": SimpleNamespace(create_execution_context=lambda: None)}
    with pytest.raises(GpuFailureError, match=r"no execution context for the step \(out of memory\)"):
        engines.context("step", one_shape=True)
