from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric

from ctfm.metrics import overlap

IDS = {"liver": 1, "spleen": 2, "cyst": 3, "rib": 7}
GROUPS = {"liver": "organs", "spleen": "organs", "cyst": "organs", "rib": "ribs"}


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 2, 7], p=[0.6, 0.2, 0.1, 0.1], size=(20, 30, 40)).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.7, truth, rng.choice([0, 1, 2, 3], size=truth.shape))
    return truth, prediction.astype(np.uint8)


def value(rows, label, metric):
    found = [row["value"] for row in rows if row["label"] == label and row["metric"] == metric]
    assert len(found) <= 1
    return found[0] if found else None


def test_dice_equals_monai(pair):
    truth, prediction = pair
    rows = overlap.rows(overlap.joint_histogram(truth, prediction), IDS, GROUPS, 1.0)
    monai = DiceMetric(include_background=False, reduction="none", num_classes=8)
    wanted = monai(torch.from_numpy(prediction)[None, None].long(), torch.from_numpy(truth)[None, None].long())[0]
    for name, i in IDS.items():
        ours = value(rows, name, "dice")
        if np.isnan(wanted[i - 1]):
            assert ours is None
        else:
            assert ours == pytest.approx(float(wanted[i - 1]), abs=1e-6)


def test_histogram_equals_numpy_and_does_not_depend_on_chunks(pair, monkeypatch):
    truth, prediction = pair
    wanted = np.histogram2d(truth.ravel(), prediction.ravel(), bins=np.arange(257))[0]
    assert np.array_equal(overlap.joint_histogram(truth, prediction), wanted)
    monkeypatch.setattr(overlap, "CHUNK_VOXELS", 777)
    assert np.array_equal(overlap.joint_histogram(truth, prediction), wanted)


def test_absent_labels_are_not_counted_and_false_ones_cost():
    truth = np.array([[[1, 1, 0, 0, 2, 2]]], np.uint8)
    prediction = np.array([[[1, 1, 3, 3, 0, 0]]], np.uint8)
    rows = overlap.rows(overlap.joint_histogram(truth, prediction), IDS, GROUPS, voxel_ml=0.5)
    assert value(rows, "liver", "dice") == 1
    assert value(rows, "spleen", "dice") == 0
    assert [r["note"] for r in rows if r["label"] == "spleen"] == ["missed"] * 2
    assert value(rows, "cyst", "dice") is None
    assert value(rows, "cyst", "dice_strict") == 0
    assert value(rows, "cyst", "false_positive_ml") == 1.0
    assert not [r for r in rows if r["label"] == "rib"]
    assert value(rows, "all", "micro_dice") == pytest.approx(2 * 2 / (4 + 4))
    assert {r["label"]: r["group"] for r in rows} == {
        "liver": "organs",
        "spleen": "organs",
        "cyst": "organs",
        "all": "all",
    }


def test_only_the_labels_asked_for_count():
    truth = np.array([[[1, 2]]], np.uint8)
    rows = overlap.rows(overlap.joint_histogram(truth, truth), {"liver": 1}, {}, 1.0)
    assert {row["label"] for row in rows} == {"liver", "all"}
    assert rows[0]["group"] == "other"


def test_macro_is_the_mean_of_label_means():
    table = [
        {"label": "a", "metric": "dice", "value": 1.0},
        {"label": "a", "metric": "dice", "value": 0.0},
        {"label": "b", "metric": "dice", "value": 1.0},
        {"label": "b", "metric": "dice_strict", "value": 0.0},
    ]
    assert overlap.macro(table) == 0.75
    assert np.isnan(overlap.macro([]))


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        overlap.joint_histogram(np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 4), np.uint8))
