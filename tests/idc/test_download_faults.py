"""Downloads with the real s5cmd from a server that fails on demand: what can be mended is, and the rest is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ctfm.config import Machine
from ctfm.errors import UserError
from ctfm.idc import download, s5cmd
from tests.idc import faulty_s3
from tests.idc.faulty_s3 import BUCKET, LISTING, FaultyS3

FILES, FILE_BYTES = 5, 60_001
SERIES = ("a", "b")
BAD = "a/1.dcm"
BODY_FAULTS = (faulty_s3.DROP, faulty_s3.SHORT, faulty_s3.CUT, faulty_s3.EMPTY)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """Return a server with two series, and no waiting between tries."""
    monkeypatch.setattr(download, "BACKOFF_S", 0.0)
    monkeypatch.setattr(s5cmd, "REQUEST_RETRIES", 1)
    with FaultyS3() as server:
        for name in SERIES:
            for number in range(FILES):
                content = np.random.default_rng([number, ord(name)]).bytes(FILE_BYTES)
                server.objects[f"{name}/{number}.dcm"] = content
        yield server


def fetch(cloud: FaultyS3, folder: Path, retries: int = 1, size: float | None = FILES * FILE_BYTES / 1e6) -> dict:
    rows = pd.DataFrame(
        {
            "SeriesInstanceUID": list(SERIES),
            "series_aws_url": [f"s3://{BUCKET}/{name}/*" for name in SERIES],
            "num_instances": FILES,
            "series_size_MB": size,
        }
    )
    return download.fetch(rows, folder, Machine(endpoint_url=cloud.url, download_workers=4, download_retries=retries))


def whole(cloud: FaultyS3, folder: Path, *names: str) -> bool:
    """Say whether exactly these series are there, byte for byte, and nothing else."""
    expected = {key: content for key, content in cloud.objects.items() if key.split("/")[0] in names}
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {k: v for k, v in found.items() if not k.startswith(".")} == expected


@pytest.mark.parametrize("kind", [*BODY_FAULTS, 500, 503, faulty_s3.REDIRECT])
def test_a_fault_that_passes_is_mended(cloud: FaultyS3, tmp_path: Path, kind: str | int) -> None:
    cloud.fail(BAD, kind, times=1)
    assert fetch(cloud, tmp_path) == {}
    assert whole(cloud, tmp_path, "a", "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    asked = {key: cloud.requests[key] for key in cloud.objects}
    assert asked.pop(BAD) == 2
    assert set(asked.values()) == {1}  # only what was missing is asked for again


@pytest.mark.parametrize("kind", [403, 404, 500, 503, faulty_s3.DROP])
def test_a_fault_that_outlasts_s5cmd_is_mended_by_the_next_try(
    cloud: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str | int
) -> None:
    """S5cmd does not repeat what is forbidden or absent; two failures outlast its one repetition of the others."""
    monkeypatch.setattr(s5cmd, "REQUEST_RETRIES", 1)
    cloud.fail(BAD, kind, times=1 if kind in (403, 404) else 2)
    assert fetch(cloud, tmp_path) == {}
    assert whole(cloud, tmp_path, "a", "b")
    assert {cloud.requests[key] for key in cloud.objects if key != BAD} == {1}


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (faulty_s3.DROP, "4 of 5 files (unexpected EOF)"),
        (faulty_s3.SHORT, "4 of 5 files (unexpected EOF)"),
        (faulty_s3.CUT, "270,004 bytes, the index says 300,005"),
        (faulty_s3.EMPTY, "1 of 5 files are empty"),
        (faulty_s3.REDIRECT, "4 of 5 files (RequestError: send request failed)"),
        (403, "4 of 5 files (Forbidden: Forbidden)"),
        (404, "4 of 5 files (NoSuchKey: NoSuchKey)"),
        (500, "4 of 5 files (InternalServerError: Internal Server Error)"),
        (503, "4 of 5 files (ServiceUnavailable: Service Unavailable)"),
    ],
)
def test_a_fault_that_stays_costs_only_its_series(cloud: FaultyS3, tmp_path: Path, kind: str | int, told: str) -> None:
    cloud.fail(BAD, kind)
    assert fetch(cloud, tmp_path) == {"a": f"download_incomplete: {told}"}
    assert whole(cloud, tmp_path, "b")
    assert {cloud.requests[key] for key in cloud.objects if key != BAD} == {1}


def test_a_file_cut_by_one_byte_is_noticed(cloud: FaultyS3, tmp_path: Path) -> None:
    cloud.objects[BAD] = cloud.objects[BAD][:-1]
    assert fetch(cloud, tmp_path) == {"a": "download_incomplete: 300,004 bytes, the index says 300,005"}


def test_a_listing_that_omits_a_file_is_noticed(cloud: FaultyS3, tmp_path: Path) -> None:
    cloud.omitted.add(BAD)
    assert fetch(cloud, tmp_path, size=None) == {"a": "download_incomplete: 4 of 5 files"}
    cloud.omitted.clear()
    assert fetch(cloud, tmp_path, size=None) == {}


def test_a_listing_in_pages_brings_every_file(cloud: FaultyS3, tmp_path: Path) -> None:
    cloud.page = 2
    assert fetch(cloud, tmp_path) == {}
    assert whole(cloud, tmp_path, "a", "b")
    assert cloud.requests[LISTING] == 2 * 3


@pytest.mark.parametrize("kind", [faulty_s3.HANG, faulty_s3.MUTE])
def test_a_hanging_transfer_is_ended_and_tried_again(
    cloud: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(s5cmd, "STALL_S", 0.5)
    monkeypatch.setattr(s5cmd, "POLL_S", 0.1)
    cloud.fail(BAD, kind, times=1)
    assert fetch(cloud, tmp_path) == {}
    assert whole(cloud, tmp_path, "a", "b")
    assert {cloud.requests[key] for key in cloud.objects if key != BAD} == {1}
    cloud.fail("b/2.dcm", kind)
    (tmp_path / "b" / "0.dcm").unlink()
    assert fetch(cloud, tmp_path) == {"b": "download_incomplete: 4 of 5 files (timeout: no byte in 0.5 s)"}
    assert whole(cloud, tmp_path, "a")


@pytest.mark.parametrize("where", ["*", LISTING])
@pytest.mark.parametrize("kind", [500, 503, faulty_s3.DROP, faulty_s3.MUTE])
def test_an_outage_costs_no_series(
    cloud: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, kind: str | int
) -> None:
    monkeypatch.setattr(s5cmd, "STALL_S", 0.5)
    monkeypatch.setattr(s5cmd, "POLL_S", 0.1)
    monkeypatch.setattr(s5cmd, "REQUEST_RETRIES", 0)
    cloud.fail(where, kind)
    with pytest.raises(UserError, match="out of order"):
        fetch(cloud, tmp_path)
    assert (tmp_path / download.COMMANDS).read_text().count("\n") == len(SERIES)  # to be looked at
    cloud.mend()
    assert fetch(cloud, tmp_path) == {}
    assert not (tmp_path / download.COMMANDS).exists()


def test_an_outage_in_the_middle_costs_no_series(cloud: FaultyS3, tmp_path: Path) -> None:
    """One series is whole and one half there when the server begins to refuse everything."""
    cloud.fail(BAD, 503, times=2)

    def down(seconds: float) -> None:
        cloud.fail("*", 503)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "time", SimpleNamespace(sleep=down))
        with pytest.raises(UserError, match="out of order"):
            fetch(cloud, tmp_path)
    cloud.mend()
    assert fetch(cloud, tmp_path) == {}
    assert cloud.requests["b/0.dcm"] == 1


def test_a_bucket_that_refuses_everything_is_told_apart(cloud: FaultyS3, tmp_path: Path) -> None:
    cloud.fail(LISTING, 403)
    given_up = fetch(cloud, tmp_path)
    assert given_up == dict.fromkeys(SERIES, "download_refused: by the bucket (AccessDenied: AccessDenied)")
    cloud.fail("*", 404)  # no such bucket
    assert all(fault.startswith("download_refused") for fault in fetch(cloud, tmp_path).values())
    machine = Machine(endpoint_url=cloud.url)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:\d+: refuses all 2 series of this shard; check machine"):
        download.check_reached(["download_refused", "download_refused"], machine)
    download.check_reached(["download_refused", ""], machine)
    download.check_reached(["download_refused", "download_missing"], machine)
    download.check_reached([], machine)


def test_waits_grow(cloud: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download, "BACKOFF_S", 2.0)
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=waits.append))
    cloud.fail(BAD, 404)
    fetch(cloud, tmp_path, retries=3)
    assert waits == [2.0, 4.0, 8.0]
