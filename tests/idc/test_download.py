"""Downloads with the real s5cmd from an S3 server on this machine, and from folders."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

from ctfm.config import Machine
from ctfm.errors import UserError
from ctfm.idc import download, s5cmd

BUCKET = "idc-open-data"
FILES, FILE_BYTES = 5, 100_003


@dataclass
class Cloud:
    """An S3 server with public objects."""

    client: Any
    url: str

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content, ACL="public-read")


@pytest.fixture(scope="module")
def server() -> Iterator[Cloud]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1"
    )
    client.create_bucket(Bucket=BUCKET, ACL="public-read")
    yield Cloud(client, url)
    moto.stop()


@pytest.fixture
def cloud(server: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Return the server holding the series `good-1` and `good-2`, with no waiting between tries."""
    monkeypatch.setattr(download, "BACKOFF_S", 0.0)
    for name in ("good-1", "good-2"):
        for number in range(FILES):
            server.put(f"{name}/{number}.dcm", content(name, number))
    return server


def content(name: str, number: int) -> bytes:
    return np.random.default_rng([number, *name.encode()]).bytes(FILE_BYTES)


def machine(cloud: Cloud, retries: int = 1) -> Machine:
    return Machine(endpoint_url=cloud.url, download_workers=4, download_retries=retries)


