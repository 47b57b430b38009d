# The typed configuration, the specs of jobs, wildcard constraints and resource helpers. No rules here.
import json
import re
from pathlib import Path

from snakemake.exceptions import WorkflowError

from ctfm import plugins, provenance
from ctfm.errors import UserError
from ctfm.files import check_writable, digest, sha256
from ctfm.spec import check, encoder_names, give_environment, spec

STAGES = "phantom select prepare datasets pretrain probe export embed adapt evaluate import_published report".split()

try:
    cfg = check(config)
    check_writable(cfg.outdir)
except UserError as error:
    raise WorkflowError(f"configuration: {error}")

O = cfg.outdir
give_environment(cfg)


def one_of(names):
    """A wildcard constraint that admits only these names."""
    return "|".join(re.escape(str(name)) for name in names) or "(?!)"


container: "envs/ctfm.sif"  # used with `--sdm apptainer` alone


wildcard_constraints:
    corpus=one_of(cfg.corpora),
    dataset=one_of(cfg.datasets),
    encoder=one_of([*cfg.pretrain, *cfg.encoders]),
    task=one_of(cfg.tasks),
    figure=one_of(cfg.report.figures.ids),
    shard=r"\d{5}",
    seed=r"\d+",
    shots=r"\d+(\.\d+)?|all",


def spec_of(stage, code=None):
    """A params function: the job's spec as JSON; cheap stages name their module and carry its code's digest."""

    def make(wildcards):
        names = {
            key: value
            for key, value in wildcards.items()
            if key not in ("shard", "figure")
        }
        content = spec(cfg, stage, **names)
        if code:
            content["code"] = provenance.code_digest(
                code, *plugins_of(stage, wildcards)
            )
        return json.dumps(content, sort_keys=True)

    return make


def digest_of(*names):
    """The digest of small frozen facts that a job reads. As inputs, those of a fresh checkout would be newer than results."""
    return digest([sha256(f"resources/{name}") for name in names])


def plugins_of(stage, wildcards):
    """The plug-in modules whose code a cheap stage runs besides its own."""
    if stage in ("evaluate", "summary"):
        return [f"tasks.{cfg.tasks[wildcards.task].kind}"]
    return [f"figures.{wildcards.figure}"] if stage == "figures" else []


def figure_text(wildcards):
    """What a figure's file says of itself: the caption in Snakemake's own report."""
    return plugins.docstring("figures", wildcards.figure)


def again(times):
    """How often a failed job is tried again: as a new job, never inside of a cluster's job, whose memory stays."""
    return times if workflow.is_main_process else 0


def more_each_try(amount, most=4):
    """A request for memory (MB) or time (minutes) that grows with each attempt, up to so many times of it.

    The time of what goes on where it stopped does not grow: a cluster refuses more than its longest.
    """
    return lambda wildcards, attempt: amount * min(attempt, most)


def shard_indexes(wildcards):
    """The tables of all shards of a corpus; their number is fixed by the configuration."""
    return [
        f"{O}/volumes/{wildcards.corpus}/shard={n:05d}/index.parquet"
        for n in range(shard_count(wildcards))
    ]


def shard_count(wildcards):
    """How many shards a corpus is prepared in."""
    return cfg.corpora[wildcards.corpus].shards


def phantom_or_nothing(wildcards):
    """The phantoms, when this run makes them: what reads them must wait for them."""
    return [f"{O}/phantom/index.parquet"] if cfg.phantom else []


def fetched_or_nothing(wildcards):
    """What says that a data set's root has been downloaded, when this run does that; once for each root."""
    root = cfg.datasets[wildcards.dataset].root
    names = [
        n for n, entry in cfg.datasets.items() if entry.fetch and entry.root == root
    ]
    return [f"{O}/datasets/{name}/source.json" for name in names[:1]]


def volumes_or_nothing(wildcards):
    """The corpus whose prepared volumes are a data set's root, if they are."""
    root = Path(cfg.datasets[wildcards.dataset].root)
    return [file for file in VOLUMES if Path(file).parent == root]


