/** Wiring: loads the models, runs them token by token, verifies them, and shows what went wrong. */

import { BREATH_MS, breathe } from "./breathing.js";
import { load } from "./causalrn.js";
import { errorInWords, isEnabled, setEnabled, showMessage } from "./elements.js";
import { ModelPanel } from "./model_panel.js";
import { copies, lengthRemark, ModelRun, positionLimit, promptIds } from "./model_run.js";

const WATCHED_MS = 1e3 / 12; // of a token at the speed that can be watched
const LETTERS = "abcdefghijklmnopqrstuvwxyz";
const DEFAULT_LENGTH = 16; // of a random text where the task has no length

const byId = (id) => document.getElementById(id);
const [text, speed, status] = ["text", "speed", "status"].map(byId);
const [run, stop, random, verifyButton] = ["run", "stop", "random", "verify"].map(byId);
const panels = []; // of the models that could be loaded
let current = null; // AbortController of what is going on

async function start() {
  byId("unserved").remove();
  byId("controls").hidden = false;
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) speed.value = "full";
  listen();
  const main = await open("main", "./");
  if (main === null) return showStatus("the model could not be loaded");
  document.documentElement.dataset.readyMs = performance.now().toFixed(1);
  describe(main.session);
  const { beside } = main.session.manifest.folders ?? {};
  const complete = beside === undefined || (await open("beside", "./beside/")) !== null;
  const largest = Math.max(...panels.map((panel) => panel.fullBytes));
  panels.forEach((panel) => panel.scaleState(largest));
  enable(true);
  showStatus(complete ? "ready" : "the first model is ready, the second could not be loaded");
}

/** Load a model into a panel of its own; null where that fails. */
async function open(name, url) {
  const panel = new ModelPanel(name),
    begin = name === "main" ? 0 : performance.now();
  byId("panels").append(panel.root);
  showStatus("loading");
  try {
    let bytes = 0;
    const onProgress = (loaded, total) => panel.progress((bytes = loaded), total);
    const session = await load(url, { onProgress }),
      ms = Math.round(performance.now() - begin);
    panel.ready(session, bytes, name === "main" ? `${ms} ms after navigation` : `${ms} ms after the first model`);
  } catch (error) {
    panel.fail(error);
    return null;
  }
  panels.push(panel);
  return panel;
}

/** Fit the words and the first text to the first model. */
function describe(session) {
  const { alphabet, manifest } = session,
    copying = copies(session);
  if (copying)
    byId("purpose").textContent =
      "This one was trained to copy strings: after a prompt it outputs the same letters again.";
  run.textContent = copying ? "Copy" : "Generate";
  random.textContent = alphabet === null ? "Random token ids" : "Random string";
  const label = alphabet === null ? "Token ids to go on from" : "Text to go on from";
  byId("text-label").textContent = copying ? "String to copy" : label;
  const kind = { letters: "Letters a to z; a blank stands for SEP", bytes: "Any text, taken as UTF-8 bytes" };
  const trained = copying ? `. Trained on strings of ${manifest.task.length} letters` : "";
  byId("text-hint").textContent = `${kind[alphabet?.name] ?? "Whole numbers, separated by blanks"}${trained}.`;
  text.value = randomText(session);
}

/** As many letters as the model was trained on, or as fit; or as many token ids. */
function randomText(session) {
  const { alphabet, manifest, vocabulary } = session;
  const fitting = Math.max(1, (positionLimit(session) - 2) >> 1),
    { length } = manifest.task ?? {};
  const below = (bound) => Math.floor(Math.random() * bound),
    count = Math.min(length ?? DEFAULT_LENGTH, fitting);
  const one = alphabet === null ? () => below(vocabulary) : () => LETTERS[below(LETTERS.length)];
  return Array.from({ length: count }, one).join(alphabet === null ? " " : "");
}

function listen() {
  const guard = (button, action) => () => isEnabled(button) && action();
  byId("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    if (isEnabled(run)) exclusively(runAll);
  });
  stop.addEventListener(
    "click",
    guard(stop, () => current.abort()),
  );
  verifyButton.addEventListener(
    "click",
    guard(verifyButton, () => exclusively(verifyAll)),
  );
  random.addEventListener(
    "click",
    guard(random, () => {
      text.value = randomText(panels[0].session);
      noteText();
    }),
  );
  text.addEventListener("input", noteText);
}

