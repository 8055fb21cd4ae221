"""Settings that shapes do not tell: what a file's shapes allow, which settings are equal, how two differ. No torch.

A setting is a whole configuration whose sizes are given; settings differ in readout, heads, norm and so on.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

from causalrn.errors import ConfigError
from causalrn.model.config import (
    ACTIVATIONS,
    HEAD_SCALES,
    NORMS,
    READOUTS,
    CausalRNConfig,
    Configuration,
    ModelConfig,
    TransformerConfig,
)

MOST_SCREENED_HEADS = 16
"""More heads of an exact readout are tried on what is left after the first screening: see :func:`with_other_heads`."""

FINE_OPTIONS: Mapping[str, tuple[float, ...]] = {"norm_eps": (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)}
"""Options with any number of values, which change little: recorded logits tell them, likelihood does not.

A larger eps makes logits smaller, which costs a model that is not trained to the end, whatever it was trained with.
"""


def allowed_settings(base: ModelConfig, named: Mapping[str, Any], told: Iterable[str] = ()) -> tuple[ModelConfig, ...]:
    """Every setting that goes with the sizes of `base`, equal ones once; what is named is among them.

    Args:
        base: sizes and biases, as shapes tell them.
        named: fields that the user names; others are tried all the same, so that a wrong name is noticed.
        told: fields that are not tried with another value than that of `base`, for the file itself tells them.

    Example:
        >>> base = TransformerConfig(vocabulary=29, embedding=4, hidden=8, blocks=1, capacity=6)
        >>> [(setting.heads, setting.norm) for setting in allowed_settings(base, {}, told=["attention"])][:3]
        [(1, 'layer'), (1, 'rms'), (2, 'layer')]
    """
    choices = _choices(base)
    for name, value in named.items():
        if name in FINE_OPTIONS:
            base = dataclasses.replace(base, **{name: value})
        elif name in choices and value not in choices[name]:
            choices[name] = (*choices[name], value)
    choices.update({name: (getattr(base, name),) for name in told})
    return tuple(dict.fromkeys(canonical(setting) for setting in _combined(base, choices)))


def _choices(base: ModelConfig) -> dict[str, tuple[Any, ...]]:
    if isinstance(base, TransformerConfig):
        return {"attention": ("softmax", "linear"), "heads": _divisors(base.embedding, 1), "norm": NORMS}
    heads = tuple(count for count in _divisors(base.hidden, 2) if count <= MOST_SCREENED_HEADS)
    return {
        "readout": READOUTS,
        "heads": heads,
        "norm": NORMS,
        "activation": ACTIVATIONS,
        "post_norm": (True, False),
        "head_scale": HEAD_SCALES,
    }


def _divisors(width: int, least_width: int) -> tuple[int, ...]:
    return tuple(count for count in range(1, width // least_width + 1) if width % count == 0)


def _combined(base: ModelConfig, choices: Mapping[str, Iterable[Any]]) -> Iterator[ModelConfig]:
    for values in itertools.product(*choices.values()):
        try:
            yield dataclasses.replace(base, **dict(zip(choices, values, strict=True)))
        except ConfigError:  # e.g. heads of a linear readout
            continue


def with_other_heads(setting: ModelConfig) -> tuple[ModelConfig, ...]:
    """The setting with each number of heads that its width allows, itself among them."""
    if isinstance(setting, TransformerConfig):
        return tuple(_combined(setting, {"heads": _divisors(setting.embedding, 1)}))
    return tuple(canonical(other) for other in _combined(setting, {"heads": _divisors(setting.hidden, 2)}))


def with_fine_options(setting: ModelConfig) -> tuple[ModelConfig, ...]:
    """The setting with usual values of what changes little; itself among them."""
    fields = {field.name for field in dataclasses.fields(setting)}
    choices: dict[str, tuple[Any, ...]] = {n: values for n, values in FINE_OPTIONS.items() if n in fields}
    if choices and _head_scale_hardly_matters(setting):
        choices["head_scale"] = HEAD_SCALES
    return tuple(dict.fromkeys((setting, *_combined(setting, choices))))


def without_fine_options(setting: ModelConfig) -> ModelConfig:
    """The setting with the default of what changes little."""
    fields: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(setting) if f.name in FINE_OPTIONS}
    if _head_scale_hardly_matters(setting):
        fields["head_scale"] = ""
    return dataclasses.replace(setting, **fields)


def canonical(setting: ModelConfig) -> ModelConfig:
    """One of those that are mathematically equal: with one head and post-norm the head scale cancels, up to an eps."""
    return dataclasses.replace(setting, head_scale="") if _head_scale_hardly_matters(setting) else setting


def _head_scale_hardly_matters(setting: ModelConfig) -> TypeGuard[CausalRNConfig]:
    return (
        isinstance(setting, CausalRNConfig)
        and setting.readout in ("exact", "linear")
        and (setting.activation, setting.heads, setting.post_norm) == ("exp", 1, True)
    )


def as_named(setting: ModelConfig, named: Mapping[str, Any]) -> ModelConfig | None:
    """The setting, or an equal one, with what the user names; None where it contradicts the names."""
    equal = [setting]
    if _head_scale_hardly_matters(setting):
        equal += _combined(setting, {"head_scale": HEAD_SCALES})
    return next((one for one in equal if all(getattr(one, name) == value for name, value in named.items())), None)


def differing_options(one: ModelConfig, other: ModelConfig) -> tuple[str, ...]:
    """Names of the fields in which two settings differ; a head scale that follows from others is left out."""
    names = [field.name for field in dataclasses.fields(one) if getattr(one, field.name) != getattr(other, field.name)]
    if (
        len(names) > 1
        and "head_scale" in names
        and (_head_scale_hardly_matters(one) or _head_scale_hardly_matters(other))
    ):
        names.remove("head_scale")
    return tuple(names)


def setting_text(setting: ModelConfig) -> str:
    """A setting in words, without the sizes.

    Example:
        >>> setting_text(CausalRNConfig(29, 8, 8, 1, 6, heads=2))
        'exact+exp, heads 2, norm layer, head_scale max'
    """
    parts = [setting.kind]
    if isinstance(setting, TransformerConfig) or setting.readout == "exact":  # type: ignore[attr-defined]
        parts.append(f"heads {setting.heads}")
    parts.append(f"norm {setting.norm}")
    if isinstance(setting, CausalRNConfig):
        parts += ["no post-norm"] * (not setting.post_norm)
        if _has_head_scale(setting):
            parts.append(f"head_scale {setting.head_scale}")
    parts += [f"eps {getattr(setting, name):g}" for name in FINE_OPTIONS if getattr(setting, name, 0.0)]
    return ", ".join(parts)


def _has_head_scale(setting: CausalRNConfig) -> bool:
    """Whether there is a choice of head scales that makes a difference."""
    if _head_scale_hardly_matters(setting):
        return any(getattr(setting, name, 0.0) for name in FINE_OPTIONS)
    return (setting.readout, setting.activation) == ("exact", "exp")


def describe_differences(one: Configuration, other: Configuration) -> str:
    """What the second of two configurations says otherwise, in words.

    Example:
        >>> one = CausalRNConfig(29, 8, 8, 1, 6)
        >>> describe_differences(one, dataclasses.replace(one, heads=2, norm="rms"))
        'heads 1, there 2; norm layer, there rms'
    """
    here, there = one.entries(), other.entries()
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    return "; ".join(f"{name} {here.get(name, 'none')}, there {there.get(name, 'none')}" for name in names)
