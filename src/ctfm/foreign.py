"""Weights made elsewhere: read as tensors alone, and matched with an architecture by exact prefixes of their names.

Nothing is guessed: a prefix is the start of a name and nothing else, one prefix holds for the whole encoder, and
every tensor of the encoder must be there with its shape. What else a file holds (a decoder, a projection head) is
listed and left.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ctfm import files, plugins, weights
from ctfm.errors import UserError
from ctfm.imaging.preprocess import Preprocess

ELSEWHERE = "Its weights were made elsewhere: see there what they were trained on."
PLAIN = ("", "encoder.")  # an encoder alone; the encoder of a net, or of our own checkpoints
LAYOUTS = {"state_dict": "checkpoint of Lightning", "net": "checkpoint of SuPreM"}  # by the key of its tensors
SUPPORTED = (
    f"supported: a folder with {weights.CONFIG} and {weights.WEIGHTS}, as written by 'ctfm export' or by lighter-zoo; "
    "a .safetensors file; a file of torch.save with a state dict, or with one under 'state_dict' (Lightning) or 'net' "
    "(SuPreM)"
)


@dataclass(frozen=True)
class Source:
    """Tensors from elsewhere.

    Attributes:
        path: the file that holds them.
        layout: what kind of file it is, in words.
        tensors: by name.
        config: of a folder, its config.json.
    """

    path: Path
    layout: str
    tensors: dict[str, torch.Tensor]
    config: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Return how it is called in reports: never a whole path."""
        return self.path.name if self.config is None else self.path.parent.name


def read(path: Path) -> Source:
    """Read a folder or file of weights onto the CPU; nothing but tensors and plain values is ever unpickled.

    Raises:
        UserError: it is missing, damaged, of an unknown format, or holds other Python objects.
    """
    files.need_file(path, "name a folder or file of weights, or null for a random initialisation")
    if path.is_dir():
        if not all((path / name).is_file() for name in (weights.CONFIG, weights.WEIGHTS)):
            raise UserError(f"{path}: unknown format of weights; {SUPPORTED}")
        file, config = path / weights.WEIGHTS, files.read_json(path / weights.CONFIG)
        return Source(file, "folder of lighter-zoo's layout", weights.read_tensors(file), config)
    if path.suffix == ".safetensors":
        return Source(path, "safetensors", weights.read_tensors(path))
    return _torch_file(path)


def check_config(source: Source, kind: str, options: Mapping[str, Any]) -> None:
    """Compare a folder's config.json with the encoder's options; a file has none.

    Raises:
        UserError: it describes another network.
    """
    if source.config is None:
        return
    plugin = plugins.get("encoders", kind)
    ours = plugin.hub_config(plugin.Settings(**options))
    theirs = plugin.encoder_keywords(source.config)
    if wrong := [key for key in sorted({*theirs, *ours}) if theirs.get(key) != ours.get(key)]:
        pairs = ", ".join(f"{key} is {theirs.get(key)} instead of {ours.get(key)}" for key in wrong)
        raise UserError(f"{source.path.parent / weights.CONFIG}: another network than the encoder's options: {pairs}")


def match(
    source: Source, wanted: Mapping[str, torch.Tensor], prefixes: Sequence[str]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors of an architecture, and the report of what was matched and what was not.

    Args:
        source: where they come from.
        wanted: names and shapes of the architecture (see ``weights.expected``).
        prefixes: what may stand before its names. The one with most names holds for all of them.

    Raises:
        UserError: a tensor is missing, has another shape or type, or is not finite; there are further tensors
            within the architecture, as of a deeper one; or names of it stand behind two prefixes.
    """
    found = {prefix: [key for key in wanted if prefix + key in source.tensors] for prefix in prefixes}
    prefix = max(found, key=lambda each: len(found[each]))
    if not found[prefix]:
        raise UserError(
            f"{source.path}: none of its {len(source.tensors)} tensors is one of the encoder's, behind any of the "
            f"prefixes {', '.join(map(repr, prefixes))}; it has {_few(source.tensors)}; the encoder has {_few(wanted)}"
        )
    given = {key.removeprefix(prefix): key for key in source.tensors if key.startswith(prefix)}
    parts = {key.split(".")[0] for key in wanted}
    own = {key: source.tensors[name] for key, name in given.items() if key.split(".")[0] in parts}
    wrong = weights.differences(wanted, own)
    wrong["not finite"] = [key for key in wanted if key in own and not own[key].isfinite().all()]
    wrong["behind another prefix"] = [p + key for p in prefixes if p != prefix for key in found[p]]
    used = {prefix + key for key in own}
    report = {
        "source": source.name,
        "layout": source.layout,
        "sha256": files.sha256(source.path),
        "prefix": prefix,
        "matched": [prefix + key for key in wanted if key in own],
        "missing": [prefix + key for key in wrong["missing"]],
        "unexpected": [key for key in source.tensors if key not in used],
    }
    if any(wrong.values()):
        raise weights.misfit(wrong, len(wanted), str(source.path))
    return {key: own[key] for key in wanted}, report


def origin(source: Source, default: Preprocess) -> tuple[Preprocess, dict[str, Any]]:
    """Return the preprocessing and provenance that lie beside the weights; without, the default."""
    facts = {"source": source.name, "sha256": files.sha256(source.path)}
    if source.config is None or not (source.path.parent / weights.PREPROCESSING).is_file():
        return default, {"trained_on": ELSEWHERE, "assumed": True, **facts}
    about, preprocess = weights.read_about(source.path.parent)
    return preprocess, {"trained_on": ELSEWHERE, **about.get("facts", {}), **facts}


def summary(report: Mapping[str, Any]) -> str:
    """Return a report in one line: what was not used is counted by the part of the network it belongs to."""
    names = [*report["matched"], *report["unexpected"]]
    shared = len(os.path.commonprefix(names).rpartition(".")[0])  # noqa: RUF071 - names are no paths
    parts = Counter(name[shared:].lstrip(".").split(".")[0] for name in report["unexpected"])
    listed = ", ".join(f"{part} ({count})" for part, count in parts.items())
    return (
        f"{report['source']} ({report['layout']}), prefix '{report['prefix']}': {len(report['matched'])} matched, "
        f"{len(report['missing'])} missing, {len(report['unexpected'])} unexpected{': ' if parts else ''}{listed}"
    )


def _torch_file(path: Path) -> Source:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        if culprit := re.search(r"GLOBAL ([\w.]+)|global ([\w.]+)", str(error)):
            raise UserError(
                f"{path}: holds Python objects ({culprit[1] or culprit[2]}) besides tensors; loading them could run "
                "code. Where you trust the file, save its tensors alone: torch.save({'state_dict': …}, 'tensors.ckpt')"
            ) from error
        raise UserError(f"{path}: unknown format of weights; {SUPPORTED}") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path}: damaged, or an unknown format of weights; {SUPPORTED}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}; {SUPPORTED}")
    key = next((key for key in LAYOUTS if isinstance(content.get(key), Mapping)), None)
    tensors = content if key is None else content[key]
    if other := [str(name) for name, value in tensors.items() if not isinstance(value, torch.Tensor)]:
        raise UserError(f"{path}: no state dict: {', '.join(other[:5])} is no tensor; {SUPPORTED}")
    return Source(path, LAYOUTS.get(key or "", "state dict"), dict(tensors))


def _few(names: Mapping[str, Any], most: int = 3) -> str:
    return ", ".join(list(names)[:most]) + (", …" if len(names) > most else "")
