"""One finished run of the demo in a temporary copy of the checkout, shared by the workflow tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import ROOT

PARTS = ["Snakefile", "workflow", "rules", "envs", "config", "src", "resources", "profiles", "tests"]
DEMO = ("config/demo.yaml", "tests/workflow/small.yaml")


class Checkout:
    """A copy of the checkout that may be edited, and Snakemake inside it; parts that are there already stay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in PARTS if not (folder / "Snakefile").exists() else []:
            source = ROOT / part
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, folder / part)

    def command(self, *arguments: str, configs: tuple[str, ...] = DEMO) -> list[str]:
        """Return a Snakemake call."""
        return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, "--configfile", *configs]

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which jobs run this copy's source."""
        return {**os.environ, "PYTHONPATH": str(self.folder / "src"), "TQDM_DISABLE": "1"}

    def run(self, *arguments: str, configs: tuple[str, ...] = DEMO, check: bool = True) -> str:
        """Run Snakemake and return everything it printed."""
        result = subprocess.run(
            self.command(*arguments, configs=configs),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.status = result.returncode
        assert not check or result.returncode == 0, result.stdout[-6000:]
        return result.stdout

    def planned(self, *arguments: str, configs: tuple[str, ...] = DEMO) -> Counter[str]:
        """Return how many jobs of each rule a dry run plans."""
        self.said = self.run("-n", *arguments, configs=configs)
        jobs = re.findall(r"^(\w+) +(\d+)$", self.said, re.M)
        return Counter({name: int(count) for name, count in jobs if name != "total" and name in RULES})

    def path(self, name: str) -> Path:
        """Return a path under the demo's results."""
        return self.folder / "results/demo" / name


RULES = set(re.findall(r"^rule (\w+):", "\n".join(p.read_text() for p in (ROOT / "rules").glob("*.smk")), re.M))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, the cluster and the demo, so that two processes end at about the same time."""
    items.sort(key=lambda item: "tests/slurm" not in item.nodeid and "demo" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Return a checkout in which the demo has run to its end; one process runs it, and each has a copy of its own."""
    base = tmp_path_factory.getbasetemp()
    whole = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo-of-all"
    with FileLock(f"{whole}.lock"):
        if not (whole / "done").exists():
            shutil.rmtree(whole, ignore_errors=True)
            whole.mkdir()
            Checkout(whole).run()
            (whole / "done").touch()
    own = tmp_path_factory.mktemp("demo")
    shutil.copytree(whole, own, symlinks=True, dirs_exist_ok=True)  # with the times of the files
    return Checkout(own)


@pytest.fixture
def fresh(tmp_path: Path) -> Checkout:
    """Return a checkout in which nothing has run."""
    return Checkout(tmp_path)
