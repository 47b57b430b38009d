from __future__ import annotations

import monai.transforms as mt
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp, kstest
from torch.nn import functional as F

from ctfm.config import Augment
from ctfm.training import augment, seeds

ALL = Augment(
    flip_p=(0.5, 0.5, 0.5),
    affine_p=0.5,
    histogram_p=0.5,
    intensity_p=0.5,
    smooth_p=0.5,
    resized_crop=(0.5, 1.0),
    shift_p=0.5,
    noise_p=0.5,
)
SHAPE = (12, 20, 24)


def images(count: int = 3, shape=SHAPE) -> torch.Tensor:
    made = [gaussian_filter(np.random.default_rng(i).random(shape), 1.5) for i in range(count)]
    made = np.stack([(a - a.min()) / (a.max() - a.min()) for a in made])
    return torch.from_numpy(made[:, None].astype(np.float32))


def neutral(count: int) -> dict[str, torch.Tensor]:
    none = Augment(resized_crop=(1, 1))
    return augment.draw(count, none, torch.Generator().manual_seed(0))


def test_rotation_and_zoom_are_monais():
    x, drawn = images(2), neutral(2)
    drawn["angles"] = torch.tensor([[0.1, -0.2, 0.25], [0.2, 0.1, -0.15]])
    drawn["zoom"] = torch.tensor([[0.9, 1.1, 1.2], [1.05, 0.8, 1.0]])
    got = augment.warp(x, augment.theta(drawn, x.shape[2:], (1, 1, 1)), "bilinear")
    for i in range(2):
        theirs = mt.Affine(
            rotate_params=drawn["angles"][i].tolist(),
            scale_params=drawn["zoom"][i].tolist(),
            padding_mode="border",
            image_only=True,
        )(x[i])
        assert torch.allclose(got[i], torch.as_tensor(np.asarray(theirs)), atol=2e-5)


def test_rotation_is_rigid_in_millimetres():
    # A quarter turn in the plane of z (3 mm) and y (1 mm) must carry 12 mm along y onto 12 mm, four voxels, along z.
    x, drawn = torch.zeros(1, 1, 13, 37, 5), neutral(1)
    x[0, 0, 6, 18 + 12, 2] = 1
    drawn["angles"] = torch.tensor([[0.0, 0.0, torch.pi / 2]])
    got = augment.warp(x, augment.theta(drawn, x.shape[2:], (3, 1, 1)), "bilinear")
    z, y, _ = (int(i) for i in np.unravel_index(int(got.argmax()), got.shape[2:]))
    assert (abs(z - 6), y) == (4, 18)


def test_crop_and_resize_is_interpolation_of_the_crop():
    x, drawn = images(1), neutral(1)
    drawn["size"] = torch.tensor([0.5])
    drawn["place"] = torch.tensor([[-1.0, 1.0, 0.0]])
    got = augment.warp(x, augment.theta(drawn, x.shape[2:], (3, 1, 1)), "bilinear")
    theirs = F.interpolate(x[:, :, :6, 10:, 6:18], size=SHAPE, mode="trilinear", align_corners=False)
    inner = (..., slice(1, -1), slice(1, -1), slice(1, -1))
    assert torch.allclose(got[inner], theirs[inner], atol=1e-5)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2)])
def test_flips_are_exact(axes):
    x, drawn = images(2), neutral(2)
    for axis in axes:
        drawn["flip"][:, axis] = -1
    got = augment.warp(x, augment.theta(drawn, x.shape[2:], (3, 1, 1)), "bilinear")
    assert torch.allclose(got, x.flip([axis + 2 for axis in axes]), atol=1e-5)


def test_histogram_shift_is_monais():
    x = images(3)
    for i in range(3):
        theirs = mt.RandHistogramShift(num_control_points=5, prob=1.0).set_random_state(i)
        want = theirs(x[i])
        points = torch.as_tensor(np.asarray(theirs.floating_control_points), dtype=torch.float32)[None]
        got = augment.histogram_shift(x[i : i + 1], points)
        assert torch.allclose(got[0], torch.as_tensor(np.asarray(want)), atol=1e-5)


