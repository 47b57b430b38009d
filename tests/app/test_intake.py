"""Opening a scan in a process of its own: what is written, and what becomes of files that can't be used."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from ctfm.app import intake
from ctfm.errors import Quarantine
from ctfm.imaging import store
from ctfm.imaging.volume import Volume, orient, to_sitk
from tests.app.conftest import block, nifti


def test_the_browser_gets_the_scan_as_simpleitk_reads_it(tmp_path):
    path = nifti(tmp_path / "scan.nii.gz")
    intake.open_scan(path, None, tmp_path)
    shown, given = sitk.ReadImage(str(tmp_path / intake.SHOWN)), sitk.ReadImage(str(path))
    point = given.TransformIndexToPhysicalPoint((14, 8, 12))
    assert shown[shown.TransformPhysicalPointToIndex(point)] == given[14, 8, 12] == 800
    assert np.array_equal(store.open_volume(tmp_path / intake.SCAN).load().array, block().array)


def test_flipped_and_turned_axes_keep_their_places(tmp_path):
    made = block()
    turned = Volume(made.array.transpose(2, 0, 1)[::-1], made.affine)
    affine = made.affine[:, [2, 0, 1, 3]].copy()
    affine[:3, 3] += affine[:3, 0] * (made.shape[2] - 1)
    affine[:3, 0] *= -1
    path = nifti(tmp_path / "scan.nii", Volume(np.ascontiguousarray(turned.array), affine))
    intake.write(path, None, tmp_path)
    stored = store.open_volume(tmp_path / intake.SCAN).load()
    assert np.array_equal(stored.array, made.array) and np.allclose(stored.affine, made.affine, atol=1e-4)


def test_a_label_map_on_another_grid_is_brought_onto_the_scan(tmp_path):
    made = block()
    coarse = orient(made)
    label = Volume((coarse.array[::2, ::2, ::2] > 400).astype(np.uint8) * 7, coarse.affine @ np.diag([2, 2, 2, 1.0]))
    intake.write(nifti(tmp_path / "scan.nii"), nifti(tmp_path / "label.nii", label), tmp_path)
    found = store.open_volume(tmp_path / intake.LABEL).load()
    assert found.shape == made.shape and set(np.unique(found.array)) == {0, 7}
    inside = made.array[found.array == 7]
    assert (inside > 0).mean() > 0.6


def test_a_large_scan_is_made_coarser_for_the_browser_only():
    made = Volume(np.zeros((40, 60, 80), np.int16), block().affine)
    shown = intake.for_browser(made, 20_000)
    assert shown.array.size <= 20_000 and max(shown.spacing) < 1.1 * min(shown.spacing)
    extent = np.multiply(shown.shape, shown.spacing)
    assert np.allclose(extent, np.multiply(made.shape, made.spacing), rtol=0.1)
    assert intake.for_browser(made, made.array.size) is made


def test_what_can_not_be_used_says_why(tmp_path):
    path = tmp_path / "scan.nii"
    nib.save(nib.Nifti1Image(np.full((9, 9, 9), np.nan, np.float32), np.eye(4)), path)
    with pytest.raises(Quarantine, match="not_finite"):
        intake.open_scan(path, None, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("spacing", "code"), [((0.001, 2, 2), "bad_affine"), ((900, 2, 2), "bad_affine")])
def test_a_size_that_no_scan_has_is_refused(spacing, code):
    with pytest.raises(Quarantine, match=code):
        intake.check_size(block(spacing=spacing))


def test_a_reader_that_crashes_or_hangs_costs_only_the_scan(tmp_path, monkeypatch):
    monkeypatch.setattr(intake.sys, "executable", "/bin/false")
    with pytest.raises(Quarantine, match="crashed"):
        intake.open_scan(tmp_path / "x", None, tmp_path)
    script = tmp_path / "hang"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o700)
    monkeypatch.setattr(intake.sys, "executable", str(script))
    monkeypatch.setattr(intake, "LONGEST_S", 0.2)
    with pytest.raises(Quarantine, match="too_slow"):
        intake.open_scan(tmp_path / "x", None, tmp_path)


def test_oblique_scans_stay_as_they_are(tmp_path):
    made = block()
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    oblique = Volume(made.array, turn @ made.affine)
    intake.write(nifti(tmp_path / "scan.nii", oblique), None, tmp_path)
    shown = sitk.ReadImage(str(tmp_path / intake.SHOWN))
    index = shown.TransformPhysicalPointToIndex(to_sitk(oblique).TransformIndexToPhysicalPoint((14, 8, 12)))
    assert shown[index] == 800
