"""Ways to keep a volume on disk: size, time to write, to read whole and to read 20 training crops, side by side.

    OMP_NUM_THREADS=1 python bench/stores.py [--slices 300] [--matrix 512] [--repeats 5] [--scan PATH ...]

Without --scan a noisy phantom is scanned at 1.25 mm slices and a field of 360 mm; PATH is a NIfTI file or a folder with
one DICOM series. Everything is resampled to 3x1x1 mm first. Crops are read hot: the files are in the page cache.
Times of crops are also given over those of the project's own store, as median of the ratios within each round.
Zarr 3 takes part if it is installed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from ctfm.config import Criteria, Prepare
from ctfm.imaging import dicom, store
from ctfm.imaging.resample import resample
from ctfm.imaging.volume import Volume, orient, read_image
from ctfm.phantom.anatomy import case

PATCH, CROPS, SPACING = (24, 128, 128), 20, (3.0, 1.0, 1.0)
CODEC, FILTER = blosc2.Codec, blosc2.Filter
CHUNKS, BLOCKS = store.CHUNKS, store.BLOCKS


@dataclass(frozen=True)
class Way:
    """One way: writes an array to a path; opens a path to something that is sliced."""

    name: str
    write: Callable[[np.ndarray, Path], object]
    open: Callable[[Path], Any]
    suffix: str = ".b2nd"


def b2nd(
    codec: blosc2.Codec,
    level: int,
    *filters: blosc2.Filter,
    chunks: tuple[int, ...] = CHUNKS,
    blocks: tuple[int, ...] = BLOCKS,
) -> Way:
    packing = {"codec": codec, "clevel": level, "nthreads": 1, "filters": filters, "filters_meta": [0] * len(filters)}

    def write(array: np.ndarray, path: Path) -> None:
        whole = tuple(np.minimum(chunks, array.shape).tolist())
        parts = tuple(np.minimum(blocks, whole).tolist())
        blosc2.asarray(array, urlpath=str(path), mode="w", chunks=whole, blocks=parts, cparams=packing)

    sizes = "" if (chunks, blocks) == (CHUNKS, BLOCKS) else f" {times(chunks)} in {times(blocks)}"
    name = f"{codec.name.lower()} {level} {'+'.join(f.name.lower() for f in filters)}{sizes}"
    return Way(name, write, lambda path: blosc2.open(str(path), mode="r", dparams={"nthreads": 1}))


def ways() -> list[Way]:
    """Return all ways, the project's own first: the others are compared with it."""
    own = Way(
        "the project's store",
        lambda array, path: store.save(Volume(array, np.eye(4)), path),
        lambda path: store.open_volume(path).handle,
    )
    raw = Way("raw, memory-mapped", lambda a, path: np.save(path, a), lambda path: np.load(path, mmap_mode="r"), ".npy")
    shuffle, bits = FILTER.SHUFFLE, FILTER.BITSHUFFLE
    packings = [(CODEC.ZSTD, level, (shuffle,)) for level in (1, 3, 5)]
    packings += [(CODEC.ZSTD, 1, (bits,)), (CODEC.ZSTD, 1, (shuffle, FILTER.BYTEDELTA))]
    packings += [(CODEC.LZ4, level, (filter_,)) for filter_ in (shuffle, bits) for level in (1, 5, 9)]
    packings += [(CODEC.LZ4HC, 5, (filter_,)) for filter_ in (shuffle, bits)]
    chunks = [(64, 256, 256), (125, 256, 256)]
    blocks = [(4, 32, 32), (8, 16, 32), (8, 64, 64), (16, 32, 32)]
    own_packing = (CODEC.LZ4, 9, bits)
    return [
        own,
        raw,
        *[b2nd(codec, level, *filters) for codec, level, filters in packings],
        *[b2nd(*own_packing, chunks=size) for size in chunks],
        *[b2nd(*own_packing, blocks=size) for size in blocks],
        *zarrs(),
    ]


