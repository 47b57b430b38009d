"""Search: the same place is found however its scan is stored, and heat maps lie where they belong."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import typer
from scipy import ndimage

from ctfm.embedding import searching
from ctfm.embedding.encode import Encoder
from ctfm.embedding.searching import Search, find, query_at, search, search_command
from ctfm.errors import UserError
from ctfm.imaging import scans, store
from ctfm.imaging.volume import from_nifti, read_image
from tests.embedding.conftest import write_encoder

SHAPE = (60, 50, 34)  # x, y, z voxels of 4 x 4 x 6 mm: the tiny encoder's own
SETTINGS = Search(patch=(8, 16, 16), overlap=0.75, count=3, crop="volume")
POINT = (19.5, 23.5, 27.5)  # (z, y, x), the centre of a patch of the grid


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a scan whose places differ from each other, axes towards L, P, S."""
    noise = np.random.default_rng(3).normal(size=SHAPE)
    smooth = sum(ndimage.gaussian_filter(noise, s) * s**1.5 for s in (1.0, 2.5, 6.0))
    affine = np.diag([-4.0, -4.0, 6.0, 1.0])
    affine[:3, 3] = (100, 120, -40)
    array = (300 * smooth / smooth.std()).clip(-1000, 1500).astype(np.int16)
    path = tmp_path_factory.mktemp("source") / "source.nii.gz"
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture(scope="module")
def query(encoder, source):
    """Return the embedding at the point."""
    return query_at(encoder, source, POINT, SETTINGS)


@pytest.fixture(scope="module")
def straight(encoder, source, query):
    """Return what is found in the source itself."""
    return find(encoder, query, source, SETTINGS)


def test_its_own_point_is_found_with_similarity_one(straight):
    first = straight.matches[0]
    assert first.similarity == pytest.approx(1, abs=1e-5) and first.rank == 1
    np.testing.assert_allclose(first.voxel, POINT, atol=1e-4)
    z, y, x = POINT
    np.testing.assert_allclose(first.point_mm, (-100 + 4 * x, -120 + 4 * y, -40 + 6 * z), atol=1e-3)
    assert straight.heat.shape == SHAPE[::-1]
    assert straight.heat[19:21, 23:25, 27:29].min() > np.median(straight.heat)


@pytest.mark.parametrize("sides", ["RAS", "LPI", "SPL", "AIR", "IRP", "PSR", "ASL", "LIA"])
def test_reoriented_scans_give_the_same_place_and_map(encoder, source, query, straight, tmp_path, sides):
    original = nib.load(source)
    to = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(original.affine), nib.orientations.axcodes2ornt(tuple(sides))
    )
    turned = original.as_reoriented(to)
    nib.save(turned, tmp_path / "turned.nii.gz")
    found = find(encoder, query, tmp_path / "turned.nii.gz", SETTINGS)
    np.testing.assert_allclose(found.matches[0].point_mm, straight.matches[0].point_mm, atol=1e-3)
    voxel = np.append(found.matches[0].voxel[::-1], 1)
    np.testing.assert_allclose((turned.affine @ voxel)[:3] * (-1, -1, 1), found.matches[0].point_mm, atol=1e-3)
    found.grid.write(found.heat, tmp_path / "heat.nii.gz")
    straight.grid.write(straight.heat, tmp_path / "straight.nii.gz")
    assert np.array_equal(nib.load(tmp_path / "heat.nii.gz").affine, turned.affine)
    there = sitk.ReadImage(tmp_path / "heat.nii.gz")
    back = sitk.Resample(
        there, sitk.ReadImage(tmp_path / "straight.nii.gz"), sitk.Transform(), sitk.sitkNearestNeighbor
    )
    np.testing.assert_allclose(sitk.GetArrayFromImage(back), straight.heat, atol=1e-5)


