"""Grouping, units and directions of the summary; the stage's test goes through the files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ctfm.config import Evaluate
from ctfm.metrics import intervals, multiplicity, summary
from tests import synthetic


def test_direction_is_known_from_the_name():
    assert summary.lower_is_better("hd95_mm")
    assert summary.lower_is_better("false_positive_ml")
    assert not summary.lower_is_better("dice")
    assert not summary.lower_is_better("surface_dice_3mm")


def test_distances_win_when_smaller():
    a, b = synthetic.metrics("ctfm"), synthetic.metrics("random")
    table = pd.concat([a, b]).assign(metric="hd95_mm")
    rows = pd.DataFrame(summary.summarise(table, Evaluate(bootstrap=100)))
    wins = rows[(rows.metric == "hd95_mm_win_rate") & (rows.group == "all")]
    assert wins.estimate.tolist() == [0.0]
    assert set(rows.method) == {"ours"}


def test_pooled_metrics_of_the_group_all_have_one_row():
    part = synthetic.metrics("ctfm").assign(metric="micro_dice", label="all", group="all")
    rows = summary.summarise(part.drop_duplicates("case_id"), Evaluate(bootstrap=100))
    assert [row["group"] for row in rows] == ["all"]


def test_a_metric_without_any_value_has_no_row():
    part = synthetic.metrics("ctfm").assign(value=np.nan)
    assert summary.summarise(part, Evaluate(bootstrap=100)) == []


def test_each_number_of_shots_has_its_own_difference():
    table = pd.concat([synthetic.metrics(e, s) for e in ("ctfm", "random") for s in ("5", "all")])
    rows = pd.DataFrame(summary.summarise(table, Evaluate(bootstrap=100)))
    pairs = rows[(rows.reference == "random") & (rows.group == "all") & (rows.metric == "dice")].set_index("shots")
    for shots in ("5", "all"):
        own = rows[(rows.reference == "") & (rows.group == "all") & (rows.shots == shots) & (rows.method == "ours")]
        difference = own.set_index("encoder").estimate
        assert pairs.loc[shots].estimate == pytest.approx(difference["ctfm"] - difference["random"])


def test_numbers_of_training_cases_are_sorted_as_numbers():
    mixed = ["all", "100", "0.01", "5", "0.5", "10", "0.005"]
    assert sorted(mixed, key=summary.by_size) == ["5", "10", "100", "0.005", "0.01", "0.5", "all"]


def summarised(*parts, **settings):
    return pd.DataFrame(summary.summarise(pd.concat(parts), Evaluate(bootstrap=200, **settings)))


def test_every_pair_of_encoder_and_reference_is_compared_once():
    rows = summarised(*(synthetic.metrics(e) for e in ("ctfm", "random", "suprem")))
    pairs = rows[(rows.group == "all") & (rows.reference != "")][["encoder", "reference"]].drop_duplicates()
    assert set(pairs.itertuples(index=False, name=None)) == {
        ("ctfm", "random"),
        ("ctfm", "suprem"),
        ("suprem", "random"),
    }
    assert (summarised(synthetic.metrics("ctfm"), synthetic.metrics("random"), references=()).reference == "").all()


def test_holm_is_over_each_level_of_a_metric():
    rows = summarised(*(synthetic.metrics(e, s) for e in ("ctfm", "random", "suprem") for s in ("5", "all")))
    tested = rows[rows.p_value.notna()]
    assert set(tested.metric) == {"dice"}
    for level, size in (("all", 6), ("groups", 18), ("label:", 30)):
        family = tested[tested.group.map(summary._level) == level]
        assert len(family) == size
        np.testing.assert_allclose(family.p_holm, multiplicity.holm(family.p_value))
        assert family.note.str.endswith(f"p_holm over {size} tests").all()
    assert rows[rows.p_value.isna()].p_holm.isna().all()


def test_seeds_are_paired_and_kept_apart_from_the_interval_over_patients():
    parts = [synthetic.metrics(e, seed=s) for e in ("ctfm", "random") for s in (0, 1, 2)]
    rows = summarised(*parts)
    rows = rows[(rows.group == "all") & (rows.method == "ours") & (rows.metric == "dice")]
    macro = {
        name: [p.groupby("label").value.mean().mean() for p in parts if p.encoder.iloc[0] == name]
        for name in ("ctfm", "random")
    }
    single = rows[rows.reference == ""].set_index("encoder")
    for name, values in macro.items():
        np.testing.assert_allclose(single.loc[name].seed_estimates, values)
    (pair,) = rows[rows.reference == "random"].itertuples()
    by_seed = np.subtract(macro["ctfm"], macro["random"])
    np.testing.assert_allclose(pair.seed_estimates, by_seed)
    assert (pair.seed_low, pair.seed_high) == pytest.approx(intervals.over_seeds(by_seed, 0.95)[1:3])
    assert pair.estimate == pytest.approx(by_seed.mean())
    other = summarised(synthetic.metrics("ctfm", seed=0), synthetic.metrics("random", seed=9))
    assert other[(other.reference == "random") & (other.group == "all")].seed_estimates.iloc[0] == []


def test_the_method_of_the_intervals_is_a_setting():
    parts = [synthetic.metrics("ctfm")]
    low = {m: summarised(*parts, interval=m).query("group == 'all' and method == 'ours'").low.item() for m in METHODS}
    assert low["bca"] != low["percentile"]
    values = parts[0].pivot(index="patient", columns="label", values="value").to_numpy()
    for method in METHODS:
        plan = intervals.Plan(200, method=method)
        assert low[method] == pytest.approx(intervals.bootstrap(values, {"all": range(5)}, plan)["all"].low)


METHODS = ("bca", "percentile")


def test_rivals_are_quoted_only_beside_the_same_data():
    parts = [synthetic.metrics(e, dataset="totalsegmentator", patients=248) for e in ("ctfm", "random")]
    rows = summarised(*parts)
    quoted = rows[(rows.method == "quoted") & (rows.group == "all")].set_index(["encoder", "reference", "metric"])
    assert quoted.loc["vista3d", "", "dice"].estimate == 0.893
    assert np.isnan(quoted.loc["vista3d", "", "dice"].low)
    assert "not rerun" in quoted.loc["vista3d", "", "dice"].note
    assert quoted.loc["ctfm", "", "dice"].high == 0.9004
    other = quoted.loc["nnunet_totalsegmentator", "", "dice"]
    assert other.dataset == "totalsegmentator_official"
    assert "other test split" in other.note
    assert not (summarised(synthetic.metrics("ctfm")).method == "quoted").any()
    merlin = summarised(synthetic.metrics("ctfm", dataset="totalsegmentator_merlin", patients=34))
    assert set(merlin[merlin.method == "quoted"].encoder) == {"ctfm", "random", "merlin"}


def test_all_encoders_alike_are_a_tie():
    a = synthetic.metrics("ctfm")
    rows = summarised(a, a.assign(encoder="random"))
    pair = rows[(rows.reference == "random") & (rows.group == "all") & (rows.metric == "dice")].iloc[0]
    assert (pair.estimate, pair.low, pair.high, pair.p_value, pair.p_holm) == (0, 0, 0, 1, 1)


def test_one_patient_has_an_estimate_and_no_interval_nor_test():
    rows = summarised(synthetic.metrics("ctfm", patients=1), synthetic.metrics("random", patients=1))
    assert rows.estimate.notna().all()
    ours = rows[rows.method == "ours"]
    assert ours[["low", "high", "p_value", "p_holm"]].isna().all(axis=None)


def test_ties_are_counted_among_labels_that_have_values():
    """By hand: of five labels one is in no scan, and one is equal."""
    ours, theirs = synthetic.metrics("ctfm"), synthetic.metrics("random")
    for rows in (ours, theirs):
        rows.loc[rows.label == "heart", "value"] = np.nan
        rows.loc[rows.label == "liver", "value"] = 0.5
    rows = summarised(ours, theirs)
    (row,) = rows[(rows.metric == "dice_win_rate") & (rows.group == "all")].itertuples()
    assert row.note.startswith("1 ties among 4 labels")


def test_missed_tumours_are_told_in_our_rows_and_in_published_ones(tmp_path):
    table = pd.concat([synthetic._tumour_rows("t", e, "msd_task06_lung", 13) for e in ("ctfm", "random")])
    rows = pd.DataFrame(summary.summarise(table, Evaluate(bootstrap=100)))
    rows = rows[(rows.encoder == "random") & (rows.reference == "") & (rows.group == "tumour")].set_index(
        ["metric", "method"]
    )
    for method in ("ours", "published definition"):
        asd, dice = rows.loc[("asd", method)], rows.loc[("dice", method)]
        assert "missed in 1 of 12 values, which are left out of the mean" in asd.note and asd.n == 11
        assert "missed in 1 of 12 values" in dice.note and "left out" not in dice.note and dice.n == 12
        assert asd.paper == 62.1 and dice.paper == 0.532
    assert "percentile bootstrap over cases" in rows.loc[("asd", "published definition")].note
    values = table[(table.encoder == "random") & (table.metric == "asd")].value
    assert rows.loc[("asd", "published definition")].estimate == pytest.approx(values.mean())
    quoted = pd.DataFrame(summary.summarise(table, Evaluate(bootstrap=100))).query("method == 'quoted'")
    assert set(quoted.metric) == {"dice", "asd"} and len(quoted) == 4
