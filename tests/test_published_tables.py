"""Published tables in their form, and whatever may be wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctfm import published_tables
from ctfm.errors import UserError
from ctfm.published_tables import arm, find, organ_scores, predictions

SCORES = {"liver": 0.9, "spleen": 0.8, "aorta": 0.85}


def write_tables(folder: Path) -> Path:
    """Write tables of the published form for two models."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model, less in (("ctfm", "CT FM (Ours)", 0.0), ("random", "Random Init.", 0.1)):
        write(folder / f"{name}_organ_scores.csv", *(f"{model},{o},{s - less}" for o, s in SCORES.items()))
    return folder


def write(path: Path, *lines: str, head: str = "Model,Organ,Dice Score") -> Path:
    path.write_text("\n".join([head, *lines, ""]))
    return path


def test_means_groups_and_wins_by_hand(tmp_path):
    found = organ_scores(sorted(write_tables(tmp_path).iterdir()), 248)
    rows = found.summary.set_index(["encoder", "reference", "group", "metric", "method"])
    assert rows.loc["ctfm", "", "all", "dice", "ours"].estimate == pytest.approx(0.85)
    assert rows.loc["ctfm", "", "organs", "dice", "ours"].estimate == pytest.approx(0.85)
    assert rows.loc["ctfm", "", "cardiac", "dice", "ours"].estimate == pytest.approx(0.85)
    assert rows.loc["ctfm", "", "label:liver", "dice", "ours"].estimate == pytest.approx(0.9)
    assert rows.loc["ctfm", "random", "all", "dice", "ours"].estimate == pytest.approx(0.1)
    assert rows.loc["ctfm", "random", "all", "dice_win_rate", "ours"].estimate == 1.0
    assert found.metrics.groupby("encoder").size().to_dict() == {"ctfm": 3, "random": 3}


def test_several_models_in_one_table_and_other_spellings_of_columns(tmp_path):
    lines = [f"{m},{o},0.5" for m in ("SuPREM", "My net v2") for o in SCORES]
    path = write(tmp_path / "x_organ_scores.csv", *lines, head="arm,Structure,mean dice")
    assert set(organ_scores([path], 9).metrics.encoder) == {"suprem", "my_net_v2"}


def test_models_have_the_names_of_encoders():
    assert [arm(m) for m in ("CT FM (Ours)", "Random Init.", "SuPREM", "nnU-Net")] == [
        "ctfm",
        "random",
        "suprem",
        "nnu_net",
    ]


@pytest.mark.parametrize(
    ("lines", "head", "message"),
    [
        (["CT FM,liver,0.9"], "Model,Organ,Score", "no column for the dice.*there are: Model, Organ, Score"),
        (["CT FM,liver,0.9,1"], "Model,Organ,Dice,Dice sd", "2 columns for the dice"),
        (["CT FM,liver,1.5"], None, "row 2: Dice must be from 0 to 1, not '1.5'"),
        (["CT FM,liver,0.5", "CT FM,spleen,"], None, "row 3: Dice must be"),
        (["CT FM,liver,good"], None, "row 2: Dice must be.*good"),
        (["CT FM,livre,0.5"], None, "no structure.*did you mean 'liver'"),
        (["CT FM,liver,0.5", "CT FM,liver,0.6"], None, "'liver' of model 'CT FM' is there twice"),
        (["CT FM,liver,0.5", "SuPREM,liver,0.6", "SuPREM,spleen,0.6"], None, "'ctfm' lacks spleen"),
        ([], None, "no rows"),
        ([], "", "not a CSV table"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, lines, head, message):
    path = write(tmp_path / "x_organ_scores.csv", *lines, head="Model,Organ,Dice Score" if head is None else head)
    with pytest.raises(UserError, match=message):
        organ_scores([path], 9)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "x_organ_scores.csv").write_bytes(b"\x89PNG\xff\x00")
    with pytest.raises(UserError, match=r"x_organ_scores\.csv: not a CSV table"):
        organ_scores([tmp_path / "x_organ_scores.csv"], 9)


def test_forms_are_found_by_their_file_names(tmp_path):
    write(write_tables(tmp_path / "in") / "Any_combined_predictions.csv")
    write(tmp_path / "in/semantic_distances_Model_type.ct_fm.csv")
    assert list(find(tmp_path / "in")) == list(published_tables.FORMS)
    with pytest.raises(UserError, match=r"\*_organ_scores.csv"):
        find(tmp_path)


HEAD = "name,label,baseline_2pct,baseline_100pct,ct_fm_2pct,ct_fm_100pct"
SCANS = ["a,1,0.1,0.9,0.8,0.9", "b,0,0.2,0.2,0.1,0.4", "c,1,0.3,0.6,0.9,0.3", "d,0,0.9,0.1,0.2,0.2"]


def test_predictions_of_scans_by_hand(tmp_path):
    found = predictions([write(tmp_path / "CQ500_combined_predictions.csv", *SCANS, head=HEAD)], 1)
    assert found.task == "head_triage" and set(found.metrics.dataset) == {"cq500"}
    rows = found.summary[found.summary.method == "ours"].set_index(["encoder", "reference", "shots", "metric"])
    assert rows.loc["ctfm", "", "all", "auc"].estimate == 0.75
    assert rows.loc["ctfm", "", "all", "f1"].estimate == pytest.approx(2 / 3)
    assert rows.loc["random", "", "all", "auc"].estimate == 1
    assert rows.loc["random", "", "0.02", "auc"].estimate == 0.25
    assert rows.loc["ctfm", "random", "0.02", "auc"].estimate == 0.75
    assert rows.loc["ctfm", "", "0.02", "f1"].n == 4


def test_predictions_of_two_data_sets_are_one_task(tmp_path):
    files = [write(tmp_path / f"{name}_combined_predictions.csv", *SCANS, head=HEAD) for name in ("SinoCT", "CQ500")]
    found = predictions(files, 1)
    assert set(found.summary.dataset) == set(found.metrics.dataset) == {"sinoct", "cq500"}


@pytest.mark.parametrize(
    ("lines", "head", "message"),
    [
        (SCANS, HEAD.replace("label", "truth"), "no column for the label"),
        (SCANS, "name,label,a,b,c,d", "no column of a model, such as ct_fm_100pct"),
        ([*SCANS, SCANS[0]], HEAD, "'a' is there twice"),
        ([SCANS[0].replace("a,1", "a,2")], HEAD, "row 2: label must be 0 or 1, not '2'"),
        ([*SCANS[:2], "c,1,0.3,,0.9,0.3"], HEAD, "row 4: baseline_100pct must be from 0 to 1, not 'nan'"),
        ([*SCANS[:2], "c,1,0.3,1.5,0.9,0.3"], HEAD, "row 4: baseline_100pct must be from 0 to 1, not '1.5'"),
        (["a,1,x,0.9,0.8,0.9"], HEAD, "row 2: baseline_2pct must be from 0 to 1, not 'x'"),
        ([], HEAD, "no rows"),
    ],
)
def test_what_is_wrong_with_predictions_is_said(tmp_path, lines, head, message):
    with pytest.raises(UserError, match=message):
        predictions([write(tmp_path / "CQ500_combined_predictions.csv", *lines, head=head)], 1)
