"""The workflow on a real SLURM: a throw-away cluster on this machine, and everything that goes wrong on clusters.

One run of the small demo meets it all: a shard that needs more memory, a job that is cancelled, a time limit and a
dying node in pre-training. What comes out is compared with what an undisturbed process makes.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from snakemake.utils import available_cpu_count

from ctfm import cluster as cluster_module
from ctfm import efficiency, files, spec
from ctfm.training import checkpoints
from tests.conftest import ROOT
from tests.slurm.cluster import NODES, Cluster, missing, running
from tests.training import corpora
from tests.training.test_processes import ENTRY, REAL
from tests.workflow.conftest import DEMO, Checkout

pytestmark = [pytest.mark.workflow, pytest.mark.skipif(bool(missing()), reason=missing())]

STEPS = 24  # of pre-training, two seconds each while the test has something to do to it
LONGER = f"""
pretrain: {{ctfm: {{epochs: {STEPS // 3}, checkpoint_every: 8, crops_per_scan: 2, patch: [16, 32, 32]}}}}
tasks: {{wholebody: {{options: {{epochs: 1, steps_per_epoch: 2}}}}}}
machine: {{tensorboard: false}}
"""
CONFIGS = (*DEMO, "longer.yaml")
PATIENCE = 800  # seconds for the whole run, on a busy machine


class Site(Checkout):
    """A checkout whose profile has been edited for the cluster."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        super().__init__(folder)
        self.cluster = cluster
        (folder / "slurm").symlink_to("profiles/slurm")
        (folder / "longer.yaml").write_text(LONGER)
        shutil.copy(ROOT / "tests/slurm/slow.py", folder / "src/sitecustomize.py")
        self.edit("profiles/slurm/config.yaml", "accounting: true", "accounting: false")
        self.edit("profiles/slurm/config.yaml", "gpu_type: null", "gpu_type: a100")
        small = "test {wildcards.shard} = 00000 -o {resources.mem_mb} -gt 3000 && exec python -m ctfm prepare --spec"
        self.edit("rules/prepare.smk", "python -m ctfm prepare --spec", small)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new, 1))

    @property
    def environment(self) -> dict[str, str]:
        """Two cores have to do for two nodes."""
        return {**super().environment, "OMP_NUM_THREADS": "1"}

    def command(self, *arguments: str, configs: tuple[str, ...] = CONFIGS) -> list[str]:
        program = [sys.executable, str(ROOT / "tests/slurm/impatient.py")]
        quick = ["--slurm-init-seconds-before-status-checks=1", "--seconds-between-status-checks=1"]
        chosen = ["--configfile", *configs] if configs else []
        return [*program, "--profile", "slurm", *arguments, *quick, "--latency-wait=10", *chosen]

    def read(self, name: str) -> str:
        path = self.path(name)
        return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster")) as made:
        yield made
    assert all(process.poll() is not None for process in made.processes)
    assert not missing()


@pytest.fixture(scope="module")
def site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), cluster)


class Misfortunes:
    """What happens to the run, each as soon as its hour has come."""

    def __init__(self, site: Site) -> None:
        self.site, self.cluster = site, site.cluster
        self.limited = self.down = ""
        self.todo = [self.cancel_a_job, self.hit_the_time_limit, self.lose_a_node, self.node_is_back]

    def step(self) -> None:
        self.todo = [act for act in self.todo if not act()]

    def cancel_a_job(self) -> bool:
        """Cancel the fine-tuning of the random encoder while it runs."""
        (job, *_) = [*self.cluster.jobs("adapt_encoder_wildcards_wholebody_random"), ""]
        if job:
            self.cluster.ask("scancel", job)
        return bool(job)

    def hit_the_time_limit(self) -> bool:
        """Once it has saved something, let pre-training's time end in less than two minutes from now."""
        (job, *_) = [*self.cluster.jobs("pretrain_encoder"), ""]
        if job and self.site.path("encoders/ctfm/checkpoints/last.ckpt").exists():
            minutes = int(self.cluster.ask("squeue", "--noheader", "--format=%M", f"--jobs={job}").split(":")[-2])
            self.cluster.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + 2}")
            self.limited = job
        return bool(self.limited)

    def lose_a_node(self) -> bool:
        """Let the node die that the next try of pre-training goes on at."""
        resumed = "resuming at step" in self.site.read("logs/pretrain/ctfm.log")
        for job, node in self.cluster.jobs("pretrain_encoder").items():
            if self.limited and job != self.limited and resumed:
                self.down = node
                self.cluster.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=drill")
        return bool(self.down)

    def node_is_back(self) -> bool:
        """Mend it when pre-training goes on at the other node; from now on nothing is slow."""
        elsewhere = self.down and self.down not in self.cluster.jobs("pretrain_encoder").values()
        if elsewhere and self.cluster.jobs("pretrain_encoder"):
            self.cluster.ask("scontrol", "update", f"NodeName={self.down}", "State=RESUME")
            (self.site.folder / "slow").unlink()
            return True
        return False


