"""From a configuration file to the spec of one job: what the job must do, as one sorted JSON text.

Two jobs with the same spec and the same inputs make the same thing. What only says how fast or where
(`machine`) is no part of it; the version of the stage is.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from ctfm import config, plugins
from ctfm.config import Config, Machine
from ctfm.errors import UserError, nearest
from ctfm.files import need_file
from ctfm.validation import validated

MACHINE_VARIABLE = "CTFM_MACHINE"
MEASURES = {"of": "evaluate"}  # the mark of a task's option that only says what is measured
TASK_KEYS = {"kind", "dataset", "few_shot", "external"}  # of a task's entry, what every one of its jobs is told
ENTRIES = ("corpora", "datasets", "pretrain", "encoders", "tasks", "embed")  # sections of entries that the user names


def load(*files: Path | str) -> Config:
    """Read one or more YAML files, each overlaid on those before it, and check every key and value.

    Raises:
        UserError: a file is missing or malformed, or a key or value is wrong; the message names it.
    """
    merged: dict[str, Any] = {}
    for file in files:
        text = need_file(file, "name a configuration file such as config/config.yaml").read_text()
        try:
            content = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(content, Mapping):
            raise UserError(f"{file}: must be a mapping of sections such as 'pretrain:'")
        merged = _overlay(merged, content)
    return check(merged)


def check(settings: Mapping[str, Any]) -> Config:
    """Check a whole configuration: keys, values, plug-in names and options, references between entries.

    An entry that is null is left out: so a file laid over another one takes an entry away.

    Raises:
        UserError: with the path of each wrong key and the nearest right one.
    """
    cfg = validated(Config, {key: _entries(key, value) for key, value in settings.items()}, "")
    for name, entry in cfg.pretrain.items():
        _reference(f"pretrain.{name}.corpus", entry.corpus, cfg.corpora, "corpora")
        objective = _options("ssl", entry.method, entry.method_options, f"pretrain.{name}.method")
        if objective.get("sampling") == "intra" and entry.crops_per_scan < 2:
            raise UserError(
                f"pretrain.{name}.crops_per_scan: 'sampling: intra' compares crops of a scan; take 2 or more"
            )
        _options("encoders", entry.encoder, entry.encoder_options, f"pretrain.{name}.encoder")
    for name, encoder in cfg.encoders.items():
        if name in cfg.pretrain:
            raise UserError(f"encoders.{name}: 'pretrain' has an entry of this name too; rename one of them")
        _options("encoders", encoder.kind, encoder.options, f"encoders.{name}.kind")
    for name, dataset in cfg.datasets.items():
        _options("datasets", dataset.kind, {}, f"datasets.{name}.kind")
    known = {**cfg.pretrain, **cfg.encoders}
    _check_tasks(cfg, known)
    for name, embed in cfg.embed.items():
        _reference(f"embed.{name}", name, cfg.datasets, "datasets")
        for encoder_name in embed.encoders:
            _reference(f"embed.{name}.encoders", encoder_name, known, "pretrain and encoders")
    if cfg.probe:
        _reference("probe.task", cfg.probe.task, cfg.tasks, "tasks")
        task = cfg.tasks[cfg.probe.task]
        _options("tasks", task.kind, {**task.options, **cfg.probe.options}, "probe")
    for figure in cfg.report.figures.ids:
        _plugin("figures", figure, "report.figures.ids")
    return cfg


def _check_tasks(cfg: Config, known: Mapping[str, Any]) -> None:
    for name, task in cfg.tasks.items():
        for key, named in (("dataset", task.dataset), *(("external", other) for other in task.external)):
            _reference(f"tasks.{name}.{key}", named, cfg.datasets, "datasets")
        for encoder_name in task.encoders:
            _reference(f"tasks.{name}.encoders", encoder_name, known, "pretrain and encoders")
        _options("tasks", task.kind, task.options, f"tasks.{name}.kind")
        for encoder_name, changes in task.per_encoder.items():
            if changes is None:
                continue
            _reference(f"tasks.{name}.per_encoder", encoder_name, known, "pretrain and encoders")
            _options("tasks", task.kind, {**task.options, **changes}, f"tasks.{name}.per_encoder.{encoder_name}")


def encoder_names(cfg: Config, task: str) -> list[str]:
    """Return the encoders that a task compares: those it names, or all."""
    return list(cfg.tasks[task].encoders or [*cfg.pretrain, *cfg.encoders])


def spec(cfg: Config, stage: str, **names: Any) -> dict[str, Any]:
    """Return the spec of one job: the typed settings with defaults, and the version of its stage.

    Args:
        cfg: the checked configuration.
        stage: one of the keys of ``config.VERSIONS``.
        names: which entry, such as ``corpus='idc'`` or ``task='wholebody', encoder='ctfm', shots='5', seed='0'``.

    Raises:
        UserError: there is no such entry.
    """
    makers = {
        "phantom": lambda: {"phantom": _section(cfg.phantom, "phantom"), "seed": cfg.seed},
        "select": lambda: {
            "select": cfg.select,
            "corpus": _entry(cfg.corpora, "corpora", names["corpus"]),
            "name": names["corpus"],
            "seed": cfg.seed,
        },
        "plan": lambda: _plan(cfg, names["corpus"]),
        "prepare": lambda: {"prepare": cfg.prepare, "criteria": _criteria(cfg, names["corpus"])},
        "datasets": lambda: {"dataset": _entry(cfg.datasets, "datasets", names["dataset"]), "name": names["dataset"]},
        "pretrain": lambda: {"pretrain": _pretrain(cfg, names["encoder"]), "name": names["encoder"]},
        "probe": lambda: _probe(cfg, names["encoder"]),
        "probe-check": lambda: {"probe": _section(cfg.probe, "probe"), "datasets": cfg.datasets},
        "export": lambda: _export(cfg, names["encoder"]),
        "adapt": lambda: _adapt(_training(cfg, names["task"], _own(cfg, names)), names),
        "embed": lambda: _embed(cfg, names["dataset"], names["encoder"]),
        "evaluate": lambda: _adapt(_task(cfg, names["task"], _own(cfg, names)), names),
        "summary": lambda: {"evaluate": cfg.evaluate, "task": _task(cfg, names["task"])},
        "figures": lambda: {"figures": cfg.report.figures},
        "report": lambda: {"title": cfg.report.title},
    }
    try:
        content = json.loads(json.dumps(makers[stage](), default=_plain))
    except KeyError as error:
        raise UserError(f"--{error.args[0]}: name an entry of the configuration") from error
    return {"stage": stage, "version": config.VERSIONS[stage], **content}


def read(text: str) -> dict[str, Any]:
    """Return a spec given as JSON text or as the path of a JSON file.

    Raises:
        UserError: it is neither.
    """
    try:
        content = json.loads(text if text.lstrip().startswith("{") else need_file(text, "give a spec").read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"--spec: not valid JSON ({error.msg} at character {error.pos})") from error
    return content


def machine() -> Machine:
    """Return how this machine works: from the environment variable CTFM_MACHINE, else the defaults."""
    return validated(Machine, json.loads(os.environ.get(MACHINE_VARIABLE, "{}")), "machine.")


def give_environment(cfg: Config) -> None:
    """Let jobs find this Python, this checkout and the machine's settings, all through the environment.

    The checkout goes in by PYTHONPATH, so that a job in an environment of its own runs the same source.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    source = Path(config.__file__).parents[1]
    if source.name == "src":
        os.environ["PYTHONPATH"] = str(source)
    os.environ[MACHINE_VARIABLE] = cfg.machine.model_dump_json()


