from __future__ import annotations

import math

import pytest

from ctfm.training import keeper
from ctfm.training.checkpoints import progress
from tests.training.test_loop import rows, run


def test_validation_runs_in_evaluation_mode_and_the_best_is_kept(tmp_path):
    values, modes = iter([0.2, math.nan, 0.7, 0.5]), []

    def validate(module):
        modes.append((module.training, module.net[2].training, module.net[0].weight.requires_grad))
        return {"dice": next(values)}

    module, facts = run(tmp_path, steps=16, validate=validate, best="dice")
    assert modes == [(False, False, True)] * 4 and module.training
    assert progress(tmp_path / "checkpoints/best.ckpt").step == 12
    assert (facts["best"]["epoch"], facts["best"]["dice"]) == (2, 0.7)
    assert [row["dice"] for row in rows(tmp_path)] == ["0.2", "nan", "0.7", "0.5"]


def test_validation_changes_nothing_and_frozen_layers_stay_in_their_mode(tmp_path):
    plain, _ = run(tmp_path / "plain")
    watched, _ = run(tmp_path / "watched", validate=lambda m: {"v": m.net(m.net[0].weight).sum()}, validate_every=2)
    for one, other in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert one.equal(other)
    assert [row["v"] != "" for row in rows(tmp_path / "watched")] == [False, True, True]


def test_a_row_holds_the_means_of_its_epoch(tmp_path):
    import torch

    from tests.training.toys import loader

    run(tmp_path, steps=4, checkpoint_every=None)
    batches = loader()(0)
    spread = [float(next(batches)["x"].std()) for _ in range(8)]
    (row,) = rows(tmp_path)
    assert float(row["spread"]) == pytest.approx(sum(spread) / 8, rel=1e-6)
    assert float(row["lr"]) == pytest.approx(1e-2 * 1.0) and not torch.tensor(float(row["loss"])).isnan()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["last.ckpt"]


def test_progress_is_told_in_lines(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(keeper, "LINE_EVERY_SECONDS", 0.0)
    caplog.set_level("INFO")
    run(tmp_path, steps=4)
    assert "epoch 1 of 1, step 3 of 4: loss" in caplog.text and "samples/s" in caplog.text
