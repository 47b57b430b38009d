from __future__ import annotations

import builtins
import sys
import time
from types import SimpleNamespace

import pytest

from ctfm.errors import UserError
from ctfm.training import trackers


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_what_a_killed_start_wrote_beyond_its_checkpoint_is_hidden(tmp_path):
    (first,) = trackers.started(tmp_path, "f", 0)
    for step in (2, 4, 6):
        first.log({"loss": float(step), "lr": 0.5}, step)
    time.sleep(1.1)  # files are ordered by the second they were begun in
    (second,) = trackers.started(tmp_path, "f", 4)
    second.log({"loss": 60.0}, 6)
    first.close()
    second.close()
    assert scalars(tmp_path) == {"loss": [(2, 2.0), (4, 4.0), (6, 60.0)], "lr": [(2, 0.5), (4, 0.5)]}


def test_nothing_is_written_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("CTFM_MACHINE", '{"tensorboard": false}')
    assert trackers.started(tmp_path, "f", 0) == [] and not list(tmp_path.iterdir())


def test_wandb_gets_one_run_for_all_starts(tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(log=lambda values, step: calls.append((values, step)), finish=lambda: calls.append("end"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **k: calls.append(k) or run))
    monkeypatch.setenv("CTFM_MACHINE", '{"tensorboard": false, "wandb_project": "ct"}')
    (tracker,) = trackers.started(tmp_path / "ctfm", "f00", 4)
    tracker.log({"loss": 1.0}, 5)
    tracker.close()
    start, *rest = calls
    assert (start["project"], start["id"], start["resume"]) == ("ct", "ctfm-f00", "allow")
    assert rest == [({"loss": 1.0}, 5), "end"]


def test_wandb_that_is_not_installed_is_told(tmp_path, monkeypatch):
    known = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "wandb":
            raise ImportError(name)
        return known(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setenv("CTFM_MACHINE", '{"wandb_project": "ct"}')
    with pytest.raises(UserError, match="pip install wandb"):
        trackers.started(tmp_path, "f", 0)
