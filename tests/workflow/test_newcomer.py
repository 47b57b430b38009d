"""A newcomer adds an objective, an encoder, a data set and a task: one file and one entry each, nothing else."""

from __future__ import annotations

import re
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from tests.conftest import ROOT

pytestmark = pytest.mark.workflow
PAGE = (ROOT / "docs/how-to/add.md").read_text()
EXAMPLE = r"`(src/ctfm/\w+/\w+\.py)`: [^\n]+\n\n```python\n(.*?)```\n\n```yaml\n(.*?)```"
TINY = {"epochs": 1, "steps_per_epoch": 2, "global_batch": 2, "crops_per_scan": 4, "patch": [16, 48, 48]}


def pasted(folder) -> dict:
    """Paste the examples of the page into a checkout; return their entries of the configuration."""
    entries: dict = {}
    for file, code, entry in re.findall(EXAMPLE, PAGE, re.S):
        (folder / file).write_text(code)
        entries |= yaml.safe_load(entry)
    assert list(entries) == ["pretrain", "encoders", "datasets", "tasks"]
    return entries


def test_one_file_and_one_entry_each(fresh):
    mine = pasted(fresh.folder)
    mine["pretrain"]["pull"] |= {"encoder": "plain", "encoder_options": {"init_filters": 4}, **TINY}
    mine["tasks"]["bones"]["encoders"] = ["pull", "plain"]
    mine["datasets"]["mine"]["root"] = "results/demo/phantom/totalsegmentator"
    (fresh.folder / "mine.yaml").write_text(yaml.safe_dump(mine | {"phantom": {"series": 3, "broken": 0}}))
    configs = ("config/demo.yaml", "tests/workflow/small.yaml", "mine.yaml")
    fresh.run("results/demo/phantom/index.parquet", configs=configs)
    patients = sorted(path.parent.name for path in fresh.path("phantom/totalsegmentator").glob("*/ct.nii.gz"))
    fresh.path("phantom/totalsegmentator/patients.txt").write_text("\n".join(patients))
    fresh.run("results/demo/evaluate/bones/summary.parquet", configs=configs)
    summary = pd.read_parquet(fresh.path("evaluate/bones/summary.parquet"))
    assert set(summary["encoder"]) == {"pull", "plain"} and (summary["metric"] == "volume_ml").any()
    cases = pd.read_parquet(fresh.path("datasets/mine/cases.parquet"))
    assert set(cases["split"]) == {"train", "val", "test"} and (cases["status"] == "ok").all()


def test_the_contract_tests_find_the_examples(fresh):
    pasted(fresh.folder)
    files = [f"tests/contracts/test_{kind}.py" for kind in ("ssl", "encoders", "datasets")]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "[pull] or [plain] or [folder]", *files],
        cwd=fresh.folder,
        env=fresh.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert re.search(r"\d\d passed", result.stdout)
