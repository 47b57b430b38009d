"""The Decathlon's layout, read back by its own reader: livers, with lesions inside them or without."""

from __future__ import annotations

import hashlib

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from ctfm.datasets import msd_task03_liver
from ctfm.imaging.volume import orient, read_image
from ctfm.phantom import msd
from ctfm.phantom.cases import cases


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("msd")
    msd.write(folder, cases(0, 6, 8.0))
    return folder


def test_the_data_set_reader_finds_the_cases_with_their_splits(layout):
    msd_task03_liver.check(layout)
    found = list(msd_task03_liver.cases(layout))
    assert {case.case: case.split for case in found} == {f"liver_{c.number}": c.split for c in cases(0, 6, 8.0)}
    for case in found:
        image, label = nib.load(case.image), nib.load(case.labels)
        assert np.allclose(image.affine, label.affine) and image.shape == label.shape
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S") and set(np.unique(label.dataobj)) <= {0, 1, 2}


def test_lesions_are_darker_parts_of_the_liver_and_some_livers_have_none(layout):
    counts = {}
    for case in msd_task03_liver.cases(layout):
        image, label = (orient(read_image(path)).array for path in (case.image, case.labels))
        assert (label == 1).sum() > 100
        tumour = label == 2
        counts[case.case] = ndimage.label(tumour, np.ones((3, 3, 3)))[1]
        if tumour.any():
            assert image[tumour].mean() < image[label == 1].mean() - 20
    assert counts["liver_0"] == 0 < counts["liver_1"] and max(counts.values()) > 1


def test_slices_differ_and_the_same_cases_give_the_same_bytes(layout, tmp_path):
    spacings = {round(float(nib.load(c.image).header.get_zooms()[2]), 3) for c in msd_task03_liver.cases(layout)}
    assert len(spacings) > 1
    msd.write(tmp_path, cases(0, 6, 8.0))
    for file in sorted(p for p in layout.rglob("*") if p.is_file()):
        twin = tmp_path / file.relative_to(layout)
        assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(twin.read_bytes()).digest(), file.name


def test_a_killed_run_leaves_no_list(tmp_path):
    def killed():
        yield next(cases(0, 3, 12.0))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        msd.write(tmp_path, killed())
    assert not (tmp_path / "dataset.json").exists()
