"""From an experiment file, or an ablation's, to its runs."""

from __future__ import annotations

from pathlib import Path

from ..errors import WtkitError
from .ablation import expand_ablation
from .content import Experiment
from .product import expand_product
from .reading import has_base, read_file
from .run import RunConfig
from .sense import check_sense


def expand(path: str | Path) -> list[RunConfig]:
    """The runs of an experiment file, or of an ablation, which is a file with a ``base``.

    **An experiment** is methods × networks × norm orders × seeds, with settings and overrides. The
    file is YAML with the keys ``methods`` (names, or ``name:variant``), ``networks`` (names, or
    ``name: {option: value}``), ``norm_orders``, ``seeds``, ``settings`` for all runs, and
    ``overrides``: a list of ``{match: …, set: …}``, applied in order to the runs that match. A
    network with options is matched by its :func:`network_name`. Norm orders are those of the
    ResNets; any other network is run once, in its own. An override sets settings, and may give the
    runs that match their own ``seeds``, or, if it does not itself match by norm order,
    ``norm_orders``. ``exclude`` is a list of matches whose runs are left out.

    **An ablation** names an experiment of the same folder, or of the one above, as its ``base``,
    and may change its ``methods``, ``networks``, ``norm_orders`` and ``seeds`` (none of the base's
    variants is in it unless named) and its ``settings``, and add ``overrides``. Each of these runs
    is made once a point of the ``sweep``: a mapping of settings or options, of the method, a ResNet
    or an ``mlp``, to lists of values, of which all combinations are taken; or once for each of the
    ``variants``: a mapping of names to settings and options. A point that names its ``network`` or
    ``norm_order`` is for that one instead of the ablation's. A run's variant says its point:
    ``lr=0.1,momentum=0``.

    Raises:
        WtkitError: naming file and key, for anything that is not so; for an override that matches
            no run, for two runs of one name, and for settings without effect; see
            :func:`wtkit.experiments.check_sense`.
    """
    path = Path(path)
    content = read_file(path)
    try:
        if has_base(content):
            runs = expand_ablation(content, path)
        else:
            runs = expand_product(Experiment.read(content))
        for run in runs:
            check_sense(run)
    except WtkitError as error:
        raise WtkitError(f"{path}: {error}") from None
    return runs