def zarrs() -> list[Way]:
    try:
        import zarr
        from zarr.codecs import BloscCodec
    except ImportError:
        print("zarr 3 is not installed and left out")
        return []

    def way(name: str, packing: object, **layout: tuple[int, ...]) -> Way:
        def write(array: np.ndarray, path: Path) -> None:
            zarr.create_array(store=str(path), data=array, compressors=packing, overwrite=True, **layout)

        return Way(f"zarr 3 {name}", write, lambda path: zarr.open_array(str(path), mode="r"), ".zarr")

    zarr.config.set({"threading.max_workers": 1, "async.concurrency": 1})
    zstd, lz4 = (
        BloscCodec(cname=name, clevel=level, shuffle=filter_)
        for name, level, filter_ in (("zstd", 1, "shuffle"), ("lz4", 9, "bitshuffle"))
    )
    return [
        way("lz4 9 bitshuffle, file per 32x128x128", lz4, chunks=CHUNKS),
        way("lz4 9 bitshuffle, 8x32x32 in shards", lz4, chunks=BLOCKS, shards=CHUNKS),
        way("zstd 1 shuffle, 8x32x32 in shards", zstd, chunks=BLOCKS, shards=CHUNKS),
    ]


def measured(array: np.ndarray, ways: list[Way], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Return ``{way: {measure: value of each round}}``; all ways take turns, so that a slow minute hits them all."""
    rng, size = np.random.default_rng(0), np.minimum(PATCH, array.shape)
    found: dict[str, dict[str, list[float]]] = {way.name: defaultdict(list) for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            starts = rng.integers(0, np.subtract(array.shape, size) + 1, (CROPS, 3)).tolist()
            boxes = [tuple(slice(a, a + n) for a, n in zip(start, size.tolist(), strict=True)) for start in starts]
            for number, way in enumerate(ways):
                path = Path(folder) / f"{number}{way.suffix}"
                values = found[way.name]
                values["write"].append(seconds(partial(way.write, array, path)))
                values["whole"].append(seconds(partial(whole, way, path)))
                values["crops"].append(seconds(partial(crops, way, path, boxes)))
                values["bytes"].append(sum(p.stat().st_size for p in (path, *path.rglob("*")) if p.is_file()))
                if not np.array_equal(whole(way, path), array):
                    raise SystemExit(f"{way.name}: other values are read than were written")
    return found


def whole(way: Way, path: Path) -> np.ndarray:
    return np.array(way.open(path)[:])


def crops(way: Way, path: Path, boxes: list[tuple[slice, ...]]) -> list[np.ndarray]:
    volume = way.open(path)
    return [np.array(volume[box]) for box in boxes]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def scans(options: argparse.Namespace) -> Iterator[tuple[str, Volume]]:
    for path in map(Path, options.scan):
        settings = Prepare(min_slices=2)
        criteria = Criteria(min_instances=1, thickness_mm=None, unique_positions=False)
        yield path.name, dicom.read_series(path, settings, criteria)[0] if path.is_dir() else read_image(path)
    if not options.scan:
        shape = (options.slices, options.matrix, options.matrix)
        spacing = (1.25, 360 / options.matrix, 360 / options.matrix)
        yield "phantom", case(np.random.default_rng(0), shape, spacing)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scan", nargs="+", default=[])
    options = parser.parse_args()
    for name, scan in scans(options):
        array = resample(orient(scan), SPACING).array.astype(np.int16)
        found = measured(array, ways(), options.repeats)
        own = next(iter(found.values()))
        print(f"\n{name}, {times(array.shape)} voxels, {CROPS} crops of {times(PATCH)}, {options.repeats} rounds\n")
        print("| way | MB | of raw | write, ms | whole, ms | crops, ms | crops, ratio |\n|---|---|---|---|---|---|---|")
        for way, values in found.items():
            middle = {measure: statistics.median(numbers) for measure, numbers in values.items()}
            ratio = statistics.median(a / b for a, b in zip(values["crops"], own["crops"], strict=True))
            millis = " | ".join(f"{1e3 * middle[measure]:.0f}" for measure in ("write", "whole", "crops"))
            size = f"{middle['bytes'] / 1e6:.2f} | {middle['bytes'] / array.nbytes:.3f}"
            print(f"| {way} | {size} | {millis} | {ratio:.2f} |")


def times(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))


if __name__ == "__main__":
    main()
