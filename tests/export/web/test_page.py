"""The page in a real browser: what people see and do, what it shows when something is wrong, and what it never does."""

import re
import shutil
import threading
from urllib.parse import urlsplit

import pytest

from causalrn.cli.serve_run import open_server
from causalrn.export.web.web_exporter import WebOptions
from causalrn.workflows.export_targets import export_web_bundle
from tests.browser_tools import SCHEMES, SIZES, faults_of, open_browser
from tests.builders import random_model
from tests.c_tools import checkpoint_of
from tests.npm_tools import AXE, install
from tests.web_tools import needs_chromium, needs_web

pytest.importorskip("playwright", reason="needs playwright: pip install 'causalrn[dev]'")
from playwright.sync_api import expect

pytestmark = [needs_web, needs_chromium, pytest.mark.slow]

NOTE_MOVES = """
    globalThis.moves = [];
    for (const kind of ["transitionrun", "animationstart"])
        document.addEventListener(kind, ({ type }) => moves.push(type), true);
    const { scrollIntoView } = Element.prototype;
    Element.prototype.scrollIntoView = function (options) {
        if (options?.behavior !== "instant") moves.push("scroll");
        scrollIntoView.call(this, options);
    };
"""
PARITY_CHECKS = 8
CONTROLS = ["Copy", "Stop", "Random string", "Verify"]


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def axe(share):
    return install(share, "axe", AXE) / "axe-core" / "axe.min.js"