def table(
    *names: str, files: int = FILES, size: float | None = FILES * FILE_BYTES / 1e6, url: str = ""
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "SeriesInstanceUID": list(names),
            "series_aws_url": [url or f"s3://{BUCKET}/{name}/*" for name in names],
            "num_instances": files,
            "series_size_MB": size,
        }
    )


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a test see how many series each call of s5cmd was asked for."""
    runs: list[int] = []
    real = s5cmd.run
    monkeypatch.setattr(s5cmd, "run", lambda copies, *rest: (runs.append(len(copies)), real(copies, *rest))[1])
    return runs


def test_whole_series_arrive_byte_for_byte(cloud: Cloud, tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder"
    assert download.fetch(table("good-1", "good-2"), folder, machine(cloud)) == {}
    for name in ("good-1", "good-2"):
        for number in range(FILES):
            assert (folder / name / f"{number}.dcm").read_bytes() == content(name, number)
    assert sorted(p.name for p in folder.iterdir()) == ["good-1", "good-2"]


def test_one_missing_series_costs_only_itself(cloud: Cloud, tmp_path: Path) -> None:
    given_up = download.fetch(table("good-1", "absent"), tmp_path, machine(cloud))
    assert set(given_up) == {"absent"}
    assert given_up["absent"].startswith("download_missing: none of 5 files")
    assert "no object found" in given_up["absent"]
    assert str(tmp_path) not in given_up["absent"]
    assert len(list((tmp_path / "good-1").iterdir())) == FILES
    assert not (tmp_path / "absent").exists()


def test_truncated_object_is_noticed_though_s5cmd_reports_success(cloud: Cloud, tmp_path: Path) -> None:
    for number in range(FILES):
        cloud.put(f"cut/{number}.dcm", content("cut", number)[: FILE_BYTES if number else FILE_BYTES // 2])
    given_up = download.fetch(table("cut", "good-1"), tmp_path, machine(cloud))
    assert given_up == {"cut": "download_incomplete: 450,013 bytes, the index says 500,015"}
    assert not (tmp_path / "cut").exists()


def test_empty_object_is_noticed_when_the_size_is_unknown(cloud: Cloud, tmp_path: Path) -> None:
    for number in range(FILES):
        cloud.put(f"empty/{number}.dcm", b"" if number == 3 else b"x")
    given_up = download.fetch(table("empty", size=None), tmp_path, machine(cloud))
    assert given_up == {"empty": "download_incomplete: 1 of 5 files are empty"}


def test_file_count_must_agree_with_the_index(cloud: Cloud, tmp_path: Path) -> None:
    assert download.fetch(table("good-1", files=6, size=None), tmp_path, machine(cloud)) == {
        "good-1": "download_incomplete: 5 of 6 files"
    }


def test_unknown_size_is_not_held_against_a_series(cloud: Cloud, tmp_path: Path) -> None:
    assert download.fetch(table("good-1", size=None), tmp_path, machine(cloud)) == {}


def test_a_size_is_believed_as_far_as_the_index_rounds() -> None:
    """Bytes by which a size may be off, worked out by hand."""
    exact, rounded, unknown = 26.405988, 26.41, math.nan
    assert download.slack([exact, rounded, 30.0, unknown]) == pytest.approx([0.6, 5000.1, 5000.1, 0.6])
    assert download.slack([30.0, 26.4]) == pytest.approx([50_000.1, 50_000.1])
    assert download.slack([30.0]) == pytest.approx([500_000.1])
    assert download.slack([]) == []


@pytest.mark.parametrize(
    ("size", "whole"), [(0.500015, True), (0.500016, False), (0.50, True), (0.51, False), (0.495, False)]
)
def test_the_weight_must_agree_with_the_index(cloud: Cloud, tmp_path: Path, size: float, whole: bool) -> None:
    """The series weighs 500,015 bytes."""
    rows = pd.concat([table("good-1", size=size), table("good-2", files=6, size=0.12)])
    assert ("good-1" not in download.fetch(rows, tmp_path, machine(cloud))) == whole


def test_forbidden_object_says_so(cloud: Cloud, tmp_path: Path) -> None:
    for number in range(FILES):
        cloud.put(f"closed/{number}.dcm", content("closed", number))
    cloud.client.put_object_acl(Bucket=BUCKET, Key="closed/2.dcm", ACL="private")
    given_up = download.fetch(table("closed"), tmp_path, machine(cloud))
    assert given_up["closed"] == "download_incomplete: 4 of 5 files (Forbidden: Forbidden)"


def test_only_what_is_missing_is_tried_again(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(monkeypatch)
    bring = SimpleNamespace(sleep=lambda s: cloud.put("late/4.dcm", content("late", 4)))
    monkeypatch.setattr(download, "time", bring)
    for number in range(FILES - 1):
        cloud.put(f"late/{number}.dcm", content("late", number))
    assert download.fetch(table("good-1", "late"), tmp_path, machine(cloud, retries=3)) == {}
    assert runs == [2, 1]
    assert (tmp_path / "late" / "4.dcm").read_bytes() == content("late", 4)


def test_tries_are_as_many_as_the_machine_says(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(monkeypatch)
    download.fetch(table("absent"), tmp_path, machine(cloud, retries=2))
    assert runs == [1, 1, 1]


def test_resumes_after_an_interruption(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download.fetch(table("good-1", "good-2"), tmp_path, machine(cloud))
    shutil.move(tmp_path / "good-2", tmp_path / ".good-2.part")
    os.truncate(tmp_path / ".good-2.part" / "0.dcm", 10)
    (tmp_path / ".good-2.part" / "9.dcm.tmp").write_bytes(b"half")
    before = (tmp_path / "good-1" / "0.dcm").stat().st_mtime_ns
    runs = count_runs(monkeypatch)
    assert download.fetch(table("good-1", "good-2"), tmp_path, machine(cloud)) == {}
    assert runs == [1]
    assert (tmp_path / "good-1" / "0.dcm").stat().st_mtime_ns == before
    assert (tmp_path / "good-2" / "0.dcm").read_bytes() == content("good-2", 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good-1", "good-2"]


def test_damaged_series_is_fetched_again(cloud: Cloud, tmp_path: Path) -> None:
    download.fetch(table("good-1"), tmp_path, machine(cloud))
    (tmp_path / "good-1" / "1.dcm").unlink()
    assert download.fetch(table("good-1"), tmp_path, machine(cloud)) == {}
    assert (tmp_path / "good-1" / "1.dcm").read_bytes() == content("good-1", 1)


def test_unreachable_endpoint_quarantines_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s5cmd, "REQUEST_RETRIES", 0)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9: can't be reached .*; check the network"):
        download.fetch(table("good-1"), tmp_path, Machine(endpoint_url="http://127.0.0.1:9", download_retries=0))


def test_full_disk_quarantines_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complaint = s5cmd.Complaint("cp s3://b/x .x.part/", "write 3.dcm: no space left on device")
    monkeypatch.setattr(s5cmd, "run", lambda *_: s5cmd.Outcome([complaint], "", False, set()))
    with pytest.raises(UserError, match="the disk is full"):
        download.fetch(table("good-1"), tmp_path, Machine(download_retries=0))


def test_a_crash_of_s5cmd_quarantines_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s5cmd, "run", lambda *_: s5cmd.Outcome([], "ended by signal 9", False, set()))
    with pytest.raises(UserError, match=r"s5cmd: ended by signal 9; see .*batch\.s5cmd, then start again"):
        download.fetch(table("good-1"), tmp_path, Machine(download_retries=0))


def test_success_that_brought_nothing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s5cmd, "run", lambda *_: s5cmd.Outcome([], "", False, set()))
    given_up = download.fetch(table("good-1"), tmp_path / "out", Machine(download_retries=0))
    assert given_up == {"good-1": "download_missing: none of 5 files"}


def test_one_identifier_ending_in_another_gets_no_foreign_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaint = s5cmd.Complaint(f"cp s3://b/x/* {tmp_path}/.11.2.part/", "AccessDenied status code: 403")
    monkeypatch.setattr(s5cmd, "run", lambda *_: s5cmd.Outcome([complaint], "", False, set()))
    given_up = download.fetch(table("1.2", "11.2"), tmp_path, Machine(download_retries=0))
    assert given_up["1.2"] == "download_missing: none of 5 files"
    assert given_up["11.2"].startswith("download_refused")


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "source" / "1.2.3"
    folder.mkdir(parents=True)
    for number in range(FILES):
        (folder / f"{number}.dcm").write_bytes(content("local", number))
    return folder


@pytest.mark.parametrize("ending", ["/*", ""])
def test_files_on_this_machine_are_linked(local: Path, tmp_path: Path, ending: str) -> None:
    rows = table("1.2.3", url=f"file:{os.path.relpath(local)}{ending}")
    assert download.fetch(rows, tmp_path / "out", Machine()) == {}
    for number in range(FILES):
        assert (tmp_path / "out" / "1.2.3" / f"{number}.dcm").samefile(local / f"{number}.dcm")
    shutil.rmtree(tmp_path / "out")
    assert len(list(local.iterdir())) == FILES


def test_files_on_another_disk_are_copied(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(download.os, "link", refuse)
    assert download.fetch(table("1.2.3", url=f"file:{local}/*"), tmp_path / "out", Machine()) == {}
    copied = tmp_path / "out" / "1.2.3" / "0.dcm"
    assert copied.read_bytes() == content("local", 0)
    assert not copied.samefile(local / "0.dcm")


def test_missing_local_files_cost_only_their_series(local: Path, tmp_path: Path) -> None:
    rows = pd.concat([table("1.2.3", url=f"file:{local}/*"), table("4.5.6", url="file:nowhere/*")])
    given_up = download.fetch(rows, tmp_path / "out", Machine())
    assert given_up == {"4.5.6": "download_missing: none of 5 files"}
    assert (tmp_path / "out" / "1.2.3").is_dir()
    assert not (tmp_path / "out" / ".4.5.6.part").exists()


def test_unreadable_local_files_cost_only_their_series(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download.os, "link", refuse)
    monkeypatch.setattr(download.shutil, "copy2", refuse)
    given_up = download.fetch(table("1.2.3", url=f"file:{local}/*"), tmp_path / "out", Machine())
    assert given_up == {"1.2.3": "download_missing: none of 5 files (Permission denied)"}


def test_local_copy_onto_a_full_disk_quarantines_nothing(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.os, "link", refuse)
    monkeypatch.setattr(download.shutil, "copy2", refuse)
    with pytest.raises(UserError, match=r"out: .*(disk is full|No space left).*; free some"):
        download.fetch(table("1.2.3", url=f"file:{local}/*"), tmp_path / "out", Machine())


def test_nothing_to_fetch(tmp_path: Path) -> None:
    assert download.fetch(table(), tmp_path / "out", Machine()) == {}
