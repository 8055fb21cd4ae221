"""States as trees: names of their tensors, and the way between the tree and the list of tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from causalrn.errors import InputError
from causalrn.model.own.state_tree import StateTree, clone


class Pair(NamedTuple):
    hidden: torch.Tensor
    cell: torch.Tensor


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("state", "names"),
    [
        (zeros(2, 3), ["00.state"]),
        ([zeros(2), zeros(2)], ["00.state", "01.state"]),
        (
            [{"conv": zeros(2), "ssm": zeros(2)}, {"conv": zeros(2), "ssm": zeros(2)}],
            ["00.conv", "00.ssm", "01.conv", "01.ssm"],
        ),
        ({"layers": [{"key": zeros(2)}], "count": zeros(2)}, ["00.key", "00.count"]),
        ((Pair(zeros(1), zeros(1)), None, 3), ["00.hidden", "00.cell"]),
        ({"a b": zeros(1), "a-b": zeros(1)}, ["00.a_b", "00.a_b_1"]),
        ({"a_b_2": zeros(1), "a-b": zeros(1), "a_b": zeros(1)}, ["00.a_b_2", "00.a_b", "00.a_b_3"]),
        (
            {"a_b_3": zeros(1), "a-b": zeros(1), "c": zeros(1), "a_b": zeros(1)},
            ["00.a_b_3", "00.a_b", "00.c", "00.a_b_4"],
        ),
        ({"größe": zeros(1), "": zeros(1)}, ["00.gr_e", "00._"]),
        ([[zeros(1), zeros(1)]], ["00.0", "00.1"]),
    ],
)
def test_names_are_block_numbers_and_paths(state: Any, names: list[str]) -> None:
    assert list(StateTree.of(state).names) == names


def test_names_of_many_tensors_sort_as_they_stand() -> None:
    names = StateTree.of([zeros(1) for _ in range(120)]).names
    assert len(set(names)) == 120
    assert sorted(names) == list(names)


def test_tree_is_put_together_again() -> None:
    state = {"blocks": [Pair(zeros(2), zeros(3)), (None, 4, "x", 0.5)], "last": zeros(1)}
    tree = StateTree.of(state)
    tensors = [torch.ones(2), torch.ones(3), torch.ones(1)]
    made = tree.unflatten(tensors)
    assert isinstance(made["blocks"][0], Pair)
    assert made["blocks"][1] == (None, 4, "x", 0.5)
    assert all(one is two for one, two in zip(tree.flatten(made), tensors, strict=True))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (None, "holds no tensor"),
        ([], "holds no tensor"),
        ([1, 2.0, None], "holds no tensor"),
        ([object(), zeros(1)], "holds object at "),
        ({"x": zeros(1), "y": {1, 2}}, "holds set at "),
        ([zeros(1), torch.zeros(1, dtype=torch.complex64)], "is complex64"),
        ([torch.zeros(2, 2).to_sparse()], "sparse"),
        ([torch.zeros(2, device="meta")], "without data"),
    ],
)
def test_states_that_cannot_be_carried_are_refused(state: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        StateTree.of(state)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ([zeros(1)], "`step` gave a state that is built otherwise than `initial_state`'s: 1 entries, 3 before"),
        ([zeros(1), (zeros(1), 3)], "built otherwise"),
        ([zeros(1), zeros(1), 4], "`step` changed 3 in the state to 4"),
        ([zeros(1), 1.0, 3], "changed None in the state to 1.0"),
    ],
)
def test_states_that_are_built_otherwise_are_refused(state: Any, words: str) -> None:
    tree = StateTree.of([zeros(1), zeros(1), 3])
    with pytest.raises(InputError, match=words):
        tree.flatten(state)


def test_state_that_holds_itself_is_refused() -> None:
    state: list[Any] = [zeros(1)]
    state.append(state)
    with pytest.raises(InputError, match="holds itself"):
        StateTree.of(state)


def test_dicts_are_matched_by_key_and_lists_are_tuples() -> None:
    first, second, third = zeros(1), zeros(2), zeros(3)
    tree = StateTree.of({"a": [first, None], "b": Pair(second, third)})
    assert all(
        one is two
        for one, two in zip(
            tree.flatten({"b": (second, third), "a": (first, None)}), (first, second, third), strict=True
        )
    )


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a": [zeros(1)], "c": zeros(1)}, "the keys 'a', 'c', the keys 'a', 'b' before"),
        ({"a": [zeros(1), zeros(1)], "b": zeros(1)}, r"2 entries at \['a'\], 1 before"),
        ({"a": zeros(1), "b": zeros(1)}, r"a Tensor at \['a'\], 1 before"),
        ({"a": [{"x": zeros(1)}], "b": zeros(1)}, r"a dict of 1 at \['a'\]\[0\], one entry before"),
        ([zeros(1), zeros(1)], "a list, the keys 'a', 'b' before"),
    ],
)
def test_difference_between_states_is_named(state: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"built otherwise than `initial_state`'s: {words}"):
        StateTree.of({"a": [zeros(1)], "b": zeros(1)}).flatten(state)


def test_tensor_in_place_of_a_number_is_refused() -> None:
    tree = StateTree.of([zeros(1), 3])
    with pytest.raises(InputError, match="gave 2 tensors in its state, 1 before"):
        tree.flatten([zeros(1), zeros(1)])


def test_copies_are_contiguous_and_apart() -> None:
    value = torch.arange(6.0).reshape(2, 3).mT
    (copy,) = clone([value])
    copy += 1
    assert copy.is_contiguous()
    assert value[0, 0] == 0
