"""A run's own numbers are found where the paper has one, and are called the same data only where they are."""

from __future__ import annotations

from dataclasses import make_dataclass

import numpy as np
import pytest

from ctfm import published, tables
from ctfm.files import write_json
from ctfm.reporting.counterparts import Run
from tests import synthetic

Row = make_dataclass("Row", ["task", "dataset", "encoder", "reference", "shots", "group", "metric"])


def row(name):
    """Return a row of the paper's numbers by its id."""
    (found,) = published.table().query("id == @name").itertuples()
    return found


def setting(metric):
    return Row("setting", "any", "", "", "all", "all", metric)


def cases(root, name, kind, counts):
    many = [
        {"case": f"{split}{n}", "status": "ok", "split": split, "labels": ["abnormal"] if n % 2 else []}
        for split, count in counts.items()
        for n in range(count)
    ]
    tables.write(tables.of("cases", many), "cases", root / "datasets" / name / "cases.parquet")
    write_json({"spec": {"dataset": {"kind": kind}}}, root / "datasets" / name / "run.json")


def test_results_need_the_same_data_set_and_as_many_cases(tmp_path):
    same = synthetic.run(tmp_path / "a", dataset="totalsegmentator", patients=248, shots=("all",), seeds=(0,))
    found = Run(same).find(row("totalsegmentator-ctfm-dice"))
    assert found.same_data and found.low < found.value < found.high and found.note == ""
    fewer = synthetic.run(tmp_path / "b", dataset="totalsegmentator", patients=9, shots=("all",), seeds=(0,))
    found = Run(fewer).find(row("totalsegmentator-ctfm-dice"))
    assert not found.same_data and found.note == "of other cases of 'totalsegmentator', n = 9"
    assert Run(fewer).find(row("sinoct-ctfm-auc")) is None


def test_the_same_kind_of_data_is_shown_and_named(tmp_path):
    root = synthetic.run(tmp_path, dataset="phantoms", shots=("all",), seeds=(0,))
    assert Run(root).find(row("totalsegmentator-ctfm-dice")) is None
    cases(root, "phantoms", "totalsegmentator", {"train": 8, "test": 2})
    found = Run(root).find(row("totalsegmentator-ctfm-vs-random-dice_win_rate"))
    assert not found.same_data and "of 'phantoms'" in found.note
    assert Run(root).find(row("totalsegmentator-train")) == (
        8,
        pytest.approx(np.nan, nan_ok=True),
        pytest.approx(np.nan, nan_ok=True),
        False,
        "of 'phantoms'",
    )


def test_cases_are_counted(tmp_path):
    cases(tmp_path, "sinoct", "sinoct", {"train": 8, "val": 1, "test": 1})
    run = Run(tmp_path)
    values = {name: run.find(row(f"sinoct-{name}")) for name in ("scans", "train", "test", "ratio-train", "abnormal")}
    assert {name: found.value for name, found in values.items()} == {
        "scans": 10,
        "train": 8,
        "test": 1,
        "ratio-train": 8,
        "abnormal": 0.4,
    }
    assert all(found.same_data for found in values.values())
    assert run.find(row("totalsegmentator-examinations")) is None


