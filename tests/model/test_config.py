"""Configurations that make sense, and one line for each that does not."""

import pytest

from causalrn.bundle.json_values import parse_json_object
from causalrn.errors import ConfigError
from causalrn.model.config import CausalRNConfig, ModelConfig

SIZES = {"vocabulary": 29, "embedding": 8, "hidden": 8, "blocks": 2, "capacity": 10}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"readout": "fast"}, r"readout 'fast' is unknown: choose one of exact, linear, plain"),
        ({"activation": "tanh"}, "activation 'tanh' is unknown"),
        ({"heads": 3}, "heads 3 does not divide hidden 8"),
        ({"heads": 8}, "width below 2"),
        ({"embedding": 1}, "embedding is 1: it must be a whole number from 2 to 2,147,483,648"),
        ({"blocks": 0}, "blocks is 0"),
        ({"vocabulary": 2.5}, "vocabulary is 2.5"),
        ({"blocks": True}, "blocks is True"),
        ({"capacity": None}, "capacity None and positions 'learned' contradict"),
        ({"positions": "none"}, "capacity 10 and positions 'none' contradict"),
        ({"capacity": 0}, "capacity is 0"),
        ({"norm_eps": -1e-9}, "norm_eps is -1e-09: it must be a number from 0 to 1"),
        ({"norm_eps": float("nan")}, "norm_eps is nan"),
        ({"norm_eps": True}, "norm_eps is True"),
        ({"norm_eps": "1e-5"}, "norm_eps is '1e-5'"),
        ({"hidden": 2}, "ties to rounding"),
        ({"hidden": 2, "readout": "linear"}, "ties to rounding"),
        ({"head_scale": "max", "readout": "linear", "norm_eps": 1e-5, "post_norm": False}, "head_scale max belongs"),
        ({"head_scale": "max", "readout": "linear"}, "head_scale max belongs to the exact readout"),
        ({"head_scale": "max", "activation": "relu"}, "head_scale max belongs to the exact readout with exp"),
    ],
)
def test_contradictions_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        CausalRNConfig(**{**SIZES, **change})


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, "max"), ({"post_norm": False}, "none"), ({"activation": "relu"}, "none"), ({"readout": "plain"}, "none")],
)
def test_default_head_scale_follows_official_code(options, expected):
    assert CausalRNConfig(**SIZES, **options).head_scale == expected


@pytest.mark.parametrize(
    ("readout", "activation", "expected"),
    [
        ("exact", "exp", "pool"),
        ("linear", "exp", "sum"),
        ("plain", "exp", "max+sum"),
        ("linear", "relu", "pool"),
        ("plain", "gelu", "pool"),
    ],
)
def test_state_is_constant_only_where_algebra_allows(readout, activation, expected):
    assert CausalRNConfig(**SIZES, readout=readout, activation=activation).state_kind == expected


def test_json_round_trip():
    config = CausalRNConfig(**SIZES, heads=2, norm="rms", bias_head=True)
    assert ModelConfig.from_entries(config.entries()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 3}, "here: unknown width"),
        ({"post_norm": "no"}, "here: model configuration: post_norm: expected bool, got str"),
        ({"hidden": "8"}, "here: model configuration: hidden: expected int, got str"),
        ({"readout": ["exact"]}, "here: model configuration: readout: expected str, got array"),
    ],
)
def test_json_with_wrong_values_names_the_source(change, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_entries(CausalRNConfig(**SIZES).entries() | change, "here")


def test_json_without_a_field_is_refused():
    with pytest.raises(ConfigError, match="model configuration: the entry vocabulary is missing"):
        ModelConfig.from_entries({"embedding": 8, "hidden": 8, "blocks": 2, "capacity": 10})


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_text_that_is_no_json_object_is_refused(text):
    with pytest.raises(ConfigError, match=r"file\.json"):
        parse_json_object(text, "file.json")


def test_an_eps_is_written_only_where_there_is_one():
    plain, with_eps = CausalRNConfig(**SIZES), CausalRNConfig(**SIZES, readout="linear", norm_eps=1e-5)
    assert "norm_eps" not in plain.entries()
    assert ModelConfig.from_entries(plain.entries()) == plain
    assert with_eps.entries()["norm_eps"] == 1e-5
    assert ModelConfig.from_entries(with_eps.entries()) == with_eps
    assert with_eps.head_scale == "max"
    assert "norm eps 1e-05" in with_eps.describe()


@pytest.mark.parametrize("options", [{"norm": "rms"}, {"post_norm": False}, {"readout": "plain"}], ids=str)
def test_two_channels_are_fine_where_no_tie_decides(options):
    assert CausalRNConfig(**{**SIZES, "hidden": 2}, **options).hidden == 2
