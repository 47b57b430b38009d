rule pretrain_encoder:
    """Train one encoder without labels; its checkpoints are undeclared, so a failed job keeps them."""
    input:
        volumes=corpus_index,
    output:
        run=f"{O}/encoders/{{encoder}}/run.json",
        metrics=f"{O}/encoders/{{encoder}}/metrics.csv",
    log:
        f"{O}/logs/pretrain/{{encoder}}.log",
    benchmark:
        f"{O}/benchmarks/pretrain/{{encoder}}.tsv"
    wildcard_constraints:
        encoder=one_of(cfg.pretrain),
    retries: again(10)
    conda:
        "../envs/train.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=more_each_try(32000, most=2),
        runtime="2d",
        launcher="env",
    params:
        spec=spec_of("pretrain"),
        out=subpath(output.run, parent=True),
    shell:
        "exec {resources.launcher} python -m ctfm pretrain --spec {params.spec:q} --volumes {input.volumes}"
        " --out {params.out} &> {log}"
