"""A web bundle as a package: packed by npm, in an app that bundlers build, and in hosts like Electron."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.browser_tools import open_browser, watch_requests
from tests.builders import ROOT
from tests.npm_tools import BUNDLERS, install, npm
from tests.web_tools import needs_chromium, needs_web

pytest.importorskip("playwright", reason="needs playwright: pip install 'causalrn[dev]'")

pytestmark = [needs_web, pytest.mark.slow]

EXAMPLE = ROOT / "examples" / "web_app"
BUILD = Path(__file__).parent / "build_app.mjs"
MOST_LINES = 60


def run_node(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["node", *map(str, words)], capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def packed(web_bundles, tmp_path_factory) -> Path:
    """The linear bundle as `npm pack` writes it."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm: apt-get install npm")
    folder: Path = tmp_path_factory.mktemp("packed")
    result = npm(folder, "pack", web_bundles["linear"])
    assert result.returncode == 0, result.stderr
    archive = next(folder.glob("*.tgz"))
    return archive


@pytest.fixture(scope="module")
def app(packed, tmp_path_factory) -> Path:
    """The example with the package installed."""
    folder: Path = tmp_path_factory.mktemp("app")
    for file in EXAMPLE.iterdir():
        shutil.copy(file, folder / file.name)
    (folder / "package.json").write_text(json.dumps({"name": "app", "private": True, "type": "module"}))
    result = npm(folder, "install", "--offline", packed)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def serve():
    """Serves folders with the standard library: gives their URL."""
    servers = []

    def start(folder: Path) -> str:
        handler = functools.partial(_Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_example_is_short():
    assert sum(len(file.read_text().splitlines()) for file in EXAMPLE.iterdir()) <= MOST_LINES


def test_package_has_the_bundle_and_its_types(packed, app, web_bundles):
    package = app / "node_modules" / "causalrn-web-bundle"
    assert {path.name for path in package.iterdir()} >= set(
        json.loads((package / "manifest.json").read_text())["files"]
    )
    entry = json.loads((package / "package.json").read_text())["exports"]["."]
    assert all((package / name).is_file() for name in entry.values())
    script = (
        "import { createRequire } from 'node:module';"
        f"const require = createRequire({json.dumps(str(app / 'x.js'))});"
        "const { load } = await import(require.resolve('causalrn-web-bundle'));"
        "const session = await load(require.resolve('causalrn-web-bundle/manifest.json').replace('manifest.json', ''));"
        "console.log((await session.step(0)).length);"
    )
    result = run_node("--input-type=module", "-e", script)
    assert result.stdout.strip() == "29", result.stderr


@pytest.mark.cases(1)
@needs_chromium
@pytest.mark.parametrize("bundler", BUNDLERS)
def test_example_is_built_and_runs(bundler, app, web_bundles, browser, serve, share, tmp_path):
    modules = install(share, "bundlers", BUNDLERS)
    built = run_node(BUILD, bundler, modules, app, tmp_path / "site")
    assert built.returncode == 0, built.stderr
    scripts = [path.read_text() for path in (tmp_path / "site").rglob("*.js")]
    assert not any('from"node:' in text or 'import("node:' in text for text in scripts)
    shutil.copytree(web_bundles["linear"], tmp_path / "site" / "model")
    url, errors = serve(tmp_path / "site"), []
    page = browser.new_page()
    asked = watch_requests(page, url)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    output = page.locator("output")
    output.filter(has_text="ready").wait_for(timeout=30_000)
    page.press("input", "Enter")
    expected = page.evaluate("""async () => {
        const { load } = await import("/model/causalrn.js");
        let text = "";
        for await (const token of (await load("/model/")).generate("abc")) text += token.text;
        return text;
    }""")
    page.wait_for_function("(text) => document.querySelector('output').textContent === text", arg=expected)
    page.close()
    assert expected
    assert (errors, asked) == ([], [])


@pytest.mark.parametrize("builtin", ["getBuiltinModule", "require", "import"])
def test_window_of_electron_reads_its_files_from_disk(builtin, web_bundles):
    """Node and a page at once; modules of Node come by whatever way the host has."""
    folder = web_bundles["linear"]
    script = f"""
import {{ createRequire }} from "node:module";
globalThis.window = globalThis;
globalThis.document = {{ baseURI: {json.dumps((folder / "index.html").as_uri())} }};
if ({json.dumps(builtin)} !== "getBuiltinModule") process.getBuiltinModule = undefined;
if ({json.dumps(builtin)} === "require") globalThis.require = createRequire({json.dumps(str(folder / "x.js"))});
const {{ load }} = await import({json.dumps((folder / "causalrn.js").as_uri())});
const session = await load("./");
console.log((await session.step(0)).length);
"""
    result = run_node("--input-type=module", "-e", script)
    assert result.stdout.strip() == "29", result.stderr


def test_window_of_electron_fetches_what_a_server_has(web_bundles, serve):
    url = serve(web_bundles["linear"])
    script = f"""
globalThis.window = globalThis;
globalThis.document = {{ baseURI: {json.dumps(url)} }};
const {{ load }} = await import({json.dumps((web_bundles["linear"] / "causalrn.js").as_uri())});
console.log((await (await load("./")).step(0)).length);
"""
    result = run_node("--input-type=module", "-e", script)
    assert result.stdout.strip() == "29", result.stderr
