"""Pages in a real browser: one for all tests of a module, and what every page has to keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.web_tools import CHROMIUM

ARGUMENTS = [
    "--no-sandbox",  # it does not start for root and in most containers; the only pages here are our own
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
SCHEMES = ("light", "dark")

_OVERFLOWING = """() => {
    const width = document.documentElement.clientWidth;
    const scrolls = (element) => element.closest(".wide, pre, .scroll, .visually-hidden") !== null;
    const outside = [...document.body.querySelectorAll("*")].filter((element) => {
        const box = element.getBoundingClientRect();
        return box.width > 0 && box.right > width + 0.5 && !scrolls(element);
    });
    const shown = outside.slice(0, 3).map((one) => one.outerHTML.slice(0, 120));
    return [document.documentElement.scrollWidth - width, shown];
}"""
_AXE = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations.map(
    ({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`)"""


@contextmanager
def open_browser() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


def faults_of(page: Any, axe: Path) -> list[str]:
    """What is wrong with a page as it stands: it is wider than the window, or axe-core finds something."""
    faults = overflow_of(page)
    page.evaluate(axe.read_text(encoding="utf-8"))  # not a script element: pages may forbid those
    return faults + list(page.evaluate(_AXE))


def overflow_of(page: Any) -> list[str]:
    """What reaches beyond the window's right edge; one line, or none."""
    width, outside = page.evaluate(_OVERFLOWING)
    return [f"{width} px too wide: {outside}"] * bool(width > 0 or outside)


def watch_requests(page: Any, url: str) -> list[str]:
    """A list that fills with what a page asks others than its own origin for."""
    origin, asked = urlsplit(url)[:2], []

    def note(request: Any) -> None:
        scheme, host = urlsplit(request.url)[:2]
        if (scheme, host) != origin and scheme not in ("data", "blob"):
            asked.append(request.url)

    page.on("request", note)
    return asked
