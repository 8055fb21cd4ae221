"""Compiling once, keeping the result, and saying what is missing."""

import errno
import os
import stat
from pathlib import Path

import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.compiling import c_compiler, code_cache
from causalrn.compiling.c_compiler import find_compiler, shared_library
from causalrn.errors import BundleError, FallbackWarning, RuntimeUnavailableError
from causalrn.runtimes.native.library import compiled_library
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


@pytest.mark.cases(0)
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
    with pytest.warns(FallbackWarning, match="it cannot be written to"), NativeSession(bundle) as session:
        session.step([1])
    assert not list(cache.iterdir())


@needs_c_compiler
def test_cache_in_the_way_of_a_file_is_not_needed(bundle, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAUSALRN_CACHE", str(tmp_path / "file"))
    with pytest.warns(FallbackWarning, match="file: File exists.*set CAUSALRN_CACHE to a folder of yours"):
        library = compiled_library(bundle, bundle.manifest.native)
    assert library.is_file()
    assert tmp_path not in library.parents


SOURCE = {"x.c": b"int x(void) { return 1; }"}


def make_library():
    return shared_library(SOURCE, (), "x.c")


@needs_c_compiler
@pytest.mark.parametrize("mode", [0o770, 0o707], ids=oct)
def test_folder_that_others_may_write_to_is_not_used(cache, mode, counted):
    cache.mkdir()
    cache.chmod(mode)
    with pytest.warns(FallbackWarning, match=f"{cache}: it is not yours alone.*CAUSALRN_CACHE"):
        first = make_library()
    with pytest.warns(FallbackWarning):
        assert make_library() == first, "one folder serves the whole process"
    assert len(counted) <= 1
    assert not list(cache.iterdir())


@needs_c_compiler
def test_folder_of_somebody_else_is_not_used(cache, monkeypatch):
    cache.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(cache, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.warns(FallbackWarning, match="it is not yours alone"):
        assert cache not in make_library().parents


def cut_short(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def let_others_write(path):
    path.chmod(0o777)


def replace_by_a_link(path):
    elsewhere = path.rename(path.parent.parent / "elsewhere.so")
    path.symlink_to(elsewhere)


@needs_c_compiler
@pytest.mark.parametrize("damage", [cut_short, change_a_byte, let_others_write, replace_by_a_link])
def test_entry_that_is_not_as_it_was_written_is_made_again(cache, counted, damage):
    kept = make_library()
    whole = kept.read_bytes()
    damage(kept)
    again = make_library()
    assert len(counted) == 2
    assert again.read_bytes() == whole
    assert not again.is_symlink()
    assert again.stat().st_mode & 0o077 == 0
    assert list(cache.iterdir()) == [again]


@needs_c_compiler
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_entry_of_somebody_else_is_made_again(cache, counted):
    os.chown(make_library(), 12345, 12345)
    assert make_library().stat().st_uid == 0
    assert len(counted) == 2


@needs_c_compiler
def test_folder_from_which_nothing_can_be_run_is_not_used(cache, monkeypatch):
    can_execute = code_cache._can_execute
    monkeypatch.setattr(code_cache, "_can_execute", lambda folder: folder != cache and can_execute(folder))
    with pytest.warns(FallbackWarning, match=r"noexec.*set CAUSALRN_CACHE to a folder of yours"):
        library = make_library()
    assert cache not in library.parents


@needs_c_compiler
def test_nowhere_to_run_code_from_is_one_line(cache, monkeypatch):
    monkeypatch.setattr(code_cache, "_process_folder", lambda: None)
    monkeypatch.setattr(code_cache, "_can_execute", lambda folder: False)
    with pytest.raises(RuntimeUnavailableError, match=r"noexec.*set CAUSALRN_CACHE to a folder of yours from which"):
        make_library()


@pytest.mark.skipif(not Path("/proc/mounts").is_file(), reason="Linux says there how folders are mounted")
def test_noexec_is_what_the_system_says():
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    noexec = {place: "noexec" in options.split(",") for _, place, _, options, *_ in mounts}
    readable = [place for place in noexec if os.access(place, os.R_OK)]
    assert readable
    assert {place: not code_cache._can_execute(Path(place)) for place in readable} == {
        place: noexec[place] for place in readable
    }


@needs_c_compiler
@pytest.mark.parametrize("who", ["write", "compiler"])
def test_full_folder_is_left_for_a_private_one(cache, monkeypatch, tmp_path, who):
    cache.mkdir(mode=0o700)
    write_really = Path.write_bytes

    def write(path, content):
        if cache in path.parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_really(path, content)

    if who == "write":
        monkeypatch.setattr(Path, "write_bytes", write)
    else:
        full = tmp_path / "full-cc"
        full.write_text(f"""#!/bin/sh
case $PWD in {cache}*) echo "fatal error: error writing: No space left on device" >&2; exit 1;; esac
exec {find_compiler()[0]} "$@"
""")
        full.chmod(0o755)
        monkeypatch.setenv("CC", str(full))
    with pytest.warns(FallbackWarning, match=f"{cache}: No space left on device.*set CAUSALRN_CACHE"):
        assert cache not in make_library().parents
    assert not list(cache.iterdir())


@needs_c_compiler
def test_everything_full_is_one_line(cache, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(c_compiler, "_compile", fail)
    message = "No space left on device: free some space, or set CAUSALRN_CACHE to a folder that has some"
    with pytest.warns(FallbackWarning), pytest.raises(RuntimeUnavailableError, match=message):
        shared_library({"x.c": b"int full;"}, (), "x.c")


@needs_c_compiler
def test_what_a_killed_process_left_goes_after_an_hour(cache):
    old, young = cache / ".compiling-old", cache / ".compiling-young"
    cache.mkdir(mode=0o700)
    for folder in (old, young):
        folder.mkdir()
        (folder / "x.o").write_bytes(b"half")
    os.utime(old, (0, 0))
    make_library()
    assert young.exists()
    assert not old.exists()


@needs_c_compiler
def test_library_that_does_not_load_is_named(bundle, cache, monkeypatch):
    monkeypatch.setattr(c_compiler, "_compile", lambda command, made, what: made.write_bytes(b"not a library"))
    with pytest.raises(RuntimeUnavailableError, match=r"does not load .*: set CAUSALRN_CACHE to another folder"):
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
