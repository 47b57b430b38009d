"""What is said of the panels of semantic search alone."""

from __future__ import annotations

import numpy as np
import pytest

from ctfm import tables
from ctfm.figures._results import Results
from ctfm.stages import import_published
from tests import synthetic
from tests.contracts.test_figures import drawn, texts
from tests.test_published_distances import write


def panel(figure, letter):
    (axes,) = (a for a in figure.axes if a.get_title(loc="left").startswith(f"$\\bf{{{letter}}}$"))
    return axes


def test_planes_and_distances_are_those_of_the_tables(tmp_path):
    root = synthetic.search(tmp_path, ("suprem", "random", "ctfm"))
    figure, rows, _ = drawn("fig6", root, tmp_path / "x")
    assert set(rows.panel) == {"b", "c"}
    metrics = Results(root).metrics
    shown = rows[rows.panel == "b"]
    assert shown.encoder.tolist() == ["ctfm", "suprem", "random"] * 2 and set(shown.case_id) == {"t1"}
    for row in shown.itertuples():
        own = metrics[(metrics.encoder == row.encoder) & (metrics.label == row.label) & (metrics.case_id == "t1")]
        own = own[(own.metric == "centroid_distance_cm") & (own.note == "query q1")]
        assert [row.estimate] == own.value.tolist()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert any(f"ctfm: {shown.estimate.iloc[0]:.1f} cm" in title for title in titles)
    axes = panel(figure, "c")
    names = [label.get_text().split("\n") for label in axes.get_xticklabels()]
    assert [name[:2] for name in names] == [["ctfm", "n = 8"], ["suprem", "n = 8"], ["random", "n = 8"]]
    assert "heart" in axes.get_title(loc="left")
    heart = metrics[(metrics.label == "heart") & (metrics.metric == "centroid_distance_cm")]
    own = heart[heart.encoder == "ctfm"].groupby("patient").value.mean().dropna()
    drawn_rows = rows[(rows.panel == "c") & (rows.encoder == "ctfm") & (rows.group == "label:heart")]
    value = drawn_rows.set_index(["metric", "method"]).estimate
    assert value["centroid_distance_cm", "ours"] == pytest.approx(own.mean())
    assert value["centroid_distance_cm_median", "ours"] == pytest.approx(own.median())
    pairs = heart[heart.encoder == "ctfm"].value.dropna()
    assert value["centroid_distance_cm_sd", "published definition"] == pytest.approx(pairs.std(ddof=0))
    assert names[0][2] == f"SD of pairs {pairs.std(ddof=0):.2f}"
    lines = [set(line.get_ydata()) for line in axes.lines]
    medians = [line.pop() for line in lines if len(line) == 1]
    assert any(np.isclose(medians, own.median()))
    assert set(rows[rows.group.isin(["organs", "cardiac", "all"])].metric) == {"centroid_distance_cm"}


def test_published_tables_alone_draw_the_distances(tmp_path):
    rng = np.random.default_rng(0)
    for model, size in (("ct_fm", 5), ("suprem", 20)):
        write(tmp_path / "in", model, rng.gamma(2, size / 2, 469), [True] * 469)
    import_published.import_published(folder=tmp_path / "in", out=tmp_path / "out")
    figure, rows, _ = drawn("fig6", tmp_path / "out", tmp_path / "x")
    assert set(rows.panel) == {"c"} and rows.paper.max() == 23.44
    axes = panel(figure, "c")
    assert [label.get_text().split("\n")[:2] for label in axes.get_xticklabels()] == [
        ["ctfm", "n = 469"],
        ["suprem", "n = 469"],
    ]
    stars = [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "*"]
    assert stars == [5.61, 23.44]
    assert "a run makes them" in texts(figure)
    few = tmp_path / "few"
    write(few / "in", "ct_fm", [1.0, 2.0, 3.0])
    import_published.import_published(folder=few / "in", out=few / "out")
    figure, rows, _ = drawn("fig6", few / "out", tmp_path / "y")
    assert rows.paper.isna().all() and not [line for line in panel(figure, "c").lines if line.get_marker() == "*"]


def test_without_the_heart_all_organs_are_drawn_together(tmp_path):
    figure, rows, _ = drawn("fig6", synthetic.search(tmp_path, labels=("liver", "spleen")), tmp_path / "x")
    assert "all organs" in panel(figure, "c").get_title(loc="left")
    assert "label:heart" not in set(rows.group)


def test_an_encoder_that_could_not_be_searched_is_told(tmp_path):
    root = synthetic.search(tmp_path)
    path = root / "slices/organ_search/suprem/all-0.parquet"
    tables.write(tables.of("slices", []), "slices", path)
    figure, rows, _ = drawn("fig6", root, tmp_path / "x")
    assert "suprem: not searched" in texts(figure)
    assert set(rows[rows.panel == "b"].encoder) == {"ctfm"}


def test_other_panels_say_what_is_missing(tmp_path):
    figure, _, _ = drawn("fig6", synthetic.search(tmp_path), tmp_path / "x")
    assert "No task of the kind 'cluster'" in texts(figure)
    figure, rows, _ = drawn("fig6", synthetic.frozen(tmp_path / "frozen"), tmp_path / "y")
    assert set(rows.panel) == {"a"} and "No task of the kind 'search'" in texts(figure)