def test_settings_are_read_from_the_records(tmp_path):
    entry = {"crops_per_scan": 4, "global_batch": 3, "patch": [32, 128, 64], "epochs": 7, "method": "simclr"}
    entry |= {"encoder_options": {"init_filters": 8, "blocks_down": [1, 1, 1]}}
    record = {"spec": {"pretrain": entry}, "data": {"spacing_mm": [3.0, 1.0, 1.0]}, "seconds": 43200}
    write_json(record | {"hardware": {"devices": 2}}, tmp_path / "encoders/ctfm/run.json")
    options = {"batch": 8, "windows": [[40, 80], [25, 300]], "augment": {"affine_p": 0.2}, "epochs": None}
    for encoder, rate in (("ctfm", 5e-4), ("random", 2e-4)):
        spec = {"task": {"options": {**options, "learning_rate": rate}}, "shots": "5"}
        folder = tmp_path / "adapt/head_triage" / encoder / "5-0"
        write_json({"spec": spec, "hardware": {"devices": 4}}, folder / "run.json")
    write_json(
        {"settings": {"min_instances": 51, "thickness_mm": [1.0, 5.0], "unique_positions": True}},
        tmp_path / "select/idc/selection.json",
    )
    run = Run(tmp_path)
    for metric, value in {
        "pretrain.ctfm.crops_per_scan": 4,
        "pretrain.ctfm.crops_in_a_batch": 12,
        "pretrain.ctfm.patch.2": 64,
        "pretrain.ctfm.patch_cm.0": 9.6,
        "pretrain.ctfm.embedding_channels": 32,
        "pretrain.ctfm.hardware.devices": 2,
        "pretrain.ctfm.days": 0.5,
        "tasks.head_triage.batch_per_device": 2,
        "tasks.head_triage.shots.5": 5,
        "tasks.head_triage.options.window_low.1": -125,
        "tasks.head_triage.options.window_high.0": 80,
        "tasks.head_triage.random.options.learning_rate": 2e-4,
        "tasks.head_triage.ctfm.options.learning_rate": 5e-4,
        "corpora.idc.more_instances_than": 50,
        "corpora.idc.instances_per_position": 1,
    }.items():
        assert run.find(setting(metric)).value == pytest.approx(value), metric
    for metric in ("pretrain.other.epochs", "tasks.head_triage.options.epochs", "pretrain.ctfm.patch.9", "no.such"):
        assert run.find(setting(metric)) is None, metric


def test_ablations_are_compared_seed_by_seed(tmp_path):
    values = {"simclr_intra": [0.6, 0.8], "simclr_cross": [0.5, 0.4]}
    scores = [
        {"encoder": name, "checkpoint": "c", "epoch": epoch, "step": 1, "shots": 54, "seed": seed}
        | {"metric": "micro_dice", "value": value if epoch else 0.0}
        for name, each in values.items()
        for seed, value in enumerate(each)
        for epoch in (0, 1)
    ]
    tables.write(tables.of("scores", scores), "scores", tmp_path / "probe/x/scores.parquet")
    run = Run(tmp_path)
    found = run.find(row("totalsegmentator_official-simclr_intra-vs-simclr_cross-micro_dice"))
    assert found.value == pytest.approx(0.25) and found.low < 0.25 < found.high and not found.same_data
    assert run.find(row("totalsegmentator_official-simclr_intra-micro_dice")).value == pytest.approx(0.7)
    assert run.find(row("totalsegmentator_official-vicreg_intra-vs-vicreg_cross-micro_dice")) is None


def test_the_corpus_and_the_chosen_checkpoint(tmp_path):
    synthetic.corpus(tmp_path)
    synthetic.training(tmp_path)
    run = Run(tmp_path)
    assert run.find(row("idc_148k-series"))[:1] == (15000,)
    assert run.find(row("idc_148k-collections")).value == 1
    assert not run.find(row("idc_148k-patients")).same_data
    assert run.find(row("idc_148k-ctfm-selected_epoch")).value == 1


def test_what_only_the_published_definition_has_is_found(tmp_path):
    fixed = {
        "task": "organ_search",
        "dataset": "totalsegmentator_thorax",
        "encoder": "ctfm",
        "shots": "all",
        "seeds": 1,
    }
    fixed |= {"group": "label:heart", "reference": "", "metric": "centroid_distance_cm_sd", "n": 3, "paper": 5.44}
    rows = [{**fixed, "method": "published definition", "estimate": 2.4}]
    path = tmp_path / "evaluate/organ_search/summary.parquet"
    tables.write(tables.of("summary", rows), "summary", path)
    found = Run(tmp_path).find(row("totalsegmentator_thorax-ctfm-heart-centroid_distance_cm_sd"))
    assert (found.value, found.same_data) == (2.4, True)
    tables.write(tables.of("summary", [*rows, {**fixed, "method": "ours", "estimate": 2.5}]), "summary", path)
    assert Run(tmp_path).find(row("totalsegmentator_thorax-ctfm-heart-centroid_distance_cm_sd")).value == 2.5
