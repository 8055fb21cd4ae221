"""Report pages at the width of a phone and of a desktop, light and dark: they fit, can be read, and ask for nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import causalrn
from causalrn.runtimes.bench.results import BenchReport, Row, Workload
from causalrn.workflows.pages.bench_page import render_page
from tests.browser_tools import SCHEMES, SIZES, faults_of, open_browser, overflow_of, watch_requests
from tests.npm_tools import AXE, install
from tests.web_tools import needs_chromium

pytest.importorskip("playwright", reason="needs playwright: pip install 'causalrn[dev]'")

pytestmark = [needs_chromium, pytest.mark.slow]

PAGES = ("right", "damaged", "quantized", "bench")


@pytest.fixture(scope="module")
def axe(share) -> Path:
    return install(share, "axe", AXE) / "axe-core" / "axe.min.js"


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(runs, exact_bundle, damaged, tmp_path_factory) -> dict[str, Path]:
    """A page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    options: dict[str, Any] = {"samples": 5, "level": ("logits", "layer", "drift", "task", "guards")}
    checked = {
        "right": causalrn.verify(exact_bundle, checkpoint=runs["exact"], **options),
        "damaged": causalrn.verify(damaged, checkpoint=runs["exact"], **options),
        "quantized": causalrn.verify(exact_bundle, checkpoint=runs["exact"], max_kl=1e-30, **options),
    }
    assert [each.passed for each in checked.values()] == [True, False, False]
    for name, result in checked.items():
        result.save_html(folder / f"{name}.html")
    (folder / "bench.html").write_text(render_page(bench_report()))
    return {name: folder / f"{name}.html" for name in PAGES}


def bench_report() -> BenchReport:
    """Three candidates at four depths: one grows, one stays flat, one could not be opened."""
    rows = []
    for depth in (16, 64, 256, 1024):
        work = Workload("decode", 16, depth, 1)
        row = Row("bundle-c", "native", 1, "exact", work, times_us=tuple(15 + depth / 8 + i / 10 for i in range(5)))
        sizes = {"formula_bytes": 1024 * depth, "resident_bytes": 1100 * depth, "peak_bytes": 44_000_000}
        rows.append(dataclasses.replace(row, floor_us=4 + depth / 16, **sizes))
        flat = Row("bundle-linear", "native", 1, "linear", work, times_us=(14.0, 14.1, 14.2, 14.1, 14.0))
        rows.append(dataclasses.replace(flat, resident_bytes=0, formula_bytes=1024, peak_bytes=43_000_000))
        rows.append(Row("gone", "", 1, "", work, "failed", "gone: no such folder"))
    return BenchReport({"folders": ["bundle-c"], "turn_ms": 60.0}, {"packages": {"numpy": "2.4.6"}}, rows, "bundle-c")


@pytest.mark.cases(6)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_and_can_be_read(browser, pages, axe, name, size, scheme):
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    url = pages[name].as_uri()
    asked = watch_requests(page, url)
    page.goto(url)
    faults = overflow_of(page)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    faults += faults_of(page, axe)
    page.close()
    assert (faults, asked) == ([], [])


def test_faults_are_found(browser, axe, tmp_path):
    """Each check can fail: a wide line, grey on white, and a request to another origin."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<html lang=en><title>x</title><main><h1 style='width: 2000px'>x</h1><p style='color: #aaa'>grey</p>"
        "<img alt='' src='http://127.0.0.1:9/x.png'></main>"
    )
    page = browser.new_page(viewport={"width": 390, "height": 844})
    asked = watch_requests(page, path.as_uri())
    page.goto(path.as_uri())
    wide, contrast = faults_of(page, axe)
    page.close()
    assert "px too wide" in wide
    assert contrast.startswith("color-contrast")
    assert asked == ["http://127.0.0.1:9/x.png"]


def test_page_that_passes_is_short_on_a_phone(browser, pages):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(pages["right"].as_uri())
    height = page.evaluate("document.documentElement.scrollHeight")
    assert page.locator("details.level[open]").count() == 0
    page.close()
    assert height < 3000


def test_failing_rows_name_value_limit_and_rule(browser, pages):
    page = browser.new_page()
    page.goto(pages["quantized"].as_uri())
    assert page.locator("h1 + p").inner_text().startswith("4 of ")
    row = page.locator(".row", has_text="onnxruntime").filter(has_text="FAIL").first
    words = " ".join(row.inner_text().split())
    page.close()
    assert "KL divergence" in words
    assert " > " in words
    assert "(budget)" in words
    assert "also most likely tokens changed 0 % of" in words
