"""Results of tasks for the report page: ours beside the paper's, and what may not be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ctfm import published, tables
from ctfm.metrics.summary import LABEL, OURS, PUBLISHED, QUOTED, TUMOUR, WIN_RATE, by_size, lower_is_better
from ctfm.reporting import notes
from ctfm.reporting.facts import NARROW, Table, number

MAIN = "dice"
# The metric that a task's first table shows; of other tasks their first.
LEADING = (MAIN, "auc", "centroid_distance_cm", "separation", "colour_balanced_accuracy", "organ_enrichment")
ABBREVIATED = {"auc": "AUC", "f1": "F1", "nmi": "NMI"}
FEW = 20  # patients, below which percentile intervals are plainly too narrow


def tasks(root: Path) -> list[dict[str, Any]]:
    """Return for each task and data set its tables: the main metric over all labels, by group, and the other metrics.

    Args:
        root: folder of the run.
    """
    found = []
    for path in sorted(root.glob("evaluate/*/summary.parquet")):
        table = tables.read("summary", path)
        if len(table):
            evaluate = tables.facts(path).get("spec", {}).get("evaluate", {})
            coverage = 100 * evaluate.get("confidence", 0.95)
            found += [_task(part, coverage) for _, part in table.groupby("dataset", sort=False) if _own(part)]
    for task in found:
        task["not_comparable"] += notes.of_dataset(root, task["dataset"])
    return found


def _own(rows: pd.DataFrame) -> bool:
    """Return whether any of the rows are ours: rivals may be quoted that were measured on other data sets."""
    return bool((rows.method != QUOTED).any())


def _task(table: pd.DataFrame, coverage: float) -> dict[str, Any]:
    own = table[table.method != QUOTED]
    metrics = [metric for metric in own.metric.unique() if not metric.endswith(WIN_RATE)]
    main = next((name for name in LEADING if name in metrics), metrics[0])
    whole = next((name for name in (TUMOUR, "all") if name in set(own.group)), str(own.group.iloc[0]))
    overall, groups = own[own.group == whole], own[~own.group.str.startswith(LABEL)]
    counts = overall[(overall.metric == main) & overall.n.notna()].n
    n = int(counts.max()) if len(counts) else 0
    others = groups[(groups.metric != main) & ~groups.metric.str.endswith(WIN_RATE)]
    return {
        "name": table.task.iloc[0],
        "dataset": table.dataset.iloc[0],
        "metric": ABBREVIATED.get(main, main.replace("_", " ").capitalize()),
        "coverage": f"{coverage:g}",
        "n": n,
        "few": n < FEW,
        "macro": main == MAIN,
        "compared": bool((own.reference != "").any()),
        "main": _main(overall, main),
        "gains": _gains(overall, main),
        "verdicts": _verdicts(overall, main),
        "groups": _plain(groups[(groups.metric == main) & (groups.group != whole)]),
        "others": _plain(others),
        "comparable": bool(table.paper.notna().any()),
        "not_comparable": _reasons(table),
    }


def _main(overall: pd.DataFrame, metric: str) -> Table:
    keys = ["encoder", "shots", "metric", "method", "reference"]
    rows = {tuple(getattr(row, key) for key in keys): row for row in overall.itertuples()}
    lines = []
    ours = overall[(overall.metric == metric) & (overall.method == OURS) & (overall.reference == "")]
    for row in ours.sort_values("shots", key=_sizes, kind="stable").itertuples():
        as_published = rows.get((row.encoder, row.shots, metric, PUBLISHED, ""))
        lines.append(
            [
                row.encoder,
                row.shots,
                number(int(row.seeds)),
                bounded(row),
                number(row.n, 0),
                bounded(as_published) if as_published else "–",
                number(row.paper, 4),
                _signed(row.estimate - row.paper),
            ]
        )
    head = [
        "encoder",
        "training cases",
        "seeds",
        "estimate",
        "patients",
        "the paper's definition",
        "paper",
        "ours − paper",
    ]
    return Table(head, lines)


def _gains(overall: pd.DataFrame, metric: str) -> Table:
    """Return the paired differences to each reference: over patients, over training seeds, and tested."""
    keys = ["encoder", "reference", "shots"]
    wins = {tuple(getattr(r, k) for k in keys): r for r in overall[overall.metric == metric + WIN_RATE].itertuples()}
    lines = [
        [
            f"{row.encoder} − {row.reference}",
            row.shots,
            bounded(row, sign=True),
            number(row.n, 0),
            _by_seed(row),
            p_value(row.p_value),
            p_value(row.p_holm),
            _won(wins[key]) if (key := (row.encoder, row.reference, row.shots)) in wins else "–",
        ]
        for row in _pairs(overall, metric).itertuples()
    ]
    head = ["encoders", "training cases", "difference, interval over patients", "patients"]
    return Table([*head, "over training seeds", "p", "p after Holm", "labels won"], lines)


def _pairs(overall: pd.DataFrame, metric: str) -> pd.DataFrame:
    rows = overall[(overall.metric == metric) & (overall.method == OURS) & (overall.reference != "")]
    ordered = rows.sort_values("shots", key=_sizes, kind="stable")
    return ordered.sort_values(["encoder", "reference"], kind="stable")


def _by_seed(row: Any) -> str:
    """Return the interval over training seeds, or the reason why there is none, and each seed."""
    if len(row.seed_estimates) < 2:
        return "one seed" if len(row.seed_estimates) else "no seed in common"
    each = ", ".join(f"{value:+.4f}" for value in row.seed_estimates)
    return f"{row.seed_low:+.4f} to {row.seed_high:+.4f}".replace(" ", NARROW) + f"; each: {each}"


def _verdicts(overall: pd.DataFrame, metric: str) -> list[str]:
    """Say for each pair of encoders where one is better, and whether over patients alone or over seeds too."""
    found, sign = [], -1 if lower_is_better(metric) else 1
    for (encoder, reference), rows in _pairs(overall, metric).groupby(["encoder", "reference"], sort=False):
        patients, seeds = _side(sign * rows.low, sign * rows.high), _side(sign * rows.seed_low, sign * rows.seed_high)
        said = {
            "better": (patients > 0) & (seeds > 0),
            "worse": (patients < 0) & (seeds < 0),
            "better for other patients, not surely for other training runs": (patients > 0) & ~(seeds > 0),
            "worse for other patients, not surely for other training runs": (patients < 0) & ~(seeds < 0),
            "no difference shown": patients == 0,
            "no interval, so no answer": patients.isna(),
        }
        parts = [f"{words} with {', '.join(rows.shots[which])}" for words, which in said.items() if which.any()]
        found.append(f"{encoder} against {reference}, by number of training cases: {'; '.join(parts)}.")
    return found


def _side(one: pd.Series, other: pd.Series) -> pd.Series:
    """Return on which side of zero each interval lies: 1, -1, 0 (around it) or NaN (there is none)."""
    ends = pd.concat([one, other], axis=1)
    low, high = ends.min(axis=1, skipna=False), ends.max(axis=1, skipna=False)
    return ((low > 0).astype(float) - (high < 0)).where(low.notna())


def _sizes(shots: pd.Series) -> pd.Series:
    return shots.map(by_size)


def _plain(rows: pd.DataFrame) -> Table:
    rows = rows[(rows.method == OURS) & (rows.reference == "")]
    ordered = rows.assign(size=_sizes(rows.shots)).sort_values(["metric", "group", "size", "encoder"], kind="stable")
    head = ["metric", "group", "training cases", "encoder", "estimate", "patients", "paper"]
    return Table(
        head,
        [
            [r.metric.replace("_", " "), r.group, r.shots, r.encoder, bounded(r), number(r.n, 0), number(r.paper, 4)]
            for r in ordered.itertuples()
        ],
    )


def bounded(row: Any, *, sign: bool = False) -> str:
    """Return an estimate with its interval as text."""
    form = "+.4f" if sign else ".4f"
    limits = "no interval" if pd.isna(row.low) else f"{row.low:{form}} to {row.high:{form}}"
    return f"{row.estimate:{form}} ({limits})".replace(" ", NARROW)


def p_value(value: float) -> str:
    """Return a p value as text."""
    return "–" if pd.isna(value) else "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def _won(row: Any) -> str:
    ties = row.note.split(" among")[0]
    return f"{100 * row.estimate:.1f}{NARROW}% ({ties.replace(' ', NARROW)})"


def _signed(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:+.4f}"


def _reasons(table: pd.DataFrame) -> list[str]:
    """Say why some numbers have no published value beside them."""
    dataset, n = table.dataset.iloc[0], table.n.max()
    if table.paper.isna().all():
        return [
            f"These numbers are of '{dataset}' with {number(n, 0)} test patients; the paper gives none for such data. "
            "A published value stands here only beside the same data set with as many test cases."
        ]
    reasons = ["The paper prints no value for some settings: few-shot curves and groups are drawn only."]
    rows = published.table()
    rows = rows[(rows.dataset == dataset) & rows.encoder.isin(published.OURS) & (rows.caveat != "")]
    for caveat, own in rows[~rows.task.isin(published.RECIPE)].groupby("caveat", sort=False):
        metrics = ", ".join(dict.fromkeys(own.metric.str.replace("_", " ")))
        reasons.append(f"{', '.join(dict.fromkeys(own.encoder))} ({metrics}): {caveat}.")
    return reasons
