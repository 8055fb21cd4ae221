"""`causalrn-export serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from causalrn.cli.number_types import Real, Whole
from causalrn.cli.options import PATH, given_options, memory_option, pop_session_options, runtime_options
from causalrn.errors import InputError

_DEFAULT_PORT = 8000
_PAGE_OPTIONS = ("bundles", "http", "port")


@click.command(
    epilog="""\b
Examples:
  causalrn-export serve site              the page of a web bundle
  causalrn-export serve site --port 0     any port that is free
  causalrn-export serve source --http     completions, on this machine alone
  causalrn-export serve small=source large=bundle --http
  causalrn-export serve source --http --host 0.0.0.0 --keys keys.txt"""
)
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True)
@click.option("--http", is_flag=True, help="Serve OpenAI's completions, and sessions, instead of a page.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need API keys.")
@click.option(
    "--port",
    type=Whole(0, 65535),
    help=f"Port to listen on; 0 takes a free one.  [default: {_DEFAULT_PORT}, or a free one]",
)
@click.option("--keys", type=PATH, help="File with an API key a line; the variable CAUSALRN_API_KEYS does the same.")
@click.option("--max-slots", type=Whole(1, 65536), default=256, show_default=True, help="Running sequences.")
@click.option(
    "--max-waiting", type=Whole(1, 1 << 20), default=1024, show_default=True, help="Requests that may wait for a slot."
)
@memory_option("--state-memory", 1024, "Memory of running sequences' states, per model.")
@memory_option("--cache-memory", 64, "Memory of the prefix cache, per model.")
@memory_option("--session-memory", 256, "Memory of sessions' states, per model; others lie on disk.")
@memory_option("--session-disk", 4096, "Disk of sessions' states, per model.")
@click.option("--state-dir", type=PATH, help="Folder that keeps sessions when the server ends.  [default: none does]")
@click.option(
    "--deadline",
    type=Real(0.001),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="For a whole request.",
)
@click.option(
    "--drain",
    type=Real(0.0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="For what runs to end after SIGTERM or Ctrl-C.",
)
@click.option("--runtime", help="Of all bundles; their default otherwise.")
@runtime_options
@click.pass_context
def command(context: click.Context, /, bundles: tuple[str, ...], http: bool, port: int | None, **options: Any) -> None:
    """Try a web bundle's page on this machine, or serve models over HTTP, until Ctrl-C.

    With --http, bundles and RUNs are models by name: NAME=PATH, or the folder's name. The server runs any number of
    requests in one batch, each as if it were alone, and keeps sessions. It speaks no TLS: docs/serving.md.

    Without it, the page of one WEB_BUNDLE: only this machine can reach it. Elsewhere any static file server will do:
    the folder is all there is to serve.
    """
    or_any, chosen = port is None, _DEFAULT_PORT if port is None else port
    if http:
        _serve_models(bundles, chosen, or_any, options)
        return
    foreign = sorted(given_options(context).difference(_PAGE_OPTIONS))
    if foreign:
        raise InputError(f"`{foreign[0]}` means nothing to a page: add --http")
    if len(bundles) > 1:
        raise InputError("a page is of one bundle: name one, or add --http")
    _serve_page(Path(bundles[0]), chosen, or_any)


def _serve_page(bundle: Path, port: int, or_any: bool) -> None:
    from causalrn.cli.console import console
    from causalrn.cli.serve_run import open_server

    with open_server(bundle, port, or_any=or_any) as server:
        console().print(f"{bundle} at {server.url}, until Ctrl-C")
        server.serve()


def _serve_models(bundles: tuple[str, ...], port: int, or_any: bool, options: dict[str, Any]) -> None:
    from causalrn.cli.console import console
    from causalrn.cli.serve_models import serve_models

    def tell(url: str, names: list[str]) -> None:
        console().print(f"{', '.join(names)} at {url}/v1, until Ctrl-C")

    session_options = pop_session_options(options)
    serve_models(bundles, port, or_any=or_any, session_options=session_options, tell=tell, **options)
