import functools


def file_of(experiment):
    """The experiment's file: the one that was chosen by its path, or one of config/ or config/ablations/."""
    if experiment == EXPERIMENT and IS_FILE:
        return Path(CHOICE)
    ablation = BASE / "config" / "ablations" / f"{experiment}.yaml"
    return ablation if ablation.exists() else BASE / "config" / f"{experiment}.yaml"


@functools.cache
def runs_of(experiment):
    """The experiment's runs by name."""
    return {run.name: run for run in runs_of_file(file_of(experiment))}


def run_of(wildcards):
    return runs_of(wildcards.experiment)[known(wildcards.run, runs_of(wildcards.experiment), "run")]


def products_of(experiment, notebooks):
    """All that is made of an experiment by these notebooks."""
    results = f"results/{experiment}"
    yield f"{results}/results.nc"
    for notebook in notebooks:
        yield f"{results}/notebooks/{notebook}.html"
        for file in NOTEBOOKS[notebook].files:
            yield f"{results}/figures/{file}"