@pytest.mark.parametrize("degrees", [20.0, -35.0])
def test_an_oblique_flipped_finer_copy_gives_the_same_place(encoder, source, query, straight, tmp_path, degrees):
    """The body lies turned on the table; its grid is turned, mirrored, and finer along z."""
    original = nib.load(source)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s, 0, 30.0], [s, c, 0, -12.0], [0, 0, 1, 55.0], [0, 0, 0, 1]])
    flip, finer = np.diag([-1.0, 1.0, -1.0, 1.0]), np.diag([1, 1, 0.5, 1])
    flip[:3, 3] = (SHAPE[0] - 1, 0, 2 * SHAPE[2] - 1)
    finer[2, 3] = -0.25
    array = np.repeat(np.asanyarray(original.dataobj), 2, axis=2)[::-1, :, ::-1]
    made = nib.Nifti1Image(array, turn @ original.affine @ finer @ flip)
    nib.save(made, tmp_path / "oblique.nii.gz")
    found = find(encoder, query, tmp_path / "oblique.nii.gz", SETTINGS)
    assert found.heat.shape == (2 * SHAPE[2], SHAPE[1], SHAPE[0])
    wanted = (turn @ np.append(np.multiply(straight.matches[0].point_mm, (-1, -1, 1)), 1))[:3] * (-1, -1, 1)
    step = np.linalg.norm(np.multiply((2, 4, 4), (6, 4, 4)))
    assert np.linalg.norm(np.subtract(found.matches[0].point_mm, wanted)) < step / 2
    given = from_nifti(made)
    np.testing.assert_allclose(given.world(found.matches[0].voxel), found.matches[0].point_mm, atol=1e-3)
    ours = found.heat[::-1, :, ::-1].reshape(SHAPE[2], 2, SHAPE[1], SHAPE[0]).mean(1)
    assert np.corrcoef(ours.ravel(), straight.heat.ravel())[0, 1] > 0.99


def test_points_in_voxels_and_in_millimetres_are_the_same(encoder, source, query, straight):
    there = query_at(encoder, source, straight.matches[0].point_mm, SETTINGS, in_mm=True)
    np.testing.assert_allclose(there, query, atol=1e-6)


def test_fast_mode_finds_its_own_point_too(encoder, source):
    settings = SETTINGS.model_copy(update={"mode": "fast"})
    shares = []
    (found,) = search(
        encoder, source, POINT, [source], settings, watch=lambda name, share: shares.append((name, share))
    )
    np.testing.assert_allclose(found.matches[0].voxel, POINT, atol=1e-4)
    assert found.matches[0].similarity == pytest.approx(1, abs=1e-4) and shares[-1] == ("source", 1.0)


