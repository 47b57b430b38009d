"""What the plan measures: against closed forms, and against the work that the shared measurements tell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ctfm import provenance
from ctfm.config import Prepare
from ctfm.idc import measure


def test_conversion_is_timed_on_the_real_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look at the clock take a second: the better run took one, for so many bytes."""
    import ctfm.imaging.convert as convert

    kept, clock = [], iter(range(100))
    monkeypatch.setattr(measure.time, "process_time", lambda: next(clock))
    original = convert.keep
    monkeypatch.setattr(convert, "keep", lambda *args: kept.append(original(*args)))
    monkeypatch.setattr(measure.tempfile, "tempdir", str(tmp_path))
    found = measure.seconds_per_gb(Prepare(min_slices=100), slices=20, matrix=64)
    size = 1e9 / found
    assert 20 * 64 * 64 * 2 < size < 20 * (64 * 64 * 2 + 2000)
    assert len(kept) == measure.RUNS
    assert [row["shape"] for row in kept] == [[17, 45, 45]] * 2  # 19 * 2.5 / 3 and 63 * 0.7, and the first voxel
    assert list(tmp_path.iterdir()) == []


def test_work_of_a_convolution_follows_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Plugin:
        Settings = dict

        @staticmethod
        def build(settings: dict) -> torch.nn.Module:
            return torch.nn.Conv3d(1, settings["channels"], 3, padding=1)

    monkeypatch.setattr(measure.plugins, "get", lambda kind, name: Plugin)
    voxels, kernel, channels = 8 * 10 * 12, 27, 5
    assert measure.forward_flop("any", {"channels": channels}, (8, 10, 12)) == 2 * voxels * kernel * channels


def test_work_of_the_papers_encoder() -> None:
    """Compare with an independent count: 156 and 203 GFLOP."""
    assert measure.forward_flop("segresnet", {}, (24, 128, 128)) == pytest.approx(156e9, rel=0.005)
    assert measure.forward_flop("segresnet", {}, (32, 128, 128)) == pytest.approx(203e9, rel=0.005)


def test_without_torch_the_work_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert measure.forward_flop("segresnet", {}, (24, 128, 128)) is None


def test_what_is_measured_is_no_part_of_the_selection() -> None:
    """Else an edit of the conversion would choose all series anew. And torch is imported for training alone."""
    code = provenance.code("select")
    assert "ctfm.idc.measure" in code
    assert not {"ctfm.imaging.convert", "ctfm.phantom.dicom"} & set(code)
    script = (
        "import sys; from ctfm.config import Prepare; from ctfm.idc import measure; import ctfm.stages.select;"
        "measure.seconds_per_gb(Prepare(), 4, 32); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
