from __future__ import annotations

import csv
import json
import os
import signal

import pytest
import torch

from ctfm import provenance, spec
from ctfm.config import Pretrain
from ctfm.errors import UserError
from ctfm.stages import pretrain as stage
from ctfm.training import checkpoints
from ctfm.training.meter import TIMED
from tests.training import corpora

ENTRY = {
    "corpus": "c",
    "encoder_options": {"init_filters": 4, "blocks_down": [1, 1, 1, 1, 1]},
    "epochs": 3,
    "steps_per_epoch": 2,
    "global_batch": 2,
    "crops_per_scan": 3,
    "patch": [16, 32, 32],
    "learning_rate": 1e-3,
    "warmup_epochs": 0.5,
    "checkpoint_every": 2,
}


def job(**changes) -> str:
    cfg = spec.check({"corpora": {"c": {}}, "pretrain": {"mine": {**ENTRY, **changes}}})
    return json.dumps(spec.spec(cfg, "pretrain", encoder="mine"))


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return corpora.write(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="module")
def straight(index, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    stage.pretrain(job(), volumes=index, out=out)
    return out


@pytest.fixture(autouse=True)
def no_workers(monkeypatch):
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0}')


def state(out):
    return checkpoints.read(out / "checkpoints/last.ckpt")["state_dict"]


def rows(out):
    with (out / "metrics.csv").open() as stream:
        return [{k: v for k, v in row.items() if k not in TIMED} for row in csv.DictReader(stream)]


def same(one, other) -> bool:
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def test_it_writes_checkpoints_metrics_and_what_was_run(straight):
    run = json.loads((straight / "run.json").read_text())
    assert sorted(p.name for p in straight.iterdir()) == ["checkpoints", "metrics.csv", "run.json", "tensorboard"]
    kept = sorted(p.name for p in (straight / "checkpoints").iterdir())
    assert kept == ["epoch=0001.ckpt", "epoch=0002.ckpt", "last.ckpt"]
    assert (run["steps"], run["samples"], run["data"]["scans"]) == (6, 12, 3)
    assert run["spec"]["pretrain"]["patch"] == [16, 32, 32] and run["data"]["spacing_mm"] == [3.0, 1.0, 1.0]
    assert {"ctfm.ssl.simclr", "ctfm.encoders.segresnet", "ctfm.training.loop"} <= set(run["code"])
    assert provenance.changes(run["code"]) == []
    assert {"gpu_hours", "seconds", "hardware", "resumed_from", "fingerprint"} <= set(run)
    table = rows(straight)
    assert [row["step"] for row in table] == ["2", "4", "6"]
    assert {"loss", "lr", "embedding_std", "effective_rank"} <= set(table[0])
    assert all(float(row["loss"]) > 0 and float(row["lr"]) > 0 for row in table)
    assert {key.split(".")[0] for key in state(straight)} == {"encoder", "method"}


def test_stopped_and_started_again_it_ends_at_the_same_weights(straight, index, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    step = stage.Pretraining.training_step

    def stopped(self, batch, batch_idx):
        if self.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(stage.Pretraining, "training_step", stopped)
    with pytest.raises(SystemExit) as ended:
        stage.pretrain(job(), volumes=index, out=tmp_path)
    assert ended.value.code == 143 and not (tmp_path / "run.json").exists()
    monkeypatch.setattr(stage.Pretraining, "training_step", step)
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 2}')
    stage.pretrain(job(), volumes=index, out=tmp_path)
    assert "resuming at step 4 of 6 from last.ckpt" in caplog.text
    assert same(state(tmp_path), state(straight)) and rows(tmp_path) == rows(straight)
    assert json.loads((tmp_path / "run.json").read_text())["resumed_from"] == [4]


def test_a_finished_run_returns_at_once(straight, index, monkeypatch):
    before = (straight / "checkpoints/last.ckpt").stat().st_mtime_ns
    monkeypatch.setattr(stage.Pretraining, "training_step", None)
    stage.pretrain(job(), volumes=index, out=straight)
    assert (straight / "checkpoints/last.ckpt").stat().st_mtime_ns == before


def test_other_data_or_settings_start_anew(straight, index, tmp_path):
    stage.pretrain(job(epochs=1), volumes=index, out=tmp_path)
    first = json.loads((tmp_path / "run.json").read_text())["fingerprint"]
    stage.pretrain(job(epochs=1, seed=1), volumes=index, out=tmp_path)
    assert (tmp_path / f"checkpoints-{first}/last.ckpt").is_file()
    assert not torch.equal(state(tmp_path)["encoder.conv_init.weight"], state(straight)["encoder.conv_init.weight"])


def test_views_do_not_depend_on_how_scans_are_batched():
    settings = Pretrain(**{**ENTRY, "augment": {"flip_p": [0.5, 0.5, 0.5], "affine_p": 1, "smooth_p": 0.5}})
    module = stage.Pretraining(settings, (3.0, 1.0, 1.0))
    crops = torch.randint(-1024, 500, (2, 3, 16, 32, 32), dtype=torch.int16)
    whole = module.views({"crops": crops, "items": [8, 9]})
    assert whole.shape == (2, 3, 2, 1, 16, 32, 32) and whole.min() >= 0 and whole.max() <= 1
    for i, item in enumerate([8, 9]):
        part = module.views({"crops": crops[i : i + 1], "items": [item]})
        assert torch.allclose(part[0], whole[i], atol=1e-6)
    assert not torch.allclose(whole[:, :, 0], whole[:, :, 1])
    assert not torch.allclose(module.views({"crops": crops, "items": [10, 11]}), whole)


def test_views_of_a_crop_show_that_crop():
    settings = Pretrain(**{**ENTRY, "augment": {"resized_crop": [1, 1]}})
    module = stage.Pretraining(settings, (3.0, 1.0, 1.0))
    crops = torch.randint(-1024, 500, (2, 3, 16, 32, 32), dtype=torch.int16)
    views = module.views({"crops": crops, "items": [0, 1]})
    assert torch.allclose(views[1, 2, 0, 0] * 3072 - 1024, crops[1, 2].float(), atol=1e-2)
    assert torch.equal(views[:, :, 0], views[:, :, 1])


def test_small_batches_on_a_small_device_do_the_same_steps(index, tmp_path, monkeypatch):
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0, "micro_batch": 1}')
    stage.pretrain(job(epochs=1), volumes=index, out=tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["steps"], run["samples"]) == (2, 4)


def test_a_loss_that_is_not_finite_names_the_series(index, tmp_path, monkeypatch):
    views = stage.Pretraining.views
    monkeypatch.setattr(stage.Pretraining, "views", lambda self, batch: views(self, batch) * float("nan"))
    with pytest.raises(UserError, match=r"not finite at step 0 with 1\.\d, 1\.\d"):
        stage.pretrain(job(), volumes=index, out=tmp_path)


def test_a_device_that_is_too_small_is_told_the_remedy(index, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stage.loop, "fit", full)
    with pytest.raises(UserError, match=r"lower machine\.micro_batch"):
        stage.pretrain(job(), volumes=index, out=tmp_path)
