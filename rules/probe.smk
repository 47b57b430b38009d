rule check_selection:
    """Check that no patient whom the probe uses is in a test set; no summary is made otherwise."""
    input:
        cases=task_cases,
        tests=TEST_SETS,
    output:
        f"{O}/probe/cases.json",
    log:
        f"{O}/logs/probe/cases.log",
    benchmark:
        f"{O}/benchmarks/probe/cases.tsv"
    priority: 1
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=more_each_try(4000),
        runtime=more_each_try(10),
    params:
        spec=spec_of("probe-check"),
    shell:
        "python -m ctfm probe-check --spec {params.spec:q} --cases {input.cases} --out {output}"
        " {input.tests} &> {log}"


rule probe_checkpoints:
    """Score every checkpoint of a pre-training run by few-shot probing, and choose one."""
    input:
        pretrained=f"{O}/encoders/{{encoder}}/run.json",
        cases=task_cases,
    output:
        scores=f"{O}/probe/{{encoder}}/scores.parquet",
        values=f"{O}/probe/{{encoder}}/cases.parquet",
        selected=f"{O}/probe/{{encoder}}/selected.json",
        run=f"{O}/probe/{{encoder}}/run.json",
    log:
        f"{O}/logs/probe/{{encoder}}.log",
    benchmark:
        f"{O}/benchmarks/probe/{{encoder}}.tsv"
    wildcard_constraints:
        encoder=one_of(cfg.pretrain),
    retries: again(3)
    conda:
        "../envs/train.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=more_each_try(32000, most=2),
        runtime="1d",
    params:
        spec=spec_of("probe"),
        pretrained=subpath(input.pretrained, parent=True),
        out=subpath(output.run, parent=True),
    shell:
        "exec python -m ctfm probe --spec {params.spec:q} --pretrained {params.pretrained} --cases {input.cases}"
        " --out {params.out} &> {log}"
