from __future__ import annotations

import functools
import math
import os
import signal

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from ctfm.errors import UserError
from ctfm.training import checkpoints, keeper, loop
from ctfm.training.checkpoints import progress
from tests.training.test_loop import equal, rows, run
from tests.training.toys import ACCUMULATE, Toy, loader


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


def plain_step(clip=None):
    """Do the first step by hand; return its losses, its gradient's norm, and the module after it."""
    module, batches = Toy(), loader()(0)
    made = module.configure_optimizers()
    type(module).global_step, old = property(lambda self: 0), type(module).global_step
    losses = []
    try:
        for part in range(ACCUMULATE):
            torch.manual_seed(keeper.seeds.number("a", 0, part, 0))
            loss = module.training_step(next(batches), part)["loss"]
            (loss / ACCUMULATE).backward()
            losses.append(float(loss.detach()))
    finally:
        type(module).global_step = old
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters()))
    for p in module.parameters():
        p.grad *= min(1.0, clip / norm) if clip else 1.0
    made["optimizer"].step()
    return losses, norm, module


def test_a_row_holds_the_means_of_its_epoch(tmp_path):
    run(tmp_path, steps=4, checkpoint_every=None)
    batches = loader()(0)
    spread = [float(next(batches)["x"].std()) for _ in range(8)]
    (row,) = rows(tmp_path)
    assert float(row["spread"]) == pytest.approx(sum(spread) / 8, rel=1e-6)
    assert float(row["lr"]) == pytest.approx(1e-2 * 1.0) and row["skipped"] == "0"
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["last.ckpt"]


def test_loss_and_gradient_of_a_divided_step_are_those_of_the_whole(tmp_path):
    run(tmp_path, steps=1, steps_per_epoch=1)
    losses, norm, _ = plain_step()
    (row,) = rows(tmp_path)
    assert float(row["loss"]) == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert float(row["grad_norm"]) == pytest.approx(norm, rel=1e-6)


def test_the_gradient_is_clipped_and_its_norm_told_from_before(tmp_path):
    _, norm, plain = plain_step(clip=0.01)
    module, _ = run(tmp_path, steps=1, steps_per_epoch=1, clip_norm=0.01)
    assert norm > 0.02 and float(rows(tmp_path)[0]["grad_norm"]) == pytest.approx(norm, rel=1e-6)
    for one, other in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


class Steep(Toy):
    """Has a finite loss whose gradient is not."""

    def training_step(self, batch, batch_idx):
        out = super().training_step(batch, batch_idx)
        edge = 0.0 if batch["names"] == ["case5"] else 1.0
        return {**out, "loss": out["loss"] + (self.net[0].weight.flatten()[0] * 0 + edge).sqrt()}


def test_a_gradient_that_is_not_finite_names_the_scans_of_its_step(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.training.test_loop.Toy", Steep)
    with pytest.raises(UserError, match="the gradient is not finite at step 2 with case4, case5"):
        run(tmp_path, steps_per_epoch=2)
    state = checkpoints.read(tmp_path / "checkpoints/last.ckpt")
    assert state["ctfm"]["step"] == 2 and all(t.isfinite().all() for t in state["state_dict"].values())


def test_scans_that_are_missing_are_counted_and_weigh_nothing(tmp_path, caplog):
    def lose(item, batch):
        if item in (3, 5):
            batch["skipped"] = {f"bad{item}": "torn"}

    class Weighed(Toy):
        def training_step(self, batch, batch_idx):
            out = super().training_step(batch, batch_idx)
            weight = 1 / (1 + len(batch.get("skipped", {})))
            return {"loss": out["loss"] * weight, "weight": weight, "one": torch.ones(())}

    module = Weighed()
    facts = loop.fit(
        module,
        loader(lose),
        steps=4,
        steps_per_epoch=2,
        folder=tmp_path,
        fingerprint="a",
        checkpoint_every=None,
        accumulate=ACCUMULATE,
    )
    assert facts["skipped"] == {"bad3": "torn", "bad5": "torn"} and facts["samples"] == 8
    assert [(row["skipped"], float(row["one"])) for row in rows(tmp_path)] == [("1", 1.0), ("1", 1.0)]
    assert "bad3 contributes nothing: torn" in caplog.text


def test_a_step_without_any_scan_stops_the_run(tmp_path):
    def lose(item, batch):
        if item in (6, 7):
            batch.update(names=[], skipped={f"bad{item}": "torn"})

    with pytest.raises(UserError, match="no scan of step 4 can be read: bad6: torn; bad7: torn"):
        run(tmp_path, lose)


def test_a_warning_is_given_once_an_epoch(tmp_path, caplog):
    run(tmp_path, steps=8, watch=lambda row: f"odd at {row['step']}" if row["step"] > 4 else None)
    assert [r.message for r in caplog.records if "odd" in r.message] == ["epoch 2: odd at 8"]


def test_long_epochs_are_saved_within_and_a_kill_loses_little(tmp_path, monkeypatch):
    whole, _ = run(tmp_path / "whole", steps_per_epoch=12)
    monkeypatch.setattr(keeper, "SAVE_EVERY_SECONDS", 0.0)
    pid = os.fork()
    if pid == 0:  # the child is killed in the middle of its only epoch
        run(tmp_path / "cut", lambda item, _: item == 17 and os.kill(os.getpid(), signal.SIGKILL), steps_per_epoch=12)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert progress(tmp_path / "cut/checkpoints/last.ckpt").step == 8
    assert progress(tmp_path / "cut/checkpoints/previous.ckpt").step == 7
    module, facts = run(tmp_path / "cut", steps_per_epoch=12)
    assert facts["resumed_from"] == [8] and equal(module, whole)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert not (tmp_path / "cut/checkpoints/previous.ckpt").exists()


@pytest.fixture
def half(monkeypatch):
    """Train in half precision with a scaler that starts so high that it must go down."""

    def trainer(**options):
        options.pop("precision")
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22, growth_interval=3)
        options["plugins"] = [*options["plugins"], MixedPrecision("16-mixed", "cpu", scaler)]
        return known(**options)

    known = lightning.Trainer
    monkeypatch.setattr(loop.lightning, "Trainer", functools.partial(trainer))


def test_a_scaler_may_overflow_and_is_resumed(tmp_path, half):
    whole, _ = run(tmp_path / "whole", steps=24, steps_per_epoch=12)
    with pytest.raises(SystemExit):
        run(
            tmp_path / "cut",
            lambda item, _: item == 33 and os.kill(os.getpid(), signal.SIGTERM),
            steps=24,
            steps_per_epoch=12,
        )
    stored = checkpoints.read(tmp_path / "cut/checkpoints/last.ckpt")
    assert 0 < stored["MixedPrecision"]["scale"] < 2.0**22
    module, facts = run(tmp_path / "cut", steps=24, steps_per_epoch=12)
    assert facts["resumed_from"] and equal(module, whole) and rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert not equal(module, Toy())


def test_a_scaler_that_never_finds_a_scale_stops(tmp_path, half, monkeypatch):
    monkeypatch.setattr(keeper, "MOST_OVERFLOWS", 2)
    with pytest.raises(UserError, match="gradient is not finite at step 2"):
        run(tmp_path)


def test_progress_is_told_in_lines(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(keeper, "LINE_EVERY_SECONDS", 0.0)
    caplog.set_level("INFO")
    run(tmp_path, steps=4)
    assert "to go, until 2" in caplog.text
    assert "epoch 1 of 1, step 3 of 4: loss" in caplog.text and "samples/s" in caplog.text
