import shlex


rule train:
    output:
        f"{RESULTS}/runs/{{run}}/trajectory.nc",
    log:
        f"{RESULTS}/logs/train/{{run}}.log",
    wildcard_constraints:
        run="|".join(RUNS),
    conda:
        "../../environment.yml"
    # two runs side by side learn more a second than one run on two cores
    threads: 1
    params:
        # The command says what differs from the defaults; the revision says all settings, so that a run is trained
        # anew when a default changes, too. Checkpoints lie in the folder undeclared: Snakemake would delete them
        # before the second attempt that is to go on from them.
        arguments=lambda wildcards: shlex.join(RUNS[wildcards.run].arguments()),
        revision=lambda wildcards: RUNS[wildcards.run].revision,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m wtkit train {params.arguments} --output {params.folder} 2>&1 | tee {log}"