@pytest.fixture
def serve():
    """Serves folders: gives their URL."""
    servers = []

    def start(folder):
        server = open_server(folder, 0)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        servers.append((server, thread))
        return server.url

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def open_page(browser):
    """Opens a page; at the end nothing may have been printed on the console, nor asked of another server."""
    contexts, printed, asked = [], [], []

    def start(url, *, script=None, width=1200, height=900, noisy=False, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        if script:
            page.add_init_script(script)
        if not noisy:
            page.on("console", lambda message: printed.append(message.text))
        page.on("pageerror", lambda error: printed.append(str(error)))
        page.on("request", lambda request: asked.append((urlsplit(url).netloc, request.url)))
        page.goto(url)
        return page

    yield start
    for context in contexts:
        context.close()
    assert printed == []
    assert [request for origin, request in asked if urlsplit(request).netloc not in (origin, "")] == []


def ready(page):
    expect(page.locator("#status")).to_have_text("ready")
    return page


def run(page, text):
    page.select_option("#speed", "full")
    page.fill("#text", text)
    page.press("#text", "Enter")


def test_two_models_run_side_by_side_and_verify(open_page, serve, web_bundles):
    page = ready(open_page(serve(web_bundles["exact"])))
    assert page.locator(".panel").count() == 2
    run(page, "abcdefgh")
    for name, state in (("main", "pool:"), ("beside", "constant")):
        panel = page.locator(f".panel[data-model={name}]")
        expect(panel.locator(".summary")).to_contain_text("of 8 copied")
        assert panel.locator(".out").count() >= 1
        expect(panel).to_contain_text(state)
        expect(panel).to_contain_text("tokens/s")
        assert panel.locator(".readout canvas").count() == 2
        assert "reads position" in panel.locator(".readout canvas").first.get_attribute("aria-valuetext")
    expect(page.locator("#outcome")).to_contain_text(re.compile(r"exact readout: .* of 8 copied.*linear readout: "))
    page.click("#verify")
    expect(page.locator(".parity tr[data-passed=true]")).to_have_count(2 * PARITY_CHECKS)
    assert page.locator(".parity tr[data-passed=false]").count() == 0
    expect(page.locator("#outcome")).to_contain_text("linear readout: ✓ Passed: 8 of 8 checks hold.")
    ready(page)


@pytest.mark.cases(0)
@pytest.mark.parametrize(
    "options",
    [{"heads": 2}, {"heads": 4, "norm": "rms"}, {"readout": "linear", "norm": "rms"}, {"readout": "plain"}],
    ids=str,
)
def test_every_kind_of_model_verifies_in_the_browser(open_page, serve, tmp_path, options):
    run_folder = tmp_path / "run"
    checkpoint_of(random_model(**options), run_folder)
    export_web_bundle(run_folder, tmp_path / "site", WebOptions())
    page = ready(open_page(serve(tmp_path / "site")))
    page.click("#verify")
    expect(page.locator(".parity tr[data-passed]")).to_have_count(PARITY_CHECKS)
    assert page.locator(".parity tr[data-passed=false]").count() == 0
    errors = [float(cell) for cell in page.locator(".parity td[data-label=Error]").all_inner_texts()[:2]]
    assert max(errors) <= 5e-6


def test_browser_gives_the_logits_of_node(open_page, serve, web_bundles):
    """Bit for bit, and a state that was taken in one session goes on in another."""
    page = ready(open_page(serve(web_bundles["exact"])))
    outputs = page.evaluate("""async () => {
        const { load } = await import("/causalrn.js");
        const [one, other] = [await load("./"), await load("./", { simd: false })];
        await one.prefill([0, 4, 5, 6, 1]);
        other.restore(structuredClone(one.snapshot()));
        return [[...await one.step(4)], [...await other.step(4)], one.engine, other.engine];
    }""")
    assert outputs[2:] == ["WebAssembly SIMD", "WebAssembly without SIMD"]
    assert outputs[0] == outputs[1]
    from causalrn.runtimes import open_session

    with open_session(web_bundles["exact"]) as session:
        session.prefill([[0, 4, 5, 6, 1]])
        assert session.step([4])[0].tolist() == outputs[0]


def test_module_runs_in_a_worker(open_page, serve, web_bundles, tmp_path):
    folder = tmp_path / "site"
    shutil.copytree(web_bundles["exact"], folder)
    (folder / "worker.js").write_text("""
        import { load } from "./causalrn.js";
        const session = await load("./");
        postMessage([...(await session.prefill([0, 4, 5, 1]))].length);
    """)
    page = ready(open_page(serve(folder)))
    answer = """() => new Promise((resolve, reject) => {
        const worker = new Worker("/worker.js", { type: "module" });
        worker.onmessage = (event) => resolve(event.data);
        worker.onerror = (event) => reject(new Error(event.message));
    })"""
    assert page.evaluate(answer) == 4 * 29


def test_string_that_goes_on_behind_a_blank_is_not_judged(open_page, serve, web_bundles):
    page = ready(open_page(serve(web_bundles["exact"])))
    run(page, "abc abcx")
    expect(page.locator(".summary").first).to_contain_text("tokens generated")
    assert page.locator(".out.right, .out.wrong").count() == 0


def test_text_outside_the_alphabet_is_refused_in_a_sentence(open_page, serve, web_bundles):
    page = ready(open_page(serve(web_bundles["exact"])))
    for text, words in (
        ("abC", "Character 'C' at place 3"),
        ("", "The prompt is empty"),
        ("a" * 60, "type a shorter text"),
    ):
        run(page, text)
        expect(page.locator("#text-error")).to_contain_text(words)
        assert page.locator("#text").get_attribute("aria-invalid") == "true"
        assert page.input_value("#text") == text
    run(page, "abc")
    expect(page.locator(".summary").first).to_contain_text("of 3 copied")
    expect(page.locator("#text-error")).to_be_hidden()


def test_run_stops_when_it_is_told_to(open_page, serve, tmp_path):
    """At any speed, and with the keyboard alone: the button that is reached by the tab key."""
    checkpoint_of(random_model(positions="none", capacity=None), tmp_path / "run")
    export_web_bundle(tmp_path / "run", tmp_path / "site", WebOptions())
    page = ready(open_page(serve(tmp_path / "site")))
    page.fill("#text", "3 4 5 6")
    page.press("#text", "Enter")
    expect(page.locator("#status")).to_have_text("running")
    while page.evaluate("document.activeElement.id") != "stop":
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("#status")).to_have_text("stopped")
    assert page.locator(".out").count() < 64
    expect(page.locator(".summary")).to_contain_text("stopped before its end")


def broken_copy(web_bundles, tmp_path, damage):
    """A bundle's folder that was damaged after it had been opened for serving."""
    folder = tmp_path / "site"
    shutil.copytree(web_bundles["exact"], folder)
    return folder, lambda: damage(folder)


