/** The table of a model's parity checks. */

import { element, errorInWords, showMessage } from "./elements.js";

const COLUMNS = ["Check", "Comparison", "Error", "Allowed", "Verdict", "Details"];

export class ParityTable {
  /** @param {string} model what the table is about, for its caption */
  constructor(model) {
    const caption = element(
      "caption",
      {},
      `Parity of the ${model}: golden vectors, compared with the float64 oracle, in this browser`,
    );
    const heads = COLUMNS.map((name) => element("th", { role: "columnheader", scope: "col" }, name));
    this.#body = element("tbody", { role: "rowgroup" });
    this.#table = element(
      "table",
      { className: "parity", role: "table" },
      caption,
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)),
      this.#body,
    );
    this.#summary = element("p", { className: "parity-summary", role: "status" });
    this.section = element(
      "section",
      { className: "parity-section", hidden: true },
      this.#summary,
      this.#error,
      this.#table,
    );
  }

  #body;
  #table;
  #summary;
  #error = element("p", { className: "error", role: "alert", hidden: true });

  /** Empty, and shown. */
  start() {
    this.#body.replaceChildren();
    showMessage(this.#error, "");
    this.#summary.textContent = "Verifying against the golden vectors.";
    this.section.hidden = false;
  }

  /** What came of it, in words. */
  get summary() {
    return this.#summary.textContent;
  }

  /** @param {import("./parity.js").Row} row */
  add({ check, comparison, error, allowed, passed, words }) {
    const verdict = passed ? "✓ passed" : "✗ failed";
    const cells = [check, comparison, scientific(error), scientific(allowed), verdict, words].map((content, column) =>
      element("td", { role: "cell", "data-label": COLUMNS[column] }, content),
    );
    this.#body.append(element("tr", { role: "row", "data-passed": String(passed) }, ...cells));
  }

  /** @param {{passed: boolean, rows: import("./parity.js").Row[]}} report */
  finish({ passed, rows }) {
    const count = rows.filter((row) => row.passed).length;
    this.#summary.textContent = `${passed ? "✓ Passed" : "✗ Failed"}: ${count} of ${rows.length} checks hold.`;
  }

  /** It ended early: by an error, or, with null, because somebody stopped it. */
  interrupt(error) {
    this.#summary.textContent = error === null ? "Stopped before its end." : "It could not be completed.";
    showMessage(this.#error, error === null ? "" : errorInWords(error));
  }
}

/** "2.4e-7"; 0 where bits are equal; a dash where there is no number. */
function scientific(value) {
  if (value === null) return "–";
  return value === 0 ? "0" : value.toExponential(1);
}
