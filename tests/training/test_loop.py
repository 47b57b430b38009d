from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys

import pytest
import torch

from ctfm.errors import UserError
from ctfm.training import checkpoints, loop
from ctfm.training.meter import TIMED
from tests.conftest import ROOT
from tests.training.toys import ACCUMULATE, PER_EPOCH, STEPS, Toy, loader

KILLED = """
import os, signal
from pathlib import Path
from tests.training.test_loop import run
def at(item, batch):
    if item == 17:
        os.kill(os.getpid(), signal.SIGKILL)
run(Path({folder!r}), at)
"""


def run(folder, at=lambda item, batch: None, **changes):
    module = Toy()
    plan = {
        "steps": STEPS,
        "steps_per_epoch": PER_EPOCH,
        "folder": folder,
        "fingerprint": "a",
        "checkpoint_every": 2,
        "accumulate": ACCUMULATE,
    }
    return module, loop.fit(module, loader(at), **{**plan, **changes})


def rows(folder):
    with (folder / "metrics.csv").open() as stream:
        return [{k: v for k, v in row.items() if k not in TIMED} for row in csv.DictReader(stream)]


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    module, facts = run(folder)
    return folder, module, facts


def test_a_run_writes_its_checkpoints_rows_and_facts(straight):
    folder, module, facts = straight
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoints", "metrics.csv", "tensorboard"]
    kept = sorted(p.name for p in (folder / "checkpoints").iterdir())
    assert kept == ["epoch=0001.ckpt", "epoch=0002.ckpt", "last.ckpt"]
    assert [(row["epoch"], row["step"]) for row in rows(folder)] == [("0", "4"), ("1", "8"), ("2", "12")]
    assert (facts["steps"], facts["samples"], facts["resumed_from"]) == (STEPS, STEPS * ACCUMULATE, [])
    assert facts["gpu_hours"] == 0 or torch.cuda.is_available()
    state = checkpoints.read(folder / "checkpoints/last.ckpt")["state_dict"]
    assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())


def test_the_loop_does_what_a_plain_loop_does(straight):
    from ctfm.training import seeds

    module = Toy()
    made = module.configure_optimizers()
    module.__dict__["_step"] = 0
    type(module).global_step, old = property(lambda self: self._step), type(module).global_step
    try:
        batches = loader()(0)
        for step in range(STEPS):
            for part in range(ACCUMULATE):
                torch.manual_seed(seeds.number("a", step, part, 0))
                (module.training_step(next(batches), part)["loss"] / ACCUMULATE).backward()
            made["optimizer"].step()
            made["optimizer"].zero_grad()
            made["lr_scheduler"]["scheduler"].step()
            module.__dict__["_step"] += 1
    finally:
        type(module).global_step = old
    assert equal(module, straight[1])


def test_sigterm_saves_at_the_step_and_resuming_is_exact(straight, tmp_path, caplog):
    caplog.set_level("INFO")
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, lambda item, batch: os.kill(os.getpid(), signal.SIGTERM) if item == 10 else None)
    assert stopped.value.code == 143
    step = checkpoints.progress(tmp_path / "checkpoints/last.ckpt").step
    assert step in (5, 6)  # batches are read one ahead
    module, facts = run(tmp_path)
    assert f"resuming at step {step} of 12 from last.ckpt" in caplog.text
    assert equal(module, straight[1]) and rows(tmp_path) == rows(straight[0]) and facts["resumed_from"] == [step]


def test_sigkill_loses_the_epoch_alone_and_resuming_is_exact(straight, tmp_path):
    code = KILLED.format(folder=str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, env={**os.environ})
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-2000:]
    assert [row["step"] for row in rows(tmp_path)] == ["4", "8"]
    module, facts = run(tmp_path)
    assert facts["resumed_from"] == [8]
    assert equal(module, straight[1]) and rows(tmp_path) == rows(straight[0])


def test_a_finished_run_returns_at_once(straight, caplog):
    caplog.set_level("INFO")
    folder, module, facts = straight
    (folder / "metrics.csv").unlink()

    def never(item, batch):
        raise AssertionError("it trains")

    again, told = run(folder, never)
    assert equal(again, module) and told == facts and len(rows(folder)) == 3
    assert "finished before: step 12 of 12" in caplog.text


def test_a_damaged_last_checkpoint_falls_back(straight, tmp_path, caplog):
    run(tmp_path, steps=8)
    last = tmp_path / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:300])
    module, facts = run(tmp_path)
    assert "last.ckpt: not a readable checkpoint" in caplog.text and facts["resumed_from"] == [8]
    assert facts["steps"] == STEPS and equal(module, straight[1])


def test_other_settings_start_anew_and_keep_the_old_checkpoints(tmp_path):
    run(tmp_path, steps=4)
    _, facts = run(tmp_path, steps=4, fingerprint="b")
    assert facts["resumed_from"] == [] and facts["steps"] == 4
    assert checkpoints.progress(tmp_path / "checkpoints-a/last.ckpt").fingerprint == "a"
    assert checkpoints.progress(tmp_path / "checkpoints/last.ckpt").fingerprint == "b"


def test_a_loss_that_is_not_finite_names_the_batch_and_spoils_nothing(tmp_path):
    def poison(item, batch):
        if item == 11:
            batch["x"][0] = float("nan")

    with pytest.raises(UserError, match="not finite at step 5 with case11"):
        run(tmp_path, poison)
    state = checkpoints.read(tmp_path / "checkpoints/last.ckpt")
    assert state["ctfm"]["step"] == 4 and all(t.isfinite().all() for t in state["state_dict"].values())


def test_a_loader_that_ends_early_is_a_fault(tmp_path):
    with pytest.raises(RuntimeError, match="ended at step 2 of 12"):
        module = Toy()
        batches = [batch for batch, _ in zip(loader()(0), range(4), strict=False)]
        loop.fit(
            module,
            lambda first: iter(batches),
            steps=STEPS,
            steps_per_epoch=PER_EPOCH,
            folder=tmp_path,
            fingerprint="a",
            checkpoint_every=None,
            accumulate=ACCUMULATE,
        )


def test_precision_follows_the_machine(monkeypatch):
    monkeypatch.setenv("CTFM_MACHINE", '{"precision": "bf16-mixed"}')
    assert loop.precision() == "bf16-mixed"
    monkeypatch.delenv("CTFM_MACHINE")
    if not torch.cuda.is_available():
        assert (loop.precision(), loop.devices(), loop.rank()) == ("32-true", 1, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_trains_on_a_gpu(tmp_path):
    _, facts = run(tmp_path)
    assert facts["steps"] == STEPS and facts["gpu_hours"] >= 0


@pytest.mark.parametrize(("seen", "one"), [("2,3", "2"), ("", ""), (None, "0")])
def test_one_device_is_the_first_that_is_visible(monkeypatch, seen, one):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9" if seen is None else seen)
    if seen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    loop.use_one_device()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == one


def test_a_context_computes_in_the_machines_precision(monkeypatch):
    for name, kind in {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}.items():
        monkeypatch.setenv("CTFM_MACHINE", f'{{"precision": "{name}"}}')
        with loop.autocast(torch.device("cpu")):
            assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == kind