def until_it_ends(process: subprocess.Popen[str], step: Callable[[], None]) -> None:
    end = time.monotonic() + PATIENCE
    try:
        while process.poll() is None and time.monotonic() < end:
            step()
            time.sleep(0.5)
    finally:
        process.kill() if process.poll() is None else None
        process.wait()


@pytest.fixture(scope="module")
def story(site: Site) -> Site:
    """Run the demo by `--profile slurm all` through all misfortunes."""
    (site.folder / "slow").touch()
    misfortunes = Misfortunes(site)
    with (site.folder / "said.txt").open("w") as said:
        process = subprocess.Popen(
            site.command("all"), cwd=site.folder, env=site.environment, stdout=said, stderr=said, text=True
        )
        until_it_ends(process, misfortunes.step)
    text = (site.folder / "said.txt").read_text()
    assert process.returncode == 0 and not misfortunes.todo, (misfortunes.todo, text[-6000:])
    return site


def records(site: Site) -> dict[str, list[dict[str, str]]]:
    """Return SLURM's records of ended jobs of each rule or group; a job that lost its node has more than one."""
    rules = efficiency.submitted(site.folder / ".snakemake/log")
    found: dict[str, list[dict[str, str]]] = {}
    for record in site.cluster.finished():
        found.setdefault(rules.get(record["JobId"], "other"), []).append(record)
    return found


@pytest.mark.parametrize("target", ["all", "pretrain", "figures"])
def test_the_literal_commands_plan_the_demo(site, target):
    said = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "slurm", "-n", target, "--configfile", *DEMO],
        cwd=site.folder, env=site.environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert re.search(r"^pretrain_encoder +1$", said, re.M)
    assert ("draw_figure" in said) == (target != "pretrain")


def test_the_full_size_run_is_planned_in_groups(site):
    planned = site.planned("all", configs=())
    # two encoders: whole body 6 x 3, triage 4 x 3, four tumours x 3, seven tasks without training
    assert (planned["prepare_shard"], planned["adapt_encoder"]) == (1200 + 4, 2 * (18 + 12 + 12 + 7))


def test_every_job_ends_where_the_profile_sends_it(story):
    ended = {rule: jobs[-1] for rule, jobs in records(story).items()}
    assert {job["JobState"] for job in ended.values()} == {"COMPLETED"}
    on_gpus = {rule for rule, job in ended.items() if job["Partition"] == "gpu"}
    assert on_gpus == {"pretrain_encoder", "probe_checkpoints", "adapt_encoder"}
    assert not {"draw_figure", "write_report", "plan_corpus", "fetch_index"} & set(ended)  # they ran here
    assert story.path("report/report.html").exists()


def test_a_cancelled_job_runs_again_and_no_other_does(story):
    jobs = records(story)
    assert Counter(job["JobState"] for job in jobs["adapt_encoder"])["CANCELLED"] == 1
    disturbed = {"adapt_encoder", "pretrain_encoder", "prepare"}
    assert len({job["JobId"] for job in jobs["adapt_encoder"]}) == 3  # of two runs
    assert all(len({job["JobId"] for job in jobs[rule]}) == 1 for rule in set(jobs) - disturbed - {"other"})


def test_a_failing_shard_is_tried_again_with_more_memory(story):
    first, second = records(story)["prepare"]
    assert (first["JobState"], second["JobState"]) == ("FAILED", "COMPLETED")
    # Two shards, one after the other: the memory of one, the time of both.
    assert ["cpu=1,mem=3000M" in first["Tres"], "cpu=1,mem=6000M" in second["Tres"]] == [True, True]
    assert [first["TimeLimit"], second["TimeLimit"]] == ["240", "480"]
    assert story.path("volumes/phantom/shard=00001/index.parquet").exists()


def test_time_limit_and_lost_node_end_in_the_weights_of_an_undisturbed_run(story):
    states = [job["JobState"] for job in records(story)["pretrain_encoder"]]
    assert len(states) >= 3 and states[-1] == "COMPLETED" and "NODE_FAIL" in states
    run = files.read_json(story.path("encoders/ctfm/run.json"))
    assert run["steps"] == STEPS and run["resumed_from"] and min(run["resumed_from"]) > 0
    # The same job by hand, without SLURM.
    cfg = spec.load(*(story.folder / name for name in CONFIGS))
    job = json.dumps(spec.spec(cfg, "pretrain", encoder="ctfm"))
    index, out = story.path("volumes/phantom/index.parquet"), story.folder / "undisturbed"
    command = [sys.executable, "-m", "ctfm", "pretrain", "--spec", job, "--volumes", str(index), "--out", str(out)]
    # Snakemake gives a job as many threads as its rule asks for, where the machine has them; rounding depends on it.
    machine = {"CTFM_MACHINE": cfg.machine.model_dump_json(), "OMP_NUM_THREADS": str(min(8, available_cpu_count()))}
    subprocess.run(command, cwd=story.folder, env={**story.environment, **machine}, check=True, capture_output=True)
    one, other = (
        checkpoints.read(folder / "checkpoints/last.ckpt")["state_dict"]
        for folder in (out, story.path("encoders/ctfm"))
    )
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_second_call_does_nothing(story):
    before = len(story.cluster.finished())
    assert "Nothing to be done" in story.run("all", configs=CONFIGS)
    assert len(story.cluster.finished()) == before


