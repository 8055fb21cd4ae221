/** Build an app with a bundler: node build_app.mjs BUNDLER MODULES APP TARGET. Warnings are errors. */

import { copyFile, mkdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [bundler, modules, app, target] = process.argv.slice(2);
const require = createRequire(join(modules, "x.js"));
const tool = async (name) => import(pathToFileURL(require.resolve(name)));

function stopAt(problems) {
  if (problems.length > 0) throw new Error(problems.map((problem) => problem.message ?? problem.text ?? problem).join("\n"));
}

const builds = {
  async esbuild() {
    const { default: esbuild } = await tool("esbuild");
    const options = { bundle: true, format: "esm", minify: true, platform: "browser", splitting: true };
    const { warnings } = await esbuild.build({ ...options, entryPoints: [join(app, "main.js")], outdir: target });
    stopAt(warnings);
  },
  async webpack() {
    const { default: webpack } = await tool("webpack");
    const output = { path: target, filename: "main.js", module: true };
    const options = { mode: "production", context: app, entry: "./main.js", experiments: { outputModule: true }, output };
    const stats = await new Promise((done, fail) =>
      webpack(options, (error, result) => (error ? fail(error) : done(result))),
    );
    const { errors, warnings } = stats.toJson({ all: false, errors: true, warnings: true });
    stopAt([...errors, ...warnings]);
  },
  async vite() {
    const { build } = await import(pathToFileURL(join(modules, "vite", "dist", "node", "index.js")));
    const problems = [];
    const note = (words) => problems.push(words);
    const customLogger = { info() {}, warn: note, warnOnce: note, error: note, clearScreen() {}, hasErrorLogged: () => false };
    await build({ root: app, base: "./", customLogger, build: { outDir: target, emptyOutDir: true, target: "esnext" } });
    stopAt(problems);
  },
};
await mkdir(target, { recursive: true });
await builds[bundler]();
if (bundler !== "vite") await copyFile(join(app, "index.html"), join(target, "index.html"));
