"""People differ, seeds repeat, grids are where they say."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from ctfm import resources
from ctfm.phantom import anatomy, scanner

SMALL = ((40, 40, 52), (9.0, 6.0, 6.0))


def test_the_table_of_labels_is_complete(shared_data):
    table = pd.read_csv(resources.path("labels", "totalsegmentator_v2.csv"))
    assert table["id"].tolist() == list(range(1, 118))
    assert table["group"].value_counts().to_dict() == {
        "vertebrae": 26,
        "ribs": 26,
        "organs": 24,
        "muscles": 23,
        "cardiac": 18,
    }
    scores = pd.read_csv(shared_data / "published" / "ct_fm_organ_scores.csv")
    assert set(table["name"]) == set(scores["Organ"])
    means = scores.merge(table, left_on="Organ", right_on="name").groupby("group")["Dice Score"].mean().round(4)
    published = {"cardiac": 0.8933, "muscles": 0.9412, "organs": 0.8558, "ribs": 0.8992, "vertebrae": 0.9013}
    assert means.to_dict() == published


def test_ids_are_those_of_version_2(ids):
    known = {"spleen": 1, "liver": 5, "urinary_bladder": 21, "vertebrae_S1": 26, "heart": 51, "rib_left_1": 92}
    assert known.items() <= ids.items() and ids["costal_cartilages"] == 117 and len(ids) == 117


def test_a_seed_repeats_and_seeds_differ():
    first, label = anatomy.case(np.random.default_rng(1), *SMALL)
    again, _ = anatomy.case(np.random.default_rng(1), *SMALL)
    other, other_label = anatomy.case(np.random.default_rng(2), *SMALL)
    assert np.array_equal(first.array, again.array) and np.array_equal(first.affine, again.affine)
    assert not np.array_equal(first.array, other.array)
    assert not np.array_equal(label.array, other_label.array)


def test_two_scans_of_one_person_show_the_same_person():
    body = anatomy.draw(np.random.default_rng(5))
    affine = anatomy.upright(body, *SMALL, "trunk", np.random.default_rng(0))
    scans = [
        anatomy.render(body, scanner.draw(rng), rng, SMALL[0], affine)
        for rng in (np.random.default_rng(1), np.random.default_rng(2))
    ]
    assert np.array_equal(scans[0][1].array, scans[1][1].array)
    assert not np.array_equal(scans[0][0].array, scans[1][0].array)


def test_types_and_grid():
    image, label = anatomy.case(np.random.default_rng(1), *SMALL, region="abdomen")
    assert image.array.dtype == np.int16 and label.array.dtype == np.uint8
    assert image.shape == label.shape == SMALL[0]
    assert image.spacing == pytest.approx(SMALL[1])
    assert np.array_equal(image.affine, label.affine)
    assert (image.world([1, 1, 1]) > image.world([0, 0, 0])).all()  # axes run (S, P, L)
    assert image.array.min() >= -1024 and image.array.max() <= 3071


def test_regions_show_what_they_say(ids):
    body = anatomy.draw(np.random.default_rng(4))
    chest = anatomy.case(np.random.default_rng(1), (45, 40, 52), (5, 6, 6), "chest", body)[1].array
    belly = anatomy.case(np.random.default_rng(1), (60, 40, 52), (5, 6, 6), "abdomen", body)[1].array
    assert (chest == ids["heart"]).any() and not (chest == ids["urinary_bladder"]).any()
    assert (belly == ids["urinary_bladder"]).any() and not (belly == ids["trachea"]).any()


def test_many_structures_are_shown(scanned):
    _, _, label = scanned
    assert len(np.unique(label.array)) > 100


def test_a_scan_takes_well_under_a_second():
    start = time.process_time()
    anatomy.case(np.random.default_rng(1), (56, 128, 128), (2.5, 2.5, 2.5), "chest")
    assert time.process_time() - start < 2
