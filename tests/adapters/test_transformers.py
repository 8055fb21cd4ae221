"""Models of transformers through the adapter: steps and prefills against the parallel form, in float64.

Every architecture of `tiny_models` is run. What is wrong in transformers itself stands in KNOWN, and must still be
wrong there: docs/recurrent-models.md says why.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from causalrn.bundle.tolerances import TOLERANCES
from causalrn.errors import ConfigError, InputError, RuntimeUnavailableError

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'causalrn[transformers]'")

from causalrn.adapters.cache_layers import GROWING_AXES
from causalrn.adapters.kept_float64 import KeptFloat64
from causalrn.adapters.transformers import recurrent
from causalrn.model.own.forms import RecurrentForms
from tests.adapters.form_runs import (
    HALF,
    LENGTH,
    SPLITS,
    VISIBLE,
    compare_chunks,
    compare_padded,
    find_first_difference,
    run_chunks,
    sample_tokens,
)
from tests.adapters.tiny_models import CONFIGURATIONS, VOCABULARY, build_model

LIMIT = TOLERANCES["float64", "recurrent"].relative
BATCHES = {"rwkv": 1}
"""Where two rows do not work: `test_rwkv_mixes_rows`."""

KNOWN = {
    **{
        (architecture, "chunked_prefill"): f"logits at position {HALF}, recurrent of layer 0 after {LENGTH} tokens"
        for architecture in ("mamba", "falcon_mamba", "jamba", "zamba")
    },
    ("recurrent_gemma", "chunked_prefill"): f"logits at position {HALF}, recurrent of layer 0 after {LENGTH} tokens",
    ("minimax", "chunked_prefill"): f"logits at position {HALF}",
    ("nemotron_h", "step"): "logits at position 1, recurrent of layer 3 after 2 tokens",
    ("nemotron_h", "prefill_then_steps"): "logits at position 16, recurrent of layer 3 after 17 tokens",
    ("zamba2", "step"): "logits at position 0, recurrent of layer 1 after 2 tokens",
    ("zamba2", "prefill_then_steps"): "logits at position 13, recurrent of layer 1 after 14 tokens",
}
"""By architecture and split: the first difference from the parallel form.

