"""Models that are right, and the same with a fault each: what a verification has to find, and whom it has to blame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention

V, E, CAPACITY = 11, 8, 48

# --- right: a gated recurrence ---------------------------------------------------------------------------------------


class Gated(nn.Module):
    """h_t = a_t h_(t-1) + u_t with u_t = (1 - a_t) v_t."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gate, self.value = nn.RMSNorm(E), nn.Linear(E, E), nn.Linear(E, E)
        self.drop, self.out = nn.Dropout(0.1), nn.Linear(E, E)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        r = self.norm(x)  # [B, T, E], or [B, E] in a step
        a = torch.sigmoid(self.gate(r))
        u = (1 - a) * self.value(r)
        h = self.whole(a, u) if memory is None else self.once(a, u, memory)
        return x + self.out(self.drop(h)), h

    def whole(self, a: Tensor, u: Tensor) -> Tensor:
        causal = torch.ones(a.shape[1], a.shape[1]).tril()[..., None]  # [T, T, 1]
        steps = a.log().cumsum(1)
        decay = (steps[:, :, None] - steps[:, None]).masked_fill(causal == 0, -torch.inf).exp()  # [B, T, T, E]
        return (decay * u[:, None]).sum(2)

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        return a * memory + u


class Recurrence(nn.Module):
    """Two blocks; the state is a list of {memory: [B, E]}."""

    vocabulary = V

    def __init__(self, block: type[Gated] = Gated) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(V, E), nn.Linear(E, V)
        self.blocks, self.norm = nn.ModuleList([Gated(), block()]), nn.RMSNorm(E)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x, _ = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        x, after = self.embedding(tokens), []
        for block, before in zip(self.blocks, state, strict=True):
            x, memory = block(x, before["memory"])
            after.append({"memory": memory})
        return self.head(self.norm(x)), after

    def initial_state(self, batch: int) -> Any:
        return [{"memory": self.embedding.weight.new_zeros(batch, E)} for _ in self.blocks]


# --- right: attention with a growing cache, learned positions, an attention mask --------------------------------------


class Reading(nn.Module):
    """Softmax attention of one head over keys and values [B, t, E]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mixed, self.out = nn.LayerNorm(E), nn.Linear(E, 3 * E), nn.Linear(E, E)

    def forward(self, x: Tensor, cache: Any, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        q, k, v = self.mixed(self.norm(x)).chunk(3, -1)  # [B, T, E] each
        cache = self.extended(cache, k, v)
        past, time = cache["keys"].shape[1] - x.shape[1], x.shape[1]
        seen = torch.ones(time, past + time, dtype=torch.bool).tril(past)
        if mask is not None:  # a token that is not there sees itself, so that nothing is empty
            there = torch.cat([mask.new_ones(len(x), past), mask], 1).bool()[:, None]  # [B, 1, t]
            seen = seen & there | torch.ones(time, past + time, dtype=torch.bool).tril(past).triu(past)
        return x + self.out(scaled_dot_product_attention(q, cache["keys"], cache["values"], seen)), cache

    def extended(self, cache: Any, k: Tensor, v: Tensor) -> Any:
        return {"keys": torch.cat([cache["keys"], k], 1), "values": torch.cat([cache["values"], v], 1)}


class Attention(nn.Module):
    """Two blocks; the state is a list of {keys: [B, t, E], values: [B, t, E]}."""

    vocabulary, capacity = V, CAPACITY

    def __init__(self, block: type[Reading] = Reading) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(V, E), nn.Embedding(CAPACITY, E)
        self.blocks, self.norm = nn.ModuleList([Reading(), block()]), nn.LayerNorm(E)
        self.head = nn.Linear(E, V)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits, _ = self.run(
            tokens, self.initial_state(len(tokens)), self.places(tokens, 0, attention_mask), attention_mask
        )
        return logits

    def prefill(
        self, tokens: Tensor, state: Any, position: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        start = state[0]["keys"].shape[1] if position is None else position
        return self.run(tokens, state, self.places(tokens, start, attention_mask), attention_mask)

    def step(self, tokens: Tensor, state: Any, position: Tensor | None = None) -> tuple[Tensor, Any]:
        start = state[0]["keys"].shape[1] if position is None else position
        logits, state = self.run(tokens[:, None], state, self.places(tokens[:, None], start, None), None)
        return logits[:, 0], state

    def places(self, tokens: Tensor, start: Any, mask: Tensor | None) -> Tensor:
        """Positions [B, T]."""
        mask = torch.ones_like(tokens) if mask is None else mask
        places: Tensor = (start + mask.cumsum(1) - 1).clamp(min=0)
        return places

    def run(self, tokens: Tensor, state: Any, places: Tensor, mask: Tensor | None) -> tuple[Tensor, Any]:
        x, after = self.embedding(tokens) + self.positions(places), []
        for block, cache in zip(self.blocks, state, strict=True):
            x, cache = block(x, cache, mask)
            after.append(cache)
        return self.head(self.norm(x)), after

    def initial_state(self, batch: int) -> Any:
        zeros = self.embedding.weight.new_zeros
        return [{"keys": zeros(batch, 0, E), "values": zeros(batch, 0, E)} for _ in self.blocks]


# --- faults ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """A model that is wrong.

    Attributes:
        name: of the fault.
        make: makes the model.
        levels: that have to fail, all of them; none where copies of the model would share what is wrong, and it is
            refused.
        named: a tensor of the state, a module's path or an attribute that has to be named.
    """

    name: str
    make: Callable[[], Any]
    levels: tuple[str, ...]
    named: tuple[str, ...]


FAULTS: list[Fault] = []


def _fault(levels: str, named: str, block: type[nn.Module] | None = None) -> Callable[[type], type]:
    """Enter a model, or a block as the second of a model's, in the table."""

    def enter(made: type) -> type:
        def make() -> Any:
            base = Recurrence if issubclass(made, Gated) else Attention
            return base(made) if issubclass(made, Gated | Reading) else made()

        FAULTS.append(Fault(made.__name__.strip("_"), make, tuple(levels.split()), tuple(named.split())))
        return made

    return enter


