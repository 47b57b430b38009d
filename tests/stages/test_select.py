"""The commands `ctfm select` and `ctfm plan`, as a person runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from ctfm import tables
from ctfm.errors import UserError
from ctfm.idc import cost, measure, query, releases
from ctfm.stages import select as stage
from tests.idc.index_maker import install, listed, newest, pin, wheel, write_index

FILES = (*(f"{name}.parquet" for name in query.TABLES), "attribution.md", "selection.json")

CONFIG = """
corpora: {{mine: {{index: index.parquet, {}}}}}
machine: {{keep_dicom: true}}
report: {{figures: {{ids: []}}}}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which holds index.parquet with six good series and one MR, and mine.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTFM_MACHINE", "")  # so that what a command sets is undone afterwards
    monkeypatch.delenv("CTFM_MACHINE")
    rows = [
        {
            "collection_id": "mine",
            "PatientID": f"p{n // 2}",
            "StudyInstanceUID": f"2.{n}",
            "SeriesInstanceUID": f"1.{n}",
            "Modality": "MR" if n == 6 else "CT",
            "SeriesDescription": "AX 3.0 mm",
            "instanceCount": 60,
            "license_short_name": "CC BY 4.0",
            "series_size_MB": 30.0,
            "series_aws_url": f"file:dicom/1.{n}/*",
        }
        for n in range(7)
    ]
    pd.DataFrame(rows).to_parquet("index.parquet")
    Path("mine.yaml").write_text(CONFIG.format("shards: 2"))
    return tmp_path


