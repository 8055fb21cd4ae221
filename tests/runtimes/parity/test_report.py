"""Reports: their JSON has a schema, comes back as the same object, and cannot contradict itself."""

import jsonschema
import pytest
from msgspec.structs import replace

from causalrn.bundle.json_values import from_json, to_json
from causalrn.errors import ConfigError
from causalrn.runtimes.parity.report import VerifyReport, report_schema
from causalrn.runtimes.parity.results import ALL_LEVELS
from causalrn.workflows.verify import verify_with_checkpoint, verify_with_golden
from causalrn.workflows.verify_options import VerifyOptions
from tests.schema_files import check_schema_file

SCHEMA = report_schema()


@pytest.fixture(scope="module")
def report(bundles):
    return verify_with_golden(bundles["exact"], VerifyOptions(samples=5)).report


def test_published_schema_is_what_the_types_give():
    check_schema_file("verify-report.schema.json", SCHEMA)


def test_schema_knows_every_level_and_requires_what_is_always_written():
    definitions = SCHEMA["$defs"]
    assert set(definitions["LevelResult"]["properties"]["level"]["enum"]) == set(ALL_LEVELS)
    for name in ("VerifyReport", "LevelResult", "Settings", "Side", "Deviation", "BlockReport"):
        assert definitions[name]["required"] == list(definitions[name]["properties"])
        assert definitions[name]["additionalProperties"] is False
    assert definitions["Figures"]["required"] == []
    assert definitions["Agreement"]["properties"]["kl_divergence"]["type"] == ["number", "null"]
    assert definitions["Deviation"]["properties"]["error"]["type"] == ["number", "null"]


def test_report_comes_back_as_it_was_written(report):
    data = to_json(report)
    jsonschema.validate(data, SCHEMA)
    assert from_json(data, VerifyReport, "report.json") == report
    assert report.card.config.describe() == from_json(data, VerifyReport, "report.json").card.config.describe()


def test_report_of_a_failure_follows_the_schema_and_comes_back(damaged, runs):
    report = verify_with_checkpoint(damaged, runs["exact"], VerifyOptions(level=("logits", "layer"))).report
    data = to_json(report)
    jsonschema.validate(data, SCHEMA)
    assert data["attributions"][0]["sides"][0]["form"] == "onnxruntime"
    assert {side["state"] for side in data["attributions"][0]["sides"]} == {"own", "exact", "none"}
    assert from_json(data, VerifyReport, "report.json") == report


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"verdict": "FAIL"}, "does not follow"),
        ({"passed": False}, "passed is False"),
        ({"problems": ["one"]}, "does not follow"),
        ({"results": ()}, "does not follow"),
        ({"not_executed": "no GPU"}, "does not follow"),
    ],
)
def test_verdict_follows_from_the_results(report, change, words):
    with pytest.raises(ValueError, match=words):
        replace(report, **change)
    with pytest.raises(ConfigError, match=words):
        from_json({**to_json(report), **to_json(change)}, VerifyReport, "report.json")


def test_wrong_types_are_named_by_their_place(report):
    data = to_json(report)
    data["results"][0]["summary"] = 5
    with pytest.raises(ConfigError, match=r"report.json: results\[0\].summary: expected str"):
        from_json(data, VerifyReport, "report.json")
