from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from ctfm import tables
from ctfm.embedding import table
from ctfm.embedding.probing import probe_linear
from ctfm.errors import UserError

COMMON = {"encoder": "tiny", "model": "abc", "code": "0", "sha256": "00"}


def write(folder, cases=120, patches=0, seed=0):
    """Write embeddings that tell ``easy`` well and ``noise`` not at all, and labels; return both paths."""
    random = np.random.default_rng(seed)
    easy, noise = random.integers(0, 2, (2, cases))
    rows = []
    for i in range(cases):
        vectors = random.normal(0, 1, (1 + patches, 8)).astype(np.float32)
        vectors[:, 0] += 3 * easy[i]
        own = {"case": f"s{i:03d}", "label": "", **COMMON, **dict.fromkeys(table.BOX, 0.0)}
        rows += [{**own, "patch": k - 1, "embedding": vector} for k, vector in enumerate(vectors)]
    tables.write(tables.of("embeddings", rows), "embeddings", folder / "emb.parquet")
    labels = {"case_id": [f"s{i:03d}.nii.gz" for i in range(cases)], "easy": easy, "noise": noise}
    labels["rare"] = [1, 1, *[0] * (cases - 2)]
    labels["site"] = np.where(easy == 1, np.resize(["b", "c"], cases), "a")
    pd.DataFrame(labels).to_csv(folder / "labels.csv", index=False)
    return folder / "emb.parquet", folder / "labels.csv"


def test_metrics_and_predictions_agree_with_scikit_learn(tmp_path):
    embeddings, labels = write(tmp_path)
    probe_linear([embeddings], labels=labels, out=tmp_path / "out", resamples=200)
    found = pd.read_csv(tmp_path / "out/metrics.csv").set_index(["probe", "disease_name"])
    assert set(found.index) == {(p, d) for p in ("linear", "knn") for d in ("easy", "noise", "rare", "site")}
    told = pd.read_csv(tmp_path / "out/linear_predictions.csv")
    columns = ["filename", "label", "prediction", "logit_class_0", "logit_class_1", "prob_class_0", "prob_class_1"]
    assert list(told)[:7] == columns and {"disease_name", "fold"} <= set(told)
    easy = told[told.disease_name == "easy"]
    assert len(easy) == 120 and set(easy.fold) == set(range(5))
    row = found.loc["linear", "easy"]
    for name, measure in {"auroc": roc_auc_score, "ap": average_precision_score}.items():
        each = [measure(part.label, part.prob_class_1) for _, part in easy.groupby("fold")]
        assert row[name] == pytest.approx(np.mean(each))
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    assert row["balanced_acc"] == pytest.approx(balanced_accuracy_score(easy.label, easy.prediction))
    assert row["balanced_acc"] == pytest.approx((row["sensitivity"] + row["specificity"]) / 2)
    assert row["auroc"] > 0.85 and found.loc[("linear", "noise"), "auroc_low"] < 0.5
    assert found.loc[("linear", "noise"), "auroc_high"] < 0.75
    rare, site = found.loc["linear", "rare"], found.loc["linear", "site"]
    assert np.isnan(rare["auroc"]) and rare["n"] == 0  # two patients are fewer than five folds
    assert site["classes"] == "0 = a; 1 = b; 2 = c" and site["auroc"] > 0.6 and np.isnan(site["sensitivity"])
    assert set(told[told.disease_name == "site"].label) == {0, 1, 2} and "prob_class_2" in told


def test_a_given_split_is_predicted_alone(tmp_path):
    embeddings, labels = write(tmp_path)
    given = pd.read_csv(labels)
    given["split"] = np.resize(["train", "train", "val", "test"], len(given))
    given.to_csv(labels, index=False)
    probe_linear([embeddings], labels=labels, out=tmp_path, target=["easy"], probe=["linear"], resamples=200)
    told = pd.read_csv(tmp_path / "linear_predictions.csv")
    assert (
        set(told.filename) == {f"s{i:03d}" for i in range(3, 120, 4)}
        and not (tmp_path / "knn_predictions.csv").exists()
    )
    assert pd.read_csv(tmp_path / "metrics.csv").auroc[0] == pytest.approx(roc_auc_score(told.label, told.prob_class_1))


def test_patches_allow_the_attentive_probe(tmp_path):
    embeddings, labels = write(tmp_path, cases=60, patches=4)
    probe_linear([embeddings], labels=labels, out=tmp_path, target=["easy"], folds=2, resamples=200)
    found = pd.read_csv(tmp_path / "metrics.csv").set_index("probe")
    assert set(found.index) == {"linear", "knn", "attentive"} and found.auroc["attentive"] > 0.85


def test_what_does_not_fit_is_told(tmp_path):
    embeddings, labels = write(tmp_path, cases=12)
    with pytest.raises(UserError, match="no probe 'linar'; did you mean 'linear'"):
        probe_linear([embeddings], labels=labels, out=tmp_path, probe=["linar"])
    with pytest.raises(UserError, match="the embeddings have no patches; embed with --patches"):
        probe_linear([embeddings], labels=labels, out=tmp_path, probe=["attentive"])
    with pytest.raises(UserError, match="one row of the whole scan for each case"):
        probe_linear([embeddings, embeddings], labels=labels, out=tmp_path)
