rule embed_dataset:
    """Turn every scan of a data set into frozen features of one encoder."""
    input:
        weights=f"{O}/encoders/{{encoder}}/model.safetensors",
        cases=f"{O}/datasets/{{dataset}}/cases.parquet",
    output:
        table=f"{O}/embed/{{dataset}}/{{encoder}}.parquet",
        failures=f"{O}/embed/{{dataset}}/{{encoder}}.failures.parquet",
        run=f"{O}/embed/{{dataset}}/{{encoder}}.run.json",
    log:
        f"{O}/logs/embed/{{dataset}}/{{encoder}}.log",
    benchmark:
        f"{O}/benchmarks/embed/{{dataset}}/{{encoder}}.tsv"
    conda:
        "../envs/train.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=more_each_try(12000),
        runtime="1d",
    params:
        spec=spec_of("embed"),
        encoder=subpath(input.weights, parent=True),
    shell:
        "python -m ctfm embed --spec {params.spec:q} --encoder {params.encoder} --cases {input.cases}"
        " --out {output.table} &> {log}"
