from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric
from sklearn.metrics import confusion_matrix, f1_score

from ctfm.metrics import overlap

IDS = {"liver": 1, "spleen": 2, "cyst": 3, "rib": 7}
GROUPS = {"liver": "organs", "spleen": "organs", "cyst": "organs", "rib": "ribs"}


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 2, 7], p=[0.6, 0.2, 0.1, 0.1], size=(20, 30, 40)).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.7, truth, rng.choice([0, 1, 2, 3], size=truth.shape))
    return truth, prediction.astype(np.uint8)


def measured(truth, prediction, voxel_ml=1.0):
    rows = overlap.rows(overlap.joint_histogram(truth, prediction), IDS, GROUPS, voxel_ml)
    assert len({(row["label"], row["metric"]) for row in rows}) == len(rows)
    return {(row["label"], row["metric"]): (row["value"], row["note"]) for row in rows}


@pytest.mark.parametrize("ignore_empty", [True, False], ids=["published", "strict"])
def test_dice_equals_monai(pair, ignore_empty):
    truth, prediction = pair
    rows = measured(truth, prediction)
    monai = DiceMetric(include_background=False, reduction="none", num_classes=8, ignore_empty=ignore_empty)
    wanted = monai(torch.from_numpy(prediction)[None, None], torch.from_numpy(truth)[None, None])[0]
    metric = "dice" if ignore_empty else "dice_strict"
    ours = [rows[name, metric][0] for name in IDS]
    assert ours == pytest.approx([float(wanted[i - 1]) for i in IDS.values()], abs=1e-6, nan_ok=True)
    assert math.isnan(ours[2]) if ignore_empty else ours[2] == 0


def test_histogram_and_pooled_dice_equal_sklearn(pair):
    truth, prediction = pair
    counts = overlap.joint_histogram(truth, prediction, ids=8)
    assert np.array_equal(counts, confusion_matrix(truth.ravel(), prediction.ravel(), labels=range(8)))
    micro = f1_score(truth.ravel(), prediction.ravel(), labels=list(IDS.values()), average="micro")
    assert measured(truth, prediction)["all", "micro_dice"][0] == pytest.approx(micro, rel=1e-12)


def test_histogram_depends_neither_on_chunks_nor_on_memory_order(pair, monkeypatch):
    truth, prediction = pair
    wanted = np.histogram2d(truth.ravel(), prediction.ravel(), bins=np.arange(257))[0]
    assert np.array_equal(overlap.joint_histogram(truth, prediction), wanted)
    monkeypatch.setattr(overlap, "CHUNK_VOXELS", 777)
    assert np.array_equal(overlap.joint_histogram(truth, prediction), wanted)
    assert np.array_equal(overlap.joint_histogram(np.asfortranarray(truth), prediction), wanted)
    assert np.array_equal(overlap.joint_histogram(truth[::-1, :, ::2], prediction[::-1, :, ::2]).sum(), truth.size // 2)
    assert np.array_equal(overlap.joint_histogram(truth[::-1], prediction[::-1]), wanted)


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "<i4", ">i4", "u4", "i8", "u8"])
def test_any_integer_type(pair, kind):
    truth, prediction = pair
    wanted = overlap.joint_histogram(truth, prediction)
    assert np.array_equal(overlap.joint_histogram(truth.astype(kind), prediction), wanted)
    assert np.array_equal(overlap.joint_histogram(truth, prediction.astype(kind)), wanted)


def test_present_missed_false_and_absent_labels():
    truth = np.array([[[1, 1, 0, 0, 2, 2]]], np.uint8)
    prediction = np.array([[[1, 1, 3, 3, 0, 0]]], np.uint8)
    rows = measured(truth, prediction, voxel_ml=0.5)
    nan = pytest.approx(math.nan, nan_ok=True)
    assert rows == {
        ("liver", "dice"): (1.0, ""),
        ("liver", "dice_strict"): (1.0, ""),
        ("spleen", "dice"): (0.0, "missed"),
        ("spleen", "dice_strict"): (0.0, "missed"),
        ("cyst", "dice"): (nan, "absent from the truth"),
        ("cyst", "dice_strict"): (0.0, "absent from the truth"),
        ("cyst", "false_positive_ml"): (1.0, "absent from the truth"),
        ("rib", "dice"): (nan, "absent from both"),
        ("rib", "dice_strict"): (nan, "absent from both"),
        ("rib", "false_positive_ml"): (0.0, "absent from both"),
        ("all", "micro_dice"): (pytest.approx(2 * 2 / (4 + 4)), ""),
    }


def test_nothing_anywhere_is_no_number():
    empty = np.zeros((2, 3, 4), np.uint8)
    for maps in ((empty, empty), (empty[:0], empty[:0])):
        rows = measured(*maps)
        assert math.isnan(rows["all", "micro_dice"][0]) and rows["all", "micro_dice"][1] == "absent from both"
        assert {value for (_, metric), (value, _) in rows.items() if metric == "false_positive_ml"} == {0.0}


def test_only_the_labels_asked_for_count():
    truth = np.array([[[1, 2]]], np.uint8)
    rows = overlap.rows(overlap.joint_histogram(truth, truth), {"liver": 1}, {}, 1.0)
    assert {row["label"] for row in rows} == {"liver", "all"}
    assert rows[0]["group"] == "other"


def test_ids_without_a_label_are_found_in_either_map():
    counts = overlap.joint_histogram(np.array([0, 1, 9]), np.array([44, 1, 0]))
    assert overlap.unknown(counts, IDS.values()) == [9, 44]
    assert overlap.unknown(counts, [1, 9, 44]) == []


def test_macro_is_the_mean_of_label_means_without_nan():
    table = [
        {"label": "a", "metric": "dice", "value": 1.0},
        {"label": "a", "metric": "dice", "value": 0.0},
        {"label": "a", "metric": "dice", "value": math.nan},
        {"label": "b", "metric": "dice", "value": 1.0},
        {"label": "b", "metric": "dice_strict", "value": 0.0},
        {"label": "c", "metric": "dice", "value": math.nan},
    ]
    assert overlap.macro(table) == 0.75
    assert math.isnan(overlap.macro([])) and math.isnan(overlap.macro(table[-1:]))


def test_maps_that_do_not_fit_are_refused():
    good = np.zeros((1, 2, 3), np.uint8)
    with pytest.raises(ValueError, match=r"shapes differ: the truth has \(1, 2, 3\).*the prediction \(1, 2, 4\)"):
        overlap.joint_histogram(good, np.zeros((1, 2, 4), np.uint8))
    with pytest.raises(ValueError, match="the prediction holds float32 values; label ids must be integers"):
        overlap.joint_histogram(good, good.astype(np.float32))
    with pytest.raises(ValueError, match="the truth holds values from -1 to -1; label ids are 0 to 255"):
        overlap.joint_histogram(good.astype(np.int16) - 1, good)
    with pytest.raises(ValueError, match="the prediction holds values from 256 to 256"):
        overlap.joint_histogram(good, good.astype(np.int64) + 256)
