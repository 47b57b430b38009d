"""Command ``saliency``: maps on each scan's own grid, whichever way its axes run."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import typer

from ctfm.embedding import occluding, occlusion, read
from ctfm.embedding.occluding import saliency
from ctfm.embedding.occlusion import Plan
from ctfm.errors import UserError
from ctfm.imaging import scans
from ctfm.options import Occlusion

OPTIONS = {"block": (8, 8, 8), "overlap": 0.0, "spacing": (12.0, 12.0, 12.0)}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """Write a scan of 12 mm, a box in air with a bright corner, in RAS and with flipped and permuted axes."""
    folder = tmp_path_factory.mktemp("scans")
    array = np.full((32, 24, 28), -1000, np.int16)
    array[3:29, 3:21, 3:25] = 40
    array[20:28, 4:12, 14:24] = 900
    array += np.random.default_rng(0).integers(-9, 9, array.shape, dtype=np.int16)
    image = nib.Nifti1Image(array, np.diag([12.0, 12, 12, 1]))
    nib.save(image, folder / "plain.nii.gz")
    nib.save(image.as_reoriented([[2, -1], [0, 1], [1, -1]]), folder / "turned.nii.gz")
    return folder


def test_the_map_lies_on_the_scans_own_grid(folder, phantom, tmp_path):
    paths = [phantom / "plain.nii.gz", phantom / "turned.nii.gz"]
    saliency(paths, encoder=str(folder), out=tmp_path, **OPTIONS)
    maps = [nib.load(tmp_path / f"{name}_saliency.nii.gz") for name in ("plain", "turned")]
    for made, path in zip(maps, paths, strict=True):
        assert made.shape == nib.load(path).shape and np.allclose(made.affine, nib.load(path).affine)
        assert (tmp_path / f"{path.name[:-7]}_saliency.png").stat().st_size > 1000
    one, other = (np.asarray(nib.as_closest_canonical(made).dataobj) for made in maps)
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * one.max())
    assert one.max() > 0


def test_it_is_the_saliency_of_what_the_encoder_sees(encoder, phantom, tmp_path):
    settings = Occlusion(block=(8, 8, 8), overlap=0, spacing_mm=(12, 12, 12))
    scan, _ = scans.read(phantom / "plain.nii.gz")
    found = occluding.of_scan(encoder, scan, scan, settings)
    preprocess = encoder.preprocess.model_copy(update={"spacing_mm": (12.0, 12.0, 12.0)})
    seen = read.prepare(scan, preprocess, tmp_path, crop="body")
    plain = occlusion.saliency(encoder.module, seen.read((0, 0, 0), seen.shape), Plan(overlap=0))
    assert seen.shape == (22, 18, 26) == plain.shape
    assert found.array.max() == pytest.approx(plain.max(), rel=1e-5)
    assert np.count_nonzero(found.array > 1e-3 * plain.max()) <= plain.size
    assert (found.array[0] == 0).all()  # beyond the body nothing was embedded


def test_what_cannot_be_used_is_told(folder, phantom, tmp_path, caplog):
    (tmp_path / "torn.nii.gz").write_bytes(b"torn")
    with pytest.raises(typer.Exit) as left:
        saliency([tmp_path / "torn.nii.gz", phantom / "plain.nii.gz"], encoder=str(folder), out=tmp_path, **OPTIONS)
    assert left.value.exit_code == 1 and "torn.nii.gz failed: unreadable" in caplog.text
    assert (tmp_path / "plain_saliency.nii.gz").is_file()
    with pytest.raises(UserError, match="--mode: "):
        saliency([phantom / "plain.nii.gz"], encoder=str(folder), out=tmp_path, mode="soft")
    with pytest.raises(UserError, match="--overlap: "):
        saliency([phantom / "plain.nii.gz"], encoder=str(folder), out=tmp_path, overlap=1.0)
    with pytest.raises(UserError, match="--block"):
        saliency([phantom / "plain.nii.gz"], encoder=str(folder), out=tmp_path, block=(0, 8, 8))
