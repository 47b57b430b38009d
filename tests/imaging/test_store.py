from __future__ import annotations

from pathlib import Path

import blosc2
import numpy as np
import pytest
from scipy.ndimage import find_objects

from ctfm.errors import Quarantine
from ctfm.imaging import store
from ctfm.imaging.volume import Volume


def volume(shape: tuple[int, int, int] = (45, 150, 70), dtype: type = np.int16) -> Volume:
    rng = np.random.default_rng(0)
    array = rng.integers(-1024 if dtype is np.int16 else 0, 200, shape).astype(dtype)
    return Volume(array, np.diag([3.0, 1.0, 1.0, 1.0]) + rng.uniform(0, 1, (4, 4)) * [[1], [1], [1], [0]])


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.uint16])
def test_volume_affine_and_facts_come_back(tmp_path: Path, dtype: type) -> None:
    original = volume(dtype=dtype)
    store.save(original, tmp_path / "a.b2nd", {"body_box": [[0, 0, 0], [1, 2, 3]], "text": "ä"})
    stored = store.open_volume(tmp_path / "a.b2nd")
    loaded = stored.load()
    assert loaded.array.dtype == dtype and (loaded.array == original.array).all()
    assert (stored.affine == original.affine).all()
    assert stored.meta == {"body_box": [[0, 0, 0], [1, 2, 3]], "text": "ä"}
    assert stored.shape == original.shape


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        store.save(volume(), tmp_path / f"{name}.b2nd", {"z": 1, "a": 2})
    assert (tmp_path / "a.b2nd").read_bytes() == (tmp_path / "b.b2nd").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.b2nd", "b.b2nd"]


def test_crops_equal_slices_of_a_padded_array(tmp_path: Path) -> None:
    original, margin = volume(), 200
    padded = np.pad(original.array, margin, constant_values=-1024)
    store.save(original, tmp_path / "a.b2nd")
    stored = store.open_volume(tmp_path / "a.b2nd")
    rng = np.random.default_rng(1)
    cases = [
        ((0, 0, 0), (24, 128, 64)),
        ((40, 140, 60), (24, 24, 24)),
        ((-100, 0, 0), (8, 8, 8)),
        ((45, 0, 0), (3, 3, 3)),
    ]
    cases += [(tuple(rng.integers(-30, 60, 3)), tuple(rng.integers(1, 60, 3))) for _ in range(60)]
    cases += [((-10, -10, -10), (80, 180, 90))]
    for start, size in cases:
        box = tuple(slice(s + margin, s + margin + k) for s, k in zip(start, size, strict=True))
        crop = stored.crop(tuple(map(int, start)), tuple(map(int, size)))
        assert crop.dtype == np.int16 and crop.shape == tuple(size)
        assert (crop == padded[box]).all()
    assert (stored.crop((-9, 0, 0), (3, 2, 2), pad=7) == 7).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 5, 1), (8, 129, 257)])
def test_odd_shapes(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    original = volume(shape)
    store.save(original, tmp_path / "a.b2nd")
    assert (store.open_volume(tmp_path / "a.b2nd").load().array == original.array).all()


def test_damaged_files_are_quarantined(tmp_path: Path) -> None:
    store.save(volume(), tmp_path / "a.b2nd")
    content = (tmp_path / "a.b2nd").read_bytes()
    files = {
        "empty": b"",
        "text": b"this is no volume" * 50,
        "half": content[: len(content) // 2],
        "end": content[:-10],
        "head": bytes(64) + content[64:],
        "type": content.replace(b"<i2", b"<g2", 1),
    }
    for name, damaged in files.items():
        (tmp_path / f"{name}.b2nd").write_bytes(damaged)
        with pytest.raises(Quarantine) as caught:
            store.open_volume(tmp_path / f"{name}.b2nd")
        assert caught.value.code == "unreadable"
    with pytest.raises(Quarantine):
        store.open_volume(tmp_path / "absent.b2nd")


@pytest.mark.parametrize("codec", [blosc2.Codec.ZSTD, blosc2.Codec.LZ4HC, blosc2.Codec.BLOSCLZ])
def test_files_packed_in_other_ways_are_read(tmp_path: Path, codec: blosc2.Codec) -> None:
    """A file tells how it is packed: those of earlier versions (zstd) stay good."""
    original = volume()
    packing = {"codec": codec, "clevel": 5, "nthreads": 1}
    file = blosc2.asarray(original.array, urlpath=str(tmp_path / "a.b2nd"), chunks=(20, 64, 70), cparams=packing)
    file.schunk.vlmeta["ctfm"] = {"affine": original.affine.tolist(), "meta": {"key": "k"}}
    stored = store.open_volume(tmp_path / "a.b2nd")
    assert stored.meta == {"key": "k"} and (stored.affine == original.affine).all()
    assert (stored.load().array == original.array).all()
    assert (stored.crop((18, 60, 10), (4, 9, 9)) == original.array[18:22, 60:69, 10:19]).all()


def test_noise_is_packed_to_its_bits(tmp_path: Path) -> None:
    """Air and tissue with the noise of a scan take less than half of the 16 bits of a voxel."""
    array = np.full((32, 160, 160), -1000.0)
    array[:, 30:130, 30:130] = 50
    noise = np.random.default_rng(0).normal(0, 15, array.shape)
    store.save(Volume((array + noise).astype(np.int16), np.eye(4)), tmp_path / "a.b2nd")
    assert (tmp_path / "a.b2nd").stat().st_size < 0.5 * array.size * 2


def test_foreign_b2nd_is_quarantined(tmp_path: Path) -> None:
    blosc2.asarray(np.zeros((4, 4, 4), np.int16), urlpath=str(tmp_path / "a.b2nd"), mode="w")
    with pytest.raises(Quarantine):
        store.open_volume(tmp_path / "a.b2nd")


def test_body_box_against_scipy() -> None:
    array = np.full((20, 30, 40), -1000, np.int16)
    array[3:7, 10:22, 5:6] = 40
    array[6, 25, 30] = -499
    array[0, 0, 0] = -500  # not above
    start, stop = store.body_box(array)
    box = find_objects((array > -500).astype(int))[0]
    assert [slice(a, b, None) for a, b in zip(start, stop, strict=True)] == list(box)
    assert store.body_box(np.full((2, 3, 4), -1024, np.int16)) == ((0, 0, 0), (2, 3, 4))
    assert store.body_box(array.transpose(2, 0, 1)[::-1]) == ((9, 3, 10), (35, 7, 26))


@pytest.mark.parametrize("seed", range(5))
def test_body_box_of_scattered_voxels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = np.full((9, 8, 7), -900, np.int16)
    hits = rng.integers(0, array.shape, (3, 3))
    array[tuple(hits.T)] = 0
    start, stop = store.body_box(array)
    assert start == tuple(hits.min(axis=0)) and stop == tuple(hits.max(axis=0) + 1)


def test_a_stored_volume_is_known_by_its_key(tmp_path):
    path = tmp_path / "a.b2nd"
    assert not store.same(path, "k")
    store.save(Volume(np.zeros((2, 2, 2), np.uint8), np.eye(4)), path, {"key": "k"})
    assert store.same(path, "k") and not store.same(path, "other")
    path.write_bytes(path.read_bytes()[:40])
    assert not store.same(path, "k")
