"""Stage ``embed``: scans to frozen features."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ctfm import files, logs, provenance, tables
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import VERSIONS, Embed
from ctfm.embedding import encode, items, read, table
from ctfm.embedding.items import Item
from ctfm.errors import SCAN_FAULTS, told
from ctfm.validation import validated

DEFAULT = Embed()

log = logging.getLogger(__name__)

ScansArgument = Annotated[
    list[Path] | None,
    typer.Argument(help="Scans: NIfTI, NRRD, MHA or prepared .b2nd files, or folders of one DICOM series."),
]
LabelsOption = Annotated[
    list[Path] | None, typer.Option(help="Label map of each scan, in their order: a row for each organ too.")
]
NamesOption = Annotated[str | None, typer.Option(help="Names of the ids: a kind of data set such as totalsegmentator.")]
PatchOption = Annotated[tuple[int, int, int] | None, typer.Option(help="Patch z y x, voxels; default: its own.")]
OverlapOption = Annotated[float, typer.Option(help="Overlap of patches; 0 is many times as fast.")]
PoolOption = Annotated[str, typer.Option(help="Map of a patch to a vector: avg, max or min.")]
OverPatchesOption = Annotated[str, typer.Option(help="Patches of a scan to one vector: mean, max or min.")]


def embed(
    paths: ScansArgument = None,
    encoder: Annotated[str, typer.Option(help="Folder of the encoder, or its name below results/.")] = "encoder",
    out: Annotated[Path, typer.Option(help="Table to write; what failed is beside it.")] = Path("emb.parquet"),
    patches: Annotated[bool, typer.Option("--patches", help="A row for each patch too.")] = False,
    patch: PatchOption = None,
    overlap: OverlapOption = DEFAULT.overlap,
    crop: Annotated[str, typer.Option(help="body, published or volume.")] = DEFAULT.crop,
    pool: PoolOption = DEFAULT.pool,
    over_patches: OverPatchesOption = DEFAULT.over_patches,
    labels: LabelsOption = None,
    label_names: NamesOption = None,
    cases: Annotated[Path | None, typer.Option(help="cases.parquet of a data set, in place of scans.")] = None,
    spec: SpecOption = None,
    config: ConfigOption = None,
    dataset: Annotated[str | None, typer.Option(help="Entry of `embed`, with --config.")] = None,
) -> None:
    """Write one row for each scan: its embedding, and what made it."""
    if cases:
        job = job_spec("embed", spec, config, dataset=dataset, encoder=Path(encoder).name)
        settings = Embed(**job["embed"])
        todo = items.of_cases(cases, settings.organs)
    else:
        todo = items.of_paths(paths or [], labels or [], label_names)
        given = {"patches": patches, "patch": patch, "overlap": overlap, "crop": crop, "pool": pool}
        settings = validated(Embed, {**given, "over_patches": over_patches, "organs": bool(labels)}, "--")
        job = {"stage": "embed", "version": VERSIONS["embed"], "embed": settings.model_dump(mode="json")}
        job |= {"dataset": "", "encoder": encode.find(encoder).resolve().name}
    used = encode.Encoder(encoder)
    log.info(
        "every scan is turned to (S, P, L) and used with %s",
        json.dumps({**used.about(), **settings.model_dump(exclude_none=True, exclude={"encoders"})}),
    )
    failed = _write(todo, used, settings, job, out)
    if failed and (not cases or failed == len(todo)):  # of a data set, the table of failures says enough
        raise typer.Exit(1)


def _write(todo: Sequence[Item], used: encode.Encoder, settings: Embed, job: dict[str, Any], out: Path) -> int:
    """Write the table, the failures and run.json; return how many scans failed."""
    failures: list[dict[str, str]] = []
    facts = {"spec": job, "preprocess": used.preprocess.model_dump(mode="json")}
    with tables.writer(table.NAME, out, facts) as add:
        for rows in _embedded(todo, used, settings, job["encoder"], failures):
            add(rows)
    tables.write(tables.of(table.FAILURES, failures), table.FAILURES, out.with_suffix(".failures.parquet"))
    stamp = provenance.stamp(job, f"encoders.{used.loaded.kind}")
    files.write_json({**stamp, "model": used.identity["model"], "scans": len(todo)}, out.with_suffix(".run.json"))
    log.info("%d of %d scans embedded: %s", len(todo) - len(failures), len(todo), out)
    if failures:
        log.error("%d scans failed: see %s", len(failures), out.with_suffix(".failures.parquet"))
    return len(failures)


def _embedded(
    todo: Sequence[Item], used: encode.Encoder, settings: Embed, name: str, failures: list[dict[str, str]]
) -> Iterator[Any]:
    """Yield the rows of each scan; one that can't be used costs only itself."""
    for item in logs.progress(todo, "scans", len(todo)):
        try:
            common = {"encoder": name, **used.identity, "sha256": read.checksum(item.image)}
            found = used.embed_all(item.image, settings, item.labels if settings.organs else None)
            yield table.rows(item.case, found, common, patches=settings.patches, names=item.names)
        except SCAN_FAULTS as fault:
            failures.append({"case": item.case, **told(fault)})
            log.warning("%s failed: %s %s", item.image, failures[-1]["reason"], failures[-1]["detail"])
