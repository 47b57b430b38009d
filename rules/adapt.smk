rule adapt_encoder:
    """Fine-tune one encoder on a task and predict the test cases; resumes by itself."""
    input:
        weights=f"{O}/encoders/{{encoder}}/model.safetensors",
        cases=task_cases,
        external=external_cases,
    output:
        run=f"{O}/adapt/{{task}}/{{encoder}}/{{shots}}-{{seed}}/run.json",
    log:
        f"{O}/logs/adapt/{{task}}/{{encoder}}/{{shots}}-{{seed}}.log",
    benchmark:
        f"{O}/benchmarks/adapt/{{task}}/{{encoder}}/{{shots}}-{{seed}}.tsv"
    retries: again(3)
    conda:
        "../envs/train.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=more_each_try(48000, most=2),
        runtime="2d",
    params:
        spec=spec_of("adapt"),
        encoder=subpath(input.weights, parent=True),
        out=subpath(output.run, parent=True),
    shell:
        "exec python -m ctfm adapt --spec {params.spec:q} --encoder {params.encoder} --cases {input.cases}"
        " --out {params.out} {input.external} &> {log}"
