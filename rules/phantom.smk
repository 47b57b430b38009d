rule write_phantoms:
    """Write synthetic CT: a DICOM corpus with an index, and labelled data sets."""
    output:
        index=f"{O}/phantom/index.parquet",
    log:
        f"{O}/logs/phantom.log",
    benchmark:
        f"{O}/benchmarks/phantom.tsv"
    conda:
        "../envs/data.yaml"
    resources:
        mem_mb=more_each_try(2000),
        runtime=more_each_try(30),
    params:
        spec=spec_of("phantom"),
        out=subpath(output.index, parent=True),
    shell:
        "python -m ctfm phantom --spec {params.spec:q} --out {params.out} &> {log}"
