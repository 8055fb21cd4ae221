/**
 * Run the golden vectors of a web bundle in Node, as its page does in a browser.
 *
 *   node verify.mjs                 this folder
 *   node verify.mjs SITE --json     another one, as JSON
 *
 * Exit codes: 0 passed, 1 a check failed, 2 bad usage or input.
 */

import { CausalRNError, load } from "./causalrn.js";
import { verify } from "./parity.js";

const USAGE = "usage: node verify.mjs [FOLDER] [--json]";

async function main(words) {
  if (words.includes("--help") || words.includes("-h")) {
    console.log(USAGE);
    return 0;
  }
  const folders = words.filter((word) => word !== "--json"),
    asJson = folders.length < words.length;
  if (folders.length > 1 || folders.some((word) => word.startsWith("-"))) {
    console.error(USAGE);
    return 2;
  }
  const session = await load(folders[0] ?? new URL(".", import.meta.url));
  const report = await verify(session, { onRow: asJson ? undefined : printRow });
  if (asJson) console.log(JSON.stringify({ engine: session.engine, ...report }, null, 1));
  else console.log(`${report.passed ? "passed" : "FAILED"}: ${session.engine}, node ${process.versions.node}`);
  return report.passed ? 0 : 1;
}

function printRow({ check, form, error, allowed, passed, words }) {
  const figures = allowed === 0 ? "" : `${error.toExponential(1)} (allowed ${allowed.toExponential(1)})  `;
  console.log(`${passed ? "ok    " : "FAILED"}  ${check.padEnd(17)} ${form.padEnd(33)} ${figures}${words}`);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const isOurs = error instanceof CausalRNError;
  console.error(`Error: ${isOurs ? error.message : `${error}: copy the bundle again, or export again`}`);
  process.exitCode = 2;
}
