"""Only what a finished run needs no more is deleted."""

from __future__ import annotations

import json

import pytest

from ctfm.errors import UserError
from ctfm.tidy import tidy


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * 1000)


def left(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def run(root):
    """Write an encoder that has ended, one at work, one that is not chosen yet, and two fine-tunings."""
    for name in ("done", "working", "unchosen"):
        write(root, *(f"encoders/{name}/checkpoints/{c}.ckpt" for c in ("epoch=0001", "epoch=0003", "last")))
    write(
        root,
        *(f"encoders/{name}/{file}" for name in ("done", "unchosen") for file in ("run.json", "model.safetensors")),
    )
    write(root, "adapt/t/done/all-0/run.json", "adapt/t/done/all-0/model/model.safetensors")
    write(root, "adapt/t/done/all-0/checkpoints/last.ckpt", "adapt/t/working/all-0/checkpoints/last.ckpt")
    for name in ("done", "working"):
        write(root, f"probe/{name}/selected.json")
        (root / f"probe/{name}/selected.json").write_text(json.dumps({"checkpoint": "epoch=0003.ckpt"}))


def test_only_finished_runs_lose_checkpoints(tmp_path, capsys):
    run(tmp_path)
    before = left(tmp_path)
    tidy(tmp_path)
    assert left(tmp_path) == before and "2 items" in capsys.readouterr().out
    tidy(tmp_path, delete=True)
    gone = {"encoders/done/checkpoints/epoch=0001.ckpt", "adapt/t/done/all-0/checkpoints/last.ckpt"}
    assert before - left(tmp_path) == gone
    tidy(tmp_path, delete=True)
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 items")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    write(tmp_path, "mine.ckpt")
    with pytest.raises(UserError, match="no folder of a run"):
        tidy(tmp_path, delete=True)
