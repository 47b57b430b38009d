from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from ctfm import plugins, tables
from ctfm.errors import UserError
from ctfm.stages.probe import probe, select
from ctfm.training import seeds
from tests import makers

OPTIONS = {"patch": [16, 32, 32], "epochs": 2, "batch": 2, "overlap": 0.0, "labels": ["liver", "spleen"]}
ENCODER = {"init_filters": 4, "blocks_down": [1, 1, 1, 1, 1]}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("CTFM_MACHINE", '{"loader_workers": 0}')


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


def spec(shots=2, validation=2, seeds=(0, 1), metric="macro_dice"):
    section = {"task": "wholebody", "shots": shots, "validation": validation, "seeds": seeds, "metric": metric}
    task = {"name": "wholebody", "kind": "segment", "dataset": "d", "options": OPTIONS}
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
    assert not (folder / "out/work").exists()


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


def scores(**values):
    rows = [
        {"checkpoint": name, "epoch": int(name[1:]), "seed": seed, "metric": "m", "value": value}
        for name, found in values.items()
        for seed, value in enumerate(found)
    ]
    return pd.DataFrame(rows)


def test_equals_go_to_the_earliest_and_means_are_over_seeds():
    chosen = select(scores(e9=(0.5, 0.7), e3=(0.6, 0.6 - 1e-7), e1=(0.9, 0.1)), "m")
    assert (chosen["checkpoint"], chosen["epoch"]) == ("e3", 3)
    assert chosen["why"] == "highest mean m over 2 seed(s) of 3 checkpoints; the earliest of 2 equal ones"
    assert select(scores(e1=(0.1,), e2=(float("nan"),), e3=(0.2,)), "m")["checkpoint"] == "e3"
    with pytest.raises(UserError, match="was not measured"):
        select(scores(e1=(float("nan"),)), "m")
