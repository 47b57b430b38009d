"""A shard that is killed, or whose disk is full, ends as one that was left alone: byte for byte, nothing left over.

The real command runs as a process of its own; its series lie on this machine or come from an S3 server here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctfm import files, spec, tables
from ctfm.config import Config, Corpus, Prepare
from ctfm.errors import UserError
from ctfm.imaging import pictures, store
from ctfm.imaging.volume import Volume
from tests.idc.faulty_s3 import BUCKET, FaultyS3
from tests.imaging import dicom_maker as maker

pytestmark = pytest.mark.workflow

GOOD = tuple(f"1.2.{n}" for n in range(10, 21))  # more than one batch
SCOUT, ABSENT = "1.2.90", "1.2.91"
SHAPE = (20, 96, 96)
JOB = spec.spec(
    Config(
        corpora={"c": Corpus(min_instances=2, thickness_mm=None)},
        prepare=Prepare(min_slices=16, cross_check=2),
    ),
    "prepare",
    corpus="c",
)


def localizer(file: object, _: int) -> None:
    file.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]  # type: ignore[attr-defined]


class Shard:
    """A table of series, the command that prepares it, and what it made.

    Attributes:
        whole: where an undisturbed run put its output.
        seconds: how long that one worked, from the making of its folder to its end.
    """

    def __init__(self, folder: Path, url: str, machine: dict[str, object]) -> None:
        self.folder, self.machine = folder, {"download_retries": 0, **machine}
        self.whole, self.seconds = f"whole-{url.partition(':')[0]}", 0.0
        rows = []
        for uid in (*GOOD, SCOUT, ABSENT):
            found = list((folder / "dicom" / uid).glob("*"))
            rows.append(
                {
                    "SeriesInstanceUID": uid,
                    "StudyInstanceUID": "1.2",
                    "PatientID": f"p{uid}",
                    "collection_id": "phantoms",
                    "num_instances": len(found) or 5,
                    "series_size_MB": sum(f.stat().st_size for f in found) / 1e6 or 1.0,
                    "series_aws_url": url.format(uid),
                    "license": "CC0",
                    "shard": 0,
                }
            )
        tables.write(tables.of("series", rows), "series", folder / "series.parquet")

    def start(self, out: str) -> subprocess.Popen[str]:
        """Start the command in a group of its own."""
        command = [sys.executable, "-m", "ctfm", "prepare", "--spec", json.dumps(JOB), "--series", "series.parquet"]
        return subprocess.Popen(
            [*command, "--shard", "0", "--out", out],
            cwd=self.folder,
            env={**os.environ, "CTFM_MACHINE": json.dumps(self.machine), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, out: str) -> None:
        """Run the command to its end."""
        process = self.start(out)
        _, errors = process.communicate()
        assert process.returncode == 0, errors

    def wait_for_work(self, process: subprocess.Popen[str], out: str) -> float:
        """Wait until the command has read its input; return the time."""
        while process.poll() is None and not self.made(out).exists():
            time.sleep(0.005)
        return time.monotonic()

    def made(self, out: str) -> Path:
        """Return the folder of the shard."""
        return self.folder / out / "shard=00000"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the DICOM of all series but one."""
    folder = tmp_path_factory.mktemp("corpus")
    for n, uid in enumerate(GOOD):
        maker.write(folder / "dicom" / uid, maker.body(SHAPE, n), seed=uid)
    maker.write(folder / "dicom" / SCOUT, maker.body((2, 40, 300)), change=localizer)
    return folder


@pytest.fixture(scope="module")
def cloud(corpus: Path) -> Iterator[FaultyS3]:
    with FaultyS3() as server:
        for file in (corpus / "dicom").rglob("*.dcm"):
            server.objects[f"{file.parent.name}/{file.name}"] = file.read_bytes()
        yield server


@pytest.fixture(scope="module", params=["file", "s3"])
def shard(request: pytest.FixtureRequest, corpus: Path) -> Shard:
    """Return the shard from both kinds of source, with `whole/`: what an undisturbed run makes."""
    if request.param == "file":
        made = Shard(corpus, "file:dicom/{}/*", {})
    else:
        made = Shard(corpus, f"s3://{BUCKET}/{{}}/*", {"endpoint_url": request.getfixturevalue("cloud").url})
    process = made.start(made.whole)
    begin = made.wait_for_work(process, made.whole)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    made.seconds = time.monotonic() - begin
    return made


def check_finished(shard: Shard, out: str) -> None:
    """Compare a finished shard with the undisturbed one."""
    found, expected = shard.made(out), shard.made(shard.whole)
    names = {str(p.relative_to(expected)) for p in expected.rglob("*")}
    assert {str(p.relative_to(found)) for p in found.rglob("*")} == names
    assert sum(name.endswith(".b2nd") for name in names) == len(GOOD)
    for name in sorted(names):
        if name.endswith((".b2nd", ".png")):
            assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    for name, table in (("index", "volumes"), ("cross_checks", "cross_checks")):  # all but how long it took
        one, other = (tables.read(table, f / f"{name}.parquet") for f in (found, expected))
        pd.testing.assert_frame_equal(*(t.drop(columns="seconds", errors="ignore") for t in (one, other)))
        facts = [tables.facts(f / f"{name}.parquet").get("spec") for f in (found, expected)]
        assert facts[0] == facts[1]


