"""Only what failed or changed reruns. The tests share one finished run and leave it finished."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from ctfm.files import sha256

pytestmark = pytest.mark.workflow
FIGURES = {"draw_figure": 1, "write_report": 1}
EVALUATION = {"evaluate_cases": 2, "summarise_task": 1, **FIGURES}


@contextlib.contextmanager
def edited(path: Path, old: str = "", new: str = "\nEDITED = True\n"):
    """Change a file (append, when nothing is to be replaced) and put it back."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) if old else text + new)
    try:
        yield
    finally:
        path.write_text(text)


def test_the_demo_ends_with_a_self_contained_report(demo):
    page = demo.path("report/report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3
    assert 'src="http' not in page and "<script src" not in page


def test_a_second_call_does_nothing(demo):
    assert demo.planned() == {}
    assert "Nothing to be done" in demo.said


def test_a_changed_figure_option_redraws_only_figures(demo):
    with edited(demo.folder / "tests/workflow/small.yaml", "dpi: 60", "dpi: 61"):
        assert demo.planned() == FIGURES


def test_an_edited_metric_reruns_evaluation_but_no_training(demo):
    with edited(demo.folder / "src/ctfm/metrics/overlap.py"):
        assert demo.planned() == EVALUATION
        demo.run()
        assert demo.planned() == {}
    demo.run()


def test_an_edited_training_module_is_named_until_its_version_is_raised(demo):
    with edited(demo.folder / "src/ctfm/training/augment.py"):
        assert demo.planned() == {}
        assert "ctfm.training.augment" in demo.said and "VERSIONS['pretrain']" in demo.said
        with edited(demo.folder / "src/ctfm/config.py", '"pretrain": 1', '"pretrain": 2'):
            assert demo.planned()["pretrain_encoder"] == 1
    assert demo.planned() == {}


def test_a_deleted_shard_reruns_that_shard_and_what_follows(demo):
    before = sha256(demo.path("encoders/ctfm/model.safetensors"))
    kept = {p: p.stat().st_mtime_ns for p in demo.path("volumes/phantom/shard=00000").glob("*.b2nd")}
    shutil.rmtree(demo.path("volumes/phantom/shard=00001"))
    planned = demo.planned()
    assert (planned["prepare_shard"], planned["prepare_corpus"], planned["pretrain_encoder"]) == (1, 1, 1)
    assert not planned.keys() & {"write_phantoms", "select_series", "prepare_dataset", "import_encoder"}
    demo.run()
    assert kept == {p: p.stat().st_mtime_ns for p in kept}
    assert sha256(demo.path("encoders/ctfm/model.safetensors")) == before
    assert demo.planned() == {}


def test_killed_pretraining_goes_on_from_its_last_checkpoint(demo):
    overlay = demo.folder / "killed.yaml"
    overlay.write_text(
        "pretrain: {killed: {corpus: phantom, encoder_options: {init_filters: 8, blocks_down: [1, 1, 1, 1, 1]},"
        " epochs: 8, steps_per_epoch: 3, global_batch: 2, crops_per_scan: 4, patch: [16, 64, 64],"
        " checkpoint_every: 1}}\n"
    )
    configs = ("config/demo.yaml", "tests/workflow/small.yaml", "killed.yaml")
    # one more run: nothing that is there is made again, but for the plan, which counts its hours
    assert demo.planned("pretrain", "select", configs=configs) == {"plan_corpus": 1, "pretrain_encoder": 1}
    target = "results/demo/encoders/killed/run.json"
    process = subprocess.Popen(
        demo.command(target, configs=configs),
        cwd=demo.folder,
        env=demo.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    checkpoints = demo.path("encoders/killed/checkpoints")
    limit = time.monotonic() + 300
    while len(list(checkpoints.glob("epoch=*.ckpt"))) < 3 and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not demo.path("encoders/killed/run.json").exists()
    survived = {p.name: p.stat().st_mtime_ns for p in checkpoints.glob("epoch=*.ckpt")}
    assert 3 <= len(survived) < 8
    demo.run("--unlock", configs=configs)
    demo.run(target, configs=configs)
    assert "resuming at step" in demo.path("logs/pretrain/killed.log").read_text()
    assert all((checkpoints / name).stat().st_mtime_ns == old for name, old in sorted(survived.items())[:-1])
    metrics = pd.read_csv(demo.path("encoders/killed/metrics.csv"))
    assert metrics["epoch"].tolist() == list(range(8))


def test_figures_need_neither_volumes_nor_checkpoints(demo):
    hidden = demo.folder / "hidden"
    hidden.mkdir()
    shutil.move(demo.path("volumes"), hidden / "volumes")
    shutil.move(demo.path("encoders/ctfm/checkpoints"), hidden / "checkpoints")
    shutil.rmtree(demo.path("report/figures"))
    try:
        assert demo.planned("figures") == {"draw_figure": 1}
        demo.run("figures")
        assert demo.path("report/figures/fig2.svg").exists()
    finally:
        shutil.move(hidden / "volumes", demo.path("volumes"))
        shutil.move(hidden / "checkpoints", demo.path("encoders/ctfm/checkpoints"))
