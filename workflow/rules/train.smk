import shlex


rule train:
    output:
        "results/{experiment}/runs/{run}/trajectory.nc",
    log:
        "results/{experiment}/logs/train/{run}.log",
    conda:
        "../../environment.yml"
    # two runs side by side learn more a second than one run on two cores
    threads: 1
    params:
        # The command says what differs from the defaults; the revision says all settings, so that a run is trained
        # anew when a default changes, too. Checkpoints lie in the folder undeclared: Snakemake would delete them
        # before the second attempt that is to go on from them.
        arguments=lambda wildcards: shlex.join(run_of(wildcards).arguments()),
        revision=lambda wildcards: run_of(wildcards).revision,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m wtkit train {params.arguments} --output {params.folder:q} 2>&1 | tee {log:q}"
