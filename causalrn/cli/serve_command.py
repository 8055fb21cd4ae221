"""`causalrn-export serve`."""

from __future__ import annotations

from pathlib import Path

import click

from causalrn.cli.number_types import Whole
from causalrn.cli.options import PATH

_DEFAULT_PORT = 8000


@click.command(
    epilog="""\b
Examples:
  causalrn-export serve site
  causalrn-export serve site --port 0           any port that is free"""
)
@click.argument("bundle", metavar="WEB_BUNDLE", type=PATH)
@click.option(
    "--port",
    type=Whole(0, 65535),
    help=f"Port to listen on; 0 takes a free one.  [default: {_DEFAULT_PORT}, or a free one]",
)
def command(bundle: Path, port: int | None) -> None:
    """Try a web bundle in a browser on this machine, until Ctrl-C.

    Only this machine can reach it. Elsewhere any static file server will do: the folder is all there is to serve.
    """
    from causalrn.cli.console import console
    from causalrn.cli.serve_run import open_server

    with open_server(bundle, _DEFAULT_PORT if port is None else port, or_any=port is None) as server:
        console().print(f"{bundle} at {server.url}, until Ctrl-C")
        server.serve()
