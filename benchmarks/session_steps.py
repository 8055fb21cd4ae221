"""Steps of a session from the middle of a sequence, as a candidate of `interleaved.measure`."""

from __future__ import annotations

import statistics
import time

import numpy as np
from interleaved import Sample

from causalrn.runtimes.session import Session


def sample_steps(session: Session, depth: int, steps: int) -> Sample:
    """Median processor time of so many steps from a depth, in microseconds."""
    tokens = np.random.default_rng(0).integers(0, 29, (1, depth))
    session.reset()
    session.prefill(tokens)
    before, token = session.snapshot(), np.full(1, 3)

    def step_us() -> float:
        start = time.process_time_ns()
        session.step(token)
        return (time.process_time_ns() - start) / 1e3

    def sample() -> float:
        session.restore(before)
        return statistics.median(step_us() for _ in range(steps))

    return sample