A prefill onto a state starts its scan (mamba and its like) or its convolution (recurrent_gemma) from zeros, or attends
to its own tokens alone (minimax, with a recurrent layer first); steps do not limit time steps from below as prefills do
(nemotron_h, zamba2).
"""

KNOWN_PADDED = {"minimax": (True,), "recurrent_gemma": (False, True), "zamba2": (True,), "nemotron_h": (True,)}
"""Architectures whose padded rows differ from rows alone: in parallel form (False), in prefill and steps (True)."""


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def float64_forms(architecture: str, **options: Any) -> RecurrentForms:
    return recurrent(build_model(architecture).double(), **options)


def module_of(forms: RecurrentForms) -> Any:
    return getattr(forms.step, "__self__")  # noqa: B009  # the type of a function has none


def tokens_of(architecture: str) -> torch.Tensor:
    return sample_tokens(VOCABULARY, BATCHES.get(architecture, 2))


@pytest.mark.cases(12)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("architecture", CONFIGURATIONS)
def test_recurrent_form_equals_parallel_form(architecture, split):
    forms, tokens = float64_forms(architecture), tokens_of(architecture)
    worst = compare_chunks(forms, tokens, SPLITS[split])
    expected = KNOWN.get((architecture, split))
    if expected is None:
        assert worst < LIMIT, find_first_difference(forms, tokens, SPLITS[split])
    else:
        assert worst > VISIBLE
        assert find_first_difference(forms, tokens, SPLITS[split]) == expected


@pytest.mark.cases(15)
@pytest.mark.parametrize("steps", [False, True], ids=["parallel", "prefill and steps"])
@pytest.mark.parametrize("architecture", [name for name in CONFIGURATIONS if name not in ("rwkv", "xlstm")])
def test_padded_row_equals_row_alone(architecture, steps):
    worst = compare_padded(float64_forms(architecture, padding=True), tokens_of(architecture), steps=steps)
    if steps in KNOWN_PADDED.get(architecture, ()):
        assert worst > VISIBLE
    else:
        assert worst < LIMIT


@pytest.mark.cases(16)
@pytest.mark.parametrize("architecture", CONFIGURATIONS)
def test_state_is_a_function_of_what_is_given(architecture):
    """Nothing that is given changes, nothing that comes shares memory with it, and the model remembers nothing."""
    forms, tokens = float64_forms(architecture), tokens_of(architecture)
    *_, (_, state) = run_chunks(forms, tokens[:, :3], [1, 1, 1])
    before = tree_map(torch.clone, state)
    calls = [forms.step_once(tokens[:, 3], state, torch.tensor(3)) for _ in range(2)]
    calls += [forms.prefill_once(tokens[:, 3:6], state, torch.tensor(3)) for _ in range(2)]
    assert all(map(torch.equal, tree_leaves(state), tree_leaves(before)))
    given = {tensor.untyped_storage().data_ptr() for tensor in tree_leaves(state) if tensor.numel()}
    for first, second in (calls[:2], calls[2:]):
        assert all(map(torch.equal, tree_leaves(first), tree_leaves(second)))
        assert not given & {tensor.untyped_storage().data_ptr() for tensor in tree_leaves(first) if tensor.numel()}


@pytest.mark.parametrize("architecture", CONFIGURATIONS)
def test_state_has_the_batch_on_axis_0(architecture):
    forms = float64_forms(architecture)
    for one, three in zip(tree_leaves(forms.initial_state(1)), tree_leaves(forms.initial_state(3)), strict=True):
        assert one.shape == (1, *three.shape[1:])
        assert three.shape[0] == 3
    for layer in forms.initial_state(2)["layers"]:
        for name, tensor in layer.items():
            assert name not in GROWING_AXES or tensor.shape[GROWING_AXES[name]] == 0


@pytest.mark.cases(16)
@pytest.mark.parametrize("architecture", [name for name in CONFIGURATIONS if name != "rwkv"])
def test_rows_of_a_batch_are_apart(architecture):
    forms, tokens = float64_forms(architecture), sample_tokens(VOCABULARY, 3)[:, :4]
    together = torch.cat([logits for logits, _ in run_chunks(forms, tokens, [1] * 4)], dim=1)
    alone = torch.cat([logits for logits, _ in run_chunks(forms, tokens[1:2], [1] * 4)], dim=1)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=LIMIT * float(alone.abs().max()))


def test_rwkv_mixes_rows():
    """One token of two rows gives logits [2, 2, V] in transformers: refused, not cut."""
    forms = float64_forms("rwkv")
    with pytest.raises(ConfigError, match=r"makes logits \[2, 2, 29\] of tokens \[2, 1\]"):
        forms.step(torch.tensor([1, 2]), forms.initial_state(2))


@pytest.mark.parametrize("architecture", ["llama", "jamba", "minimax", "gemma3_text"])
def test_position_may_be_left_out_where_all_rows_are_kept(architecture):
    forms, tokens = float64_forms(architecture), tokens_of(architecture)
    *_, (_, state) = run_chunks(forms, tokens[:, :9], [1] * 9)
    given, _ = forms.step(tokens[:, 9], state, torch.tensor(9))
    assert forms.may_omit_position
    assert torch.equal(forms.step(tokens[:, 9], state)[0], given)


@pytest.mark.parametrize(("architecture", "takes"), [("mistral", True), ("recurrent_gemma", True), ("mamba", False)])
def test_position_is_asked_for_where_it_is_needed(architecture, takes):
    forms = float64_forms(architecture)
    assert forms.takes_position is takes
    assert not forms.may_omit_position
    with pytest.raises(InputError, match="`position` is missing") if takes else nullcontext():
        module_of(forms).step(torch.tensor([3]), forms.initial_state(1))


@pytest.mark.parametrize("architecture", ["gpt2", "jamba"])
def test_step_can_be_traced(architecture):
    """With free batch and rows: what a graph is made of."""
    model = build_model(architecture)
    experts = model.get_experts_implementation()
    forms, tokens = recurrent(model), sample_tokens(VOCABULARY, 3)
    *_, (_, state) = run_chunks(forms, tokens[:2, :3], [3])
    free = torch.export.Dim.DYNAMIC
    axes = [
        {name: {0: free} | ({GROWING_AXES[name]: free} if name in GROWING_AXES else {}) for name in layer}
        for layer in state["layers"]
    ]
    shapes = {"tokens": {0: free}, "state": {"layers": axes}, "position": None}
    module = module_of(forms)
    program = torch.export.export(module, (tokens[:2, 3], state, torch.tensor(3)), dynamic_shapes=shapes).module()
    assert model.get_experts_implementation() == experts
    *_, (_, state) = run_chunks(forms, tokens[:, :3], [3])
    for position in range(3, 12):
        logits, after = program(tokens[:, position], state, torch.tensor(position))
        expected, state = forms.step(tokens[:, position], state, torch.tensor(position))
        for given, wanted in zip(tree_leaves((logits, after)), tree_leaves((expected, state)), strict=True):
            limit = TOLERANCES["float32", "recurrent"].relative * float(wanted.abs().max())
            torch.testing.assert_close(given, wanted, rtol=0, atol=limit)


def test_copies_in_float64_are_float64_within():
    """A copy of the forms' module is the reference that the float32 model is compared with."""
    forms = recurrent(build_model("mamba2"))
    tokens = tokens_of("mamba2")
    reference = copy.deepcopy(module_of(forms)).double()
    state = reference.initial_state(2)
    assert {tensor.dtype for tensor in tree_leaves(state)} == {torch.float64}
    assert reference.parallel(tokens).dtype == torch.float64
    assert forms.parallel(tokens).dtype == torch.float32
    assert {tensor.dtype for tensor in tree_leaves(forms.initial_state(2))} == {torch.float32}


