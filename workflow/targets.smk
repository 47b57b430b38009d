# What can be asked for by name: `snakemake prepare`, `snakemake figures`, ... These rules do no work.
GOALS = {
    "phantom": [f"{O}/phantom/index.parquet"] if cfg.phantom else [],
    "select": PLANS,
    "prepare": VOLUMES
    + [
        f"{O}/volumes/{corpus}/shard={shard:05d}/index.parquet"
        for corpus, entry in cfg.corpora.items()
        for shard in range(entry.shards)
    ],
    "datasets": [f"{O}/datasets/{dataset}/cases.parquet" for dataset in cfg.datasets],
    "pretrain": [f"{O}/encoders/{encoder}/run.json" for encoder in cfg.pretrain],
    "probe": SCORES,
    "export": EXPORTED,
    "embed": EMBEDDED,
    "ablations": SCORES + [file for file in FIGURES if "ed6" in file],
    "adapt": [
        f"{O}/adapt/{task}/{run}/run.json"
        for task in cfg.tasks
        for run in adaptations(task)
    ],
    "evaluate": SUMMARIES + SLICES,
    "figures": FIGURES,
    "published": [
        f"{O}/published_tables/report/figures/{figure}.png"
        for figure in PUBLISHED_FIGURES
        if cfg.report.published
    ],
    "report": [f"{O}/report/report.html"],
}
# Every table and weight is a goal of its own: if one is deleted, `snakemake all` makes it again.
GOALS["all"] = [file for stage in GOALS for file in GOALS[stage]]


for goal, files in list(GOALS.items()):
    if goal != "all":

        rule:
            name:
                goal
            input:
                files,


# On a cluster these run where Snakemake does: they take seconds, and the first one needs the network.
localrules:
    fetch_index,
    plan_corpus,
    draw_figure,
    draw_published,
    import_published,
    write_report,
