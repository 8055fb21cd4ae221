"""Write docs/architecture.svg: how data flows, one row per object, from the checkpoint to the report.

Boxes are filled and lines are of a middle grey, so that it can be read on light and on dark pages.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

PICTURE = Path(__file__).parent / "architecture.svg"

_ROWS = (
    ("training", "checkpoint folder", "CheckpointFolder.open(path)", "load_checkpoint(path) -> Checkpoint"),
    ("model", "model, parallel form", "checkpoint.model: SequenceModel", "fold(model) -> FoldedWeights"),
    ("model", "folded weights, float64", "rounded once, to float32", "RecurrentCell.from_model(model)"),
    ("model", "cell, recurrent form", "cell(tokens, position, *state)", "export_onnx(checkpoint, ...) -> Manifest"),
    ("export", "graphs or source", "and golden vectors, from the oracle", "seal_bundle(folder, manifest) -> Bundle"),
    ("bundle", "bundle on disk", "Bundle.open(path)", "open_session(bundle) -> Session"),
    ("runtimes", "session", "step, prefill, snapshot, generate", "verify(bundle, checkpoint=run)"),
    ("workflows", "report", "VerifyResult", ""),
)
_COLOURS = {
    "training": "#f3e3c3",
    "model": "#f6d5c3",
    "export": "#d9e8c4",
    "bundle": "#fff1a8",
    "runtimes": "#c5e3ea",
    "workflows": "#d8d4ef",
}
_LEFT, _BOX, _WIDTH, _STEP, _HEIGHT = 8, 400, 564, 104, 58
_LINE = "#7a7f87"


def _text(x: float, y: float, text: str, size: int, colour: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" {style}>{escape(text)}</text>'


def _row(index: int) -> list[str]:
    room, name, detail, arrow = _ROWS[index]
    top = 8 + index * _STEP
    middle = _LEFT + 60
    box = f'x="{_LEFT}" y="{top}" width="{_BOX}" height="{_HEIGHT}" rx="8" fill="{_COLOURS[room]}" stroke="{_LINE}"'
    parts = [
        f"<rect {box}/>",
        _text(_LEFT + 14, top + 25, name, 18, "#1d1f22", 'font-weight="600"'),
        _text(_LEFT + 14, top + 46, detail, 15, "#2b2e33", 'font-family="monospace"'),
        _text(_LEFT + _BOX - 12, top + 24, f"{room}/", 14, "#44474d", 'text-anchor="end"'),
    ]
    if arrow:
        start, end = top + _HEIGHT, top + _STEP
        parts += [
            f'<path d="M{middle} {start} V{end - 4}" stroke="{_LINE}" stroke-width="2" marker-end="url(#head)"/>',
            _text(middle + 14, start + 29, arrow, 16, _LINE, 'font-family="monospace"'),
        ]
    return parts


def _side(start: int, end: int, x: int, words: tuple[str, ...]) -> list[str]:
    """A line at the right, from one row to another, with words beside its middle."""
    right, (y0, y1) = _LEFT + _BOX, (8 + row * _STEP + _HEIGHT / 2 for row in (start, end))
    path = f"M{right} {y0} H{x} V{y1} H{right + 6}"
    lines = [f'<path d="{path}" stroke="{_LINE}" stroke-width="2" fill="none" marker-end="url(#head)"/>']
    return lines + [_text(x + 8, (y0 + y1) / 2 + 18 * n, word, 15, _LINE) for n, word in enumerate(words)]


def picture() -> str:
    """The whole picture as SVG."""
    height = 8 + (len(_ROWS) - 1) * _STEP + _HEIGHT + 8
    top = 8 + 5 * _STEP
    loop = f"M{_LEFT + _BOX} {top + 16} h40 v26 h-34"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif"'
        ' role="img" aria-label="From the checkpoint over the cell and the bundle to the report">',
        f'<defs><marker id="head" viewBox="0 0 10 10" refX="7" refY="5" markerWidth="7" markerHeight="7"'
        f' orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="{_LINE}"/></marker></defs>',
    ]
    for index in range(len(_ROWS)):
        parts += _row(index)
    parts += _side(1, 7, _LEFT + _BOX + 80, ("oracle:", "float64,", "unfolded"))
    parts += [f'<path d="{loop}" stroke="{_LINE}" stroke-width="2" fill="none" marker-end="url(#head)"/>']
    parts += [_text(_LEFT + _BOX + 6, top + 64, "quantize", 15, _LINE)]
    parts += [_text(_LEFT + _BOX + 6, top + 82, "compile", 15, _LINE), "</svg>"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    print(f"wrote {PICTURE}")
