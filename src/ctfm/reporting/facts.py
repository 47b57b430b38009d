"""Facts of a run for the report page, gathered from what the stages left; nothing is computed anew.

Each function takes the folder of the run and returns plain values that the template prints. What a stage
that was off would have left is simply absent, and the page says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ctfm import files, provenance, tables
from ctfm.idc import cost

MIB_PER_GIB = 1024
NARROW = "\u00a0"  # a space where no line may break
NOT_SCORES = {"loss", "lr", "seconds", "step"}


class Table(NamedTuple):
    """A table of the page: column names and rows of ready text."""

    head: list[str]
    rows: list[list[str]]


def number(value: Any, digits: int = 3) -> str:
    """Return a number for people: fixed decimals below 1000, thousands apart above; a dash for nothing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    return f"{value:,.{digits}f}"


def percent(part: float, whole: float) -> str:
    """Return ``part`` as a share of ``whole``."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def duration(seconds: float) -> str:
    """Return a time for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
    return text.replace(" ", NARROW)


def runs(root: Path) -> dict[str, dict[str, Any]]:
    """Return {folder relative to ``root``: content} of every run.json."""
    return {
        str(path.parent.relative_to(root)): files.read_json(path)
        for place in provenance.RECORDS
        for path in sorted(root.glob(place))
    }


def stale(root: Path) -> list[str]:
    """Return one sentence for each output whose code was edited since, with paths relative to ``root``."""
    return [sentence.replace(f"{root}/", "") for sentence in provenance.stale(root)]


def corpora(root: Path) -> list[dict[str, Any]]:
    """Return for each corpus its funnel, collections, licences, plan, and what became of its series."""
    names = {path.parent.name for path in [*root.glob("select/*/*.parquet"), *root.glob("volumes/*/index.parquet")]}
    return [
        {
            "name": name,
            **_selection(root / "select" / name, root / "volumes" / name),
            **_volumes(root / "volumes" / name),
        }
        for name in sorted(names)
    ]


