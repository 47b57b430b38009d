"""The layout of CQ500, by its own reader: odd names, a volume among DICOM, a patient without a scan."""

from __future__ import annotations

import pandas as pd

from ctfm.config import Phantom
from ctfm.datasets import cq500 as reader
from ctfm.phantom import cq500


def test_the_reader_finds_all_heads_with_their_labels(tmp_path):
    heads = list(cq500.subjects(1, Phantom(heads=16)))
    cq500.write(tmp_path, heads)
    reads = pd.read_csv(tmp_path / "reads.csv", index_col="name")
    assert reads.shape == (8, 1 + 3 * 14)
    abnormal = reads.drop(columns="Category").eq(1).any(axis=1)
    reader.check(tmp_path)
    cases = list(reader.cases(tmp_path))
    assert {case.case: bool(case.labels) for case in cases} == abnormal.to_dict()
    assert abnormal.tolist() == [bool(one.finding) for one in heads]
    assert {case.split for case in cases} == {"test"}
    assert cases[0].image == tmp_path / "qct01/CQ500CT0 CQ500CT0/Unknown Study/CT Plain"
    assert cases[-2].image.name == "scan.nrrd" and cases[-2].image.is_file()
    assert not cases[-1].image.exists()
