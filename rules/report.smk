rule draw_figure:
    """Draw one figure of the paper from tables alone."""
    input:
        summaries=SUMMARIES,
        metrics=METRICS,
        slices=SLICES,
        scores=SCORES,
        cases=CASES,
        pretraining=FUNNELS + HISTORIES,
    output:
        png=report(
            f"{O}/report/figures/{{figure}}.png",
            caption="../workflow/report/figure.rst",
            category="Figures",
        ),
        svg=f"{O}/report/figures/{{figure}}.svg",
        csv=f"{O}/report/figures/{{figure}}.csv",
    log:
        f"{O}/logs/figures/{{figure}}.log",
    benchmark:
        f"{O}/benchmarks/figures/{{figure}}.tsv"
    conda:
        "../envs/report.yaml"
    resources:
        mem_mb=more_each_try(2000),
        runtime=more_each_try(30),
    params:
        spec=spec_of("figures", code="report"),
        about=figure_text,
        results=subpath(output.png, ancestor=3),
        out=subpath(output.png, parent=True),
    shell:
        "python -m ctfm figures --spec {params.spec:q} --id {wildcards.figure} --results {params.results}"
        " --out {params.out} &> {log}"


rule write_report:
    """Write the self-contained page of everything that was run."""
    input:
        figures=FIGURES,
        summaries=SUMMARIES,
        encoders=EXPORTED,
        volumes=VOLUMES,
        plans=PLANS,
    output:
        page=report(
            f"{O}/report/report.html",
            caption="../workflow/report/report.rst",
            category="Report",
        ),
    log:
        f"{O}/logs/report.log",
    conda:
        "../envs/report.yaml"
    resources:
        mem_mb=more_each_try(2000),
        runtime=more_each_try(30),
    params:
        spec=spec_of("report", code="report"),
        results=subpath(output.page, ancestor=2),
    shell:
        "python -m ctfm report --spec {params.spec:q} --results {params.results} --out {output.page} &> {log}"
