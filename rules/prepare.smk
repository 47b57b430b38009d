rule prepare_shard:
    """Download, check, convert and resample the series of one shard; resumes by itself."""
    input:
        series=f"{O}/select/{{corpus}}/series.parquet",
    output:
        index=f"{O}/volumes/{{corpus}}/shard={{shard}}/index.parquet",
        checks=f"{O}/volumes/{{corpus}}/shard={{shard}}/cross_checks.parquet",
    log:
        f"{O}/logs/prepare/{{corpus}}/{{shard}}.log",
    benchmark:
        f"{O}/benchmarks/prepare/{{corpus}}/{{shard}}.tsv"
    retries: again(2)
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=more_each_try(3000),
        runtime=more_each_try(120),
        downloads=1,
    params:
        spec=spec_of("prepare"),
        out=subpath(output.index, ancestor=2),
    shell:
        "python -m ctfm prepare --spec {params.spec:q} --series {input.series} --shard {wildcards.shard}"
        " --out {params.out} &> {log}"


rule prepare_corpus:
    """Join the tables of all shards and draw the quality page."""
    input:
        shards=shard_indexes,
        funnel=f"{O}/select/{{corpus}}/funnel.parquet",
    output:
        index=f"{O}/volumes/{{corpus}}/index.parquet",
        checks=f"{O}/volumes/{{corpus}}/cross_checks.parquet",
        funnel=f"{O}/volumes/{{corpus}}/funnel.parquet",
        quality=f"{O}/volumes/{{corpus}}/quality.html",
        run=f"{O}/volumes/{{corpus}}/run.json",
    log:
        f"{O}/logs/prepare/{{corpus}}.log",
    benchmark:
        f"{O}/benchmarks/prepare/{{corpus}}.tsv"
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=more_each_try(4000),
        runtime=more_each_try(60),
    params:
        spec=spec_of("prepare"),
        shards=shard_count,
        out=subpath(output.index, parent=True),
    shell:
        "python -m ctfm prepare-index --spec {params.spec:q} --selected {input.funnel} --shards {params.shards}"
        " --out {params.out} &> {log}"
