"""Typed objects as JSON and back: one way for manifests, checkpoint folders, tables and reports (msgspec).

What flows is a frozen dataclass; its fields are the file's entries. Numbers that are not finite become null, for JSON
has none; tuples become arrays.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from causalrn.errors import CausalRNError, ConfigError

_T = TypeVar("_T")


def to_json(value: Any) -> Any:
    """JSON values (dict, list, str, int, float, bool, None) of a dataclass or a container of them.

    Example:
        >>> to_json({"shape": (2, 3), "error": float("nan")})
        {'shape': [2, 3], 'error': None}
    """
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=_encode))


def _encode(value: Any) -> Any:
    """What msgspec does not know: paths, numpy's scalars, and read-only mappings."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item"):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")


def from_json(data: Any, kind: type[_T], source: str, error: type[CausalRNError] = ConfigError) -> _T:
    """Read JSON values as an object; every entry's type is checked, as are the values that the object checks itself.

    Args:
        data: JSON values.
        kind: a dataclass.
        source: what is named in errors: a file.
        error: what is raised.

    Raises:
        CausalRNError: of the kind `error`: an entry is missing, or has a type or value that cannot be.

    Example:
        >>> from causalrn.bundle.manifest import Graph
        >>> from_json({"file": "step.onnx", "pad_rows": 1}, Graph, "manifest.json")
        Graph(file='step.onnx', pad_rows=1)
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as fault:
        raise error(f"{source}: {_in_words(str(fault))}") from None


def _in_words(fault: str) -> str:
    """Msgspec's sentence with the place first, e.g. "state.pool: expected str, got int"."""
    what, _, place = fault.replace("`", "").partition(" - at ")
    what = re.sub(r"^Object missing required field (\w+)$", r"the entry \1 is missing", what)
    what = re.sub(r"^Expected ", "expected ", what)
    place = place.removeprefix("$").removeprefix(".")
    return f"{place}: {what}" if place else what


def parse_json_line(line: bytes, kind: type[_T]) -> _T:
    """Parse one line of a JSON Lines file; every entry's type is checked.

    Raises:
        ConfigError: no JSON, or not of this kind.
    """
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.ValidationError as fault:
        raise ConfigError(_in_words(str(fault))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise ConfigError(f"not valid JSON ({fault})") from None
    except RecursionError:
        raise ConfigError("not valid JSON (nested too deeply)") from None


def json_schema(kind: type[Any], title: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of an object's file; docstrings are its descriptions."""
    schema = msgspec.json.schema(kind)
    for definition in schema.get("$defs", {}).values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def json_text(data: Any) -> str:
    """JSON as all files of this toolkit have it: indented, one trailing newline, no NaN."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def own_hash(data: Mapping[str, Any], entry: str) -> str:
    """SHA-256 of JSON values without the entry that holds it; empty for NaN, which no file of ours holds."""
    try:
        text = json_text({key: value for key, value in data.items() if key != entry})
    except ValueError:
        return ""
    return hashlib.sha256(text.encode()).hexdigest()


def parse_json_object(text: str, source: str) -> dict[str, Any]:
    """Parse a JSON object, naming `source` when it is none.

    Raises:
        ConfigError: the text is no JSON object.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{source}: not valid JSON ({error.msg} at line {error.lineno})") from None
    except (RecursionError, ValueError):
        raise ConfigError(f"{source}: not valid JSON (nested too deeply, or a number too long)") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected a JSON object")
    return data
