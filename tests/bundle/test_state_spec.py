"""The state contract: names, shapes and update rules that servers and devices rely on."""

import pytest

from causalrn.bundle.json_values import from_json, to_json
from causalrn.bundle.state_spec import StateSpec, StateTensor
from causalrn.errors import ConfigError
from causalrn.model.config import CausalRNConfig
from causalrn.model.state import derive_state

SIZES = {"vocabulary": 29, "embedding": 8, "hidden": 6, "blocks": 12, "capacity": 10}


def test_growing_pool_appends_time_major_rows():
    spec = derive_state(CausalRNConfig(**SIZES))
    first = spec.tensors[0]
    assert (first.name, first.shape, first.update, first.batch_axis) == ("00.pool", ("t", "B", 6), "append", 1)
    assert (first.input, first.output) == ("past.00.pool", "row.00.pool")
    assert spec.step_pad_rows == 1


def test_fixed_pool_has_its_capacity_as_shape():
    spec = derive_state(CausalRNConfig(**SIZES), "fixed", 7)
    assert spec.tensors[0].shape == (7, "B", 6)
    assert spec.step_pad_rows == 0


def test_concat_pool_gives_the_complete_next_state():
    first = derive_state(CausalRNConfig(**SIZES), "concat").tensors[0]
    assert (first.update, first.output) == ("replace", "present.00.pool")


@pytest.mark.parametrize(("readout", "names"), [("linear", ["00.sum"]), ("plain", ["00.max", "00.sum"])])
def test_constant_states_replace(readout, names):
    spec = derive_state(CausalRNConfig(**SIZES, readout=readout), "fixed")
    assert [tensor.name for tensor in spec.tensors[: len(names)]] == names
    assert {tensor.update for tensor in spec.tensors} == {"replace"}
    assert (spec.pool, spec.has_pool) == ("none", False)


def test_sorted_names_are_in_block_order():
    """Servers pair past and present by sorted name: twelve blocks need zero-padded numbers."""
    names = [tensor.name for tensor in derive_state(CausalRNConfig(**SIZES, readout="plain")).tensors]
    assert names == sorted(names)


def test_size_in_bytes_is_the_formula():
    spec = derive_state(CausalRNConfig(**SIZES))
    assert spec.size_bytes(tokens=9, batch=2) == 12 * 9 * 2 * 6 * 4


@pytest.mark.parametrize("pool", ["growing", "fixed", "concat"])
def test_json_round_trip(pool):
    spec = derive_state(CausalRNConfig(**SIZES), pool)
    assert from_json(to_json(spec), StateSpec, "") == spec


def test_unknown_pool_is_refused():
    with pytest.raises(ConfigError, match="pool 'ring' is unknown: choose one of growing, fixed, concat"):
        derive_state(CausalRNConfig(**SIZES), "ring")


def test_fixed_pool_without_any_capacity_is_refused():
    config = CausalRNConfig(29, 8, 8, 1, None, positions="none")
    with pytest.raises(ConfigError, match="a fixed pool needs a capacity"):
        derive_state(config, "fixed")


@pytest.mark.parametrize(
    "changes",
    [{"batch_axis": 9}, {"batch_axis": 1}, {"growth_axis": 2}, {"batch_axis": -1}, {"shape": ("B", 4, 5)}],
)
def test_axes_of_an_own_state_have_to_be_in_its_shape(changes):
    right = {"shape": ("B", "t", 5), "batch_axis": 0, "growth_axis": 1}
    StateTensor("00.keys", "state", update="replace", growth="token", capacity=None, **right)
    with pytest.raises(ValueError, match="axes that cannot be"):
        StateTensor("00.keys", "state", update="replace", growth="token", capacity=None, **(right | changes))


def test_pool_of_an_own_state_has_to_fit_its_updates():
    tensor = StateTensor("00.keys", "state", ("t", "B", 5), "replace", "token", None, batch_axis=1)
    assert StateSpec("concat", (tensor,)).pool == "concat"
    for pool in ("growing", "fixed", "none"):
        with pytest.raises(ValueError, match="with the updates"):
            StateSpec(pool, (tensor,))
