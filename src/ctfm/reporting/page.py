"""The report page: one self-contained HTML file from a results folder."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import jinja2

from ctfm import plugins
from ctfm.figures._results import Results
from ctfm.reporting import ablations, charts, claims, facts, outcomes, overview
from ctfm.reporting.effort import effort


def render(root: Path, title: str, out: Path) -> str:
    """Return the page. It loads nothing from elsewhere; only the link to the quality pages leads outside.

    Args:
        root: folder of the run.
        title: of the page.
        out: where the page will stand; links are relative to it.
    """
    loader = jinja2.PackageLoader("ctfm", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html").render(title=title, **context(root, out))


def context(root: Path, out: Path) -> dict[str, Any]:
    """Return everything that the template prints."""
    runs = facts.runs(root)
    histories, took = Results(root).histories, effort(root, runs)
    return {
        "finished": max((run.get("finished", "") for run in runs.values()), default=""),
        "version": ", ".join(sorted({str(run.get("ctfm")) for run in runs.values()})),
        "warnings": facts.stale(root),
        "overlaps": overview.warnings(root),
        "paper_overlap": overview.paper_overlap(),
        "overview": overview.overview(root, runs, took),
        "claims": claims.compare(root),
        "tasks": outcomes.tasks(root),
        "ablations": ablations.ablations(root, runs),
        "figures": _figures(root),
        "pictures": charts.predictions(root),
        "corpora": [_corpus(corpus, out) for corpus in facts.corpora(root)],
        "datasets": facts.datasets(root),
        "encoders": sorted(histories),
        "curves": charts.training(histories),
        "training": facts.training(runs),
        "probes": [
            {**probe, "chart": charts.probe(probe["scores"], probe["selected"])} for probe in facts.probes(root)
        ],
        "effort": took,
        "benchmarks": facts.benchmarks(root),
        "sources": overview.sources(root, runs),
        "attributions": overview.attributions(root),
        "environment": facts.environment(runs),
        "provenance": facts.provenances(runs),
        "settings": {name: json.dumps(run.get("spec", {}), indent=2, sort_keys=True) for name, run in runs.items()},
    }


def _figures(root: Path) -> list[dict[str, Any]]:
    found = sorted((root / "report" / "figures").glob("*.png"), key=lambda path: _place(path.stem))
    return [{"name": path.stem, "about": _about(path.stem), "image": charts.file_uri(path)} for path in found]


def _place(figure: str) -> tuple[int, int, str]:
    """Return where a figure stands: those of the paper, then its extended data, then its supplement."""
    kind, number = re.fullmatch(r"(\D*)(\d*).*", figure).groups()  # type: ignore[union-attr]  # it always matches
    order = ("fig", "ed", "s")
    return order.index(kind) if kind in order else len(order), int(number or 0), figure


def _about(figure: str) -> list[str]:
    """Return the paragraphs of a figure's docstring."""
    known = figure in plugins.names("figures")
    return (
        [" ".join(part.split()) for part in plugins.docstring("figures", figure).split("\n\n")] if known else [figure]
    )


def _corpus(corpus: dict[str, Any], out: Path) -> dict[str, Any]:
    if "volumes" not in corpus:
        return corpus
    table, folder = corpus.pop("volumes"), corpus.pop("folder")
    link = os.path.relpath(folder / "quality.html", out.parent) if corpus["quality"] else ""
    return {**corpus, "refused": charts.refused(table, folder), "samples": charts.samples(table, folder), "link": link}
