"""Stage ``phantom``: synthetic CT, as a DICOM corpus with an index and as labelled data sets."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Annotated

import pandas as pd
import typer

from ctfm import plugins
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import Phantom
from ctfm.errors import UserError, nearest
from ctfm.files import atomic, ensure_folder
from ctfm.idc import folder
from ctfm.phantom import dicom
from ctfm.phantom.cases import cases

log = logging.getLogger(__name__)


def phantom(
    out: Annotated[Path, typer.Option(help="Folder of index.parquet, dicom/ and one folder a layout.")],
    spec: SpecOption = None,
    config: ConfigOption = None,
) -> None:
    """Write dicom/, each layout of `phantom.layouts`, and index.parquet last: where it is, all is whole."""
    job = job_spec("phantom", spec, config)
    settings, seed = Phantom(**job["phantom"]), job["seed"]
    layouts = {name: layout(name) for name in settings.layouts}
    ensure_folder(out)
    (out / "index.parquet").unlink(missing_ok=True)
    collections = dicom.write_corpus(
        out / "dicom",
        series=settings.series,
        broken=settings.broken,
        slices=settings.slices,
        matrix=settings.matrix,
        seed=seed,
    )
    for name, module in layouts.items():
        own = getattr(module, "subjects", None)  # whom a layout shows that is not of the trunk
        module.write(out / name, own(seed, settings) if own else cases(seed, settings.cases, settings.case_spacing_mm))
        log.info("%s: written", name)
    with atomic(out / "index.parquet") as temporary:
        _index(out, collections).to_parquet(temporary, index=False)
    log.info("%d series, %d of them with a fault", settings.series + settings.broken, settings.broken)


def layout(name: str) -> ModuleType:
    """Return the module ``ctfm.phantom.<name>`` that writes a layout: it has a function ``write(folder, cases)``.

    One that does not show the labelled cases of the trunk has ``subjects(seed, settings)`` too.

    Raises:
        UserError: there is none of this name.
    """
    modules = {known: importlib.import_module(f"ctfm.phantom.{known}") for known in plugins.names("phantom")}
    layouts = {known: module for known, module in modules.items() if hasattr(module, "write")}
    if name not in layouts:
        raise UserError(f"phantom.layouts: no layout called '{name}'{nearest(name, layouts)}")
    return layouts[name]


def _index(out: Path, collections: dict[str, str]) -> pd.DataFrame:
    """Index the series just written; folders of an earlier run with other settings stay out."""
    table = folder.index_folder(out, out / "dicom", licence="CC0")
    table = table[table["SeriesInstanceUID"].isin(list(collections))]
    return table.assign(collection_id=table["SeriesInstanceUID"].map(collections)).reset_index(drop=True)
