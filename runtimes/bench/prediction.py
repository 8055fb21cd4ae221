"""What a token will cost on a machine, from its constants alone: time against depth, memory, the longest sequence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from causalrn.bundle.quantization import NARROW_POOLS, pool_name
from causalrn.bundle.state_spec import StateSpec
from causalrn.errors import ConfigError
from causalrn.model.config import CausalRNConfig, ModelConfig
from causalrn.model.state import derive_state
from causalrn.runtimes.bench.cost import Call, StepCost
from causalrn.runtimes.bench.machine import Machine, OrtRates, rate_at

ORT_NODES_PER_BLOCK = 12
"""Of the exporter's step graphs for one sequence, exact or linear, onnxruntime's own fusions aside."""
_WORTH = 0.15
"""Share of a step that is worth a quantization."""
_UNPACKING = ("avx2", "avx512")
"""Instruction sets with which narrow pools cost what is read of them (docs/quantization.md)."""


@dataclass(frozen=True)
class Variant:
    """A model as it could be exported.

    Attributes:
        readout: of the model: "exact", "linear", ...
        scheme: of its weights.
        pool_dtype: element type of its pool's rows; "float32" where it has none, or as its scheme has them.
    """

    readout: str
    scheme: str = "float32"
    pool_dtype: str = "float32"

    @classmethod
    def of(cls, config: ModelConfig, scheme: str = "float32", pool_dtype: str = "float32") -> Variant:
        """Of a model; what is no CausalRN has its kind for a readout."""
        return cls(getattr(config, "readout", config.kind), scheme, pool_dtype)

    @property
    def name(self) -> str:
        """In words, e.g. "exact, w8, pool8"."""
        narrow = [] if self.pool_dtype == "float32" else [pool_name(self.pool_dtype)]
        return ", ".join([self.readout, *([self.scheme] if self.scheme != "float32" else []), *narrow])


@dataclass(frozen=True)
class Prediction:
    """A variant on a machine.

    Attributes:
        variant: which.
        weights_bytes: all of them, tables of embeddings included.
        bytes_per_token: that the state grows by.
        native_us: by depth, a step of the C cell.
        onnxruntime_us: by depth, a step in onnxruntime; None where nothing is known of this machine's, or variant's.
        fits: whether the machine's memory holds the weights and a single token.
        longest: tokens that the memory holds, whatever positions the model has; None without a bound.
    """

    variant: Variant
    weights_bytes: int
    bytes_per_token: int
    native_us: dict[int, float]
    onnxruntime_us: dict[int, float] | None
    fits: bool
    longest: int | None


def variants_of(config: ModelConfig) -> list[ModelConfig]:
    """The model itself first, and of a CausalRN with exp the same sizes with the other readout."""
    if not isinstance(config, CausalRNConfig) or config.activation != "exp" or config.readout == "plain":
        return [config]
    other = "linear" if config.readout == "exact" else "exact"
    try:
        return [config, dataclasses.replace(config, readout=other, heads=1, head_scale="")]
    except ConfigError:
        return [config]


def predict_all(config: ModelConfig, machine: Machine, depths: Sequence[int]) -> list[Prediction]:
    """All variants of a model: readouts, weights of 32 or 8 bits, pools of 32, 16 or 8 bits."""
    found = []
    for kind in variants_of(config):
        for scheme in ("float32", "w8"):
            for dtype in ("float32", *reversed(NARROW_POOLS.values())):
                spec = derive_state(kind, pool_dtype=dtype)
                if dtype == spec.pool_dtype:
                    found.append(predict(kind, spec, scheme, machine, depths))
    return found


def predict(config: ModelConfig, spec: StateSpec, scheme: str, machine: Machine, depths: Sequence[int]) -> Prediction:
    """One variant: a step at each depth, and what fits.

    A narrow pool is taken to be no faster than one of float32, for unpacking takes what reading less of it saves, but
    where vector instructions unpack it.
    """
    cost = StepCost.of(config, spec, scheme)
    tables = 4 * (config.vocabulary + (config.capacity or 0)) * config.embedding  # they stay float32
    weights = cost.weight_bytes + tables
    fits, longest = _room(spec, weights, machine)
    rates = machine.onnxruntime if scheme == spec.pool_dtype == "float32" and _is_usual(config) else None
    timed = cost if machine.isa in _UNPACKING else StepCost.of(config, derive_state(config), scheme)
    return Prediction(
        variant=Variant.of(config, scheme, spec.pool_dtype),
        weights_bytes=weights,
        bytes_per_token=spec.bytes_per_token,
        native_us={depth: machine.parts_s(timed, Call(1, depth)).expected * 1e6 for depth in depths},
        onnxruntime_us=None if rates is None else {d: _ort_s(config, spec, cost, rates, d) * 1e6 for d in depths},
        fits=fits,
        longest=longest,
    )


def _is_usual(config: ModelConfig) -> bool:
    """Whether onnxruntime's step is what its constants were measured for: exact or linear with exp, one head."""
    if not isinstance(config, CausalRNConfig) or config.readout == "plain":
        return False
    return config.activation == "exp" and config.heads == 1 and config.post_norm