def _entries(section: str, content: Any) -> Any:
    if section not in ENTRIES or not isinstance(content, Mapping):
        return content
    return {name: entry for name, entry in content.items() if entry is not None}


def _criteria(cfg: Config, corpus: str) -> dict[str, Any]:
    """Return what the headers of a corpus' series must tell: the part of its entry that prepare decides."""
    entry = _entry(cfg.corpora, "corpora", corpus)
    return entry.model_dump(mode="json", include=set(config.Criteria.model_fields))


def _plan(cfg: Config, corpus: str) -> dict[str, Any]:
    """Return what the cost of a corpus depends on: its preparation, and the runs that are pre-trained on it."""
    names = [name for name, entry in cfg.pretrain.items() if entry.corpus == corpus]
    return {"prepare": cfg.prepare, "name": corpus, "pretrain": {name: _pretrain(cfg, name) for name in names}}


def _pretrain(cfg: Config, name: str) -> dict[str, Any]:
    entry = _entry(cfg.pretrain, "pretrain", name)
    return {
        **entry.model_dump(),
        "method_options": _options("ssl", entry.method, entry.method_options, name),
        "encoder_options": _options("encoders", entry.encoder, entry.encoder_options, name),
    }


def _export(cfg: Config, name: str) -> dict[str, Any]:
    if name in cfg.pretrain:
        entry = _pretrain(cfg, name)
        return {"name": name, "encoder": {"kind": entry["encoder"], "options": entry["encoder_options"]}}
    encoder = _entry(cfg.encoders, "encoders", name)
    options = _options("encoders", encoder.kind, encoder.options, name)
    return {"name": name, "encoder": {**encoder.model_dump(), "options": options}}


