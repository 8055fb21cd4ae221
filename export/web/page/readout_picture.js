/** What one block's readout reads, as a heat map: rows are outputs, columns the positions that they read. */

import { emptyColor, inkColor, onSchemeChange, shareColor } from "./color_scale.js";
import { element } from "./elements.js";

const LETTER_PX = 9, // smaller cells have numbers instead of letters, every so often
  NUMBER_PX = 28, // from one to the next
  FONT_PX = 12;

export class ReadoutPicture {
  /**
   * @param {number} block from 0
   * @param {number} extent how many positions it has room for
   * @param {(sentence: string) => void} onReading called with a sentence about the row that is pointed at
   */
  constructor(block, extent, onReading) {
    this.block = block;
    this.canvas = element("canvas", {
      tabIndex: 0,
      role: "slider", // arrow keys choose a row, whose sentence is its value
      "aria-label": `Block ${block + 1}, what its outputs read`,
      "aria-orientation": "vertical",
      "aria-valuemin": "0",
    });
    this.figure = element("figure", {}, element("figcaption", {}, `Block ${block + 1}`), this.canvas, this.#empty);
    this.#onReading = onReading;
    this.#listen();
    this.clear([], extent, 0);
  }

  #onReading;
  #empty = element("p", { className: "hint empty" }, "Empty: a run adds a row for every token.");
  #rows = []; // of every output: shares times the number of positions, 1 is an even share
  #symbols = [];
  #extent;
  #promptLength = 0;
  #chosen = null;

  /** Start a picture; `symbols` is filled by the run while tokens come. */
  clear(symbols, extent, promptLength) {
    this.#rows = [];
    this.#symbols = symbols;
    this.#extent = extent;
    this.#promptLength = promptLength;
    this.#chosen = null;
    this.#setValue(0, "nothing read yet");
    this.draw();
  }

  /** Draw one more row from the shares of the output there. */
  addRow(shares) {
    this.#empty.hidden = true;
    this.#rows.push(shares.map((share) => share * shares.length));
    const row = this.#rows.length - 1;
    if (this.#rows.length > this.#extent) {
      this.#extent = this.#rows.length + 8;
      this.draw();
    } else this.#drawRow(row);
    this.#setValue(row, this.sentence(row));
  }

  /** Everything again: the size or the colours changed. */
  draw() {
    const { canvas } = this,
      room = this.figure.clientWidth * devicePixelRatio;
    const labelled = room / (this.#extent + 2);
    this.#hasLetters = labelled >= LETTER_PX * devicePixelRatio;
    this.#margin = Math.round(this.#hasLetters ? labelled * 1.5 : 2 * FONT_PX * devicePixelRatio);
    const cell = (room - this.#margin) / this.#extent;
    this.#cell = cell >= 3 ? Math.floor(cell) : cell; // whole device pixels are sharp
    const side = this.#edge(this.#extent);
    canvas.width = canvas.height = side; // clears it, too
    canvas.style.width = canvas.style.height = `${side / devicePixelRatio}px`;
    this.#context = canvas.getContext("2d");
    this.#drawEmpty();
    this.#rows.forEach((_, row) => this.#drawRow(row));
    if (this.#chosen !== null) this.#outline(this.#chosen);
  }

  #context = null;
  #cell = 0;
  #margin = 0;
  #hasLetters = true;

  /** How many times its even share the most read position of an output has. */
  most(row) {
    return this.#rows[row] ? Math.max(...this.#rows[row]) : 0;
  }

  /** What an output reads, in words. */
  sentence(row, column = null) {
    const times = this.#rows[row],
      most = times.indexOf(Math.max(...times));
    const name = (position) => `position ${position} (${this.#symbols[position]})`;
    const output =
      row >= this.#promptLength - 1 && row + 1 < this.#symbols.length ? `, gives ${this.#symbols[row + 1]}` : "";
    const place = `Block ${this.block + 1}: the output at ${row} (after ${this.#symbols[row]}${output})`;
    const reading = `${place} reads ${name(most)} most, ${times[most].toFixed(1)} times its even share`;
    if (column === null || column === most || column > row) return `${reading}.`;
    return `${reading}; ${name(column)} ${times[column].toFixed(1)} times.`;
  }

  #edge(index) {
    return Math.round(this.#margin + index * this.#cell);
  }

  /** Where rows are to come. */
  #drawEmpty() {
    const context = this.#context,
      start = this.#edge(0);
    context.fillStyle = emptyColor();
    for (let row = 0; row < this.#extent; row++)
      context.fillRect(start, this.#edge(row), this.#edge(row + 1) - start, this.#edge(row + 1) - this.#edge(row));
  }

  #drawRow(row) {
    const context = this.#context,
      top = this.#edge(row),
      height = this.#edge(row + 1) - top;
    this.#rows[row].forEach((times, column) => {
      const left = this.#edge(column);
      context.fillStyle = shareColor(times);
      context.fillRect(left, top, this.#edge(column + 1) - left, height);
    });
    context.fillStyle = inkColor();
    const line = Math.max(1, Math.round(devicePixelRatio / 2)),
      border = this.#edge(this.#promptLength);
    if (row >= this.#promptLength) context.fillRect(border - line, top, line, height);
    if (row === this.#promptLength) context.fillRect(this.#margin, top - line, border - this.#margin, line);
    this.#label(row);
  }

  /** The token's letter at the left of its row and above its column; markers are dots. Of small cells some numbers. */
  #label(row) {
    const context = this.#context,
      symbol = this.#symbols[row] ?? "",
      middle = this.#edge(row) + this.#cell / 2;
    const every = 10 * Math.ceil((NUMBER_PX * devicePixelRatio) / (10 * this.#cell));
    if (!this.#hasLetters && row % every !== 0) return;
    const size = this.#hasLetters ? Math.min(this.#cell * 1.15, FONT_PX * devicePixelRatio) : FONT_PX * devicePixelRatio;
    context.font = `${size}px ui-monospace, Menlo, Consolas, monospace`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const letter = [...symbol].length === 1 ? symbol : "·",
      label = this.#hasLetters ? letter : String(row);
    context.fillText(label, this.#margin / 2, middle);
    context.fillText(label, middle, this.#margin / 2);
  }

  #outline({ row }) {
    this.#context.strokeStyle = inkColor();
    this.#context.lineWidth = Math.max(1, devicePixelRatio);
    const left = this.#edge(0),
      top = this.#edge(row),
      bottom = this.#edge(row + 1);
    this.#context.strokeRect(left, top, bottom - left, bottom - top);
  }

  #choose(row, column = null) {
    if (this.#rows.length === 0) return;
    const within = Math.min(Math.max(row, 0), this.#rows.length - 1);
    if (this.#chosen?.row === within && this.#chosen.column === column) return;
    this.#chosen = { row: within, column };
    this.draw();
    const sentence = this.sentence(within, column);
    this.#setValue(within, sentence);
    this.#onReading(sentence);
  }

  /** Set the slider's value: the row, and its sentence for assistive technology. */
  #setValue(row, sentence) {
    this.canvas.setAttribute("aria-valuemax", String(Math.max(0, this.#rows.length - 1)));
    this.canvas.setAttribute("aria-valuenow", String(row));
    this.canvas.setAttribute("aria-valuetext", sentence);
  }

  #release() {
    if (this.#chosen === null || document.activeElement === this.canvas) return;
    this.#chosen = null;
    this.draw();
  }

  #listen() {
    const { canvas } = this;
    const cellAt = (offset) => Math.max(0, Math.floor((offset * devicePixelRatio - this.#margin) / this.#cell));
    const point = (event) => this.#choose(cellAt(event.offsetY), cellAt(event.offsetX));
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("pointerleave", () => this.#release());
    canvas.addEventListener("blur", () => this.#release());
    canvas.addEventListener("focus", () => {
      if (canvas.matches(":focus-visible")) this.#choose(this.#chosen?.row ?? this.#rows.length - 1);
    });
    canvas.addEventListener("keydown", (event) => {
      const last = this.#rows.length - 1,
        row = this.#chosen?.row ?? last;
      const target = { ArrowUp: row - 1, ArrowDown: row + 1, Home: 0, End: last }[event.key];
      if (target === undefined) return;
      event.preventDefault();
      this.#choose(target);
    });
    new ResizeObserver(() => this.draw()).observe(this.figure);
    onSchemeChange(() => this.draw());
  }
}
