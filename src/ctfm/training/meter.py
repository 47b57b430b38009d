"""How fast a run goes, what it waits for, what it uses, and when it will end."""

from __future__ import annotations

import resource
import sys
import time

import torch
from tqdm import tqdm

from ctfm.training import processes
from ctfm.training.checkpoints import Progress
from ctfm.training.feed import Feed

# Columns of metrics.csv that differ between two runs of the same settings.
TIMED = ("seconds", "samples_per_second", "data_stall", "memory_GB", "gpu_hours")


class Meter:
    """Counts time and samples into ``progress``; a bar on a terminal shows the steps."""

    def __init__(self, steps: int, progress: Progress, feed: Feed) -> None:
        self.steps, self.progress, self.feed = steps, progress, feed
        self.start(show=False)

    def start(self, show: bool) -> None:
        """Start the clock."""
        self.begin = self.clock = time.monotonic()
        self.first = (self.progress.step, self.progress.samples)
        self.feed.waited = 0.0
        self.bar = tqdm(
            total=self.steps,
            initial=self.progress.step,
            disable=None if show else True,  # None: where there is no terminal
            dynamic_ncols=True,
            desc="training",
        )

    def count(self, samples: int) -> None:
        """Count scans or cases seen, over all processes."""
        self.progress.samples += samples
        self._add("samples", samples)

    def step(self) -> None:
        """Count the time since the last step."""
        now = time.monotonic()
        self.progress.seconds += now - self.clock
        self._add("seconds", now - self.clock)
        self._add("waited", self.feed.waited)
        self.clock, self.feed.waited = now, 0.0
        self.bar.update()

    def columns(self) -> dict[str, float]:
        """Return the columns ``TIMED`` of an epoch that ends now."""
        epoch, self.progress.epoch = self.progress.epoch, {}
        seconds = max(epoch["seconds"], 1e-9)
        hours = self.progress.seconds / 3600 * processes.gpus()
        values = (seconds, epoch["samples"] / seconds, epoch["waited"] / seconds, memory_gigabytes(), hours)
        return {key: round(value, 3 if key == "seconds" else 6) for key, value in zip(TIMED, values, strict=True)}

    def speed(self) -> str:
        """Return speed and estimated end in words."""
        step, elapsed = self.progress.step, time.monotonic() - self.begin
        each = elapsed / (step - self.first[0])
        rate = (self.progress.samples - self.first[1]) / elapsed
        left = each * (self.steps - step)
        end = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + left))
        return f"{each:.2f} s a step, {rate:.1f} samples/s, {duration(left)} to go, until {end}"

    def _add(self, key: str, value: float) -> None:
        self.progress.epoch[key] = self.progress.epoch.get(key, 0.0) + value


def memory_gigabytes() -> float:
    """Return the most memory used so far: of the GPU, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def duration(seconds: float) -> str:
    """Return a time span in words."""
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {int(seconds % 60):02d} s"
