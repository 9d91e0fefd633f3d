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


def unwritable(paths):
    """The folders that these paths would be written in, or made in, and cannot be."""
    there = {next(folder for folder in Path(path).parents if folder.exists()) for path in paths}
    return sorted(f"{folder}/" for folder in there if not os.access(folder, os.W_OK | os.X_OK))


def needs(wildcards):
    """What a run asks of a cluster, estimates: MB of memory, minutes, processors a GPU.

    Nothing is held to it on this machine. A run whose time is over goes on from its checkpoint.
    """
    run = run_of(wildcards)
    about = data_set(run.data)
    if about.streams(run.image_size or about.image_size):
        return 64_000, 24 * 60, 1 + run.workers
    if about.image_size <= 32:
        return 8_000, 4 * 60, 2
    return 16_000, 12 * 60, 2
