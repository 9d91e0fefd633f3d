"""Execute a notebook with papermill: execute.py INPUT OUTPUT [PARAMETER=VALUE …].

Beyond papermill's own command line: an unknown parameter is an error rather than a line in a log,
and the kernel is the one of this very environment, reached without opening a port.
"""

import os
import sys
import tempfile

os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")

import yaml

try:
    import papermill
    from jupyter_client.manager import AsyncKernelManager
except ModuleNotFoundError as error:
    sys.exit(f"execute.py: {error.name} is not installed; pip install 'wtkit[pipeline]'")


class PrivateKernel(AsyncKernelManager):
    """Reached through socket files; two kernels at a time must not choose the same ones."""

    _folder = tempfile.TemporaryDirectory(prefix="kernel")

    def _transport_default(self):
        return "ipc"

    def _ip_default(self):
        return os.path.join(self._folder.name, "socket")


def main(source: str, target: str, *assignments: str) -> None:
    parameters = {
        name: yaml.safe_load(value) for name, value in (text.split("=", 1) for text in assignments)
    }
    unknown = parameters.keys() - papermill.inspect_notebook(source).keys()
    if unknown:
        sys.exit(
            f"{source}: no parameter {', '.join(sorted(unknown))} in its cell tagged 'parameters'"
        )
    try:
        papermill.execute_notebook(
            source, target, parameters, kernel_name="python3", language="python",
            progress_bar=False, kernel_manager_class=PrivateKernel,
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        sys.exit(
            f"{source}: {error.ename}: {error.evalue}\nThe notebook with its traceback: {target}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
