"""The model card that every bundle carries, MODEL_CARD.md: what it is, how that is known, how to run it.

In the style of model hubs: a head that they read, then Markdown. It follows from the manifest alone, so that the same
bundle has the same card everywhere; what a certificate says of it is added by whoever has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from causalrn.bundle.native_spec import renamed

if TYPE_CHECKING:
    from causalrn.bundle.manifest import Manifest

MODEL_CARD = "MODEL_CARD.md"
_TITLES = {"causalrn": "CausalRN", "transformer": "Transformer", "linear-transformer": "Linear Transformer"}
_NOT_KNOWN = "nobody recorded it: take it as assumed"
_PLAIN = re.compile(r"[^\w .,:;+=%()/-]")

_SHELL = """\
```sh
causalrn-export inspect .
causalrn-export verify .
causalrn-export run . {option} --max-new-tokens 32
```
"""
_PYTHON = """\
```python
import causalrn

with causalrn.open_session(".") as session:  # this folder
    for step in session.generate({prompt}, max_new_tokens=32):
        print(step, end="")
```
"""
_ONNXRUNTIME = """\
```python
import json, numpy as np, onnxruntime as ort

manifest = json.load(open("manifest.json"))
graph, tensors = manifest["graphs"]["step"], manifest["state"]["tensors"]
sizes = {{"B": 1, "t": graph["pad_rows"]}}  # no rows yet; some steps want one of zeros behind them
state = {{t["input"]: np.zeros([sizes.get(n, n) for n in t["shape"]], t["dtype"]) for t in tensors}}
ids = {{"tokens": np.array([[{token}]], "{index_type}"), "position": np.array(0, "{index_type}")}}
logits, *rows = ort.InferenceSession(graph["file"]).run(None, ids | state)  # rows go into the state: then position 1
```
"""
_C = """\
```c
#include <stdio.h>
#include "causalrn.h"
{include}
static uint64_t file[(CAUSALRN_FILE_BYTES + 7) / 8], memory[(CAUSALRN_SESSION_BYTES(1, {rows}) + 7) / 8];

int main(void)
{{
    causalrn_weights weights; causalrn_session session; float logits[CAUSALRN_VOCABULARY]; int32_t token = {token};
    int code = {load};
    code = code ? code : causalrn_open(&session, &weights, memory, sizeof memory, 1, {rows});
    code = code ? code : causalrn_step(&session, &token, logits); /* and so on, a token at a time */
    return puts(code ? causalrn_message(code) : "ok"), code;
}}
```
"""
_FROM_FILE = 'causalrn_load(&weights, file, fread(file, 1, sizeof file, fopen("weights.bin", "rb")))'
_JAVASCRIPT = """\
```js
import {{ load }} from "./causalrn.js";

const session = await load("./"); // this folder: a URL, or in Node a path
for await (const {{ text }} of session.generate({prompt}, {{ maxNewTokens: 32 }})) console.log(text);
```
"""


def model_card(manifest: Manifest, figures: Sequence[str] = ()) -> str:
    """The card of a bundle, as Markdown.

    Args:
        manifest: what the bundle says of itself; hashes are not needed.
        figures: lines of Markdown about what was measured, from a certificate; without them the card says how to
            measure.
    """
    model, title = manifest.model, _title(manifest)
    tags = ["causalrn", manifest.target, *([str(model["readout"])] if "readout" in model else [])]
    pipeline = [] if manifest.alphabet is None else ["pipeline_tag: text-generation"]
    head = ["---", "library_name: causalrn", *pipeline, "tags:", *(f"- {_plain(tag)}" for tag in tags), "---"]
    parts = [
        *head,
        "",
        f"# {title}",
        "",
        "A recurrent model that takes one token at a time and carries a state, exported by causalrn with what it takes",
        "to check itself: `manifest.json` has the state contract and the SHA-256 of every file.",
        "",
        "| what | |",
        "|---|---|",
        *(f"| {name} | {_plain(value)} |" for name, value in _facts(manifest)),
        "",
        "## How it is known",
        "",
        *_known(manifest),
        "",
        "## Figures",
        "",
        *(figures or _no_figures(manifest)),
        "",
        "## How to run it",
        "",
        *_snippets(manifest),
        "## Limits",
        "",
        *_limits(manifest),
    ]
    return "\n".join(parts).rstrip("\n") + "\n"


def _plain(value: Any) -> str:
    """A text of somebody in a line of Markdown: no markup, and no line of its own."""
    return _PLAIN.sub(lambda found: f"\\{found[0]}" if found[0] in "\\`*_|<>#[]{}!~" else "", str(value))


def _title(manifest: Manifest) -> str:
    architecture = str(manifest.model.get("architecture", "causalrn"))
    name = _TITLES.get(architecture, "A recurrent model")
    readout = f", {manifest.model['readout']} readout" if "readout" in manifest.model else ""
    return _plain(f"{name}{readout}, for {manifest.target}")


def _facts(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    model, state = manifest.model, manifest.state
    sizes = ("embedding", "hidden", "blocks", "heads", "activation", "norm", "vocabulary")
    yield "sizes", ", ".join(f"{name} {model[name]}" for name in sizes if name in model) or "see manifest.json"
    yield "alphabet", manifest.alphabet or "none: token ids go in and out"
    if manifest.task is not None:
        settings = (f"{name} {value}" for name, value in manifest.task.items() if name != "name")
        yield "trained on", ", ".join((str(manifest.task.get("name", "")), *settings))
    yield "positions", "without end" if state.capacity is None else f"{state.capacity:,} at most"
    growth = f"{state.bytes_per_token:,} bytes per token" if state.bytes_per_token else "of constant size"
    yield "state", f"{growth}, {state.pool} pool" if state.has_pool else growth
    yield "precision", "float32" if manifest.quantization is None else manifest.quantization.describe()
    yield "weights", f"SHA-256 {manifest.checkpoint_sha256}"
    yield "made with", ", ".join(f"{name} {version}" for name, version in manifest.created_with.items())


def _known(manifest: Manifest) -> Iterator[str]:
    if manifest.state.is_own:
        yield "Its graphs were traced from the functions of the model itself: nothing about it was assumed."
        return
    yield "Weights alone do not say which architecture they were trained with. Of these it is known as follows:"
    yield ""
    yield f"> {_plain(_NOT_KNOWN if manifest.known_by is None else manifest.known_by.describe())}"


def _no_figures(manifest: Manifest) -> list[str]:
    lines = [
        "The bundle carries golden vectors: logits and states of the model in float64. `causalrn-export verify .`",
        "compares them with what runs here, within the rounding that these weights allow. `--certificate`",
        "keeps what it found in a file, and `causalrn-export inspect . --card README.md` writes this card with it.",
    ]
    if manifest.quantization is not None:
        lines.append("It was written because it kept the budget of its scheme; `verify` judges it by the same.")
    return lines


def _limits(manifest: Manifest) -> Iterator[str]:
    capacity = manifest.state.capacity
    if capacity is not None:
        yield f"- A step beyond {capacity:,} positions is an error, and leaves the state as it was."
    if manifest.task is not None:
        yield "- It was trained on the task above; prompts of other lengths may come out wrong."
    yield "- All sequences of a batch advance in lockstep."
    if manifest.native is not None:
        yield "- Its code is compiled and run: open it only if you would run it as a program."


def _snippets(manifest: Manifest) -> Iterator[str]:
    """How to run it in about five lines, by language."""
    yield from ("With the command line:", "")
    length = (manifest.task or {}).get("length", 6)
    text = "causalrelationxyzabcdefghijklmnopqrstuvw"[: min(length if isinstance(length, int) else 6, 26)]
    ids = [0, 3, 4, 1] if manifest.model.get("vocabulary") in (None, 29) else [0, 1]
    if manifest.alphabet is None:
        option, prompt = "--prompt '" + " ".join(map(str, ids)) + "'", str([ids])
    else:
        option, prompt = f"--prompt {text}", f'"{text}"'
    yield _SHELL.format(option=option)
    yield from ("In Python:", "", _PYTHON.format(prompt=prompt))
    if manifest.target == "onnx" and not manifest.state.is_own:
        yield from ("With onnxruntime and numpy alone, one step (docs: the bundle without the toolkit):", "")
        yield _ONNXRUNTIME.format(token=ids[0], index_type=manifest.index_type)
    if manifest.web is not None:
        row = str(ids) if manifest.alphabet is None else prompt
        yield from ("In a browser or in Node:", "", _JAVASCRIPT.format(prompt=row))
    elif manifest.native is not None:
        yield from ("In C, compiled together with the source beside it:", "", _c_snippet(manifest, ids[0]))


def _c_snippet(manifest: Manifest, token: int) -> str:
    native = manifest.native
    assert native is not None
    inline = native.weights != "file"
    text = _C.format(
        rows=min(manifest.state.capacity or 128, 128),
        token=token,
        include='#include "causalrn_weights.h"\n' if inline else "",
        load="causalrn_use(&weights, causalrn_payload)" if inline else _FROM_FILE,
    )
    return renamed(text, native.prefix)
