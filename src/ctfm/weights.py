"""Encoders on disk: config.json and model.safetensors as lighter-zoo has them, with preprocessing and a model card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ctfm import plugins
from ctfm.config import Strict
from ctfm.errors import UserError
from ctfm.files import atomic, ensure_folder, need_file, read_json, write_json
from ctfm.imaging.preprocess import Preprocess

CONFIG, WEIGHTS, PREPROCESSING, CARD = "config.json", "model.safetensors", "preprocessing.json", "README.md"

CARD_TEXT = """\
---
library_name: project-lighter
tags: [lighter, ctfm, computed-tomography]
---
# {name}

An encoder of CT volumes ({kind}). {trained}

## Input

1. Orient the scan {orientation}: array axes (z, y, x) run to the superior, posterior and left side.
2. Resample to {spacing} mm (z, y, x). The encoder was trained at this spacing; others are outside of what it saw.
3. Map {low} to {high} HU onto 0 to 1 and clip. No other normalisation.
4. Feed (batch, 1, z, y, x); it was trained on patches of {patch} voxels.

The same is in `preprocessing.json`, which `ctfm` applies by itself.

## Use

```python
from ctfm.weights import load_encoder

loaded = load_encoder("FOLDER")   # loaded.module, loaded.preprocess
maps = loaded.module(x)           # five maps, fine to coarse
vector = maps[-1].mean((2, 3, 4))  # one vector for each patch
```

```python
from lighter_zoo import SegResEncoder

encoder = SegResEncoder.from_pretrained("FOLDER")  # a class method: keep what it returns
maps = encoder(x)
```

BatchNorm's running statistics are part of the weights. There is no decoder here: a segmentation head must be trained.

## Licence

The weights derive from the scans they were trained on: heed the licence of each collection, listed in the
`license` column of the selection (`series.parquet`), before you pass them on. Not a medical device.
"""


@dataclass(frozen=True)
class Loaded:
    """An encoder and what is needed to use it.

    Attributes:
        kind: a file in src/ctfm/encoders.
        options: its settings.
        preprocess: how scans become its input.
        module: the network, in evaluation mode.
        facts: provenance written with the weights.
    """

    kind: str
    options: dict[str, Any]
    preprocess: Preprocess
    module: torch.nn.Module
    facts: dict[str, Any]


def save_encoder(
    folder: Path | str,
    *,
    name: str,
    kind: str,
    options: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
    preprocess: Preprocess | None = None,
) -> None:
    """Write config.json, model.safetensors, preprocessing.json and README.md, each atomically, weights last.

    Args:
        folder: where to.
        name: what the encoder is called, for the model card.
        kind: architecture: a file in src/ctfm/encoders.
        options: its settings.
        state: its whole state dict, buffers included; floating tensors are stored as float32.
        facts: provenance; ``trained_on`` (a sentence) goes into the card too.
        preprocess: how scans become its input; by default as ``kind`` has it.

    Raises:
        UserError: the state is not that of this architecture.
    """
    folder, plugin, settings = ensure_folder(folder), plugins.get("encoders", kind), _settings(kind, options)
    preprocess = preprocess or plugin.PREPROCESS
    _check(plugin.build, settings, state, name)
    with atomic(folder / CONFIG) as temporary:  # byte for byte what huggingface_hub writes
        temporary.write_text(json.dumps(plugin.hub_config(settings), sort_keys=True, indent=2))
    about = {"options": settings.model_dump(mode="json"), "preprocess": preprocess.model_dump(mode="json")}
    write_json({"name": name, "kind": kind, **about, "facts": dict(facts)}, folder / PREPROCESSING)
    with atomic(folder / CARD) as temporary:
        temporary.write_text(_card(name, kind, preprocess, facts))
    with atomic(folder / WEIGHTS) as temporary:
        save_file({key: _plain(value) for key, value in state.items()}, temporary)


def load_encoder(folder: Path | str) -> Loaded:
    """Load an encoder that ``save_encoder`` wrote; every tensor must fit.

    Raises:
        UserError: a file is missing or malformed, or the tensors are not those of the architecture.
    """
    folder = Path(folder)
    about = read_json(need_file(folder / PREPROCESSING, "name a folder made by 'ctfm export' or 'ctfm import-weights'"))
    try:
        kind, preprocess = about["kind"], Preprocess.model_validate(about["preprocess"])
        settings = _settings(kind, about["options"])
    except (KeyError, ValidationError) as error:
        raise UserError(f"{folder / PREPROCESSING}: malformed ({' '.join(str(error).split())}); export anew") from error
    module = plugins.get("encoders", kind).build(settings)
    load_strict(module, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
    options = settings.model_dump(mode="json")
    return Loaded(kind, options, preprocess, module.eval(), about.get("facts", {}))


def read_tensors(path: Path | str) -> dict[str, torch.Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return load_file(need_file(path, "make it with 'ctfm export' or 'ctfm import-weights'"))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); make or fetch it anew") from error


def load_strict(module: torch.nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Load a state dict of which every name and shape must fit.

    Raises:
        UserError: it does not; the message counts what matched and lists what is missing, unexpected or misshapen.
    """
    _compare(module.state_dict(), state, what)
    module.load_state_dict(dict(state), strict=True)


def _check(
    build: Callable[..., torch.nn.Module], settings: Strict, state: Mapping[str, torch.Tensor], name: str
) -> None:
    with torch.device("meta"):  # names and shapes alone
        wanted = build(settings).state_dict()
    _compare(wanted, state, f"encoder '{name}'")


def _compare(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], what: str) -> None:
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in wanted]
    both = [key for key in wanted if key in given]
    shapes = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in both
        if given[key].shape != wanted[key].shape
    ]
    if missing or unexpected or shapes:
        found = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes}
        lists = "; ".join(f"{len(keys)} {word}: {_some(keys)}" for word, keys in found.items() if keys)
        raise UserError(
            f"{what}: the weights don't fit; {len(both) - len(shapes)} of {len(wanted)} tensors match; {lists}; "
            "check the kind and options of the encoder"
        )


def _some(keys: list[str], most: int = 5) -> str:
    return ", ".join(keys[:most]) + (f", and {len(keys) - most} more" if len(keys) > most else "")


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().clone()


def _settings(kind: str, options: Mapping[str, Any]) -> Strict:
    return plugins.get("encoders", kind).Settings(**options)


def _card(name: str, kind: str, preprocess: Preprocess, facts: Mapping[str, Any]) -> str:
    low, high = preprocess.hu_window
    return CARD_TEXT.format(
        name=name,
        kind=kind,
        orientation=preprocess.orientation,
        spacing=" x ".join(f"{value:g}" for value in preprocess.spacing_mm),
        patch=" x ".join(str(value) for value in preprocess.patch),
        low=f"{low:g}",
        high=f"{high:g}",
        trained=facts.get("trained_on", "See `facts` in preprocessing.json."),
    )
