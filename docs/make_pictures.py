"""Take docs/page.png and docs/report.png: the web page in the middle of a copy, and the head of a report.

    python docs/make_pictures.py

Trains a small model for that, in half a minute. Needs playwright, an installed Chromium, clang, lld and nodejs.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, sync_playwright

import causalrn
from causalrn.cli.serve_run import open_server

DOCS = Path(__file__).parent
STRING = "causalrelationxy"
SIZE = {"width": 1000, "height": 900}
COPYING_MS = 2500
"""At 12 tokens per second, of 34: enough to see what it copies, and what it reads."""


def take_page(browser: Browser, site: Path, picture: Path) -> None:
    """The page while it copies."""
    with open_server(site, 0) as server:
        threading.Thread(target=server.serve, daemon=True).start()
        page = browser.new_page(viewport=SIZE)
        page.goto(server.url)
        page.locator("#run[aria-disabled=false]").wait_for()
        page.locator("#text").fill(STRING)
        page.locator("#speed").select_option(index=0)
        page.locator("#run").click()
        page.evaluate("document.getElementById('controls').scrollIntoView()")
        page.wait_for_timeout(COPYING_MS)
        page.screenshot(path=picture)
        page.close()


def take_report(browser: Browser, report: Path, picture: Path) -> None:
    """The report's beginning."""
    page = browser.new_page(viewport=SIZE)
    page.goto(report.as_uri())
    page.screenshot(path=picture)
    page.close()


def main() -> None:
    """Make the model, its page and its report; take the pictures."""
    with TemporaryDirectory() as name, contextlib.chdir(name), sync_playwright() as playwright:
        folder = Path()  # what is shown names no folder of this machine
        run = causalrn.train(task="copy", length=len(STRING), output=folder / "run")
        assert run is not None
        site = causalrn.export(run, output=folder / "site", target="web")
        bundle = causalrn.export(run, output=folder / "bundle")
        report = causalrn.verify(bundle, checkpoint=run).save_html("report.html").absolute()
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        take_page(browser, site.bundle.path, DOCS / "page.png")
        take_report(browser, report, DOCS / "report.png")
        browser.close()


if __name__ == "__main__":
    main()
