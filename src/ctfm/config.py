"""The typed, strict settings of a run, and the version of each stage. Imports no torch.

Every section of a configuration file is one class here; every field says what it means. Entries of
``corpora``, ``datasets``, ``encoders``, ``pretrain`` and ``tasks`` are named by the user: the name of an
entry is the name of its folder in the results. A section that is absent switches its stage off.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ctfm.options import PAPER_AUGMENT, Augment, Criteria, Embed, Millimetres, Strict, Voxels
from ctfm.options import SEGMENTATION_AUGMENT as SEGMENTATION_AUGMENT
from ctfm.options import Finetuning as Finetuning  # for plug-ins
from ctfm.options import Objective as Objective
from ctfm.options import Occlusion as Occlusion
from ctfm.options import Patches as Patches
from ctfm.options import Range as Range

# Raise a stage's number when its code changes what it makes; its outputs are then made anew.
# Cheap stages (select, evaluate, summary, figures, report) need none: a digest of their code does the same by itself.
VERSIONS = {
    "phantom": 1,
    "select": 1,
    "plan": 1,
    "prepare": 4,
    "datasets": 5,
    "pretrain": 1,
    "probe": 2,
    "probe-check": 1,
    "export": 1,
    "adapt": 2,
    "embed": 1,
    "evaluate": 1,
    "summary": 1,
    "figures": 1,
    "report": 1,
}


class Phantom(Strict):
    """Synthetic CT in HU with known anatomy: a DICOM corpus and labelled data sets."""

    series: int = Field(12, ge=1, description="good DICOM series in the corpus")
    broken: int = Field(3, ge=0, description="further series with one fault each, to show the quarantine")
    slices: int = Field(56, ge=16, description="slices of a corpus series (varies by a few)")
    matrix: int = Field(128, ge=32, description="rows and columns of a corpus series")
    cases: int = Field(16, ge=3, description="labelled cases in each data set layout")
    case_spacing_mm: float = Field(3.0, gt=0, description="voxel edge of the labelled cases, mm")
    layouts: tuple[str, ...] = Field(("totalsegmentator",), description="data set layouts to write")
    heads: int = Field(30, ge=10, description="head CT in the layout `sinoct`; `cq500` has half as many")


class Select(Strict):
    """How scans are chosen; what is chosen stands under `corpora`."""

    backend: Literal["duckdb", "bigquery"] = Field(
        "duckdb", description="engine of the query: duckdb needs no account; bigquery runs the paper's own query"
    )
    bigquery_limit_gigabytes: float = Field(
        100.0, gt=0, description="a query that would bill more than this is asked about, or refused without a terminal"
    )


class Corpus(Criteria):
    """One selection of CT series for pre-training. Defaults: the paper's corpus."""

    index: str | None = Field(
        None, description="parquet with idc-index columns, such as your own; null: the Imaging Data Commons"
    )
    releases: tuple[int, int] | None = Field(
        (14, 18),
        description="IDC releases that hold a series: of the criteria, and of the listing (supplement S1); "
        "null: the newest one that is installed. Not used with `index`",
    )
    dicom_all: dict[int, str] = Field(
        {},
        description="tables of instances (BigQuery's dicom_all) as parquet, by release; "
        "the paper's query then runs on them",
    )
    geometry_index: str | None = Field(
        None,
        description="folder with ct_index.parquet and volume_geometry_index.parquet of idc-index-data, "
        "or `download`; null: thickness and localizers are guessed from descriptions",
    )
    collections: tuple[str, ...] = Field((), description="collections to take; empty: all")
    exclude_collections: tuple[str, ...] = Field((), description="collections to leave out")
    exclude_downstream: bool = Field(
        False, description="leave out the collections that downstream evaluations use (resources/downstream.csv)"
    )
    licenses: Literal["any", "commercial"] = Field(
        "any", description="commercial: only series whose licence allows commercial use"
    )
    series: tuple[str, ...] = Field((), description="SeriesInstanceUIDs to take by name; empty: no restriction")
    patients_per_collection: int | None = Field(
        None, ge=1, description="random subset of so many patients in each collection, drawn by `seed`"
    )
    max_series: int | None = Field(None, ge=1, description="random subset of so many series, drawn by `seed`")
    seed: int | None = Field(None, description="seed of the random subsets; null: the run's")
    shards: int = Field(1, ge=1, description="jobs that the corpus is prepared in")


class Prepare(Strict):
    """Download, checks, conversion to HU and resampling of every selected series."""

    spacing_mm: Millimetres = Field((3.0, 1.0, 1.0), description="voxel spacing (z, y, x) of the volumes, mm")
    min_slices: int = Field(16, ge=2, description="fewest slices of a usable series, from the DICOM headers")
    max_gap_ratio: float = Field(
        8.0, gt=1, description="largest slice distance over the median, beyond which a series is refused"
    )
    interpolation: Literal["linear", "nearest", "sinc"] = Field("linear", description="how voxels are resampled")
    antialias: bool = Field(False, description="smooth before a coarser spacing, which lowers noise and aliasing")
    converter: Literal["auto", "own", "dicom2nifti"] = Field(
        "auto",
        description="auto: our own for regular series; for tilted and uneven ones our own or dicom2nifti, whichever "
        "is nearer to the slices' own pixels; dicom2nifti: for everything, our own where it refuses",
    )
    cross_check: int = Field(1, ge=0, description="series of every shard that the other converter reads too")


