"""From the tables that were published with the paper to its means, win rates and figure."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ctfm import tables
from ctfm.errors import UserError
from ctfm.stages import import_published as stage
from ctfm.stages import report
from tests import synthetic
from tests.conftest import ROOT
from tests.test_published_tables import write_tables

FIGURES = json.dumps({"stage": "figures", "version": 1, "figures": {"dpi": 50}})


def imported(folder, out, **kwargs):
    stage.import_published(folder=folder, out=out, **kwargs)
    return tables.read("summary", out / "evaluate/wholebody/summary.parquet")


def test_the_published_tables_give_the_numbers_of_the_paper(shared_data, tmp_path, caplog):
    caplog.set_level("INFO")
    table = imported(only(shared_data, "*_organ_scores.csv", tmp_path), tmp_path)
    ours = table[(table.method == "ours") & (table.group == "all")]
    means = ours[ours.reference == ""].set_index("encoder")
    assert means.estimate.round(4).to_dict() == {"ctfm": 0.8981, "random": 0.8959, "suprem": 0.8695}
    assert (means.estimate.round(4) == means.paper).all()
    wins = ours[ours.metric == "dice_win_rate"].set_index(["encoder", "reference"]).estimate
    assert (100 * wins.loc["ctfm", "random"]).round(1) == 73.5
    assert (100 * wins.loc["ctfm", "suprem"]).round(1) == 91.5
    assert caplog.text.count("the same") == 5
    assert "not the same" not in caplog.text


def only(shared_data, form, tmp_path):
    """Return a folder with the published tables of one form, and a table of no known form."""
    folder = tmp_path / "some"
    folder.mkdir()
    for path in (shared_data / "published").glob(form):
        shutil.copy(path, folder)
    (folder / "other.csv").write_text("a,b\n")
    return folder


# Printed in the paper with their intervals; and AUC, F1 of the smaller training sets, which it does not print.
TRIAGE = {
    ("ctfm", "f1"): (0.776, 0.750, 0.802),
    ("random", "f1"): (0.754, 0.727, 0.781),
    ("suprem", "f1"): (0.798, 0.773, 0.823),
    ("ctfm", "auc"): (0.836, 0.812, 0.859),
    ("random", "auc"): (0.802, 0.777, 0.827),
    ("suprem", "auc"): (0.868, 0.847, 0.889),
}
FRACTIONS = {
    ("ctfm", "0.02"): (0.521, 0.709),
    ("ctfm", "0.05"): (0.568, 0.0),
    ("ctfm", "0.1"): (0.709, 0.670),
    ("random", "0.02"): (0.480, 0.709),
    ("random", "0.05"): (0.614, 0.709),
    ("random", "0.1"): (0.680, 0.681),
    ("suprem", "0.02"): (0.609, 0.718),
    ("suprem", "0.05"): (0.615, 0.709),
    ("suprem", "0.1"): (0.796, 0.765),
}


def test_the_published_predictions_give_f1_auc_and_intervals_of_the_paper(shared_data, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = only(shared_data, "*_combined_predictions.csv", tmp_path)
    stage.import_published(folder=folder, out=tmp_path)
    table = tables.read("summary", tmp_path / "evaluate/head_triage/summary.parquet")
    assert set(table.dataset) == {"sinoct"} and table.n.dropna().eq(978).all()
    theirs = table[table.method == "published definition"].set_index(["encoder", "shots", "metric"])
    for (encoder, metric), printed in TRIAGE.items():
        row = theirs.loc[encoder, "all", metric]
        assert (round(row.estimate, 3), round(row.low, 3), round(row.high, 3)) == printed, (encoder, metric)
        assert row.paper == printed[0]
    for (encoder, shots), (auc, f1) in FRACTIONS.items():
        found = [round(theirs.loc[encoder, shots, metric].estimate, 3) for metric in ("auc", "f1")]
        assert found == [auc, pytest.approx(f1, abs=6e-4)], (encoder, shots)
    delong = table[(table.method == "ours") & (table.metric == "auc") & (table.reference == "")]
    delong = delong[delong.shots == "all"].set_index("encoder")
    assert delong.low.round(3).to_dict() == {"ctfm": 0.811, "random": 0.775, "suprem": 0.847}
    assert delong.high.round(3).to_dict() == {"ctfm": 0.860, "random": 0.829, "suprem": 0.890}
    assert caplog.text.count("the same") == 6 and "not the same" not in caplog.text
    assert "left out, of no known form: other.csv" in caplog.text
    assert (tmp_path / "evaluate/head_triage/ctfm/0.02-0.parquet").is_file()


def test_the_published_tables_give_the_order_of_the_groups(shared_data, tmp_path):
    """Fig. 2f: CT-FM leads in all groups but organs, where the baseline does."""
    table = imported(shared_data / "published", tmp_path)
    rows = table[(table.method == "ours") & (table.reference == "") & (table.metric == "dice")]
    best = {
        group: own.set_index("encoder").estimate.idxmax()
        for group, own in rows.groupby("group")
        if not group.startswith("label:") and group != "all"
    }
    assert best == {"cardiac": "ctfm", "muscles": "ctfm", "organs": "random", "ribs": "ctfm", "vertebrae": "ctfm"}
    assert rows[(rows.encoder == "ctfm") & (rows.group == "organs")].estimate.item() == pytest.approx(0.8558, abs=5e-5)


def test_no_interval_is_made_up(tmp_path):
    table = imported(write_tables(tmp_path / "in"), tmp_path / "out")
    own = table[table.method == "ours"]
    assert own[["low", "high", "p_value", "p_holm", "seed_low"]].isna().all(axis=None)
    assert own.note.str.contains("no interval over patients").all()
    assert set(own[own.group == "all"].n) == {248}
    assert own[own.group != "all"].n.isna().all()
    assert set(table.method) == {"ours", "quoted"}
    other = imported(write_tables(tmp_path / "in"), tmp_path / "few", cases=10)
    assert other.paper.isna().all()
    assert set(other[other.group == "all"].n) == {10}


def test_the_figure_is_drawn_from_them(tmp_path):
    imported(write_tables(tmp_path / "in"), tmp_path / "out")
    report.figures(figure=["fig2"], results=tmp_path / "out", out=tmp_path / "figures", spec=FIGURES)
    drawn = pd.read_csv(tmp_path / "figures/fig2.csv")
    (row,) = drawn[(drawn.panel == "b") & (drawn.encoder == "ctfm") & (drawn.method == "ours")].itertuples()
    assert row.estimate == pytest.approx(0.85)


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
def test_one_command_draws_the_figures_and_the_page(tmp_path):
    """What a newcomer types; the installation is taken as done."""
    out, here = tmp_path / "out", Path(sys.executable).parent.parent
    command = ["make", "--old-file", "install", f"VENV={here}", f"OUT={out}", "published"]
    told = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert told.returncode and "make published TABLES=FOLDER" in told.stderr
    subprocess.run([*command, f"TABLES={write_tables(tmp_path / 'in')}"], cwd=ROOT, check=True)
    assert {path.name for path in (out / "report/figures").glob("*.png")} >= {"fig2.png", "fig4.png", "fig6.png"}
    assert "0.8500" in (out / "report/report.html").read_text()


def test_writes_what_it_read_and_can_run_again(tmp_path):
    for _ in range(2):
        imported(write_tables(tmp_path / "in"), tmp_path / "out")
    record = json.loads((tmp_path / "out/published.json").read_text())
    assert set(record["*_organ_scores.csv"]["sha256"]) == {"ctfm_organ_scores.csv", "random_organ_scores.csv"}
    metrics = tables.read("metrics", tmp_path / "out/evaluate/wholebody/ctfm/all-0.parquet")
    assert set(metrics.label) == {"liver", "spleen", "aorta"}


def test_results_of_a_run_are_never_overwritten(tmp_path):
    root = synthetic.run(tmp_path / "run")
    before = (root / "evaluate/wholebody/summary.parquet").read_bytes()
    with pytest.raises(UserError, match="a folder of its own"):
        imported(write_tables(tmp_path / "in"), root)
    assert (root / "evaluate/wholebody/summary.parquet").read_bytes() == before


def test_a_mean_unlike_the_papers_is_a_warning(tmp_path, caplog):
    imported(write_tables(tmp_path / "in"), tmp_path / "out")
    assert "not the same" in caplog.text


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="published tables"):
        stage.import_published(folder=tmp_path / "no", out=tmp_path)
