"""The layout of the Medical Segmentation Decathlon, which its tasks share.

``dataset.json`` names the labels and lists ``training``: pairs of an image in ``imagesTr`` and a label map in
``labelsTr``. Labels are known by their name there, never by their number alone. As published no case has a split: all
are training cases. Lists in the manner of MONAI are read too: a training case of ``fold`` 0 validates, and cases of
``testing`` are the test set if they have labels. The Decathlon names no patients: each scan is a patient of its own.

Source: Antonelli et al., Nature Communications 2022, doi:10.1038/s41467-022-30695-9. The archives are those that MONAI
fetches; their checksums are those that MONAI 1.6.1 holds them against (``monai.apps.DecathlonDataset``), which gives no
sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ctfm import files
from ctfm.datasets import Case
from ctfm.errors import UserError

MARKER = "dataset.json"
SUFFIX = ".nii.gz"
FOLDERS = {"image": "imagesTr", "label": "labelsTr"}
NAMED = 5  # files that a message names


def source(task: str, md5: str) -> dict[str, Any]:
    """Return where a task is published, such as ``Task03_Liver``."""
    url = f"https://msd-for-monai.s3-us-west-2.amazonaws.com/{task}.tar"
    return {"version": task, "url": url, "bytes": None, "checksum": f"md5:{md5}", "licence": "CC BY-SA 4.0"}


def check(root: Path, *, labels: Mapping[str, int], source: Mapping[str, Any]) -> None:
    """Check that the task is where the configuration says, and that its list and its files are the same cases.

    Raises:
        UserError: the folder or ``dataset.json`` is missing or malformed, its labels are others, or files are missing
            or not on the list; the message names them.
    """
    remedy = f"set 'fetch: true', unpack {source['url']} ({source['licence']}) there, or correct 'root'"
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; {remedy}")
    files.need_file(root / MARKER, remedy)
    about = _read(root)
    found = {str(name).lower(): int(number) for number, name in about["labels"].items() if int(number)}
    if found != labels:
        raise UserError(f"{root / MARKER}: its labels are {found}, not {dict(labels)}; name the folder of this task")
    listed = _listed(root, about)
    for kind, folder in FOLDERS.items():
        wanted = {entry[kind] for entry in listed if entry[kind].parent.name == folder}
        here = {p for p in (root / folder).glob(f"*{SUFFIX}") if not p.name.startswith(".")}  # macOS left some there
        _same(root, {p for p in wanted if not p.is_file()}, here - wanted)


def cases(root: Path) -> Iterator[Case]:
    """Yield the cases of ``dataset.json`` in its order, whether their files are there or not."""
    for entry in _listed(root, _read(root)):
        name = entry["image"].name.removesuffix(SUFFIX)
        yield Case(name, name, entry["split"], entry["image"], entry["label"])


def _read(root: Path) -> dict[str, Any]:
    about = files.read_json(root / MARKER)
    if not isinstance(about, dict) or not isinstance(about.get("labels"), dict) or not about.get("training"):
        raise UserError(f"{root / MARKER}: needs 'labels' and 'training'; take the file as published")
    return about


def _listed(root: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return image, label and split of each labelled case."""
    labelled = [(entry, "val" if entry.get("fold") == 0 else "train") for entry in about["training"]]
    labelled += [(entry, "test") for entry in about.get("testing", []) if isinstance(entry, dict) and "label" in entry]
    found = []
    for entry, split in labelled:
        paths = {kind: PurePosixPath(str(entry.get(kind))) for kind in FOLDERS}
        if any(path.is_absolute() or ".." in path.parts for path in paths.values()):
            raise UserError(f"{root / MARKER}: '{entry}' lies outside of the folder; take the file as published")
        found.append({kind: root / path for kind, path in paths.items()} | {"split": split})
    return found


def _same(root: Path, missing: set[Path], extra: set[Path]) -> None:
    if missing or extra:
        parts = {"missing": missing, "not on its list": extra}
        told = "; ".join(
            f"{len(paths)} files are {what}: {_few(root, paths)}" for what, paths in parts.items() if paths
        )
        raise UserError(f"{root / MARKER}: the list and the files differ; {told}; fetch the data set anew, or mend it")


def _few(root: Path, paths: set[Path]) -> str:
    names = sorted(str(path.relative_to(root)) for path in paths)
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
