"""The layout of SinoCT, by its own reader; what can't be used is known."""

from __future__ import annotations

import csv
import hashlib

import numpy as np
import SimpleITK as sitk

from ctfm.config import Phantom
from ctfm.datasets import sinoct as reader
from ctfm.imaging import scans
from ctfm.phantom import head, sinoct


def test_the_reader_finds_all_heads_with_their_labels(tmp_path):
    heads = list(sinoct.subjects(1, Phantom(heads=10)))
    sinoct.write(tmp_path, heads)
    with (tmp_path / "labels.csv").open(newline="") as stream:
        rows = {row["patient_id"]: row["label"] for row in csv.DictReader(stream)}
    assert rows == {f"series_{one.number}": "0,1" if one.finding else "1,0" for one in heads}
    reader.check(tmp_path)
    cases = {case.case: case for case in reader.cases(tmp_path)}
    assert all(bool(cases[f"series_{one.number}"].labels) == bool(one.finding) for one in heads)
    assert {case.image.name for case in cases.values()} == {"scan.nrrd", "dicom"}
    found, _ = scans.read(cases["series_4"].image)
    assert np.array_equal(found.array, head.scan(heads[4]).array)


def test_the_same_heads_give_the_same_bytes_and_the_shear_is_kept(tmp_path):
    heads = list(sinoct.subjects(1, Phantom(heads=10)))[:3]
    digests = []
    for name in "ab":
        sinoct.write(tmp_path / name, heads)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]
    direction = np.reshape(sitk.ReadImage(str(tmp_path / "a/series_0/nrrd/scan.nrrd")).GetDirection(), (3, 3))
    lean = abs(np.degrees(np.arcsin(direction[:, 2] @ direction[:, 1])))
    assert abs(lean - head.TILT_DEGREES) < 1e-3
