"""Batches on their way to the device: copied ahead of time, and how long the training waited for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

Batch = dict[str, Any]


class Feed:
    """An iterable of unknown length, opened only when the trainer knows the device and the number of processes.

    Attributes:
        waited: seconds that the training stood still for want of a batch. A GPU that still works on the step before
            does not stand still, so its own idle time is at most this.
    """

    def __init__(self, open_loader: Callable[[], Iterable[Batch]], device: Callable[[], torch.device]) -> None:
        self._open, self._device = open_loader, device
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, on the device where that is a GPU."""
        device = self._device()
        timed = self._timed(iter(self._open()))
        return _ahead(timed, device) if device.type == "cuda" else timed

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            begin = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - begin
            if batch is None:
                return
            yield batch


def _ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy each batch on a stream of its own while the one before it is worked on."""
    stream = torch.cuda.Stream(device)
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            moved = {key: _moved(value, device) for key, value in batch.items()}
            copied = stream.record_event()
        if waiting:
            yield _ready(*waiting)
        waiting = moved, copied
    if waiting:
        yield _ready(*waiting)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value


def _ready(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Let the computing stream wait for the copy, and keep its memory until that stream is done with it."""
    current = torch.cuda.current_stream()
    current.wait_event(copied)
    for value in batch.values():
        if isinstance(value, torch.Tensor):
            value.record_stream(current)
    return batch
