from __future__ import annotations

import numpy as np
import pandas as pd
import pydicom
import pytest

from ctfm.config import Phantom
from ctfm.phantom import rider


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a pair, and a person scanned once."""
    folder = tmp_path_factory.mktemp("rider")
    rider.write(folder, [rider.Person(0, 0), rider.Person(1, 0, 1)])
    return folder


def test_subjects_are_pairs_then_a_mistaken_one_then_one_without_a_second_scan():
    persons = list(rider.subjects(0, Phantom(cases=16)))
    assert [p.scans for p in persons] == [2] * 7 + [1] and [p.mixed_up for p in persons] == [False] * 6 + [True, False]
    assert len(list(rider.subjects(0, Phantom(cases=3)))) == rider.FEWEST


def test_series_are_indexed_as_idc_does(folder):
    table = pd.read_parquet(folder / "index.parquet")
    assert len(table) == 3 and set(table.collection_id) == {rider.COLLECTION}
    assert table.groupby("PatientID").size().to_dict() == {"REPEAT-000": 2, "REPEAT-001": 1}
    assert (table.instanceCount > 50).all() and table.SliceThickness.between(1, 5).all()  # as the paper's criteria ask
    assert table.groupby("PatientID").StudyInstanceUID.nunique().eq(1).all()
    for url in table.series_aws_url:
        assert len(list(folder.glob(url.removeprefix("file:")))) > 50
    first = pydicom.dcmread(next((folder / "dicom").glob("*/0001.dcm")))
    assert first.Modality == "CT" and first.SOPClassUID.name == "CT Image Storage"


def test_scans_are_repeatable_and_the_second_is_moved_respaced_and_renoised():
    person = rider.Person(0, 0)
    first, again, second = rider.scan(person, 0), rider.scan(person, 0), rider.scan(person, 1)
    assert np.array_equal(first.array, again.array) and first.array.dtype == np.int16
    assert first.spacing != second.spacing and first.shape != second.shape
    middles = [v.world((np.asarray(v.shape) - 1) / 2) for v in (first, second)]
    assert np.allclose(*middles)  # the grid stays, the patient moves
    other = rider.scan(person._replace(mixed_up=True), 1)
    assert not np.allclose(other.affine, second.affine)
    assert np.array_equal(rider.scan(person._replace(mixed_up=True), 0).array, first.array)


def test_motions_are_small_and_rigid():
    rng = np.random.default_rng(0)
    middle = np.array([3.0, -5.0, 100.0])
    for matrix in (rider.moved(rng, middle) for _ in range(20)):
        assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3))
        assert np.abs(matrix[:3, :3] @ middle + matrix[:3, 3] - middle).max() <= rider.SHIFT_MM
