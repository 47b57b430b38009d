"""The documentation site: Sphinx over the Markdown of this repository. ``make docs`` builds it; nothing is fetched.

Pages are plain Markdown with relative links, so they read the same on a code host. A page in one of the folders below
joins the navigation by being there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sphinx.application import Sphinx

from ctfm import __version__

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "config", "docs"}
NAVIGATION = {
    "Use": ["docs/quick-start", "docs/how-to/*", "docs/cluster", "docs/data", "docs/faq"],
    "Understand": ["docs/pipeline", "docs/corrections", "docs/explanation/*", "docs/experiments/*", "docs/benchmarks"],
    "Look up": ["docs/README", "config/README", "docs/reference/*", "CHANGELOG", "CONTRIBUTING"],
}

project = "ctfm"
author = "The ctfm contributors"
release = __version__
extensions = ["myst_parser"]
root_doc = "README"
exclude_patterns = [p.name for p in ROOT.iterdir() if p.name not in PAGES]
myst_heading_anchors = 3
myst_links_external_new_tab = False
nitpicky = True
html_theme = "furo"
html_title = f"ctfm {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def add_navigation(_app: Sphinx, page: str, source: list[str]) -> None:
    """Append the tree of pages to the first one; in its file it would be noise."""
    if page == root_doc:
        for title, entries in NAVIGATION.items():
            source[0] += "\n".join(
                ["", "```{toctree}", f":caption: {title}", ":hidden:", ":glob:", *entries, "```", ""]
            )


def write_index(app: Sphinx, error: Exception | None) -> None:
    """Copy the first page to where web servers look for it."""
    if not error and app.builder.name == "html":
        shutil.copy(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")


def setup(app: Sphinx) -> None:
    """Connect the two functions above."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", write_index)
