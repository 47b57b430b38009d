from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from ctfm import plugins, tables, weights
from ctfm.errors import UserError
from ctfm.stages.probe import check, probe
from ctfm.training import checkpoints, seeds
from tests import makers

OPTIONS = {"patch": [16, 32, 32], "epochs": 2, "batch": 2, "overlap": 0.0, "labels": ["liver", "spleen"]}
ENCODER = {"init_filters": 4, "blocks_down": [1, 1, 1, 1, 1]}
NAMES = {"probe_cases": "cases", "scores": "scores"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0}')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "0"))  # put back after


def checkpoint(path: Path, epoch: int, fingerprint="run") -> None:
    plugin = plugins.get("encoders", "segresnet")
    with seeds.seeded(epoch):
        state = plugin.build(plugin.Settings(**ENCODER)).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": {f"encoder.{k}": v for k, v in state.items()} | {"method.head": torch.zeros(2)}}
    torch.save(content | {"ctfm": {"fingerprint": fingerprint, "step": 10 * (epoch + 1)}}, path)


@pytest.fixture
def folder(tmp_path):
    for epoch in (1, 3):
        checkpoint(tmp_path / f"ctfm/checkpoints/epoch={epoch:04d}.ckpt", epoch)
    checkpoint(tmp_path / "ctfm/checkpoints/epoch=0002.ckpt", 2, "another run")
    (tmp_path / "ctfm/checkpoints/epoch=0004.ckpt").write_bytes(b"torn")
    (tmp_path / "ctfm/run.json").write_text('{"fingerprint": "run"}')
    makers.case_table(tmp_path / "cases", {"train": 4, "val": 1, "test": 2})
    return tmp_path


def spec(shots=2, validation=2, seeds=(0, 1), metric="macro_dice", crops=2, **options):
    section = {"task": "wholebody", "shots": shots, "validation": validation, "seeds": seeds, "metric": metric}
    section["crops_per_case"] = crops
    task = {"name": "wholebody", "kind": "segment", "dataset": "d", "options": OPTIONS | options}
    encoder = {"kind": "segresnet", "options": ENCODER}
    return json.dumps(
        {"stage": "probe", "version": 1, "probe": section, "task": task, "name": "ctfm", "encoder": encoder}
    )


def run(folder, **options):
    probe(pretrained=folder / "ctfm", cases=folder / "cases/cases.parquet", out=folder / "out", spec=spec(**options))


def test_every_checkpoint_and_seed_is_scored_and_the_best_chosen(folder, caplog):
    run(folder)
    table = tables.read("scores", folder / "out/scores.parquet")
    assert set(table["checkpoint"]) == {"epoch=0001.ckpt", "epoch=0003.ckpt"}  # neither the torn nor the other run's
    assert "epoch=0004.ckpt" in caplog.text
    assert table.groupby(["checkpoint", "seed", "metric"]).size().eq(1).all() and len(table) == 2 * 2 * 2
    assert set(table["epoch"]) == {1, 3} and set(table["step"]) == {20, 40} and set(table["encoder"]) == {"ctfm"}
    chosen = json.loads((folder / "out/selected.json").read_text())
    means = table[table["metric"] == "macro_dice"].groupby("checkpoint")["value"].mean()
    assert chosen["checkpoint"] == means.idxmax() and chosen["value"] == pytest.approx(means.max())
    assert chosen["interval"][0] <= chosen["value"] <= chosen["interval"][1] and len(chosen["seed_values"]) == 2
    assert not (folder / "out/work").exists()


def test_values_of_every_case_are_kept_and_give_the_scores(folder):
    run(folder)
    values, table = (tables.read(name, folder / f"out/{file}.parquet") for name, file in NAMES.items())
    assert values.groupby(["checkpoint", "seed"])["case_id"].nunique().eq(2).all()
    dice = values[values["metric"] == "dice"].groupby(["checkpoint", "seed", "label"])["value"].mean()
    macro = table[table["metric"] == "macro_dice"].set_index(["checkpoint", "seed"])["value"]
    pd.testing.assert_series_equal(dice.groupby(["checkpoint", "seed"]).mean(), macro, check_names=False)


def test_test_cases_are_never_used_and_sides_are_apart(folder):
    run(folder)
    facts = json.loads((folder / "out/run.json").read_text())
    table = tables.read("cases", folder / "cases/cases.parquet").set_index("case")["split"]
    used = [*facts["validation"], *(name for names in facts["train"].values() for name in names)]
    assert set(table[used]) == {"train", "val"}
    assert "s0004" in facts["validation"] and len(facts["validation"]) == 2  # of the validation split first
    for names in facts["train"].values():
        assert len(names) == 2 and not set(names) & set(facts["validation"])
    assert {"ctfm.tasks.segment", "ctfm.encoders.segresnet"} <= set(facts["code"])


