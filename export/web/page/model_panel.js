/** The panel of one model: what it is, its tape, its figures, and the picture of its readout. */

import { colorLegend } from "./color_scale.js";
import { bytesInWords, element, errorInWords, showMessage } from "./elements.js";
import { lengthRemark, positionLimit } from "./model_run.js";
import { ParityTable } from "./parity_table.js";
import { ReadoutPicture } from "./readout_picture.js";
import { countBytes } from "./state_shape.js";

const DRAWN = 256; // rows of a picture: more could not be told apart

export class ModelPanel {
  /** @param {string} name "main" or "beside" */
  constructor(name) {
    this.#title = element("h2", { id: `${name}-title` }, "Loading a model");
    this.#facts = element("dl", { className: "facts" });
    this.#error = element("p", { className: "error", role: "alert", hidden: true });
    this.#body = element("div", { className: "panel-body", hidden: true });
    this.root = element(
      "section",
      { className: "panel", "aria-labelledby": `${name}-title` },
      this.#title,
      this.#error,
      this.#body,
      this.#facts,
    );
    this.root.dataset.model = name;
  }

  #title;
  #facts;
  #error;
  #body;
  #prompt = element("ol", { className: "tape", role: "list", "aria-label": "Prompt" });
  #output = element("ol", { className: "tape", role: "list", "aria-label": "Output" });
  #tape = null;
  #summary = element("p", { className: "summary", role: "status" }, "Nothing was run yet.");
  #rate = figure("Engine");
  #position = figure("Position");
  #state = figure("State");
  #reading = element("p", { className: "reading" });
  #pictures = [];
  #symbols = [];
  #barBytes = 0;

  /** Files arrive. */
  progress(loaded, total) {
    this.#showFacts({ Downloaded: `${bytesInWords(loaded)} of ${bytesInWords(total)}` });
  }