def test_the_command(folder, source, tmp_path, capsys):
    (tmp_path / "torn.nii.gz").write_bytes(b"torn")
    store.save(read_image(source), tmp_path / "kept.b2nd")
    targets = [source, tmp_path / "torn.nii.gz", tmp_path / "gone.nrrd", tmp_path / "kept.b2nd"]
    given = {"encoder": str(folder), "patch": (8, 16, 16), "overlap": 0.5, "crop": "volume"}
    with pytest.raises(typer.Exit) as left:
        search_command(source, targets, point="20,24,28", out=tmp_path / "out", count=2, as_json=True, **given)
    assert left.value.exit_code == 1
    told = json.loads(capsys.readouterr().out)
    assert [row["reason"] for row in told["targets"]] == ["", "unreadable", "missing_image", ""]
    assert told["point"] == [20, 24, 28] and told["settings"]["patch"] == [8, 16, 16]
    failures = json.loads((tmp_path / "out/failures.json").read_text())
    assert set(failures) == {"torn", "gone"}
    rows = pd.read_csv(tmp_path / "out/matches.csv")
    assert rows.target.tolist() == ["source"] * 2 + ["kept"] * 2 and rows["rank"].tolist() == [1, 2, 1, 2]
    one, other = (rows[rows.target == name].drop(columns="target").to_numpy() for name in ("source", "kept"))
    np.testing.assert_allclose(one, other, atol=0.02)
    places = rows[["l_mm", "p_mm", "s_mm"]].to_numpy()
    assert np.linalg.norm(places[0] - places[1]) >= 32  # half an edge of 16 voxels of 4 mm
    heat, scan = nib.load(tmp_path / "out/source.nii.gz"), nib.load(source)
    assert np.array_equal(heat.affine, scan.affine) and heat.shape == scan.shape
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "failures.json", "kept.nii.gz", "matches.csv", "source.nii.gz"
    ]  # fmt: skip
    search_command(source, [source], point_mm="8,-20,80", out=tmp_path / "out", **given)
    assert not (tmp_path / "out/failures.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either --point z,y,x or --point-mm"),
        ({"point": "1,2,3", "point_mm": "1,2,3"}, "either --point"),
        ({"point": "1,2"}, r"--point '1,2': must be three numbers z,y,x"),
        ({"point_mm": "a,b,c"}, "--point-mm 'a,b,c': must be three numbers L,P,S"),
        ({"point": "34,2,3"}, r"voxel 34, 2, 3 is outside of .*run from 0 to 33, 49, 59"),
        ({"point_mm": "999,0,0"}, "outside of"),
        ({"point": "1,2,3", "mode": "quick"}, "--mode: "),
        ({"point": "1,2,3", "count": 0}, "--count: "),
        ({"point": "1,2,3", "spacing": (0, 1, 1)}, "--spacing"),
        ({"point": "1,2,3", "encoder": "nowhere"}, "nowhere"),
    ],
)
def test_what_is_wrong_is_told(folder, source, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        search_command(source, [source], **{"encoder": str(folder), "out": tmp_path / "out", **options})


def test_a_source_that_cannot_be_used_and_a_target_that_would_be_replaced(folder, source, tmp_path):
    with pytest.raises(UserError, match=r"gone\.nii\.gz: missing_image"):
        search_command(tmp_path / "gone.nii.gz", [source], point="1,2,3", encoder=str(folder), out=tmp_path / "out")
    with pytest.raises(UserError, match="would be replaced"):
        search_command(source, [source], point="1,2,3", encoder=str(folder), out=source.parent)


def test_real_scans_in_all_kinds_of_files(shared_data, tmp_path):
    """A NIfTI file, a folder of DICOM and a tilted gantry; each map lies where its scan is, and on all of it."""
    encoder = Encoder(write_encoder(tmp_path / "coarse", spacing_mm=(12.0, 8.0, 8.0), patch=(8, 16, 16)))
    source = shared_data / "nifti/trunk_3mm.nii.gz"
    targets = [shared_data / name for name in ("nifti/abdomen_3mm.nii.gz", "dicom/head_tilt_stereotaxis")]
    middle = np.divide(nib.load(source).shape[::-1], 2)
    for target, found in zip(targets, search(encoder, source, middle, targets, Search(overlap=0.5)), strict=True):
        assert not found.failure and np.isfinite(found.heat).all() and np.ptp(found.heat) > 0
        volume, _ = scans.read(target)
        inside = np.asarray(found.matches[0].voxel)
        assert (inside >= -0.5).all() and (inside <= np.asarray(found.heat.shape) - 0.5).all()
        if target.is_dir():
            assert found.heat.shape == volume.shape and np.array_equal(found.grid.affine, volume.affine)
        else:
            assert found.heat.shape == nib.load(target).shape[::-1]


def test_a_point_in_air(encoder, tmp_path):
    array = np.full(SHAPE, -1000, np.int16)
    array[20:40, 15:40, 5:30] = 40
    nib.save(nib.Nifti1Image(array, np.diag([4.0, 4, 6, 1])), tmp_path / "body.nii.gz")
    with pytest.raises(UserError, match=r"lies in air around the body.*--crop volume"):
        query_at(encoder, tmp_path / "body.nii.gz", (1, 1, 1), Search())
    assert searching.query_at(encoder, tmp_path / "body.nii.gz", (15, 20, 30), Search()).shape == (64,)
