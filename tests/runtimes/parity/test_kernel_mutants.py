"""Wrong results in kernels, programs, graphs, engines and the module of a bundle: every one is caught.

All hashes are mended: only running them tells.
"""

import dataclasses
import shutil

import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.export.c99.c99_exporter import COptions
from causalrn.runtimes.native import builds
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.workflows import verify_backends
from causalrn.workflows.export_targets import export_c_bundle
from causalrn.workflows.verify import verify
from tests.builders import random_model
from tests.c_tools import checkpoint_of, needs_gcc
from tests.runtimes.parity import c_mutants

LEVELS = ("logits", "state", "split", "kernels")
"""Those of all levels that look at what is damaged here: what they catch, all of them together catch."""


def edited_copy(bundle, folder, edits):
    """A bundle with texts replaced in its files, sealed again."""
    shutil.copytree(bundle, folder)
    for name, old, new in edits:
        text = (folder / name).read_text()
        assert old in text, f"{old!r} is not in {name}"
        (folder / name).write_text(text.replace(old, new))
    return seal_bundle(folder, Bundle.open(bundle).manifest).path


def failures(bundle, **options):
    """What fails in a verification."""
    report = verify(bundle, level=LEVELS, fail_fast=True, **options).report
    return [f"{result.level}, {result.runtime}: {result.summary}" for result in report.results if not result.passed]


@pytest.fixture(scope="module")
def quick_compiler(tmp_path_factory):
    """Optimizes little, for what is compiled here is new each time; caches of its own."""
    folder = tmp_path_factory.mktemp("compiler")
    script = folder / "cc"
    script.write_text('#!/bin/sh\nfor word do shift; case "$word" in -O2|-O3) word=-O1;; esac; set -- "$@" "$word"; done\nexec gcc "$@"\n')
    script.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", str(script))
        patch.setenv("CAUSALRN_CACHE", str(folder / "cache"))
        yield folder / "cache"


@pytest.fixture(scope="module")
def c_mutants_of(quick_compiler, runs, c_bundles, tmp_path_factory):
    """C bundles with all mistakes compiled in, and their checkpoints."""
    folder = tmp_path_factory.mktemp("c-mutants")
    checkpoint_of(random_model(capacity=1100, embedding=16, hidden=16, blocks=1), folder / "run")
    sources = {"exact": c_bundles["exact"], "linear": c_bundles["linear"]}
    sources["long"] = export_c_bundle(folder / "run", folder / "whole", COptions()).path
    made = {}
    for name, source in sources.items():
        shutil.copytree(source, folder / name)
        path = folder / name / "causalrn.c"
        path.write_text(c_mutants.mutated_source(path.read_text()))
        seal_bundle(folder / name, Bundle.open(source).manifest)
        made[name] = folder / name, folder / "run" if name == "long" else runs[name]
    return made


@pytest.fixture
def library_alone(monkeypatch):
    """The kernels of the library: builds beside it have none of its mistakes, and would give them away."""
    listed = verify_backends.list_kernels

    def list_library(bundle, options):
        whole = listed(bundle, options)
        return dataclasses.replace(whole, whole=(), programs=whole.programs[:1])

    monkeypatch.setattr(verify_backends, "list_kernels", list_library)
    monkeypatch.setattr(builds, "missing_tools", lambda names: list(names))
    monkeypatch.setattr(builds.Build, "compiled_object", lambda self: None)


@needs_gcc
def test_c_without_a_mistake_passes(c_mutants_of, quick_compiler, library_alone):
    c_mutants.choose_mutant(quick_compiler, 0)
    for bundle, run in c_mutants_of.values():
        assert not failures(bundle)
        assert not failures(bundle, checkpoint=run, runtime="native")


@needs_gcc
@pytest.mark.parametrize("mutant", c_mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_mistakes_in_c_are_caught(c_mutants_of, quick_compiler, library_alone, mutant):
    bundle, run = c_mutants_of[mutant.bundle]
    with NativeSession(Bundle.open(bundle)) as session:
        if "avx512" not in session.isa and "AVX" in mutant.name:
            pytest.skip(f"this processor's best kernel is {session.isa}")
    c_mutants.choose_mutant(quick_compiler, c_mutants.MUTANTS.index(mutant) + 1)
    try:
        found = failures(bundle) if mutant.on_device else failures(bundle, checkpoint=run, runtime="native")
    finally:
        c_mutants.choose_mutant(quick_compiler, 0)
    assert found
