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
    wanted = {"loss", "lr", "alignment", "uniformity", "embedding_std", "effective_rank", "grad_norm", "skipped"}
    assert wanted <= set(table[0])
    assert run["skipped"] == {} and {row["skipped"] for row in table} == {"0"}
    assert all(float(row["grad_norm"]) > 0 for row in table)
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
    still = {"resized_crop": [1, 1], "histogram_p": 0, "affine_p": 0, "intensity_p": 0}
    settings = Pretrain(**{**ENTRY, "augment": still})
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


def test_a_store_with_broken_volumes_is_trained_on_what_is_left(tmp_path, monkeypatch, caplog):
    index = corpora.write(tmp_path / "volumes", count=5)
    paths = {uid: tmp_path / f"volumes/shard=00000/{uid}.b2nd" for uid in ("1.1", "1.3")}
    paths["1.1"].unlink()
    content = bytearray(paths["1.3"].read_bytes())
    content[2000:9000] = bytes(7000)  # found when it is first read
    paths["1.3"].write_bytes(content)
    for folder, machine in (("one", {"loader_workers": 0}), ("two", {"loader_workers": 2})):
        monkeypatch.setenv("CTFM_MACHINE", json.dumps(machine))
        stage.pretrain(job(epochs=2, steps_per_epoch=3), volumes=index, out=tmp_path / folder)
    run = json.loads((tmp_path / "one/run.json").read_text())
    assert "1.1.b2nd is missing" in run["skipped"]["1.1"] and "not those that the index lists" in run["skipped"]["1.3"]
    assert sorted(run["skipped"]) == ["1.1", "1.3"] and str(tmp_path) not in json.dumps(run["skipped"])
    assert "1.1 is left out: 1.1.b2nd is missing" in caplog.text and "1.3 contributes nothing" in caplog.text
    lost = sum(int(row["skipped"]) for row in rows(tmp_path / "one"))
    assert lost > 0 and run["samples"] == 12 - lost
    assert same(state(tmp_path / "one"), state(tmp_path / "two"))


def test_a_missing_scan_adds_nothing_and_changes_no_other(index):
    settings = Pretrain(**{**ENTRY, "global_batch": 3})
    crops = torch.randint(-1024, 500, (2, 3, 16, 32, 32), dtype=torch.int16)
    module = stage.Pretraining(settings, (3.0, 1.0, 1.0)).eval()  # statistics of BatchNorm would mix the scans
    batch = {"crops": crops, "items": [0, 2], "names": ["a", "c"], "skipped": {}}
    two = module.training_step(batch, 0)
    three = module.training_step({**batch, "skipped": {"b": "torn"}}, 0)
    assert three["weight"] == pytest.approx(2 / 3) and torch.allclose(three["loss"], two["loss"] * 2 / 3)
    assert torch.equal(three["alignment"], two["alignment"])
    none = module.training_step({**batch, "names": [], "skipped": {"a": "", "c": ""}}, 0)
    assert none["weight"] == 0 and none["loss"] == 0 and none["loss"].requires_grad


def test_all_options_reach_the_training(monkeypatch):
    changes = {"decay_all": False, "warmup_start": 0.1, "final_rate": 0.2, "optimizer": "adam", "warmup_epochs": 1}
    made = stage.Pretraining(Pretrain(**{**ENTRY, **changes}), (3.0, 1.0, 1.0)).configure_optimizers()
    assert type(made["optimizer"]) is torch.optim.Adam and len(made["optimizer"].param_groups) == 2
    assert made["optimizer"].param_groups[0]["lr"] == pytest.approx(1e-3 * 0.55)
    assert made["lr_scheduler"]["scheduler"].lr_lambdas[0](6) == pytest.approx(0.2)


def test_memory_order_changes_no_value_and_compiling_no_name(monkeypatch):
    settings = Pretrain(**ENTRY)
    crops = torch.randint(-1024, 500, (2, 3, 16, 32, 32), dtype=torch.int16)
    batch = {"crops": crops, "items": [0, 1], "names": ["a", "b"], "skipped": {}}
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: compiled.append(self))
    losses, names = [], []
    for machine in ({"channels_last": False}, {"channels_last": True}, {"compile": True}):
        monkeypatch.setenv("CTFM_MACHINE", json.dumps(machine))
        module = stage.Pretraining(settings, (3.0, 1.0, 1.0))
        losses.append(float(module.training_step(batch, 0)["loss"].detach()))
        names.append(list(module.state_dict()))
        last = module.encoder.conv_init.weight.is_contiguous(memory_format=torch.channels_last_3d)
        assert last is machine.get("channels_last", True) or module.encoder.conv_init.weight.shape[1] == 1
        deep = module.encoder.layers[1].blocks[0].conv1.weight
        assert deep.is_contiguous(memory_format=torch.channels_last_3d) is machine.get("channels_last", True)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[2] == losses[1]
    assert names[0] == names[1] == names[2] and compiled == [module.encoder]


def test_a_compiled_encoder_keeps_the_names_of_its_tensors():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    before = list(module.state_dict())
    module.compile(backend="eager")
    assert torch.isfinite(module(torch.ones(1, 2))).all() and list(module.state_dict()) == before


def test_scans_that_are_compared_are_computed_at_once(index, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0, "micro_batch": 1}')
    cross = job(epochs=1, method_options={"sampling": "cross"})
    with pytest.raises(UserError, match=r"micro_batch computes 1 at a time"):
        stage.pretrain(cross, volumes=index, out=tmp_path)
    stage.pretrain(job(epochs=1, steps_per_epoch=1), volumes=index, out=tmp_path)
    assert "BatchNorm sees 1 scans at once" in caplog.text


def test_the_recipes_are_the_paper_s_and_the_published_one(root):
    from ctfm import plugins

    paper = spec.load(root / "config/config.yaml").pretrain["ctfm"]
    published = spec.load(root / "config/config.yaml", root / "config/published.yaml").pretrain["ctfm"]
    for recipe, patch, symmetric in ((paper, (24, 128, 128), True), (published, (32, 128, 128), False)):
        assert recipe.patch == patch and recipe.crops_per_scan == 20 and recipe.global_batch == 16
        assert (recipe.epochs, recipe.steps_per_epoch, recipe.warmup_epochs) == (500, 500, 10)
        assert (recipe.learning_rate, recipe.weight_decay, recipe.optimizer) == (1e-4, 1e-6, "adamw")
        assert recipe.method_options.get("symmetric", True) is symmetric
        plugin = plugins.get("encoders", recipe.encoder)
        with torch.device("meta"):
            encoder = plugin.build(plugin.Settings(**recipe.encoder_options))
        assert sum(p.numel() for p in encoder.parameters()) == 77_760_992 and len(encoder.state_dict()) == 161


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
