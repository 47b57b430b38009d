from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_squared_error
from sklearn.metrics.pairwise import cosine_similarity

from ctfm.config import Patches
from ctfm.embedding import dense, pairs, read
from ctfm.errors import Quarantine
from ctfm.imaging import registration
from ctfm.imaging.volume import Volume, orient, read_image
from ctfm.phantom import rider

SETTINGS, ANY = Patches(overlap=0.0), pairs.Least(0.0, 0.0)


@pytest.fixture(scope="module", autouse=True)
def few_threads():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scans():
    person = rider.Person(0, 0)
    return rider.scan(person, 0), rider.scan(person, 1), rider.scan(rider.Person(3, 0), 1)


def compared(encoder, folder, repeat, least=ANY):
    found = pairs.compare(encoder, repeat, SETTINGS, folder, case="a", least=least, seed=0)
    return {name: rows.set_index("patch") for name, rows in found.rows.groupby("comparison")}, found


def test_cosine_and_mse_are_those_of_scikit_learn():
    one, other = np.random.default_rng(0).normal(size=(2, 7, 16)).astype(np.float32)
    assert pairs.cosine(one, other) == pytest.approx(np.diag(cosine_similarity(one, other)), abs=1e-6)
    assert pairs.mse(one, other) == pytest.approx(
        [mean_squared_error(a, b) for a, b in zip(one, other, strict=True)], rel=1e-6
    )
    assert pairs.cosine(np.zeros((1, 3)), np.ones((1, 3))).tolist() == [0.0]


def test_a_scan_and_itself_are_the_same_to_the_last_digit(encoder, scans, tmp_path):
    parts, found = compared(encoder, tmp_path, pairs.Repeat(scans[0], scans[0]))
    assert set(parts) == {"registered", "unregistered"}
    for rows in parts.values():
        assert rows.cosine.to_numpy() == pytest.approx(1, abs=1e-12) and (rows.mse == 0).all()
        assert (rows.common == 1).all()
    assert found.facts["registration"]["translation_mm"] == 0 and len(set(found.facts["noise_hu"])) == 1


def test_registration_brings_a_repeated_scan_nearer_than_another_person(encoder, scans, tmp_path):
    parts, found = compared(encoder, tmp_path, pairs.Repeat(*scans), pairs.Least())
    alike = {name: rows.cosine[rows.counted].mean() for name, rows in parts.items()}
    apart = {name: rows.mse[rows.counted].mean() for name, rows in parts.items()}
    assert alike["registered"] > alike["unregistered"] and alike["registered"] > alike["random"]
    assert apart["registered"] < min(apart["unregistered"], apart["random"])
    assert found.rows.case.eq("a").all() and found.facts["registration"]["ncc"] > 0.9


def test_rows_are_what_a_plain_loop_gives(encoder, scans, tmp_path):
    parts, _ = compared(encoder, tmp_path, pairs.Repeat(*scans[:2]))
    scan = read.prepare(scans[0], encoder.preprocess, tmp_path / "x")
    cut = dense.embed(encoder, scan, SETTINGS)
    there = read.prepare(scans[1], encoder.preprocess, tmp_path / "y", crop="volume").volume.load()
    moved = registration.moved(there, scan.volume.shape, scan.volume.affine, np.eye(4)).array
    ones = registration.shown(there, scan.volume.shape, scan.volume.affine, np.eye(4))
    patch = np.asarray(cut.grid.patch)
    for number, corner in enumerate(cut.grid.corners):
        low = np.asarray(corner) + scan.low
        high = np.minimum(low + patch, scan.high)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        image = np.zeros(patch, np.float32)
        image[tuple(slice(0, b - a) for a, b in zip(low, high, strict=True))] = encoder.preprocess.scale(moved[box])
        vector = encoder(torch.from_numpy(image)[None, None]).mean((2, 3, 4)).numpy()
        row = parts["unregistered"].loc[number]
        assert row.cosine == pytest.approx(cosine_similarity(cut.vectors[number : number + 1], vector)[0, 0], abs=1e-5)
        assert row.common == pytest.approx(ones[box].mean()) and [row.x_mm, row.y_mm, row.z_mm] == pytest.approx(
            cut.centres_world[number]
        )


def test_patches_that_only_one_scan_shows_or_that_are_air_do_not_count(encoder, scans, tmp_path):
    first, second, _ = scans
    short = Volume(second.array[: second.shape[0] * 4 // 5], second.affine)
    parts, found = compared(encoder, tmp_path, pairs.Repeat(first, short), pairs.Least(0.9, 0.2))
    rows = parts["registered"]
    assert rows.counted.equals((rows.common >= 0.9) & (rows.body >= 0.2))
    assert 0 < rows.counted.sum() < len(rows) and rows.common.min() < 0.5
    assert found.facts["registration"]["overlap"] < 0.9


def test_noise_is_measured_through_edges_and_gradients():
    rng = np.random.default_rng(0)
    hu = np.tile(np.linspace(-60, 60, 64), (16, 64, 1))
    hu[:, 20:40, 20:40] = 150
    hu[:, :10] = -1000
    noisy = Volume(np.rint(hu + rng.normal(0, 15, hu.shape)).astype(np.int16), np.eye(4))
    assert pairs.noise(noisy) == pytest.approx(15, rel=0.05)
    assert np.isnan(pairs.noise(Volume(np.full((4, 4, 4), -1000, np.int16), np.eye(4))))


def test_a_pair_that_cannot_be_registered_is_compared_as_it_is_placed(encoder, scans, tmp_path, monkeypatch):
    def refuse(*_):
        raise Quarantine("no_overlap", "nowhere")

    monkeypatch.setattr(registration, "register", refuse)
    parts, found = compared(encoder, tmp_path, pairs.Repeat(*scans))
    assert set(parts) == {"unregistered", "random"} and found.facts["registration"] == {"failed": "no_overlap: nowhere"}


def test_a_real_scan_moved_and_renoised(encoder, trunk, tmp_path):
    first = orient(read_image(trunk))
    first = Volume(first.array.astype(np.int16), first.affine)
    matrix = np.eye(4)
    matrix[:3, 3] = 9, -6, 15
    noise = np.random.default_rng(0).normal(0, 15, first.shape)
    second = Volume(np.rint(first.array + noise).astype(np.int16), matrix @ first.affine)
    parts, found = compared(encoder, tmp_path, pairs.Repeat(first, second), pairs.Least())
    assert np.allclose(found.facts["registration"]["matrix"], matrix, atol=0.6)
    assert parts["registered"].cosine[parts["registered"].counted].min() > 0.99
    assert parts["registered"].mse.mean() < 0.2 * parts["unregistered"].mse.mean()
    one, other = found.facts["noise_hu"]
    assert other > one
