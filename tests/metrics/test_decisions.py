"""The summary of a yes-or-no task, from its table alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from ctfm import schemas, tables
from ctfm.config import Evaluate
from ctfm.metrics import classify, decisions

SETTINGS = Evaluate(bootstrap=200)


def table(encoders=("ctfm", "random"), seeds=(0, 1), threshold=0.4, n=40, dataset="heads", shots="all"):
    """Return made-up rows of ``metrics`` and {(encoder, seed): probabilities}, with the target."""
    target = np.arange(n) % 2
    rows, said = [], {}
    for place, encoder in enumerate(encoders):
        for seed in seeds:
            rng = np.random.default_rng([place, seed])
            p = said[encoder, seed] = np.clip(rng.normal(0.35 + (0.3 - 0.1 * place) * target, 0.2), 0, 1)
            for i in rng.permutation(n):  # the order of the rows must not matter
                values = {"probability": p[i], "target": target[i], "threshold": threshold}
                case = {"case_id": f"c{i:03d}", "patient": f"c{i:03d}", "encoder": encoder, "seed": seed}
                rows += [{**case, "metric": metric, "value": float(value)} for metric, value in values.items()]
    fixed = {"task": "triage", "dataset": dataset, "shots": shots, "split_hash": "x", "label": "abnormal"}
    return tables.of("metrics", rows).assign(**fixed, group="all", note=""), said, target


def indexed(rows):
    return pd.DataFrame(rows).set_index(["encoder", "reference", "metric", "method"]).sort_index()


def test_rows_fit_the_table_and_say_what_scikit_learn_says():
    made, said, target = table()
    rows = decisions.summarise(made, SETTINGS)
    assert set(tables.of("summary", rows).columns) == set(schemas.SCHEMAS["summary"].names)
    found = indexed(rows)
    auc = found.loc["ctfm", "", "auc", "ours"]
    by_seed = [roc_auc_score(target, said["ctfm", seed]) for seed in (0, 1)]
    assert auc.seed_estimates == pytest.approx(by_seed) and auc.estimate == pytest.approx(np.mean(by_seed))
    assert (auc.n, auc.seeds, auc.group, auc.shots) == (40, 2, "all", "all")
    for threshold, method in ((0.4, "ours"), (0.5, "published definition")):
        scores = [f1_score(target, said["ctfm", seed] >= threshold) for seed in (0, 1)]
        assert found.loc["ctfm", "", "f1", method].estimate == pytest.approx(np.mean(scores))
    wald = classify.wald(found.loc["random", "", "f1", "published definition"].estimate, 40)
    assert found.loc["random", "", "f1", "published definition"].low == pytest.approx(wald.low)
    assert "at 0.4, 0.4, chosen on validation cases" in found.loc["ctfm", "", "f1", "ours"].note


def test_differences_are_paired_and_adjusted():
    made, said, target = table()
    found = indexed(decisions.summarise(made, SETTINGS))
    pair = found.loc["ctfm", "random", "auc", "ours"]
    stacked = [np.stack([said[name, seed] for seed in (0, 1)]) for name in ("ctfm", "random")]
    interval, p_value = classify.auc_difference(target, *stacked)
    assert (pair.estimate, pair.low, pair.high, pair.p_value) == pytest.approx((*interval[:3], p_value))
    assert pair.p_holm == pytest.approx(p_value) and len(pair.seed_estimates) == 2
    rate = found.loc["ctfm", "random", "f1", "ours"]
    assert rate.low <= rate.estimate <= rate.high and np.isnan(rate.p_value)
    assert ("random", "ctfm") not in {key[:2] for key in found.index}


def test_seeds_that_only_one_encoder_has_are_left_out_of_the_difference():
    made, said, target = table()
    made = made[(made.encoder != "random") | (made.seed == 1)]
    found = indexed(decisions.summarise(made, SETTINGS))
    expected = roc_auc_score(target, said["ctfm", 1]) - roc_auc_score(target, said["random", 1])
    assert found.loc["ctfm", "random", "auc", "ours"].estimate == pytest.approx(expected)


def test_without_validation_cases_the_threshold_is_a_half_and_said_to_be():
    made, said, target = table(threshold=np.nan, seeds=(0,))
    found = indexed(decisions.summarise(made, SETTINGS)).loc["ctfm", "", "f1", "ours"]
    assert found.estimate == pytest.approx(f1_score(target, said["ctfm", 0] >= 0.5))
    assert found.note.startswith("at 0.5; no validation cases")
    without = decisions.summarise(made[made.metric != "threshold"], SETTINGS)
    assert indexed(without).loc["ctfm", "", "f1", "ours"].estimate == found.estimate


def test_cases_of_one_class_give_no_auc_and_no_error():
    made, _, _ = table(seeds=(0,))
    made.loc[made.metric == "target", "value"] = 1.0
    found = indexed(decisions.summarise(made, SETTINGS))
    assert np.isnan(found.loc["ctfm", "", "auc", "ours"].estimate)
    assert found.loc["ctfm", "", "sensitivity", "ours"].estimate > 0


def test_published_values_stand_beside_the_same_data_only():
    same = indexed(decisions.summarise(table(dataset="cq500", n=489, seeds=(0,))[0], SETTINGS))
    assert same.loc["ctfm", "", "auc", "ours"].paper == 0.794
    assert same.loc["suprem", "", "f1", "quoted"].paper == 0.745
    other = pd.DataFrame(decisions.summarise(table(dataset="cq500", n=40, seeds=(0,))[0], SETTINGS))
    assert other.paper.isna().all() and "not comparable" in other.note.iloc[0]
