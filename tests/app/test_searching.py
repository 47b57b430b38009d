"""What a search finds, held against the library's functions and SimpleITK; memory, progress and stopping."""

from __future__ import annotations

import csv
import io

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.distance import pdist

from ctfm.app import demo, searching
from ctfm.app.jobs import Job, Stopped
from ctfm.app.library import Entry
from ctfm.app.searching import Found
from ctfm.app.sources import Source
from ctfm.embedding import dense
from ctfm.embedding.searching import search
from ctfm.errors import UserError
from ctfm.imaging import store
from tests.app.conftest import OVERLAP, PATCH, block, nifti


@pytest.fixture(scope="module")
def asked(site):
    """Search the first phantom for a place in its liver, in itself and in the second one."""
    source, other = site.library.get("1"), site.library.get("2")
    opened = source.open()
    liver = next(number for number, name in opened.ids.items() if name == "liver")
    inside = np.argwhere(opened.label.load().array == liver)
    voxel = inside[np.abs(inside - inside.mean(axis=0)).sum(axis=1).argmin()]
    point = opened.volume.load().world(voxel)
    job = Job("t")
    site.searcher.search(job, source, point, [source, other])
    return site.searcher, job, point


def test_the_place_itself_is_found_first_in_its_own_scan(asked):
    _, job, point = asked
    own = job.results[0]
    best = own.matches[0]
    step = np.multiply(PATCH, demo.PREPROCESS.spacing_mm) * (1 - OVERLAP)
    assert np.abs(np.subtract(best["point_mm"], point)).max() <= step.max()
    assert best["similarity"] > 0.9
    assert [match["rank"] for match in own.matches] == list(range(1, len(own.matches) + 1))
    similar = [match["similarity"] for match in own.matches]
    assert similar == sorted(similar, reverse=True)


def test_matches_and_map_are_those_of_the_command_and_voxels_those_of_the_scan(asked, site):
    searcher, job, point = asked
    found, target = job.results[1], site.library.get("2")
    files = [site.library.get(name).source.image for name in ("1", "2")]
    (straight,) = search(searcher.encoder, files[0], point, files[1:], searcher.settings, in_mm=True)
    assert len(found.matches) == len(straight.matches) > 1
    for match, place in zip(found.matches, straight.matches, strict=True):
        assert np.allclose(match["point_mm"], place.point_mm, atol=0.01)
        assert match["similarity"] == pytest.approx(place.similarity, abs=1e-5)
    heat = nib.load(searcher.full(job.id, target)).get_fdata().transpose()  # ITK reads NaN as 0
    inside = np.isfinite(heat)
    assert inside.mean() > 0.1 and np.allclose(heat[inside], straight.heat[inside], atol=1e-5)
    image = sitk.ReadImage(str(target.open().shown))
    for match in found.matches:
        index = image.TransformPhysicalPointToIndex(match["point_mm"])
        assert np.abs(np.subtract(index[::-1], match["voxel"])).max() <= 1


def test_matches_lie_apart(asked):
    _, job, _ = asked
    half = np.multiply(PATCH, demo.PREPROCESS.spacing_mm).max() / 2
    for found in job.results:
        assert pdist([match["point_mm"] for match in found.matches]).min() >= half - 4  # one may be moved into the scan


def test_a_point_in_air_is_refused(asked, tmp_path):
    searcher, _, _ = asked
    source = Entry("9", Source("block", nifti(tmp_path / "block.nii", made := block())), tmp_path / "work")
    with pytest.raises(UserError, match="in air around the body"):
        searcher.search(Job("a"), source, made.world(np.zeros(3)), [source])


def test_the_heat_map_to_keep_has_the_scans_own_grid_and_the_drawn_one_its_extent(asked, site):
    searcher, job, _ = asked
    target = site.library.get("2")
    full = sitk.ReadImage(str(searcher.full(job.id, target)))
    scan = sitk.ReadImage(str(target.open().shown))
    assert full.GetSize() == scan.GetSize()
    assert np.allclose(full.GetOrigin(), scan.GetOrigin()) and np.allclose(full.GetDirection(), scan.GetDirection())
    drawn = sitk.ReadImage(str(searcher.folder(job.id, "2") / searching.OVERLAY))
    assert max(drawn.GetSpacing()) >= searching.OVERLAY_MM
    point = job.results[1].matches[0]["point_mm"]
    values = sitk.GetArrayFromImage(drawn)
    assert values[drawn.TransformPhysicalPointToIndex(point)[::-1]] > np.quantile(values, 0.9)
    assert job.results[1].quantiles[100] == pytest.approx(values.max())
    assert job.results[1].quantiles == sorted(job.results[1].quantiles)


