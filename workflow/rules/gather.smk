localrules:
    gather,


rule gather:
    input:
        expand(f"{RESULTS}/runs/{{run}}/trajectory.nc", run=RUNS),
    output:
        f"{RESULTS}/results.nc",
    log:
        f"{RESULTS}/logs/gather.log",
    conda:
        "../../environment.yml"
    params:
        experiment=EXPERIMENT,
    shell:
        "python -m wtkit gather {input} --experiment {params.experiment} --output {output} 2>&1 | tee {log}"
