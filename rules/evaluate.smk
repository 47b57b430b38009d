rule evaluate_cases:
    """Measure the predictions of one adapted encoder, case by case."""
    input:
        adapted=f"{O}/adapt/{{task}}/{{encoder}}/{{shots}}-{{seed}}/run.json",
        cases=task_cases,
        external=external_cases,
    output:
        table=f"{O}/evaluate/{{task}}/{{encoder}}/{{shots}}-{{seed}}.parquet",
        slices=f"{O}/slices/{{task}}/{{encoder}}/{{shots}}-{{seed}}.parquet",
    log:
        f"{O}/logs/evaluate/{{task}}/{{encoder}}/{{shots}}-{{seed}}.log",
    benchmark:
        f"{O}/benchmarks/evaluate/{{task}}/{{encoder}}/{{shots}}-{{seed}}.tsv"
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=more_each_try(4000),
        runtime=more_each_try(60),
    params:
        spec=spec_of("evaluate", code="evaluate"),
        adapted=subpath(input.adapted, parent=True),
    shell:
        "python -m ctfm evaluate --spec {params.spec:q} --cases {input.cases} --adapted {params.adapted}"
        " --out {output.table} --slices {output.slices} {input.external} &> {log}"


rule summarise_task:
    """Give estimates and intervals over all encoders and settings of a task."""
    input:
        tables=task_tables,
        checked=CHECKED,
    output:
        summary=f"{O}/evaluate/{{task}}/summary.parquet",
    log:
        f"{O}/logs/summary/{{task}}.log",
    benchmark:
        f"{O}/benchmarks/summary/{{task}}.tsv"
    conda:
        "../envs/report.yaml"
    resources:
        mem_mb=more_each_try(4000),
        runtime=more_each_try(60),
    params:
        spec=spec_of("summary", code="evaluate"),
        facts=digest_of("paper.csv"),
    shell:
        "python -m ctfm summary --spec {params.spec:q} --out {output.summary} {input.tables} &> {log}"
