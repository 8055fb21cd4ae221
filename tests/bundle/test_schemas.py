"""The manifest's schema: generated from its type, published in docs/, and true of bundles."""

import json

import jsonschema
import pytest

from causalrn.bundle.json_values import json_schema
from causalrn.bundle.manifest import Manifest
from tests.schema_files import check_schema_file

SCHEMA = json_schema(Manifest, "manifest.json of a bundle")


def test_published_schema_is_what_the_type_gives():
    check_schema_file("manifest.schema.json", SCHEMA)


@pytest.mark.parametrize("readout", ["exact", "linear", "plain"])
def test_manifests_of_graphs_follow_the_schema(bundles, readout):
    jsonschema.validate(json.loads((bundles[readout] / "manifest.json").read_text()), SCHEMA)


def test_manifests_of_c_source_follow_the_schema(c_bundles):
    for bundle in c_bundles.values():
        jsonschema.validate(json.loads((bundle / "manifest.json").read_text()), SCHEMA)


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"state": {}}, {"files": {"x": {"sha256": 5}}}, {"graphs": []}, {"opset": "23"}]
)
def test_schema_refuses_what_cannot_be(bundles, change):
    data = json.loads((bundles["exact"] / "manifest.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, **change}, SCHEMA)
