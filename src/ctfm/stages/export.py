"""Write weights as others can load them: from a checkpoint, an adapted model, at random, or made elsewhere."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from ctfm import files, foreign, plugins, weights
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.imaging.preprocess import Preprocess
from ctfm.tasks import _exchange
from ctfm.training import checkpoints, seeds

log = logging.getLogger(__name__)
REPORT = "import.json"
OutOption = Annotated[Path, typer.Option(help="Folder of the encoder.")]
EncoderOption = Annotated[str | None, typer.Option(help="Name of the encoder's entry; with --config.")]


def export(
    spec: SpecOption = None,
    config: ConfigOption = None,
    pretrained: Annotated[Path, typer.Option(help="Folder that 'ctfm pretrain' made.")] = Path("encoder"),
    selected: Annotated[Path | None, typer.Option(help="Choice of 'ctfm probe'; default: the last one.")] = None,
    adapted: Annotated[
        Path | None, typer.Option(help="Folder that 'ctfm adapt' made: its encoder and decoder; needs no --config.")
    ] = None,
    out: OutOption = Path("encoder"),
    encoder: EncoderOption = None,
) -> None:
    """Write the chosen weights: config.json, model.safetensors, preprocessing.json, README.md."""
    if adapted:
        _exchange.write(adapted, out)
        return
    job = job_spec("export", spec, config, encoder=encoder)
    choice = files.read_json(selected) if selected else {"checkpoint": checkpoints.LAST, "why": "the last checkpoint"}
    path = pretrained / "checkpoints" / Path(choice["checkpoint"]).name
    content = checkpoints.read(files.need_file(path, "pre-train first, or choose another checkpoint"))
    state = checkpoints.encoder(content)
    run = files.read_json(pretrained / "run.json")
    shape = {"patch": run["spec"]["pretrain"]["patch"], "spacing_mm": run["data"]["spacing_mm"]}
    known = plugins.get("encoders", job["encoder"]["kind"]).PREPROCESS.model_dump()
    facts = _facts(run, content[checkpoints.KEY], choice)
    _save(out, job, state, facts, Preprocess(**{**known, **shape}))


def import_weights(
    spec: SpecOption = None,
    config: ConfigOption = None,
    out: OutOption = Path("encoder"),
    encoder: EncoderOption = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Import the decoder too, as a model for 'ctfm predict': the data set whose labels it gives."),
    ] = None,
) -> None:
    """Write an encoder that this run does not pre-train, in the same layout: random by seed, or made elsewhere."""
    job = job_spec("export", spec, config, encoder=encoder)
    kind, options, path, seed = (job["encoder"][key] for key in ("kind", "options", "weights", "seed"))
    plugin = plugins.get("encoders", kind)
    if path is None:
        with seeds.seeded(seed, "weights"):
            state = plugin.build(plugin.Settings(**options)).state_dict()
        facts = {"seed": seed, "random": True, "trained_on": "Its weights are random: it was trained on nothing."}
        _save(out, job, state, facts, plugin.PREPROCESS)
        (out / REPORT).unlink(missing_ok=True)
        return
    source = foreign.read(Path(path))
    foreign.check_config(source, kind, options)
    if labels:
        report = _exchange.read(source, job["encoder"], job["name"], labels, out)
    else:
        wanted, prefixes = weights.expected(kind, options), (*foreign.PLAIN, *plugin.PREFIXES)
        state, report = foreign.match(source, wanted, prefixes)
        preprocess, facts = foreign.origin(source, plugin.PREPROCESS)
        _save(out, job, state, facts, preprocess)
    files.write_json(report, out / REPORT)
    log.info("%s; all names are in %s", foreign.summary(report), out / REPORT)


def _save(out: Path, job: dict[str, Any], state: Any, facts: Any, preprocess: Preprocess) -> None:
    kind, options = job["encoder"]["kind"], job["encoder"]["options"]
    weights.save_encoder(
        out, name=job["name"], kind=kind, options=options, state=state, facts=facts, preprocess=preprocess
    )
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
