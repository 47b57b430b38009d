rule export_encoder:
    """Write the chosen checkpoint of a pre-training run as weights that others can load."""
    input:
        pretrained=f"{O}/encoders/{{encoder}}/run.json",
        selected=chosen_checkpoint,
    output:
        weights=f"{O}/encoders/{{encoder}}/model.safetensors",
        config=f"{O}/encoders/{{encoder}}/config.json",
        preprocessing=f"{O}/encoders/{{encoder}}/preprocessing.json",
        card=f"{O}/encoders/{{encoder}}/README.md",
    log:
        f"{O}/logs/export/{{encoder}}.log",
    wildcard_constraints:
        encoder=one_of(cfg.pretrain),
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=more_each_try(4000),
        runtime=more_each_try(30),
    params:
        spec=spec_of("export"),
        out=subpath(output.weights, parent=True),
        selected="--selected" if cfg.probe else "",
    shell:
        "python -m ctfm export --spec {params.spec:q} --pretrained {params.out} {params.selected} {input.selected}"
        " --out {params.out} &> {log}"


rule import_encoder:
    """Write a random or foreign encoder in the same layout as our own."""
    input:
        foreign=foreign_weights,
    output:
        weights=f"{O}/encoders/{{encoder}}/model.safetensors",
        config=f"{O}/encoders/{{encoder}}/config.json",
        preprocessing=f"{O}/encoders/{{encoder}}/preprocessing.json",
        card=f"{O}/encoders/{{encoder}}/README.md",
    log:
        f"{O}/logs/export/{{encoder}}.log",
    wildcard_constraints:
        encoder=one_of(cfg.encoders),
    conda:
        "../envs/train.yaml"
    resources:
        mem_mb=more_each_try(4000),
        runtime=more_each_try(30),
    params:
        spec=spec_of("export"),
        out=subpath(output.weights, parent=True),
    shell:
        "python -m ctfm import-weights --spec {params.spec:q} --out {params.out} &> {log}"
