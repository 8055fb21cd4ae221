"""Wrong results in kernels, programs, graphs, engines and the module of a bundle: every one is caught.

All hashes are mended: only running them tells.
"""

import dataclasses
import shutil
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.errors import BundleError
from causalrn.export.c99.c99_exporter import COptions
from causalrn.runtimes import kernel_list
from causalrn.runtimes.native import builds
from causalrn.runtimes.native.native_session import NativeSession
from causalrn.runtimes.session_options import SessionOptions
from causalrn.workflows import verify_backends as verify_backends
from causalrn.workflows.export_targets import export_c_bundle
from causalrn.workflows.verify import verify
from tests.builders import random_model
from tests.c_tools import checkpoint_of, needs, needs_gcc
from tests.runtimes.parity import mutants
from tests.runtimes.parity.kernels import c_mutants, web_mutants
from tests.web_tools import needs_web

_LESS_OPTIMIZATION = """#!/bin/sh
for word do
  shift
  case "$word" in -O2|-O3) word=-O1 ;; esac
  set -- "$@" "$word"
done
exec gcc "$@"
"""
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
    script.write_text(_LESS_OPTIMIZATION)
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
    listed = kernel_list.list_kernels

    def list_library(bundle, options, runtime):
        whole, kernels = listed(bundle, options, runtime), []
        for kernel in whole.kernels:
            if kernel.name != "plain C" or bundle.path.name == "exact":  # slow, and compiled by itself
                kernels.append(kernel)
        return dataclasses.replace(whole, kernels=kernels, whole=(), programs=whole.programs[:1])

    monkeypatch.setattr(ThreadPoolExecutor, "submit", lambda *call: None)
    monkeypatch.setattr(verify_backends, "list_kernels", list_library)
    monkeypatch.setattr(builds, "missing_tools", lambda names: list(names))
    monkeypatch.setattr(builds.Build, "compiled_object", lambda self: None)


@pytest.mark.cases(0)
@needs_gcc
def test_c_without_a_mistake_passes(c_mutants_of, quick_compiler, library_alone):
    c_mutants.choose_mutant(quick_compiler, 0)
    for bundle, _ in c_mutants_of.values():
        assert not failures(bundle)


@pytest.mark.cases(3)
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


def first_wrong(bundle):
    """The first program of a bundle that fails, or what fails in a verification."""
    listed = kernel_list.list_kernels(Bundle.open(bundle), SessionOptions())
    for program in listed.programs:
        right, words = program.run()
        if not right:
            return [f"{program.name}: {words}"]
    return failures(bundle)


@pytest.mark.cases(4)
@needs_web
@pytest.mark.parametrize("mutant", web_mutants.MODULE.values(), ids=web_mutants.MODULE)
def test_mistakes_in_the_module_are_caught(web_bundles, tmp_path, mutant):
    readout = "exact" if "hasPool" in mutant[1] else "linear"
    assert first_wrong(edited_copy(web_bundles[readout], tmp_path / "site", [mutant]))


@pytest.mark.cases(2)
@needs_web
@pytest.mark.parametrize(("file", "constant"), web_mutants.ENGINES.values(), ids=web_mutants.ENGINES)
def test_wrong_engines_are_caught(web_bundles, tmp_path, file, constant):
    shutil.copytree(web_bundles["linear"], tmp_path / "site")
    path = tmp_path / "site" / file
    if constant is None:
        path.write_bytes(b"")
    else:
        value = float.fromhex(constant)
        old, new = (struct.pack("<f", number) for number in (value, 1.01 * value))
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new))
    seal_bundle(tmp_path / "site", Bundle.open(web_bundles["linear"]).manifest)
    if constant is None and file == "engine_simd.wasm":
        with pytest.raises(BundleError, match="no module that runs here"):
            failures(tmp_path / "site")
    else:
        assert failures(tmp_path / "site")


ONE_GRAPH = {
    "W3 in step_single": ("step_single", "blocks.1.w3", (2, 5), 1e-3),
    "W3 in step": ("step", "blocks.1.w3", (2, 5), 1e-3),
    "rows that step alone writes": ("step", "blocks.1.w12", (32 + 8, 0), 1e-3),
    "rows that prefill alone writes": ("prefill", "blocks.1.w12", (32 + 8, 0), 1e-3),
    "a late position in prefill": ("prefill", "wpe", (38, 3), 1e-2),
}
"""A weight of one graph alone is off."""


@pytest.mark.cases(2)
@pytest.mark.parametrize(("graph", "tensor", "place", "amount"), ONE_GRAPH.values(), ids=ONE_GRAPH)
def test_one_wrong_graph_is_caught(bundles, tmp_path, graph, tensor, place, amount):
    def damage(model, name):
        if name == graph:
            mutants.change(tensor, mutants.add(place, amount))(model, name)

    damaged = mutants.damaged_copy(bundles["exact"], tmp_path / "bundle", damage)
    report = verify(damaged, level="kernels").report
    assert [result.runtime for result in report.results if not result.passed] == [
        f"onnxruntime, {Bundle.open(damaged).manifest.graphs[graph].file}"
    ]


PROGRAMS = {
    "self-test that allows anything": ("selftest.c", "/ golden_bounds[step];", "/ 1e9f;"),
    "self-test that never fails": ("selftest.c", "return !(*worst <= 1.0f) ? -1 :", "return 0 ? -1 :"),
    "example that takes the least likely token": (
        "example.c",
        "logits[other] > logits[token]",
        "logits[other] < logits[token]",
    ),
}


@pytest.mark.cases(1)
@needs_gcc
@pytest.mark.parametrize("mutant", PROGRAMS.values(), ids=PROGRAMS)
def test_wrong_programs_are_caught(quick_compiler, c_bundles, tmp_path, mutant):
    folder = edited_copy(c_bundles["exact"], tmp_path / "source", [mutant])
    listed = kernel_list.list_kernels(Bundle.open(folder), SessionOptions())
    assert [program.name for program in listed.programs if not program.run()[0]] == [mutant[0]]


@pytest.mark.cases(0)
@needs_gcc
@needs(builds.ARM_COMPILER, builds.arm_emulator()[0], packages="gcc-aarch64-linux-gnu, qemu-user")
def test_a_mistake_on_another_processor_is_caught_by_default(quick_compiler, c_bundles, tmp_path):
    norm = "store(out + i, mul(load(in + i), scale));"
    wrong = f"{{ {norm}\n#ifdef __aarch64__\nstore(out + i, mul(load(out + i), set(1.01f)));\n#endif\n}}"
    folder = edited_copy(c_bundles["exact"], tmp_path / "source", [("causalrn.c", norm, wrong)])
    failed = [result for result in verify(folder).report.results if not result.passed]
    assert [result.runtime for result in failed] == ["native, ARM (emulated)", "native, ARM (reproducible)"]
    assert all(result.error is not None and result.error > result.allowed for result in failed)


@pytest.mark.cases(0)
@needs_gcc
@needs(builds.ARM_COMPILER, builds.arm_emulator()[0], packages="gcc-aarch64-linux-gnu, qemu-user")
def test_a_mistake_in_dot_products_of_arm_is_caught(quick_compiler, runs, tmp_path):
    bundle = export_c_bundle(runs["linear"], tmp_path / "bundle", COptions(scheme="w8a8-dynamic")).path
    edit = ("causalrn.c", "vdotq_s32(c.v[i]", "vdotq_s32(c.v[0]")
    folder = edited_copy(bundle, tmp_path / "source", [edit])
    failed = [result.runtime for result in verify(folder, level="kernels").report.results if not result.passed]
    assert failed == ["native, ARM dot product (emulated)"]
