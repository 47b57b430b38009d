"""Repeated scans in the workflow: selected and prepared as any corpus, paired, compared, judged again for nothing."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from ctfm import spec

pytestmark = pytest.mark.workflow
KEPT = {"datasets": "rider_phantom", "corpora": "rider_phantom", "tasks": "test_retest"}


def overlay(**options):
    """Return what leaves the repeated scans of the demo and one small encoder."""
    demo = spec.load("config/demo.yaml").model_dump()
    found = {key: dict.fromkeys(name for name in demo[key] if name != kept) for key, kept in KEPT.items()}
    found["tasks"]["test_retest"] = {"encoders": ["random"], "options": options}
    small = {"init_filters": 4, "blocks_down": [1, 1, 1, 1, 1]}
    return found | {
        "phantom": {"series": 1, "broken": 0, "slices": 16, "matrix": 32, "cases": 4, "layouts": ["rider"]},
        "pretrain": dict.fromkeys(demo["pretrain"]),
        "encoders": {**dict.fromkeys(demo["encoders"]), "random": {"options": small}},
        "embed": dict.fromkeys(demo["embed"]),
        "probe": None,
        "evaluate": {"bootstrap": 200},
        "report": {"figures": {"ids": ["ed7"], "dpi": 60}},
    }


def test_pairs_are_found_and_the_wrong_one_is_flagged(fresh, root, monkeypatch):
    monkeypatch.chdir(root)
    (fresh.folder / "mine.yaml").write_text(yaml.safe_dump(overlay()))
    configs = ("config/demo.yaml", "mine.yaml")
    fresh.run("figures", configs=configs)
    cases = pd.read_parquet(fresh.path("datasets/rider_phantom/cases.parquet"))
    assert (cases["status"] == "ok").sum() == 5 and set(cases["reason"]) == {"", "pair_of_one"}
    rows = pd.read_parquet(fresh.path("evaluate/test_retest/random/all-0.parquet"))
    outliers = rows[rows["metric"] == "outlier"].set_index("case_id")
    assert outliers.loc["REPEAT-004", "value"] == 1  # of five, others may lie outside of a fence by chance
    failed = rows[(rows["metric"] == "registration_failed") & (rows["value"] == 1)]
    assert failed["case_id"].tolist() == ["REPEAT-004"]
    assert outliers.loc["REPEAT-004", "note"].startswith("registration failed (correlation of HU")
    summary = pd.read_parquet(fresh.path("evaluate/test_retest/summary.parquet"))
    kept = summary[summary["group"] == "all"].set_index("metric")
    assert kept.loc["cosine_registered", "n"] == 4 and kept.loc["cosine_random", "n"] == 5  # two bodies share no patch
    without = rows[(rows["metric"] == "cosine_registered") & rows["value"].isna()]
    assert without["case_id"].tolist() == ["REPEAT-004"] and without["note"].str.contains("correlation").all()
    drawn = pd.read_csv(fresh.path("report/figures/ed7.csv"))
    assert set(drawn["panel"]) == {"a", "b", "c"}
    (fresh.folder / "mine.yaml").write_text(yaml.safe_dump(overlay(least_ncc=0.5)))
    planned = fresh.planned("figures", configs=configs)
    assert planned == {"evaluate_cases": 1, "summarise_task": 1, "draw_figure": 1}
