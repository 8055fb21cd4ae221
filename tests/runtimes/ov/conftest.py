"""Fixtures: bundles of every kind of state that OpenVINO has to run, each beside its RUN."""

from __future__ import annotations

from pathlib import Path

import pytest

from causalrn.bundle.alphabet import Alphabet
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.training.tasks import CopyTask
from causalrn.workflows.export_targets import export_bundle
from tests.builders import random_model

MODELS = {
    "heads": {"readout": "exact", "heads": 2},
    "rms": {"readout": "exact", "norm": "rms"},
    "transformer": {"attention": "softmax", "heads": 2},
    "linear-transformer": {"attention": "linear"},
}
POOLS = {"exact-fixed": {"pool": "fixed"}, "exact-present": {"pool": "fixed", "present": True}}
KINDS = ("exact", "linear", "plain", *POOLS, "exact-concat", *MODELS)


@pytest.fixture(scope="session")
def ov_bundles(runs, bundles, share):
    """By kind: (bundle, RUN)."""

    def fill(folder: Path) -> None:
        for name, options in MODELS.items():
            model = random_model(5, **options)
            run = folder / f"{name}-run"
            save_checkpoint(run, model, ModelCard(model.config, Alphabet("letters"), CopyTask(19)), {})
            export_bundle(run, folder / name, pool="growing", capacity=None, opset=23)
        for name, options in {**POOLS, "exact-concat": {"pool": "concat"}}.items():
            export_bundle(runs["exact"], folder / name, capacity=None, opset=23, **options)

    folder = share("ov-bundles", fill)
    found = {readout: (bundles[readout], runs[readout]) for readout in ("exact", "linear", "plain")}
    found |= {name: (folder / name, runs["exact"]) for name in (*POOLS, "exact-concat")}
    return found | {name: (folder / name, folder / f"{name}-run") for name in MODELS}
