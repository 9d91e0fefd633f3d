localrules:
    gather,


rule gather:
    input:
        lambda wildcards: [
            f"results/{wildcards.experiment}/runs/{run}/trajectory.nc"
            for run in runs_of(wildcards.experiment)
        ],
    output:
        "results/{experiment}/results.nc",
    log:
        "results/{experiment}/logs/gather.log",
    conda:
        "../../environment.yml"
    shell:
        "logged {log:q} python -m wtkit gather {input:q} --experiment {wildcards.experiment:q} --output {output:q}"
