"""What is converted wrongly never becomes a bundle, and what cannot be converted is one clear line."""

from __future__ import annotations

import pytest

import causalrn
from causalrn.bundle.conversions import CONVERSIONS, Conversion
from causalrn.errors import ConfigError, RuntimeUnavailableError, VerificationError
from causalrn.export.converted_graphs import ConvertedOptions
from causalrn.export.executorch import executorch_exporter
from causalrn.model.cell import RecurrentCell
from tests.builders import random_model
from tests.executorch_tools import needs_executorch


def export(run, output, **options):
    return causalrn.export(run, output=output, target="executorch", backend="portable", capacity=12, **options)


class WeightOff(RecurrentCell):
    """One weight is off by a thousandth."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        weight = self.blocks[1].w3.clone()
        weight[3, 4] += 1e-3
        self.blocks[1].w3 = weight


class StatesSwapped(RecurrentCell):
    """The rows of two blocks change places on the way out."""

    def forward(self, tokens, position, *state):
        logits, first, second = super().forward(tokens, position, *state)
        return logits, second.clone(), first.clone()


class StatesSwappedInside(RecurrentCell):
    """Each block reads the other's pool."""

    def forward(self, tokens, position, *state):
        return super().forward(tokens, position, *state[::-1])


@needs_executorch
@pytest.mark.slow
@pytest.mark.parametrize("wrong", [WeightOff, StatesSwapped, StatesSwappedInside])
def test_wrong_conversion_leaves_no_bundle(wrong, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(executorch_exporter, "RecurrentCell", wrong)
    with pytest.raises(VerificationError, match=r"nothing was written to .*bundle: in executorch the converted graphs"):
        export(runs["exact"], tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_one_line_that_installs_it(runs, tmp_path, monkeypatch, call):
    missing = Conversion(**{**vars(CONVERSIONS["executorch"]), "modules": ("no_such_package",)})
    monkeypatch.setattr("causalrn.workflows.export_converted.CONVERSIONS", {"executorch": missing})
    with pytest.raises(RuntimeUnavailableError, match="this needs ExecuTorch, which is not installed: pip"):
        export(runs["exact"], tmp_path / "bundle")
    monkeypatch.setattr("causalrn.cli.export_command.CONVERSIONS", {"executorch": missing})
    code, _, err = call("export", runs["exact"], "-o", tmp_path / "bundle", "--target", "executorch")
    assert (code, err) == (
        2,
        "Error: this needs ExecuTorch, which is not installed: pip install 'causalrn[executorch]'\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "metal"}, "`backend` metal is nothing that ExecuTorch has: choose from xnnpack, portable"),
        ({"backend": "portable", "pool": "concat"}, "`pool` concat is nothing that ExecuTorch has"),
        (
            {"backend": "xnnpack", "scheme": "w4"},
            "`scheme` w4 is nothing that ExecuTorch has: choose from w8a8-dynamic",
        ),
        (
            {"backend": "portable", "scheme": "w8a8-dynamic"},
            "`backend` portable of ExecuTorch computes in float32 only, and `scheme` is w8a8-dynamic: choose xnnpack",
        ),
    ],
)
def test_what_the_target_does_not_have_is_refused(options, message):
    with pytest.raises(ConfigError) as caught:
        ConvertedOptions(**options).check_for(CONVERSIONS["executorch"])
    assert message in str(caught.value)


def test_backend_belongs_to_converted_targets(runs, tmp_path):
    with pytest.raises(causalrn.InputError, match="`backend` belongs to `target` executorch"):
        causalrn.export(runs["exact"], output=tmp_path / "bundle", backend="portable")


def test_prefill_chunks_stay_within_the_capacity():
    for readout, capacity, chunk in (("exact", 40, 16), ("linear", 40, 40), ("linear", 100, 64), ("exact", 3, 3)):
        cell = RecurrentCell.from_model(random_model(readout=readout, capacity=capacity))
        assert executorch_exporter._prefill_chunk(cell.config, cell.spec) == chunk
