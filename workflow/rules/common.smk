import functools
import re

from snakemake.cli import parse_config


def chosen_experiment(value):
    """The experiment that the command line names.

    Snakemake reads some names as numbers or truth values, such as 0 and 010. Then the file whose
    name it reads in the same way is meant.
    """
    if value is None:
        return "digits"
    if value == "":
        raise WtkitError(
            "config key 'experiment': expected a name, got an empty text; leave it out for digits"
        )
    if isinstance(value, str):
        return value
    names = [
        path.stem
        for folder in ("config", "config/ablations")
        for path in sorted((BASE / folder).glob("*.yaml"))
    ]
    meant = [
        name
        for name in names
        if repr(parse_config([f"experiment={name}"])["experiment"]) == repr(value)
    ]
    if len(meant) == 1:
        return meant[0]
    raise WtkitError(
        f"config key 'experiment': expected a name, but Snakemake reads {value!r}, which "
        f"{len(meant) or 'no'} files of config/ are called; name the file, experiment=config/NAME.yaml"
    )


def checked_name(experiment):
    """The name of an experiment, which becomes that of a folder in results/."""
    if not re.fullmatch(r"[\w+=,-][\w+=,. -]*", experiment):
        raise WtkitError(
            f"experiment {experiment!r}: its results go to a folder of this name, so expected letters, "
            "digits and _+=,.- only; rename the file"
        )
    return experiment


def file_of(experiment):
    """The experiment's file: the path in config, or a file of config/ or config/ablations/."""
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
    """The products of an experiment and these notebooks."""
    yield f"results/{experiment}/results.nc"
    for notebook in notebooks:
        folder = NOTEBOOKS[notebook].folder.format(experiment=experiment)
        yield f"{folder}/notebooks/{notebook}.html"
        for file in NOTEBOOKS[notebook].files:
            yield f"{folder}/figures/{file}"


def unwritable(paths):
    """The existing folders of these paths that are not writable."""
    there = {next(folder for folder in Path(path).parents if folder.exists()) for path in paths}
    return sorted(f"{folder}/" for folder in there if not os.access(folder, os.W_OK | os.X_OK))


def forced(job):
    """Whether the command line asks for this job again: by -F, -f, or -R with its rule or its file."""
    settings = workflow.dag_settings
    named = set(map(str, settings.forcerun))
    if settings.forcetargets:
        named |= set(map(str, settings.targets))
    return settings.forceall or bool(named & {job.rule.name, *map(str, job.output)})


def needs(wildcards):
    """What a run requests from a cluster, by estimate: MB of memory, minutes, CPUs per GPU.

    On this machine it limits nothing. A run that exceeds its time continues from its checkpoint.
    """
    run = run_of(wildcards)
    about = data_set(run.data)
    if about.streams(run.image_size or about.image_size):
        return 64_000, 24 * 60, 1 + run.workers
    if about.image_size <= 32:
        return 8_000, 4 * 60, 2
    return 16_000, 12 * 60, 2
