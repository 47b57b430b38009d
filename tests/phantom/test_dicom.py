"""The DICOM corpus, read by SimpleITK's own reader and by ours."""

from __future__ import annotations

import hashlib

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from ctfm.config import Criteria, Prepare
from ctfm.errors import Quarantine
from ctfm.imaging.dicom import read_series
from ctfm.imaging.volume import Volume, from_sitk, orient
from ctfm.phantom import anatomy, dicom, scanner
from ctfm.phantom.shapes import turned

SIZE = {"slices": 18, "matrix": 40, "seed": 5}

ANY = Criteria(min_instances=1, thickness_mm=None)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    uids = dicom.write_corpus(folder, series=5, broken=5, **SIZE)
    return folder, list(uids), uids


def headers(folder):
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.glob("*.dcm"))]


@pytest.mark.parametrize("arrangement", dicom.ARRANGEMENTS, ids=lambda a: f"{a[0]}{a[1]}{a[2]:g}")
def test_simpleitk_reads_the_phantoms_hu_and_geometry(tmp_path, arrangement):
    position, signs, pitch = arrangement
    body = anatomy.draw(rng := np.random.default_rng(1))
    shape, spacing = (17, 36, 44), (5.0, 7.5, 7.0)
    affine = dicom._pitched(anatomy.upright(body, shape, spacing, "abdomen", rng), shape, pitch)
    image, _ = anatomy.render(body, scanner.draw(rng, position == "HFP"), rng, shape, affine)
    header = {"SeriesInstanceUID": "1.2.3", "PatientPosition": position, "SliceThickness": 5.0}
    dicom.write_series(tmp_path, dicom.slices_of(dicom.flipped(image, signs)), header)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    read = orient(from_sitk(reader.Execute()))
    assert np.array_equal(read.array, image.array)
    np.testing.assert_allclose(read.affine, image.affine, atol=1e-3)
    assert np.linalg.det(read.affine[:3, 2::-1]) > 0


def test_flipping_moves_nothing():
    volume = Volume(np.arange(24).reshape(2, 3, 4), np.diag([3.0, 2.0, 1.0, 1.0]))
    turned_over = dicom.flipped(volume, (-1, 1, -1))
    assert turned_over.array[1, 0, 3] == volume.array[0, 0, 0]
    np.testing.assert_allclose(turned_over.world([1, 0, 3]), volume.world([0, 0, 0]))


def test_pitch_turns_about_the_middle():
    affine = dicom._pitched(np.eye(4), (3, 3, 3), 10)
    np.testing.assert_allclose(affine[:3, :3], turned("x", 10))
    np.testing.assert_allclose(affine @ [1, 1, 1, 1], [1, 1, 1, 1])


def test_good_series_are_read_and_differ_in_geometry(corpus):
    folder, uids, _ = corpus
    volumes = [read_series(folder / uid, Prepare(), ANY)[0] for uid in uids[:5]]
    assert len({volume.spacing for volume in volumes}) == 5
    assert all(-1024 <= v.array.min() < -900 and v.array.max() > 300 for v in volumes)
    positions = {str(h[0].PatientPosition) for h in (headers(folder / uid) for uid in uids[:5])}
    assert positions == {"HFS", "FFS", "HFP"}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("localizer", "localizer"),
        ("missing_slice", "missing_slice"),
        ("truncated", "truncated"),
        ("wrong_rescale", "implausible_hu"),
        ("mixed_orientations", "mixed_geometry"),
    ],
)
def test_each_fault_is_found_for_its_own_reason(corpus, fault, code):
    folder, uids, _ = corpus
    with pytest.raises(Quarantine) as caught:
        read_series(folder / uids[5 + dicom.FAULTS.index(fault)], Prepare(), ANY)
    assert caught.value.code == code


def test_the_first_localizer_is_not_betrayed_by_its_description_the_second_is(tmp_path):
    uids = list(dicom.write_corpus(tmp_path, series=1, broken=6, slices=16, matrix=32, seed=0))
    first, second = headers(tmp_path / uids[1]), headers(tmp_path / uids[6])
    assert "LOCALIZER" in first[0].ImageType and "LOCALIZER" in second[0].ImageType
    assert "opogram" not in first[0].SeriesDescription and "Topogram" in second[0].SeriesDescription
    assert len(first) >= 16


def test_headers_are_consistent(corpus):
    folder, uids, collections = corpus
    for uid in uids[:5]:
        files = headers(folder / uid)
        assert len(files) >= SIZE["slices"]
        assert {file.SeriesInstanceUID for file in files} == {uid}
        assert len({file.SOPInstanceUID for file in files}) == len(files)
        assert {file.file_meta.MediaStorageSOPClassUID.name for file in files} == {"CT Image Storage"}
        assert [file.InstanceNumber for file in files] == list(range(1, len(files) + 1))
        assert 1 <= files[0].SliceThickness <= 5 and list(files[0].ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
        assert collections[uid] in ("phantom_chest", "phantom_abdomen")
        assert all(pydicom.uid.UID(file.SOPInstanceUID).is_valid for file in files)


def test_some_patients_have_two_studies(corpus):
    folder, uids, _ = corpus
    first = [headers(folder / uid)[0] for uid in uids[:5]]
    assert len({h.StudyInstanceUID for h in first}) == 5 and len({h.PatientID for h in first}) == 4
    assert first[2].PatientID == first[3].PatientID and first[2].PatientSex == first[3].PatientSex


def test_same_seed_same_bytes_and_other_settings_other_names(corpus, tmp_path):
    folder, uids, _ = corpus
    again = dicom.write_corpus(tmp_path / "a", series=2, broken=0, **SIZE)
    assert list(again) == uids[:2]
    for uid in again:
        for file in sorted((tmp_path / "a" / uid).iterdir()):
            old = (folder / uid / file.name).read_bytes()
            assert hashlib.sha256(old).digest() == hashlib.sha256(file.read_bytes()).digest()
    other = dicom.write_corpus(tmp_path / "b", series=1, broken=0, **{**SIZE, "seed": 6})
    assert not set(other) & set(uids)