# A state that outlives its sequence.


@_fault("isolation", "00.memory kept")
class _NotReset(Recurrence):
    """A fresh state is the one that the last step left."""

    kept: Any = None

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, self.kept = super().step(tokens, state)
        return logits, self.kept

    def initial_state(self, batch: int) -> Any:
        fresh = self.kept is None or len(self.kept[0]["memory"]) != batch
        return super().initial_state(batch) if fresh else self.kept


@_fault("isolation", "kept")
class _OnModule(Recurrence):
    """The state that is carried is not the one that is given."""

    kept: Any = None

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, self.kept = super().step(tokens, self.kept)
        return logits, [{"memory": block["memory"] + 0} for block in state]

    def initial_state(self, batch: int) -> Any:
        self.kept = super().initial_state(batch)
        return super().initial_state(batch)


@_fault("isolation", "blocks.1.before")
class _OnBlock(Gated):
    """A block adds what it computed last."""

    before: Any = None

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        same = self.before is not None and self.before.shape == u.shape
        memory = a * (self.before if same else memory) + u
        self.before = memory
        return memory


@_fault("isolation", "blocks.1.before")
class _InBuffer(Gated):
    """The same in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Tensor
        self.register_buffer("before", torch.zeros(1, E))

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        memory = a * (memory + 0.1 * self.before) + u
        self.before = memory[:1].detach().clone()
        return memory


@_fault("isolation", "step.cache")
class _MutableDefault(Recurrence):
    """What is kept lies in a default argument."""

    def step(self, tokens: Tensor, state: Any, cache: dict[str, Any] = {}) -> tuple[Tensor, Any]:  # noqa: B006
        before = cache.get("state")
        same = before is not None and before[0]["memory"].shape == state[0]["memory"].shape
        logits, cache["state"] = super().step(tokens, before if same else state)
        return logits, cache["state"]


@_fault("", "_OnClass.kept")
class _OnClass(Recurrence):
    """What is kept lies on the class."""

    kept: ClassVar[Any] = None

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        same = _OnClass.kept is not None and _OnClass.kept[0]["memory"].shape == state[0]["memory"].shape
        logits, _OnClass.kept = super().step(tokens, _OnClass.kept if same else state)
        return logits, _OnClass.kept


_KEPT: dict[str, Any] = {}


@_fault("", "_KEPT")
class _InGlobal(Recurrence):
    """What is kept lies in the file."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        before = _KEPT.get("state")
        same = before is not None and before[0]["memory"].shape == state[0]["memory"].shape
        logits, _KEPT["state"] = super().step(tokens, before if same else state)
        return logits, _KEPT["state"]