def test_what_was_scored_is_not_scored_again(folder, monkeypatch):
    task, fitted = plugins.get("tasks", "segment"), []

    def fit(*args, **options):
        if len(fitted) == 1:
            raise KeyboardInterrupt
        fitted.append(original(*args, **options))

    original = task.fit
    monkeypatch.setattr(task, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        run(folder, seeds=(0,))
    monkeypatch.setattr(task, "fit", lambda *args, **options: fitted.append(original(*args, **options)))
    run(folder, seeds=(0,))
    assert len(fitted) == 2
    assert len(tables.read("scores", folder / "out/scores.parquet")) == 4
    assert all(facts["frozen"] and facts["val"] == [] for facts in fitted)


def test_too_few_cases_and_unknown_metrics_are_told(folder):
    with pytest.raises(UserError, match="4 cases are asked for and there are 3"):
        run(folder, shots=4)
    with pytest.raises(UserError, match=r"'macro_dise' was not measured; did you mean 'macro_dice'"):
        run(folder, metric="macro_dise", seeds=(0,), shots=1, validation=1)
    (folder / "ctfm/run.json").write_text('{"fingerprint": "none"}')
    with pytest.raises(UserError, match="no checkpoint of this run"):
        run(folder)


def test_encoders_keep_their_statistics(folder, monkeypatch):
    task, states = plugins.get("tasks", "segment"), {}

    def fit(options, encoder, train, val, work, **others):
        facts = original(options, encoder, train, val, work, **others)
        states[work.name] = weights.read_tensors(work / "model/model.safetensors")
        return facts

    original = task.fit
    monkeypatch.setattr(task, "fit", fit)
    run(folder)
    for epoch in (1, 3):
        saved = checkpoints.encoder(checkpoints.read(folder / f"ctfm/checkpoints/epoch={epoch:04d}.ckpt"))
        assert any("running_var" in key for key in saved)
        for seed in (0, 1):
            found = states[f"epoch={epoch:04d}-{seed}"]
            assert all(torch.equal(found[f"encoder.{key}"], value) for key, value in saved.items())


def test_kept_maps_and_computed_ones_give_the_same_scores(folder, monkeypatch):
    found = []
    for machine in ({}, {"cache_features": False}, {"cache_gigabytes": 0}):
        monkeypatch.setenv("CTFM_MACHINE", json.dumps({"loader_workers": 0, **machine}))
        run(folder)
        found.append({name: tables.read(name, folder / f"out/{file}.parquet") for name, file in NAMES.items()})
    for name in NAMES:
        pd.testing.assert_frame_equal(found[0][name], found[1][name], check_exact=True)
        pd.testing.assert_frame_equal(found[0][name], found[2][name], check_exact=True)


def test_new_crops_in_every_epoch_keep_nothing_and_say_so(folder, caplog):
    caplog.set_level("INFO")
    run(folder, crops=None, seeds=(0,))
    assert "new random crops in every epoch" in caplog.text and "GB in" not in caplog.text
    assert len(tables.read("scores", folder / "out/scores.parquet")) == 4


def test_a_killed_probe_ends_as_one_left_alone(folder):
    options = {"seeds": (0,), "epochs": 12}
    run(folder, **options)
    whole = {name: tables.read(name, folder / f"out/{file}.parquet") for name, file in NAMES.items()}
    command = [sys.executable, "-m", "ctfm", "probe", "--spec", spec(**options), "--pretrained", folder / "ctfm"]
    command += ["--cases", folder / "cases/cases.parquet", "--out", folder / "killed"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    saved = folder / "killed" / "work/epoch=0001-0/checkpoints/last.ckpt"
    limit = time.monotonic() + 60
    while not saved.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert saved.exists() and not (folder / "killed/scores.parquet").exists()
    out = folder / "killed"
    probe(pretrained=folder / "ctfm", cases=folder / "cases/cases.parquet", out=out, spec=spec(**options))
    for name, file in NAMES.items():
        pd.testing.assert_frame_equal(whole[name], tables.read(name, out / f"{file}.parquet"), check_exact=True)


def leak(path: Path, patient: str) -> None:
    """Give a test case to another patient."""
    table = tables.read("cases", path)
    table.loc[table.index[table["split"] == "test"][0], "patient"] = patient
    tables.write(table, "cases", path)


def test_a_patient_of_the_test_split_stops_it_before_anything_is_trained(folder, monkeypatch):
    monkeypatch.setattr(plugins.get("tasks", "segment"), "fit", None)
    leak(folder / "cases/cases.parquet", "s0004")
    with pytest.raises(UserError, match="patient 's0004' is in the test split and in the probe"):
        run(folder)


def checked(folder, *names, **kinds):
    job = {"stage": "probe-check", "version": 1, "probe": json.loads(spec())["probe"]}
    job["datasets"] = {name: {"kind": kind} for name, kind in kinds.items()}
    paths = [folder / name / "cases.parquet" for name in names]
    check(cases=folder / "cases/cases.parquet", out=folder / "cases.json", tests=paths, spec=json.dumps(job))
    return json.loads((folder / "cases.json").read_text())


def test_patients_are_kept_apart_from_the_tests_of_every_data_set_of_the_kind(folder):
    """Another split of the same scans is another data set: the paper chose its checkpoint on scans it tested on."""
    makers.case_table(folder / "resplit", {"test": 1, "train": 6})
    kinds = {"cases": "totalsegmentator", "resplit": "totalsegmentator"}
    found = checked(folder, "cases", **kinds)
    run(folder)
    facts = json.loads((folder / "out/run.json").read_text())
    assert found.pop("test_cases_kept_apart") == {"cases": 2}
    assert found == {name: facts[name] for name in ("train", "validation")}
    used = {*found["validation"], *(name for names in found["train"].values() for name in names)}
    leak(folder / "resplit/cases.parquet", sorted(used)[0])
    with pytest.raises(UserError, match="in the test split and in the probe, of the data set 'resplit'"):
        checked(folder, "cases", "resplit", **kinds)
    other = checked(folder, "cases", "resplit", **kinds | {"resplit": "another"})  # its names mean other patients
    assert other["test_cases_kept_apart"] == {"cases": 2}
