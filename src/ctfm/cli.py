"""The command line: ``ctfm NAME``. A command's module is imported only when the command runs."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ctfm import __version__, logs, spec
from ctfm.errors import UserError, nearest

# command: (module.function, one line for --help)
COMMANDS = {
    "phantom": ("stages.phantom.phantom", "Write synthetic CT: a DICOM corpus and labelled data sets."),
    "fetch-index": ("stages.select.fetch_index", "Fetch the index tables of the IDC releases that a corpus names."),
    "select": ("stages.select.select", "Choose CT series from the IDC index."),
    "plan": ("stages.select.plan", "Say what a selection will cost before anything is fetched."),
    "prepare": ("stages.prepare.prepare", "Download, check, convert and resample the series of one shard."),
    "prepare-index": ("stages.prepare.index", "Join all shards of a corpus and draw its quality page."),
    "datasets": ("stages.datasets.datasets", "Bring one labelled data set into the volume store."),
    "fetch-dataset": ("stages.datasets.fetch_dataset", "Download a labelled data set whose source is open."),
    "pretrain": ("stages.pretrain.pretrain", "Pre-train one encoder without labels; resumes by itself."),
    "probe-check": ("stages.probe.check", "Check that no patient of the probe is in a test set."),
    "probe": ("stages.probe.probe", "Score every checkpoint by few-shot probing and choose one."),
    "export": ("stages.export.export", "Write a checkpoint as weights that others can load."),
    "import-weights": (
        "stages.export.import_weights",
        "Write a random or foreign encoder in the same layout.",
    ),
    "embed": ("stages.embed.embed", "Turn scans into frozen features: one vector for each."),
    "retrieve": ("embedding.retrieving.retrieve", "Find the embedded scans that are most like a scan."),
    "search": ("embedding.searching.search_command", "Find where other scans look as around a point of one scan."),
    "probe-linear": (
        "embedding.probing.probe_linear",
        "Tell labels from frozen features by simple probes, with intervals.",
    ),
    "stability": ("embedding.stability.stability", "Say how alike the features of a scan and its repetition are."),
    "pca": ("embedding.colouring.pca", "Colour two or more scans by the main components of their patches."),
    "saliency": ("embedding.occluding.saliency", "Map which parts of scans their embedding depends on."),
    "adapt": ("stages.adapt.adapt", "Fine-tune an encoder on a task and predict the test cases."),
    "predict": ("stages.adapt.predict", "Apply an adapted model to your own scans."),
    "evaluate": ("stages.evaluate.evaluate", "Measure predictions, case by case."),
    "summary": ("stages.evaluate.summary", "Estimates and intervals over all encoders of a task."),
    "import-published": (
        "stages.import_published.import_published",
        "Read tables published with the paper, to draw them like our own.",
    ),
    "app": ("app.serve.app", "Search scans for what looks like a chosen place, in the browser."),
    "figures": ("stages.report.figures", "Draw figures of the paper from tables."),
    "report": ("stages.report.report", "Write the self-contained report page."),
    "tidy": ("tidy.tidy", "List or delete the checkpoints that a finished run needs no more."),
    "cluster-check": ("cluster.cluster_check", "Say what is wrong with the profile for a SLURM cluster."),
    "efficiency": ("efficiency.efficiency", "Say what a run took: time, memory and GPU-hours of each rule."),
}

SpecOption = Annotated[
    str | None,
    typer.Option("--spec", help="The job's settings: JSON text or a JSON file (Snakemake gives this)."),
]
ConfigOption = Annotated[
    list[Path] | None,
    typer.Option("--config", help="Configuration file(s), in place of --spec; later ones overlay."),
]


def job_spec(stage: str, text: str | None, files: list[Path] | None, **names: Any) -> dict[str, Any]:
    """Return a job's spec from ``--spec``, or make it from ``--config`` and the names of the entries.

    Raises:
        UserError: neither is given, or one is wrong.
    """
    if text:
        return spec.read(text)
    if not files:
        raise UserError("give --config FILE (such as config/config.yaml), or --spec")
    cfg = spec.load(*files)
    os.environ.setdefault(spec.MACHINE_VARIABLE, cfg.machine.model_dump_json())
    return spec.spec(cfg, stage, **{key: value for key, value in names.items() if value is not None})


def main() -> None:
    """Run a command; what the user can mend is one line on standard error and status 2."""
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name in ("-h", "--help"):
        print(overview())
    elif name == "--version":
        print(__version__)
    elif name not in COMMANDS:
        sys.exit(_complain(f"ctfm: error: no command '{name}'{nearest(name, COMMANDS)}"))
    else:
        _run(name, arguments)


def overview() -> str:
    """Return the text of ``ctfm --help``: each command and its line, in the order of the workflow."""
    lines = [f"  {name:<16} {text}" for name, (_, text) in COMMANDS.items()]
    usage = "Usage: ctfm COMMAND [OPTIONS]    (ctfm COMMAND --help tells the options; ctfm --version)"
    return "\n".join([usage, "", "CT foundation models, from scans to figures.", "", *lines])


def application(name: str) -> typer.Typer:
    """Return one command, for which its module is imported."""
    module, _, function = COMMANDS[name][0].rpartition(".")
    made = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    made.command(help=COMMANDS[name][1])(getattr(importlib.import_module(f"ctfm.{module}"), function))
    return made


def _run(name: str, arguments: list[str]) -> None:
    logs.setup()
    try:
        application(name)(args=arguments, prog_name=f"ctfm {name}")
    except UserError as error:
        logging.getLogger("ctfm").debug("details", exc_info=True)
        sys.exit(_complain(f"ctfm {name}: error: {' '.join(str(error).split())}"))


def _complain(line: str) -> int:
    print(line, file=sys.stderr)
    return 2
