"""What training scripts put around a state dict: dictionaries, prefixes of wrappers, optimizers. Found by content.

A weight is known by the end of its key: ``model._orig_mod.module.block_all.0.fc_1.weight`` is one whose wrappers came
before it. Whose weights those are is for the caller to say, by a function from a name to a name of ours.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from causalrn.errors import CheckpointError

Rename = Callable[[str], str | None]
"""A key without wrappers to our name, "" for a buffer that is no weight; None for what it does not know."""

_WRAPPERS = re.compile(r"(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
"""Parts of a key that come from torch.compile, data parallel and their kin, wherever they stand."""

_COUNTERS = ("n_averaged",)
"""What torch.optim.swa_utils.AveragedModel keeps beside the weights."""

_TRAINING = ("steps_done", "weight.wte.weight")
"""Keys of a training's state, as this toolkit writes it."""

_DEEPEST, _MOST_VALUES, _MOST_NAMED = 16, 100_000, 3
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_SAVE = "save it with torch.save(model.state_dict(), ...)"


@dataclass(frozen=True)
class FoundWeights:
    """A model's weights under our names.

    Attributes:
        weights: float32.
        keys: all keys of the model without wrappers, buffers among them.
        words: what was unwrapped, for people.
    """

    weights: dict[str, Tensor]
    keys: tuple[str, ...]
    words: tuple[str, ...]


def find_weights(value: Any, source: str, rename: Rename) -> FoundWeights:
    """Find the one model in what a file holds.

    Args:
        value: a state dict, or dictionaries and lists around one.
        source: where it comes from, for errors.
        rename: knows the weights.

    Raises:
        CheckpointError: no model, more than one, keys or values that do not belong to it.
    """
    found = list(_state_dicts(value, source, rename))
    if not found:
        raise CheckpointError(f"{source}: {_explain(value)}")
    if len(found) > 1:
        places = " and ".join(f"`{place or 'the top'}`" for place, _ in found[:_MOST_NAMED])
        raise CheckpointError(
            f"{source}: holds several models, in {places}: save the one to convert in a file of its own"
        )
    place, state = found[0]
    if state.keys() >= set(_TRAINING):
        raise CheckpointError(
            f"{source}: is what `train` resumes from, weights and optimizer together: name its RUN, or the RUN's "
            "model.safetensors"
        )
    inside = (f"took {place} out of it",) if place else ()
    model = name_weights(state, source, rename)
    return FoundWeights(model.weights, model.keys, inside + model.words)


def name_weights(state: Mapping[str, Any], source: str, rename: Rename) -> FoundWeights:
    """Our names for the weights of a state dict, its wrappers' prefixes removed; errors as :func:`find_weights`."""
    models: dict[str, dict[str, str]] = defaultdict(dict)
    unknown = []
    for key in state:
        clean = _WRAPPERS.sub("", key)
        split = _split(clean, rename)
        if split is not None:
            models[split[0]][key] = split[1]
        elif clean not in _COUNTERS:
            unknown.append((key, clean))
    if len(models) > 1:
        places = " and ".join(f"`{prefix or 'no prefix'}`" for prefix in sorted(models)[:_MOST_NAMED])
        raise CheckpointError(
            f"{source}: holds several models, under {places}: save the one to convert in a file of its own"
        )
    prefix, names = next(iter(models.items()), ("", {}))
    alien = next((key for key, clean in unknown if clean.startswith(prefix)), None)
    if alien is not None:
        raise CheckpointError(f"{source}: {alien} is no weight of a Causal Relation Network or its baselines")
    weights: dict[str, Tensor] = {}
    for key, name in names.items():
        ours = rename(name)
        if not ours:
            continue
        if ours in weights:
            raise CheckpointError(f"{source}: holds {name} twice, with and without a wrapper's prefix: remove one")
        weights[ours] = _float32(state[key], key, source)
    words = (
        *_prefix_words(names),
        *_left_out([key for key, _ in unknown]),
        *_dtype_words([state[key] for key in names]),
    )
    return FoundWeights(weights, tuple(names.values()), words)