def shorten(name):
    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def other_version(folder):
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 7'))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shorten("weights.bin"), "weights.bin:"),
        (shorten("engine_simd.wasm"), "engine_simd.wasm:"),
        (other_version, "Manifest version 7, this page reads 1: export again"),
        (lambda folder: (folder / "weights.bin").unlink(), "weights.bin is not there (HTTP 404)"),
    ],
    ids=["weights", "engine", "version", "missing"],
)
def test_damaged_bundle_is_a_sentence(open_page, serve, web_bundles, tmp_path, damage, words):
    folder, apply = broken_copy(web_bundles, tmp_path, damage)
    url = serve(folder)
    apply()
    page = open_page(url, noisy=True)
    expect(page.locator(".panel .error")).to_contain_text(words)
    expect(page.locator("#status")).to_have_text("the model could not be loaded")


def test_first_model_works_where_the_second_is_damaged(open_page, serve, web_bundles, tmp_path):
    folder, apply = broken_copy(web_bundles, tmp_path, lambda folder: shorten("beside/weights.bin")(folder))
    url = serve(folder)
    apply()
    page = open_page(url)
    expect(page.locator("#status")).to_have_text("the first model is ready, the second could not be loaded")
    run(page, "abc")
    expect(page.locator(".panel[data-model=main] .summary")).to_contain_text("of 3 copied")


def test_browser_without_webassembly_is_a_sentence(open_page, serve, web_bundles):
    page = open_page(serve(web_bundles["exact"]), script="delete globalThis.WebAssembly")
    expect(page.locator(".panel .error")).to_contain_text("This browser has no WebAssembly")


def test_browser_without_simd_shows_it_and_verifies(open_page, serve, web_bundles):
    page = ready(open_page(serve(web_bundles["linear"]), script="WebAssembly.validate = () => false"))
    expect(page.locator(".facts")).to_contain_text("WebAssembly without SIMD")
    page.click("#verify")
    expect(page.locator(".parity tr[data-passed=true]")).to_have_count(PARITY_CHECKS - 1)


@pytest.mark.parametrize(
    "options", [{"java_script_enabled": False}, {"java_script_enabled": True}], ids=["off", "file"]
)
def test_page_that_is_not_served_shows_how(open_page, web_bundles, options):
    page = open_page((web_bundles["exact"] / "index.html").as_uri(), noisy=True, **options)
    expect(page.locator("#unserved")).to_contain_text("causalrn-export serve")


@pytest.mark.cases(1)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_a_phone_and_can_be_used_by_touch_and_keyboard(open_page, serve, web_bundles, scheme):
    page = ready(open_page(serve(web_bundles["exact"]), width=360, height=740, color_scheme=scheme, has_touch=True))
    run(page, "abcdefghijklmnop")
    expect(page.locator(".summary").last).to_contain_text("of 16 copied")
    page.tap("#verify")
    expect(page.locator(".parity tr[data-passed=true]")).to_have_count(2 * PARITY_CHECKS)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, "it scrolls sideways"
    for name in CONTROLS:
        assert page.get_by_role("button", name=name, exact=True).bounding_box()["height"] >= 40
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(int(part) for part in background.strip("rgb()").split(",")[:3]) > 3 * 128
    assert light == (scheme == "light")


@pytest.mark.cases(2)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_page_fits_and_can_be_read(open_page, serve, axe, web_bundles, size, scheme):
    """Before anything is run, and with everything that it can show."""
    width, height = SIZES[size]
    page = ready(open_page(serve(web_bundles["exact"]), width=width, height=height, color_scheme=scheme))
    assert faults_of(page, axe) == []
    run(page, "abcd")
    expect(page.locator(".summary").last).to_contain_text("of 4 copied")
    page.click("#verify")
    expect(page.locator(".parity tr[data-passed=true]")).to_have_count(2 * PARITY_CHECKS)
    run(page, "abC")
    expect(page.locator("#text-error")).to_be_visible()
    assert faults_of(page, axe) == []


def test_tape_is_in_view_when_it_copies_on_a_phone(open_page, serve, web_bundles):
    page = ready(open_page(serve(web_bundles["exact"]), width=390, height=700))
    page.fill("#text", "abcdefghijklmnopqrs")
    page.click("#run")
    expect(page.locator(".out").first).to_be_attached()
    tape = page.locator(".panel[data-model=main] .tape").last
    expect(tape).to_be_in_viewport(ratio=1)


