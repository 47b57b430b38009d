rule import_published:
    """Bring the tables that were published with the paper into tables of results."""
    input:
        folder=published_folder,
    output:
        record=f"{O}/published_tables/published.json",
    log:
        f"{O}/logs/import_published.log",
    conda:
        "../envs/report.yaml"
    resources:
        mem_mb=more_each_try(2000),
        runtime=more_each_try(10),
    params:
        code=provenance.code_digest("import_published"),
        out=subpath(output.record, parent=True),
    shell:
        "python -m ctfm import-published {input.folder} --out {params.out} &> {log}"


rule draw_published:
    """Draw a figure from the tables that were published with the paper."""
    input:
        record=f"{O}/published_tables/published.json",
    output:
        png=f"{O}/published_tables/report/figures/{{figure}}.png",
        svg=f"{O}/published_tables/report/figures/{{figure}}.svg",
        csv=f"{O}/published_tables/report/figures/{{figure}}.csv",
    log:
        f"{O}/logs/figures/published_{{figure}}.log",
    wildcard_constraints:
        figure="|".join(PUBLISHED_FIGURES),
    conda:
        "../envs/report.yaml"
    resources:
        mem_mb=more_each_try(2000),
        runtime=more_each_try(30),
    params:
        spec=spec_of("figures", code="report"),
        results=subpath(output.png, ancestor=3),
        out=subpath(output.png, parent=True),
    shell:
        "python -m ctfm figures --spec {params.spec:q} --id {wildcards.figure} --results {params.results}"
        " --out {params.out} &> {log}"
