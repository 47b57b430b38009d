"""Stage ``embed``: scans to frozen features, and simple probes on them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ctfm import cases as case_table
from ctfm import files, logs, plugins, provenance, tables
from ctfm.cli import ConfigOption, SpecOption, job_spec
from ctfm.config import VERSIONS, Embed
from ctfm.embedding import encode, read, table
from ctfm.errors import Quarantine, UserError
from ctfm.imaging import scans, store

DEFAULT = Embed()

log = logging.getLogger(__name__)


class Item(NamedTuple):
    """A scan to embed: its name, where it is, its label map, and the names of the ids in it."""

    case: str
    image: Path
    labels: Path | None = None
    names: Mapping[int, str] | None = None


def embed(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Scans: NIfTI, NRRD, MHA or prepared .b2nd files, or folders of one DICOM series."),
    ] = None,
    encoder: Annotated[str, typer.Option(help="Folder of the encoder, or its name below results/.")] = "encoder",
    out: Annotated[Path, typer.Option(help="Table to write; <out>.failures.parquet lists what failed.")] = Path(
        "emb.parquet"
    ),
    patches: Annotated[bool, typer.Option("--patches", help="A row for each patch too.")] = False,
    patch: Annotated[tuple[int, int, int] | None, typer.Option(help="Patch z y x, voxels; default: its own.")] = None,
    overlap: Annotated[float, typer.Option(help="Overlap of patches; 0 is many times as fast.")] = DEFAULT.overlap,
    crop: Annotated[str, typer.Option(help="body, published or volume.")] = DEFAULT.crop,
    pool: Annotated[str, typer.Option(help="Map of a patch to a vector: avg, max or min.")] = DEFAULT.pool,
    over_patches: Annotated[
        str, typer.Option(help="Patches of a scan to one vector: mean, max or min.")
    ] = DEFAULT.over_patches,
    labels: Annotated[
        list[Path] | None, typer.Option(help="Label map of each scan, in their order: a row for each organ too.")
    ] = None,
    label_names: Annotated[
        str | None, typer.Option(help="Names of the ids: a kind of data set such as totalsegmentator.")
    ] = None,
    cases: Annotated[Path | None, typer.Option(help="cases.parquet of a data set, in place of scans.")] = None,
    spec: SpecOption = None,
    config: ConfigOption = None,
    dataset: Annotated[str | None, typer.Option(help="Entry of `embed`, with --config.")] = None,
) -> None:
    """Write one row for each scan: its embedding, and what made it."""
    if cases:
        job = job_spec("embed", spec, config, dataset=dataset, encoder=Path(encoder).name)
        settings = Embed(**job["embed"])
        items = _of_dataset(cases, settings.organs)
    else:
        given = {"patches": patches, "patch": patch, "overlap": overlap, "crop": crop, "pool": pool}
        settings = job_settings({**given, "over_patches": over_patches, "organs": bool(labels)})
        name = encode.find(encoder).resolve().name
        job = {"stage": "embed", "version": VERSIONS["embed"], "embed": settings.model_dump(mode="json")}
        job |= {"dataset": "", "encoder": name}
        items = _of_paths(paths or [], labels or [], label_names)
    used = encode.Encoder(encoder)
    log.info("every scan is turned to (S, P, L) and used with %s", json.dumps({**used.about(), **job["embed"]}))
    failed = _write(items, used, settings, job, out)
    if failed and (not cases or failed == len(items)):
        raise typer.Exit(1)


def job_settings(given: dict[str, Any]) -> Embed:
    """Return checked settings.

    Raises:
        UserError: a value is wrong; the message names the option.
    """
    try:
        return Embed(**given)
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error


def _write(items: Sequence[Item], used: encode.Encoder, settings: Embed, job: dict[str, Any], out: Path) -> int:
    """Write the table, the failures and run.json; return how many scans failed."""
    failures: list[dict[str, str]] = []
    facts = {"spec": job, "preprocess": used.preprocess.model_dump(mode="json")}
    with tables.writer(table.NAME, out, facts) as add:
        for rows in _embedded(items, used, settings, job["encoder"], failures):
            add(rows)
    tables.write(tables.of(table.FAILURES, failures), table.FAILURES, out.with_suffix(".failures.parquet"))
    stamp = provenance.stamp(job, f"encoders.{used.loaded.kind}")
    files.write_json({**stamp, **used.identity, "scans": len(items)}, out.with_suffix(".run.json"))
    log.info("%d of %d scans embedded: %s", len(items) - len(failures), len(items), out)
    if failures:
        log.error("%d scans failed: see %s", len(failures), out.with_suffix(".failures.parquet"))
    return len(failures)


def _embedded(
    items: Sequence[Item], used: encode.Encoder, settings: Embed, name: str, failures: list[dict[str, str]]
) -> Iterator[Any]:
    """Yield the rows of each scan; one that can't be used costs only itself."""
    for item in logs.progress(items, "scans", len(items)):
        try:
            common = {"encoder": name, **used.identity, "sha256": read.checksum(item.image)}
            found = used.embed_all(item.image, settings, item.labels if settings.organs else None)
            yield table.rows(item.case, found, common, patches=settings.patches, names=item.names)
        except Quarantine as bad:
            failures.append({"case": item.case, "reason": bad.code, "detail": bad.detail})
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            failures.append({"case": item.case, "reason": "error", "detail": f"{type(error).__name__}: {error}"})
        else:
            continue
        log.warning("%s failed: %s %s", item.image, failures[-1]["reason"], failures[-1]["detail"])


def _of_paths(paths: Sequence[Path], labels: Sequence[Path], kind: str | None) -> list[Item]:
    if not paths:
        raise UserError("name at least one scan, or --cases")
    if labels and len(labels) != len(paths):
        raise UserError(f"--labels: {len(labels)} label maps for {len(paths)} scans; give one for each, in their order")
    known = plugins.get("datasets", kind).LABELS if kind else {}
    names = {number: name for name, number in known.items()}
    maps: Sequence[Path | None] = labels or [None] * len(paths)
    return [Item(n, p, m, names) for n, p, m in zip(scans.names(paths), paths, maps, strict=True)]


def _of_dataset(cases: Path, organs: bool) -> list[Item]:
    made = []
    for row in case_table.usable(cases).itertuples():
        label = cases.parent / row.label if organs and row.label else None
        names = {number: name for name, number in store.open_volume(label).meta["ids"].items()} if label else None
        made.append(Item(row.case, cases.parent / row.image, label, names))
    return made
