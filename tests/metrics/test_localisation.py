"""The summary of semantic search, beside NumPy, SciPy and numbers by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ctfm import tables
from ctfm.config import Evaluate
from ctfm.metrics import localisation

FEW = Evaluate(bootstrap=200)


def table(values, encoder="ctfm", label="heart", metric="centroid_distance_cm", queries=("q1",), **fixed):
    """Return rows of (targets, queries) values; NaN: the target has none."""
    fixed = {"task": "organ_search", "dataset": "scans", "shots": "all", "seed": 0, "split_hash": "a", **fixed}
    rows = [
        {"case_id": f"t{i}", "patient": f"t{i}", "label": label, "group": "cardiac", "metric": metric, "value": value}
        | {"encoder": encoder, "note": f"query {query}", **fixed}
        for i, own in enumerate(np.atleast_2d(np.asarray(values, float).T).T)
        for query, value in zip(queries, own, strict=True)
    ]
    return tables.of("metrics", rows)


def summarised(*parts, settings=FEW, **index):
    rows = pd.DataFrame(localisation.summarise(pd.concat(parts, ignore_index=True), settings))
    for column, value in index.items():
        rows = rows[rows[column] == value]
    return rows


def heart(rows, encoder="ctfm", method="ours", reference=""):
    rows = rows[(rows.group == "label:heart") & (rows.encoder == encoder) & (rows.method == method)]
    return rows[rows.reference == reference].set_index("metric")


def test_one_query_by_hand():
    rows = summarised(table([1, 2, 3, 10, np.nan]))
    ours, theirs = heart(rows), heart(rows, method="published definition")
    assert ours.estimate["centroid_distance_cm"] == theirs.estimate["centroid_distance_cm"] == 4
    assert theirs.estimate["centroid_distance_cm_sd"] == pytest.approx(np.sqrt(12.5))  # ddof 0
    assert theirs[["low", "high"]].isna().all(axis=None)
    assert (ours.n == 4).all() and (theirs.n == 4).all()
    assert [ours.estimate[f"centroid_distance_cm_{q}"] for q in ("q25", "median", "q75")] == [1.75, 2.5, 4.75]
    assert [ours.estimate[f"within_{k}cm"] for k in (5, 6, 8, 10)] == [0.75, 0.75, 0.75, 1.0]
    assert ours.low["centroid_distance_cm"] < 4 < ours.high["centroid_distance_cm"]
    assert "one query scan, q1" in ours.note["centroid_distance_cm"]


def test_several_queries_are_averaged_in_a_target_but_not_as_published():
    values = np.array([[1.0, 3.0], [5.0, 9.0], [2.0, np.nan]])
    rows = summarised(table(values, queries=("q1", "q2")))
    ours, theirs = heart(rows), heart(rows, method="published definition")
    assert ours.estimate["centroid_distance_cm"] == pytest.approx(np.mean([2, 7, 2]))
    assert ours.n["centroid_distance_cm"] == 3
    pairs = [1, 3, 5, 9, 2]
    assert theirs.estimate["centroid_distance_cm"] == pytest.approx(np.mean(pairs))
    assert theirs.estimate["centroid_distance_cm_sd"] == pytest.approx(np.std(pairs))
    assert "means of 2 query scans: 2.67 to 6" in ours.note["centroid_distance_cm"]
    assert ours.estimate["within_5cm"] == pytest.approx(np.mean([1, 0.5, 1]))


def test_encoders_are_compared_on_the_same_targets():
    rng = np.random.default_rng(0)
    a, b = rng.gamma(2, 2, 40), rng.gamma(2, 6, 40)
    a[3], b[5] = np.nan, np.nan
    b[7] = a[7]
    rows = summarised(table(a), table(b, encoder="suprem"))
    pair = heart(rows, reference="suprem")
    both = np.isfinite(a) & np.isfinite(b)
    assert pair.estimate["centroid_distance_cm"] == pytest.approx((a - b)[both].mean())
    assert pair.p_value["centroid_distance_cm"] == pytest.approx(
        stats.wilcoxon((a - b)[both], zero_method="pratt", method="approx").pvalue, abs=1e-3
    )
    assert pair.estimate["closer"] == pytest.approx((a < b)[both].mean()) and pair.n["closer"] == 38
    assert "1 ties" in pair.note["closer"] and pair.low["closer"] <= pair.estimate["closer"] <= pair.high["closer"]
    assert heart(rows, encoder="suprem", reference="suprem").empty


def test_quantiles_have_the_interval_of_scipys_bootstrap():
    values = np.random.default_rng(1).gamma(1, 5, 80)
    row = heart(summarised(table(values), settings=Evaluate(bootstrap=4000))).loc["centroid_distance_cm_median"]
    theirs = stats.bootstrap((values,), np.median, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert row.estimate == np.median(values)
    assert (row.low, row.high) == pytest.approx((theirs.low, theirs.high), rel=0.05)


def test_bounds_are_not_compared_and_inside_published_is_no_measure_of_ours():
    parts = [
        table(values, encoder=encoder, metric=metric)
        for encoder in ("ctfm", "random")
        for metric, values in (
            ("centroid_distance_cm", [1, 2, 3]),
            ("inside", [1, 0, 0]),
            ("inside_published", [1, 1, 0]),
            ("centroid_distance_floor_cm", [0.5, 0.5, 1]),
            ("centroid_distance_chance_cm", [9, 9, 9]),
        )
    ]
    rows = summarised(*parts)
    assert set(rows[rows.metric.str.contains("floor|chance")].reference) == {""}
    assert set(rows[rows.metric == "inside_published"].method) == {"published definition"}
    assert rows[rows.metric == "inside_published"].note.str.contains("no valid test").all()
    assert heart(rows).estimate["inside"] == pytest.approx(1 / 3)


def test_organs_stand_alone_in_groups_and_together():
    rows = summarised(table([1, 3]), table([7, 9], label="aorta"), method="ours", metric="centroid_distance_cm")
    found = rows.set_index("group").estimate.to_dict()
    assert found == {"label:heart": 2, "label:aorta": 8, "cardiac": 5, "all": 5}


def test_targets_that_were_not_searched_or_show_nothing_are_no_cases():
    failed = table([np.nan], label="", metric="failed").assign(case_id="bad")
    absent = table([np.nan], label="liver").assign(case_id="t9", note="the target does not show it")
    rows = summarised(table([1, 2]), failed, absent)
    assert set(rows.n) == {2} and "label:liver" not in set(rows.group)
    assert localisation.summarise(pd.concat([failed, absent]), FEW) == []


def test_the_papers_values_stand_beside_as_many_targets_of_the_same_data_alone():
    values = np.random.default_rng(0).gamma(1, 5, 469)
    same = summarised(table(values, dataset="totalsegmentator_thorax"))
    assert heart(same).paper["centroid_distance_cm"] == 5.61
    assert heart(same, method="published definition").paper["centroid_distance_cm_sd"] == 5.44
    quoted = same[same.method == "quoted"].set_index(["encoder", "metric"]).estimate
    assert quoted["suprem", "centroid_distance_cm_sd"] == 7.06 and quoted["suprem", "inside_published"] == 0.819
    assert not same.duplicated(["encoder", "reference", "group", "metric", "method"]).any()
    fewer = summarised(table(values[:400], dataset="totalsegmentator_thorax"))
    assert fewer.paper.isna().all() and "quoted" not in set(fewer.method)


def test_rows_fit_the_table_and_seeds_have_their_columns(tmp_path):
    rows = summarised(*(table([1, 2, 3 + s], seed=s) for s in range(3)))
    tables.write(tables.of("summary", rows.to_dict("records")), "summary", tmp_path / "x.parquet")
    row = heart(rows).loc["centroid_distance_cm"]
    assert row.seeds == 3 and row.seed_estimates == [2, pytest.approx(7 / 3), pytest.approx(8 / 3)]
