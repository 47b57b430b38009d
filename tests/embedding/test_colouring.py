"""Command ``pca``: rows of patches in their places, and pictures in the colours of the nearest patch."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import typer

from ctfm import tables
from ctfm.embedding import colouring, components, dense, read
from ctfm.embedding.colouring import pca
from ctfm.errors import UserError
from ctfm.imaging.volume import Volume
from ctfm.options import Patches

OPTIONS = {"patch": (8, 16, 16), "overlap": 0.5, "spacing": (8.0, 8.0, 8.0)}


def write(folder, name, shift=0):
    array = np.full((30, 26, 20), -1000, np.int16)
    array[3 + shift : 25, 4:22, 2:18] = 40
    array[6:12, 6:14, 4:16] = 700
    array += np.random.default_rng(shift).integers(-9, 9, array.shape, dtype=np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([8.0, 8, 8, 1])), folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz"


def test_the_table_has_every_patch_in_its_place(encoder, folder, tmp_path):
    paths = [write(tmp_path, "one"), write(tmp_path, "two", 2)]
    pca(paths, encoder=str(folder), out=tmp_path / "out", **OPTIONS)
    rows = tables.read("components", tmp_path / "out/components.parquet")
    preprocess = encoder.preprocess.model_copy(update={"spacing_mm": OPTIONS["spacing"]})
    settings = Patches(patch=OPTIONS["patch"], overlap=0.5)
    whole = [dense.embed(encoder, read.prepare(p, preprocess, tmp_path / p.stem, crop="body"), settings) for p in paths]
    wanted = components.colour(whole)
    for name, scan, found in zip(("one", "two"), whole, wanted, strict=True):
        own = rows[rows.case == name]
        assert own.patch.tolist() == list(range(len(scan.grid)))
        np.testing.assert_allclose(own[colouring.CENTRE], scan.centres_world)
        np.testing.assert_allclose(own[colouring.VALUES], found.components, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(own.foreground, found.foreground)
        assert own.lightness.isna().tolist() == (~found.foreground).tolist()
    assert (tmp_path / "out/components.png").stat().st_size > 1000


def test_a_voxel_has_the_colour_of_the_nearest_patch():
    affine = np.array([[0, 0, 2.0, 5], [0, 2.0, 0, 6], [2.0, 0, 0, 7], [0, 0, 0, 1]])
    image = Volume(np.zeros((4, 6, 8), np.int16), affine)
    centres = image.world(np.array([[1, 2, 1], [1, 2, 6], [3, 5, 4]]))
    lab = np.array([[53.2408, 80.0925, 67.2032], [32.2970, 79.1875, -107.8602], [np.nan] * 3])
    rows = pd.DataFrame(np.hstack([centres, lab]), columns=[*colouring.CENTRE, *colouring.LAB])
    rows["foreground"] = [True, True, False]
    axial, coronal, sagittal = colouring.painted(rows, image, (1, 2, 1))
    assert axial.colours.shape == (6, 8, 4) and coronal.colours.shape == (4, 8, 4)
    assert np.allclose(axial.colours[2, 1], [1, 0, 0, 0.75], atol=2e-3)  # red
    assert np.allclose(axial.colours[2, 6], [0, 0, 1, 0.75], atol=2e-3)  # blue
    assert np.allclose(coronal.colours[2, 1], axial.colours[2, 1])  # drawn head up: row 2 of 4 is slice 1
    assert axial.colours[5, 4, 3] == 0 and sagittal.colours.shape == (4, 6, 4)


def test_what_cannot_be_used_is_told(folder, tmp_path, caplog):
    one, torn = write(tmp_path, "one"), tmp_path / "torn.nii.gz"
    torn.write_bytes(b"torn")
    with pytest.raises(UserError, match="name two scans or more"):
        pca([one], encoder=str(folder), out=tmp_path, **OPTIONS)
    with pytest.raises(UserError, match="1 of 2 scans can be used"):
        pca([one, torn], encoder=str(folder), out=tmp_path, **OPTIONS)
    assert "torn is left out: unreadable" in caplog.text
    with pytest.raises(UserError, match="--overlap"):
        pca([one, one], encoder=str(folder), out=tmp_path, overlap=1.0)
    with pytest.raises(typer.Exit) as left:
        pca([one, torn, one], encoder=str(folder), out=tmp_path, **OPTIONS)
    assert left.value.exit_code == 1
    assert set(tables.read("components", tmp_path / "components.parquet").case) == {"one", "one-2"}
