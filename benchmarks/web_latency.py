"""How long the cell takes in a browser, beside onnxruntime-web on the same page. Run it, from anywhere:

    python benchmarks/web_latency.py [--json FILE] [--repeats N] [--ready]

It needs `pip install 'causalrn[export,dev]'`, clang, lld, nodejs, npm, chromium, a quiet machine and four minutes.
Models of the paper's size (E = H = 192, 12 blocks, capacity 1,100) run in one headless Chromium: C as WebAssembly with
SIMD, the same without, int8 products, and onnxruntime-web on one thread. All take turns on one page; a time is `await
session.step(token)`, everything included, of eight steps from the same state; ratios are paired within a turn. "Ready"
is from the start of a navigation in a fresh browser context, served by `causalrn-export serve`, to the first model that
can take a token, of these models and of one of the size that `causalrn-export demo` trains. Beside it is the time of
the processor on the page's main thread until then, which a busy machine changes less. `--ready` measures nothing else,
on the small model, in half a minute. Golden vectors are verified on the page first.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from interleaved import Spread, Verdict, paired_ratio
from models import unit_gain_model
from playwright.sync_api import Browser, Page, expect, sync_playwright
from reporting import write_json
from rich.console import Console
from rich.table import Table
from step_latency import describe_machine

from causalrn.bundle.bundle_folder import Bundle
from causalrn.bundle.web_spec import C_ENGINE, ORT_ENGINE
from causalrn.cli.serve_run import LOOPBACK, BundleHandler, BundleServer, open_server
from causalrn.export.web.wasm_builder import MODULES
from causalrn.export.web.web_exporter import WebOptions
from causalrn.model.config import CausalRNConfig
from causalrn.runtimes.progress import show_progress
from causalrn.training.card import ModelCard
from causalrn.training.checkpoint import save_checkpoint
from causalrn.workflows.export_targets import export_web_bundle

CAPACITY = 1100
DEPTHS = {"exact": (16, 128, 1024), "linear": (16, 128, 1024)}
TARGETS = {("exact", 128): 0.7, ("linear", 128): 0.7}
LARGEST_READY_MS, LARGEST_BYTES, LARGEST_GZIP_BYTES = 300, 60_000, 15_000
DEMO = "demo"
IDLE_MS = 1000
"""A new context is a new window, for which Chromium loads hundreds of scripts of its own; a user's is there before."""
SIMD, PLAIN, ORT = "C, SIMD", "C, no SIMD", "onnxruntime-web"
QUANTIZED = "C, w8a8-dynamic"

_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

_OPEN = """async (candidates) => {
  globalThis.sessions = {};
  for (const [name, [folder, simd]] of Object.entries(candidates)) {
    const { load } = await import(`/${folder}/causalrn.js`);
    sessions[name] = await load(`/${folder}/`, { simd });
  }
}"""

_VERIFY = """async (name) => {
  const { verify } = await import(new URL("parity.js", sessions[name].folder));
  const { passed, rows } = await verify(sessions[name]);
  return { passed, error: rows.find((row) => row.check === "logits")?.error ?? null };
}"""

# Eight steps at a time, from the same state each time, until the budget is used up; the median per step in us.
_STEPS = """async ([name, depth, budgetMs]) => {
  const session = sessions[name], tokens = Array.from({ length: depth }, (_, index) => (index * 7) % 29);
  session.reset();
  await session.prefill(tokens);
  const snapshot = session.snapshot(), times = [];
  for (const end = performance.now() + budgetMs; performance.now() < end || times.length < 3; ) {
    session.restore(snapshot);
    const start = performance.now();
    for (let step = 0; step < 8; step++) await session.step(step + 3);
    times.push((performance.now() - start) * 125);
  }
  times.sort((a, b) => a - b);
  return times[times.length >> 1];
}"""


def save_model(readout: str, width: int, blocks: int, capacity: int, folder: Path) -> Path:
    """A checkpoint folder of a model that was not trained."""
    sizes = {"embedding": width, "hidden": width, "blocks": blocks, "capacity": capacity}
    config = CausalRNConfig(readout=readout, vocabulary=29, **sizes)
    save_checkpoint(folder, unit_gain_model(config), ModelCard(config), {})
    return folder


def export_demo(folder: Path) -> Path:
    """A site of the size that `causalrn-export demo` trains."""
    export_web_bundle(save_model("exact", 64, 4, 34, folder / "demo-run"), folder / f"{DEMO}-c", WebOptions())
    return folder / f"{DEMO}-c"


def export_sites(folder: Path) -> dict[str, dict[str, tuple[str, bool]]]:
    """Per readout and candidate, a folder below `folder` and whether SIMD is used."""
    sites = {}
    for readout in DEPTHS:
        run = save_model(readout, 192, 12, CAPACITY, folder / f"{readout}-run")
        options = {
            "c": WebOptions(C_ENGINE),
            "w8a8": WebOptions(C_ENGINE, scheme="w8a8-dynamic"),
            "ort": WebOptions(ORT_ENGINE),
        }
        for name, option in options.items():
            export_web_bundle(run, folder / f"{readout}-{name}", option)
        sites[readout] = {
            SIMD: (f"{readout}-c", True),
            PLAIN: (f"{readout}-c", False),
            QUANTIZED: (f"{readout}-w8a8", True),
            ORT: (f"{readout}-ort", True),
        }
    return sites


@contextmanager
def serving(server: BundleServer) -> Iterator[str]:
    with server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


