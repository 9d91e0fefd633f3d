import shlex
import signal

from wtkit.processes import gpus

# Where a job is warned of its end by USR1, all its processes get it, this one too: only runs act on it.
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
    if (
        at_a_time
    ):  # or Snakemake would start more runs than there is room for, to wait for each other
        workflow.register_resource("gpu", at_a_time)


rule train:
    input:
        ancient(UNPACKED),
    output:
        "results/{experiment}/runs/{run}/trajectory.nc",
    log:
        "results/{experiment}/logs/train/{run}.log",
    conda:
        "../../environment.yml"
    # two runs side by side learn more a second than one run on two cores
    threads: 1
    resources:
        gpu=1,  # several: --set-resources train:gpu=8, a process on each; a machine without any takes its processor
        mem_mb=lambda wildcards: needs(wildcards)[0],
        runtime=lambda wildcards: needs(wildcards)[1],
        cpus_per_gpu=lambda wildcards: needs(wildcards)[2],
    params:
        # The command says what differs from the defaults; the revision says all settings, so that a run is trained
        # anew when a default changes, too. Checkpoints lie in the folder undeclared: Snakemake would delete them
        # before the second attempt that is to go on from them.
        arguments=lambda wildcards: shlex.join(run_of(wildcards).arguments()),
        revision=lambda wildcards: run_of(wildcards).revision,
        folder=subpath(output[0], parent=True),
    shell:
        "logged {log:q} python -m wtkit.processes {resources.gpu} -m wtkit train {params.arguments} --output {params.folder:q}"
