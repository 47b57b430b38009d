"""Commands of the documentation: what Snakemake is asked for can be planned, and the quick start runs as it stands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from itertools import takewhile
from pathlib import Path

import pytest
from snakemake.cli import get_argument_parser

from tests import commands
from tests.conftest import ROOT

pytestmark = pytest.mark.workflow
DEFAULT = ("config/config.yaml",)
OPTIONS_WITH_VALUES = ("--configfile", "--allowed-rules")
OPTIONS_WITH_A_VALUE = ("--profile", "--cores", "--quiet")
NOT_PLANNED = {"--lint", "--rulegraph", "--report", "--conda-create-envs-only", "--version"}
# What the files laid over the paper's run expect to be there.
GIVEN = (
    "results/encoders/ctfm/checkpoints/last.ckpt",
    "weights/ct_fm_feature_extractor/config.json",
    "weights/supervised_suprem_unet_2100.pth",
    "weights/supervised_suprem_segresnet_2100.pth",
)


def parsed(words: tuple[str, ...]) -> tuple[tuple[str, ...], set[str]]:
    """Return the configurations and the targets of a call of Snakemake; other options are left out."""
    configs, targets, rest = [], set(), list(words[1:])
    while rest:
        word = rest.pop(0)
        if word in OPTIONS_WITH_VALUES:
            values = list(takewhile(lambda text: not text.startswith("-"), rest))
            rest = rest[len(values) :]
            configs += values if word == "--configfile" else []
        elif word in OPTIONS_WITH_A_VALUE and rest:
            rest.pop(0)
        elif not word.startswith("-"):
            targets.add(word)
    return tuple(configs), targets


def plans() -> dict[tuple[str, ...], set[str]]:
    """Return {configurations: all targets that are asked for with them}."""
    wanted: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for command in commands.of("snakemake"):
        if not NOT_PLANNED & set(command.words) and "NAME" not in command.words:
            configs, targets = parsed(command.words)
            wanted[configs or DEFAULT] |= targets
    return wanted


def test_what_snakemake_is_asked_for_can_be_planned(fresh):
    (fresh.folder / "mine.yaml").write_text("seed: 0\n")
    for name in GIVEN:
        (fresh.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh.folder / name).touch()
    asked = plans()
    assert len(asked) >= 8
    for configs, targets in asked.items():
        assert all((fresh.folder / name).is_file() for name in configs), configs
        said = fresh.run(*sorted(targets), "-n", "--quiet", "rules", configs=configs, check=False)
        assert fresh.status == 0, f"{configs} {targets}: {said[-3000:]}"


def test_options_of_snakemake_exist():
    known = {option for action in get_argument_parser()._actions for option in action.option_strings}
    for command in commands.of("snakemake"):
        assert {word for word in command.words if word.startswith("-")} <= known, command


def test_the_quick_start_runs(demo, tmp_path):
    """After the demo (the fixture), in its checkout: each command of ctfm, and the Python, of the page."""
    page = ROOT / "docs/quick-start.md"
    calls = [["-m", *c.words] for c in commands.commands(page) if c.words[0] == "ctfm"]
    calls += [["-c", block] for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)]
    assert len(calls) == 4
    for call in calls:
        result = subprocess.run(
            [sys.executable, *call], cwd=demo.folder, env=demo.environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{call}: {result.stderr[-3000:]}"
    assert (demo.folder / "vector.parquet").is_file() and list((demo.folder / "labels").glob("*.nii.gz"))
    for made in ("labels", *[p.name for p in demo.folder.glob("vector.*")]):
        path = Path(demo.folder / made)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
