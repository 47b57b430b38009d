"""Small made-up tables of results, in the places where a run leaves them."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from ctfm import tables
from ctfm.config import Evaluate
from ctfm.files import write_json
from ctfm.imaging import pictures
from ctfm.metrics import centroid, decisions, localisation
from ctfm.metrics.summary import summarise
from ctfm.tasks import CaseFile, _vectors, cluster, retrieve, stability

LABELS = {"liver": "organs", "spleen": "organs", "aorta": "cardiac", "heart": "cardiac", "rib_left_1": "ribs"}
LEVELS = {"ctfm": 0.03, "random": 0.0}


def metrics(
    encoder: str, shots: str = "all", seed: int = 0, *, patients: int = 12, dataset: str = "phantoms", labels=None
) -> pd.DataFrame:
    """Return the table ``metrics`` of one run; one label is absent from some patients."""
    rng = np.random.default_rng([seed, len(encoder), len(shots)])
    common = np.random.default_rng(0).normal(0, 0.05, patients)
    rows = []
    for place, (label, group) in enumerate((labels or LABELS).items()):
        for patient in range(patients):
            absent = place == 1 and patient % 3 == 0
            fewer = 0 if shots == "all" else 1 / max(2, float(shots))
            dice = np.clip(0.85 + LEVELS.get(encoder, 0.01) + common[patient] - fewer + rng.normal(0, 0.02), 0, 1)
            row = {"case_id": f"s{patient:04d}", "patient": f"p{patient:04d}", "label": label, "group": group}
            row |= {"metric": "dice", "value": np.nan if absent else dice, "note": "absent" if absent else ""}
            rows.append(row)
    fixed = {"task": "wholebody", "dataset": dataset, "encoder": encoder, "shots": shots, "seed": seed}
    return tables.of("metrics", [{**row, **fixed, "split_hash": "abc"} for row in rows])


def run(root: Path, encoders=("ctfm", "random"), shots=("5", "all"), seeds=(0, 1), **kwargs) -> Path:
    """Write the tables ``metrics`` and ``summary`` of a task under ``root/evaluate/wholebody``; return ``root``."""
    folder, parts = root / "evaluate" / "wholebody", []
    for encoder in encoders:
        for number in shots:
            for seed in seeds:
                parts.append(metrics(encoder, number, seed, **kwargs))
                tables.write(parts[-1], "metrics", folder / encoder / f"{number}-{seed}.parquet")
    rows = summarise(pd.concat(parts, ignore_index=True), Evaluate(bootstrap=200))
    tables.write(tables.of("summary", rows), "summary", folder / "summary.parquet")
    return root


def triage(root: Path, encoders=("ctfm", "random"), shots=("0.1", "all"), seeds=(0, 1)) -> Path:
    """Write the tables ``metrics`` and ``summary`` of a task with probabilities on two data sets; return ``root``."""
    folder, parts = root / "evaluate" / "head_triage", []
    for encoder, number, seed in itertools.product(encoders, shots, seeds):
        rows = [_answers(encoder, number, seed, name, n) for name, n in (("heads", 24), ("others", 16))]
        parts.append(pd.concat(rows, ignore_index=True))
        tables.write(parts[-1], "metrics", folder / encoder / f"{number}-{seed}.parquet")
    joined = pd.concat(parts, ignore_index=True)
    made = [row for _, part in joined.groupby("dataset") for row in decisions.summarise(part, Evaluate(bootstrap=200))]
    tables.write(tables.of("summary", made), "summary", folder / "summary.parquet")
    return root


def _answers(encoder: str, shots: str, seed: int, dataset: str, n: int) -> pd.DataFrame:
    rng, target = np.random.default_rng([seed, len(encoder), len(shots), n]), np.arange(n) % 2
    p = np.clip(rng.normal(0.4 + (0.15 + LEVELS.get(encoder, 0.01)) * target, 0.15), 0, 1)
    fixed = {"task": "head_triage", "dataset": dataset, "encoder": encoder, "shots": shots, "seed": seed}
    fixed |= {"split_hash": "abc", "label": "abnormal", "group": "all", "note": ""}
    values = {"probability": p, "target": target, "threshold": np.full(n, 0.45)}
    rows = [
        {**fixed, "case_id": f"h{i}", "patient": f"h{i}", "metric": metric, "value": float(value[i])}
        for metric, value in values.items()
        for i in range(n)
    ]
    return tables.of("metrics", rows)


ORGANS = ("liver", "spleen", "heart")


def vectors(path: Path, arrays, about: dict) -> Path:
    """Write vectors as a task without training leaves them: {aggregation: (n, channels)} and what is known of each."""
    for how in _vectors.AGGREGATIONS:
        array = arrays[how] if isinstance(arrays, dict) else arrays
        rows = [{"case": case, "patch": -1, "label": "", "embedding": v} for case, v in zip(about, array, strict=True)]
        tables.write(tables.of("embeddings", rows), "embeddings", path / f"{how}.parquet")
    write_json(about, path / "cases.json")
    return path


def organs(count: int = 30, corpus: int = 20, seed: int = 0, apart: float = 1.5):
    """Return vectors that are near to those of their organ, and what is known of scans; those after ``corpus`` ask."""
    rng = np.random.default_rng(seed)
    names = [ORGANS[n % 3] for n in range(count)]
    array = np.stack([rng.normal(0, 1, 8) + np.eye(8)[ORGANS.index(name)] * apart for name in names])
    about = {
        f"c{n:02d}": {
            "patient": f"c{n:02d}",
            "cohorts": {"all": {"query": n >= corpus, "attributes": {"organ": name}}},
        }
        for n, name in enumerate(names)
    }
    return array, about


def lesions(count: int = 24):
    """Return vectors and what is known of scans in two cohorts with two attributes, some of them not known."""
    rng = np.random.default_rng(3)
    about = {}
    for n in range(count):
        flag = str(n // 2 % 2)
        known = {"lesion_flag": flag, "lesion_group": str(n % 3) if flag == "1" else None}
        about[f"s{n:02d}"] = {
            "patient": f"s{n:02d}",
            "cohorts": {("liver", "lung")[n % 2]: {"query": n >= 16, "attributes": known}},
        }
    return rng.normal(size=(count, 8)), about


KINDS = {"organ_retrieval": (retrieve, organs), "lesion_retrieval": (retrieve, lesions), "anatomy": (cluster, organs)}


def frozen(root: Path, encoders=("ctfm", "random"), dataset: str = "phantoms") -> Path:
    """Write what tasks without training leave under ``root``: organs and lesions to retrieve, organs to cluster."""
    for task in KINDS:
        parts, points, summary = _frozen(task, tuple(encoders), dataset)
        for encoder in encoders:
            tables.write(parts[encoder], "metrics", root / "evaluate" / task / encoder / "all-0.parquet")
            if task == "anatomy":
                folder = root / "adapt" / task / encoder / "all-0/predictions"
                tables.write(points[encoder], "points", folder / "points.parquet")
        tables.write(summary, "summary", root / "evaluate" / task / "summary.parquet")
    return repeated(root, encoders, dataset)


def repeated(root: Path, encoders=("ctfm", "random"), dataset: str = "phantoms", pairs: int = 9) -> Path:
    """Write what the task ``stability`` leaves: pairs of 20 patches; the first one differs and is badly registered."""
    settings, cases = stability.Settings(), [CaseFile(f"r{n}", f"r{n}", Path(), Path()) for n in range(pairs)]
    parts = []
    for number, encoder in enumerate(encoders):
        folder = root / "adapt/test_retest" / encoder / "all-0/predictions"
        for n, case in enumerate(cases):
            tables.write(*_patches(case.case, number, n), folder / f"{case.case}{stability.SUFFIX}", _quality(n))
        fixed = {"task": "test_retest", "dataset": dataset, "encoder": encoder, "shots": "all", "seed": 0}
        rows = [{**row, **fixed, "split_hash": "a"} for row in stability.measure(settings, cases, folder)]
        parts.append(tables.of("metrics", rows))
        tables.write(parts[-1], "metrics", root / "evaluate/test_retest" / encoder / "all-0.parquet")
    summary = summarise(pd.concat(parts, ignore_index=True), Evaluate(bootstrap=100))
    tables.write(tables.of("summary", summary), "summary", root / "evaluate/test_retest/summary.parquet")
    return root


def _patches(case: str, encoder: int, n: int) -> tuple[pd.DataFrame, str]:
    rng, parts = np.random.default_rng([encoder, n]), []
    for name, level in (("registered", 0.9 if n == 0 else 0.98), ("unregistered", 0.85), ("random", 0.8)):
        cosine = np.clip(level + rng.normal(0, 0.01, 20), -1, 1)
        columns = {"case": case, "comparison": name, "patch": range(20), "common": 1.0, "body": 0.6, "counted": True}
        parts.append(
            pd.DataFrame({**columns, "x_mm": 0.0, "y_mm": 0.0, "z_mm": 0.0, "cosine": cosine, "mse": 1 - cosine})
        )
    return pd.concat(parts), "patch_pairs"


def _quality(n: int) -> dict:
    found = {"ncc": 0.5 if n == 0 else 0.95, "overlap": 0.9, "overlap_back": 0.9}
    found |= {"translation_mm": 9.0, "rotation_degrees": 2.0}
    return {"registration": found, "sources": [{}, {}], "noise_hu": [10.0, 10.0]}


@cache
def _frozen(task: str, encoders: tuple[str, ...], dataset: str):
    """Return metrics and points by encoder, and the summary, of one task; they are computed once."""
    kind, make = KINDS[task]
    parts, points = {}, {}
    for number, encoder in enumerate(encoders):
        array, about = make()
        array = array + np.random.default_rng(number).normal(0, 0.5, array.shape)
        settings = kind.Settings(**({"depths": (3, 10)} if kind is retrieve else {}))
        with TemporaryDirectory() as folder:
            rows = kind.measure(settings, [], vectors(Path(folder), array, about))
        fixed = {"task": task, "dataset": dataset, "encoder": encoder, "shots": "all", "seed": 0, "split_hash": "a"}
        parts[encoder] = tables.of("metrics", [{**row, **fixed} for row in rows])
        label = {case: next(iter(one["cohorts"].values()))["attributes"].get("organ") for case, one in about.items()}
        places = [
            {"case": case, "label": label[case], "perplexity": p, "x": float(vector[0] * p), "y": float(vector[1])}
            for case, vector in zip(about, array, strict=True)
            for p in (10.0, 30.0)
        ]
        points[encoder] = tables.of("points", places)
    summary = summarise(pd.concat(parts.values(), ignore_index=True), Evaluate(bootstrap=100))
    return parts, points, tables.of("summary", summary)


def everything(root: Path) -> Path:
    """Write what every stage of a small run leaves, as far as the report reads it; return ``root``."""
    run(root)
    corpus(root)
    training(root)
    write_json({"source": {"version": "2.0.1", "licence": "CC BY 4.0"}, **stamp("datasets", seed=1)}, root / DATASET)
    good = {"status": "ok", "reason": "", "split": "test"}
    bad = {"status": "excluded", "reason": "no_label", "split": ""}
    cases = [{**good, "case": "s1", "patient": "p1"}, {**bad, "case": "s2", "patient": "p2"}]
    tables.write(tables.of("cases", cases), "cases", (root / DATASET).with_name("cases.parquet"))
    picture(root / "evaluate/wholebody/ctfm/all-0.png")
    picture(root / "report/figures/fig2.png")
    lines = "s\th:m:s\tmax_rss\tmean_load\n75.5\t0:01:15\t2048.0\t90\n10\t0:00:10\t-\t0\n"
    benchmark = root / "benchmarks/pretrain/ctfm.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text(lines)
    return root


DATASET = "datasets/phantoms/run.json"
SIZES = {"download_TB": 1.0, "final_disk_TB": 0.1, "peak_disk_TB": 0.5, "free_disk_TB": 2.0}
PLAN = {
    "series": 15,
    "files": 99,
    "shards": 1,
    "jobs": 4,
    "cpu_hours": 3.0,
    "assumptions": {"volumes": "as measured"},
    **SIZES,
}


def corpus(root: Path) -> None:
    """Write a selection and its prepared volumes, one of them refused."""
    folder = root / "select/phantom"
    funnel = [{"step": "CT series", "series": 15000, "studies": 9, "patients": 8}]
    tables.write(tables.of("funnel", funnel), "funnel", folder / "funnel.parquet")
    collections = [{"collection_id": "made_up", "series": 15, "paper_series": None, "license": "CC BY 4.0"}]
    tables.write(tables.of("collections", collections), "collections", folder / "collections.parquet")
    licences = [{"license": "CC BY 4.0", "commercial": True, "series": 15, "studies": 9, "patients": 8, "size_TB": 1.0}]
    tables.write(tables.of("licenses", licences), "licenses", folder / "licenses.parquet")
    shared = [{"collection_id": "made_up", "used_for": "stability", "series": 15, "patients": 8, "excluded": False}]
    tables.write(tables.of("overlap", shared), "overlap", folder / "overlap.parquet")
    write_json(PLAN, folder / "plan.json")
    volumes = root / "volumes/phantom"
    rows = [
        {"SeriesInstanceUID": "1.2.3", "collection_id": "made_up", "shard": 0, "status": "ok", "path": "gone.b2nd"},
        {"SeriesInstanceUID": "1.2.4", "collection_id": "made_up", "shard": 0, "status": "quarantined"},
    ]
    rows[0] |= {"shape": [40, 64, 64], "bytes": 10**9, "reason": "", "detail": ""}
    rows[1] |= {"reason": "localizer", "detail": "ImageType holds <LOCALIZER>"}
    tables.write(tables.of("volumes", rows), "volumes", volumes / "index.parquet")
    picture(volumes / "shard=00000/thumbnails/1.2.4.png")
    (volumes / "quality.html").write_text("<html></html>")
    write_json(stamp("prepare"), volumes / "run.json")


def training(root: Path) -> None:
    """Write the histories of a pre-training and of its probe."""
    folder = root / "encoders/ctfm"
    hardware = {"device": "cpu", "devices": 1, "precision": "32-true"}
    facts = {"steps": 20, "seconds": 61.5, "gpu_hours": 0.0, "hardware": hardware, "last": {"loss": 1.25}, "best": None}
    write_json({**stamp("pretrain", seed=7), **facts}, folder / "run.json")
    head = "epoch,step,loss,lr,seconds,alignment,uniformity,std\n"
    lines = "0,10,2.0,0.001,3,0.5,-1.0,0.2\n1,20,1.25,0.0005,3,0.25,-1.5,\n"
    (folder / "metrics.csv").write_text(head + lines)
    scores = [
        {"encoder": "ctfm", "checkpoint": f"epoch={e:04d}.ckpt", "epoch": e, "step": e, "shots": 5, "seed": s}
        | {"metric": metric, "value": 0.1 * e + 0.01 * s}
        for metric in ("macro_dice", "micro_dice")
        for e in (0, 1)
        for s in (0, 1)
    ]
    tables.write(tables.of("scores", scores), "scores", root / "probe/ctfm/scores.parquet")
    chosen = {
        "checkpoint": "epoch=0001.ckpt",
        "epoch": 1,
        "metric": "macro_dice",
        "value": 0.105,
        "why": "highest mean",
    }
    write_json(chosen, root / "probe/ctfm/selected.json")


def stamp(stage: str, **settings) -> dict:
    """Return the content of a run.json."""
    spec = {"stage": stage, "version": 1, stage: settings}
    record = {"spec": spec, "code": {}, "ctfm": "0.1.0", "python": "3.12", "platform": "here", "finished": "2025-01-02"}
    return {**record, "packages": {"numpy": "2.0"}}


def picture(path: Path) -> None:
    """Write a small PNG."""
    pictures.write_png(np.zeros((8, 8), np.uint8), path)


def tumours(root: Path, task: str = "liver_tumour", encoders=("ctfm", "random"), *, dataset="phantoms", n=6) -> Path:
    """Write the tables of a tumour task: the last patient has no tumour, and one encoder misses that of the first."""
    parts = [_tumour_rows(task, encoder, dataset, n) for encoder in encoders]
    for encoder, part in zip(encoders, parts, strict=True):
        tables.write(part, "metrics", root / f"evaluate/{task}/{encoder}/all-0.parquet")
        fixed = {"task": task, "dataset": dataset, "encoder": encoder, "shots": "all", "seed": 0, "case_id": "s0002"}
        fixed |= {"patient": "p2", "label": "tumour", "rows": 8, "columns": 9, "row_mm": 2.0, "column_mm": 1.0}
        disc = ((np.indices((8, 9)) - 4) ** 2).sum(axis=0) < 7
        moved = np.roll(disc, len(encoder) % 3, axis=1)
        seen = {"image": (40 * disc).ravel().tolist(), "truth": disc.astype(int).ravel().tolist()}
        seen |= {"prediction": moved.astype(int).ravel().tolist()}
        planes = [{**fixed, **seen, "plane": plane} for plane in ("axial", "coronal", "sagittal")]
        tables.write(tables.of("slices", planes), "slices", root / f"slices/{task}/{encoder}/all-0.parquet")
    rows = summarise(pd.concat(parts, ignore_index=True), Evaluate(bootstrap=200))
    tables.write(tables.of("summary", rows), "summary", root / f"evaluate/{task}/summary.parquet")
    return root


def _tumour_rows(task: str, encoder: str, dataset: str, n: int) -> pd.DataFrame:
    rng, rows = np.random.default_rng(len(encoder)), []
    for i in range(n):
        missed, absent = i == 0 and encoder == "random", i == n - 1
        note = "missed" if missed else "absent from the truth" if absent else ""
        values = {"dice": np.nan if absent else 0.0 if missed else rng.uniform(0.4, 0.9)}
        if absent:
            values["false_positive_ml"] = rng.uniform(0, 3)
        else:
            values |= {"asd": np.nan if missed else rng.uniform(1, 5), "missed": float(missed)}
        one = {"case_id": f"s{i:04d}", "patient": f"p{i}", "label": "cancer", "group": "tumour", "note": note}
        rows += [{**one, "metric": metric, "value": value} for metric, value in values.items()]
    fixed = {"task": task, "dataset": dataset, "encoder": encoder, "shots": "all", "seed": 0, "split_hash": "abc"}
    return tables.of("metrics", [{**row, **fixed} for row in rows])


def search(root: Path, encoders=("ctfm", "suprem"), *, dataset="phantoms", n=9, labels=("heart", "liver")) -> Path:
    """Write the tables of a task of semantic search; the last target shows no organ, and two scans ask."""
    parts = {}
    for encoder in encoders:
        rng, rows = np.random.default_rng(len(encoder)), []
        for i, label in itertools.product(range(n), labels):
            one = {"case_id": f"t{i}", "patient": f"t{i}", "label": label, "group": LABELS[label]}
            if i == n - 1:
                rows.append({**one, "metric": centroid.DISTANCE, "value": np.nan, "note": centroid.ABSENT})
                continue
            for query in ("q1", "q2"):
                values = {centroid.DISTANCE: rng.gamma(2, len(encoder)), centroid.INSIDE: float(rng.random() < 0.5)}
                values |= {centroid.INSIDE_PUBLISHED: 1.0}
                rows += [{**one, "metric": m, "value": v, "note": f"query {query}"} for m, v in values.items()]
            bounds = {centroid.FLOOR: 1.0, centroid.CHANCE: 15.0, centroid.MIDDLE: 9.0}
            rows += [{**one, "metric": metric, "value": value, "note": ""} for metric, value in bounds.items()]
        fixed = {"task": "organ_search", "dataset": dataset, "encoder": encoder, "shots": "all", "seed": 0}
        parts[encoder] = tables.of("metrics", [{**row, **fixed, "split_hash": "a"} for row in rows])
        tables.write(parts[encoder], "metrics", root / f"evaluate/organ_search/{encoder}/all-0.parquet")
        planes = [{**plane, **fixed} for label in labels for plane in _pair(label)]
        tables.write(tables.of("slices", planes), "slices", root / f"slices/organ_search/{encoder}/all-0.parquet")
    made = localisation.summarise(pd.concat(parts.values(), ignore_index=True), Evaluate(bootstrap=200))
    tables.write(tables.of("summary", made), "summary", root / "evaluate/organ_search/summary.parquet")
    return root


def _pair(label: str) -> list[dict]:
    """Return the planes of a query and of a target."""
    disc = ((np.indices((8, 9)) - 4) ** 2).sum(axis=0) < 7
    seen = {"rows": 8, "columns": 9, "row_mm": 2.0, "column_mm": 1.0, "plane": "coronal", "label": label}
    seen |= {"image": (40 * disc).ravel().tolist(), "truth": disc.astype(int).ravel().tolist(), "prediction": []}
    heat = np.where(np.arange(72) < 9, np.nan, np.linspace(0, 1, 72)).tolist()
    query = {**seen, "case_id": "q1", "patient": "q1", "heat": [], "mark": [4, 4]}
    return [query, {**seen, "case_id": "t1", "patient": "t1", "heat": heat, "mark": [2, 7]}]
