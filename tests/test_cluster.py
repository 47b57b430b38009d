"""The check of a cluster, against scripts that answer as SLURM does when something is wrong."""

from __future__ import annotations

import json
import os
import sys

import pytest
import typer

from ctfm import cluster
from ctfm.errors import UserError
from tests.conftest import ROOT

PROFILE = ROOT / "profiles/slurm/config.yaml"
RUNS = """#!/bin/sh
for word; do
  case "$word" in
    --test-only) echo "sbatch: Job 7 to start at 2026-01-01T00:00:00 using 1 processors on nodes n1" >&2; exit 0;;
    --wrap=*) sh -c "${word#--wrap=}";;
  esac
done
echo 7
"""
GOOD = {
    "sinfo": '#!/bin/sh\n[ "$1" = --version ] && echo slurm 23.11 || printf "cpu up 1-00\\ngpu up 2-00\\n"\n',
    "sbatch": RUNS,
    "sacct": "#!/bin/sh\n",
    "squeue": "#!/bin/sh\necho RUNNING None\n",
    "scancel": "#!/bin/sh\necho $* >> cancelled\n",
}


class Login:
    """A login node whose commands are scripts, and a profile for it."""

    def __init__(self, folder) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.profile = PROFILE.read_text()
        for name, text in GOOD.items():
            self.command(name, text)
        self.plan(0.0)

    def command(self, name: str, text: str | None) -> None:
        path = self.folder / "bin" / name
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
            path.chmod(0o755)

    def plan(self, terabytes: float) -> None:
        path = self.folder / "results/select/c/plan.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"peak_disk_TB": terabytes}))

    def edit(self, old: str, new: str) -> None:
        assert old in self.profile
        self.profile = self.profile.replace(old, new)

    def check(self, capsys) -> dict[str, dict]:
        """Return what is wrong, by check; and look that each is one line."""
        (self.folder / "profile.yaml").write_text(self.profile)
        (self.folder / "config.yaml").write_text("corpora: {c: {shards: 2}}")
        files = {"config": [self.folder / "config.yaml"], "profile": self.folder / "profile.yaml"}
        try:
            cluster.cluster_check(**files, wait=1, json=True)
            failed = False
        except typer.Exit as end:
            failed = end.exit_code == 1
        found = json.loads(capsys.readouterr().out)
        wrong = {f["check"]: f for f in found if not f["ok"]}
        assert failed == bool(wrong) and all(f["remedy"] for f in wrong.values())
        assert all("\n" not in cluster.line(cluster.Finding(**f)) for f in found)
        return wrong


@pytest.fixture
def login(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setitem(cluster.MODULES, "venv", "json")  # torch takes seconds
    return Login(tmp_path)


def refusal(message: str) -> str:
    return f'#!/bin/sh\necho "sbatch: error: {message}" >&2\nexit 1\n'


def test_a_good_cluster_is_ok_and_nothing_is_left_behind(login, capsys):
    assert login.check(capsys) == {}
    assert [path.name for path in (login.folder / "results").iterdir()] == ["select"]


def test_without_slurm_only_the_disk_is_looked_at(login, capsys):
    login.command("sinfo", None)
    login.folder.joinpath("bin/sinfo").write_text("#!/bin/sh\nexit 127\n")
    login.folder.joinpath("bin/sinfo").chmod(0o755)
    assert list(login.check(capsys)) == ["SLURM"]


@pytest.mark.parametrize(
    ("edit", "message", "check", "blame"),
    [
        (("gpu: gpu}", "gpu: big}"), None, "partition big", "'partitions'; there are cpu, gpu"),
        (None, "Batch job submission failed: Invalid account or account/partition combination", "account", "'account'"),
        (None, "Requested node configuration is not available", "GPUs", "'gpu_type, gpus or nodes'"),
        (None, "Invalid generic resource (gres) specification", "GPUs", "'gpu_type, gpus or nodes'"),
        (None, "invalid partition specified: gpu", "GPUs", "'partitions'"),
        (None, "Requested time limit is invalid (missing or exceeds some limit)", "GPUs", "'set-resources (runtime)'"),
        (None, "something new", "GPUs", "try: sbatch --test-only --partition=gpu"),
    ],
)
def test_a_refusal_names_the_line_to_edit(login, capsys, edit, message, check, blame):
    if edit:
        login.edit(*edit)
    if message:
        login.command("sbatch", refusal(message))
    assert blame in login.check(capsys)[check]["remedy"]


def test_a_partition_that_is_down_is_told(login, capsys):
    login.command("sinfo", GOOD["sinfo"].replace("gpu up", "gpu down"))
    assert login.check(capsys)["partition gpu"]["found"] == "it is down"


def test_sacct_without_a_database_is_told_unless_it_is_not_used(login, capsys):
    login.command("sacct", '#!/bin/sh\necho "Slurm accounting storage is disabled" >&2\nexit 1\n')
    assert "'accounting: false'" in login.check(capsys)["accounting"]["remedy"]
    login.edit("accounting: true", "accounting: false")
    assert login.check(capsys) == {}


@pytest.mark.parametrize(
    ("state", "remedy"), [("PENDING Resources", "no node is free"), ("RUNNING None", "login node share")]
)
def test_a_job_that_leaves_nothing_is_cancelled(login, capsys, state, remedy):
    login.command("sbatch", RUNS.replace("sh -c", "true"))
    login.command("squeue", f"#!/bin/sh\necho {state}\n")
    found = login.check(capsys)["shared file system"]
    assert state in found["found"] and remedy in found["remedy"]
    assert (login.folder / "cancelled").read_text().strip() == "7"


def test_an_environment_that_nodes_lack_is_told(login, capsys, monkeypatch):
    monkeypatch.setitem(cluster.MODULES, "venv", "no_such_module")
    found = login.check(capsys)["environment venv"]
    assert "No module named 'no_such_module'" in found["found"]
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "not found" in login.check(capsys)["environment venv"]["found"]


def test_a_scratch_that_can_not_be_made_is_told(login, capsys):
    login.edit("scratch: null", "scratch: /proc/none")
    assert "scratch" in login.check(capsys)["shared file system"]["remedy"]


def test_a_disk_that_is_too_small_is_told_and_so_is_a_missing_plan(login, capsys):
    login.plan(1e6)
    assert "1000000.00 TB needed" in login.check(capsys)["disk for c"]["found"]
    (login.folder / "results/select/c/plan.json").unlink()
    assert login.check(capsys)["disk for c"]["remedy"] == "run: snakemake --profile slurm select"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("gpus: 1", "gpus: 3\n  nodes: 2\n  other: 1", "unexpected keyword argument 'other'"),
        ("account: null", "# account: null", "account"),
        ("partitions: {cpu: cpu, gpu: gpu}", "partitions: gpu", "string indices|partitions: name two"),
        ("environment: venv", "environment: docker", "must be one of venv, conda, apptainer"),
        ("gpus: 1", "gpus: 4", None),
        ("nodes: 1", "nodes: 2", "gpus: 1 can't be shared equally by 2 nodes"),
    ],
)
def test_a_profile_is_checked_before_slurm_is_asked(tmp_path, old, new, words):
    path = tmp_path / "profile.yaml"
    path.write_text(PROFILE.read_text().replace(old, new, 1))
    if words is None:
        assert cluster.read(path).request == ["--nodes=1", "--ntasks-per-node=4", "--gres=gpu:4"]
        return
    with pytest.raises(UserError, match=words):
        cluster.read(path)