@pytest.mark.cases(1)
@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_reduced_motion_is_respected(open_page, serve, web_bundles, motion):
    """Nothing moves where the system asks for that; elsewhere the same run does, or this could not fail."""
    url = serve(web_bundles["exact"])
    page = ready(open_page(url, script=NOTE_MOVES, width=390, height=700, reduced_motion=motion))
    assert page.input_value("#speed") == ("full" if motion == "reduce" else "watch")
    page.fill("#text", "abc")
    page.click("#run")
    expect(page.locator(".summary").first).to_contain_text("of 3 copied")
    tape = page.locator(".tape").first
    page.wait_for_function("(tape) => tape.getBoundingClientRect().bottom <= innerHeight", arg=tape.element_handle())
    moves = page.evaluate("moves")
    if motion == "reduce":
        assert moves == []
    else:
        assert {"scroll", "transitionrun"} <= set(moves)


def test_everything_is_reached_by_the_keyboard(open_page, serve, web_bundles):
    page = ready(open_page(serve(web_bundles["linear"]), width=390, height=700))
    reached, outlines = [], []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        outlines.append(page.evaluate("getComputedStyle(document.activeElement).outlineStyle"))
    pictures = page.locator(".readout canvas").count()
    assert reached[: 6 + pictures + 1] == [
        "text",
        "run",
        "stop",
        "random",
        "speed",
        "verify",
        *["CANVAS"] * pictures,
        "A",
    ]
    assert "none" not in outlines[: 6 + pictures + 1], "it cannot be seen what the keys are for"
    page.focus("#speed")
    page.keyboard.press("End")
    assert page.input_value("#speed") == "full"
    page.focus("#text")
    page.keyboard.type("abc")
    page.keyboard.press("Enter")
    expect(page.locator(".summary")).to_contain_text("copied")
    for _ in range(6):
        page.keyboard.press("Tab")
    page.keyboard.press("Home")
    expect(page.locator(".reading")).to_contain_text("the output at 0 (after BOS")


def test_strings_of_other_lengths_are_explained(open_page, serve, web_bundles):
    page = ready(open_page(serve(web_bundles["exact"])))
    expect(page.locator("#length-hint")).to_be_hidden()  # the string that it starts with is as long as trained ones
    page.fill("#text", "abc")
    words = "It was trained on strings of 19 letters and has not seen any of 3: expect mistakes."
    expect(page.locator("#length-hint")).to_have_text(words)
    run(page, "abc")
    expect(page.locator(".summary").first).to_contain_text(words)
    page.click("#random")
    expect(page.locator("#length-hint")).to_be_hidden()


def test_empty_picture_says_what_fills_it_and_letters_can_be_read(open_page, serve, web_bundles):
    page = ready(open_page(serve(web_bundles["exact"]), width=390, height=700))
    hint = page.locator(".readout .empty").first
    expect(hint).to_have_text("Empty: a run adds a row for every token.")
    page.evaluate("""() => {
        const { fillText } = CanvasRenderingContext2D.prototype;
        globalThis.fonts = [];
        CanvasRenderingContext2D.prototype.fillText = function (...given) {
            fonts.push(parseFloat(this.font) / devicePixelRatio);
            return fillText.apply(this, given);
        };
    }""")
    run(page, "abc")
    expect(page.locator(".summary").first).to_contain_text("copied")
    expect(hint).to_be_hidden()
    assert page.evaluate("Math.min(...fonts)") >= 10


def test_engine_of_onnxruntime_works_on_the_page(open_page, serve, ort_web_bundle):
    page = ready(open_page(serve(ort_web_bundle)))
    run(page, "abc")
    expect(page.locator(".summary")).to_contain_text("of 3 copied")
    expect(page.locator(".facts")).to_contain_text("14.")  # MB of it are the engine
    expect(page.locator(".readout")).to_contain_text("onnxruntime-web does not show which positions it reads")
    page.click("#verify")
    expect(page.locator(".parity tr[data-passed=true]")).to_have_count(6)
    assert page.locator(".parity tr[data-passed=false]").count() == 0
