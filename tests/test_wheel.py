"""The wheel holds all that ``ctfm`` needs: it works where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from ctfm import __version__
from tests.conftest import ROOT

pytest.importorskip("build")
CONFIG = {
    "phantom": {"series": 1, "broken": 0, "slices": 56, "matrix": 64, "cases": 3, "case_spacing_mm": 8.0},
    "corpora": {"mine": {"index": "phantom/index.parquet"}},
    "encoders": {"small": {"options": {"init_filters": 4, "blocks_down": [1, 1, 1, 1, 1]}}},
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel with what is installed, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Install the wheel into a new environment that sees the packages of this one, but not this checkout."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_holds_every_file_that_the_package_reads(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    source = [p for p in (ROOT / "src/ctfm").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {str(p.relative_to(ROOT / "src")) for p in source} <= names
    facts = [p for p in (ROOT / "resources").rglob("*") if p.is_file()]
    assert {f"ctfm/_resources/{p.relative_to(ROOT / 'resources')}" for p in facts} <= names
    assert wheel.name == f"ctfm-{__version__}-py3-none-any.whl"


def test_it_works_elsewhere(installed, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(CONFIG))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"TQDM_DISABLE": "1"}

    def ctfm(*arguments: str) -> str:
        command = [str(installed / "bin/ctfm"), *arguments]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{arguments}: {result.stderr[-3000:]}"
        return result.stdout

    where = "import ctfm; print(ctfm.__file__)"
    found = subprocess.run(
        [installed / "bin/python", "-c", where],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(installed))
    assert ctfm("--version").strip() == __version__
    assert "Usage: ctfm COMMAND" in ctfm("--help")
    ctfm("phantom", "--config", "mine.yaml", "--out", "phantom")
    ctfm("select", "--config", "mine.yaml", "--corpus", "mine", "--out", "selection")
    ctfm("import-weights", "--config", "mine.yaml", "--encoder", "small", "--out", "small")
    scan = sorted((tmp_path / "phantom/totalsegmentator").glob("*/ct.nii.gz"))[0]
    ctfm("embed", str(scan), "--encoder", "small", "--overlap", "0", "--out", "vectors.parquet")
    assert (tmp_path / "vectors.parquet").is_file() and (tmp_path / "selection/attribution.md").is_file()