def run(command: str, *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(getattr(stage, command.replace("-", "_")))
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def select(out: str = "out") -> None:
    assert run("select", "--config", "mine.yaml", "--corpus", "mine", "--out", out).exit_code == 0


def test_writes_tables_and_facts(here: Path) -> None:
    select()
    assert sorted(p.name for p in (here / "out").iterdir()) == sorted(FILES)
    series = tables.read("series", "out/series.parquet")
    assert series["SeriesInstanceUID"].tolist() == [f"1.{n}" for n in range(6)]
    assert series["series_aws_url"].iloc[0] == "file:dicom/1.0/*"
    assert set(series["shard"]) <= {0, 1}
    assert tables.read("funnel", "out/funnel.parquet")["series"].tolist() == [7, 6, 6, 6, 6]
    assert tables.read("collections", "out/collections.parquet")["series"].tolist() == [6]
    facts = json.loads((here / "out/selection.json").read_text())
    assert facts["settings"]["shards"] == 2
    assert facts["series"] == 6


def test_same_inputs_give_the_same_bytes(here: Path) -> None:
    select("a")
    select("b")
    for name in FILES:
        assert (here / "a" / name).read_bytes() == (here / "b" / name).read_bytes()


@pytest.fixture
def idc(here: Path, monkeypatch: pytest.MonkeyPatch) -> releases.Pin:
    """Let a small idc-index-data be installed, and pip find the wheel of the one before; return what it holds."""
    install(monkeypatch, here / "package", [newest("1.1"), newest("1.2", series_revised_idc_version=15)])
    write_index(here / "old.parquet", listed("1.1"), listed("1.2"))
    wheel(here / "wheels", "18.2.0", {"idc_index.parquet": here / "old.parquet"})
    for key, value in {"CTFM_MACHINE": '{"cache": "cache"}', "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "wheels"}.items():
        monkeypatch.setenv(key, value)
    return pin(monkeypatch, here / "old.parquet")


def test_needs_no_configuration(here: Path, idc: releases.Pin) -> None:
    """Without any the paper's criteria hold, on the paper's releases, of which one is fetched."""
    assert run("select", "--out", "out").exit_code == 0
    facts = json.loads((here / "out/selection.json").read_text())
    assert (facts["settings"]["min_instances"], facts["settings"]["releases"]) == (51, [14, 18])
    assert facts["tables"]["listing"] == {
        "file": "idc_index.parquet",
        "package": "idc-index-data",
        "version": "18.2.0",
        "sha256": idc.sha256,
    }
    assert tables.read("series", "out/series.parquet")["SeriesInstanceUID"].tolist() == ["1.1"]
    assert run("plan", "--series", "out/series.parquet").exit_code == 0


def test_same_releases_give_the_same_bytes(here: Path, idc: releases.Pin) -> None:
    """Also with random subsets, of which the seed is the run's."""
    corpus = {"licenses": "commercial", "exclude_downstream": True, "patients_per_collection": 1, "max_series": 1}
    spec = {"stage": "select", "version": 1, "select": {}, "corpus": corpus, "name": "x", "seed": 3}
    for folder in ("a", "b"):
        assert run("select", "--spec", json.dumps(spec), "--out", folder).exit_code == 0
    assert sorted(p.name for p in Path("a").iterdir()) == sorted(FILES)
    for name in FILES:
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()
        assert str(here).encode() not in Path("a", name).read_bytes()


def test_fetch_index_is_done_once_and_tells_what_is_there(
    here: Path, idc: releases.Pin, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("fetch-index", "--out", "first.json").exit_code == 0
    monkeypatch.setenv("PIP_FIND_LINKS", "nowhere")
    assert run("fetch-index", "--out", "again.json").exit_code == 0
    assert Path("first.json").read_bytes() == Path("again.json").read_bytes()
    found = json.loads(Path("first.json").read_text())["tables"]
    assert {role: table["version"] for role, table in found.items()} == {
        "listing": "18.2.0",
        "newest": "25.0.5",
        "prior": "25.0.5",
    }
    assert found["listing"]["sha256"] == idc.sha256
    assert str(here) not in Path("first.json").read_text()


@pytest.mark.parametrize("settings", ["", "select: {backend: bigquery}"])
def test_fetch_index_has_nothing_to_do_for_an_own_index(here: Path, settings: str) -> None:
    Path("mine.yaml").write_text(CONFIG.format("shards: 2") + settings)
    assert run("fetch-index", "--config", "mine.yaml", "--corpus", "mine", "--out", "found.json").exit_code == 0
    assert json.loads(Path("found.json").read_text()) == {"tables": {}}


def test_corpus_must_be_named_with_a_configuration(here: Path) -> None:
    with pytest.raises(UserError, match="--config needs --corpus"):
        run("select", "--config", "mine.yaml", "--out", "out")
    with pytest.raises(UserError, match="give --config FILE too"):
        run("select", "--corpus", "mine", "--out", "out")
    with pytest.raises(UserError, match=r"corpora: no entry 'mime'; did you mean 'mine'"):
        run("select", "--config", "mine.yaml", "--corpus", "mime", "--out", "out")


def test_nothing_is_written_when_nothing_is_chosen(here: Path) -> None:
    Path("mine.yaml").write_text(CONFIG.format("min_instances: 61"))
    with pytest.raises(
        UserError, match=r"'at least 61 instances' \(6 before it\); change corpora\.mine\.min_instances"
    ):
        run("select", "--config", "mine.yaml", "--corpus", "mine", "--out", "out")
    assert not (here / "out").exists()


def test_plan_is_printed_and_written(here: Path) -> None:
    select()
    options = ("--config", "mine.yaml", "--corpus", "mine", "--series", "out/series.parquet", "--out", "out/plan.json")
    shown = run("plan", *options, "--json")
    written = json.loads((here / "out/plan.json").read_text())
    assert json.loads(shown.stdout) == written
    assert written["files"] == 360
    assert written["download_TB"] == pytest.approx(180e-6)
    assert "keep_dicom" in written["assumptions"]["final_disk"]
    assert written["final_disk_TB"] == written["peak_disk_TB"] > 180e-6
    assert 0.1 < written["cpu_seconds_per_GB"] < 1000
    assert "pretrain" not in written
    assert "180.0 MB" in run("plan", *options).stdout


def test_plan_counts_the_training_on_this_corpus(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is that of the entry's own patch and architecture, whose count is tested elsewhere."""
    monkeypatch.setattr(measure, "seconds_per_gb", lambda settings: 10.0)
    monkeypatch.setattr(measure, "forward_flop", lambda name, options, patch: 1e9 * options["init_filters"] * patch[0])
    select()
    entries = "pretrain: {run: {corpus: mine, epochs: 3, encoder_options: {init_filters: 8}}}\n"
    Path("mine.yaml").write_text(CONFIG.format("shards: 2") + entries)
    options = ("--config", "mine.yaml", "--corpus", "mine", "--series", "out/series.parquet")
    run_ = json.loads(run("plan", *options, "--json").stdout)["pretrain"]["run"]
    assert run_["forward_GFLOP"] == 8 * 24
    assert run_["gpu_hours"] == pytest.approx(8 * 24e9 * 3 * 640 * 1500 / 100e12 / 3600)
    assert "pre-training run 1,500 steps" in run("plan", *options).stdout


def test_plan_refuses_a_short_disk_and_writes_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    select()
    monkeypatch.setattr(cost, "free_disk", lambda folder: 1e6)
    with pytest.raises(UserError, match=r"out: 19\d\.\d MB are needed at the peak and 1\.0 MB are free"):
        run("plan", "--series", "out/series.parquet", "--out", "out/plan.json")
    assert not (here / "out/plan.json").exists()


def test_plan_of_no_selection(here: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.parquet: no such file or folder; make it with 'ctfm select'"):
        run("plan", "--series", "nowhere.parquet")


def test_spec_as_the_workflow_gives_it(here: Path) -> None:
    content: dict[str, Any] = {"stage": "select", "version": 1, "code": "0123", "select": {"backend": "duckdb"}}
    content |= {"corpus": {"index": "index.parquet", "max_series": 2}, "name": "mine", "seed": 5}
    assert run("select", "--spec", json.dumps(content), "--out", "out").exit_code == 0
    assert len(tables.read("series", "out/series.parquet")) == 2


def test_ten_real_series_are_in_the_installed_index(root: Path, tmp_path: Path) -> None:
    """Check the corpus of config/idc_mini.yaml: there, small, and free to use."""
    entry = yaml.safe_load((root / "config/idc_mini.yaml").read_text())["corpora"]["idc_mini"]
    spec = {"stage": "select", "version": 1, "select": {}, "corpus": entry, "name": "idc_mini", "seed": 0}
    assert run("select", "--spec", json.dumps(spec), "--out", str(tmp_path)).exit_code == 0
    series = tables.read("series", tmp_path / "series.parquet")
    assert len(series) == len(entry["series"]) == 10
    assert series["collection_id"].nunique() == 10
    assert series["license"].str.fullmatch(r"CC BY \d\.0").all()
    assert series["series_size_MB"].sum() < 300


def test_imports_no_torch() -> None:
    code = "import sys, ctfm.stages.select; sys.exit('torch' in sys.modules or 'idc_index' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
