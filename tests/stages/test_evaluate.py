"""Measuring all test cases and no others, and summing up."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ctfm import plugins, tables
from ctfm.config import Strict
from ctfm.errors import UserError
from ctfm.stages import evaluate as stage
from tests import synthetic
from tests.metrics.test_decisions import table as made

SPEC = {
    "stage": "evaluate",
    "version": 1,
    "task": {"name": "wholebody", "kind": "fake", "dataset": "phantoms", "options": {}},
    "encoder": "ctfm",
    "shots": "all",
    "seed": 3,
}
SUMMARY = {
    "stage": "summary",
    "version": 1,
    "evaluate": {"bootstrap": 100},
    "task": {**SPEC["task"], "kind": "segment"},
}


def write_cases(folder, **changes):
    rows = [
        {"case": f"s{i}", "patient": f"p{i}", "split": split, "status": "ok", "image": f"v/s{i}.b2nd", "label": "l"}
        for i, split in enumerate(["train", "test", "val", "test"])
    ]
    table = tables.of("cases", [{**row, **changes} for row in rows])
    tables.write(table, "cases", folder / "cases.parquet")
    return folder / "cases.parquet"


@pytest.fixture
def fake(monkeypatch):
    """Install a kind of task that measures 0.5 in every case but those named in ``fake.silent``."""
    seen = SimpleNamespace(cases=[], silent=set())

    def measure(settings, cases, predictions):
        seen.cases = cases
        common = {"label": "liver", "group": "organs", "metric": "dice", "value": 0.5, "note": ""}
        return [{**common, "case_id": c.case, "patient": c.patient} for c in cases if c.case not in seen.silent]

    kind = SimpleNamespace(measure=measure, picture=lambda *args: Figure(figsize=(1, 1)))
    monkeypatch.setattr(plugins, "get", lambda *args: kind)
    monkeypatch.setattr(plugins, "settings", lambda *args: Strict)
    return seen


def adapted(folder, *cases):
    (folder / "predictions").mkdir(parents=True)
    for case in cases:
        (folder / "predictions" / f"{case}.nii.gz").touch()
    return folder


def test_measures_the_test_split_only_and_writes_table_and_picture(tmp_path, fake):
    cases = write_cases(tmp_path)
    out = tmp_path / "evaluate" / "wholebody" / "ctfm" / "all-3.parquet"
    stage.evaluate(cases=cases, adapted=adapted(tmp_path / "a"), out=out, spec=json.dumps(SPEC))
    assert [c.case for c in fake.cases] == ["s1", "s3"]
    assert fake.cases[0].image == tmp_path / "v/s1.b2nd"
    table = tables.read("metrics", out)
    assert list(table.case_id) == ["s1", "s3"]
    assert set(table.seed) == {3}
    assert set(table.dataset) == {"phantoms"}
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert tables.facts(out)["spec"] == SPEC


def test_planes_to_show_are_a_table_even_where_a_task_has_none(tmp_path, fake):
    cases, folder = write_cases(tmp_path), adapted(tmp_path / "a")
    stage.evaluate(cases=cases, adapted=folder, out=tmp_path / "t", slices=tmp_path / "s", spec=json.dumps(SPEC))
    assert tables.read("slices", tmp_path / "s").empty
    row = {"case_id": "s1", "patient": "p1", "label": "tumour", "plane": "axial", "rows": 1, "columns": 2}
    row |= {"row_mm": 1.0, "column_mm": 2.0, "image": [3, 4], "truth": [0, 1], "prediction": [1, 1]}
    plugins.get().slices = lambda settings, test, predictions: [row | {"case_id": test[-1].case}]
    stage.evaluate(cases=cases, adapted=folder, out=tmp_path / "t", slices=tmp_path / "s", spec=json.dumps(SPEC))
    (found,) = tables.read("slices", tmp_path / "s").to_dict("records")
    assert (found["case_id"], found["encoder"], list(found["image"])) == ("s3", "ctfm", [3, 4])


def test_a_missing_prediction_is_an_error_that_names_the_case(tmp_path, fake):
    fake.silent = {"s3"}
    with pytest.raises(UserError, match=r"s3.*ctfm adapt"):
        stage.evaluate(
            cases=write_cases(tmp_path), adapted=adapted(tmp_path / "a"), out=tmp_path / "o", spec=json.dumps(SPEC)
        )
    assert not (tmp_path / "o").exists()


def test_a_case_with_nothing_to_measure_is_a_row(tmp_path, fake):
    fake.silent = {"s3"}
    out = tmp_path / "t.parquet"
    stage.evaluate(cases=write_cases(tmp_path), adapted=adapted(tmp_path / "a", "s3"), out=out, spec=json.dumps(SPEC))
    row = tables.read("metrics", out).set_index("case_id").loc["s3"]
    assert row.metric == "nothing_measured"
    assert np.isnan(row.value)


def test_no_test_case_and_no_predictions_are_named(tmp_path, fake):
    with pytest.raises(UserError, match="ctfm adapt"):
        stage.evaluate(cases=write_cases(tmp_path), adapted=tmp_path / "no", out=tmp_path / "o", spec=json.dumps(SPEC))
    with pytest.raises(UserError, match="no usable test case"):
        stage.evaluate(
            cases=write_cases(tmp_path, split="train"),
            adapted=adapted(tmp_path / "a"),
            out=tmp_path / "o",
            spec=json.dumps(SPEC),
        )


def summarised(tmp_path, parts, **settings):
    paths = []
    for place, part in enumerate(parts):
        paths.append(tmp_path / f"{place}.parquet")
        tables.write(part, "metrics", paths[-1])
    spec = {**SUMMARY, "evaluate": {"bootstrap": 200, **settings}}
    stage.summary(measures=paths, out=tmp_path / "summary.parquet", spec=json.dumps(spec))
    return tables.read("summary", tmp_path / "summary.parquet")


def test_summary_has_estimates_differences_and_the_published_definition(tmp_path):
    parts = [synthetic.metrics(encoder, seed=seed) for encoder in ("ctfm", "random") for seed in (0, 1)]
    table = summarised(tmp_path, parts)
    ours = table[(table.method == "ours") & (table.reference == "") & (table.encoder == "ctfm")].set_index("group")
    assert set(ours.index) == {"all", "cardiac", "organs", "ribs"} | {f"label:{name}" for name in synthetic.LABELS}
    values = parts[0].assign(value=(parts[0].value + parts[1].value) / 2).groupby("label").value.mean()
    assert ours.loc["all"].estimate == pytest.approx(values.mean())
    assert ours.loc["label:spleen"].n == 8
    assert ours.loc["all"].seeds == 2
    assert len(ours.loc["all"].seed_estimates) == 2
    (pair,) = table[(table.reference == "random") & (table.group == "all") & (table.metric == "dice")].itertuples()
    assert pair.low < pair.estimate < pair.high
    assert pair.p_value < 0.01
    wins = table[(table.metric == "dice_win_rate") & (table.group == "all")]
    assert list(wins.estimate) == [1.0]
    published = table[(table.method == "published definition") & (table.group == "all")].set_index("encoder")
    assert published.loc["ctfm"].estimate == pytest.approx(ours.loc["all"].estimate)
    assert "label:liver" not in set(table[table.method == "published definition"].group)


def test_the_papers_value_stands_only_beside_the_same_data(tmp_path):
    mine = summarised(tmp_path, [synthetic.metrics("ctfm"), synthetic.metrics("random")])
    assert mine.paper.isna().all()
    assert mine.note.str.contains("not comparable").all()
    few = summarised(tmp_path, [synthetic.metrics(e, dataset="totalsegmentator") for e in ("ctfm", "random")])
    assert few.paper.dropna().empty or few[few.method == "ours"].paper.isna().all()
    same = [synthetic.metrics(e, dataset="totalsegmentator", patients=248) for e in ("ctfm_2", "random")]
    table = summarised(tmp_path, same)
    table = table[table.group == "all"].set_index(["encoder", "reference", "metric", "method"])
    assert table.loc["ctfm_2", "", "dice", "ours"].paper == 0.8981
    assert table.loc["random", "", "dice", "published definition"].paper == 0.8959
    assert np.isnan(table.loc["auto3dseg", "", "dice", "quoted"].seeds)
    assert table.loc["ctfm_2", "random", "dice_win_rate", "ours"].paper == 0.735


def test_summary_without_the_reference_has_no_differences(tmp_path, caplog):
    table = summarised(tmp_path, [synthetic.metrics("ctfm")])
    assert (table.reference == "").all()
    assert "no paired differences" in caplog.text


def test_two_cases_of_one_patient_count_once(tmp_path):
    part = synthetic.metrics("ctfm", patients=4)
    part["patient"] = part.patient.replace("p0003", "p0002")
    table = summarised(tmp_path, [part])
    assert table[(table.group == "all") & (table.method == "ours")].n.tolist() == [3]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("task", "other", "task"), ("split_hash", "other", "split_hash"), ("case_id", "s9", "different test cases")],
)
def test_tables_that_cannot_be_compared_are_refused(tmp_path, column, value, message):
    other = synthetic.metrics("random")
    other[column] = value
    with pytest.raises(UserError, match=message):
        summarised(tmp_path, [synthetic.metrics("ctfm"), other])


def test_empty_tables_are_refused(tmp_path):
    with pytest.raises(UserError, match="no rows"):
        summarised(tmp_path, [synthetic.metrics("ctfm").iloc[:0]])


def test_a_kind_of_task_may_sum_up_its_values_its_own_way(tmp_path):
    """Two data sets in one table are summed up each for itself, as the kind's file says."""
    parts = [
        pd.concat([made(encoders=(encoder,), dataset=name, seeds=(0,))[0] for name in ("heads", "others")])
        for encoder in ("ctfm", "random")
    ]
    paths = [tmp_path / f"{place}.parquet" for place in range(2)]
    for part, path in zip(parts, paths, strict=True):
        tables.write(part, "metrics", path)
    spec = {**SUMMARY, "task": {**SPEC["task"], "kind": "triage"}}
    stage.summary(measures=paths, out=tmp_path / "s.parquet", spec=json.dumps(spec))
    rows = tables.read("summary", tmp_path / "s.parquet")
    auc = rows[(rows.metric == "auc") & (rows.method == "ours")]
    assert auc.groupby("dataset").size().to_dict() == {"heads": 3, "others": 3}
    with pytest.raises(UserError, match="different test cases"):
        stage.check_one_task(pd.concat([parts[0], parts[1][parts[1].dataset == "heads"]]))


def test_external_data_sets_are_measured_in_the_same_table(tmp_path, fake):
    cases = write_cases(tmp_path)
    (tmp_path / "others").mkdir()
    other = write_cases(tmp_path / "others", split="test")
    folder = adapted(tmp_path / "a")
    out = tmp_path / "t.parquet"
    with pytest.raises(UserError, match=r"external.*ctfm adapt"):
        stage.evaluate(cases=cases, adapted=folder, out=out, external=[other], spec=json.dumps(SPEC))
    (folder / "external/others").mkdir(parents=True)
    stage.evaluate(cases=cases, adapted=folder, out=out, external=[other], spec=json.dumps(SPEC))
    table = tables.read("metrics", out)
    assert table.groupby("dataset").case_id.agg(list).to_dict() == {
        "phantoms": ["s1", "s3"],
        "others": ["s0", "s1", "s2", "s3"],
    }
    assert table.groupby("dataset").split_hash.nunique().eq(1).all() and table.split_hash.nunique() == 2
