"""What the manifest says of graphs that other tools changed after the export. Needs neither torch nor onnx."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CHANGED, ADDED, REMOVED = "changed", "added", "removed"


@dataclass(frozen=True)
class Resealing:
    """One time that a bundle was verified as a whole and got new hashes.

    Attributes:
        tool: what changed it, as whoever resealed it says; empty where nobody did.
        files: by name, what became of it: "changed", "added" or "removed".
        nodes: by graph and operator, how many more nodes there are than in a fresh export, or fewer; empty for graphs
            that have no fresh export to be compared with (quantized ones, and those in onnxruntime's own format).
        restored: graphs into which entries of the manifest were written again, because the tool had dropped them.
    """

    tool: str
    files: Mapping[str, str]
    nodes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    restored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.files or set(self.files.values()) - {CHANGED, ADDED, REMOVED}:
            raise ValueError("resealed without a file that changed")

    def describe(self) -> str:
        """A few words for people: "onnxslim 0.1.90: step.onnx, prefill.onnx changed; weights.bin removed"."""
        parts = []
        for what in (CHANGED, ADDED, REMOVED):
            names = [name for name, became in self.files.items() if became == what]
            if names:
                parts.append(f"{', '.join(names)} {what}")
        return f"{self.tool or 'a tool without a name'}: {'; '.join(parts)}"
