"""Compiling once, keeping the result, and saying what is missing."""

import os
import stat

import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.errors import BundleError, RuntimeUnavailableError
from causalrn.runtimes.native import c_compiler
from causalrn.runtimes.native.c_compiler import compiled_library, find_compiler
from causalrn.runtimes.native.native_session import NativeSession
from tests.builders import random_model
from tests.c_tools import c_bundle, needs_c_compiler


@pytest.fixture
def bundle(tmp_path):
    return c_bundle(random_model(blocks=1), tmp_path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("CAUSALRN_CACHE", str(folder))
    return folder


@pytest.fixture
def counted(monkeypatch):
    """How often the compiler has been called."""
    calls, compile_really = [], c_compiler._compile

    def count(*arguments):
        calls.append(arguments)
        compile_really(*arguments)

    monkeypatch.setattr(c_compiler, "_compile", count)
    return calls


@needs_c_compiler
def test_second_session_compiles_nothing(bundle, cache, counted):
    for _ in range(2):
        NativeSession(bundle).step([1])
    assert len(counted) == 1
    assert [path.suffix for path in cache.iterdir()] == [".so"], "nothing else is left there"
    assert stat.S_IMODE(cache.stat().st_mode) & 0o077 == 0, "code that is loaded is nobody else's to write"


@needs_c_compiler
def test_same_source_with_other_weights_is_compiled_again_only_if_the_header_differs(tmp_path, cache, counted):
    for seed, place in ((0, "a"), (1, "b"), (1, "c")):
        (tmp_path / place).mkdir()
        NativeSession(c_bundle(random_model(seed, blocks=1), tmp_path / place)).step([1])
    assert len(counted) == 2  # a header names the weights that it belongs to


def test_no_compiler_is_a_clear_error(bundle, cache, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeUnavailableError, match=r"no C compiler .* was found: install gcc or clang, or set CC"):
        NativeSession(bundle)


def test_cc_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("CC", "abacus-cc -O1")
    with pytest.raises(RuntimeUnavailableError, match="CC=abacus-cc is not there"):
        find_compiler()


@needs_c_compiler
def test_cc_may_carry_flags(bundle, cache, monkeypatch):
    monkeypatch.setenv("CC", f"{find_compiler()[0]} -DCAUSALRN_NO_VECTORS")
    with NativeSession(bundle) as session:
        assert session.isa == "portable"


@needs_c_compiler
def test_source_that_does_not_compile_is_the_bundles_fault(bundle, cache):
    path = bundle.path / "causalrn.c"
    path.write_text(path.read_text() + "\nint oops(\n")
    broken = seal_bundle(bundle.path, bundle.manifest)
    with pytest.raises(BundleError, match=r"cannot compile causalrn\.c: .*error"):
        NativeSession(broken)
    assert not list(cache.glob("*.so"))


@needs_c_compiler
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_cache_that_cannot_be_written_is_not_needed(bundle, cache):
    cache.mkdir(mode=0o500)
    with NativeSession(bundle) as session:
        session.step([1])
    assert not list(cache.iterdir())


@needs_c_compiler
def test_cache_in_the_way_of_a_file_is_not_needed(bundle, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAUSALRN_CACHE", str(tmp_path / "file"))
    library = compiled_library(bundle, bundle.manifest.native)
    assert library.is_file()
    assert tmp_path not in library.parents


@needs_c_compiler
def test_library_that_does_not_load_is_named(bundle, cache):
    library = compiled_library(bundle, bundle.manifest.native)
    library.write_bytes(b"not a library")
    with pytest.raises(RuntimeUnavailableError, match=r"does not load .*: delete it"):
        NativeSession(bundle)


@needs_c_compiler
def test_source_of_another_model_than_the_manifest_is_refused(tmp_path, cache):
    small, large = (tmp_path / name for name in ("small", "large"))
    small.mkdir(), large.mkdir()
    one = c_bundle(random_model(blocks=1), small)
    two = c_bundle(random_model(blocks=2), large)
    for name in ("causalrn.h", "weights.bin"):
        (one.path / name).write_bytes((two.path / name).read_bytes())
    mixed = seal_bundle(one.path, one.manifest)
    with pytest.raises(BundleError, match="its C source is of another model than its manifest"):
        NativeSession(Bundle.open(mixed.path))
