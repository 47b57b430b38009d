from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctfm.errors import Quarantine, UserError
from ctfm.imaging import labelled, scans, store
from ctfm.imaging.resample import resample
from ctfm.imaging.volume import Volume, orient, read_image, write_nifti
from tests.imaging import dicom_maker


def volume(shape=(20, 24, 28)):
    array = np.random.default_rng(0).integers(-1000, 500, shape).astype(np.int16)
    return Volume(array, np.array([[0, 0, 1.5, -20], [0, 1.5, 0, -30], [2.0, 0, 0, 5], [0, 0, 0, 1]]))


@pytest.mark.parametrize("suffix", scans.SUFFIXES)
def test_any_image_file_gives_the_same_stored_scan(tmp_path, suffix):
    whole = volume()
    path = tmp_path / f"scan{suffix}"
    write_nifti(whole, tmp_path / "first.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "first.nii.gz")), str(path))
    shape, affine = scans.keep(path, (2.0, 1.5, 1.5), tmp_path / "out.b2nd")
    stored = store.open_volume(tmp_path / "out.b2nd").load()
    assert shape == whole.shape and np.allclose(affine, whole.affine, atol=1e-5)
    assert np.array_equal(stored.array, whole.array) and np.allclose(stored.affine, whole.affine, atol=1e-5)
    assert scans.named([path], tmp_path / "labels") == [(path, "scan")]


def test_names_are_told_apart_and_no_scan_is_replaced(tmp_path):
    paths = [tmp_path / "a/CT.NII.GZ", tmp_path / "b/CT.nrrd", tmp_path / "b/CT", tmp_path / "b/x.y.nii"]
    assert [name for _, name in scans.named(paths, tmp_path)] == ["CT", "CT-2", "CT-3", "x.y"]
    with pytest.raises(UserError, match=r"--out: .*CT.nii.gz is one of the scans and would be replaced"):
        scans.named([tmp_path / "CT.nii.gz"], tmp_path)
    assert scans.named([Path()], tmp_path / "out")[0][1] == Path.cwd().name


def test_what_is_no_ct_is_refused(tmp_path):
    whole = volume()
    for name, array in {
        "percent": (whole.array - whole.array.min()) / 15,  # 0 to 100
        "mr": np.abs(whole.array) + 40,
        "flat": np.full(whole.shape, -1000),
    }.items():
        write_nifti(Volume(array.astype(np.int16), whole.affine), tmp_path / f"{name}.nii.gz")
    found = {}
    for name in ("percent", "mr", "flat", "absent"):
        with pytest.raises(Quarantine) as refused:
            scans.keep(tmp_path / f"{name}.nii.gz", (2.0, 1.5, 1.5), tmp_path / "out.b2nd")
        found[name] = refused.value.code
    assert found == {
        "percent": "implausible_hu",
        "mr": "implausible_hu",
        "flat": "empty_image",
        "absent": "missing_image",
    }
    assert not (tmp_path / "out.b2nd").exists()


def test_a_dicom_folder_passes_the_checks_of_pretraining_but_may_be_short(tmp_path):
    hu = dicom_maker.body((5, 32, 40))
    dicom_maker.write(tmp_path / "short", hu)
    shape, affine = scans.keep(tmp_path / "short", (2.0, 0.8, 0.9), tmp_path / "out.b2nd")
    assert sorted(shape) == sorted(hu.shape) and store.open_volume(tmp_path / "out.b2nd").shape == (5, 32, 40)
    assert np.allclose(sorted(np.linalg.norm(affine[:3, :3], axis=0)), (0.8, 0.9, 2.0))
    dicom_maker.write(tmp_path / "mr", hu, change=lambda slice_, _: setattr(slice_, "Modality", "MR"))
    two = tmp_path / "two"
    dicom_maker.write(two, hu)
    for path in dicom_maker.write(tmp_path / "other", hu, seed="other").iterdir():
        path.rename(two / f"other-{path.name}")
    found = {}
    for name in ("mr", "two", "absent-folder"):
        (tmp_path / name).mkdir(exist_ok=True)
        with pytest.raises(Quarantine) as refused:
            scans.keep(tmp_path / name, (2.0, 0.8, 0.9), tmp_path / "out.b2nd")
        found[name] = refused.value.code
    assert found == {"mr": "not_ct", "two": "mixed_series", "absent-folder": "no_files"}


def test_results_come_back_each_in_its_way(tmp_path):
    whole, made, out = volume(), tmp_path / "made", tmp_path / "out"
    made.mkdir()
    out.mkdir()
    coarse = resample(orient(whole), (4.0, 3.0, 3.0))
    write_nifti(Volume((coarse.array > 0).astype(np.uint8), coarse.affine), made / "a.nii.gz")
    (made / "labels.json").write_text("[]")
    assert scans.bring(made, "a", whole.shape, whole.affine, out) == "a.nii.gz"
    assert read_image(out / "a.nii.gz").shape == whole.shape and (out / "labels.json").is_file()
    (made / "b.json").write_text("{}")
    assert scans.bring(made, "b", whole.shape, whole.affine, out) == "b.json"
    assert (out / "b.json").read_text() == "{}" and not (made / "b.json").exists()


def test_a_sheared_volume_is_straightened_and_refused_beside_labels(tmp_path):
    affine = volume().affine.copy()
    affine[1, 0] = 0.5
    write_nifti(Volume(volume((20, 24, 28)).array, affine), tmp_path / "tilted.nii.gz")
    found, facts = scans.read(tmp_path / "tilted.nii.gz")
    assert found.upright and facts["tilt_degrees"] == pytest.approx(np.degrees(np.arctan(0.25)), abs=1e-3)
    with pytest.raises(Quarantine, match="sheared"):
        labelled.read_scan(tmp_path / "tilted.nii.gz")
