// Runs a bundle's graphs in onnxruntime-node, without this toolkit: benchmarks/compatibility.py calls it.
// node compatibility_runner.mjs CASE OUT; files as in compatibility_runner.py, logits as JSON.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import ort from "onnxruntime-node";

const [folder, out] = process.argv.slice(2);
const read = (path) => JSON.parse(readFileSync(path, "utf8"));
const testCase = read(join(folder, "case.json"));
const tokens = read(join(folder, "tokens.json"));
const size = (shape) => shape.reduce((a, b) => a * b, 1);

function indices(values, shape) {
  const wide = testCase.index_type === "int64";
  const data = wide ? BigInt64Array.from(values.map(BigInt)) : Int32Array.from(values);
  return new ort.Tensor(testCase.index_type, data, shape);
}

class State {
  constructor() {
    this.position = 0;
    this.values = Object.fromEntries(
      testCase.state.map(({ input, buffer }) => [input, { data: new Float32Array(size(buffer)), shape: buffer }]));
  }

  feed(pad) {
    const given = {};
    for (const { input, update } of testCase.state) {
      let { data, shape } = this.values[input];
      if (testCase.pool === "growing" && update === "append") {
        shape = [this.position + pad, ...shape.slice(1)];
        data = data.subarray(0, size(shape));
      }
      given[input] = new ort.Tensor("float32", data, shape);
    }
    return given;
  }

  take(outputs, time) {
    for (const { input, output, update } of testCase.state) {
      const value = outputs[output];
      if (update === "replace") this.values[input] = { data: value.data, shape: value.dims };
      else this.values[input].data.set(value.data, this.position * size(this.values[input].shape.slice(1)));
    }
    this.position += time;
  }
}

async function run(graph, name, chunk) {
  const state = new State(), logits = [], times = [], about = testCase.graphs[name];
  for (let start = 0; start < tokens.length; start += chunk) {
    const part = tokens.slice(start, start + chunk);
    const feed = state.feed(about.pad_rows);
    feed.tokens = indices(part, [1, part.length]);
    feed.position = indices([start], []);
    const given = Object.fromEntries(about.inputs.map((input) => [input, feed[input]]));
    const before = process.cpuUsage();
    const outputs = await graph.run(given);
    const { user, system } = process.cpuUsage(before);
    times.push(user + system);
    state.take(outputs, part.length);
    logits.push(...outputs.logits.data);
  }
  return [logits, times.slice(4).concat(times.length > 4 ? [] : times)];
}

const result = {}, graphs = {};
for (const [name, chunk] of [["step", 1], ["prefill", testCase.prefill_chunk]]) {
  const entry = (result[name] = { phase: "load" });
  try {
    const options = { intraOpNumThreads: 1, logSeverityLevel: 4 };
    const graph = (graphs[name] = await ort.InferenceSession.create(join(folder, testCase.graphs[name].file), options));
    entry.phase = "run";
    const [logits] = await run(graph, name, chunk);
    writeFileSync(join(out, `${name}.json`), JSON.stringify(logits));
    entry.phase = "done";
  } catch (error) {
    entry.error = String(error.message ?? error).split("\n")[0].slice(0, 400);
  }
}
writeFileSync(join(out, "result.json"), JSON.stringify(result));
console.log("ready");
for await (const _ of createInterface({ input: process.stdin })) {
  const [, times] = await run(graphs.step, "step", 1);
  times.sort((a, b) => a - b);
  console.log(times[times.length >> 1]);
}
