"""Work that takes a while: one job at a time, a short queue, progress to ask for, and a way to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ctfm.errors import Quarantine, UserError

WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"
MOST_WAITING = 4
MOST_KEPT = 12

log = logging.getLogger(__name__)


class Busy(Exception):
    """Too many jobs wait already."""


class Stopped(Exception):
    """Somebody has stopped the job."""


@dataclass
class Job:
    """A piece of work and how far it is.

    Attributes:
        id: its name.
        state: one of the five words of this module.
        share: of it that is done, 0 to 1.
        message: what it does now, or why it failed.
        results: what it has made so far.
    """

    id: str
    state: str = WAITING
    share: float = 0.0
    message: str = "waiting for its turn"
    results: list[Any] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def tell(self, share: float, message: str) -> None:
        """Say how far it is.

        Raises:
            Stopped: it shall go on no further.
        """
        if self.stop.is_set():
            raise Stopped
        self.share, self.message = share, message

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state not in (WAITING, RUNNING)


class Jobs:
    """A queue with one worker.

    Args:
        forget: called with the id of a job that is not kept any longer.
    """

    def __init__(self, forget: Callable[[str], None] = lambda _: None) -> None:
        self._jobs: dict[str, Job] = {}
        self._forget = forget
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="ctfm-app")
        self._count = 0

    def add(self, work: Callable[[Job], None]) -> Job:
        """Queue ``work``, which gets its job to report to.

        Raises:
            Busy: the queue is full.
        """
        with self._lock:
            if sum(job.state == WAITING for job in self._jobs.values()) >= MOST_WAITING:
                raise Busy
            self._count += 1
            job = Job(str(self._count))
            self._jobs[job.id] = job
            over = [known for known in self._jobs.values() if known.over]
            for old in over[: max(0, len(over) - MOST_KEPT)]:
                del self._jobs[old.id]
                self._forget(old.id)
        self._worker.submit(_run, job, work)
        return job

    def get(self, name: str) -> Job | None:
        """Return a job, or None."""
        return self._jobs.get(name)

    def close(self) -> None:
        """Stop all jobs and wait until the running one has noticed."""
        for job in self._jobs.values():
            job.stop.set()
        self._worker.shutdown(wait=True, cancel_futures=True)


def _run(job: Job, work: Callable[[Job], None]) -> None:
    try:
        job.tell(0, "starting")
        job.state = RUNNING
        work(job)
        job.share, job.message, job.state = 1.0, "done", DONE
    except Stopped:
        job.message, job.state = "stopped", STOPPED
    except (Quarantine, UserError) as error:
        job.message, job.state = str(error), FAILED
    except Exception as error:  # the server lives on; whoever asked is told
        log.exception("search %s", job.id)
        job.message, job.state = f"{type(error).__name__}: {error}", FAILED
