"""What all self-contained pages share: no script, no request, light and dark, readable on a phone."""

from __future__ import annotations

import json
from typing import Any

import jinja2


def page_environment() -> jinja2.Environment:
    """Where this package's templates are rendered."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("causalrn.workflows.pages", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment


def embedded_json(report: Any) -> str:
    """A report as the page carries it: nothing in it may end the element that holds it."""
    return json.dumps(report, allow_nan=False).replace("<", "\\u003c")
