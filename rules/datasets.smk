rule prepare_dataset:
    """Bring one labelled data set into the volume store."""
    input:
        phantom=phantom_or_nothing,
    output:
        cases=f"{O}/datasets/{{dataset}}/cases.parquet",
        run=f"{O}/datasets/{{dataset}}/run.json",
    log:
        f"{O}/logs/datasets/{{dataset}}.log",
    benchmark:
        f"{O}/benchmarks/datasets/{{dataset}}.tsv"
    retries: 2
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=more_each_try(6000),
        runtime="12h",
    params:
        spec=spec_of("datasets"),
        out=subpath(output.cases, parent=True),
    shell:
        "python -m ctfm datasets --spec {params.spec:q} --out {params.out} &> {log}"
