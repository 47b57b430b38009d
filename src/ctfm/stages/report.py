"""Stage ``report``: figures from tables, and the page that tells what was run and what came out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ctfm import plugins
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import Figures
from ctfm.figures import _style
from ctfm.figures._results import Results
from ctfm.files import atomic, need_file
from ctfm.reporting import page

log = logging.getLogger(__name__)

ResultsOption = Annotated[Path, typer.Option(help="Folder of the run (`outdir`).")]


def figures(
    figure: Annotated[str, typer.Option("--id", help="Which figure: a file in src/ctfm/figures.")],
    results: ResultsOption,
    out: Annotated[Path, typer.Option(help="Folder of <id>.png, <id>.svg and <id>.csv.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
) -> None:
    """Draw one figure as PNG and SVG, and write its numbers as CSV; the same tables give the same bytes."""
    settings = Figures(**job_spec("figures", spec, config)["figures"])
    draw = plugins.get("figures", figure).draw
    need_file(results, "name the folder of a run (its 'outdir')")
    with _style.context():
        drawn, rows = draw(Results(results), settings)
        files = _style.save(drawn, rows, out / figure, settings.dpi)
    log.info("%s: %d values drawn", files[0], len(rows))


def report(
    results: ResultsOption,
    out: Annotated[Path, typer.Option(help="The page to write.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
) -> None:
    """Write one self-contained page; what a stage that was off would tell is one line that says so."""
    job = job_spec("report", spec, config)
    need_file(results, "name the folder of a run (its 'outdir')")
    text = page.render(results, job["title"], out)
    with atomic(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    log.info("%s: %.1f MB", out, len(text) / 1e6)
