"""Write docs/reference/cli.md: the help of every command, as a terminal of 80 columns shows it.

A test compares the page with the commands. Renew it after a change with `python docs/make_cli_reference.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.cli import COMMANDS, group

PAGE = Path(__file__).parent / "reference" / "cli.md"
_COLUMNS = 80
_HEAD = """\
# Command line

What `causalrn-export COMMAND --help` prints. In Python every command is a function with the same
arguments: [the API](api.md). What `--json` writes: [reports as JSON](../json-reports.md).

`make man` writes this page as `build/man/causalrn-export.1`: `man -l build/man/causalrn-export.1`
shows it, in a folder `man1` of your MANPATH it is `man causalrn-export`.

## Completion

In bash, zsh and fish the Tab key completes commands, options, their choices and files, after one of

```sh
eval "$(_CAUSALRN_EXPORT_COMPLETE=bash_source causalrn-export)"   # in ~/.bashrc
eval "$(_CAUSALRN_EXPORT_COMPLETE=zsh_source causalrn-export)"    # in ~/.zshrc
_CAUSALRN_EXPORT_COMPLETE=fish_source causalrn-export | source    # in ~/.config/fish/config.fish
```
"""


def help_text(*names: str) -> str:
    """The help of the program, or of one of its commands."""
    settings: dict[str, Any] = {**group.context_settings, "terminal_width": _COLUMNS, "max_content_width": _COLUMNS}
    context = click.Context(group, info_name="causalrn-export", **settings)
    command: click.Command = group
    for name in names:
        found = group.get_command(context, name)
        assert found is not None
        command = found
        context = click.Context(command, info_name=name, parent=context, **settings)
    return command.get_help(context)


def page() -> str:
    """The whole page."""
    parts = [_HEAD, _section("causalrn-export", help_text())]
    parts += [_section(f"causalrn-export {name}", help_text(name)) for name in COMMANDS]
    return "\n".join(parts)


def _section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