def test_control_points_rise_and_are_redrawn_in_order():
    uniform = torch.rand(500, 5, generator=torch.Generator().manual_seed(0))
    got = augment.control_points(uniform).numpy()
    assert (np.diff(got) >= 0).all() and (got[:, 0] == 0).all() and (got[:, -1] == 1).all()
    want = np.linspace(0, 1, 5)
    for i in (1, 2, 3):
        want[i] = want[i - 1] + float(uniform[7, i]) * (want[i + 1] - want[i - 1])
    assert np.allclose(got[7], want, atol=1e-6)


def test_smoothing_is_monais_away_from_the_edge():
    x, sigma = images(2, (40, 44, 48)), torch.tensor([[0.5, 1.0, 1.5], [1.2, 0.3, 0.8]])
    got = augment.smooth(x, sigma)
    for i in range(2):
        theirs = mt.GaussianSmooth(sigma=sigma[i].tolist(), approx="erf")(x[i])
        inner = (0, slice(8, -8), slice(8, -8), slice(8, -8))
        assert torch.allclose(got[i][inner], torch.as_tensor(np.asarray(theirs))[inner], atol=1e-3)
    assert torch.equal(augment.smooth(x, torch.zeros(2, 3)), x)
    assert torch.allclose(augment.smooth(torch.ones(1, 1, 9, 9, 9), torch.ones(1, 3)), torch.tensor(1.0), atol=1e-6)


def test_each_operation_strikes_its_share_of_samples_and_no_more():
    drawn = augment.draw(4000, ALL, torch.Generator().manual_seed(0))
    ramp = torch.linspace(0, 1, 5)
    struck = {
        "flip": (drawn["flip"] == -1).float().mean(),
        "affine": (drawn["angles"] != 0).any(1).float().mean(),
        "histogram": (drawn["points"] - ramp).abs().gt(1e-6).any(1).float().mean(),
        "smooth": (drawn["sigma"] > 0).any(1).float().mean(),
        "intensity": (drawn["factor"] != 1).float().mean(),
        "shift": (drawn["offset"] != 0).float().mean(),
        "noise": (drawn["noise"] > 0).float().mean(),
    }
    assert all(abs(float(share) - 0.5) < 0.04 for share in struck.values()), struck
    assert drawn["size"].min() >= 0.5 and drawn["size"].max() <= 1 and abs(drawn["size"].mean() - 0.75) < 0.01
    assert drawn["sigma"][drawn["sigma"] > 0].min() >= 0.25 and drawn["sigma"].max() <= 1.5
    assert drawn["angles"].abs().max() <= 0.26 and (drawn["zoom"] - 1).abs().max() <= 0.2 + 1e-6
    spared = augment.draw(100, Augment(resized_crop=(1, 1)), torch.Generator().manual_seed(0))
    assert (spared["angles"] == 0).all() and (spared["zoom"] == 1).all() and (spared["factor"] == 1).all()
    assert (spared["offset"] == 0).all() and (spared["noise"] == 0).all()
    assert drawn["offset"].abs().max() <= 0.1 and drawn["noise"].max() <= 0.1
    assert len(drawn["seed"].unique()) == 4000


