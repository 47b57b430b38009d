"""What is said of the figures of the corpus and of the pre-training alone."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from ctfm import tables
from ctfm.figures import ed8
from ctfm.ssl._batches import batches
from ctfm.ssl.simclr import ntxent
from tests import synthetic
from tests.contracts.test_figures import drawn, texts


def corpus(root, name, series=(900, 500, 148392)):
    steps = [
        {"step": f"step {n}", "series": many, "studies": many // 2, "patients": many // 3}
        for n, many in enumerate(series)
    ]
    folder = root / "select" / name
    tables.write(tables.of("funnel", steps), "funnel", folder / "funnel.parquet")
    kept = [
        {"collection_id": f"c{n:02d}", "series": 10 + n, "paper_series": 11 + n if n else None, "license": "CC0"}
        for n in range(30)
    ]
    tables.write(tables.of("collections", kept), "collections", folder / "collections.parquet")
    return root


def test_the_funnel_tells_what_each_step_drops(tmp_path):
    figure, rows, _ = drawn("s2", corpus(tmp_path, "mine", (900, 500, 500)), tmp_path / "x")
    steps = rows[rows.panel == "a"]
    assert steps.dropped.tolist() == [0, 400, 0]
    assert "step 0:  900 series, 450 studies, 300 patients" in texts(figure)
    assert texts(figure).count("−") == 1 and "− 400 series" in texts(figure)
    assert "the paper" not in texts(figure)
    collections = rows[rows.panel == "b"]
    assert len(collections) == 30 and collections.series.is_monotonic_decreasing
    assert collections.paper.isna().sum() == 1


def test_the_papers_totals_stand_under_its_own_corpus(tmp_path):
    corpus(tmp_path, "idc_148k")
    corpus(tmp_path, "a_first")
    figure, rows, _ = drawn("s2", tmp_path, tmp_path / "x")
    assert "the paper: 148,000 series, 81,148 studies, 32,643 patients" in texts(figure)
    assert rows[rows.step == "the paper"].corpus.tolist() == ["idc_148k"]
    assert set(rows.panel) == {"a", "b", "c", "d"}


def test_the_preparation_goes_on_where_the_selection_ends(tmp_path):
    corpus(tmp_path, "mine", (9, 8))
    whole = [{"step": f"step {n}", "series": 9 - n, "studies": 1, "patients": 1} for n in range(4)]
    tables.write(tables.of("funnel", whole), "funnel", tmp_path / "volumes/mine/funnel.parquet")
    _, rows, _ = drawn("s2", tmp_path, tmp_path / "x")
    assert rows[rows.panel == "a"].series.tolist() == [9, 8, 7, 6]


@pytest.mark.parametrize("sampling", ["intra", "cross"])
def test_the_drawing_of_pairs_is_what_the_loss_compares(sampling):
    """Moving a view changes the gradient of another exactly where the drawing says that the two are compared."""
    views = torch.randn(ed8.SCANS, ed8.CROPS, ed8.VIEWS, 7, dtype=torch.float64)

    def gradient(moved: int | None) -> torch.Tensor:
        flat = views.flatten(0, 2).clone()
        if moved is not None:
            flat[moved] += 1
        flat.requires_grad_()
        loss = ntxent(batches(flat.unflatten(0, views.shape[:3]), sampling), 1.0, True)
        return torch.autograd.grad(loss, flat)[0]

    still = gradient(None)
    changed = np.stack([((gradient(n) - still).abs() > 1e-12).any(dim=1).numpy() for n in range(len(still))])
    pairs = ed8.pairs(within=sampling == "intra")
    assert (changed | np.eye(len(still), dtype=bool) == (pairs != ed8.NOT_COMPARED)).all()
    assert ((pairs == ed8.POSITIVE).sum(axis=1) == 1).all()
    partner = np.argmax(pairs == ed8.POSITIVE, axis=1)
    assert (partner == np.arange(len(still)) ^ 1).all()  # the other view of the crop


def test_runs_are_named_by_their_objective_where_their_record_is_there(tmp_path):
    synthetic.training(tmp_path)
    history = pd.DataFrame({"epoch": [0, 1], "alignment": [0.3, 0.2], "uniformity": [-1.0, -2.0]})
    for name in ("ctfm", "simclr_cross"):
        (tmp_path / "encoders" / name).mkdir(parents=True, exist_ok=True)
        history.to_csv(tmp_path / "encoders" / name / "metrics.csv", index=False)
    record = {"spec": {"pretrain": {"method": "simclr", "method_options": {"sampling": "intra"}}}}
    (tmp_path / "encoders/ctfm/run.json").write_text(json.dumps(record))
    figure, rows, _ = drawn("ed8", tmp_path, tmp_path / "x")
    assert dict(zip(rows.encoder, rows.objective, strict=True)) == {"ctfm": "simclr, intra", "simclr_cross": ""}
    assert rows[(rows.panel == "d") & (rows.encoder == "ctfm")].value.tolist() == [-1, -2]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "ctfm (simclr, intra)" in legend and "simclr_cross" in legend


def test_published_ablations_are_open_stars_beside_runs_of_their_name(tmp_path):
    scores = [
        {"encoder": name, "checkpoint": "c", "epoch": 24, "step": 1, "shots": 54, "seed": seed}
        | {"metric": metric, "value": 0.5 + 0.1 * seed}
        for name in ("simclr_intra", "simclr_intra_5", "mine")
        for seed in (0, 1, 2)
        for metric in ("micro_dice", "macro_dice")
    ]
    tables.write(tables.of("scores", scores), "scores", tmp_path / "probe/x/scores.parquet")
    _, rows, _ = drawn("ed6", tmp_path, tmp_path / "y")
    paper = rows[(rows.panel == "b") & (rows.seed == 0)].set_index("encoder").paper
    assert paper["simclr_intra"] == 0.732 and paper["simclr_intra_5"] == 0.654 and np.isnan(paper["mine"])
    assert rows[rows.panel == "a"].paper.isna().all()