def _split(key: str, rename: Rename) -> tuple[str, str] | None:
    """A key as (prefix, name), the longest name that is known."""
    start = 0
    while rename(key[start:]) is None:
        start = key.find(".", start) + 1
        if not start:
            return None
    return key[:start], key[start:]


def _float32(value: Any, key: str, source: str) -> Tensor:
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta and value.ndim > 0
    if not plain or value.dtype not in _DTYPES:
        raise CheckpointError(f"{source}: {key} is no dense floating-point tensor of 16, 32 or 64 bits")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # a few numbers, repeated without end
        raise CheckpointError(f"{source}: {key} is no dense floating-point tensor: {_SAVE}")
    weight: Tensor = value.detach().float()
    return weight


def _state_dicts(value: Any, source: str, rename: Rename) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a tensor under a name that is known, and where it stands: `model`, `states.0`, ..."""
    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    seen: set[int] = set()
    while waiting:
        place, here, depth = waiting.pop()
        if id(here) in seen:
            continue
        seen.add(id(here))
        if len(seen) > _MOST_VALUES or depth > _DEEPEST:
            raise CheckpointError(f"{source}: dictionaries in it are nested too deep to look for weights: {_SAVE}")
        if isinstance(here, Mapping):
            if any(_is_weight(key, item, rename) for key, item in here.items()):
                yield place, {key: item for key, item in here.items() if isinstance(key, str)}
                continue
            items = [(str(key), item) for key, item in here.items()]
        elif isinstance(here, list | tuple):
            items = [(str(index), item) for index, item in enumerate(here)]
        else:
            continue
        inner = [(f"{place}.{key}" if place else key, item, depth + 1) for key, item in items]
        waiting += reversed([entry for entry in inner if isinstance(entry[1], Mapping | list | tuple)])


def _is_weight(key: Any, item: Any, rename: Rename) -> bool:
    if not isinstance(key, str) or not isinstance(item, Tensor):
        return False
    split = _split(_WRAPPERS.sub("", key), rename)
    return split is not None and bool(rename(split[1]))


def _explain(value: Any) -> str:
    """Why there is no model in it, and what would help."""
    if not isinstance(value, Mapping):
        return f"holds no state dict: {_SAVE}"
    keys = [key for key in value if isinstance(key, str)]
    if any("lora_" in key for key in keys):
        return "holds LoRA adapters, not whole weights: merge them into the model (merge_and_unload) and save that"
    if "param_groups" in value or {"exp_avg", "exp_avg_sq"} & {key.rpartition(".")[2] for key in keys}:
        return f"holds an optimizer's state, no weights: name the model's file, or {_SAVE}"
    if not keys:
        return "no blocks in it: not the state dict of one of the paper's models"
    shown = ", ".join(key[:60] for key in keys[:_MOST_NAMED]) + ", ..." * (len(keys) > _MOST_NAMED)
    return (
        f"{shown} {'is' if len(keys) == 1 else 'are'} no weight of a Causal Relation Network or its baselines: name a "
        "file with the state dict of one"
    )


def _prefix_words(names: Mapping[str, str]) -> tuple[str, ...]:
    removed = {}
    for key, name in names.items():
        if key != name:
            prefix = key.removesuffix(name) if key.endswith(name) else "".join(_WRAPPERS.findall(key))
            removed[prefix] = True
    return (f"removed {', '.join(removed)} from keys",) if removed else ()


def _left_out(keys: list[str]) -> tuple[str, ...]:
    if not keys:
        return ()
    more = f" and {len(keys) - _MOST_NAMED} more" if len(keys) > _MOST_NAMED else ""
    return (f"left out {', '.join(keys[:_MOST_NAMED])}{more}",)


def _dtype_words(tensors: list[Any]) -> tuple[str, ...]:
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor.is_floating_point()})
    other = [kind for kind in kinds if kind != "float32"]
    return (f"turned {' and '.join(other)} into float32",) if other else ()
