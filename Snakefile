# The paper, from its networks to its figures:
#
#   train      every method on every network, one run a seed      results/<experiment>/runs/*/trajectory.nc
#   gather     all runs of an experiment in one data set          results/<experiment>/results.nc
#   notebooks  every figure and table, by an executed notebook    results/<experiment>/figures, …/notebooks
#
#   snakemake                                 the experiment config/digits.yaml
#   snakemake --config experiment=cifar10     another one
#   snakemake -n                              what would be done
import shlex
import sys
from pathlib import Path

from snakemake.utils import min_version

from wtkit.config import expand as runs_of
from wtkit.errors import WtkitError
from wtkit.settings import known

min_version("9.0")

BASE = Path(workflow.basedir)
CHOICE = config.get("experiment", "digits")
FILE = Path(CHOICE) if str(CHOICE).endswith(".yaml") else BASE / "config" / f"{CHOICE}.yaml"
EXPERIMENT = FILE.stem
RESULTS = f"results/{EXPERIMENT}"

try:
    for key in config:
        known(key, ["experiment"], "config key")
    RUNS = {run.name: run for run in runs_of(FILE)}
except WtkitError as error:
    sys.exit(f"wtkit: {error}")

# without an activated environment a shell would find another python
shell.prefix(f"set -euo pipefail; export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")


include: "workflow/rules/train.smk"
include: "workflow/rules/gather.smk"
include: "workflow/rules/notebooks.smk"


rule all:
    default_target: True
    input:
        f"{RESULTS}/results.nc",
        FIGURES,
        NOTEBOOK_PAGES,


onsuccess:
    print(f"Figures and tables: {RESULTS}/figures   executed notebooks: {RESULTS}/notebooks")


onerror:
    print(f"Not all runs ended; their logs are in {RESULTS}/logs. What is done stays; the same command goes on.")
