# notebook: (whether it reads the results, what it draws or writes, where the report shows it)
NOTEBOOKS = {
    "fig1_weight_mirror": (False, ["fig1_weight_mirror.svg", "fig1_weight_mirror.png"], "Circuits"),
    "fig2_kolen_pollack": (False, ["fig2_kolen_pollack.svg", "fig2_kolen_pollack.png"], "Circuits"),
    "fig3_test_error": (True, ["fig3_test_error.svg", "fig3_test_error.png"], "Results"),
    "fig4_angles": (True, ["fig4_angles.svg", "fig4_angles.png"], "Results"),
    "fig_d3_norm_order": (True, ["fig_d3_norm_order.svg", "fig_d3_norm_order.png"], "Results"),
    "table1_errors": (True, ["table1_errors.html", "table1_errors.csv", "table1_errors.tex"], "Results"),
    "claims": (True, ["claims.html", "claims.csv"], "Claims"),
}
FIGURES = [f"{RESULTS}/figures/{file}" for _, files, _ in NOTEBOOKS.values() for file in files]
# what a notebook shows is computed and drawn here
DRAWN_BY = [BASE / "wtkit" / f"{module}.py" for module in ("paper", "plotting", "circuits")]
NOTEBOOK_PAGES = [f"{RESULTS}/notebooks/{name}.html" for name in NOTEBOOKS]


for notebook, (reads_results, files, category) in NOTEBOOKS.items():

    rule:
        name:
            notebook
        input:
            script=workflow.source_path("../scripts/execute.py"),
            notebook=workflow.source_path(f"../../notebooks/{notebook}.ipynb"),
            results=[f"{RESULTS}/results.nc"] if reads_results else [],
            drawn_by=DRAWN_BY,
        output:
            report(
                [f"{RESULTS}/figures/{file}" for file in files if not file.endswith(".tex")],
                category=category,
                labels={"notebook": notebook},
            ),
            *[f"{RESULTS}/figures/{file}" for file in files if file.endswith(".tex")],
            notebook=f"{RESULTS}/notebooks/{notebook}.ipynb",
            page=report(
                f"{RESULTS}/notebooks/{notebook}.html",
                category="Executed notebooks",
                labels={"notebook": notebook},
            ),
        log:
            # executed here, and moved when it is whole: a notebook that failed stays, with its traceback
            notebook=f"{RESULTS}/logs/notebooks/{notebook}.ipynb",
            text=f"{RESULTS}/logs/notebooks/{notebook}.log",
        localrule: True
        conda:
            "../../environment.yml"
        params:
            given=lambda wildcards, input: " ".join(f"results={path}" for path in input.results),
            figures=subpath(output[0], parent=True),
        shell:
            "python {input.script:q} {input.notebook:q} {log.notebook} {params.given} figures={params.figures}"
            " > {log.text} 2>&1"
            " && cp {log.notebook} {output.notebook}"
            " && jupyter nbconvert --log-level WARN --to html --output-dir $(dirname {output.page})"
            " {output.notebook} >> {log.text} 2>&1"