# Rows that reach each other.


@_fault("rows", "01.memory")
class _BatchMean(Gated):
    """Every row carries the mean of all."""

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        return (a * memory + u).mean(0, keepdim=True).expand_as(u)


@_fault("rows", "01.memory")
class _FirstRow(Gated):
    """All rows go on from the first one's."""

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        return a * memory[:1] + u


@_fault("rows", "01.memory")
class _OtherRow(Gated):
    """Rows change places."""

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        return a * memory.flip(0) + u


@_fault("rows", "blocks.1")
class _BatchNorm(Gated):
    """Statistics of the batch in a step, and of each position in the parallel form."""

    def forward(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return super().forward(x if memory is None else x - x.mean(0, keepdim=True), memory)


@_fault("rows", "01.memory")
class _SoftmaxOverBatch(Gated):
    """A gate that is normalized over the wrong axis."""

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        return a.softmax(0) * memory + u


@_fault("contract", "00.memory")
class _OneRow(Recurrence):
    """A fresh state has one row, whatever the batch."""

    def initial_state(self, batch: int) -> Any:
        return super().initial_state(1)


@_fault("contract", "00.memory")
class _BatchTwice(Recurrence):
    """One axis too many that is as long as the batch."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, after = super().step(tokens, [{"memory": block["memory"][:, 0]} for block in state])
        return logits, [{"memory": block["memory"][:, None].expand(-1, len(tokens), -1)} for block in after]

    def initial_state(self, batch: int) -> Any:
        return [{"memory": torch.zeros(batch, batch, E)} for _ in self.blocks]


# Numbers that are too narrow, or too wide.


@_fault("contract", "01.memory")
class _CarriedInHalf(Gated):
    """What is carried becomes float16 with the first step."""

    def forward(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x, after = super().forward(x, None if memory is None else memory.to(x.dtype))
        return x, None if after is None or memory is None else after.half()


@_fault("contract", "00.memory")
class _AlwaysBfloat(Recurrence):
    """The state is bfloat16 from the start, of a float32 model."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        wide = [{"memory": block["memory"].to(self.head.weight.dtype)} for block in state]
        logits, after = super().step(tokens, wide)
        return logits, [{"memory": block["memory"].bfloat16()} for block in after]

    def initial_state(self, batch: int) -> Any:
        return [{"memory": block["memory"].bfloat16()} for block in super().initial_state(batch)]


@_fault("contract", "00.memory")
class _CarriedInDouble(Recurrence):
    """What is carried is wider than it began."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        narrow = [{"memory": block["memory"].to(self.head.weight.dtype)} for block in state]
        logits, after = super().step(tokens, narrow)
        return logits, [{"memory": block["memory"].double()} for block in after]


@_fault("logits", "blocks.1")
class _HalfAccumulation(Gated):
    """The step adds up in float16."""

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        return (a.half() * memory.half() + u.half()).to(u.dtype)


@_fault("logits", "blocks.1")
class _BfloatAccumulation(Gated):
    """The step adds up in bfloat16, as autocast may."""

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        return (a * memory + u).bfloat16().to(u.dtype)


@_fault("logits", "blocks.1.gate blocks.1.value")
class _Autocast(Gated):
    """The step computes in bfloat16 by autocast, which leaves float64 alone."""

    def forward(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if memory is None:
            return super().forward(x)
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x, memory)


@_fault("logits", "blocks.1")
class _HalfParallel(Gated):
    """The parallel form adds up in float16."""

    def whole(self, a: Tensor, u: Tensor) -> Tensor:
        return super().whole(a.half(), u.half()).to(u.dtype)


# Positions.


@_fault("logits", "positions blocks.0")
class _StepOneLate(Attention):
    """The step is one position too far."""

    def step(self, tokens: Tensor, state: Any, position: Tensor | None = None) -> tuple[Tensor, Any]:
        start = state[0]["keys"].shape[1] if position is None else position
        return super().step(tokens, state, start + 1)


@_fault("split", "positions")
class _PrefillOneLate(Attention):
    """Only the prefill is one position too far."""

    def prefill(
        self, tokens: Tensor, state: Any, position: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        start = state[0]["keys"].shape[1] if position is None else position
        return super().prefill(tokens, state, start + 1, attention_mask)


@_fault("split", "positions")
class _PrefillFromZero(Attention):
    """The prefill begins at position 0 on any state."""

    def prefill(
        self, tokens: Tensor, state: Any, position: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        return super().prefill(tokens, state, 0, attention_mask)


@_fault("positions", "logits")
class _LeftOutOneLate(Attention):
    """The step is one position too far where it is not told."""

    def step(self, tokens: Tensor, state: Any, position: Tensor | None = None) -> tuple[Tensor, Any]:
        start = state[0]["keys"].shape[1] + 1 if position is None else position
        return super().step(tokens, state, start)


# Masks.


@_fault("padding", "positions")
class _PrefillIgnoresMask(Attention):
    """The prefill takes a mask and does not look at it."""

    def prefill(
        self, tokens: Tensor, state: Any, position: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        return super().prefill(tokens, state, position, None)


@_fault("padding", "blocks.0")
class _MaskOfPositionsOnly(Attention):
    """Padding is counted by positions, and read as keys."""

    def run(self, tokens: Tensor, state: Any, places: Tensor, mask: Tensor | None) -> tuple[Tensor, Any]:
        return super().run(tokens, state, places, None)


@_fault("padding", "positions")
class _MaskOfKeysOnly(Attention):
    """Padding is not read, and moves positions on."""

    def places(self, tokens: Tensor, start: Any, mask: Tensor | None) -> Tensor:
        return super().places(tokens, start, None)


@_fault("padding", "positions")
class _MaskOfFirstRow(Attention):
    """All rows are taken to have the first one's padding."""

    def places(self, tokens: Tensor, start: Any, mask: Tensor | None) -> Tensor:
        return super().places(tokens, start, None if mask is None else mask[:1].expand_as(mask))


# Caches.


@_fault("logits", "01.keys 01.values blocks.1")
class _Window(Reading):
    """Of the cache only the last tokens are kept."""

    def extended(self, cache: Any, k: Tensor, v: Tensor) -> Any:
        longer = super().extended(cache, k, v)
        return {name: value[:, -6:] for name, value in longer.items()} if k.shape[1] == 1 else longer


@_fault("logits", "blocks.1")
class _ReadsWindow(Reading):
    """The whole cache is kept, and only a window is read in a step."""

    def forward(self, x: Tensor, cache: Any, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        if x.shape[1] > 1:
            return super().forward(x, cache, mask)
        short = {name: value[:, -5:] for name, value in cache.items()}
        after, _ = super().forward(x, short, mask)
        _, longer = super().forward(x, cache, mask)
        return after, longer


@_fault("split", "01.keys 01.values")
class _PrefillDropsOldest(Attention):
    """A prefill onto a state forgets the state's first token."""

    def prefill(
        self, tokens: Tensor, state: Any, position: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        logits, (first, last) = super().prefill(tokens, state, position, attention_mask)
        old = last["keys"].shape[1] > tokens.shape[1]
        kept = {name: torch.cat([value[:, :1] * 0, value[:, 1:]], 1) for name, value in last.items()}
        return logits, [first, kept if old else last]


@_fault("logits", "blocks.1 01.keys")
class _KeyOfTokenBefore(Reading):
    """A step reads the cache without its own token's key."""

    def extended(self, cache: Any, k: Tensor, v: Tensor) -> Any:
        longer = super().extended(cache, k, v)
        keys = longer["keys"]
        return (
            longer
            if k.shape[1] > 1 or keys.shape[1] < 2
            else {**longer, "keys": keys[:, [*range(keys.shape[1] - 1), -2]]}
        )


@_fault("logits", "00.keys 00.values")
class _Swapped(Attention):
    """Blocks get each other's caches."""

    def step(self, tokens: Tensor, state: Any, position: Tensor | None = None) -> tuple[Tensor, Any]:
        logits, (one, two) = super().step(tokens, state, position)
        return logits, [two, one]


# States that are changed where they lie.


@_fault("isolation", "01.memory")
class _AddInPlace(Gated):
    """By add_."""

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        return memory.mul_(a).add_(u)


@_fault("isolation", "01.memory")
class _AssignedInPlace(Gated):
    """By assignment to all elements."""

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        memory[:] = a * memory + u
        return memory


@_fault("isolation", "01.memory")
class _CopiedInPlace(Gated):
    """The next state is a new tensor, and the old one is overwritten, too."""

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        after = a * memory + u
        memory.copy_(after)
        return after


@_fault("isolation", "00.memory 01.memory")
class _DictInPlace(Recurrence):
    """The dicts of the state that is given are filled anew."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, after = super().step(tokens, state)
        for block, new in zip(state, after, strict=True):
            block["memory"] = new["memory"]
        return logits, state


# Chance.


@_fault("determinism", "blocks.1.drop")
class _DropoutLeftOn(Gated):
    """Dropout that is not switched off with the rest."""

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.drop.train(True)
        return self


@_fault("determinism", "blocks.1")
class _DropoutFunction(Gated):
    """Dropout as a function that always drops."""

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        return dropout(a * memory + u, 0.1, training=True)


@_fault("determinism", "blocks.1")
class _NoiseInStep(Gated):
    """A step with noise."""

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        return a * memory + u + 0.01 * torch.randn_like(u)


@_fault("logits", "blocks.1")
class _NoiseInParallel(Gated):
    """A parallel form with noise."""

    def whole(self, a: Tensor, u: Tensor) -> Tensor:
        return super().whole(a, u) + 0.01 * torch.randn_like(u)


# Formulas.


@_fault("logits", "blocks.1 01.memory")
class _DecaysAfter(Gated):
    """What a token adds is decayed, too."""

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        return a * (memory + u)


@_fault("logits", "blocks.1 01.memory")
class _NeverCarries(Gated):
    """The step begins anew with every token."""

    def once(self, a: Tensor, u: Tensor, memory: Tensor) -> Tensor:
        return u


@_fault("logits", "blocks.1")
class _LooksAhead(Gated):
    """The parallel form reads one token too many."""

    def whole(self, a: Tensor, u: Tensor) -> Tensor:
        return super().whole(a, u) + 0.1 * u.roll(-1, 1)


@_fault("logits", "_NoLastNorm head")
class _NoLastNorm(Recurrence):
    """The step leaves out the last norm."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        x, after = self.embedding(tokens), []
        for block, before in zip(self.blocks, state, strict=True):
            x, memory = block(x, before["memory"])
            after.append({"memory": memory})
        return self.head(x), after


@_fault("reload", "logits")
class _MadeLate(Gated):
    """A weight that is made with the first call, and not saved."""

    late: Any = None

    def forward(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if self.late is None:
            self.late = (torch.rand(E, dtype=x.dtype),)
        x, memory = super().forward(x, memory)
        return x * self.late[0], memory


@_fault("isolation", "01.keys 01.values")
class _PrefillInPlace(Attention):
    """A prefill clears the cache that it was given."""

    def prefill(
        self, tokens: Tensor, state: Any, position: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        logits, after = super().prefill(tokens, state, position, attention_mask)
        state[1].update(after[1])
        return logits, after


@_fault("isolation", "00.keys 00.values")
class _SlotInPlace(Attention):
    """A cache of constant size, whose slots are assigned where they lie."""

    prefill = None  # type: ignore[assignment]

    def step(self, tokens: Tensor, state: Any, position: Tensor) -> tuple[Tensor, Any]:  # type: ignore[override]
        caches = [{name: value[:, : int(position)] for name, value in cache.items()} for cache in state]
        logits, after = super().step(tokens, caches, position)
        for cache, longer in zip(state, after, strict=True):
            for name, value in cache.items():
                value[:, int(position)] = longer[name][:, -1]
        return logits, state

    def initial_state(self, batch: int) -> Any:
        return [{"keys": torch.zeros(batch, CAPACITY, E), "values": torch.zeros(batch, CAPACITY, E)} for _ in range(2)]

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        places = self.places(tokens, 0, attention_mask)
        return self.run(tokens, super().initial_state(len(tokens)), places, attention_mask)[0]


@_fault("", "blocks.1.statistics.num_batches_tracked")
class _StatisticsLeftOn(Gated):
    """A batch norm that is not switched to evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics = nn.BatchNorm1d(E)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        self.statistics.train()
        x, memory = super().forward(x, memory)
        return self.statistics(x.reshape(-1, E)).reshape(x.shape), memory


@_fault("split", "01.keys 01.values")
class _PrefillWindow(Attention):
    """After a prefill only the last tokens are kept."""

    def prefill(
        self, tokens: Tensor, state: Any, position: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        logits, (first, last) = super().prefill(tokens, state, position, attention_mask)
        return logits, [first, {name: value[:, -6:] for name, value in last.items()}]


@_fault("logits", "positions")
class _NeverCounts(Recurrence):
    """Positions are counted in the state, and nobody counts."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(CAPACITY, E)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x, _ = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        x, after = self.embedding(tokens) + self.positions(state[-1]), []
        for block, before in zip(self.blocks, state, strict=False):
            x, memory = block(x, before["memory"])
            after.append({"memory": memory})
        return self.head(self.norm(x)), [*after, state[-1]]

    def initial_state(self, batch: int) -> Any:
        return [*super().initial_state(batch), torch.zeros(batch, dtype=torch.int64)]


# --- right, and unusual -----------------------------------------------------------------------------------------------


class _Pair(NamedTuple):
    memory: Tensor
    seen: Tensor


class Named(Recurrence):
    """A state of named tuples, with a number and None among its tensors, and a counter."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        blocks, number, nothing = state
        logits, after = super().step(tokens, [{"memory": pair.memory} for pair in blocks])
        pairs = [_Pair(new["memory"], old.seen + 1) for new, old in zip(after, blocks, strict=True)]
        return logits, (pairs, number, nothing)

    def initial_state(self, batch: int) -> Any:
        blocks = super().initial_state(batch)
        return [_Pair(block["memory"], torch.zeros((), dtype=torch.int64)) for block in blocks], 7, None


class LateTable(Recurrence):
    """A table that is computed with the first call, and kept."""

    table: Any = None

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * self.scales()

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = super().step(tokens, state)
        return logits * self.scales(), state

    def scales(self) -> Tensor:
        if self.table is None:
            self.table = torch.arange(1, V + 1, dtype=self.head.weight.dtype) / V
        table: Tensor = self.table
        return table


class Wide(Recurrence):
    """Gates in float32, whatever the model's dtype is."""

    def __init__(self) -> None:
        super().__init__(_WideGate)


class _WideGate(Gated):
    def forward(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return super().forward(x.float().to(x.dtype), memory)


class Sliding(Attention):
    """Keeps and reads the last tokens alone, in all forms."""

    prefill = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(_Sliding)

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]  # it takes no mask
        return super().forward(tokens)


class _Sliding(Reading):
    window = 6

    def forward(self, x: Tensor, cache: Any, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        past, time = cache["keys"].shape[1], x.shape[1]
        near = torch.ones(time, past + time).tril(past).triu(past + 1 - self.window)  # [T, t]
        q, k, v = self.mixed(self.norm(x)).chunk(3, -1)
        cache = self.extended(cache, k, v)
        x = x + self.out(scaled_dot_product_attention(q, cache["keys"], cache["values"], near.bool()))
        return x, {name: value[:, -self.window :] for name, value in cache.items()}


RIGHT: tuple[Callable[[], nn.Module], ...] = (Recurrence, Attention, Named, LateTable, Wide, Sliding)
