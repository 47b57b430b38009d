"""Encoders on disk: config.json and model.safetensors as lighter-zoo has them, with preprocessing and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ctfm import cards, plugins
from ctfm.config import Strict
from ctfm.errors import UserError
from ctfm.files import atomic, ensure_folder, need_file, read_json, write_json
from ctfm.imaging.preprocess import Preprocess

CONFIG, WEIGHTS, PREPROCESSING, CARD = "config.json", "model.safetensors", "preprocessing.json", "README.md"
MISFITS = ("missing", "wrong shape", "wrong type")  # of tensors that an architecture needs


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
    plugin, settings = _plugin(kind, options)
    _fit(expected(kind, options), state, f"encoder '{name}'")
    preprocess = preprocess or plugin.PREPROCESS
    about = {"name": name, "kind": kind, "options": settings.model_dump(mode="json")}
    about |= {"preprocess": preprocess.model_dump(mode="json"), "facts": dict(facts)}
    _write(ensure_folder(folder), plugin.hub_config(settings), about, state)


def save_segmenter(
    folder: Path | str,
    *,
    name: str,
    kind: str,
    options: Mapping[str, Any],
    labels: Sequence[Mapping[str, Any]],
    state: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
    preprocess: Preprocess,
) -> None:
    """Write an encoder with its decoder, in the same files as ``save_encoder``.

    Args:
        folder: where to.
        name: what the net is called, for the model card.
        kind: architecture of its encoder: a file in src/ctfm/encoders.
        options: its settings.
        labels: name and id of output 1, 2, …; output 0 is background.
        state: the whole state dict of the net, buffers included.
        facts: provenance; ``trained_on`` (a sentence) goes into the card too.
        preprocess: how scans become its input.

    Raises:
        UserError: the state is not that of this architecture.
    """
    plugin, settings = _plugin(kind, options)
    classes = len(labels) + 1
    _fit(expected(kind, options, classes), state, f"net '{name}'")
    about = {"name": name, "kind": kind, "options": settings.model_dump(mode="json"), "labels": list(labels)}
    about |= {"preprocess": preprocess.model_dump(mode="json"), "facts": dict(facts)}
    _write(ensure_folder(folder), plugin.hub_config(settings, classes), about, state)


def load_encoder(folder: Path | str) -> Loaded:
    """Load an encoder that ``save_encoder`` wrote; every tensor must fit.

    Raises:
        UserError: a file is missing or malformed, or the tensors are not those of the architecture.
    """
    folder = Path(folder)
    need_file(folder / PREPROCESSING, "name a folder made by 'ctfm export' or 'ctfm import-weights'")
    about, preprocess = read_about(folder)
    plugin, settings = _plugin(about["kind"], about["options"])
    module = plugin.build(settings)
    load_strict(module, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
    return Loaded(about["kind"], settings.model_dump(mode="json"), preprocess, module.eval(), about.get("facts", {}))


def read_about(folder: Path) -> tuple[dict[str, Any], Preprocess]:
    """Return what preprocessing.json says, and the preprocessing in it.

    Raises:
        UserError: it is malformed.
    """
    about = read_json(folder / PREPROCESSING)
    try:
        _plugin(about["kind"], about["options"])
        return about, Preprocess.model_validate(about["preprocess"])
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{folder / PREPROCESSING}: malformed ({' '.join(str(error).split())}); export anew") from error


def expected(kind: str, options: Mapping[str, Any], classes: int | None = None) -> dict[str, torch.Tensor]:
    """Return names, shapes and types of all tensors of an encoder, or of a segmentation net with ``classes`` outputs.

    The tensors are on the device ``meta``: they have no values.
    """
    plugin, settings = _plugin(kind, options)
    with torch.device("meta"):
        module = plugin.build(settings) if classes is None else plugin.segmenter(settings, classes)
    return module.state_dict()


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
    _fit(module.state_dict(), state, what)
    module.load_state_dict(dict(state), strict=True)


def differences(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """Compare names, shapes and types of tensors; what is the same is left out."""
    both = [key for key in wanted if key in given]
    return {
        "missing": [key for key in wanted if key not in given],
        "unexpected": [key for key in given if key not in wanted],
        "wrong shape": [
            f"{key} {tuple(given[key].shape)} instead of {tuple(wanted[key].shape)}"
            for key in both
            if given[key].shape != wanted[key].shape
        ],
        "wrong type": [
            f"{key} {given[key].dtype} instead of {wanted[key].dtype}"
            for key in both
            if given[key].is_floating_point() != wanted[key].is_floating_point()
        ],
    }


def misfit(found: Mapping[str, list[str]], total: int, what: str) -> UserError:
    """Return the error that tells how weights don't fit an architecture of ``total`` tensors."""
    lists = "; ".join(f"{len(keys)} {word}: {_some(keys)}" for word, keys in found.items() if keys)
    wrong = {key.split(" ")[0] for word in MISFITS for key in found[word]}
    return UserError(
        f"{what}: the weights don't fit; {total - len(wrong)} of {total} tensors match; {lists}; "
        "check the kind and options of the encoder"
    )


def _fit(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], what: str) -> None:
    found = differences(wanted, given)
    if any(found.values()):
        raise misfit(found, len(wanted), what)


def _some(keys: list[str], most: int = 5) -> str:
    return ", ".join(keys[:most]) + (f", and {len(keys) - most} more" if len(keys) > most else "")


def _write(
    folder: Path, config: Mapping[str, Any], about: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> None:
    with atomic(folder / CONFIG) as temporary:  # byte for byte what huggingface_hub writes
        temporary.write_text(json.dumps(config, sort_keys=True, indent=2))
    write_json(about, folder / PREPROCESSING)
    with atomic(folder / CARD) as temporary:
        temporary.write_text(cards.card(about, plugins.get("encoders", about["kind"])))
    with atomic(folder / WEIGHTS) as temporary:
        save_file({key: _plain(value) for key, value in state.items()}, temporary)
        temporary.chmod((folder / CONFIG).stat().st_mode)  # safetensors shuts others out, whatever the umask


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().clone()


def _plugin(kind: str, options: Mapping[str, Any]) -> tuple[ModuleType, Strict]:
    plugin = plugins.get("encoders", kind)
    return plugin, plugin.Settings(**options)