class Dataset(Strict):
    """One labelled data set on disk."""

    kind: str = Field(description="layout: a file in src/ctfm/datasets")
    root: str = Field(description="folder of the data set as published")
    fetch: bool = Field(False, description="download it to `root` where its source is open; else it must be there")
    split: str = Field(
        "official", description="`official`, a list resources/splits/<kind>_<split>.csv, or the path of your own .csv"
    )
    exclude: str | None = Field(
        None, description="cases to leave out: resources/exclude/<kind>_<exclude>.csv, or the path of your own .csv"
    )
    study_types: tuple[str, ...] = Field((), description="kinds of examination to keep, * for anything; empty: all")
    spacing_mm: Millimetres | None = Field((1.5, 1.5, 1.5), description="(z, y, x) of stored cases, mm; null: as it is")


class Encoder(Strict):
    """An encoder that this run does not pre-train: random, or with weights from elsewhere."""

    kind: str = Field("segresnet", description="architecture: a file in src/ctfm/encoders")
    weights: str | None = Field(None, description="file or folder of weights; null: random initialisation")
    seed: int = Field(0, description="seed of a random initialisation")
    options: dict[str, Any] = Field({}, description="settings of the architecture")


class Pretrain(Strict):
    """One self-supervised pre-training run. Defaults: the paper's Methods."""

    method: str = Field("simclr", description="objective: a file in src/ctfm/ssl")
    method_options: dict[str, Any] = Field({}, description="settings of the objective")
    encoder: str = Field("segresnet", description="architecture: a file in src/ctfm/encoders")
    encoder_options: dict[str, Any] = Field({}, description="settings of the architecture")
    corpus: str = Field(description="an entry of `corpora`")
    epochs: int = Field(500, ge=1, description="epochs of `steps_per_epoch` steps")
    steps_per_epoch: int = Field(500, ge=1, description="optimiser steps in an epoch")
    global_batch: int = Field(16, ge=1, description="scans in one optimiser step, over all devices")
    crops_per_scan: int = Field(20, ge=1, description="random crops of each scan; at least two for `sampling: intra`")
    patch: Voxels = Field((24, 128, 128), description="crop size (z, y, x), voxels; what is missing is padded with air")
    crop_from: Literal["body", "foreground", "volume"] = Field(
        "body", description="body: within the box around it; foreground: a tenth of the crop is body; volume: anywhere"
    )
    augment: Augment = Field(PAPER_AUGMENT, description="random views of each crop")
    optimizer: Literal["adamw", "adam"] = Field("adamw", description="optimiser")
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate")
    weight_decay: float = Field(1e-6, ge=0, description="weight decay")
    decay_all: bool = Field(True, description="false: norms and biases don't decay")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient; null: not clipped")
    warmup_epochs: float = Field(10, ge=0, description="epochs of linear warm-up, counted in steps")
    warmup_start: float = Field(0.0, ge=0, le=1, description="learning rate before warm-up, share of the peak")
    final_rate: float = Field(0.0, ge=0, le=1, description="learning rate at the end, share of the peak")
    checkpoint_every: int = Field(10, ge=1, description="keep a checkpoint every so many epochs")
    seed: int = Field(0, description="seed of weights, crops and views")


Shots = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] | Literal["all"]


class Task(Strict):
    """One downstream task: every encoder named is adapted to a data set and measured."""

    kind: str = Field(description="kind of task: a file in src/ctfm/tasks")
    dataset: str = Field(description="an entry of `datasets`")
    encoders: tuple[str, ...] = Field((), description="entries of `pretrain` and `encoders`; empty: all")
    shots: tuple[Shots, ...] = Field(("all",), description="labelled training cases; below 1: that share of them")
    few_shot: Literal["random", "file_order"] = Field(
        "random", description="which ones: random: drawn by seed; file_order: the first of the data set, as published"
    )
    seeds: tuple[int, ...] = Field((0,), description="seeds: subset of cases, initialisation, augmentation")
    options: dict[str, Any] = Field({}, description="settings of the kind of task")
    per_encoder: dict[str, dict[str, Any] | None] = Field(
        {}, description="options that differ for one encoder, by its entry; null: none do, after all"
    )
    external: tuple[str, ...] = Field(
        (), description="further entries of `datasets`: their test cases are predicted and measured too, none is learnt"
    )


