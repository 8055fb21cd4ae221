"""What all self-contained pages share: no script, no request, light and dark, readable on a phone."""

from __future__ import annotations

import json
from typing import Any

import jinja2
from markupsafe import Markup, escape


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
    environment.filters["with_code"] = with_code
    return environment


def with_code(text: str) -> Markup:
    """A sentence as HTML, names in backticks as code; all else is escaped."""
    words = text.split("`")
    if len(words) % 2 == 0:  # a backtick without a second one is a character
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(words)
    )


def embedded_json(report: Any) -> str:
    """A report as the page carries it: nothing in it may end the element that holds it."""
    return json.dumps(report, allow_nan=False).replace("<", "\\u003c")
