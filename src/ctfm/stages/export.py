"""Write encoders as others can load them: from a checkpoint, at random, or from weights made elsewhere."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from ctfm import files, plugins, weights
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.errors import UserError
from ctfm.imaging.preprocess import Preprocess
from ctfm.training import checkpoints, seeds

log = logging.getLogger(__name__)
OutOption = Annotated[Path, typer.Option(help="Folder of the encoder.")]
EncoderOption = Annotated[str | None, typer.Option(help="Name of the encoder's entry; with --config.")]


def export(
    spec: SpecOption = None,
    config: ConfigOption = None,
    pretrained: Annotated[Path, typer.Option(help="Folder that 'ctfm pretrain' made.")] = Path("encoder"),
    selected: Annotated[Path | None, typer.Option(help="Choice of 'ctfm probe'; default: the last one.")] = None,
    out: OutOption = Path("encoder"),
    encoder: EncoderOption = None,
) -> None:
    """Write the encoder of the chosen checkpoint: config.json, model.safetensors, preprocessing.json, README.md."""
    job = job_spec("export", spec, config, encoder=encoder)
    choice = files.read_json(selected) if selected else {"checkpoint": checkpoints.LAST, "why": "the last checkpoint"}
    path = pretrained / "checkpoints" / Path(choice["checkpoint"]).name
    content = checkpoints.read(files.need_file(path, "pre-train first, or choose another checkpoint"))
    state = checkpoints.encoder(content)
    run = files.read_json(pretrained / "run.json")
    kind, options = job["encoder"]["kind"], job["encoder"]["options"]
    facts = _facts(run, content[checkpoints.KEY], choice)
    shape = {"patch": run["spec"]["pretrain"]["patch"], "spacing_mm": run["data"]["spacing_mm"]}
    known = plugins.get("encoders", kind).PREPROCESS.model_dump()
    preprocess = Preprocess(**{**known, **shape})
    _save(out, job["name"], kind, options, state, facts, preprocess)


def import_weights(
    spec: SpecOption = None,
    config: ConfigOption = None,
    out: OutOption = Path("encoder"),
    encoder: EncoderOption = None,
) -> None:
    """Write an encoder that this run does not pre-train, in the same layout: random by seed, or read from a folder."""
    job = job_spec("export", spec, config, encoder=encoder)
    settings = job["encoder"]
    plugin = plugins.get("encoders", settings["kind"])
    options = plugin.Settings(**settings["options"])
    if settings["weights"] is None:
        with seeds.seeded(settings["seed"], "weights"):
            state = plugin.build(options).state_dict()
        facts = {"seed": settings["seed"], "trained_on": "Its weights are random: it was trained on nothing."}
        preprocess = plugin.PREPROCESS
    else:
        source = Path(settings["weights"])
        state = weights.read_tensors(_tensors(source, plugin.hub_config(options)))
        preprocess, facts = _origin(source, plugin.PREPROCESS)
    _save(out, job["name"], settings["kind"], settings["options"], state, facts, preprocess)


def _save(out: Path, name: str, kind: str, options: Any, state: Any, facts: Any, preprocess: Preprocess) -> None:
    weights.save_encoder(out, name=name, kind=kind, options=options, state=state, facts=facts, preprocess=preprocess)
    log.info("%s: %d tensors of %s, all of them matched", out / weights.WEIGHTS, len(state), kind)


def _facts(run: dict[str, Any], progress: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    settings = run["spec"]["pretrain"]
    count, samples = run["data"]["scans"], progress["samples"]
    return {
        "checkpoint": choice["checkpoint"],
        "chosen": choice,
        "step": progress["step"],
        "fingerprint": progress["fingerprint"],
        "data": run["data"],
        "pretrain": settings,
        "trained_on": (
            f"It was pre-trained without labels ({settings['method']}) on the corpus '{settings['corpus']}': "
            f"{count} CT series, {samples} scan visits, {progress['step']} steps."
        ),
    }


def _tensors(source: Path, expected: dict[str, Any]) -> Path:
    """Return the safetensors file of a folder in the layout of lighter-zoo, once its config.json fits."""
    files.need_file(source, "name a folder of weights, or null for a random initialisation")
    found = source / weights.WEIGHTS
    if not source.is_dir() or not found.is_file() or not (source / weights.CONFIG).is_file():
        raise UserError(
            f"{source}: unknown format of weights; supported: a folder with {weights.CONFIG} and {weights.WEIGHTS}, "
            "as written by 'ctfm export' or by lighter-zoo's SegResEncoder"
        )
    config = files.read_json(source / weights.CONFIG)
    wrong = [key for key in sorted({*config, *expected}) if config.get(key) != expected.get(key)]
    if wrong:
        pairs = ", ".join(f"{key} is {config.get(key)} instead of {expected.get(key)}" for key in wrong)
        raise UserError(f"{source / weights.CONFIG}: another network than the encoder's options: {pairs}")
    return found


def _origin(source: Path, default: Preprocess) -> tuple[Preprocess, dict[str, Any]]:
    """Return the preprocessing and provenance of weights from elsewhere; the default where none is written."""
    facts = {"source": source.name, "sha256": files.sha256(source / weights.WEIGHTS)}
    path = source / weights.PREPROCESSING
    if not path.is_file():
        return default, {**facts, "trained_on": "Its weights were made elsewhere; see where they come from."}
    about = files.read_json(path)
    return Preprocess.model_validate(about["preprocess"]), {**about.get("facts", {}), **facts}
