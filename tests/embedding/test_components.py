"""Components and colours of patches against scikit-learn on plain rows, closed forms and known colours."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms
from sklearn.decomposition import PCA

from ctfm.embedding import components, dense, read
from ctfm.embedding.encode import Encoder
from ctfm.errors import UserError
from ctfm.imaging.volume import Volume
from ctfm.options import Patches

# CIELAB of the corners of sRGB under D65, as many tables have them
KNOWN = {
    (1, 0, 0): (53.2408, 80.0925, 67.2032),
    (0, 1, 0): (87.7347, -86.1827, 83.1793),
    (0, 0, 1): (32.2970, 79.1875, -107.8602),
    (1, 1, 0): (97.1393, -21.5537, 94.4780),
    (0, 1, 1): (91.1132, -48.0875, -14.1312),
    (1, 0, 1): (60.3242, 98.2343, -60.8249),
    (1, 1, 1): (100, 0, 0),
    (0, 0, 0): (0, 0, 0),
}


def test_colours_are_the_known_ones():
    found = components.srgb(np.array(list(KNOWN.values())))
    np.testing.assert_allclose(found, np.array(list(KNOWN), float), atol=2e-3)
    assert components.srgb(np.array([53.585, 0, 0])) == pytest.approx(128 / 255, abs=1e-4)  # its L* is in many tables
    assert np.isnan(components.srgb(np.full(3, np.nan))).all()


def test_colours_are_those_of_a_colour_engine():
    """LittleCMS has 8 bits and the white D50, which it adapts to: within a few grey values."""
    lab = np.array([[l, a, b] for l in (50, 60, 75) for a in (-15, 0, 15) for b in (-15, 0, 15)])  # noqa: E741
    bits = np.column_stack([np.rint(lab[:, 0] * 2.55), lab[:, 1] + 128, lab[:, 2] + 128]).astype(np.uint8)
    bits[:, 1:] ^= 0x80  # Pillow keeps a and b as signed bytes
    image = Image.frombytes("LAB", (len(lab), 1), bits.tobytes())
    way = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    theirs = np.asarray(ImageCms.applyTransform(image, way))[0] / 255
    assert np.abs(components.srgb(lab) - theirs).max() < 0.04


def test_rows_are_embeddings_and_scans_can_be_swapped():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(40, 16)) + np.arange(16), rng.normal(size=(25, 16)) * 2
    a, b = components.principal([first, second])
    plain = PCA(3).fit(np.concatenate([first, second]))
    np.testing.assert_allclose(a, plain.transform(first), atol=1e-8)
    np.testing.assert_allclose(b, plain.transform(second), atol=1e-8)
    swapped_b, swapped_a = components.principal([second, first])
    np.testing.assert_allclose(a, swapped_a, atol=1e-8)
    np.testing.assert_allclose(b, swapped_b, atol=1e-8)
    scaled = components.principal([first * 1000, second * 1000], standardise=True)
    np.testing.assert_allclose(scaled[0], components.principal([first, second], standardise=True)[0], atol=1e-8)


def brute_otsu(values):
    cuts = np.sort(values)[:-1]
    between = [
        (values <= c).mean() * (values > c).mean() * (values[values <= c].mean() - values[values > c].mean()) ** 2
        for c in cuts
    ]
    return cuts[int(np.argmax(between))]


def test_background_is_where_the_first_component_is_that_of_air():
    rng = np.random.default_rng(0)
    hu = [rng.choice([-1000.0, 40.0], 200, p=[0.3, 0.7]) for _ in range(2)]
    for sign in (1, -1):
        first = [sign * (np.where(h < -500, -12, 3) + rng.normal(0, 1, 200)) for h in hu]
        turned, inside = components.foreground(first, hu)
        assert all((mask == (h > -500)).all() for mask, h in zip(inside, hu, strict=True))
        assert all((t == sign * f).all() for t, f in zip(turned, first, strict=True))
        every = np.concatenate(turned)
        limit = brute_otsu(every)
        assert (np.concatenate(inside) == (every > limit)).all()


def test_colours_span_the_foreground_of_all_scans():
    values = [np.array([[0.0, 1, 2], [10, 3, 2], [-50, 99, 99]]), np.array([[5.0, 2, 4]])]
    one, two = components.lab(values, [np.array([True, True, False]), np.array([True])])
    assert one[0].tolist() == [0, -128, -128] and one[1].tolist() == [100, 127, -128] and np.isnan(one[2]).all()
    np.testing.assert_allclose(two[0], [50, -0.5, 127])


@pytest.fixture(scope="module")
def scans(folder, tmp_path_factory):
    """Return two scans with a bright box in air, the second mirrored, as dense embeddings."""
    encoder, made = Encoder(folder), []
    for number in range(2):
        array = np.full((20, 60, 60), -1000, np.int16)
        array[4:16, 12:44, 12:44] = 40
        array[8:14, 20:30, 20:40] = 300 + 100 * number
        array = array + np.random.default_rng(number).integers(-9, 9, array.shape, dtype=np.int16)
        volume = Volume(array[..., :: 1 - 2 * number], np.diag([6.0, 4.0, 4.0, 1.0])[:, [2, 1, 0, 3]][[2, 1, 0, 3]])
        volume = Volume(volume.array, np.array([[0, 0, 4.0, 0], [0, 4.0, 0, 0], [6.0, 0, 0, 0], [0, 0, 0, 1.0]]))
        scan = read.prepare(volume, encoder.preprocess, tmp_path_factory.mktemp("scan"), crop="volume")
        made.append(dense.embed(encoder, scan, Patches(patch=(8, 16, 16), overlap=0.5)))
    return made


def test_patches_of_scans_get_colours_and_know_their_density(scans):
    one, two = components.colour(scans)
    swapped = components.colour(scans[::-1])
    for found, again, scan in ((one, swapped[1], scans[0]), (two, swapped[0], scans[1])):
        assert len(found.lab) == len(scan.grid) and (np.isnan(found.lab[:, 0]) == ~found.foreground).all()
        np.testing.assert_allclose(found.components, again.components, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.lab, again.lab, atol=1e-2)
        assert 0 < found.foreground.mean() < 1
    corner, patch = scans[0].grid.corners[-1], scans[0].grid.patch
    whole = np.full((40, 90, 90), -1024.0)
    whole[:20, :60, :60] = scans[0].scan.volume.handle[:]
    part = whole[tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))]
    assert components.mean_hu(scans[0])[-1] == pytest.approx(part.mean())


def test_patches_that_are_all_alike_are_told():
    with pytest.raises(UserError, match="3 patches can't be told apart"):
        components.principal([np.eye(3)])
    with pytest.raises(UserError, match="9 patches can't be told apart"):
        components.principal([np.ones((9, 4))])
