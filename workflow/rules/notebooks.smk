import functools
import hashlib
import json
import shlex
from typing import NamedTuple


class Notebook(NamedTuple):
    files: list[str]  # its figures and tables
    category: str  # its section of the report
    folder: str = "results/{experiment}"  # where its products go
    reads_results: bool = True


def once(notebook):
    """A notebook that reads no results: it is executed once, and its products belong to no experiment."""
    return Notebook(
        [f"{notebook}.svg", f"{notebook}.png"], "Circuits", "results/circuits", reads_results=False
    )


@functools.cache
def content_of(notebook):
    """A digest of a notebook's cells without their outputs, which JupyterLab saves in the file."""
    cells = json.loads((BASE / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))[
        "cells"
    ]
    kept = [
        (cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags")) for cell in cells
    ]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]


def labels_of(file, described):
    """What tells a file apart in the report."""
    name, _, kind = file.rpartition(".")
    experiment = "{experiment}" if described.reads_results else "any"
    return {"experiment": experiment, "name": name, "format": kind}


OF_EXPERIMENTS = {
    "fig1_weight_mirror": once("fig1_weight_mirror"),
    "fig2_kolen_pollack": once("fig2_kolen_pollack"),
    "fig3_test_error": Notebook(["fig3_test_error.svg", "fig3_test_error.png"], "Results"),
    "fig4_angles": Notebook(["fig4_angles.svg", "fig4_angles.png"], "Results"),
    "fig_d3_norm_order": Notebook(["fig_d3_norm_order.svg", "fig_d3_norm_order.png"], "Results"),
    "table1_errors": Notebook(
        ["table1_errors.html", "table1_errors.csv", "table1_errors.tex"], "Results"
    ),
    "claims": Notebook(["claims.html", "claims.csv"], "Claims"),
}
OF_ABLATIONS = {
    "ablation": Notebook(
        [
            "ablation.svg",
            "ablation.png",
            "ablation_epochs.svg",
            "ablation_epochs.png",
            "ablation_predicted.svg",
            "ablation_predicted.png",
            "ablation.csv",
        ],
        "Ablations",
    )
}
NOTEBOOKS = OF_EXPERIMENTS | OF_ABLATIONS
# the code that computes and draws what the notebooks show
DRAWN_BY = [
    local(BASE / "wtkit" / "anchors.csv"),
    *(
        local(path)
        for room in ("figures", "claims", "plan", "results")
        for path in sorted((BASE / "wtkit" / room).glob("*.py"))
    ),
]


for notebook, described in NOTEBOOKS.items():

    rule:
        name:
            notebook
        input:
            # local: not on object storage, unlike results
            script=local(workflow.source_path("../scripts/execute.py")),
            # ancient: a notebook that is saved with outputs is not executed again; params.content is its code
            notebook=ancient(local(workflow.source_path(f"../../notebooks/{notebook}.ipynb"))),
            results=["results/{experiment}/results.nc"] if described.reads_results else [],
            drawn_by=DRAWN_BY,
        output:
            # each with labels of its own: the report lists one file for each set of labels
            *[
                report(
                    f"{described.folder}/figures/{file}",
                    category=described.category,
                    caption="../report/notebook.rst",
                    labels=labels_of(file, described),
                )
                for file in described.files
                if not file.endswith(".tex")
            ],
            *[
                f"{described.folder}/figures/{file}"
                for file in described.files
                if file.endswith(".tex")
            ],
            notebook=f"{described.folder}/notebooks/{notebook}.ipynb",
            page=report(
                f"{described.folder}/notebooks/{notebook}.html",
                category="Executed notebooks",
                caption="../report/notebook.rst",
                labels=labels_of(f"{notebook}.html", described),
            ),
        log:
            f"{described.folder}/logs/notebooks/{notebook}.log",
        localrule: True
        conda:
            "../../environment.yml"
        params:
            content=content_of(notebook),
            given=lambda wildcards, input: " ".join(
                shlex.quote(f"results={path}") for path in input.results
            ),
            figures=subpath(output[0], parent=True),
            # executed here, then copied: a notebook that failed stays, with its traceback. Not a log, since
            # Snakemake prints the logs of failed jobs
            executed=f"{described.folder}/logs/notebooks/{notebook}.ipynb",
        shell:
            "python {input.script:q} {input.notebook:q} {params.executed:q} --html {output.page:q}"
            " {params.given} figures={params.figures:q} > {log:q} 2>&1"
            " && cp {params.executed:q} {output.notebook:q}"
