"""The report page: one self-contained HTML file from a results folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jinja2

from ctfm.reporting import charts, facts, outcomes


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
    histories = facts.histories(root)
    return {
        "finished": max((run.get("finished", "") for run in runs.values()), default=""),
        "version": ", ".join(sorted({str(run.get("ctfm")) for run in runs.values()})),
        "warnings": facts.stale(root),
        "tasks": outcomes.tasks(root),
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
        "benchmarks": facts.benchmarks(root),
        "environment": facts.environment(runs),
        "provenance": facts.provenances(runs),
        "settings": {name: json.dumps(run.get("spec", {}), indent=2, sort_keys=True) for name, run in runs.items()},
    }


def _figures(root: Path) -> list[dict[str, str]]:
    found = sorted((root / "report" / "figures").glob("*.png"))
    return [{"name": path.stem, "image": charts.file_uri(path)} for path in found]


def _corpus(corpus: dict[str, Any], out: Path) -> dict[str, Any]:
    if "volumes" not in corpus:
        return corpus
    table, folder = corpus.pop("volumes"), corpus.pop("folder")
    link = os.path.relpath(folder / "quality.html", out.parent) if corpus["quality"] else ""
    return {**corpus, "refused": charts.refused(table, folder), "samples": charts.samples(table, folder), "link": link}
