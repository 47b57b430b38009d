from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from ctfm import spec
from ctfm.config import Criteria, Prepare
from ctfm.errors import Quarantine, UserError
from ctfm.files import sha256
from ctfm.imaging import convert, store
from ctfm.imaging.volume import Volume
from tests.imaging import dicom_maker as maker

ANY = Criteria(min_instances=2, thickness_mm=None)
# Prints the peak memory of a whole process that prepares the series of a folder. (resource.getrusage would count
# what the process that started it held.)
STATUS = Path("/proc/self/status")
PREPARE = """
import sys
from pathlib import Path
from ctfm.config import Criteria, Prepare
from ctfm.imaging import convert
volume, facts = convert.convert(Path(sys.argv[1]), Prepare(antialias=sys.argv[3] == "True"), Criteria())
convert.keep(volume, facts, Path(sys.argv[2]), "key")
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(*volume.shape, int(status["VmHWM"].split()[0]) / 1024)
"""


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (20, 40, 41), (3, 400, 500)])
def test_percentiles_equal_numpy(shape: tuple[int, int, int]) -> None:
    array = np.random.default_rng(0).integers(-32768, 32768, shape).astype(np.int16)
    for values in (array, np.abs(array // 2), array.transpose(2, 0, 1)):
        expected = np.percentile(values, convert.PERCENTILES, method="inverted_cdf")
        assert convert.percentiles(values) == expected.tolist()


def test_kept_volume_is_known_by_its_key(tmp_path: Path) -> None:
    volume, facts = convert.convert(maker.write(tmp_path / "s", maker.body()), Prepare(), ANY)
    row = convert.keep(volume, facts, tmp_path / "a.b2nd", "key")
    assert convert.describe(tmp_path / "a.b2nd", "key") == row
    assert row["converter"] == store.open_volume(tmp_path / "a.b2nd").meta["source"]["converter"] == "own"
    assert row["sha256"] == sha256(tmp_path / "a.b2nd") and row["shape"] == list(volume.shape)
    with pytest.raises(Quarantine) as caught:
        convert.describe(tmp_path / "a.b2nd", "another key")
    assert caught.value.code == "other_key"


def test_row_names_the_other_converter(tmp_path: Path) -> None:
    volume, facts = convert.convert(maker.write(tmp_path / "s", maker.body()), Prepare(), ANY)
    row = convert.keep(volume, facts | {"converter": "dicom2nifti"}, tmp_path / "a.b2nd", "key")
    assert row["converter"] == "dicom2nifti" == convert.describe(tmp_path / "a.b2nd", "key")["converter"]


def test_what_was_written_wrongly_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The DICOM is deleted once a volume is kept: a disk or packer that loses one voxel must be seen."""
    volume, facts = convert.convert(maker.write(tmp_path / "s", maker.body()), Prepare(), ANY)
    save = store.save

    def lossy(volume: Volume, path: Path, meta: dict[str, Any]) -> None:
        array = volume.array.copy()
        array[-1, -1, -1] += 1
        save(Volume(array, volume.affine), path, meta)

    monkeypatch.setattr(store, "save", lossy)
    with pytest.raises(UserError, match=r"a\.b2nd.*other values"):
        convert.keep(volume, facts, tmp_path / "a.b2nd", "key")
    with pytest.raises(Quarantine):  # nor by a later run that finds the file
        convert.describe(tmp_path / "a.b2nd", "key")


def test_interpolation_and_antialias_are_those_asked_for(tmp_path: Path) -> None:
    folder = maker.write(tmp_path / "s", maker.body())
    settings = [{}, {"antialias": True}, {"interpolation": "nearest"}, {"interpolation": "sinc"}]
    volumes = [convert.convert(folder, Prepare(spacing_mm=(3, 1, 2), **extra), ANY)[0].array for extra in settings]
    assert len({array.shape for array in volumes}) == 1
    assert len({array.tobytes() for array in volumes}) == len(settings)
    assert set(np.unique(volumes[2])) <= set(np.unique(maker.body()))
    body = (slice(3, 9), slice(10, -10), slice(5, -5))
    assert volumes[1][body].std() < 0.9 * volumes[0][body].std()


def test_key_depends_on_what_changes_a_volume(tmp_path: Path) -> None:
    folder = maker.write(tmp_path / "s", maker.body())

    def key(url: str = f"file:{folder}/*", version: int = 0, minimum: int = 51, **prepare: Any) -> str:
        job = spec.spec(
            spec.check({"corpora": {"c": {"min_instances": minimum}}, "prepare": prepare}), "prepare", corpus="c"
        )
        return convert.key(job | ({"version": version} if version else {}), url)

    first = key()
    assert first == key(f"file:{folder}") == key(minimum=20) == key(cross_check=7)
    others = [key(version=99), key(antialias=True), key(spacing_mm=(3, 1, 2)), key(converter="own"), key(min_slices=3)]
    others += [key(interpolation="sinc"), key("s3://idc-open-data/one/*"), key("s3://idc-open-data/two/*")]
    (folder / "0001.dcm").write_bytes(b"other")
    others += [key()]
    assert len({first, *others}) == len(others) + 1


@pytest.fixture(scope="module")
def largest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a series of 600 slices as they come (feet first, so that one axis is flipped), and one cut sagitally."""
    folder = tmp_path_factory.mktemp("dicom")
    hu = np.broadcast_to(maker.body((1, 512, 512))[0], (600, 512, 512))
    sagittal = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    flipped, turned = maker.positions(600, 1.0, (0, 0, -1)), maker.positions(600, 0.7, (-1, 0, 0))
    return {
        "axial": maker.write(folder / "axial", hu, flipped, pixel=(0.7, 0.7)),
        "sagittal": maker.write(folder / "sagittal", hu, turned, orientation=sagittal, pixel=(0.7, 0.7)),
    }


@pytest.mark.skipif(not STATUS.exists(), reason="Linux tells the peak of a process in /proc")
@pytest.mark.parametrize(("cut", "antialias"), [("axial", False), ("sagittal", True)])
def test_memory_is_bounded(largest: dict[str, Path], cut: str, antialias: bool, tmp_path: Path) -> None:
    """The stored values of 600 slices are 315 MB, which must be held only once or twice, and never as float."""
    arguments = [str(largest[cut]), str(tmp_path / "a.b2nd"), str(antialias)]
    done = subprocess.run([sys.executable, "-c", PREPARE, *arguments], capture_output=True, text=True, check=True)
    z, y, x, megabytes = map(float, done.stdout.split())
    assert (z, y, x) == ((200, 358, 358) if cut == "axial" else (119, 358, 420))
    assert megabytes < 1500


def test_picture_shows_whatever_has_pixels(tmp_path: Path, shared_data: Path) -> None:
    def colour(file: pydicom.Dataset, _: int) -> None:
        file.SamplesPerPixel, file.PlanarConfiguration, file.PhotometricInterpretation = 3, 0, "RGB"
        file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
        file.PixelData = bytes(32 * 40 * 3)

    def frames(file: pydicom.Dataset, _: int) -> None:
        file.NumberOfFrames, file.PixelData = 3, file.PixelData * 3

    for i, change in enumerate((colour, frames)):
        image = convert.picture(maker.write(tmp_path / str(i), maker.body(), change=change))
        assert image is not None and image.shape == (32, 40)
    for name in ("localizer", "exam_summary", "mr_not_ct"):
        image = convert.picture(shared_data / "dicom" / name)
        assert image is not None and max(image.shape) == 128
    for folder in ("empty", "garbage"):
        (tmp_path / folder).mkdir()
    (tmp_path / "garbage" / "a.dcm").write_bytes(b"no DICOM")
    assert convert.picture(tmp_path / "empty") is None and convert.picture(tmp_path / "garbage") is None


def test_real_series_becomes_a_volume(shared_data: Path) -> None:
    volume, facts = convert.convert(shared_data / "dicom" / "trunk_jpeg2000", Prepare(), ANY)
    assert volume.shape == (13, 500, 500) and volume.spacing == pytest.approx((3, 1, 1))
    assert volume.array.dtype == np.int16 and volume.array.min() >= -1024
    assert facts["TransferSyntax"] == pydicom.uid.JPEG2000Lossless
    assert (np.diag(volume.affine[2::-1, :3]) > 0).all()
