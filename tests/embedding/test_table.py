from __future__ import annotations

import numpy as np
import pytest

from ctfm import tables
from ctfm.embedding import table
from ctfm.embedding.encode import Embedding
from ctfm.errors import UserError

COMMON = {"encoder": "tiny", "model": "abc", "code": "0+1", "sha256": "00"}
FOUND = Embedding(
    np.array([1, 2], np.float32),
    np.array([[0, 1], [2, 3]], np.float32),
    np.arange(12.0).reshape(2, 6),
    np.array([0, 1, 2, 9, 10, 11.0]),
    {5: np.array([7, 8], np.float32), 99: np.array([9, 9], np.float32)},
)


def test_rows_go_to_disk_and_come_back(tmp_path):
    for number in range(2):
        with tables.writer(table.NAME, tmp_path / f"{number}.parquet", {"a": 1}) as add:
            for case in ("x", "y"):
                add(table.rows(f"{case}{number}", FOUND, COMMON, patches=True, names={5: "liver"}))
    assert tables.facts(tmp_path / "0.parquet") == {"a": 1}
    read = table.read(tmp_path / "0.parquet", tmp_path / "1.parquet")
    one = read[read.case == "x1"]
    assert one.patch.tolist() == [-1, -1, -1, 0, 1] and one.label.tolist() == ["", "liver", "99", "", ""]
    assert one[table.BOX].to_numpy().tolist() == [FOUND.box_mm.tolist()] * 3 + FOUND.boxes_mm.tolist()
    whole = table.matrix(table.whole_scans(read))
    assert whole.dtype == np.float32 and whole.tolist() == [[1, 2]] * 4


def test_without_patches_there_is_one_row():
    assert len(table.rows("x", Embedding(FOUND.vector, FOUND.patches, FOUND.boxes_mm, FOUND.box_mm), COMMON)) == 1


def test_embeddings_of_different_weights_are_not_mixed(tmp_path):
    for model in ("abc", "def"):
        tables.write(table.rows("x", FOUND, {**COMMON, "model": model}), table.NAME, tmp_path / f"{model}.parquet")
    with pytest.raises(UserError, match=r"embeddings of different weights \(abc, def\)"):
        table.read(tmp_path / "abc.parquet", tmp_path / "def.parquet")
