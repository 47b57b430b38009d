from __future__ import annotations

import time

import pytest
import torch

from ctfm.training.feed import Feed


def slow(count, seconds):
    for number in range(count):
        time.sleep(seconds)
        yield {"x": torch.full((2,), float(number)), "names": [str(number)]}


def test_batches_come_in_order_and_waiting_is_counted():
    opened = []
    feed = Feed(lambda: opened.append(1) or slow(4, 0.03), lambda: torch.device("cpu"))
    assert not opened and feed.waited == 0
    got = []
    for batch in feed:
        got.append((float(batch["x"][0]), batch["names"]))
        time.sleep(0.02)  # work, not waiting
    assert got == [(float(i), [str(i)]) for i in range(4)]
    assert 0.12 <= feed.waited < 0.2


def test_an_error_of_the_loader_comes_through():
    def broken():
        yield {"x": torch.zeros(1)}
        raise ValueError("disk")

    feed = iter(Feed(broken, lambda: torch.device("cpu")))
    next(feed)
    with pytest.raises(ValueError, match="disk"):
        next(feed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_are_copied_to_the_device_whole():
    feed = Feed(lambda: slow(5, 0), lambda: torch.device("cuda", 0))
    got = [(batch["x"].is_cuda, float(batch["x"].sum()), batch["names"]) for batch in feed]
    assert got == [(True, 2.0 * i, [str(i)]) for i in range(5)]
