from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from ctfm.errors import UserError
from ctfm.training import checkpoints
from ctfm.training.checkpoints import Progress


def put(path: Path, step: int, fingerprint: str = "a") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = Progress(fingerprint, step).stored()
    torch.save({"state_dict": {"w": torch.full((3,), float(step))}, checkpoints.KEY: stored}, path)
    return path


def test_the_last_one_comes_first_then_the_epochs_backwards(tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    assert checkpoints.newest(folder, "a") is None
    for epoch in (1, 9, 10):
        put(folder / checkpoints.name(epoch), epoch)
    assert checkpoints.newest(folder, "a") == folder / "epoch=0010.ckpt"
    last = put(folder / "last.ckpt", 11)
    assert checkpoints.newest(folder, "a") == last and checkpoints.progress(last).step == 11
    last.write_bytes(b"")
    (folder / "epoch=0010.ckpt").write_bytes(b"nonsense")
    assert checkpoints.newest(folder, "a") == folder / "epoch=0009.ckpt"
    assert "last.ckpt: not a readable checkpoint" in caplog.text and "epoch=0010.ckpt" in caplog.text
    assert [path.name for path in checkpoints.every(folder)][-1] == "epoch=0010.ckpt"


def test_another_run_is_moved_aside_each_time(tmp_path):
    folder = tmp_path / "checkpoints"
    for name in ("checkpoints-a", "checkpoints-a-2"):
        put(folder / "last.ckpt", 4)
        assert checkpoints.newest(folder, "b") is None and not folder.exists()
        assert (tmp_path / name / "last.ckpt").is_file()
    folder.mkdir()
    (folder / "last.ckpt").write_bytes(b"nonsense")
    assert checkpoints.newest(folder, "b") is None and (tmp_path / "checkpoints-unreadable").is_dir()


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("kind", ["missing", "cut", "foreign", "pickled"])
def test_bad_files_are_named(tmp_path, kind, capsys):
    path = put(tmp_path / "x.ckpt", 1)
    if kind == "missing":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "foreign":
        torch.save({"state_dict": {}}, path)
    else:
        torch.save({"state_dict": {}, checkpoints.KEY: Evil()}, path, pickle_module=pickle)
    with pytest.raises(UserError, match=r"x\.ckpt: not a readable checkpoint"):
        checkpoints.read(path)
    assert "run" not in capsys.readouterr().out


def test_a_copy_replaces_what_was_there_and_shares_no_bytes(tmp_path):
    old, new = put(tmp_path / "epoch=0001.ckpt", 1), put(tmp_path / "last.ckpt", 2)
    checkpoints.copy(new, old)
    assert checkpoints.progress(old).step == 2

    class Trainer:
        is_global_zero = True

        def save_checkpoint(self, path):
            put(path, 3)

    checkpoints.save(Trainer(), new)
    assert (checkpoints.progress(new).step, checkpoints.progress(old).step) == (3, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch=0001.ckpt", "last.ckpt"]


def test_only_readable_checkpoints_of_the_run_count(tmp_path, caplog):
    for epoch, mark in ((1, "a"), (2, "b"), (3, "a"), (4, "a")):
        put(tmp_path / checkpoints.name(epoch), epoch, mark)
    (tmp_path / "epoch=0003.ckpt").write_bytes(b"nonsense")
    found = checkpoints.of_run(tmp_path, "a")
    assert [path.name for path in found] == ["epoch=0001.ckpt", "epoch=0004.ckpt"]
    assert "left out" in caplog.text
    with pytest.raises(UserError, match="no checkpoint of this run"):
        checkpoints.of_run(tmp_path, "c")


def test_the_encoder_is_what_has_its_prefix():
    state = {"encoder.a.encoder.w": torch.ones(1), "method.encoder.b": torch.ones(2)}
    assert list(checkpoints.encoder({"state_dict": state})) == ["a.encoder.w"]
