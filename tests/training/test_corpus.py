from __future__ import annotations

import numpy as np
import pytest

from ctfm import tables
from ctfm.errors import UserError
from ctfm.imaging import store
from ctfm.imaging.volume import Volume
from ctfm.training import corpus
from tests.training import corpora


def test_the_corpus_holds_what_is_usable(tmp_path):
    scans = corpus.read(corpora.write(tmp_path / "three"))
    assert scans.names == ["1.0", "1.1", "1.2"] and scans.spacing_mm == (3.0, 1.0, 1.0)
    assert all(file.is_file() for file in scans.files) and scans.too_small == {}
    other = corpus.read(corpora.write(tmp_path, count=2))
    assert other.digest != scans.digest
    table = tables.read("volumes", tmp_path / "index.parquet")
    tables.write(table.iloc[::-1], "volumes", tmp_path / "index.parquet")
    assert corpus.read(tmp_path / "index.parquet").digest == other.digest


def test_a_corpus_without_volumes_or_of_two_spacings_is_refused(tmp_path):
    index = corpora.write(tmp_path, count=2)
    table = tables.read("volumes", index)
    table.loc[0, "status"] = "quarantined"
    changed = table.copy()
    changed.loc[1, "status"] = "quarantined"
    tables.write(changed, "volumes", index)
    with pytest.raises(UserError, match="no volume with status 'ok'"):
        corpus.read(index)
    table["status"] = ["ok", "ok", "quarantined"]
    table.at[1, "spacing_out"] = [1.0, 1.0, 1.0]
    tables.write(table, "volumes", index)
    with pytest.raises(UserError, match="2 different spacings"):
        corpus.read(index)


def test_volumes_that_are_no_scans_are_left_out_with_a_reason(tmp_path):
    index = corpora.write(tmp_path, count=4)
    table = tables.read("volumes", index)
    table["shape"] = [[20, 40, 44], [20, 40], [0, 40, 44], [20, 3, 44], None]
    tables.write(table, "volumes", index)
    scans = corpus.read(index)
    assert scans.names == ["1.0"] and list(scans.too_small) == ["1.1", "1.2", "1.3"]
    assert scans.too_small["1.1"] == "its extent of 20 x 40 voxels is no scan's"
    table["shape"] = [[20, 40]] * 5
    tables.write(table, "volumes", index)
    with pytest.raises(UserError, match="no volume with status 'ok' and an extent"):
        corpus.read(index)


def test_broken_files_are_found_at_the_start(tmp_path):
    index = corpora.write(tmp_path, count=6)
    table = tables.read("volumes", index)
    paths = [tmp_path / path for path in table["path"][:6]]
    table["bytes"] = [path.stat().st_size for path in paths] + [None]
    tables.write(table, "volumes", index)
    scans = corpus.read(index)
    assert corpus.broken(scans) == {}
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:500])
    paths[2].write_bytes(bytes(paths[2].stat().st_size))
    store.save(Volume(np.zeros((2, 9, 9), np.int16), np.eye(4)), paths[3])
    scans.sizes[3] = None  # an index that doesn't tell
    faults = corpus.broken(scans)
    assert list(faults) == ["1.0", "1.1", "1.2", "1.3"]
    assert "is missing" in faults["1.0"] and "has 500 bytes" in faults["1.1"] and "unreadable" in faults["1.2"]
    assert "2 x 9 x 9 voxels is no scan's" in faults["1.3"]


def test_a_store_of_which_nothing_is_there_stops_at_once(tmp_path):
    scans = corpus.read(corpora.write(tmp_path, count=2))
    for path in scans.files:
        path.unlink()
    with pytest.raises(UserError, match=r"none of the 2 volumes can be read \(first: 1\.0: 1\.0\.b2nd is missing"):
        corpus.broken(scans)
