from __future__ import annotations

import re
import sys

import pytest
import torch

from ctfm.training import meter
from ctfm.training.checkpoints import Progress
from ctfm.training.feed import Feed


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def made(monkeypatch):
    clock, progress = Clock(), Progress(step=10, samples=40, seconds=3600.0)
    monkeypatch.setattr(meter.time, "monotonic", clock.monotonic)
    feed = Feed(lambda: [], lambda: torch.device("cpu"))
    counted = meter.Meter(20, progress, feed)
    counted.start(show=False)
    for _ in range(2):
        clock.now, feed.waited = clock.now + 5, 1.0
        counted.count(4)
        progress.step += 1
        counted.step()
    return counted, progress


def test_an_epoch_has_its_speed_and_its_share_of_waiting(made):
    counted, progress = made
    row = counted.columns()
    assert list(row) == list(meter.TIMED) and progress.epoch == {} and progress.seconds == 3610
    assert (row["seconds"], row["samples_per_second"], row["data_stall"]) == (10, 0.8, 0.2)
    assert row["gpu_hours"] == pytest.approx(3610 / 3600 * torch.cuda.device_count(), abs=1e-5)
    assert 0.05 < row["memory_GB"] < 100


def test_the_end_is_estimated(made):
    words = made[0].speed()
    assert words.startswith("5.00 s a step, 0.8 samples/s, 0 min 40 s to go, until ")
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d$", words)


def test_a_terminal_gets_a_bar(monkeypatch):
    progress = Progress(step=3)
    counted = meter.Meter(8, progress, Feed(lambda: [], lambda: torch.device("cpu")))
    for terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shown=terminal: shown)
        counted.start(show=True)
        assert counted.bar.disable is not terminal
        counted.bar.close()
    assert counted.bar.n in (0, 3)


def test_durations_in_words():
    assert meter.duration(59) == "0 min 59 s" and meter.duration(3 * 3600 + 125) == "3 h 02 min"
