"""Windows, the middle of a scan, heads, and views of the windows before they are joined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import ScaleIntensityRange

from ctfm.config import Augment
from ctfm.imaging import store
from ctfm.imaging.volume import Volume
from ctfm.training import seeds
from ctfm.training.classification import Classification, Classifier, Scans, Windows, middle
from ctfm.training.finetune import Recipe
from tests.makers import found_cases

LIMITS = ((0.0, 80.0), (-125.0, 175.0), (28.0, 36.0), (-900.0, 2100.0))


class Encoder(torch.nn.Module):
    """The scan itself as its only map, of three channels."""

    channels = (3,)

    def forward(self, x):
        return [torch.cat([x, 2 * x, 3 * x], 1)]


@pytest.mark.parametrize(("axis", "shape"), [(0, (24, 8, 10)), (1, (6, 32, 10)), (2, (6, 8, 40))])
def test_windows_are_monais_and_lie_beside_each_other(axis, shape):
    hu = torch.randint(-1024, 3000, (2, 6, 8, 10), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    windows = Windows(LIMITS, axis)
    joined = windows.joined(windows.parts(hu))
    assert joined.shape == (2, 1, *shape) and joined.dtype == torch.float32
    for part, (low, high) in zip(joined.chunk(4, 2 + axis), LIMITS, strict=True):
        theirs = ScaleIntensityRange(low, high, 0, 1, clip=True)(hu.float())
        torch.testing.assert_close(part[:, 0], torch.as_tensor(theirs))


def test_the_middle_is_that_of_the_body_and_what_is_missing_is_air(tmp_path):
    array = np.full((6, 10, 12), -1000, np.int16)
    array[1:3, 4:10, 6:12] = np.arange(72).reshape(2, 6, 6)
    path = tmp_path / "x.b2nd"
    store.save(Volume(array, np.eye(4)), path, {"body_box": [[1, 4, 6], [3, 10, 12]]})
    crop = middle(path, (4, 4, 8)).numpy()
    assert np.array_equal(crop[:, :, :7], array[0:4, 5:9, 5:12]) and (crop[:, :, 7] == -1024).all()
    store.save(Volume(array, np.eye(4)), path)
    assert np.array_equal(middle(path, (6, 10, 12)).numpy(), array)
    windows = Windows(LIMITS, 2)
    assert (windows.parts(torch.full((1, 2, 2, 2), -1024)) == 0).all()


def test_every_scan_once_in_a_pass_and_one_that_cannot_be_read_is_told(tmp_path):
    cases = [(case.case, case.image) for case in found_cases(tmp_path, 5)]
    scans = Scans(cases, (8, 8, 8), seed=3)
    for turn in range(2):
        assert sorted(scans[5 * turn + i]["name"] for i in range(5)) == [name for name, _ in cases]
    assert torch.equal(scans[7]["crops"], scans[7]["crops"]) and scans[0]["crops"].dtype == torch.int16
    cases[2][1].write_bytes(b"torn")
    bad = next(scans[i] for i in range(5) if scans[i]["name"] == cases[2][0])
    assert "can't be read" in bad["error"]


def test_the_head_of_the_methods_and_that_of_the_published_run():
    x = torch.rand(2, 1, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    plain = Classifier(Encoder(), "average", (1, 1, 1), (), 0.0)
    features = torch.stack([k * x.mean((1, 2, 3, 4)) for k in (1, 2, 3)], 1)
    torch.testing.assert_close(plain(x), plain.head[-1](features)[:, 0])
    deep = Classifier(Encoder(), "max", (1, 2, 2), (7, 5), 0.2).eval()
    assert [type(layer).__name__ for layer in deep.head] == ["Flatten", *["Linear", "ReLU", "Dropout"] * 2, "Linear"]
    assert [layer.out_features for layer in deep.head if hasattr(layer, "out_features")] == [7, 5, 1]
    top = torch.stack([x[:, 0, :, i : i + 3, j : j + 4].amax((1, 2, 3)) for i in (0, 3) for j in (0, 4)], 1)
    torch.testing.assert_close(deep.head[:1](deep.pool(deep.encoder(x)[-1]))[:, :4], top)
    half = Classifier(Encoder(), "average", (1, 2, 1), None, 0.0)
    assert half.head[1].in_features == 6 and half.head[1].out_features == 3


def module(augment, frozen=False):
    recipe = Recipe(1e-3, 0, 0, 10, 0.1, 0.01, augment, 0, frozen)
    with seeds.seeded(0):
        net = Classifier(Encoder(), "average", (1, 1, 1), None, 0.0)
    return Classification(net, Windows(LIMITS, 2), (5, 2, 2), recipe, {"a": 1, "b": 0})


def batch():
    hu = torch.randint(-200, 200, (2, 6, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    return {"crops": hu, "names": ["a", "b"], "items": [4, 9]}


def test_the_loss_is_binary_cross_entropy():
    made, given = module(Augment(resized_crop=(1, 1))), batch()
    windows = made.windows
    p = made.net(windows.joined(windows.parts(given["crops"]))).sigmoid()
    expected = -(p[0].log() + (1 - p[1]).log()) / 2
    torch.testing.assert_close(made.training_step(given, 0)["loss"], expected)


def test_windows_are_moved_alike_and_never_across_their_borders():
    """A scan whose windows are all one, or all zero: after any rotation and scaling each still is."""
    made = module(Augment(resized_crop=(1, 1), affine_p=1.0))
    given = batch() | {"crops": torch.full((2, 6, 8, 8), 50, dtype=torch.int16)}
    views = made.views(given)
    assert views.shape == (2, 1, 6, 8, 32)
    for part, (low, high) in zip(views.chunk(4, 4), LIMITS, strict=True):
        torch.testing.assert_close(part, torch.full_like(part, min(max((50 - low) / (high - low), 0), 1)))
    given = batch()
    views, again = made.views(given), made.views(given)
    assert torch.equal(views, again) and not torch.equal(views, module(Augment(resized_crop=(1, 1))).views(given))
    twice = made.views({**given, "crops": given["crops"][[0, 0]], "items": [4, 5]})
    assert torch.equal(twice[0], views[0]) and not torch.equal(twice[1], views[0])
