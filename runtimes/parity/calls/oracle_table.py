"""What calls are compared with where there is a checkpoint: rows of tokens in the oracle's form. Needs torch."""

from __future__ import annotations

import numpy as np

from causalrn.runtimes.parity.calls.table import CallTable, call_edges, call_steps, call_tokens, table_of
from causalrn.runtimes.parity.late_windows import LateWindows, late_tokens
from causalrn.runtimes.parity.oracle import Oracle
from causalrn.runtimes.parity.reference import Reference, States, run_in_chunks
from causalrn.runtimes.snapshot import IntArray

_MOST_WORK = 2_000_000_000
"""Values of hidden layers that the oracle reads for a table: five to ten seconds."""


def make_table(oracle: Oracle, reference: Reference, rng: np.random.Generator, capacity: int | None) -> CallTable:
    """Rows as long as the capacity, or as the oracle can take, every position known; states with them.

    Args:
        oracle: of the checkpoint.
        reference: over other tokens: where bounds come from.
        rng: of the tokens.
        capacity: of the bundle.
    """
    config, spec = oracle.card.config, oracle.recurrent.spec
    steps = call_steps(config, capacity, has_pool=spec.has_pool, most_work=_MOST_WORK)
    return oracle_table(oracle, reference, call_tokens(oracle.card, rng, steps))


def oracle_table(oracle: Oracle, reference: Reference, tokens: IntArray) -> CallTable:
    """The table of given tokens, int64 [R, S]."""
    logits = oracle.forward(tokens)
    return table_of(
        tokens,
        np.arange(tokens.shape[1]),
        logits,
        reference,
        states=_states(oracle, tokens),
        again=lambda others: oracle_table(oracle, reference, others),
    )


def late_windows(oracle: Oracle, begin: IntArray, capacity: int | None) -> LateWindows:
    """Late windows for golden vectors; their rows begin with the tokens `begin`, int64 [B, T]."""
    tokens, positions = late_tokens(oracle.card, begin, capacity, has_pool=oracle.recurrent.spec.has_pool)
    logits = oracle.forward(tokens)[:, positions]
    return LateWindows(tokens, positions, logits.astype(np.float32))


def _states(oracle: Oracle, tokens: IntArray) -> States:
    """The float64 recurrent form's: of pools at every position, of constant sizes at edges."""
    steps = tokens.shape[1]
    ends = [steps] if oracle.recurrent.spec.keeps_rows else call_edges(steps)
    states = run_in_chunks(oracle.recurrent, tokens, np.diff([0, *ends]).tolist(), ends).states
    oracle.recurrent.reset(1)
    if not oracle.recurrent.spec.keeps_rows:
        return states
    return {
        position: {name: pool[:position] for name, pool in states[steps].items()} for position in range(1, steps + 1)
    }
