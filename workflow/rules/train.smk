import shlex
import signal

from wtkit.processes import gpus

# If a cluster sends USR1 before a job's end, all processes of the job receive it, also this one; only runs react.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

try:
    if "runs_per_gpu" in config:
        os.environ[gpus.RUNS_PER_GPU] = str(
            gpus.number_of_runs(config["runs_per_gpu"], "config key 'runs_per_gpu'")
        )
    slots = gpus.slots()
except WtkitError as error:
    sys.exit(f"wtkit: {error}")
if workflow.is_main_process and workflow.nodes is None and "gpu" not in workflow.global_resources:
    at_a_time = len(gpus.devices()) * slots
    if at_a_time:  # otherwise Snakemake starts more runs than fit, and they wait for each other
        workflow.register_resource("gpu", at_a_time)


rule train:
    input:
        ancient(UNPACKED),
    output:
        "results/{experiment}/runs/{run}/trajectory.nc",
    log:
        "results/{experiment}/logs/train/{run}.log",
    benchmark:
        "results/{experiment}/benchmarks/{run}.tsv"
    conda:
        "../../environment.yml"
    # two parallel runs process more images per second than one run on two cores
    threads: 1
    resources:
        gpu=1,  # several: --set-resources train:gpu=8, one process on each; without GPUs a run uses the CPU
        mem_mb=lambda wildcards: needs(wildcards)[0],
        runtime=lambda wildcards: needs(wildcards)[1],
        cpus_per_gpu=lambda wildcards: needs(wildcards)[2],
    params:
        # The command has the settings that differ from the defaults. The revision has all of them: if a default
        # changes, the run is trained again. The checkpoint and finished.nc are not outputs, since Snakemake deletes
        # outputs before it repeats a job.
        arguments=lambda wildcards: shlex.join(run_of(wildcards).arguments()),
        revision=lambda wildcards: run_of(wildcards).revision,
        folder=subpath(output[0], parent=True),
    shell:
        "logged {log:q} python -m wtkit.processes {resources.gpu} -m wtkit train {params.arguments} --output {params.folder:q}"