def test_the_efficiency_report_has_every_rule_with_its_gpus(story):
    table = efficiency.by_rule(efficiency.benchmarks(story.path("benchmarks"))).set_index("rule")
    assert table.loc["pretrain_encoder", "gpu_hours"] == pytest.approx(table.loc["pretrain_encoder", "hours"])
    assert table.loc["prepare_shard", "jobs"] == 2 and table.loc["prepare_shard", "gpu_hours"] == 0
    assert efficiency.accounted(efficiency.submitted(story.folder / ".snakemake/log")) is None  # no accounting here


def test_a_pre_training_over_two_nodes_is_one_job_of_two_tasks(story):
    """The profile's `gpus: 2` and `nodes: 2`: a process for each GPU, and they share the scans of a step."""
    story.edit("profiles/slurm/config.yaml", "gpus: 1", "gpus: 2")
    story.edit("profiles/slurm/config.yaml", "nodes: 1", "nodes: 2")
    overlay = "pretrain: {one: &e {epochs: 2, steps_per_epoch: 3, crops_per_scan: 4, global_batch: 2, corpus: phantom,"
    overlay += "  encoder_options: {init_filters: 8, blocks_down: [1, 1, 1, 1, 1]}, patch: [16, 48, 48]}}"
    (story.folder / "pair.yaml").write_text(overlay.replace("one: &e", "pair:"))
    story.run("results/demo/encoders/pair/run.json", configs=(*CONFIGS, "pair.yaml"))
    pair = files.read_json(story.path("encoders/pair/run.json"))
    assert pair["hardware"]["devices"] == 2 and pair["samples"] == 12
    job = story.cluster.finished()[-1]
    assert (job["NodeCnt"], job["JobState"]) == ("2", "COMPLETED")


def test_two_tasks_on_two_nodes_train_as_one_process_does(cluster, tmp_path):
    """In double precision: gloo over SLURM's variables changes nothing but rounding."""
    index = corpora.write(tmp_path / "volumes", count=5)
    code = REAL.replace("loop.devices, loop.precision = lambda: count,", "loop.precision =")
    (tmp_path / "script.py").write_text(
        code.replace('("intra", "cross")', '("intra",)').replace("(False, True)", "(False,)")
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "CUDA_VISIBLE_DEVICES": ""}
    srun = ["srun", "--partition=gpu", f"--nodes={len(NODES)}", "--ntasks-per-node=1", "--kill-on-bad-exit"]
    states = []
    for start in ([], srun):
        out = tmp_path / str(len(start))
        command = [*start, sys.executable, "script.py", str(out), "1", json.dumps(ENTRY), str(index)]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        states.append(checkpoints.read(out / "intra-False/checkpoints/last.ckpt")["state_dict"])
    for key, value in states[0].items():
        assert torch.allclose(value, states[1][key], rtol=1e-6, atol=1e-9), key


def test_300_shards_pass_the_queue_in_groups_and_few_at_once(site, tmp_path):
    shutil.copy(ROOT / "tests/slurm/shards.smk", tmp_path / "Snakefile")
    (tmp_path / "slurm").symlink_to(site.folder / "profiles/slurm")
    command = [sys.executable, "-m", "tests.slurm.stubbed", *site.command(configs=())[2:], "--config", "shards=300"]
    before = len(site.cluster.finished())
    environment = {**site.environment, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    rows = [path.read_text().split() for path in sorted((tmp_path / "shards").iterdir())]
    jobs = site.cluster.finished()[before:]
    assert len(rows) == 300 and len(jobs) == 76  # four shards in each, and one of these twice
    assert Counter(job["JobState"] for job in jobs) == {"COMPLETED": 75, "FAILED": 1}
    events = sorted([(float(row[0]), 1) for row in rows] + [(float(row[1]), -1) for row in rows])
    at_once = list(itertools.accumulate(change for _, change in events))
    assert 1 < max(at_once) <= 8, "not as many shards at once as `downloads` says"
    assert {row[2] for row in rows[:-4]} >= {"3000"} and rows[-1][2] == "6000"


def test_the_check_of_the_cluster_finds_what_is_wrong(story, monkeypatch):
    monkeypatch.chdir(story.folder)
    profile = story.folder / "profiles/slurm/config.yaml"
    found = list(cluster_module.findings(cluster_module.read(profile), story.path(""), ["phantom"], wait=60))
    assert [finding.check for finding in found if not finding.ok] == [], found
    assert len(found) == 9
    profile.write_text(profile.read_text().replace("gpu_type: a100", "gpu_type: h100"))
    found = list(cluster_module.findings(cluster_module.read(profile), story.path(""), [], wait=60))
    (wrong,) = (finding for finding in found if not finding.ok)
    assert wrong.check == "GPUs" and "gpu_type" in wrong.remedy
