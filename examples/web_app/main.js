/**
 * A web bundle in an app of one's own, for any bundler. The code comes from the package, the model from a folder that
 * the server hands out: copy manifest.json, weights.bin and *.wasm of the bundle into public/model.
 *
 *   cd bundle && npm pack                       # causalrn-web-bundle-1.0.0.tgz
 *   npm install ./causalrn-web-bundle-1.0.0.tgz # in the app
 */
import { CausalRNError, load } from "causalrn-web-bundle";

const form = document.querySelector("form"),
  output = document.querySelector("output"),
  session = await load("./model/", { onProgress: showProgress });
let running = null; // of the text that is being generated

function showProgress(loaded, total) {
  output.textContent = `loading ${Math.round((100 * loaded) / total)} %`;
}

async function generate(prompt) {
  running?.abort();
  const { signal } = (running = new AbortController());
  session.reset();
  output.textContent = "";
  try {
    for await (const { text } of session.generate(prompt, { signal })) output.textContent += text;
  } catch (error) {
    if (!signal.aborted) output.textContent = error instanceof CausalRNError ? error.message : String(error);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  generate(form.elements.prompt.value);
});
document.querySelector("#stop").addEventListener("click", () => running?.abort());
output.textContent = "ready";