  /** The model can take tokens. */
  ready(session, bytes, readyAfter) {
    const { readout, embedding, hidden, blocks, vocabulary } = session.manifest.model;
    const title = `${readout[0].toUpperCase()}${readout.slice(1)} readout`;
    this.session = session;
    this.parity = new ParityTable(`${readout} readout`);
    this.#title.textContent = title;
    this.#showFacts({
      Size: `E ${embedding}, H ${hidden}, ${blocks} blocks, vocabulary ${vocabulary}`,
      Engine: session.engine,
      Downloaded: `${bytesInWords(bytes)} of weights and engine`,
      Ready: readyAfter,
    });
    this.#body.append(
      (this.#tape = this.#tapes()),
      this.#summary,
      element("dl", { className: "figures" }, this.#rate.root, this.#position.root, this.#state.root),
      this.#readout(),
      this.parity.section,
    );
    this.#body.hidden = false;
    this.scaleState(this.fullBytes);
  }

  /** Bytes of the state at its longest. */
  get fullBytes() {
    return countBytes(this.session.manifest.state.tensors, positionLimit(this.session));
  }

  /** How many bytes fill the state's bar, so that models side by side share one scale. */
  scaleState(bytes) {
    this.#barBytes = bytes;
    this.#showState();
  }

  /** What came of the last run, in words. */
  get summary() {
    return this.#summary.textContent;
  }

  /** Whether a part of the tape can be seen. */
  get showsTape() {
    const { top, bottom } = this.#tape.getBoundingClientRect();
    return top < innerHeight && bottom > 0;
  }

  /** Scroll as far as it takes to see the tape. */
  showTape() {
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.#tape.scrollIntoView({ block: "nearest", behavior: isCalm ? "instant" : "smooth" });
  }

  /** A run starts: clear what the last one left. */
  startRun(run) {
    showMessage(this.#error, "");
    this.#symbols = [];
    this.#prompt.replaceChildren(...run.prompt.map((id) => cell(this.#symbol(id), "waiting")));
    this.#output.replaceChildren();
    this.#output.style.minHeight = `${this.#prompt.clientHeight}px`; // nothing moves while it fills
    this.#output.classList.toggle("aligned", run.expected?.length === run.prompt.length - 1);
    this.#summary.textContent = "Running.";
    this.#reading.textContent = "";
    this.#pictures.forEach((picture) =>
      picture.clear(this.#symbols, Math.min(run.positions, DRAWN), run.prompt.length),
    );
    this.showFigures(run);
  }

  /** A token was taken or output; its position is null where it found no room. */
  addToken(run, { token, isOutput, position }) {
    const symbol = this.#symbol(token);
    this.#symbols.push(symbol);
    if (isOutput) this.#output.append(judged(run, symbol));
    else this.#prompt.children[position].classList.remove("waiting");
    if (position === null || position >= DRAWN) return;
    this.#pictures.forEach((picture) => picture.addRow(this.session.shares(picture.block, position)));
  }

  /** The live figures; called less often than addToken at full speed. */
  showFigures(run) {
    this.#showRate(run.meanRate("this run so far, watched"));
    this.#showState();
  }

  /** A run ended; `rate` is what its engine reached. */
  finishRun(run, rate, stopped) {
    this.#showRate(rate);
    const how = stopped ? "; stopped before its end" : run.ranOut ? "; no position is left" : "";
    const remark = lengthRemark(this.session, run.prompt.length - 2);
    this.#summary.textContent = `${outcome(run, this.session)}${how}.${run.expected && remark ? ` ${remark}` : ""}`;
    this.#reading.textContent = this.#strongest(run);
  }

  /** Show an error's sentence, until the next run. */
  fail(error) {
    showMessage(this.#error, errorInWords(error));
    if (this.session) this.#summary.textContent = "";
    else this.#title.textContent = "This model could not be loaded";
  }

  #symbol(id) {
    return this.session.alphabet?.symbol(id) ?? String(id);
  }

  #showFacts(facts) {
    this.#facts.replaceChildren(
      ...Object.entries(facts).map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, value)),
      ),
    );
  }

  #showRate({ perSecond, words }) {
    if (Number.isFinite(perSecond))
      this.#rate.show(`${Number(perSecond.toPrecision(3)).toLocaleString("en")} tokens/s`, words);
    else this.#rate.show("–", "not measured yet");
  }

  #showState() {
    const { position, capacity, stateBytes, manifest } = this.session,
      limit = positionLimit(this.session);
    const bound = capacity === null ? `, this page stops at ${limit}` : ` of ${capacity}`;
    const remark = capacity === null ? "the model itself has no end" : "positions taken";
    this.#position.show(`${position}${bound}`, remark, position / limit);
    const grows = manifest.state.tensors[0].growth === "token";
    const rows = capacity === null ? `${position} rows` : `${position} of ${capacity} rows`;
    const words = grows ? `pool: ${rows}, ${bytesInWords(stateBytes)}` : `state: ${bytesInWords(stateBytes)}, constant`;
    this.#state.show(words, `full bar: ${bytesInWords(this.#barBytes)}`, stateBytes / this.#barBytes);
  }

  #tapes() {
    const labelled = (words, tape) =>
      element("div", { className: "tape-row" }, element("h3", { "aria-hidden": "true" }, words), tape);
    return element("div", { className: "tapes" }, labelled("Prompt", this.#prompt), labelled("Output", this.#output));
  }

  #readout() {
    const heading = element("h3", {}, "What the readout reads"),
      section = element("section", { className: "readout" }, heading);
    if (!this.session.canWatch) {
      section.append(element("p", {}, `${this.session.engine} does not show which positions it reads.`));
      return section;
    }
    const limit = positionLimit(this.session),
      extent = Math.min(limit, DRAWN);
    this.#pictures = Array.from(
      { length: this.session.blocks },
      (_, block) => new ReadoutPicture(block, extent, (sentence) => (this.#reading.textContent = sentence)),
    );
    const bound = limit > DRAWN ? ` The first ${DRAWN} positions are drawn.` : "";
    section.append(
      element(
        "p",
        { className: "hint" },
        "Rows are outputs, in order; columns are the positions that they read, counted from 0. The colour is a position's " +
          "share of an output, as a multiple of an even share, which is 1 / (number of positions read).",
      ),
      colorLegend(),
      element("div", { className: "pictures" }, ...this.#pictures.map((picture) => picture.figure)),
      this.#reading,
      element(
        "p",
        { className: "hint" },
        "Point at a row, or focus a picture and use the arrow keys. " +
          `Negative shares have the colour of 1/8 or less.${bound}`,
      ),
    );
    return section;
  }

  /** The output that reads one position most of all, in words. */
  #strongest({ steps, prompt }) {
    let best = { times: 0, words: "" };
    for (const picture of this.#pictures)
      for (let row = prompt.length - 1; row < steps; row++)
        if (picture.most(row) > best.times) best = { times: picture.most(row), words: picture.sentence(row) };
    return best.words;
  }
}

/** What came of a run, in words. */
function outcome(run, { alphabet }) {
  if (run.expected === null) {
    const output = alphabet === null ? "" : alphabet.decode(run.outputs),
      text = output && `: ${output}`;
    const count = run.outputs.length;
    return `${count} ${count === 1 ? "token" : "tokens"} generated${text}`;
  }
  const { right, letters, wrong, early } = run.judgement();
  const places = wrong.length > 0 ? `; wrong at ${wrong.join(", ")}` : "";
  return `${right} of ${letters} copied${places}${early ? "; ended too early" : ""}`;
}

function cell(symbol, kind) {
  const size = symbol.length > 1 ? " long" : "";
  return element("li", { className: `${kind}${size}` }, symbol);
}

/** The cell of the last output, marked where it can be judged. */
function judged({ outputs, expected }, symbol) {
  if (expected === null) return cell(symbol, "out");
  const place = outputs.length - 1;
  return cell(symbol, `out ${outputs[place] === expected[place] ? "right" : "wrong"}`);
}

/** A figure with a value, a note, and a bar where a part of something is shown. */
function figure(name) {
  const value = element("dd", { className: "value" }, "–"),
    note = element("dd", { className: "note" });
  const fill = element("i"),
    bar = element("dd", { className: "bar", hidden: true, "aria-hidden": "true" }, fill);
  const show = (words, remark, part = null) => {
    value.textContent = words;
    note.textContent = remark;
    bar.hidden = part === null;
    if (part !== null) fill.style.transform = `scaleX(${Math.min(1, part)})`;
  };
  return { root: element("div", {}, element("dt", {}, name), value, bar, note), show };
}
