"""The table of time, memory and GPU-hours: from benchmarks and from lines of sacct, by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from ctfm import efficiency
from ctfm.errors import UserError

HEADER = "s\tmax_rss\tcpu_time\trule_name\tresources\n"
ONE = (
    HEADER + "7200.0\t1000.0\t3600.0\tpretrain_encoder\t{'gpu': 0, 'gres': 'gpu:a100:2', 'nodes': 2, 'mem_mb': 64000}\n"
)
SHARDS = [
    HEADER + f"{s}\t{m}\t-\tprepare_shard\t{{'mem_mb': {b}}}\n" for s, m, b in [(1800, 500, 3000), (3600, 100, 6000)]
]
# In sacct's format: a job that ran into its limit; one that was requeued after a node had failed; a small one.
SACCT = """\
11|TIMEOUT|7200|billing=16,cpu=16,gres/gpu:a100=4,gres/gpu=4,mem=64000M,node=2|
11.batch|CANCELLED|7201|cpu=8,gres/gpu=2,mem=32000M,node=1|2048K
11.0|CANCELLED by 0|7201|cpu=16,gres/gpu=4,mem=64000M,node=2|1.5G
12|NODE_FAIL|600|billing=16,cpu=16,gres/gpu:a100=4,gres/gpu=4,mem=64000M,node=2|
12|COMPLETED|3600|billing=16,cpu=16,gres/gpu:a100=4,gres/gpu=4,mem=64000M,node=2|
12.0|COMPLETED|3600|cpu=16,gres/gpu=4,mem=64000M,node=2|2G
13|COMPLETED|60|billing=4,cpu=4,mem=12000M,node=1|
13.batch|COMPLETED|60|cpu=4,mem=12000M,node=1|
"""
RULES = {"11": "pretrain_encoder", "12": "pretrain_encoder", "13": "prepare"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "benchmarks/prepare").mkdir(parents=True)
    (tmp_path / "benchmarks/ctfm.tsv").write_text(ONE)
    for number, text in enumerate(SHARDS):
        (tmp_path / f"benchmarks/prepare/{number}.tsv").write_text(text)
    return tmp_path


def test_benchmarks_are_summed_by_rule(folder):
    table = efficiency.by_rule(efficiency.benchmarks(folder / "benchmarks")).set_index("rule")
    train, shards = table.loc["pretrain_encoder"], table.loc["prepare_shard"]
    assert (train["jobs"], train["hours"], train["cpu_hours"], train["gpu_hours"]) == (1, 2, 1, 8)
    assert train["peak_GB"] == pytest.approx(1.048576) and train["requested_GB"] == 64
    assert (shards["jobs"], shards["hours"], shards["longest_hours"], shards["gpu_hours"]) == (2, 1.5, 1, 0)
    assert shards["requested_GB"] == 6


def test_accounting_counts_every_try_and_what_it_reserved():
    tries = efficiency.parse_sacct(SACCT, RULES)
    assert list(tries["state"]) == ["TIMEOUT", "NODE_FAIL", "COMPLETED", "COMPLETED"]
    table = efficiency.by_group(tries).set_index("rule")
    train = table.loc["pretrain_encoder"]
    assert (train["tries"], train["failed"]) == (3, 2)
    assert train["reserved_gpu_hours"] == pytest.approx(4 * (7200 + 600 + 3600) / 3600)
    assert train["reserved_peak_GB"] == pytest.approx(2 * 1.073741824)
    assert table.loc["prepare", "reserved_gpu_hours"] == 0 and pd.isna(table.loc["prepare", "reserved_peak_GB"])


def test_the_command_keeps_a_table_and_asks_the_accounting_for_the_jobs_of_the_logs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / ".snakemake/log").mkdir(parents=True)
    said = "Job {} has been submitted with SLURM jobid {} (log: /x/.snakemake/slurm_logs/{}/1.log).\n"
    told = [(5, 11, "rule_pretrain_encoder/ctfm"), (6, 13, "group_prepare_prepare_shard")]
    (folder / ".snakemake/log/a.log").write_text("".join(said.format(*job) for job in told))
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    (folder / "said.txt").write_text("\n".join(line for line in SACCT.splitlines() if not line.startswith("12")))
    (bin_folder / "sacct").write_text(f'#!/bin/sh\necho "$*" > {folder}/asked\ncat {folder}/said.txt\n')
    (bin_folder / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")
    efficiency.efficiency(results=folder)
    assert "--jobs=11,13" in (folder / "asked").read_text()
    assert "| pretrain_encoder " in capsys.readouterr().out
    table = pd.read_csv(folder / "efficiency.csv").set_index("rule")
    assert table.loc["pretrain_encoder", "gpu_hours"] == 8
    assert table.loc["pretrain_encoder", "reserved_gpu_hours"] == 8 and table.loc["prepare", "tries"] == 1
    (bin_folder / "sacct").write_text("#!/bin/sh\nexit 1\n")  # accounting is off
    efficiency.efficiency(results=folder)
    assert "tries" not in pd.read_csv(folder / "efficiency.csv")


@pytest.mark.parametrize(("text", "words"), [(None, "no benchmarks"), ("s\n1\n", "--benchmark-extended")])
def test_what_can_not_be_summed_is_told(tmp_path, text, words):
    if text:
        (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(UserError, match=words):
        efficiency.benchmarks(tmp_path)


@pytest.mark.parametrize(
    ("request_", "count"),
    [
        ({}, 0),
        ({"gpu": 2}, 2),
        ({"gres": "gpu:h100:4", "nodes": 2, "gpu": 0}, 8),
        ({"gres": "gpu:2"}, 2),
        ({"gres": "gpu"}, 1),
    ],
)
def test_gpus_are_counted_over_nodes(request_, count):
    assert efficiency.gpus(request_) == count
