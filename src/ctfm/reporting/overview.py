"""The head and the tail of the report page: what was run, on what, for how long; what to beware of; whom to cite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ctfm import plugins, resources, tables
from ctfm.errors import UserError
from ctfm.figures._results import Results
from ctfm.metrics.summary import QUOTED
from ctfm.reporting.effort import Effort
from ctfm.reporting.facts import Table, duration, number

PAPER = (
    "the study that is rerun here",
    "S. Pai, I. Hadzic, D. Bontempi et al. Vision Foundation Models for Computed Tomography. 2025.",
)
Runs = Mapping[str, Mapping[str, Any]]


def overview(root: Path, runs: Runs, effort: Effort) -> Table:
    """Return in a few lines what was run, on what, and for how long.

    Args:
        root: folder of the run.
        runs: content of every run.json, by folder.
        effort: what it took.
    """
    lines = {
        "Pre-trained": ", ".join(_names(runs, "encoders")),
        "Corpora": "; ".join(_corpora(root)),
        "Labelled data": "; ".join(_datasets(root)),
        "Tasks": "; ".join(_tasks(root)),
        "Machines": "; ".join(sorted({_machine(run) for run in runs.values() if "hardware" in run})),
        "Platforms": "; ".join(sorted({str(run["platform"]) for run in runs.values() if run.get("platform")})),
        "First and last output": _between(sorted(str(run["finished"]) for run in runs.values() if run.get("finished"))),
        "Time of all jobs": duration(effort.job_seconds) if effort.job_seconds else "",
        "GPU-hours": number(float(sum(effort.gpu_hours.values())), 2),
        "CPU-hours": number(effort.cpu_hours, 2) if effort.cpu_hours else "",
        "Energy, estimated": f"{number(effort.kwh)} kWh" if effort.kwh else "",
    }
    return Table(["what", "this run"], [[name, text] for name, text in lines.items() if text])


def _names(runs: Runs, stage: str) -> list[str]:
    return sorted(folder.split("/")[1] for folder in runs if folder.startswith(f"{stage}/"))


def _corpora(root: Path) -> list[str]:
    funnel = Results(root).funnel
    last = funnel.groupby("corpus", sort=True).tail(1)
    return [
        f"{row.corpus}: {number(row.series)} series of {number(row.patients)} patients" for row in last.itertuples()
    ]


def _datasets(root: Path) -> list[str]:
    found = []
    for path in sorted(root.glob("datasets/*/cases.parquet")):
        cases = tables.read("cases", path).query("status == 'ok'")
        found.append(
            f"{path.parent.name}: {_many(len(cases), 'case')}, {(cases.split == 'test').sum()} of them tested on"
        )
    return found


def _tasks(root: Path) -> list[str]:
    rows = Results(root).summary
    rows = rows[rows.method != QUOTED]
    return [
        f"{name} ({_many(own.encoder.nunique(), 'encoder')}, {_many(own.shots.nunique(), 'size')} of the training set)"
        for name, own in rows.groupby("task", sort=True)
    ]


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _machine(run: Mapping[str, Any]) -> str:
    hardware = run["hardware"]
    return f"{hardware.get('devices')} × {hardware.get('device')}, {hardware.get('precision')}"


def _between(times: list[str]) -> str:
    return f"{times[0]} to {times[-1]}" if times else ""


def warnings(root: Path) -> list[str]:
    """Return one sentence for each collection that was pre-trained on and that an evaluation uses too."""
    found = []
    for path in sorted(root.glob("select/*/overlap.parquet")):
        rows = tables.read("overlap", path)
        found += [
            f"Corpus '{path.parent.name}' holds {number(row.series)} series of {row.collection_id}, which are used for "
            f"{row.used_for}: what is measured there is not on data that the encoder has never seen. "
            f"A clean variant: corpora.{path.parent.name}.exclude_downstream: true."
            for row in rows[~rows.excluded.astype(bool)].itertuples()
        ]
    return found


def paper_overlap() -> list[str]:
    """Return one sentence for each collection of the paper's own corpus that evaluations use too."""
    counts = pd.read_csv(resources.path("paper_collections.csv"))
    rows = pd.read_csv(resources.path("downstream.csv")).merge(counts, on="collection_id")
    return [f"{number(int(row.n))} series of {row.collection_id} ({row.used_for})" for row in rows.itertuples()]


def sources(root: Path, runs: Runs) -> Table:
    """Return whom to cite: the study, each method and each kind of data set that took part, as its module names it."""
    used = set()
    for folder, run in runs.items():
        spec = run.get("spec", {})
        if folder.startswith("encoders/"):
            used.add(("ssl", spec.get("pretrain", {}).get("method")))
        elif folder.startswith("datasets/"):
            used.add(("datasets", spec.get("dataset", {}).get("kind")))
    lines = [list(PAPER)] if runs or any(root.glob("evaluate/*/summary.parquet")) else []
    lines += [[name, text] for kind, name in sorted(used, key=str) if (text := _said(kind, name))]
    return Table(["what", "source"], lines)


def _said(kind: str, name: Any) -> str:
    try:
        return " ".join(plugins.docstring(kind, str(name)).split())
    except UserError:  # made by another version of this package
        return ""


def attributions(root: Path) -> dict[str, str]:
    """Return the attribution file of each corpus."""
    return {path.parent.name: path.read_text(encoding="utf-8") for path in sorted(root.glob("select/*/attribution.md"))}
