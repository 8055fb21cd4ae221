"""Fixtures: bundles of every kind of state that OpenVINO has to run, each beside its RUN."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from causalrn.bundle.alphabet import Alphabet
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.training.tasks import CopyTask
from causalrn.workflows.export_targets import export_bundle
from tests.builders import OnDemand, random_model

MODELS = {
    "heads": {"readout": "exact", "heads": 2},
    "rms": {"readout": "exact", "norm": "rms"},
    "transformer": {"attention": "softmax", "heads": 2},
    "linear-transformer": {"attention": "linear"},
}
POOLS: dict[str, dict[str, Any]] = {
    "exact-fixed": {"pool": "fixed"},
    "exact-present": {"pool": "fixed", "present": True},
    "exact-concat": {"pool": "concat"},
}
KINDS = ("exact", "linear", "plain", *POOLS, *MODELS)


@pytest.fixture(scope="session")
def ov_bundles(runs, bundles, share):
    """By kind: (bundle, RUN), exported when it is first asked for."""

    def fill(folder: Path, kind: str) -> None:
        run = runs["exact"]
        if kind in MODELS:
            model, run = random_model(5, **MODELS[kind]), folder / "run"
            save_checkpoint(run, model, ModelCard(model.config, Alphabet("letters"), CopyTask(19)), {})
        export_bundle(run, folder / "bundle", capacity=None, opset=23, **POOLS.get(kind, {"pool": "growing"}))

    def exported(kind: str) -> tuple[Path, Path]:
        if kind in bundles:
            return bundles[kind], runs[kind]
        folder = share(f"ov-{kind}", partial(fill, kind=kind))
        return folder / "bundle", folder / "run" if kind in MODELS else runs["exact"]

    return OnDemand(exported)