def own_lists(wildcards):
    """The user's own lists of cases that a data set is read with."""
    entry = cfg.datasets[wildcards.dataset]
    return [n for n in (entry.split, entry.exclude) if n and n.endswith(".csv")]


def corpus_index(wildcards):
    """The volumes that an encoder is pre-trained on."""
    return f"{O}/volumes/{cfg.pretrain[wildcards.encoder].corpus}/index.parquet"


def task_cases(wildcards):
    """The cases of a task's data set; the probe has the task named in its section."""
    task = getattr(wildcards, "task", None) or cfg.probe.task
    return f"{O}/datasets/{cfg.tasks[task].dataset}/cases.parquet"


def external_cases(wildcards):
    """The cases of the further data sets that a task is tested on."""
    return [
        f"{O}/datasets/{name}/cases.parquet"
        for name in cfg.tasks[wildcards.task].external
    ]


def chosen_checkpoint(wildcards):
    """The probe's choice, when checkpoints are probed."""
    return [f"{O}/probe/{wildcards.encoder}/selected.json"] if cfg.probe else []


def foreign_weights(wildcards):
    """The file or folder that an encoder's weights come from, unless they are random."""
    weights = cfg.encoders[wildcards.encoder].weights
    return [weights] if weights else []


def adaptations(task):
    """The (encoder, shots, seed) runs of a task, as file stems."""
    entry = cfg.tasks[task]
    return [
        f"{e}/{n}-{s}"
        for e in encoder_names(cfg, task)
        for n in entry.shots
        for s in entry.seeds
    ]


def published_folder(wildcards):
    """The folder of the paper's own tables."""
    if not cfg.report.published:
        raise WorkflowError(
            "report.published: name the folder of the tables published with the paper"
        )
    return cfg.report.published


def task_tables(wildcards):
    """The tables per case of all runs of a task."""
    return [
        f"{O}/evaluate/{wildcards.task}/{run}.parquet"
        for run in adaptations(wildcards.task)
    ]


# What later stages gather, over all entries of the configuration.
PLANS = [f"{O}/select/{corpus}/plan.json" for corpus in cfg.corpora]
VOLUMES = [f"{O}/volumes/{corpus}/index.parquet" for corpus in cfg.corpora]
EXPORTED = [
    f"{O}/encoders/{encoder}/model.safetensors"
    for encoder in [*cfg.pretrain, *cfg.encoders]
]
PROBED = cfg.datasets[cfg.tasks[cfg.probe.task].dataset].kind if cfg.probe else None
TEST_SETS = sorted(
    {
        f"{O}/datasets/{name}/cases.parquet"
        for task in cfg.tasks.values()
        for name in (task.dataset, *task.external)
        if cfg.datasets[name].kind == PROBED
    }
)
CHECKED = [f"{O}/probe/cases.json"] if cfg.probe else []
SCORES = [
    f"{O}/probe/{encoder}/scores.parquet" for encoder in cfg.pretrain if cfg.probe
]
EMBEDDED = [
    f"{O}/embed/{dataset}/{encoder}.parquet"
    for dataset, entry in cfg.embed.items()
    for encoder in entry.encoders or [*cfg.pretrain, *cfg.encoders]
]
METRICS = [
    f"{O}/evaluate/{task}/{run}.parquet"
    for task in cfg.tasks
    for run in adaptations(task)
]
SLICES = [
    f"{O}/slices/{task}/{run}.parquet"
    for task in cfg.tasks
    for run in adaptations(task)
]
SUMMARIES = [f"{O}/evaluate/{task}/summary.parquet" for task in cfg.tasks]
CASES = [f"{O}/datasets/{dataset}/cases.parquet" for dataset in cfg.datasets]
FUNNELS = [f"{O}/select/{corpus}/funnel.parquet" for corpus in cfg.corpora]
HISTORIES = [f"{O}/encoders/{encoder}/metrics.csv" for encoder in cfg.pretrain]
# Those that the published tables hold data for.
PUBLISHED_FIGURES = ["fig2", "ed1", "fig4", "fig6"]
FIGURES = [f"{O}/report/figures/{figure}.png" for figure in cfg.report.figures.ids]


if workflow.is_main_process:
    for sentence in provenance.stale(O):
        logger.warning(sentence)
