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
    results: ResultsOption,
    out: Annotated[Path, typer.Option(help="Folder of <id>.png, <id>.svg and <id>.csv.")],
    figure: Annotated[
        list[str] | None, typer.Option("--id", help="Which figure, again for more; else those of the configuration.")
    ] = None,
    spec: SpecOption = None,
    config: ConfigOption = None,
) -> None:
    """Draw figures as PNG and SVG, and write their numbers as CSV; the same tables give the same bytes."""
    settings = Figures(**job_spec("figures", spec, config)["figures"])
    draws = {name: plugins.get("figures", name).draw for name in figure or settings.ids}
    need_file(results, "name the folder of a run (its 'outdir')")
    tables = Results(results)
    for name, draw in draws.items():
        with _style.context():
            drawn, rows = draw(tables, settings)
            files = _style.save(drawn, rows, out / name, settings.dpi)
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
