"""The probe never sees a patient of a test set: a spoilt table of cases stops the run; no summary is made."""

from __future__ import annotations

import json

import pytest

from ctfm import tables

pytestmark = pytest.mark.workflow
CHECKED = "results/demo/probe/cases.json"


def test_a_patient_of_the_probe_in_a_test_set_stops_the_run(fresh):
    resplit = "datasets: {resplit: {kind: totalsegmentator, root: results/demo/phantom/totalsegmentator}}\n"
    resplit += "tasks: {other: {kind: segment, dataset: resplit, encoders: [random]}}\n"
    (fresh.folder / "overlay.yaml").write_text(resplit)
    configs = ("config/demo.yaml", "tests/workflow/small.yaml", "overlay.yaml")
    fresh.run(CHECKED, configs=configs)
    found = json.loads(fresh.path("probe/cases.json").read_text())
    assert set(found["test_cases_kept_apart"]) == {"totalsegmentator_phantom", "resplit"}
    used = {*found["validation"], *(name for names in found["train"].values() for name in names)}
    for name in ("totalsegmentator_phantom", "resplit"):
        path = fresh.path(f"datasets/{name}/cases.parquet")
        table = tables.read("cases", path)
        assert not used & set(table[table["split"] == "test"]["patient"])
        spoilt = table.copy()
        spoilt.loc[spoilt.index[spoilt["split"] == "test"][0], "patient"] = found["validation"][0]
        tables.write(spoilt, "cases", path)
        # by default what doesn't depend on the check goes on; here it comes first and stops everything
        stop = ("--cores", "1", "--workflow-profile", "none", "--show-failed-logs")
        said = fresh.run("results/demo/evaluate/wholebody/summary.parquet", *stop, configs=configs, check=False)
        assert fresh.status != 0 and "check_selection" in said
        assert f"patient '{found['validation'][0]}' is in the test split and in the probe" in said
        assert not fresh.path("probe/ctfm").exists() and not fresh.path("encoders").exists()
        tables.write(table, "cases", path)
