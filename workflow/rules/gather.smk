localrules:
    gather,


rule gather:
    input:
        expand(RESULTS + "/runs/{run}/trajectory.nc", run=RUNS),
    output:
        RESULTS + "/results.nc",
    log:
        RESULTS + "/logs/gather.log",
    conda:
        "../../environment.yml"
    shell:
        "python -m wtkit gather {input} --experiment " + EXPERIMENT + " --output {output} 2>&1 | tee {log}"
