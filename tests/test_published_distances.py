"""Published tables of distances in their form, with numbers by hand, and whatever may be wrong with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctfm import published_distances
from ctfm.errors import UserError
from ctfm.published_tables import distances

META = ["age", "gender", "institute", "study_type", "split", "manufacturer", "scanner_model", "kvp", "pathology"]
META += ["pathology_location", "vista_split"]


def write(
    folder: Path, model: str, values, inside=None, name="semantic_distances_Model_type.{}.csv", **columns
) -> Path:
    """Write a table of the published form; the first scan asks."""
    folder.mkdir(parents=True, exist_ok=True)
    scans = [f"s{n:04d}" for n in range(len(values) + 1)]
    table = {"image_id": scans, **dict.fromkeys(META, "x"), "semantic_distance": [np.nan, *values]}
    if inside is not None:
        table["inside_label"] = [None, *inside]
    path = folder / name.format(model)
    pd.DataFrame(table).to_csv(path)
    return path


def summary(*paths: Path):
    found = distances(paths, 248)
    rows = found.summary[found.summary.group == "label:heart"]
    return found, rows.set_index(["encoder", "reference", "method", "metric"]).sort_index()


def test_means_deviations_and_shares_by_hand(tmp_path):
    ours = write(tmp_path, "ct_fm", [1.0, 5.0, 6.0, 8.0, np.nan], [True, False, True, True, None])
    theirs = write(tmp_path, "suprem", [11.0, 4.0, 20.0, 25.0, np.nan], [True, True, False, False, None])
    found, rows = summary(ours, theirs)
    assert found.task == "organ_search" and set(found.metrics.dataset) == {"totalsegmentator_thorax"}
    published = rows.loc["ctfm", "", "published definition"]
    assert published.estimate["centroid_distance_cm"] == 5
    assert published.estimate["centroid_distance_cm_sd"] == pytest.approx(np.sqrt((16 + 0 + 1 + 9) / 4))
    assert published.estimate["inside_published"] == 0.75
    assert published[["low", "high"]].isna().all(axis=None)
    mine = rows.loc["ctfm", "", "ours"]
    assert mine.estimate["centroid_distance_cm_median"] == 5.5
    assert (mine.estimate["centroid_distance_cm_q25"], mine.estimate["centroid_distance_cm_q75"]) == (4, 6.5)
    assert [mine.estimate[f"within_{k}cm"] for k in (5, 6, 8, 10)] == [0.5, 0.75, 1, 1]
    assert (mine.n == 4).all() and "inside" not in mine.index
    assert "1 that asks, 1 without a distance" in mine.note["centroid_distance_cm"]
    pair = rows.loc["ctfm", "suprem", "ours"]
    assert pair.estimate["centroid_distance_cm"] == -10 and pair.estimate["closer"] == 0.75
    assert rows.loc["suprem", "", "published definition"].estimate["inside_published"] == 0.5


def test_a_large_table_has_the_moments_that_numpy_finds(tmp_path):
    values = np.random.default_rng(0).gamma(1.1, 5, 473)
    values[[3, 9, 20, 400]] = np.nan
    found, rows = summary(write(tmp_path, "ct_fm", values))
    known = values[np.isfinite(values)]
    published = rows.loc["ctfm", "", "published definition"].estimate
    assert published["centroid_distance_cm"] == pytest.approx(known.mean())
    assert published["centroid_distance_cm_sd"] == pytest.approx(known.std(ddof=0))
    row = rows.loc["ctfm", "", "ours", "centroid_distance_cm"]
    assert row.n == 469 and row.paper == 5.61 and row.low < known.mean() < row.high
    assert row.high - row.low == pytest.approx(2 * 1.96 * known.std() / np.sqrt(469), rel=0.1)
    assert len(found.metrics[found.metrics.value.isna()]) == 5


def test_only_the_targets_that_both_have_are_compared(tmp_path):
    ours, theirs = write(tmp_path, "ct_fm", [1, 2, 3, 4]), write(tmp_path, "suprem", [np.nan, 12, 13, 99])
    _, rows = summary(ours, theirs)
    pair = rows.loc["ctfm", "suprem", "ours", "centroid_distance_cm"]
    assert pair.estimate == pytest.approx((2 - 12 + 3 - 13 + 4 - 99) / 3) and pair.n == 3


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("semantic_distances_Model_type.ct_fm.csv", "ctfm"),
        ("semantic_distances_Model_type.suprem.csv", "suprem"),
        ("semantic_distances_model_type_CT-FM.csv", "ctfm"),
        ("Semantic_Distances.suprem_unet.csv", "suprem"),
        ("run2_semantic_distances_ct_fm.csv", "run2_ct_fm"),
        ("semantic_distance_ModelType.baseline.csv", "random"),
        ("semantic_distances_Model_type.my net.csv", "my_net"),
    ],
)
def test_file_names_tell_the_model(tmp_path, name, encoder):
    assert set(distances([write(tmp_path, "", [1.0], name=name)], 1).metrics.encoder) == {encoder}


def test_columns_that_are_not_read_may_be_missing_or_more(tmp_path):
    path = tmp_path / "semantic_distances_Model_type.ct_fm.csv"
    path.write_text("Image_ID,extra,Semantic Distance\ns1,a,\ns2,b,2.5\n7,c,3.5\n")
    found = distances([path], 1)
    assert found.metrics.value.dropna().tolist() == [2.5, 3.5] and set(found.metrics.patient) == {"s1", "s2", "7"}
    assert "inside_published" not in set(found.summary.metric)


def test_a_first_row_with_a_distance_is_a_target_like_the_others(tmp_path):
    path = tmp_path / "semantic_distances_Model_type.ct_fm.csv"
    path.write_text("image_id,semantic_distance,inside_label\ns1,1,TRUE\ns2,,\ns3,3,0\n")
    _, rows = summary(path)
    row = rows.loc["ctfm", "", "published definition"]
    assert row.estimate["centroid_distance_cm"] == 2 and row.estimate["inside_published"] == 0.5
    assert "left out: 0 that asks, 1 without" in row.note["centroid_distance_cm"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,distance\ns1,2\n", "no column for the semantic_distance.*there are: image_id, distance"),
        ("scan,semantic_distance\ns1,2\n", "no column for the image_id"),
        ("image_id,semantic_distance,semantic_distance_mm\ns1,2,20\n", "2 columns for the semantic_distance"),
        ("image_id,semantic_distance\ns1,\ns2,far\n", "row 3: semantic_distance must be.*'far'"),
        ("image_id,semantic_distance\ns1,\ns2,-0.5\n", "row 3: semantic_distance must be.*'-0.5'"),
        ("image_id,semantic_distance\ns1,inf\n", "row 2: semantic_distance must be.*'inf'"),
        ("image_id,semantic_distance\ns1,\ns2,1\ns2,2\n", "row 4: 's2' is there twice"),
        ("image_id,semantic_distance\ns1,\n,2\n", "row 3: image_id is empty"),
        ("image_id,semantic_distance\ns1,\ns2,\n", "no row has a semantic_distance"),
        ("image_id,semantic_distance,inside_label\ns1,2,maybe\n", "row 2: inside_label must be True, False.*'maybe'"),
        ("image_id,semantic_distance\n", "no rows"),
        ("", "not a CSV table"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, text, message):
    path = tmp_path / "semantic_distances_Model_type.ct_fm.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"Model_type\.ct_fm\.csv: .*{message}"):
        distances([path], 1)


def test_two_tables_of_one_model_and_a_name_without_one_are_refused(tmp_path):
    paths = [write(tmp_path, "ct_fm", [1.0]), write(tmp_path, "CT-FM", [1.0])]
    with pytest.raises(UserError, match=r"another table is of this model \('ctfm'\)"):
        distances(paths, 1)
    with pytest.raises(UserError, match="its name tells no model"):
        published_distances.model(tmp_path / "semantic_distances_Model_type.csv")
