from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid

from ctfm.config import Criteria, Prepare
from ctfm.errors import Quarantine
from ctfm.imaging import decoder, dicom
from ctfm.imaging.decoder import Decoder, Failed
from tests.imaging import dicom_maker as maker

HU = maker.body((4, 32, 40))


def compressed(folder: Path, syntax: str = uid.JPEG2000Lossless) -> list[Path]:
    paths = sorted(maker.write(folder, HU).iterdir())
    for path in paths:
        maker.recode(path, syntax)
    return paths


def test_one_process_decodes_what_pydicom_decodes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Decoder() as process:
        for path in compressed(tmp_path):
            (values,) = process.frames(path, [0])
            assert (values == pydicom.dcmread(path).pixel_array).all()
            values += 1  # it is ours
        child = process._process
    assert child is not None and child.poll() is not None  # nothing is left behind
    assert capfd.readouterr() == ("", "")


def test_no_process_without_compressed_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder.subprocess, "Popen", None)
    folder = maker.write(tmp_path, HU)
    settings = Prepare(min_slices=2), Criteria(min_instances=1, thickness_mm=None)
    assert (dicom.read_series(folder, *settings)[0].array == HU).all()
    for path in folder.iterdir():
        maker.recode(path, uid.DeflatedExplicitVRLittleEndian)
    assert (dicom.read_series(folder, *settings)[0].array == HU).all()


def test_a_failure_is_told_and_others_go_on(tmp_path: Path) -> None:
    first, second, *_ = compressed(tmp_path)
    content = first.read_bytes()
    at = content.index(b"\xff\x4f\xff\x51")
    first.write_bytes(content[:at] + bytes(60) + content[at + 60 :])
    with Decoder() as process:
        with pytest.raises(Failed):
            list(process.frames(first, [0]))
        assert next(process.frames(second, [0])).shape == (32, 40)
        with pytest.raises(Failed):
            list(process.frames(tmp_path / "absent", [0]))
        with pytest.raises(Failed):
            list(process.frames(second, [7]))


def test_a_crash_costs_one_series(tmp_path: Path) -> None:
    """The size of these files makes the native decoder abort; here that would end the tests."""
    paths = compressed(tmp_path, uid.JPEGLSLossless)
    for path in paths:
        file = pydicom.dcmread(path)
        file.Rows = 64
        file.save_as(path)
    with pytest.raises(Quarantine, match="crashed") as caught:
        dicom.read_series(tmp_path, Prepare(min_slices=2), Criteria(min_instances=1, thickness_mm=None))
    assert caught.value.code == "unreadable"
    with Decoder() as process:
        for path in paths[:2]:
            with pytest.raises(Failed, match="crashed"):
                list(process.frames(path, [0]))


@pytest.mark.parametrize(
    "fault", ["time.sleep(100)", "bytearray(2 * decoder.LARGEST_BYTES)", "os.abort()", "os._exit(0)"]
)
def test_whatever_ends_the_process_is_a_failure(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hang, a flood of the memory, a crash."""
    code = (
        "import os, time; from ctfm.imaging import decoder; decoder.LONGEST_S = 1\n"
        f"decoder.unpack = lambda *_: {fault}\n"
        "decoder.main()"
    )
    start = decoder.subprocess.Popen
    monkeypatch.setattr(decoder.subprocess, "Popen", lambda command, **rest: start([command[0], "-c", code], **rest))
    before = time.monotonic()
    with Decoder() as process, pytest.raises(Failed, match="crashed"):
        next(process.frames(tmp_path / "x.dcm", [0]))
    assert time.monotonic() - before < 30


def test_missing_frames_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from ctfm.imaging import decoder; decoder.unpack = lambda *_: iter(()); decoder.main()"
    start = decoder.subprocess.Popen
    monkeypatch.setattr(decoder.subprocess, "Popen", lambda command, **rest: start([command[0], "-c", code], **rest))
    with Decoder() as process, pytest.raises(Failed, match="fewer frames"):
        next(process.frames(tmp_path / "x.dcm", [0]))


def test_frames_come_in_the_order_asked_for(tmp_path: Path) -> None:
    path = compressed(tmp_path)[0]
    file = pydicom.dcmread(path)
    file.decompress()
    planes = np.arange(3 * 32 * 40, dtype="<u2").reshape(3, 32, 40)
    file.PixelData, file.NumberOfFrames, file.PixelRepresentation = planes.tobytes(), 3, 0
    file.compress(uid.RLELossless)
    file.save_as(path)
    with Decoder() as process:
        assert [frame[0, 0] for frame in process.frames(path, [2, 0])] == [2 * 32 * 40, 0]
