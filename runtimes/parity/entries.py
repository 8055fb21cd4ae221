"""What the entries of a verification's report have in common: they are typed, written and read by msgspec."""

from __future__ import annotations

from typing import Annotated

import msgspec

Figure = float | None
"""A number of a report; NaN and infinity are written as null, and read back as None, as is what was not measured."""

NULLABLE = "nullable"
"""Marks an entry in a schema that is a number in Python, and null in JSON where it is not finite."""

FigureFloat = Annotated[float, msgspec.Meta(extra_json_schema={NULLABLE: True})]
"""The same where nothing that passes has anything but a number: null is written, and not read."""


class ReportEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object of a report. Its JSON has the fields' names, except where a field is given another one."""
