"""Candidates: what they hold, what it takes, what a turn does."""

import numpy as np
import pytest

from causalrn.bundle.targets import runtime_row
from causalrn.errors import CapacityError
from causalrn.runtimes.bench.candidates import open_candidate
from causalrn.runtimes.session_options import SessionOptions

DEPTH = 23


def opened(path, runtime=None):
    return open_candidate(path, None if runtime is None else runtime_row(runtime), SessionOptions())


@pytest.fixture(params=["onnxruntime", "recurrent", "parallel", "native", "node", "fixed", "linear"])
def candidate(request, runs, bundles):
    found = {
        "onnxruntime": lambda: opened(bundles["exact"]),
        "linear": lambda: opened(bundles["linear"]),
        "recurrent": lambda: opened(runs["exact"], "recurrent"),
        "parallel": lambda: opened(runs["exact"], "parallel"),
        "native": lambda: opened(request.getfixturevalue("c_bundles")["exact"]),
        "node": lambda: opened(request.getfixturevalue("web_bundles")["exact"]),
        "fixed": lambda: opened(request.getfixturevalue("fixed_bundle")),
    }[request.param]()
    yield found
    found.session.close()


def test_a_state_of_any_depth_is_held_and_stepped_from(candidate):
    candidate.hold(DEPTH, 1)
    assert candidate.session.position == DEPTH
    candidate.step()
    assert candidate.session.position == DEPTH + 1
    assert np.isfinite(candidate.session.last_logits).all()
    candidate.hold(0, 1)
    candidate.prefill(5)
    assert candidate.session.position == 5


def test_times_are_positive_and_the_capacity_counts(candidate):
    assert candidate.decode_us(DEPTH, 1, 4, 0.0) > 0
    assert candidate.prefill_us(1, 8, 0.0) > 0
    with pytest.raises(CapacityError):
        candidate.decode_us(39, 1, 4, 10.0)


def test_state_is_what_the_contract_says(candidate):
    memory, spec = candidate.measure_memory(DEPTH, 1), candidate.facts.state
    if spec is None:
        assert memory.state_bytes == DEPTH * 8  # tokens
    else:  # of a fixed pool the rows that count
        assert memory.state_bytes == (spec.bytes_per_token * DEPTH if spec.has_pool else spec.size_bytes(DEPTH))
    assert candidate.facts.capacity == 40
    assert candidate.facts.cost.products == 2 * 3 * 32 * 32 + 32 * 29
    assert candidate.facts.load_ms > 0


def test_rows_of_a_batch_advance_together(bundles):
    candidate = opened(bundles["exact"])
    candidate.hold(DEPTH, 3)
    candidate.step()
    assert candidate.session.last_logits.shape == (3, 29)
    assert candidate.measure_memory(DEPTH, 3).state_bytes == 3 * candidate.facts.state.size_bytes(DEPTH)


def test_a_held_state_reads_its_rows(bundles):
    """Not zeros: a state whose rows are a real row, so that nothing is cheaper than it would be."""
    candidate = opened(bundles["exact"])
    candidate.hold(DEPTH, 1)
    for tensor in candidate.session.snapshot().tensors.values():
        assert tensor.any()
        assert (tensor == tensor[:1]).all()