def check_unfinished(shard: Shard, out: str) -> None:
    """What has the name of a volume is one; and the shard is not called done."""
    found, expected = shard.made(out), shard.made(shard.whole)
    for path in found.glob("[0-9]*.b2nd"):
        assert path.read_bytes() == (expected / path.name).read_bytes()
    if (found / "index.parquet").exists():
        check_finished(shard, out)


def interrupt(shard: Shard, out: str, number: int, fraction: float, whole_group: bool) -> int:
    """Send a signal when ``fraction`` of the work's time is over; return the exit status."""
    process = shard.start(out)
    shard.wait_for_work(process, out)
    try:
        process.wait(fraction * shard.seconds)
    except subprocess.TimeoutExpired:
        (os.killpg if whole_group else os.kill)(process.pid, number)
    process.communicate()
    return process.returncode


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGKILL, True), (signal.SIGKILL, False), (signal.SIGTERM, False)],
    ids=["kill", "kill-one", "term"],
)
def test_a_shard_that_is_stopped_again_and_again_ends_the_same(
    shard: Shard, number: signal.Signals, whole_group: bool
) -> None:
    """Stop it at random points; each further run goes on. `kill-one` leaves its children, as a lack of memory does."""
    out = f"{shard.whole}-{number}-{whole_group}"
    rng = np.random.default_rng([number, whole_group])
    statuses = []
    for fraction in rng.uniform(0, 0.9, 4):
        statuses.append(interrupt(shard, out, number, fraction, whole_group))
        check_unfinished(shard, out)
    assert -number in statuses  # else nothing was tested
    shard.finish(out)
    check_finished(shard, out)


DYING = """
import os, signal, sys
from pathlib import Path
from ctfm.stages import prepare as stage
from ctfm.imaging import convert
from ctfm import tables
owner, name = {"keep": (convert, "keep"), "delete": (stage, "_clear"), "table": (tables, "write")}.get(
    sys.argv[1], (Path, "replace"))
original, left = getattr(owner, name), int(sys.argv[2])
def die(*args, **more):
    global left
    left -= name != "replace" or str(args[0]).endswith(sys.argv[1])
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **more)
setattr(owner, name, die)
stage.prepare(Path("series.parquet"), 0, Path(sys.argv[3]), spec=sys.argv[4])
"""


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("keep", 2),
        ("delete", 3),
        (".part", 3),
        (".b2nd", 2),
        (".png", 1),
        ("table", 2),
        (".parquet", 1),
        (".parquet", 2),
    ],
)
def test_a_kill_between_two_steps_leaves_nothing(shard: Shard, where: str, call: int) -> None:
    """Kill it before a step: storing, deleting, writing a table, or giving its name to what is whole."""
    out = f"{shard.whole}-{where}-{call}"
    command = [sys.executable, "-c", DYING, where, str(call), out, json.dumps(JOB)]
    environment = {**os.environ, "CTFM_MACHINE": json.dumps(shard.machine)}
    done = subprocess.run(command, cwd=shard.folder, env=environment, stderr=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    check_unfinished(shard, out)
    shard.finish(out)
    check_finished(shard, out)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the place of a disk of its own, 64 kB large."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def resize(place: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", place], check=True)


def test_a_full_disk_costs_no_series(shard: Shard, small_disk: Path) -> None:
    """The disk grows from run to run: whatever writes next finds no room."""
    volumes = sum(p.stat().st_size for p in shard.made(shard.whole).rglob("*") if p.is_file())
    dicom = sum(p.stat().st_size for p in (shard.folder / "dicom" / GOOD[0]).iterdir())
    out, refused = f"{small_disk}/out", 0
    for kilobytes in (64, dicom // 1000, *np.linspace(500e3, volumes + 9 * dicom, 7) // 1000):
        resize(small_disk, int(kilobytes))
        process = shard.start(out)
        _, errors = process.communicate()
        assert "Traceback" not in errors
        check_unfinished(shard, out)
        if process.returncode == 0:
            break
        assert process.returncode == 2
        (line,) = [line for line in errors.splitlines() if line.startswith("ctfm prepare: error:")]
        assert str(small_disk) in line and "free some" in line, line
        if "are needed" not in line:  # it looked as if there were room
            refused += 1
            assert "start again" in line and ("full" in line or "No space left" in line), line
    assert refused >= 2
    resize(small_disk, 100_000)
    shard.finish(out)
    check_finished(shard, out)


def test_every_writer_names_the_folder_that_is_full(small_disk: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [{"SeriesInstanceUID": rng.bytes(40).hex(), "num_instances": 1, "shard": 0} for _ in range(4000)]
    noise = rng.integers(0, 255, (64, 64, 64))
    writers = [
        lambda: store.save(Volume(noise.astype(np.int16), np.eye(4)), small_disk / "a.b2nd"),
        lambda: tables.write(tables.of("series", rows), "series", small_disk / "a.parquet"),
        lambda: pictures.write_png(noise.reshape(512, 512).astype(np.uint8), small_disk / "a.png"),
        lambda: files.write_json(rows, small_disk / "a.json"),
    ]
    for write in writers:
        with pytest.raises(UserError, match=f"{small_disk}: No space left on device; free some, then start again"):
            write()
        assert list(small_disk.iterdir()) == []
