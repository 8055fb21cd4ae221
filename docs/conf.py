"""Sphinx: `make docs` builds these pages into build/docs. Warnings are errors there and in the tests."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath

from sphinx.application import Sphinx

import causalrn

project = "causalrn"
author = "the causalrn authors"
version = release = causalrn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("Progress", "OnReport")}
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

nitpicky = True
nitpick_ignore_regex = [  # other packages' documentation is not read: building needs no network
    ("py:.*", r"(numpy|npt|np|os|torch|types|collections|contextlib|pathlib|click|msgspec)\..*"),
    ("py:.*", r"(Path|PathLike|Progress|OnReport|Iterator|Sequence|Mapping|Callable|Iterable|Any|Self|Literal)"),
    # what results and models hold inside; their attributes are described where they are defined
    ("py:.*", r"causalrn\.(calibration|runtimes\.(parity|bench)|training\.tasks|bundle\.alphabet)\..*"),
    ("py:.*", r"causalrn\.workflows\.bench_comparison\..*|QuantizeReport|(.*\.)?GenerationSettings"),
]

html_theme = "furo"
html_title = "causalrn"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}

man_pages = [("reference/cli", "causalrn-export", "recurrent models from training to the device", [author], 1)]

_ROOT = Path(__file__).parents[1]
_ELSEWHERE = {"readme": "README.md", "contributing": "CONTRIBUTING.md", "examples": "examples/README.md"}
"""Pages whose text lies outside docs/, where people look for it."""


def _relinked(text: str, folder: PurePosixPath) -> str:
    """A text of another folder with its relative links as docs/ needs them."""
    pages = {source: f"{page}.md" for page, source in _ELSEWHERE.items()}

    def relink(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        if "://" in target or not target:
            return found[0]
        path = posixpath.normpath(folder / target)
        return f"]({pages.get(path) or posixpath.relpath(path, 'docs')}{anchor})"

    return re.sub(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", relink, text)


def _read_elsewhere(app: Sphinx, page: str, source: list[str]) -> None:
    if page == "claims_study":  # a script writes the table alone
        source[0] = f"# The claims, variant by variant\n\n{source[0]}"
    if page in _ELSEWHERE:
        path = PurePosixPath(_ELSEWHERE[page])
        source[0] = _relinked((_ROOT / path).read_text(encoding="utf-8"), path.parent)


def setup(app: Sphinx) -> None:
    """Connect the reader of pages that lie elsewhere."""
    app.connect("source-read", _read_elsewhere)
