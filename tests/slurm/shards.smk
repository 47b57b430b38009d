# Many shards that do nothing but tell when they ran, under the name and with the requests of the real ones.
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
    params:
        # The last one needs more than the first try has.
        needed=lambda wildcards: 3001 if int(wildcards.shard) == config["shards"] - 1 else 0,
    shell:
        "begin=$(date +%s.%N); sleep 0.1; test {resources.mem_mb} -ge {params.needed};"
        " echo $begin $(date +%s.%N) {resources.mem_mb} $SLURM_JOB_ID > {output}"
