"""A command of one's own: what `causalrn/cli/NAME_command.py` holds. CONTRIBUTING.md walks through it."""

from __future__ import annotations

from pathlib import Path

import click

from causalrn.bundle.manifest import Manifest
from causalrn.cli.console import console
from causalrn.cli.options import PATH
from causalrn.errors import InputError


def state_bytes(bundle: Path, *, tokens: int) -> int:
    """Bytes that the state of one sequence takes: the workflow, which would stand in `causalrn/workflows/room.py`.

    Raises:
        InputError: more tokens than the capacity; the command line shows `tokens` as its option.
    """
    state = Manifest.read(bundle).state
    if state.capacity is not None and tokens > state.capacity:
        raise InputError(f"`tokens` {tokens} is beyond the capacity of {state.capacity}: ask for fewer")
    return state.size_bytes(tokens)


@click.command(
    epilog="""\b
Example:
  causalrn-export room bundle --tokens 128"""
)
@click.argument("bundle", type=PATH)
@click.option("--tokens", type=click.IntRange(1), required=True, help="Positions that the state holds.")
def command(bundle: Path, tokens: int) -> None:
    """Print what the state of one sequence takes."""
    console().print(f"{state_bytes(bundle, tokens=tokens):,} bytes")