/** What was typed has changed: its error is gone, and the hint says what to expect of its length. */
function noteText() {
  refuse("");
  const typed = text.value.trim(),
    letters = /\s/.test(typed) ? 0 : [...typed].length;
  byId("length-hint").textContent = panels.length > 0 ? lengthRemark(panels[0].session, letters) : "";
}

/** One thing at a time; Stop ends it. */
async function exclusively(action) {
  current = new AbortController();
  conclude([]);
  enable(false);
  try {
    await action(current.signal);
  } catch (error) {
    refuse(errorInWords(error));
    showStatus("stopped");
  } finally {
    enable(true);
  }
}

function enable(idle) {
  for (const button of [run, random, verifyButton]) setEnabled(button, idle);
  setEnabled(stop, !idle);
}

/** Run all models that can take the text, in turns, so that none is timed while another computes. */
async function runAll(signal) {
  const runs = startRuns();
  if (runs.length === 0) return showStatus("ready");
  runs[0].panel.showTape();
  showStatus("running");
  let breath = performance.now();
  for (
    let going = runs;
    going.length > 0 && !signal.aborted;
    going = going.filter(({ run: { finished } }) => !finished)
  ) {
    const begin = performance.now();
    for (const one of going) await advance(one);
    const watched = speed.value === "watch";
    if (!watched && performance.now() - breath < BREATH_MS) continue;
    going.forEach(({ panel, run: one }) => panel.showFigures(one));
    await (watched ? pause(WATCHED_MS - (performance.now() - begin), signal) : breathe());
    breath = performance.now();
  }
  for (const { panel, run: one, failed } of runs) if (!failed) await finish(panel, one, signal);
  const [{ panel: first }] = runs,
    isSeen = first.showsTape;
  conclude(runs.filter(({ failed }) => !failed).map(({ panel }) => [panel, panel.summary]));
  if (isSeen) first.showTape(); // the outcome above has moved it
  showStatus(signal.aborted ? "stopped" : "ready");
}

/** Runs of the models that can take the text. If none can the field shows why, else the panels of those that cannot. */
function startRuns() {
  const refusals = [],
    runs = [];
  for (const panel of panels) {
    try {
      const one = new ModelRun(panel.session, promptIds(panel.session, text.value));
      panel.startRun(one);
      runs.push({ panel, run: one, failed: false });
    } catch (error) {
      refusals.push({ panel, error });
    }
  }
  const isOfText = ({ error }) => runs.length === 0 && ["input", "capacity"].includes(error.kind);
  refusals.filter((refusal) => !isOfText(refusal)).forEach(({ panel, error }) => panel.fail(error));
  const first = refusals.find(isOfText);
  refuse(first ? errorInWords(first.error) : "");
  return runs;
}

async function advance(one) {
  try {
    one.panel.addToken(one.run, await one.run.advance());
  } catch (error) {
    one.run.finished = one.failed = true;
    one.panel.fail(error);
  }
}

async function finish(panel, one, signal) {
  panel.showFigures(one);
  panel.finishRun(one, await one.measure(signal), signal.aborted && !one.finished);
}

/** Compare every model with its golden vectors. */
async function verifyAll(signal) {
  showStatus("verifying");
  for (const panel of panels) if (!signal.aborted) await verifyOne(panel, signal);
  conclude(panels.map((panel) => [panel, panel.parity.summary]));
  showStatus(signal.aborted ? "stopped" : "ready");
}

async function verifyOne(panel, signal) {
  const { session, parity } = panel;
  parity.start();
  try {
    const { verify } = await import("./parity.js");
    if (session.canWatch) session.watch(false);
    parity.finish(await verify(session, { onRow: (row) => parity.add(row), signal }));
  } catch (error) {
    parity.interrupt(signal.aborted ? null : error);
  }
}

/** The error of the text field; "" takes it away. */
function refuse(message) {
  showMessage(byId("text-error"), message);
  text.setAttribute("aria-invalid", String(message !== ""));
}

/** What came of it, where the buttons are: the panels may be far below. */
function conclude(outcomes) {
  const words = outcomes.map(([{ session }, summary]) => `${session.manifest.model.readout} readout: ${summary}`);
  byId("outcome").textContent = words.join(" ");
}

/** Show what goes on, below the buttons. */
function showStatus(words) {
  status.textContent = words;
}

/** Wait, but not longer than until the signal. */
function pause(ms, signal) {
  return new Promise((resume) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resume();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}

await start();
