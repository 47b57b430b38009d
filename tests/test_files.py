"""Files are whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest

from ctfm import files
from ctfm.errors import UserError


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), files.atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_atomic_replaces_and_keeps_the_suffix(tmp_path):
    with files.atomic(tmp_path / "deep" / "a.parquet") as temporary:
        assert temporary.suffix == ".parquet" and temporary.parent.name == "deep"
        temporary.write_text("new")
    assert (tmp_path / "deep" / "a.parquet").read_text() == "new"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
def test_a_full_disk_is_told_with_its_folder(tmp_path, number):
    message = f"{tmp_path}: {os.strerror(number)}; free some, then start again"
    with pytest.raises(UserError, match=message), files.atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise OSError(number, "whatever")
    assert list(tmp_path.iterdir()) == []


def test_other_faults_of_a_disk_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError), files.no_shortage(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path):
    for name in (".a.123.tmp.parquet", ".b.9.tmp", "a.parquet", ".hidden", "tmp.txt"):
        (tmp_path / name).write_text("x")
    files.remove_temporaries(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "a.parquet", "tmp.txt"]


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match=r"x/y: can't create"):
        files.ensure_folder(tmp_path / "x" / "y")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="not writable"):
        files.ensure_folder(tmp_path)


def test_json_round_trip_and_faults(tmp_path):
    files.write_json({"b": 1, "a": [1.5]}, tmp_path / "x.json")
    assert files.read_json(tmp_path / "x.json") == {"a": [1.5], "b": 1}
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        files.read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="no such file"):
        files.read_json(tmp_path / "y.json")


def test_digests_do_not_depend_on_key_order(tmp_path):
    assert files.digest({"a": 1, "b": 2}) == files.digest({"b": 2, "a": 1}) != files.digest({"a": 1, "b": 3})
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
