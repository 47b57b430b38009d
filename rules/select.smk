rule fetch_index:
    """Fetch the index tables of the releases that a corpus names, once for this machine."""
    output:
        record=f"{O}/select/{{corpus}}/index.json",
    log:
        f"{O}/logs/select/{{corpus}}-index.log",
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=more_each_try(1000),
        runtime=more_each_try(30),
        downloads=1,
    params:
        spec=spec_of("select"),
        facts=digest_of("idc_index_data.csv"),
    shell:
        "python -m ctfm fetch-index --spec {params.spec:q} --out {output.record} &> {log}"


rule select_series:
    """Choose the CT series of a corpus from an index."""
    input:
        phantom=phantom_or_nothing,
        index=f"{O}/select/{{corpus}}/index.json",
    output:
        series=f"{O}/select/{{corpus}}/series.parquet",
        funnel=f"{O}/select/{{corpus}}/funnel.parquet",
        collections=f"{O}/select/{{corpus}}/collections.parquet",
        licenses=f"{O}/select/{{corpus}}/licenses.parquet",
        overlap=f"{O}/select/{{corpus}}/overlap.parquet",
        attribution=f"{O}/select/{{corpus}}/attribution.md",
    log:
        f"{O}/logs/select/{{corpus}}.log",
    benchmark:
        f"{O}/benchmarks/select/{{corpus}}.tsv"
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=more_each_try(4000),
        runtime=more_each_try(30),
    params:
        spec=spec_of("select", code="select"),
        facts=digest_of(
            "sql/select_index.sql",
            "sql/idc_releases.sql",
            "sql/geometry_index.sql",
            "sql/select_ct.sql",
            "paper_collections.csv",
            "downstream.csv",
        ),
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
        "../envs/train.yaml"
    resources:
        mem_mb=more_each_try(1000),
        runtime=more_each_try(10),
    params:
        spec=spec_of("plan", code="select"),
    shell:
        "python -m ctfm plan --spec {params.spec:q} --series {input.series} --out {output.plan} &> {log}"
