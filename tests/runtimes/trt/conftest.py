"""Fixtures: sessions on the fake GPU, and the same bundles in onnxruntime."""

from __future__ import annotations

import dataclasses

import pytest

from causalrn.bundle.bundle_folder import Bundle, seal_bundle
from causalrn.runtimes.ort_session import OnnxRuntimeSession
from causalrn.runtimes.trt.trt_session import TensorRTSession
from tests.runtimes.trt.fake_gpu import fake_compile, fake_session
from tests.runtimes.trt.rollouts import KINDS


@pytest.fixture(scope="module")
def sources(bundles, fixed_bundle, tmp_path_factory):
    """ONNX bundles by kind, without the step for one sequence alone: engines are made of the other one."""
    found = {}
    for kind in KINDS:
        path = fixed_bundle if kind == "fixed" else bundles["exact" if kind == "growing" else kind]
        bundle, folder = Bundle.open(path), tmp_path_factory.mktemp("sources")
        graphs = {name: graph for name, graph in bundle.manifest.graphs.items() if name != "step_single"}
        for name in bundle.manifest.files:
            (folder / name).write_bytes((path / name).read_bytes())
        found[kind] = seal_bundle(folder, dataclasses.replace(bundle.manifest, graphs=graphs))
    return found


@pytest.fixture
def opened(sources, tmp_path, monkeypatch):
    """A function that opens (session on the fake GPU, session in onnxruntime) of a kind."""
    sessions: list[TensorRTSession] = []

    def _open(kind, sizes=None, **options):
        compiled = fake_compile(sources[kind], tmp_path / f"engine{len(sessions)}", monkeypatch, sizes or KINDS[kind])
        sessions.append(fake_session(sources[kind], compiled, **options))
        return sessions[-1], OnnxRuntimeSession(sources[kind])

    yield _open
    for session in sessions:
        session.close()
