from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from ctfm import plugins
from ctfm.phantom import anatomy, mir3d
from ctfm.phantom.cases import cases


@pytest.fixture(scope="module")
def made():
    return list(cases(0, 8, 10.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, made):
    folder = tmp_path_factory.mktemp("mir3d")
    mir3d.write(folder, iter(made))
    return folder


def test_the_reader_finds_every_scan(folder, made):
    plugin = plugins.get("datasets", "mir3d")
    plugin.check(folder)
    found = {case.case: case for case in plugin.cases(folder)}
    assert len(found) > 8 and all(case.image.is_file() for case in found.values())
    splits = {case.number: "test" if case.split == "test" else "train" for case in made}
    assert all(case.split == splits[int(name[-3:])] for name, case in found.items())
    for cohort in mir3d.SHEETS:
        mine = [case.cohorts[cohort] for case in found.values() if cohort in case.cohorts]
        assert {about["query"] for about in mine} == {True, False}
    flags = [about["attributes"] for case in found.values() for about in case.cohorts.values()]
    assert {about["lesion_flag"] for about in flags} == {"0", "1"}
    assert {about["lesion_group"] for about in flags if about["lesion_flag"] == "0"} == {None}


def test_files_are_as_published(folder):
    book = pd.read_excel(folder / mir3d.MARKER, sheet_name=None)
    assert list(book) == ["01_liver", "02_colon", "03_pancreas", "04_lung"]
    assert list(book["04_lung"]) == ["file_name", "lung_cancer_flag", "lung_lesion_group"]
    lists = [pd.read_csv(folder / f"lung_full_{part}_split.csv") for part in ("train", "test")]
    assert [list(table)[1:] for table in lists] == [["training"], ["testing"]]
    image = sitk.ReadImage(str(next(folder.glob("combined/liver_*.nii.gz"))))
    assert all(size * spacing <= 100 for size, spacing in zip(image.GetSize(), image.GetSpacing(), strict=True))


def test_a_lesion_is_where_the_organ_is_and_nowhere_else(made):
    for case in made:
        found = mir3d.scan(case, "liver")
        if found is None or "liver" in case.body.lesions:
            continue
        volume, flag, _ = found
        start = np.rint((volume.affine[2::-1, 3] - case.image.affine[2::-1, 3]) / case.image.spacing).astype(int)
        box = tuple(slice(a, a + n) for a, n in zip(start, volume.shape, strict=True))
        change = volume.array.astype(int) - case.image.array[box]
        liver = case.label.array[box] == anatomy.labels()["liver"]
        assert (change != 0).any() == bool(flag) and not change[~liver].any()
