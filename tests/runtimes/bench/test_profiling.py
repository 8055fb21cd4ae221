"""Profiles: every node of a step has its block and its role."""

import pytest

from causalrn.errors import InputError
from causalrn.runtimes.bench.candidates import SessionCandidate
from causalrn.runtimes.bench.profiling import ROLES, profile_step
from causalrn.runtimes.session_options import SessionOptions


@pytest.mark.parametrize("readout", ["exact", "linear"])
def test_nodes_are_located_by_block_and_role(bundles, readout):
    profile = profile_step(bundles[readout], 8, SessionOptions(), steps=6)
    assert list(profile.table()) == ["embedding", "0", "1", "head"]
    for block in ("0", "1"):
        roles = [node.role for node in profile.nodes if node.block == block]
        assert roles.count("projection") == 2
        assert roles.count("pair sum") == (readout == "exact")
        assert roles.count("reduction") == 1
        assert roles.count("exp") == (1 if readout == "exact" else 2)
        assert roles.count("norm") == (3 if readout == "exact" else 4)
    assert [node.role for node in profile.nodes if node.block == "head"].count("projection") == 1
    assert profile.nodes_us == pytest.approx(sum(sum(row.values()) for row in profile.table().values()))
    assert set(profile.table()["0"]) == set(ROLES)
    assert profile.depth == 8
    assert profile.step_us > 0


def test_depth_is_what_was_asked_for_or_what_fits(exact_bundle, monkeypatch):
    depths, hold = [], SessionCandidate.hold

    def watch(self, depth, batch):
        depths.append(depth)
        hold(self, depth, batch)

    monkeypatch.setattr(SessionCandidate, "hold", watch)
    assert profile_step(exact_bundle, 20, SessionOptions(), steps=40).depth == 20
    assert set(depths) == {20}
    assert len(depths) >= 3, "steps begin anew, so that the depth does not creep"
    assert profile_step(exact_bundle, None, SessionOptions(), steps=4).depth == 40 - 16
    with pytest.raises(InputError, match=r"`depth` 40 leaves no step before the capacity of 40: ask for less"):
        profile_step(exact_bundle, 40, SessionOptions())


def test_other_bundles_are_refused(c_bundles):
    with pytest.raises(InputError, match=r"a bundle for c: only ONNX bundles have a profile of nodes"):
        profile_step(c_bundles["exact"], 8, SessionOptions())
