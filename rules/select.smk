rule select_series:
    """Choose the CT series of a corpus from an index."""
    input:
        phantom=phantom_or_nothing,
        sql="resources/sql/select_index.sql",
        paper="resources/paper_collections.csv",
    output:
        series=f"{O}/select/{{corpus}}/series.parquet",
        funnel=f"{O}/select/{{corpus}}/funnel.parquet",
        collections=f"{O}/select/{{corpus}}/collections.parquet",
    log:
        f"{O}/logs/select/{{corpus}}.log",
    benchmark:
        f"{O}/benchmarks/select/{{corpus}}.tsv"
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=more_each_try(4000),
        runtime="30m",
    params:
        spec=spec_of("select", code="select"),
        out=subpath(output.series, parent=True),
    shell:
        "python -m ctfm select --spec {params.spec:q} --out {params.out} &> {log}"


rule plan_corpus:
    """Say what a corpus costs before anything is fetched; refuse when the disk is too small."""
    input:
        series=f"{O}/select/{{corpus}}/series.parquet",
    output:
        plan=f"{O}/select/{{corpus}}/plan.json",
    log:
        f"{O}/logs/plan/{{corpus}}.log",
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=more_each_try(1000),
        runtime="10m",
    params:
        spec=spec_of("plan", code="select"),
    shell:
        "python -m ctfm plan --spec {params.spec:q} --series {input.series} --out {output.plan} &> {log}"
