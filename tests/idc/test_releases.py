"""Tables of older releases: fetched by pip itself from a folder of wheels, pinned, whole or not at all."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pandas as pd
import pytest

from ctfm import resources
from ctfm.errors import UserError
from ctfm.idc import releases
from tests.idc.index_maker import install, listed, newest, pin, wheel, write_index


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> releases.Pin:
    """Return the pin of an index; pip asks the folder `wheels` for it and no network, and the cache is empty."""
    write_index(tmp_path / "old.parquet", listed("1.1"), listed("1.2"))
    monkeypatch.setenv("CTFM_MACHINE", json.dumps({"cache": str(tmp_path / "cache")}))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return pin(monkeypatch, tmp_path / "old.parquet")


def test_fetched_once_and_only_what_is_pinned(old: releases.Pin, tmp_path: Path) -> None:
    source = tmp_path / "old.parquet"
    found = wheel(tmp_path / "wheels", "18.2.0", {old.file: source, "prior_versions_index.parquet": source})
    table = releases.fetch(old)
    assert table == tmp_path / "cache/idc-index-data/18.2.0/idc_index.parquet"
    assert table.read_bytes() == source.read_bytes()
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == [table]
    found.unlink()
    stamp = table.stat().st_mtime_ns
    assert releases.fetch(old) == table and table.stat().st_mtime_ns == stamp


def test_a_damaged_table_is_fetched_anew(old: releases.Pin, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "18.2.0", {old.file: tmp_path / "old.parquet"})
    table = releases.fetch(old)
    os.truncate(table, 100)
    assert releases.fetch(old).read_bytes() == (tmp_path / "old.parquet").read_bytes()


def test_a_wheel_put_there_by_hand_is_taken(old: releases.Pin, tmp_path: Path) -> None:
    wheel(releases.cache(), "18.2.0", {old.file: tmp_path / "old.parquet"})
    assert len(pd.read_parquet(releases.fetch(old))) == 2


def test_without_network_the_message_tells_why_and_what_to_do(old: releases.Pin, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        releases.fetch(old)
    message = str(error.value)
    assert message.startswith("idc-index-data 18.2.0 lists IDC release 18 and can't be fetched: ")
    assert "No matching distribution found" in message
    assert "'pip download --no-deps --only-binary :all: idc-index-data==18.2.0'" in message
    assert f"put the wheel in {tmp_path / 'cache/idc-index-data'}" in message
    assert "`releases: null`" in message
    assert list(releases.cache().iterdir()) == []


def test_a_broken_connection_is_told(old: releases.Pin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    for key, value in {"CONFIG_FILE": os.devnull, "INDEX_URL": "http://127.0.0.1:1/simple", "RETRIES": "1"}.items():
        monkeypatch.setenv(f"PIP_{key}", value)
    with pytest.raises(UserError, match=r"No matching distribution found .* after .*Connection refused"):
        releases.fetch(old)


def test_without_pip_the_message_says_so(old: releases.Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no").mkdir()
    (tmp_path / "no/pip.py").write_text("raise SystemExit('No module named pip')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "no"))
    with pytest.raises(UserError, match=r"can't be fetched: No module named pip\. Where there is a network"):
        releases.fetch(old)


def test_other_bytes_than_published_are_refused(old: releases.Pin, tmp_path: Path) -> None:
    write_index(tmp_path / "other.parquet", listed("1.3"))
    wheel(tmp_path / "wheels", "18.2.0", {old.file: tmp_path / "other.parquet"})
    with pytest.raises(UserError, match=rf"idc_index\.parquet has the SHA-256 .* and {old.sha256} was published"):
        releases.fetch(old)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


@pytest.mark.parametrize("content", [b"no wheel", None])
def test_wheels_without_the_table_are_refused(old: releases.Pin, tmp_path: Path, content: bytes | None) -> None:
    file = wheel(releases.cache(), "18.2.0", {})
    if content:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"idc_index_data-18\.2\.0-py3-none-any\.whl: no wheel that holds idc_index"):
        releases.fetch(old)


def test_releases_that_no_package_lists(old: releases.Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "package", [newest("1.1")])
    with pytest.raises(UserError, match=r"corpora\.x\.releases: .* lists release 14; list one of 18, 25, .*bigquery"):
        releases.pair((14, 14), "corpora.x")
    for unknown in (0, 26):
        with pytest.raises(UserError, match=rf"knows the releases 1 to 25, not {unknown}"):
            releases.pair((unknown, 18), "corpora.x")


def test_the_newest_release_needs_no_download(
    old: releases.Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = install(monkeypatch, tmp_path / "package", [newest("1.1")])
    found = releases.pair((14, 25), "corpora.x")
    assert found["listing"] == found["newest"] == (package.folder / "idc_index.parquet", "25.0.5")


def test_absent_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install idc-index-data"):
        releases.installed()


def test_absent_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"idc-index-data 17\.0\.2 has no prior_versions_index\.parquet; pip install"):
        releases.Installed(tmp_path, "17.0.2").table(releases.PRIOR)


def test_pins_are_those_of_the_resources() -> None:
    known = {pin.release: pin for pin in releases.pins()}
    assert known[18].version == "18.2.0" and known[18].rows == 897_106
    assert all(len(pin.sha256) == 64 and int(pin.version.split(".")[0]) == pin.release for pin in known.values())
    assert resources.path("idc_index_data.csv").read_text().startswith("release,version,file,sha256,rows\n")


def test_cache_is_the_users_unless_the_machine_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTFM_MACHINE", "{}")
    assert releases.cache().parts[-2:] == ("ctfm", "idc-index-data")
    monkeypatch.setenv("CTFM_MACHINE", '{"cache": "~/tables"}')
    assert releases.cache() == Path.home() / "tables/idc-index-data"
