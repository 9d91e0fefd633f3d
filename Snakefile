# The paper, from its networks to its figures:
#
#   train      every method on every network, one run per seed    results/<experiment>/runs/*/trajectory.nc
#   gather     all runs of an experiment in one file              results/<experiment>/results.nc
#   notebooks  every figure and table, from executed notebooks    results/<experiment>/figures, …/notebooks
#              Figs. 1 and 2, once for all experiments            results/circuits/figures, …/notebooks
#
#   snakemake                                 the experiment config/digits.yaml
#   snakemake --config experiment=cifar10     another one
#   snakemake kp_decay                        an ablation, config/ablations/kp_decay.yaml
#   snakemake ablations                       all of them
#   snakemake -n                              the plan, without running it
#   snakemake --config runs_per_gpu=4         several runs at a time on each GPU
#   snakemake --workflow-profile slurm        on a cluster, docs/howto/cluster.md
import os
import shlex
import sys
from pathlib import Path

from snakemake.utils import min_version

from wtkit.data_sets import data_set
from wtkit.experiments import expand as runs_of_file
from wtkit.experiments import is_ablation
from wtkit.errors import WtkitError
from wtkit.validation import known

min_version("9.0")

BASE = Path(workflow.basedir)
ABLATIONS = sorted(path.stem for path in (BASE / "config" / "ablations").glob("*.yaml"))

# without an activated environment a shell finds another python
PROGRAMS, LOGGED = Path(sys.executable).parent, BASE / "workflow" / "scripts" / "logged.sh"
shell.prefix(
    f"set -euo pipefail; export PATH={shlex.quote(str(PROGRAMS))}:$PATH; . {shlex.quote(str(LOGGED))}; "
)


if not os.access(".", os.W_OK):
    sys.exit(
        f"wtkit: cannot write to {Path.cwd()}, where Snakemake keeps its records; choose another folder with --directory"
    )


report: "workflow/report/landing.rst"


include: "workflow/rules/common.smk"


try:
    for key in config:
        known(key, ["experiment", "runs_per_gpu", "archive"], "config key")
    CHOICE = chosen_experiment(config.get("experiment"))
    IS_FILE = CHOICE.endswith((".yaml", ".yml"))
    EXPERIMENT = checked_name(Path(CHOICE).stem if IS_FILE else CHOICE)
except WtkitError as error:
    sys.exit(f"wtkit: {error}")


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/gather.smk"
include: "workflow/rules/notebooks.smk"


try:
    runs_of(EXPERIMENT)
    CHOSEN = list(
        products_of(
            EXPERIMENT, OF_ABLATIONS if is_ablation(file_of(EXPERIMENT)) else OF_EXPERIMENTS
        )
    )
except WtkitError as error:
    sys.exit(f"wtkit: {error}")


rule all:
    default_target: True
    input:
        CHOSEN,


rule ablations:
    input:
        [list(products_of(name, OF_ABLATIONS)) for name in ABLATIONS],


for ablation in ABLATIONS:

    rule:
        name:
            ablation
        input:
            list(products_of(ablation, OF_ABLATIONS)),


onstart:  # not in a dry run, and not if there is nothing to do
    jobs = list(workflow.dag.needrun_jobs())
    blocked = unwritable(
        path for job in jobs for path in [*job.output, *job.log, *filter(None, [job.benchmark])]
    )
    if blocked:
        sys.exit(
            f"wtkit: cannot write to {', '.join(blocked)}; change that (chmod u+w), or choose another working folder "
            f"with --directory. Nothing was changed"
        )
    for job in jobs:
        if job.rule.name == "train" and forced(job):
            Path(job.params.folder, "finished.nc").unlink(missing_ok=True)


onsuccess:
    print(
        "Figures and tables: results/<experiment>/figures   executed notebooks: results/<experiment>/notebooks\n"
        "Figs. 1 and 2: results/circuits"
    )


onerror:
    print(
        "Not all jobs succeeded; logs are in results/<experiment>/logs. Finished jobs stay; the same command continues."
    )