def _selection(folder: Path, volumes: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    whole = _optional("funnel", volumes / "funnel.parquet")  # goes on where that of the selection ends
    funnel = _optional("funnel", folder / "funnel.parquet") if whole is None else whole
    if funnel is not None:
        counts = ("series", "studies", "patients")
        rows = [[row.step, *(number(getattr(row, c)) for c in counts)] for row in funnel.itertuples()]
        found["funnel"] = Table(["step", *counts], rows)
    collections = _optional("collections", folder / "collections.parquet")
    if collections is not None:
        head = ["collection", "series", "series in the paper", "licence"]
        kept = collections.sort_values(["series", "collection_id"], ascending=[False, True])
        found["collections"] = Table(
            head,
            [[r.collection_id, number(r.series), _whole(r.paper_series), r.license or "–"] for r in kept.itertuples()],
        )
    licences = _optional("licenses", folder / "licenses.parquet")
    if licences is not None:
        rows = [
            [r.license, "yes" if r.commercial else "no", number(r.series), number(r.patients)]
            for r in licences.itertuples()
        ]
        found["licences"] = Table(["licence", "commercial use", "series", "patients"], rows)
    overlap = _optional("overlap", folder / "overlap.parquet")
    if overlap is not None and len(overlap):
        rows = [
            [r.collection_id, r.used_for, number(r.series), number(r.patients), "left out" if r.excluded else "kept"]
            for r in overlap.itertuples()
        ]
        found["overlap"] = Table(["collection", "used downstream for", "series", "patients", "here"], rows)
    if (folder / "plan.json").is_file():
        found["plan"] = cost.as_text(files.read_json(folder / "plan.json"))
    return found


def _volumes(folder: Path) -> dict[str, Any]:
    table = _optional("volumes", folder / "index.parquet")
    if table is None:
        return {}
    good, bad = table[table.status == "ok"], table[table.status != "ok"]
    reasons = bad.reason.value_counts()
    rows = [[str(code), number(int(n)), str(bad[bad.reason == code].detail.iloc[0])] for code, n in reasons.items()]
    return {
        "volumes": table,
        "folder": folder,
        "ok": len(good),
        "series": len(table),
        "gigabytes": number(float(good.bytes.sum()) / 1e9),
        "quarantine": Table(["reason", "series", "for example"], rows),
        "quality": (folder / "quality.html").is_file(),
    }


def datasets(root: Path) -> Table:
    """Return for each labelled data set its source, licence, cases by split, and what was excluded and why."""
    rows = []
    for path in sorted(root.glob("datasets/*/cases.parquet")):
        table = tables.read("cases", path)
        good, out = table[table.status == "ok"], table[table.status != "ok"]
        source = files.read_json(path.with_name("run.json")).get("source", {}) if _beside(path) else {}
        why = ", ".join(f"{reason}: {n}" for reason, n in out.reason.value_counts().items())
        splits = [number(int((good.split == split).sum())) for split in ("train", "val", "test")]
        where = f"{source.get('version', '–')}, {source.get('licence', 'licence unknown')}"
        rows.append([path.parent.name, where, *splits, number(good.patient.nunique()), why or "none"])
    return Table(["data set", "version, licence", "train", "val", "test", "patients", "excluded"], rows)


def probes(root: Path) -> list[dict[str, Any]]:
    """Return for each probed encoder its scores and the chosen checkpoint."""
    return [
        {
            "name": path.parent.name,
            "scores": tables.read("scores", path),
            "selected": (chosen := files.read_json(path.with_name("selected.json"))),
            "choice": [[key, f"{v:.4g}" if isinstance(v, float) else str(v)] for key, v in chosen.items()],
        }
        for path in sorted(root.glob("probe/*/scores.parquet"))
        if path.with_name("selected.json").is_file()
    ]


def training(found: dict[str, dict[str, Any]]) -> Table:
    """Return what each pre-training and adaptation took, from their run.json."""
    rows = []
    for folder, run in found.items():
        if "hardware" not in run:
            continue
        hardware, last, best = run["hardware"], run.get("last") or {}, run.get("best")
        device = f"{hardware.get('devices')} × {hardware.get('device')}, {hardware.get('precision')}"
        took = duration(float(run.get("seconds", 0)))
        ending = number(last.get("loss"), 4)
        rows.append(
            [folder, number(run.get("steps")), took, number(run.get("gpu_hours"), 2), device, ending, _best(best)]
        )
    return Table(["output", "steps", "time", "GPU hours", "device", "last loss", "best checkpoint"], rows)


def _best(best: Any) -> str:
    if not isinstance(best, dict):
        return "–" if best is None else str(best)
    return ", ".join(
        f"{key} {number(value, 4 * (key != 'epoch'))}" for key, value in best.items() if key not in NOT_SCORES
    )


def benchmarks(root: Path) -> Table:
    """Return time and peak memory of each job, from the files that Snakemake wrote."""
    rows = []
    for path in sorted(root.glob("benchmarks/**/*.tsv")):
        table = pd.read_csv(path, sep="\t")
        memory = pd.to_numeric(table.get("max_rss"), errors="coerce").max()
        name = str(path.relative_to(root / "benchmarks").with_suffix(""))
        rows.append([name, duration(float(table["s"].sum())), number(float(memory) / MIB_PER_GIB, 2)])
    return Table(["job", "time", "peak memory, GiB"], rows)


def environment(found: dict[str, dict[str, Any]]) -> Table:
    """Return the versions that the outputs were made with; several where they differ."""
    columns: dict[str, set[str]] = {}
    for run in found.values():
        facts = {"ctfm": run.get("ctfm"), "python": run.get("python"), "platform": run.get("platform")}
        for key, value in {**facts, **run.get("packages", {})}.items():
            columns.setdefault(key, set()).add(str(value))
    return Table(["package", "version"], [[key, ", ".join(sorted(values))] for key, values in columns.items()])


def provenances(found: dict[str, dict[str, Any]]) -> Table:
    """Return for each output when it was made, its stage and version, its seed, and a digest of its code and spec."""
    rows = []
    for folder, run in found.items():
        spec = run.get("spec", {})
        seeds = sorted(set(_seeds(spec)))
        code, settings = files.digest(run.get("code", {})), files.digest(spec)
        stage = f"{spec.get('stage', '–')} {spec.get('version', '')}"
        rows.append(
            [folder, stage, run.get("finished", "–"), ", ".join(map(str, seeds)) or "–", code, settings, _data(run)]
        )
    return Table(["output", "stage, version", "finished", "seeds", "code", "settings", "data"], rows)


def _data(run: dict[str, Any]) -> str:
    """Return the digest of the data that an output was made of, where its record has one."""
    data = run.get("data")
    return str(data.get("digest", "–") if isinstance(data, dict) else data or "–")


def _seeds(spec: Any) -> Iterable[int]:
    for key, value in spec.items() if isinstance(spec, dict) else ():
        if key == "seed" and isinstance(value, int):
            yield value
        elif key == "seeds":
            yield from value
        else:
            yield from _seeds(value)


def _optional(name: str, path: Path) -> pd.DataFrame | None:
    return tables.read(name, path) if path.is_file() else None


def _beside(path: Path) -> bool:
    return path.with_name("run.json").is_file()


def _whole(value: Any) -> str:
    return "–" if pd.isna(value) else number(int(value))