class Probe(Strict):
    """Few-shot probing of every saved checkpoint with a frozen encoder; the best one is exported."""

    task: str = Field(description="an entry of `tasks`, whose data set and kind are used")
    shots: int = Field(5, ge=1, description="training cases of the probe")
    validation: int = Field(10, ge=1, description="validation cases of the probe; test cases are never used")
    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=1, description="seeds of the probe: its training cases, the decoder's weights, the order"
    )
    crops_per_case: int | None = Field(
        4,
        ge=1,
        description="fixed crops of each training case, drawn once: what the frozen encoder makes of them is computed "
        "once; null: new random crops in every epoch, for which it is computed anew",
    )
    metric: str = Field("macro_dice", description="the score that the checkpoint is chosen by")
    options: dict[str, Any] = Field({}, description="replaces options of the task, such as fewer steps")


class Evaluate(Strict):
    """Metrics per case, and intervals over patients."""

    references: tuple[str, ...] = Field(
        ("random", "suprem"), description="encoders that all others are compared with, case by case"
    )
    interval: Literal["bca", "percentile"] = Field(
        "bca", description="bootstrap interval: bca corrects for bias and skew, which Dice has; percentile doesn't"
    )
    bootstrap: int = Field(10_000, ge=100, description="bootstrap resamples")
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals")
    seed: int = Field(0, description="seed of the bootstrap")


class Figures(Strict):
    """Look of the figures."""

    ids: tuple[str, ...] = Field(("fig2",), description="figures to draw: files in src/ctfm/figures")
    dpi: int = Field(300, ge=50, description="resolution of the PNG files")
    width_mm: float = Field(180.0, gt=20, description="width of a figure, mm")


class Report(Strict):
    """The final page and its figures."""

    title: str = Field("CT-FM: what was run and what came out", description="title of the page")
    figures: Figures = Field(Figures(), description="look of the figures")
    published: str | None = Field(None, description="folder of the paper's own tables, drawn under <outdir>/published")


class Machine(Strict):
    """How this machine does it. Never changes what comes out, so a change here reruns nothing."""

    endpoint_url: str | None = Field(None, description="S3 endpoint; null: Amazon's own")
    download_workers: int = Field(16, ge=1, description="parallel transfers of one download job")
    download_retries: int = Field(3, ge=0, description="further tries for series that came incomplete")
    cache: str | None = Field(None, description="folder of fetched index tables; null: the user's cache folder")
    gpu_tflops: float = Field(100.0, gt=0, description="what one GPU sustains in training, TFLOP/s; for the plan")
    keep_dicom: bool = Field(False, description="keep the downloaded DICOM after its volume is verified")
    loader_workers: int = Field(2, ge=0, description="processes that read crops or cases; 0: none")
    micro_batch: int | None = Field(
        None, ge=1, description="scans at once on one device; null: all of its share; the rest is accumulated"
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="auto: bf16-mixed or 16-mixed on a GPU, 32-true on a CPU"
    )
    cache_features: bool = Field(
        True, description="probe: keep the frozen encoder's maps of fixed crops; false: compute them in every step"
    )
    cache_gigabytes: float = Field(
        8.0, ge=0, description="main memory for these maps; larger ones are put on the disk, in the work folder"
    )
    predict_gigabytes: float = Field(
        4.0, gt=0, description="main memory of a prediction, GB; with less, more windows are computed more than once"
    )
    embed_batch: int | None = Field(None, ge=1, description="patches embedded at once; null: 32 on a GPU, 4 on a CPU")
    channels_last: bool = Field(True, description="memory order of the networks: a third faster or more")
    compile: bool = Field(False, description="torch.compile: faster steps after minutes of compiling")
    tensorboard: bool = Field(True, description="write TensorBoard's event files beside metrics.csv")
    wandb_project: str | None = Field(None, description="log to this Weights & Biases project too; needs wandb")


class Config(Strict):
    """A whole run."""

    outdir: str = Field("results", description="folder of everything that is made")
    seed: int = Field(0, description="seed of the phantoms and of the selection")
    phantom: Phantom | None = Field(None, description="synthetic CT; absent: none is made")
    select: Select = Field(Select(), description="how scans are chosen")
    corpora: dict[str, Corpus] = Field({}, description="selections of CT series, by name")
    prepare: Prepare = Field(Prepare(), description="from DICOM to volumes")
    datasets: dict[str, Dataset] = Field({}, description="labelled data sets, by name")
    pretrain: dict[str, Pretrain] = Field({}, description="pre-training runs, by the encoder's name")
    encoders: dict[str, Encoder] = Field({}, description="other encoders, by name")
    tasks: dict[str, Task] = Field({}, description="downstream tasks, by name")
    embed: dict[str, Embed] = Field({}, description="frozen features, by the name of the data set")
    probe: Probe | None = Field(None, description="choice of the checkpoint; absent: the last one")
    evaluate: Evaluate = Field(Evaluate(), description="metrics and statistics")
    report: Report = Field(Report(), description="figures and the report")
    machine: Machine = Field(Machine(), description="how this machine does it")
