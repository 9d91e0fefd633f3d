"""Execute a notebook with papermill: execute.py INPUT OUTPUT [--html PAGE] [PARAMETER=VALUE …].

Unlike papermill's command line, an unknown parameter is an error rather than a log message, and the
kernel is that of this environment, reached without opening a port. The page is made in the same
process: starting another one takes longer than the conversion.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")

import yaml

try:
    import nbformat
    import papermill
    from jinja2 import DictLoader, pass_context
    from jupyter_client.manager import AsyncKernelManager
    from math_core import LatexError, LatexToMathML
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
except ModuleNotFoundError as error:
    sys.exit(f"execute.py: {error.name} is not installed; pip install 'wtkit[pipeline]'")


# what a Unix socket's path may have, less the names of a folder in it and of the kernel's sockets
LONGEST_FOLDER = 65


def socket_folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder whose sockets have a path that the system takes, even where TMPDIR is long."""
    is_long = len(os.fsencode(tempfile.gettempdir())) > LONGEST_FOLDER
    return tempfile.TemporaryDirectory(prefix="kernel", dir="/tmp" if is_long else None)


def parameters_of(source: str) -> set[str]:
    """The names in the cell tagged 'parameters'. papermill's own function needs kernel metadata,
    which notebooks of other tools may lack: they are Python here."""
    notebook = nbformat.read(source, as_version=4)
    notebook.metadata.kernelspec = {
        "name": "python3", "display_name": "Python 3", "language": "python"
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "notebook.ipynb")
        nbformat.write(notebook, copy)
        return set(papermill.inspect_notebook(copy))


class PrivateKernel(AsyncKernelManager):
    """Reached through socket files in a folder of its own, so that concurrent kernels do not
    collide."""

    _folder = socket_folder()

    def _transport_default(self):
        return "ipc"

    def _ip_default(self):
        return os.path.join(self._folder.name, "socket")


class MathMLRenderer(IPythonRenderer):
    """Markdown whose equations are MathML, which browsers show without a script."""

    _converter = LatexToMathML(annotation=False, fancy_error=False)

    def _mathml(self, latex: str, display: bool) -> str:
        try:
            return self._converter.convert_with_local_state(latex, displaystyle=display)
        except LatexError:  # unknown LaTeX in a notebook of one's own
            return f"<code>{self.escape_html(latex)}</code>"

    def block_math(self, body: str) -> str:
        return f"<div>{self._mathml(body, True)}</div>"

    def inline_math(self, body: str) -> str:
        return self._mathml(body, False)

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")


class OfflinePage(HTMLExporter):
    """A notebook as HTML that fetches nothing: no MathJax, no require.js, no widgets' scripts."""

    BLOCKS = (
        "html_head_js",
        "html_head_js_mathjax",
        "html_head_js_mermaidjs",
        "jupyter_widgets",
    )
    TEMPLATE = "\n".join(
        [
            "{% extends 'lab/index.html.j2' %}",
            *(f"{{% block {name} %}}{{% endblock %}}" for name in BLOCKS),
            "{% block data_latex %}{{ output.data['text/latex'] | markdown2html }}{% endblock %}",
        ]
    )

    def __init__(self) -> None:
        super().__init__(
            extra_loaders=[DictLoader({"offline.html.j2": self.TEMPLATE})],
            template_file="offline.html.j2",
        )

    @pass_context
    def markdown2html(self, context, source):
        cell = context.get("cell", {})
        renderer = MathMLRenderer(
            escape=False,
            attachments=cell.get("attachments", {}),
            anchor_link_text=self.anchor_link_text,
            exclude_anchor_links=self.exclude_anchor_links,
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def main(source: str, target: str, *assignments: str) -> None:
    page = None
    if assignments[:1] == ("--html",):
        _, page, *assignments = assignments
    parameters = {
        name: yaml.safe_load(value) for name, value in (text.split("=", 1) for text in assignments)
    }
    unknown = parameters.keys() - parameters_of(source)
    if unknown:
        sys.exit(
            f"{source}: no parameter {', '.join(sorted(unknown))} in its cell tagged 'parameters'"
        )
    try:
        papermill.execute_notebook(
            source, target, parameters, kernel_name="python3", language="python",
            progress_bar=False, kernel_manager_class=PrivateKernel,
            # the kernel is interrupted at the end, which it would print as an error
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        colors = re.compile(r"\x1b\[[0-9;]*m")
        print(colors.sub("", "\n".join(error.traceback)), file=sys.stderr)
        sys.exit(
            f"{source}: {error.ename}: {error.evalue}\nThe notebook with its traceback: {target}"
        )
    if page is not None:
        html, _ = OfflinePage().from_filename(target)
        Path(page).write_text(html, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
