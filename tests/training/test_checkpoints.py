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


class Trainer:
    is_global_zero = True

    def __init__(self, step: int) -> None:
        self.step = step

    def save_checkpoint(self, path):
        put(path, self.step)


def test_a_copy_replaces_what_was_there_and_shares_no_bytes(tmp_path):
    old, last = put(tmp_path / "epoch=0001.ckpt", 1), put(tmp_path / "last.ckpt", 2)
    checkpoints.copy(last, old)
    assert checkpoints.progress(old).step == 2
    checkpoints.save(Trainer(3), tmp_path)
    assert (checkpoints.progress(last).step, checkpoints.progress(old).step) == (3, 2)


def test_when_the_last_is_damaged_the_newest_of_the_others_is_taken(tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    put(folder / checkpoints.name(0), 4)
    for step in (7, 9):
        checkpoints.save(Trainer(step), folder)
    last, previous = folder / checkpoints.LAST, folder / checkpoints.PREVIOUS
    assert checkpoints.newest(folder, "a") == last and checkpoints.progress(previous).step == 7
    last.write_bytes(last.read_bytes()[:100])
    assert checkpoints.newest(folder, "a") == previous and "last.ckpt: not a readable checkpoint" in caplog.text
    put(folder / checkpoints.name(1), 8)
    assert checkpoints.newest(folder, "a") == folder / checkpoints.name(1)
    last.unlink()  # killed between two renames
    assert checkpoints.newest(folder, "a") == folder / checkpoints.name(1)
    assert sorted(p.name for p in folder.iterdir()) == ["epoch=0000.ckpt", "epoch=0001.ckpt", "previous.ckpt"]


def test_of_a_run_only_its_own_undamaged_ones_are_taken(tmp_path, caplog):
    for epoch in (2, 10):
        put(tmp_path / checkpoints.name(epoch), epoch)
    put(tmp_path / checkpoints.name(3), 3, "b")
    (tmp_path / checkpoints.name(4)).write_bytes(b"torn")
    flipped = put(tmp_path / checkpoints.name(5), 5)
    weight = torch.full((3,), 5.0).numpy().tobytes()
    content = flipped.read_bytes()
    assert content.count(weight) == 1
    flipped.write_bytes(content.replace(weight, b"\x01" + weight[1:]))
    assert checkpoints.read(flipped)["state_dict"]["w"][0] != 5  # read without complaint
    assert [p.name for p in checkpoints.of_run(tmp_path, "a")] == ["epoch=0002.ckpt", "epoch=0010.ckpt"]
    assert "epoch=0004.ckpt: not a readable" in caplog.text and "epoch=0005.ckpt: damaged" in caplog.text
    assert "epoch=0003" not in caplog.text
    with pytest.raises(UserError, match="no checkpoint of this run"):
        checkpoints.of_run(tmp_path, "c")
