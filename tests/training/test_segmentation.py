from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss

from ctfm.config import Augment
from ctfm.imaging.preprocess import Preprocess
from ctfm.training.segmentation import LabelledCrops, Pair, Recipe, Segmentation, deep_supervision, dice_ce
from tests.makers import stored_cases

STILL = Augment(resized_crop=(1, 1))
PATCH = (12, 16, 10)


@pytest.fixture
def monai():
    return DiceCELoss(softmax=True, to_onehot_y=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-5)


def logits(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32).requires_grad_()


def target(classes, *shape):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(1))


def test_loss_and_gradient_equal_monai(monai):
    x, y = logits(2, 6, 8, 9, 10), target(5, 2, 1, 8, 9, 10)  # class 5 is absent
    ours, wanted = dice_ce(x, y), monai(x, y)
    torch.testing.assert_close(ours, wanted)
    gradients = [torch.autograd.grad(loss, x)[0] for loss in (ours, wanted)]
    torch.testing.assert_close(*gradients)


def test_deep_supervision_equals_monai(monai):
    maps, y = [logits(2, 4, 16 // k, 16 // k, 8 // k) for k in (1, 2, 4, 8)], target(4, 2, 1, 16, 16, 8)
    torch.testing.assert_close(deep_supervision(maps, y), DeepSupervisionLoss(monai)(maps, y.float()))
    torch.testing.assert_close(deep_supervision(maps[0], y), monai(maps[0], y))


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    cases = stored_cases(tmp_path_factory.mktemp("cases"), 3)
    outputs = np.zeros(256, np.uint8)
    outputs[[1, 52]] = 1, 2  # the liver (5) is not asked for
    return LabelledCrops([Pair(c.case, c.image, c.label) for c in cases], outputs, PATCH, seed=0)


def test_crops_are_a_function_of_seed_and_item(crops):
    other = LabelledCrops(crops.cases, crops.outputs, PATCH, seed=0)
    for item in (7, 2, 7):
        assert torch.equal(crops[item]["crops"], other[item]["crops"])
    assert not torch.equal(crops[0]["crops"], LabelledCrops(crops.cases, crops.outputs, PATCH, seed=1)[0]["crops"])


def test_every_case_once_in_a_pass_and_every_crop_has_a_label(crops):
    items = [crops[i] for i in range(9)]
    for turn in range(3):
        assert {item["name"] for item in items[3 * turn : 3 * turn + 3]} == {"s0000", "s0001", "s0002"}
    assert all(item["crops"][1].any() for item in items)
    assert {int(v) for item in items for v in item["crops"][1].unique()} == {0, 1, 2}


def test_image_and_classes_are_of_the_same_place(crops):
    for item in range(6):
        image, classes = crops[item]["crops"].float()
        if (classes == 1).any():
            assert abs(image[classes == 1].median() - 250) < 10  # the spleen's HU
        if (classes == 2).any():
            assert abs(image[classes == 2].median() - 500) < 10  # the aorta's


def test_a_scan_smaller_than_the_patch_is_padded_with_air_and_background(crops):
    big = LabelledCrops(crops.cases, crops.outputs, (40, 40, 40), seed=0)
    image, classes = big[0]["crops"]
    assert image[0, 0, 0] == -1024 and classes[0, 0, 0] == 0 and classes.any()


def test_a_damaged_case_is_told(crops, tmp_path):
    (tmp_path / "torn.b2nd").write_bytes(b"torn")
    broken = LabelledCrops([Pair("s9", crops.cases[0].image, tmp_path / "torn.b2nd")], crops.outputs, PATCH, 0)
    assert "case s9 can't be read" in broken[0]["error"] and "ctfm datasets" in broken[0]["error"]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.BatchNorm3d(1)
        self.head = torch.nn.Conv3d(1, 3, 1)

    def forward(self, x):
        return self.head(self.encoder(x))


def module(augment=STILL, frozen=False, seed=0):
    return Segmentation(Net(), Preprocess(), (2, 2, 2), Recipe(1e-3, 0, 2, 10, 0.1, 0.01, augment, seed, frozen))


def batch(crops, *items):
    made = [crops[item] for item in items]
    return {"crops": torch.stack([m["crops"] for m in made]), "items": list(items), "names": []}


def test_frozen_means_no_gradient_and_no_new_statistics(crops):
    net = module(frozen=True)
    net.eval().train()
    before = {k: v.clone() for k, v in net.net.encoder.state_dict().items()}
    net.training_step(batch(crops, 0, 1), 0)["loss"].backward()
    assert all(torch.equal(v, before[k]) for k, v in net.net.encoder.state_dict().items())
    assert all(p.grad is None for p in net.net.encoder.parameters())
    assert not net.net.encoder.training and net.net.head.training
    assert net.net.head.weight.grad is not None
    (group,) = net.configure_optimizers()["optimizer"].param_groups
    assert len(group["params"]) == 2


def test_views_do_not_depend_on_the_batch_they_are_in(crops):
    moving = Augment(resized_crop=(1, 1), affine_p=1.0, intensity_p=1.0, smooth_p=1.0)
    both, alone = module(moving).views(batch(crops, 0, 1)), module(moving).views(batch(crops, 1))
    assert torch.equal(both[0][1:], alone[0]) and torch.equal(both[1][1:], alone[1])
    with torch.autocast("cpu", torch.bfloat16):
        halved = module(moving).views(batch(crops, 0, 1))
    assert torch.equal(both[0], halved[0]) and torch.equal(both[1], halved[1])
    still = module().views(batch(crops, 0, 1))
    assert not torch.equal(both[0], still[0]) and not torch.equal(both[1], still[1])
    assert both[0].min() >= 0 and both[0].max() <= 1 and both[1].dtype == torch.int64
    assert set(both[1].unique().tolist()) <= {0, 1, 2}


def test_the_learning_rate_warms_up_and_ends_at_a_hundredth():
    made = module().configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:2] == pytest.approx([0.55e-3, 1e-3]) and max(rates) == rates[1]  # from a tenth, in two steps
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)
