"""`profile` as a function: a typed result for every bundle and depth."""

import json

import pytest

from causalrn.errors import InputError
from causalrn.workflows.profile import profile
from tests.workflows.test_bench import Steps


def test_every_depth_has_a_profile_and_nothing_is_printed(exact_bundle, tmp_path, capfd):
    steps = Steps()
    found = profile(str(exact_bundle), depth=[4, 8], progress=steps)
    assert [(each.folder, each.profile.depth) for each in found.profiles] == [(exact_bundle, 4), (exact_bundle, 8)]
    assert (steps.begun, steps.done) == ([("profiling", 2)], 2)
    entries = json.loads(found.save_json(tmp_path / "p.json").read_text())["profiles"]
    assert entries == found.to_json()["profiles"]
    for entry, each in zip(entries, found.profiles, strict=True):
        assert entry["nodes_us"] == each.profile.nodes_us
        assert entry["by_block_and_role"] == each.profile.table()
        assert len(entry["nodes"]) == len(each.profile.nodes)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"threads": 0}, "`threads` is 0"),
        ({"threads": [1, 2]}, r"`threads` is \[1, 2\]: it must be a whole number"),
        ({"depth": 40}, "`depth` 40 leaves no step before the capacity of 40"),
        ({"provider": None}, "`provider` is None: give a name"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(exact_bundle, arguments, text):
    with pytest.raises(InputError, match=text):
        profile(exact_bundle, **arguments)
