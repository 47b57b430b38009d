from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ctfm import plugins
from ctfm.datasets._medmnist import ORGANS
from ctfm.phantom import anatomy, organmnist3d
from ctfm.phantom.cases import cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("organmnist3d")
    organmnist3d.write(folder, cases(0, 3, 10.0))
    return folder


def test_arrays_are_as_published(folder):
    with np.load(folder / "organmnist3d.npz") as content:
        assert set(content) == {f"{part}_{kind}" for part in ("train", "val", "test") for kind in ("images", "labels")}
        for part in ("train", "val", "test"):
            images, labels = content[f"{part}_images"], content[f"{part}_labels"]
            assert images.dtype == labels.dtype == np.uint8 and images.shape == (len(labels), 28, 28, 28)
            assert labels.shape == (len(labels), 1) and len(labels) > 4 and labels.max() < len(ORGANS)
            assert images.max() > 200 > 50 > images.min()


def test_the_reader_takes_it_and_it_repeats(folder, tmp_path):
    plugin = plugins.get("datasets", "organmnist3d")
    plugin.check(folder)
    found = list(plugin.cases(folder))
    assert {case.split for case in found} == {"train", "val", "test"}
    own = (folder / "organmnist3d.npz.md5").read_text().split()[0]
    assert own == hashlib.md5((folder / "organmnist3d.npz").read_bytes()).hexdigest()
    organmnist3d.write(tmp_path, cases(0, 3, 10.0))
    for name in ("organmnist3d.npz", "organmnist3d.npz.md5"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_cube_holds_its_organ_and_has_the_published_axes():
    case = next(iter(cases(0, 3, 10.0)))
    made = {ORGANS[number]: cube.astype(float) for cube, number in organmnist3d.cubes(case)}
    assert np.median(made["lung-right"]) + 40 < np.median(made["liver"])
    mask = case.label.array == anatomy.labels()["liver"]
    low, high = (f(np.argwhere(mask), axis=0) for f in (np.min, np.max))
    box = case.image.array[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))].clip(-160, 240)
    for axis in range(3):  # halves of the box differ as those of the cube do, whose axes run (x, y, z)
        halves = [part.mean() for part in np.array_split(box, 2, axis)]
        ours = [part.mean() for part in np.array_split(made["liver"], 2, 2 - axis)]
        assert (halves[0] - halves[1]) / 400 * 255 == pytest.approx(ours[0] - ours[1], abs=15)
        assert np.sign(halves[0] - halves[1]) == np.sign(ours[0] - ours[1])
