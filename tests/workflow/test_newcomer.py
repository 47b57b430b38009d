"""A newcomer adds an objective and a kind of task: one file and one entry each, nothing else."""

from __future__ import annotations

import re

import pandas as pd
import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.workflow

TASK = '''"""Volume of what a threshold finds: no learning, the smallest kind of task that runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctfm.config import Field, Strict
from ctfm.files import read_json, write_json
from ctfm.imaging import store
from ctfm.imaging.volume import Volume, read_image, write_nifti


class Settings(Strict):
    """Settings of the task."""

    hu: float = Field(200.0, description="threshold, HU")


def fit(settings, encoder, train, val, out, *, seed, frozen=False):
    write_json({"hu": settings.hu}, out / "model" / "model.json")
    return {"train": len(train)}


def predict(model, cases, out):
    hu = read_json(Path(model) / "model.json")["hu"]
    for case in cases:
        volume = store.open_volume(case.image).load()
        found = (volume.array > hu).astype(np.uint8)
        write_nifti(Volume(found, volume.affine), Path(out) / f"{case.case}.nii.gz")


def measure(settings, cases, predictions):
    return [
        {
            "case_id": case.case,
            "patient": case.patient,
            "label": "bone",
            "group": "all",
            "metric": "volume_ml",
            "value": float(read_image(Path(predictions) / f"{case.case}.nii.gz").array.sum()),
            "note": "",
        }
        for case in cases
    ]


def scores(rows):
    return {"macro_dice": float(np.mean([row["value"] for row in rows]))}


def picture(settings, case, prediction):
    return None
'''


def test_one_file_and_one_entry_each(fresh):
    page = (ROOT / "docs/how-to/add.md").read_text()
    objective, entry = re.search(r"```python\n(.*?)```\n\n```yaml\n(.*?)```", page, re.S).groups()
    (fresh.folder / "src/ctfm/ssl/pull.py").write_text(objective)
    (fresh.folder / "src/ctfm/tasks/threshold.py").write_text(TASK)
    pretrain = yaml.safe_load(entry)["pretrain"]
    pretrain["pull"] |= {
        "encoder_options": {"init_filters": 8, "blocks_down": [1, 1, 1, 1, 1]},
        **{"epochs": 1, "steps_per_epoch": 2, "global_batch": 2, "crops_per_scan": 4, "patch": [16, 64, 64]},
    }
    overlay = {
        "phantom": {"series": 3, "broken": 0},
        "pretrain": pretrain,
        "tasks": {"bones": {"kind": "threshold", "dataset": "totalsegmentator_phantom", "encoders": ["pull"]}},
    }
    (fresh.folder / "mine.yaml").write_text(yaml.safe_dump(overlay))
    configs = ("config/demo.yaml", "tests/workflow/small.yaml", "mine.yaml")
    target = "results/demo/evaluate/bones/summary.parquet"
    fresh.run(target, configs=configs)
    summary = pd.read_parquet(fresh.path("evaluate/bones/summary.parquet"))
    assert summary["encoder"].eq("pull").all() and (summary["metric"] == "volume_ml").any()
