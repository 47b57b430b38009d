"""The queue: order, limits, progress, stopping."""

from __future__ import annotations

import threading
import time

import pytest

from ctfm.app import jobs
from ctfm.errors import Quarantine


def ended(job):
    for _ in range(500):
        if job.over:
            return job.state
        time.sleep(0.01)
    raise AssertionError(job.state)


def test_jobs_run_one_after_the_other_and_tell_how_far_they_are():
    queue, seen, gate = jobs.Jobs(), [], threading.Event()

    def work(job):
        job.tell(0.5, "half")
        seen.append(job.id)
        gate.wait(5)

    first, second = queue.add(work), queue.add(lambda job: seen.append(job.id))
    while first.share < 0.5:
        time.sleep(0.01)
    assert (first.state, first.message, second.state) == (jobs.RUNNING, "half", jobs.WAITING)
    gate.set()
    assert ended(second) == jobs.DONE == first.state and first.share == 1
    assert seen == [first.id, second.id]
    queue.close()


def test_a_full_queue_refuses_and_old_jobs_are_forgotten(monkeypatch):
    forgotten, gate = [], threading.Event()
    monkeypatch.setattr(jobs, "MOST_KEPT", 1)
    queue = jobs.Jobs(forgotten.append)
    running = queue.add(lambda _: gate.wait(5))
    while running.state == jobs.WAITING:
        time.sleep(0.01)
    waiting = [queue.add(lambda _: None) for _ in range(jobs.MOST_WAITING)]
    with pytest.raises(jobs.Busy):
        queue.add(lambda _: None)
    gate.set()
    ended(waiting[-1])
    queue.add(lambda _: None)
    assert forgotten == [running.id, *(job.id for job in waiting[:-1])]
    assert queue.get(running.id) is None and queue.get(waiting[-1].id) is waiting[-1]
    queue.close()


def test_a_stopped_job_ends_at_its_next_word_and_a_waiting_one_never_starts():
    queue, begun = jobs.Jobs(), []

    def work(job):
        begun.append(job.id)
        while True:
            job.tell(0.1, "working")
            time.sleep(0.01)

    first, second = queue.add(work), queue.add(work)
    second.stop.set()
    while not begun:
        time.sleep(0.01)
    first.stop.set()
    assert ended(first) == ended(second) == jobs.STOPPED
    assert begun == [first.id]
    queue.close()


@pytest.mark.parametrize(
    ("error", "message"), [(Quarantine("empty", "all air"), "empty: all air"), (RuntimeError("x"), "RuntimeError: x")]
)
def test_a_failed_job_says_why_and_the_next_one_runs(error, message):
    queue = jobs.Jobs()

    def work(_):
        raise error

    assert ended(failed := queue.add(work)) == jobs.FAILED and failed.message == message
    assert ended(queue.add(lambda _: None)) == jobs.DONE
    queue.close()


def test_closing_ends_the_running_job():
    queue = jobs.Jobs()

    def work(job):
        while True:
            job.tell(0, "on and on")
            time.sleep(0.01)

    job = queue.add(work)
    queue.close()
    assert job.state == jobs.STOPPED