def _room(spec: StateSpec, weights_bytes: int, machine: Machine) -> tuple[bool, int | None]:
    """Whether a token fits, and how many do."""
    in_flash = machine.flash_bytes is not None
    if machine.flash_bytes is not None and weights_bytes > machine.flash_bytes:
        return False, 0
    if machine.memory_bytes is None:
        return True, None
    room = machine.memory_bytes - spec.size_bytes(0) - (0 if in_flash else weights_bytes)
    if not spec.has_pool:
        return room > 0, None if room > 0 else 0
    return room >= spec.bytes_per_token, max(0, room // spec.bytes_per_token)


def _ort_s(config: ModelConfig, spec: StateSpec, cost: StepCost, rates: OrtRates, depth: int) -> float:
    """A call, its state tensors, its nodes, its weights, and the readout of every block over its rows."""
    fixed = rates.call_s + config.blocks * ORT_NODES_PER_BLOCK * rates.node_s
    fixed += cost.weight_bytes / rate_at(rates.weight_bytes_per_s, cost.weight_bytes)
    if not spec.has_pool:
        return fixed  # its tensors are bound once
    elements = (depth + 1) * config.pair_width
    return fixed + len(spec.tensors) * rates.tensor_s + config.blocks * elements / rate_at(rates.pairs_per_s, elements)


def advise(predictions: Sequence[Prediction], machine: Machine, capacity: int | None) -> Iterator[str]:
    """What to export, a sentence each, with the numbers that it rests on; `capacity` is the model's."""
    by_name = {prediction.variant.name: prediction for prediction in predictions}
    own = predictions[0]
    if not any(prediction.fits for prediction in predictions):
        yield f"nothing fits into the memory of {machine.name}: use a smaller model"
        return
    yield from _advise_readout(by_name)
    yield from _advise_weights(own, by_name)
    yield from _advise_pool(own, by_name, capacity)


def _advise_readout(by_name: dict[str, Prediction]) -> Iterator[str]:
    exact, linear = by_name.get("exact"), by_name.get("linear")
    if exact is None or linear is None:
        return
    deepest = max(exact.native_us)
    ratios = {depth: time / linear.native_us[depth] for depth, time in exact.native_us.items()}
    twice = next((depth for depth, ratio in ratios.items() if ratio >= 2), None)
    where = f"{ratios[deepest]:.2g} times what linear costs at depth {deepest:,}"
    where += f", at least twice from {twice:,} on" if twice is not None and twice < deepest else ""
    yield (
        f"readout: a step of exact takes {where}; linear stays constant in time and memory, but it is another model "
        "and copies much worse (docs/claims.md): linear only where the task is known to do with it"
    )


def _advise_weights(own: Prediction, by_name: dict[str, Prediction]) -> Iterator[str]:
    small = by_name.get(Variant(own.variant.readout, "w8").name)
    if small is None:
        return
    if small.fits and not own.fits:
        yield "weights: w8, for float32 does not fit"
        return
    saved = {depth: 1 - small.native_us[depth] / time for depth, time in own.native_us.items()}
    word = "w8" if max(saved.values()) >= _WORTH else "float32"
    shares = ", ".join(f"{saved[depth]:.0%} at depth {depth:,}" for depth in dict.fromkeys((min(saved), max(saved))))
    memory = small.weights_bytes / own.weights_bytes
    yield f"weights: {word}; those of w8 take {memory:.0%} of the memory, and save of a step at best {shares}"


def _advise_pool(own: Prediction, by_name: dict[str, Prediction], capacity: int | None) -> Iterator[str]:
    wide = own if own.fits else by_name.get(Variant(own.variant.readout, "w8").name, own)
    half, small = (
        by_name.get(dataclasses.replace(wide.variant, pool_dtype=dtype).name) for dtype in ("float16", "int8")
    )
    if half is None or small is None or not small.fits:
        return
    if wide.longest is None or half.longest is None or small.longest is None:
        return
    if capacity is not None and wide.longest >= capacity:
        yield f"pool: float32; all {capacity:,} positions of the model fit; pool16 takes half of it"
        return
    most = max(small.longest, half.longest) if capacity is None else capacity  # beyond it there are no positions
    held = (f"{min(each.longest or 0, most):,}" for each in (half, small, wide))
    fits = "{} tokens fit with pool16, {} with pool8, instead of {}".format(*held)
    if capacity is None:
        yield f"pool: float32, unless there are more tokens than fit: {fits}"
    else:
        best = "pool16" if half.longest >= capacity else "pool8"
        yield f"pool: {best}; {fits}, of {capacity:,} positions"
