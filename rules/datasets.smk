rule fetch_dataset:
    """Download a labelled data set whose source is open; the data go to its root, and a retry goes on."""
    output:
        source=f"{O}/datasets/{{dataset}}/source.json",
    log:
        f"{O}/logs/datasets/{{dataset}}.fetch.log",
    benchmark:
        f"{O}/benchmarks/datasets/{{dataset}}.fetch.tsv"
    retries: again(5)
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=more_each_try(2000),
        runtime="1d",
    params:
        spec=spec_of("datasets"),
        out=subpath(output.source, parent=True),
    shell:
        "python -m ctfm fetch-dataset --spec {params.spec:q} --out {params.out} &> {log}"


rule prepare_dataset:
    """Bring one labelled data set into the volume store."""
    input:
        phantom=phantom_or_nothing,
        source=fetched_or_nothing,
        volumes=volumes_or_nothing,
        lists=own_lists,
    output:
        cases=f"{O}/datasets/{{dataset}}/cases.parquet",
        run=f"{O}/datasets/{{dataset}}/run.json",
    log:
        f"{O}/logs/datasets/{{dataset}}.log",
    benchmark:
        f"{O}/benchmarks/datasets/{{dataset}}.tsv"
    retries: again(2)
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=more_each_try(6000),
        runtime=more_each_try(720),
    params:
        spec=spec_of("datasets"),
        out=subpath(output.cases, parent=True),
    shell:
        "python -m ctfm datasets --spec {params.spec:q} --out {params.out} &> {log}"