def _task(cfg: Config, name: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    task = _entry(cfg.tasks, "tasks", name)
    options = _options("tasks", task.kind, {**task.options, **(changes or {})}, f"tasks.{name}")
    return {"name": name, **task.model_dump(include={"kind", "dataset", "few_shot", "external"}), "options": options}


def _training(cfg: Config, name: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a task without the options that only say what is measured: a change of those trains nothing anew."""
    task = _task(cfg, name, changes)
    fields = plugins.settings("tasks", task["kind"]).model_fields
    kept = {key: value for key, value in task["options"].items() if fields[key].json_schema_extra != MEASURES}
    return {**task, "options": kept}


def _probe(cfg: Config, encoder: str) -> dict[str, Any]:
    probe = _section(cfg.probe, "probe")
    export = _export(cfg, encoder)
    return {
        "probe": probe.model_dump(exclude={"options"}),
        "task": _training(cfg, probe.task, probe.options),
        "name": encoder,
        "encoder": export["encoder"],
    }


def _own(cfg: Config, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a task has for one encoder alone."""
    return _entry(cfg.tasks, "tasks", names["task"]).per_encoder.get(names["encoder"]) or {}


def _embed(cfg: Config, dataset: str, encoder: str) -> dict[str, Any]:
    entry = _entry(cfg.embed, "embed", dataset)
    return {"embed": entry.model_dump(exclude={"encoders"}), "dataset": dataset, "encoder": encoder}


def _adapt(task: dict[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    shots, seed = yaml.safe_load(str(names["shots"])), int(names["seed"])
    return {"task": task, "encoder": names["encoder"], "shots": shots, "seed": seed}


def _entry(entries: Mapping[str, Any], section: str, name: str) -> Any:
    if name not in entries:
        raise UserError(f"{section}: no entry '{name}'{nearest(name, entries)}")
    return entries[name]


def _section(value: Any, name: str) -> Any:
    if value is None:
        raise UserError(f"{name}: this section is absent from the configuration, so the stage is off; add it")
    return value


def _reference(where: str, name: str, entries: Mapping[str, Any], section: str) -> None:
    if name not in entries:
        raise UserError(f"{where}: '{name}' is not an entry of {section}{nearest(name, entries)}")


def _plugin(kind: str, name: str, where: str) -> None:
    try:
        plugins.path(kind, name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _options(kind: str, name: str, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    _plugin(kind, name, where)
    return validated(plugins.settings(kind, name), options, f"{where} options.").model_dump(mode="json")


def _overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _overlay(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"not JSON: {value!r}")
