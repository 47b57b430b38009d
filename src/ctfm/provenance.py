"""Which code made what: digests of a stage's modules, and what was changed since.

Cheap stages carry the digest of their code in their spec, so that an edit reruns them. Dear stages
record the digests beside their outputs; `changes` names the modules edited since, and the remedy is to
raise the stage's number in ``ctfm.config.VERSIONS`` when the edit changes what comes out.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import sys
import time
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import ctfm

SOURCE = Path(__file__).parent
# Settings reach a stage through its spec, and these modules only carry it.
NOT_SCIENCE = {
    "ctfm.config",
    "ctfm.options",
    "ctfm.spec",
    "ctfm.cli",
    "ctfm.plugins",
    "ctfm.logs",
    "ctfm.errors",
    "ctfm.provenance",
    "ctfm.validation",
}
# A kind of task imports these for its training; measuring never runs them.
ONLY_TRAINS = ("ctfm.training", "ctfm.encoders", "ctfm.ssl", "ctfm.weights", "ctfm.imaging.tiles")
# Where dear stages leave their records. Fixed depths: a search of everything would visit every volume.
RECORDS = [
    *(f"{stage}/*/run.json" for stage in ("volumes", "datasets", "encoders", "probe")),
    "adapt/*/*/*/run.json",
    "embed/*/*.run.json",
]
PACKAGES = (
    "torch",
    "monai",
    "lightning",
    "numpy",
    "SimpleITK",
    "pydicom",
    "blosc2",
    "snakemake",
    "idc-index-data",
)


def code(stage: str, *plugins: str) -> dict[str, str]:
    """Return {module: digest} of a stage's module, the named plug-ins, and all of ours that they import.

    Args:
        stage: such as ``pretrain``.
        plugins: modules chosen by the settings, such as ``ssl.simclr``.
    """
    todo, seen = [f"ctfm.stages.{stage}", *(f"ctfm.{name}" for name in plugins)], {}
    while todo:
        module = todo.pop()
        file = _file(module)
        if module in seen or module in NOT_SCIENCE or file is None:
            continue
        seen[module] = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        todo += _imports(file)
    return dict(sorted(seen.items()))


def code_digest(stage: str, *plugins: str) -> str:
    """Return one digest of the code that a cheap stage runs: what ``code`` lists, less what only trains."""
    used = {module: old for module, old in code(stage, *plugins).items() if not module.startswith(ONLY_TRAINS)}
    return hashlib.sha256(json.dumps(used).encode()).hexdigest()[:12]


def changes(record: dict[str, str]) -> list[str]:
    """Return the modules of a recorded ``code`` whose files differ now or are gone."""
    changed = []
    for module, old in record.items():
        file = _file(module)
        if file is None or hashlib.sha256(file.read_bytes()).hexdigest()[:12] != old:
            changed.append(module)
    return changed


def joined(records: list[dict[str, str]]) -> dict[str, str]:
    """Join the ``code`` of several jobs; a module that was edited between them counts as changed ever after."""
    result: dict[str, str] = {}
    for record in records:
        for module, value in record.items():
            result[module] = value if result.get(module, value) == value else "mixed"
    return result


def stamp(spec: dict[str, Any], *plugins: str) -> dict[str, Any]:
    """Return what to write beside an output: spec, code, versions, platform and time."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "spec": spec,
        "code": code(spec["stage"], *plugins),
        "ctfm": ctfm.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": versions,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def stale(outdir: Path | str) -> Iterator[str]:
    """Yield one sentence for each output of a dear stage whose code was edited since it was made."""
    for record in sorted(record for place in RECORDS for record in Path(outdir).glob(place)):
        content = json.loads(record.read_text())
        changed = changes(content.get("code", {}))
        if changed:
            stage = content["spec"]["stage"]
            made = record.with_suffix("").with_suffix("") if record.name != "run.json" else record.parent
            yield (
                f"{made}: {', '.join(changed)} changed since '{stage}' made it; it is kept. "
                f"If the change alters what '{stage}' makes, raise VERSIONS['{stage}'] in ctfm/config.py"
            )


@cache
def _imports(file: Path) -> list[str]:
    modules = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [module for module in modules if module.startswith("ctfm.")]


def _file(module: str) -> Path | None:
    path = SOURCE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path if path.is_file() else None
