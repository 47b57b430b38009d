# Many shards under the name and with the requests of the real one; tests/slurm/stub.sh does their work.
rule all:
    input:
        expand("shards/{n:05d}", n=range(config["shards"])),


rule prepare_shard:
    output:
        "shards/{shard}",
    retries: 2
    resources:
        mem_mb=lambda wildcards, attempt: 3000 * attempt,
        runtime=10,
        downloads=1,
    shell:
        "exit 1"
