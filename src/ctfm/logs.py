"""Log lines and progress: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LINE_EVERY_SECONDS = 15.0


def setup() -> None:
    """Send log lines with time and level to standard error; the variable ``CTFM_LOG=debug`` gives more of ours."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    level = os.environ.get("CTFM_LOG", "info").upper()
    logging.getLogger("ctfm").setLevel(logging.getLevelNamesMapping().get(level, logging.INFO))
    logging.getLogger("numexpr").setLevel(logging.WARNING)  # tells how many threads it has, each time


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield from ``items`` and show how far it is: a bar on a terminal, a line every 15 s otherwise."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, dynamic_ncols=True)
        return
    log, start, last, done = logging.getLogger("ctfm"), time.monotonic(), time.monotonic(), 0
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > LINE_EVERY_SECONDS:
            last = time.monotonic()
            log.info("%s: %d of %s, %.0f s", what, done, total or "?", last - start)
    log.info("%s: %d done in %.1f s", what, done, time.monotonic() - start)
