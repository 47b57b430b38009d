"""Organs lie where a body has them and are as bright as they should be."""

from __future__ import annotations

import numpy as np
import pytest

from ctfm.phantom import anatomy
from ctfm.phantom.shapes import Canvas

# Mean HU without contrast agent to that with it.
RANGES = {
    "liver": (45, 135),
    "spleen": (40, 145),
    "kidney_left": (15, 215),
    "kidney_right": (15, 215),
    "aorta": (20, 340),
    "heart": (35, 240),
    "urinary_bladder": (-10, 30),
    "gallbladder": (-5, 35),
    "lung_upper_lobe_left": (-900, -770),
    "lung_lower_lobe_right": (-900, -740),
    "trachea": (-1024, -800),
    "autochthon_right": (35, 80),
}


@pytest.mark.parametrize("name", RANGES)
def test_labels_lie_where_the_hu_say(scanned, ids, name):
    _, image, label = scanned
    low, high = RANGES[name]
    assert low < image.array[label.array == ids[name]].mean() < high


@pytest.mark.parametrize(
    "name", ["kidney", "iliopsoas", "gluteus_maximus", "adrenal_gland", "clavicula", "iliac_artery"]
)
def test_pairs_lie_on_their_own_side(centre, name):
    assert centre(f"{name}_left")[0] > 8
    assert centre(f"{name}_right")[0] < -8


def test_single_organs_lie_on_their_side(centre):
    for right in ("liver", "gallbladder", "inferior_vena_cava", "superior_vena_cava"):
        assert centre(right)[0] < -5, right
    for left in ("spleen", "stomach", "heart"):
        assert centre(left)[0] > 5, left


def test_organs_follow_each_other_from_head_to_feet(centre):
    order = ("trachea", "heart", "liver", "kidney_right", "urinary_bladder")
    assert (np.diff([centre(name)[2] for name in order]) < 0).all()
    assert centre("kidney_left")[2] > centre("kidney_right")[2]
    assert centre("esophagus")[1] > centre("trachea")[1]


def test_sex_and_prostate_agree(scanned, ids):
    body, _, label = scanned
    assert bool((label.array == ids["prostate"]).any()) == (body.sex == "m")


def test_volumes_are_those_of_organs(scanned, ids):
    _, _, label = scanned
    millilitre = np.prod(label.spacing) / 1000
    for name, low, high in (("liver", 250, 1500), ("spleen", 20, 300), ("kidney_left", 20, 220), ("heart", 80, 600)):
        assert low < (label.array == ids[name]).sum() * millilitre < high, name


def test_every_voxel_of_an_organ_is_made_of_its_own_tissue(ids):
    for seed in range(3):
        body = anatomy.draw(rng := np.random.default_rng(seed))
        shape, spacing = (90, 60, 80), (5.0, 4.0, 4.0)
        canvas = Canvas(shape, anatomy.upright(body, shape, spacing, "trunk", rng), body.warp)
        anatomy.paint(canvas, body)
        hu = {name: np.float32(value) for name, value in body.hu.items()}
        tissues = {
            "liver": [hu["liver"], hu["hepatic_vessel"], np.float32(body.hu["liver"] - 45)],
            "spleen": [hu["spleen"]],
            "kidney_left": [hu["cortex"], hu["medulla"]],
            "kidney_right": [hu["cortex"], hu["medulla"]],
            "heart": [hu["myocardium"], hu["blood"]],
            "aorta": [hu["blood"]],
            "pancreas": [hu["pancreas"]],
            "urinary_bladder": [hu["urine"]],
            "iliopsoas_left": [np.float32(body.hu["muscle"] + 4)],
            "rib_left_8": [hu["cortical"], hu["spongy"]],
            "vertebrae_L2": [hu["cortical"], hu["spongy"]],
            "hip_right": [hu["cortical"], hu["spongy"]],
            "femur_left": [hu["cortical"], hu["spongy"]],
        }
        for name, allowed in tissues.items():
            values = canvas.hu[canvas.label == ids[name]]
            assert len(values) and np.isin(values, allowed).all(), (name, seed, np.unique(values))