def test_casts_of_the_model_can_be_kept():
    model, tokens = build_model("mamba").double(), tokens_of("mamba")
    assert recurrent(model, keep_float64=False).parallel(tokens).dtype == torch.float32
    assert recurrent(model).parallel(tokens).dtype == torch.float64


def test_kept_float64_leaves_what_is_written_in_place():
    narrow = torch.zeros(2)
    with KeptFloat64():
        narrow.add_(1)
        wide = torch.full((2,), 1 / 3, dtype=torch.float64).to(torch.float32) + narrow
    assert torch.equal(narrow, torch.ones(2))
    assert wide.dtype == torch.float64
    assert float(wide[0]) == 1 + 1 / 3


@pytest.mark.parametrize("architecture", ["mamba", "jamba", "gpt2", "xlstm", "rwkv"])
def test_blocks_are_the_layers(architecture):
    forms = recurrent(build_model(architecture))
    assert forms.blocks is not None
    assert len(forms.blocks) == len(forms.initial_state(1)["layers"])
    assert forms.vocabulary == VOCABULARY


@pytest.mark.parametrize("name", ["conv", "recurrent", "keys", "values"])
def test_changed_state_is_found(name):
    """The comparison of this file can fail, and names the tensor."""
    forms, tokens = float64_forms("bamba"), tokens_of("bamba")

    def faulty_step(tokens: torch.Tensor, state: Any, position: torch.Tensor) -> Any:
        logits, after = forms.step(tokens, state, position)
        if int(position) == HALF:
            layer = next(layer for layer in after["layers"] if name in layer)
            layer[name] = layer[name] + 1e-3
        return logits, after

    faulty = dataclasses.replace(forms, step=faulty_step)
    assert compare_chunks(faulty, tokens, SPLITS["step"]) > VISIBLE
    assert f"{name} of layer {int(name in ('keys', 'values'))}" in find_first_difference(faulty, tokens, SPLITS["step"])


# --- what is refused ----------------------------------------------------------------------------------------------


def test_missing_transformers_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install 'causalrn\[transformers\]'"):
        recurrent(torch.nn.Linear(2, 2))


def test_other_models_are_refused():
    with pytest.raises(ConfigError, match="Linear: give a model of transformers"):
        recurrent(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"training mode: call model.eval\(\)"):
        recurrent(build_model("llama").train())
    with pytest.raises(ConfigError, match="llama is no causal language model"):
        recurrent(build_model("llama").model)


def test_caches_of_more_than_tensors_are_refused():
    """DeepSeek V4 keeps buffers that it empties every few tokens, and counts in Python."""
    from transformers import DeepseekV4Config
    from transformers.models.deepseek_v4 import modeling_deepseek_v4  # noqa: F401  # registers its caches

    from causalrn.adapters.cache_layouts import DynamicCacheLayout

    with pytest.raises(ConfigError, match=r"deepseek_v4: cache layer 0 is a .*not adapted"):
        DynamicCacheLayout(DeepseekV4Config())


def test_padding_of_models_without_masks_is_refused():
    with pytest.raises(ConfigError, match="xlstm takes no `attention_mask`"):
        recurrent(build_model("xlstm"), padding=True)


def test_padding_after_a_token_is_refused():
    forms = float64_forms("llama", padding=True)
    assert forms.prefill is not None
    with pytest.raises(InputError, match="pad rows on the left"):
        forms.prefill(torch.ones((1, 3), dtype=torch.int64), forms.initial_state(1), None, torch.tensor([[1, 1, 0]]))