def test_a_second_search_embeds_nothing(asked, site, monkeypatch):
    searcher, _, point = asked
    monkeypatch.setattr(dense, "embed", lambda *_: pytest.fail("embedded again"))
    job = Job("again")
    searcher.search(job, site.library.get("2"), point * 0 + np.asarray(job_point(site)), [site.library.get("1")])
    assert len(job.results) == 1


def job_point(site):
    volume = site.library.get("2").open().volume
    return volume.load().world(np.asarray(volume.shape) // 2)


def test_only_some_scans_stay_in_memory(asked, monkeypatch):
    searcher, _, _ = asked
    kept = searching.Searcher(searcher.encoder, searcher.settings, searcher.library)
    monkeypatch.setattr(searching, "MOST_SCANS", 1)
    for name in ("1", "2"):
        kept._dense(searcher.library.get(name), lambda _: None)
    assert list(kept._kept) == ["2"]


def test_progress_rises_to_the_end_and_stopping_ends_the_embedding(asked, site):
    searcher, _, _ = asked
    fresh = searching.Searcher(searcher.encoder, searcher.settings, searcher.library)
    shares = []
    fresh._dense(site.library.get("2"), shares.append)
    assert shares == sorted(shares) and 0 < shares[0] < 1 and shares[-1] == 1
    job = Job("s")
    job.stop.set()
    with pytest.raises(Stopped):
        searching.Searcher(searcher.encoder, searcher.settings, searcher.library)._dense(
            site.library.get("2"), lambda share: job.tell(share, "")
        )


def test_a_target_that_can_not_be_used_costs_only_itself(asked, site, tmp_path):
    searcher, _, point = asked
    (tmp_path / "bad.nii").write_bytes(b"no scan")
    bad = Entry("9", Source("bad", tmp_path / "bad.nii"), tmp_path / "work")
    job = Job("b")
    searcher.search(job, site.library.get("1"), point, [bad, site.library.get("2")])
    assert "unreadable" in job.results[0].fault and not job.results[0].matches
    assert job.results[1].matches and not job.results[1].fault


def test_the_table_repeats_the_query_and_holds_no_formula():
    match = {"rank": 1, "similarity": 0.5, "organ": None, "point_mm": [1.0, 2.0, 3.0], "voxel": None}
    found = Found("2", "=cmd()", [match, match | {"voxel": [1, 2, 3], "organ": "liver"}], [], 0.1)
    rows = list(csv.reader(io.StringIO(searching.table([found], {"source": "a,b", "point_mm": [0, 1, 2]}))))
    assert len(rows) == 3 and len({len(row) for row in rows}) == 1
    assert rows[1][:5] == ["a,b", "0", "1", "2", "'=cmd()"]
    assert rows[2][-4:] == ["3.0", "1", "2", "3"]


def test_the_drawn_map_has_no_missing_values_and_keeps_finer_axes_out(asked, tmp_path):
    made = block(spacing=(5.0, 1.0, 1.0))
    store.save(made, tmp_path / "a.b2nd")
    grid = searching.coarse(store.open_volume(tmp_path / "a.b2nd"))
    step = np.linalg.norm(grid.affine[:3, :3], axis=0)
    assert step == pytest.approx((5.0, 3.0, 3.0))
    assert np.allclose(grid.world((-0.5, -0.5, -0.5)), made.world(np.full(3, -0.5)))
    assert (np.multiply(grid.shape, step) >= np.multiply(made.shape, made.spacing) - 1e-3).all()
    searcher, job, _ = asked
    drawn = sitk.GetArrayFromImage(sitk.ReadImage(str(searcher.folder(job.id, "2") / searching.OVERLAY)))
    assert np.isfinite(drawn).all() and drawn.min() == pytest.approx(job.results[1].quantiles[0])
