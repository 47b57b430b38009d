"""What a kind of data set says of itself that a reader of its results must know: the text ``NOTE`` in its file."""

from __future__ import annotations

from pathlib import Path

from ctfm import files, plugins


def of_dataset(root: Path, dataset: str) -> list[str]:
    """Return the note of a data set's kind; nothing where it has none, or the data set was not made in this run.

    Args:
        root: folder of the run.
        dataset: name of the entry.
    """
    path = root / "datasets" / dataset / "run.json"
    kind = files.read_json(path).get("spec", {}).get("dataset", {}).get("kind") if path.is_file() else None
    note = plugins.constant("datasets", kind, "NOTE", default="") if kind else ""
    return [note] if note else []
