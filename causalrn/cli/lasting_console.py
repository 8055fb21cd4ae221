"""The console that commands print to: it outlives its readers, spells out control characters, keeps words whole."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from causalrn.cli.terminal import drop_output
from causalrn.cli.text_lines import breaks, visible


class LastingConsole(Console):
    """Goes on when whoever reads has gone away: the verdict and the files still count.

    Control characters are spelled out, on the way in for widths, and on the way out whatever has made them. What is no
    table breaks between words; `soft_wrap=True` leaves it as it is, as code.
    """

    def on_broken_pipe(self) -> None:
        """Let the rest go nowhere."""
        drop_output()

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print; a single text is broken between words."""
        if len(objects) == 1 and isinstance(objects[0], str | Text) and not settings.get("soft_wrap"):
            text = objects[0] if isinstance(objects[0], Text) else Text(objects[0])
            objects, settings = (self._between_words(text),), {**settings, "soft_wrap": True}
        super().print(*objects, **settings)

    def _between_words(self, text: Text) -> Text:
        """The text with line ends where it has to break, if anybody says how wide it may be."""
        if visible(text.plain) != text.plain:  # which is longer: lines would break elsewhere
            text = Text(visible(text.plain), style=text.style)
        has_width = self.is_terminal or "COLUMNS" in os.environ  # else a sentence is a line, for `grep`
        lines = text.divide(breaks(text.plain, self.width) if has_width else [])
        for line in lines[:-1]:
            line.rstrip()
        return Text("\n").join(lines)

    def render_str(self, text: str, **settings: Any) -> Text:
        """A string as a text."""
        return super().render_str(visible(text), **settings)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Whatever is printed, as segments."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)