def test_views_depend_on_the_generator_alone_and_stay_in_range():
    x = images(6)
    first, again, other = (augment.views(x, ALL, seeds.torch_generator("cpu", key)) for key in (1, 1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    assert first.shape == x.shape and first.min() >= 0 and first.max() <= 1
    assert torch.equal(augment.views(x, Augment(resized_crop=(1, 1)), torch.Generator()), x)


def test_scans_keep_their_draws_however_they_are_batched():
    x = images(4)
    draws = [augment.draw(2, ALL, seeds.torch_generator("cpu", 0, "views", scan)) for scan in range(2)]
    together = augment.apply(x, augment.join(draws, x.device), ALL)
    apart = torch.cat([augment.apply(x[2 * i : 2 * i + 2], draws[i], ALL) for i in range(2)])
    assert torch.allclose(together, apart, atol=1e-6)


def test_labels_move_with_their_images():
    x = torch.zeros(4, 1, 16, 24, 24)
    x[:, :, 4:12, 6:15, 8:20] = 1
    labels = (x * 117).to(torch.uint8)
    settings = Augment(flip_p=(0, 0, 0.5), affine_p=1.0, smooth_p=0.5, intensity_p=0.5, resized_crop=(1, 1))
    plain = settings.model_copy(update={"smooth_p": 0.0, "intensity_p": 0.0})
    moved, moved_labels = augment.paired(x, labels, plain, seeds.torch_generator("cpu", 3))
    assert moved_labels.dtype == torch.uint8 and set(moved_labels.unique().tolist()) == {0, 117}
    assert not torch.equal(labels, moved_labels)
    far = (moved > 0.75) | (moved < 0.25)
    assert ((moved > 0.5) == (moved_labels > 0))[far].float().mean() > 0.999
    _, same = augment.paired(x, labels, settings, seeds.torch_generator("cpu", 3))
    assert same.shape == labels.shape


def test_a_shift_is_monais():
    x, drawn = images(2), neutral(2)
    drawn["offset"], drawn["factor"] = torch.tensor([0.07, -0.1]), torch.tensor([1.2, 0.9])
    got = augment.apply(x, drawn, Augment(resized_crop=(1, 1), shift_p=1, intensity_p=1))
    for i, (factor, offset) in enumerate(((0.2, 0.07), (-0.1, -0.1))):
        theirs = mt.ShiftIntensity(offset)(mt.ScaleIntensity(minv=None, maxv=None, factor=factor)(x[i]))
        assert torch.allclose(got[i], torch.as_tensor(np.asarray(theirs)).clamp(0, 1), atol=1e-6)


def test_noise_is_normal_and_belongs_to_the_sample_and_the_voxel():
    seeds_of = torch.randint(2**31, (6,), generator=torch.Generator().manual_seed(1))
    shape = torch.Size((32, 48, 40))
    made = augment.noise(seeds_of, shape)
    assert made.shape == (6, 1, *shape) and made.dtype == torch.float32
    assert torch.equal(augment.noise(seeds_of[4:5], shape), made[4:5])  # however a batch is cut
    for one in made:
        assert kstest(one.ravel()[::7].numpy(), "norm").pvalue > 1e-3
    values = made.flatten(1).double()
    assert (values.mean(1).abs() < 0.015).all() and ((values.std(1) - 1).abs() < 0.015).all()
    apart = torch.corrcoef(torch.cat([values, values[:1].roll(1, 1), values[:1].roll(40, 1)]))
    assert (apart - torch.eye(len(apart))).abs().max() < 0.02  # other samples, neighbours along x and along y


def test_the_strength_of_the_noise_is_drawn_as_monai_draws_it():
    still = Augment(resized_crop=(1, 1), noise_p=1)
    grey = torch.full((400, 1, 6, 8, 8), 0.5)
    ours = (augment.views(grey, still, torch.Generator().manual_seed(0)) - grey).flatten(1).std(1)
    theirs = mt.RandGaussianNoise(prob=1.0, mean=0.0, std=0.1).set_random_state(0)
    wanted = [float((torch.as_tensor(np.asarray(theirs(one))) - one).std()) for one in grey]
    assert ks_2samp(ours.numpy(), wanted).pvalue > 1e-3


def test_crop_flip_and_intensity_are_monais():
    x, drawn = images(1), neutral(1)
    drawn["size"], drawn["place"] = torch.tensor([0.5]), torch.tensor([[-1.0, 1.0, 0.0]])
    drawn["flip"], drawn["factor"] = torch.tensor([[-1.0, 1, 1]]), torch.tensor([0.8])
    settings = Augment(resized_crop=(0.5, 0.5), flip_p=(1, 0, 0), intensity_p=1)
    got = augment.apply(x, drawn, settings)
    theirs = mt.Compose(
        [
            mt.SpatialCrop(roi_start=(0, 10, 6), roi_end=(6, 20, 18)),
            mt.Resize(SHAPE, mode="trilinear", align_corners=False),
            mt.Flip(spatial_axis=0),
            mt.ScaleIntensity(minv=None, maxv=None, factor=-0.2),
        ]
    )(x[0])
    inner = (..., slice(1, -1), slice(1, -1), slice(1, -1))
    assert torch.allclose(got[0][inner], torch.as_tensor(np.asarray(theirs))[inner], atol=1e-5)
