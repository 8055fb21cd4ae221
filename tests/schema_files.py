"""Schemas that are published in docs/: each file is what the types give, and no other."""

from __future__ import annotations

import os
from typing import Any

from causalrn.bundle.json_values import json_text
from tests.builders import ROOT

RENEW = "CAUSALRN_RENEW_SCHEMAS"
"""An environment variable: where it is set, the files are written anew."""


def check_schema_file(name: str, schema: dict[str, Any]) -> None:
    """Compare docs/NAME with a schema."""
    path, text = ROOT / "docs" / name, json_text(schema)
    if os.environ.get(RENEW):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, (
        f"docs/{name} is not what the types give: run this test with {RENEW}=1, and look at what changed"
    )
