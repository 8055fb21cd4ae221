"""What else could decode, beside this toolkit's runtimes: each a candidate of `causalrn.runtimes.bench`.

Peers are made in processes of their own, from checkpoint folders on disk, so the functions here can be pickled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from rival_transformer import SharedCacheLoop, grouped_query_transformer

from causalrn.model.cell import RecurrentCell
from causalrn.model.folding import fold
from causalrn.model.state import derive_state
from causalrn.runtimes.bench.candidates import Candidate, Facts, SessionCandidate
from causalrn.runtimes.bench.cost import StepCost
from causalrn.runtimes.torch_sessions import RecurrentSession
from causalrn.training.checkpoint import load_checkpoint

_TOKEN = 1


def compiled_cell(run: Path, threads: int) -> SessionCandidate:
    """The recurrent cell through torch.compile, for any depth; compiling takes a while, before anything is timed."""
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(run)
    session = RecurrentSession(RecurrentCell.from_model(checkpoint.model), checkpoint.card, checkpoint.sha256)
    session._cell = torch.compile(session._cell, dynamic=True)  # type: ignore[assignment]
    return SessionCandidate(session)


class CachedTransformer(Candidate):
    """A Transformer in onnxruntime's GroupQueryAttention, with a cache that stays where it is; one sequence."""

    def __init__(self, run: Path) -> None:
        model = load_checkpoint(run).model
        config = model.config
        assert config.capacity is not None, "the cache is allocated once"
        self._loop = SharedCacheLoop(grouped_query_transformer(fold(model), config.capacity), config.heads)
        spec = derive_state(config)
        self._row_bytes, self._depth = spec.bytes_per_token, 0
        cost = StepCost.of(config, spec)
        self.facts = Facts(config.describe(), cost, None, config.capacity, max_batch=1)
        rng = np.random.default_rng(0)
        for cache in self._loop.caches.values():
            cache[...] = rng.normal(0, 1, cache.shape)

    def hold(self, depth: int, batch: int) -> None:
        self._depth = depth
        self._loop.move(depth)

    def step(self) -> None:
        self._loop.step(_TOKEN)

    def prefill(self, tokens: int) -> None:
        for _ in range(tokens):  # a graph for single tokens has no other way
            self.step()

    def state_bytes(self) -> int:
        return self._depth * self._row_bytes
