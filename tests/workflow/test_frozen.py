"""Tasks without training in the workflow: embedded once, measured again where a measure was edited."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

pytestmark = pytest.mark.workflow

SMALL = {"init_filters": 4, "blocks_down": [1, 1, 1, 1, 1]}
OVERLAY = {
    "phantom": {"series": 1, "broken": 0, "slices": 16, "matrix": 32, "cases": 4, "layouts": ["organmnist3d"]},
    "corpora": {"phantom": None, "rider_phantom": None},
    "datasets": dict.fromkeys(
        (
            "totalsegmentator_phantom",
            "liver_phantom",
            "sinoct_phantom",
            "cq500_phantom",
            "mir3d_phantom",
            "rider_phantom",
        )
    ),
    "pretrain": dict.fromkeys(("ctfm", "simclr_cross", "simsiam", "vicreg")),
    "encoders": {"random": {"options": SMALL}, "other": {"seed": 1, "options": SMALL}, "suprem": None},
    "tasks": {
        **dict.fromkeys(("wholebody", "liver_tumour", "head_triage", "lesion_retrieval")),
        **dict.fromkeys(("organ_search", "test_retest", "components", "saliency")),
        "organ_retrieval": {"encoders": ["random", "other"], "options": {"depths": [3]}},
        "anatomy": {"encoders": ["random"], "options": {"perplexities": [5]}},
    },
    "embed": {"organmnist3d_phantom": None},
    "probe": None,
    "evaluate": {"bootstrap": 200},
    "report": {"figures": {"ids": ["fig5", "fig6"], "dpi": 60}},
}


def test_organs_are_retrieved_and_clustered(fresh):
    (fresh.folder / "mine.yaml").write_text(yaml.safe_dump(OVERLAY))
    configs = ("config/demo.yaml", "mine.yaml")
    fresh.run("figures", configs=configs)
    summary = pd.read_parquet(fresh.path("evaluate/organ_retrieval/summary.parquet"))
    assert set(summary["encoder"]) == {"random", "other"} and set(summary["reference"]) == {"", "random"}
    assert {"average_precision", "f1_at_3_euclidean_published", "precision_at_3_by_cohort"} <= set(summary["metric"])
    clusters = pd.read_parquet(fresh.path("evaluate/anatomy/summary.parquet"))
    assert clusters.loc[clusters["group"] == "all", "estimate"].between(-1, 1).all()
    assert all(len(pd.read_csv(fresh.path(f"report/figures/{name}.csv"))) for name in ("fig5", "fig6"))
    OVERLAY["tasks"]["organ_retrieval"]["options"]["depths"] = [5]
    (fresh.folder / "mine.yaml").write_text(yaml.safe_dump(OVERLAY))
    planned = fresh.planned("figures", configs=configs)
    assert planned == {"evaluate_cases": 2, "summarise_task": 1, "draw_figure": 2}
