"""Tiny labelled scans for tests: boxes of known HU in air, written by nibabel in RAS as published data are."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from ctfm import plugins, tables, weights
from ctfm.imaging import store
from ctfm.imaging.volume import Volume
from ctfm.tasks import CaseFile
from ctfm.training import seeds

# name: (HU, lowest voxel, highest voxel) as fractions of (x, y, z)
BOXES = {
    "liver": (110, (0.2, 0.3, 0.3), (0.5, 0.7, 0.6)),
    "spleen": (250, (0.6, 0.4, 0.4), (0.8, 0.7, 0.7)),
    "aorta": (500, (0.5, 0.5, 0.1), (0.6, 0.6, 0.9)),
}


def arrays(shape=(20, 24, 28), seed=0, names=tuple(BOXES)):
    """Return the CT (x, y, z) in HU and a mask for each structure."""
    rng = np.random.default_rng(seed)
    image = np.full(shape, -1000.0)
    body = tuple(slice(n // 10, n - n // 10) for n in shape)
    image[body] = 0
    masks = {}
    for name in names:
        hu, low, high = BOXES[name]
        shift = rng.uniform(-0.04, 0.04, 3)
        box = tuple(
            slice(int((a + s) * n), int((b + s) * n)) for a, b, s, n in zip(low, high, shift, shape, strict=True)
        )
        mask = np.zeros(shape, np.uint8)
        mask[box] = 1
        masks[name] = mask
        image[box] = hu
    return np.rint(image + rng.normal(0, 5, shape)), masks


def write_case(folder: Path, seed=0, affine=None, merged: dict[str, int] | None = None, **options) -> None:
    """Write ct.nii.gz and segmentations/*.nii.gz (or label.nii.gz with the ids of ``merged``)."""
    image, masks = arrays(seed=seed, **options)
    affine = np.diag([1.5, 1.5, 1.5, 1.0]) if affine is None else affine
    (folder / "segmentations").mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image.astype(np.int16), affine), folder / "ct.nii.gz")
    if merged:
        label = sum(mask.astype(np.uint8) * merged[name] * (mask > 0) for name, mask in masks.items())
        nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), folder / "label.nii.gz")
        return
    for name, mask in masks.items():
        nib.save(nib.Nifti1Image(mask, affine), folder / "segmentations" / f"{name}.nii.gz")


def write_totalsegmentator(root: Path, splits: dict[str, str], separator=";") -> None:
    """Write a data set in the layout of TotalSegmentator: {case: split}."""
    root.mkdir(parents=True, exist_ok=True)
    lines = [separator.join(("image_id", "age", "split"))]
    for seed, (case, split) in enumerate(splits.items()):
        write_case(root / case, seed)
        lines.append(separator.join((case, "60", split)))
    (root / "meta.csv").write_text("\n".join(lines) + "\n")


def stored_cases(folder: Path, count: int, shape=(20, 24, 28)) -> list[CaseFile]:
    """Write cases straight into the volume store."""
    ids, groups = {"liver": 5, "spleen": 1, "aorta": 52}, {"liver": "organs", "spleen": "organs", "aorta": "cardiac"}
    affine = np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]]
    made = []
    for seed in range(count):
        image, masks = arrays(shape[::-1], seed)
        label = np.zeros(image.shape, np.uint8)
        for name in sorted(masks, key=ids.__getitem__):
            label[masks[name] > 0] = ids[name]
        paths = folder / f"s{seed:04d}.b2nd", folder / f"s{seed:04d}_label.b2nd"
        store.save(Volume(image.transpose(2, 1, 0).astype(np.int16), affine), paths[0])
        store.save(Volume(label.transpose(2, 1, 0).copy(), affine), paths[1], {"ids": ids, "groups": groups})
        made.append(CaseFile(f"s{seed:04d}", f"s{seed:04d}", *paths))
    return made


def found_cases(folder: Path, count: int, shape=(10, 16, 16)) -> list[CaseFile]:
    """Write balls of 33 HU in air straight into the volume store; every second one has a bleed of 65 HU: a finding."""
    table = {"ids": {"abnormal": 1}, "groups": {"abnormal": "all"}}
    made = []
    for number in range(count):
        rng = np.random.default_rng([number, 1])
        place = np.indices(shape) - (np.array(shape) / 2 + rng.uniform(-1, 1, 3))[:, None, None, None]
        away = np.sqrt((place**2).sum(0)) / (min(shape) / 2)
        array = np.where(away < 1, 33, -1000) + rng.normal(0, 3, shape)
        if number % 2:
            array[away < 0.5] += 32
        path = folder / f"h{number:04d}.b2nd"
        box = [[1, 1, 1], [n - 1 for n in shape]]
        meta = {**table, "key": str(number), "findings": ["abnormal"] * (number % 2), "body_box": box}
        affine = np.diag([4.0, 4.0, 5.0, 1.0])[[0, 1, 2, 3]][:, [2, 1, 0, 3]]
        store.save(Volume(np.rint(array).astype(np.int16), affine), path, meta)
        made.append(CaseFile(path.stem, path.stem, path, path))
    return made


def random_encoder(folder: Path, seed=0, kind="segresnet") -> Path:
    """Write a tiny encoder with random weights."""
    plugin = plugins.get("encoders", kind)
    options = {"init_filters": 4, "blocks_down": (1, 1, 1, 1, 1)} if kind == "segresnet" else {"init_filters": 4}
    with seeds.seeded(seed):
        state = plugin.build(plugin.Settings(**options)).state_dict()
    weights.save_encoder(folder, name="tiny", kind=kind, options=options, state=state, facts={})
    return folder


def case_table(folder: Path, splits: dict[str, int], make=stored_cases) -> Path:
    """Write stored cases and their table: {split: number of cases}."""
    stored = make(folder, sum(splits.values()))
    names = [split for split, count in splits.items() for _ in range(count)]
    rows = [
        {"case": c.case, "patient": c.patient, "split": split, "status": "ok", "reason": "", "detail": ""}
        | {"image": c.image.name, "label": c.label.name, "labels": ["liver"], "shape": [1], "spacing": [2.0]}
        for c, split in zip(stored, names, strict=True)
    ]
    tables.write(tables.of("cases", rows), "cases", folder / "cases.parquet")
    return folder / "cases.parquet"


def cohort_cases(folder: Path, count: int) -> list[CaseFile]:
    """Write cases of a data set for retrieval: one cohort, two organs in turn, the last two cases ask."""
    made = []
    for number, case in enumerate(stored_cases(folder, count)):
        attributes = {"organ": ("liver", "spleen")[number % 2]}
        meta = {"key": str(number), "cohorts": {"all": {"query": number >= count - 2, "attributes": attributes}}}
        volume = store.open_volume(case.image).load()
        path = folder / f"c{number:04d}.b2nd"
        store.save(volume, path, meta)
        made.append(CaseFile(path.stem, path.stem, path, path))
    return made


def repeated_cases(folder: Path, count: int) -> list[CaseFile]:
    """Write pairs of scans: balls of different sizes in a body, and the same ones moved, with other noise."""
    z, y, x = np.indices((40, 48, 48)) * 3.0
    affine = np.diag([3.0, 3.0, 3.0, 1.0])[[2, 1, 0, 3]]
    made = []
    for number in range(count):
        rng, paths = np.random.default_rng([number, 2]), []
        balls = [(rng.uniform(20, 120, 3), rng.uniform(10, 20), hu) for hu in (-800, 400, 200, -500) * 5]
        for name, shift in (("", np.zeros(3)), ("_second", rng.uniform(-8, 8, 3))):
            hu = np.where(((y - shift[1] - 72) / 60) ** 2 + ((x - shift[2] - 72) / 64) ** 2 < 1, 40.0, -1000.0)
            for centre, radius, value in balls:
                away = [a - c - s for a, c, s in zip((z, y, x), centre, shift, strict=True)]
                hu[sum(a**2 for a in away) < radius**2] = value
            paths.append(folder / f"r{number:04d}{name}.b2nd")
            hu = ndimage.gaussian_filter(hu, 1.0) + rng.normal(0, 10, hu.shape)
            volume = Volume(np.rint(hu).astype(np.int16), affine)
            store.save(volume, paths[-1], {"key": str(number), "source": {"spacing_mm": [3.0, 3.0, 3.0]}})
        made.append(CaseFile(f"r{number:04d}", f"r{number:04d}", *paths))
    return made