def measure_steps(page: Page, readout: str, names: list[str], repeats: int) -> list[dict[str, Any]]:
    rows = []
    for depth in DEPTHS[readout]:
        times: dict[str, list[float]] = {name: [] for name in names}
        with show_progress(f"{readout}, {depth} tokens", repeats) as advance:
            for repeat in range(repeats):
                shift = repeat % len(names)
                for name in names[shift:] + names[:shift]:
                    times[name].append(page.evaluate(_STEPS, [name, depth, 40]))
                advance(1)
        target = TARGETS.get((readout, depth))
        verdict = Verdict(paired_ratio(times, SIMD, ORT), target, at_least=False)
        rows.append(
            {
                "readout": readout,
                "depth": depth,
                "times_us": {name: Spread.of(values).__dict__ for name, values in times.items()},
                "ratio": verdict.ratio.__dict__,
                "target": verdict.target_text,
                "verdict": verdict.word,
            }
        )
    return rows


def measure_ready(browser: Browser, site: Path, repeats: int) -> dict[str, Any]:
    """Until the first model of a page can take a token, in fresh contexts: ms, and of these ms of the processor."""
    walls, processor = [], []
    with serving(open_server(site, 0)) as url:
        for _ in range(repeats):
            context = browser.new_context()
            page = context.new_page()
            page.wait_for_timeout(IDLE_MS)
            tools = context.new_cdp_session(page)
            tools.send("Performance.enable", {"timeDomain": "threadTicks"})
            page.goto(url, wait_until="commit")
            page.locator("html[data-ready-ms]").wait_for(state="attached", timeout=60_000)
            metrics = {one["name"]: one["value"] for one in tools.send("Performance.getMetrics")["metrics"]}
            processor.append(1e3 * metrics["TaskDuration"])
            walls.append(float(page.locator("html").get_attribute("data-ready-ms") or "nan"))
            expect(page.locator("#status")).to_have_text("ready", timeout=60_000)
            context.close()
    return {**Spread.of(walls).__dict__, "target": LARGEST_READY_MS, "processor": Spread.of(processor).__dict__}


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium, the one of the system where there is one."""
    with sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome")
        path = next((found for name in names if (found := shutil.which(name))), None)
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        browser.close()


def describe(browser: Browser, repeats: int) -> dict[str, Any]:
    return {
        "benchmark": "web_latency",
        "machine": describe_machine(),
        "chromium": browser.version,
        "repeats": repeats,
    }


def engine_sizes(site: Path) -> dict[str, dict[str, int]]:
    contents = {name: (site / name).read_bytes() for name in MODULES.values()}
    return {
        name: {"size_bytes": len(content), "gzip_bytes": len(gzip.compress(content, 9))}
        for name, content in contents.items()
    }


def run(folder: Path, repeats: int) -> dict[str, Any]:
    sites = export_sites(folder)
    demo = export_demo(folder)
    rows: list[dict[str, Any]] = []
    parity = {}
    server = BundleServer((LOOPBACK, 0), partial(BundleHandler, directory=str(folder)))
    with chromium() as browser, serving(server) as url:
        page = browser.new_page()
        page.set_default_timeout(300_000)
        page.goto(f"{url}exact-c/")
        for readout, candidates in sites.items():
            page.evaluate(_OPEN, candidates)
            parity[readout] = {name: page.evaluate(_VERIFY, name) for name in candidates}
            rows += measure_steps(page, readout, list(candidates), repeats)
        ready = {readout: measure_ready(browser, folder / f"{readout}-c", repeats) for readout in sites}
        ready[DEMO] = measure_ready(browser, demo, repeats)
        described = describe(browser, repeats)
    ort = Bundle.open(folder / "exact-ort").manifest.web
    return {
        **described,
        "onnxruntime_web": ort.version if ort else None,
        "parity": parity,
        "rows": rows,
        "ready_ms": ready,
        "engines": {readout: engine_sizes(folder / f"{readout}-c") for readout in sites},
    }


def run_ready(folder: Path, repeats: int) -> dict[str, Any]:
    """What `--ready` measures: the page of a model of the demo's size."""
    demo = export_demo(folder)
    with chromium() as browser:
        ready = {DEMO: measure_ready(browser, demo, repeats)}
        described = describe(browser, repeats)
    return {**described, "parity": {}, "rows": [], "ready_ms": ready, "engines": {DEMO: engine_sizes(demo)}}


def print_report(report: dict[str, Any]) -> None:
    out = Console()
    names = (SIMD, PLAIN, QUANTIZED, ORT)
    table = Table("us per token", "t", "SIMD", "plain", "int8", "ort-web", "ratio", "target", box=None, padding=(0, 1))
    for row in report["rows"]:
        times = [f"{row['times_us'][name]['median']:,.0f}" for name in names]
        verdict = f"{row['target']} {row['verdict']}"
        table.add_row(row["readout"], str(row["depth"]), *times, f"{row['ratio']['median']:.3f}", verdict)
    if table.row_count:
        out.print(table)
    for name, ready in report["ready_ms"].items():
        spreads = [
            f"{one['median']:.0f} ({one['low']:.0f} to {one['high']:.0f})" for one in (ready, ready["processor"])
        ]
        out.print(f"{name}: ready after {spreads[0]} ms, {spreads[1]} ms of the processor on the page's main thread")
    for readout, engines in report["engines"].items():
        for name, sizes in engines.items():
            out.print(f"{readout}, {name}: {sizes['size_bytes']:,} bytes, {sizes['gzip_bytes']:,} gzipped")
    for readout, found in report["parity"].items():
        for name, result in found.items():
            error = "" if result["error"] is None else f", logits off by {result['error']:.1e}"
            out.print(f"{readout}, {name}: golden vectors {'hold' if result['passed'] else 'FAIL'}{error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--ready", action="store_true", help="only how soon the page of a small model is ready")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = (run_ready if options.ready else run)(Path(folder), options.repeats)
    print_report(report)
    write_json(options.json, report)


if __name__ == "__main__":
    main()
