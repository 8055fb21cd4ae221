"""Arguments of functions as the command line calls them: `drift_steps` in a message becomes --drift-steps.

Below the command line errors and notes name arguments in backticks. What is no option of the command that runs stays as
it is: other commands, as in `verify`, and arguments that only functions have.
"""

from __future__ import annotations

import re

import click

_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)`")
_flags: dict[str, str] = {}


def use_flags_of(command: click.Command) -> None:
    """Let :func:`in_flags` speak of a command's options."""
    _flags.clear()
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            flag = max(parameter.opts, key=len)
            _flags[flag.lstrip("-").replace("-", "_")] = flag
            if parameter.name is not None:
                _flags[parameter.name] = flag  # `levels`, of which --level gives one


def in_flags(text: str) -> str:
    """A message with arguments as flags.

    Example:
        >>> use_flags_of(click.Command("verify", params=[click.Option(["--drift-steps"])]))
        >>> in_flags("`drift_steps` 40 is beyond the capacity of 34: `export` it with more")
        '--drift-steps 40 is beyond the capacity of 34: `export` it with more'
    """
    return _ARGUMENT.sub(lambda found: _flags.get(found[1], found[0]), text)
