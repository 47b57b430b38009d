"""What is said of the figures of retrieval and clustering alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ctfm import tables
from ctfm.figures._results import Results
from tests import synthetic
from tests.contracts.test_figures import drawn, texts


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return synthetic.frozen(tmp_path_factory.mktemp("frozen"), ("ctfm", "random", "suprem"))


def test_figure_5_shows_both_definitions_of_every_encoder(results, tmp_path):
    _, rows, _ = drawn("fig5", results, tmp_path / "x")
    assert set(rows.panel) == {"b", "c", "d"} and set(rows.encoder) == {"ctfm", "random", "suprem"}
    organs = rows[rows.panel == "b"]
    assert {"f1_at_3", "f1_at_3_euclidean_published", "hit_rate_at_10"} <= set(organs.metric)
    assert set(rows[rows.panel == "d"].group) == {"lesion_group"}
    assert (rows.low <= rows.estimate).all() and (rows.estimate <= rows.high).all()
    table = Results(results).metrics
    one = table[(table.task == "lesion_retrieval") & (table.encoder == "ctfm") & (table.metric == "precision_at_3")]
    mean = one[one.label == "lesion_flag"].value.mean()
    assert rows[(rows.panel == "c") & (rows.encoder == "ctfm")].estimate.iloc[0] == pytest.approx(mean, abs=1e-4)


def test_the_baselines_stand_beside_the_same_data_alone(results, tmp_path):
    summary = results / "evaluate/lesion_retrieval/summary.parquet"
    table = tables.read("summary", summary)
    quoted = {"task": "lesion_retrieval", "dataset": "mir3d", "encoder": "3d_mir_baseline", "shots": "all"}
    quoted |= {"reference": "", "group": "label:lesion_flag, liver", "method": "quoted", "estimate": 0.7895}
    quoted |= {"metric": "precision_at_3_published_by_cohort", "seed_estimates": [], "paper": 0.7895}
    root = tmp_path / "with"
    tables.write(
        pd.concat([table, tables.of("summary", [quoted])], ignore_index=True),
        "summary",
        root / "evaluate/lesion_retrieval/summary.parquet",
    )
    _, rows, _ = drawn("ed4", root, tmp_path / "x")
    assert set(rows.group) == {f"label:lesion_{a}, {c}" for a in ("flag", "group") for c in ("liver", "lung")}
    assert (rows.encoder == "3d_mir_baseline").sum() == 1
    _, rows, _ = drawn("ed4", results, tmp_path / "y")
    assert "3d_mir_baseline" not in set(rows.encoder)


def test_panels_without_their_task_say_so(results, tmp_path):
    table = tables.read("summary", results / "evaluate/organ_retrieval/summary.parquet")
    tables.write(table, "summary", tmp_path / "evaluate/organ_retrieval/summary.parquet")
    figure, rows, _ = drawn("fig5", tmp_path, tmp_path / "x")
    assert set(rows.panel) == {"b"} and "such as 'mir3d'" in texts(figure)
    figure, _, _ = drawn("fig6", results, tmp_path / "y")
    assert "No task of the kind 'saliency'" in texts(figure)


def test_clusters_are_drawn_for_every_encoder_with_their_numbers(results, tmp_path):
    figure, rows, _ = drawn("ed5", results, tmp_path / "x")
    points = rows[rows.case.notna()]
    assert points.groupby(["encoder", "perplexity"]).size().eq(30).all() and points.encoder.nunique() == 3
    numbers = rows[rows.metric.notna()]
    assert numbers.groupby("encoder").metric.agg(set).map(lambda m: m == {"silhouette", "knn_purity", "nmi"}).all()
    value = numbers[(numbers.encoder == "ctfm") & (numbers.metric == "silhouette")].estimate.iloc[0]
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert f"silhouette {value:.2f}" in titles[0] and titles[3].endswith("ctfm, perplexity 30, n = 30")
    _, rows, _ = drawn("fig6", results, tmp_path / "y")
    assert set(rows.encoder) == {"ctfm"} and set(rows.perplexity.dropna()) == {30.0}
    assert np.isfinite(rows[rows.case.notna()][["x", "y"]]).all(None)
