"""Runs `jupyter-book build .` again and again, each time in a fork of a process that has imported what every build
imports: that is most of the time that a small book takes.

Each line of its input is JSON, {"root": folder, "environment": variables, "output": file}; it answers with the exit
status.
"""

import importlib
import json
import os
import sys

# of others only: the library and the extensions are those of the book
COMMON = (
    "fontTools.ttLib", "jupyter_book.sphinx", "matplotlib.pyplot", "myst_nb.sphinx_ext", "papermill",
    "safetensors.torch", "seaborn", "sphinx.builders.html", "sphinx.ext.autodoc", "sphinx_book_theme",
    "sphinxcontrib.bibtex", "xarray",
)  # fmt: skip


def build(root: str, environment: dict[str, str], output: str) -> None:
    """In a process of its own, which ends."""
    from jupyter_book.cli.main import main

    os.chdir(root)
    os.environ.clear()
    os.environ.update(environment)
    for stream, file, how in ((0, os.devnull, os.O_RDONLY), (1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        os.dup2(os.open(file, how), stream)
    os.dup2(1, 2)
    sys.argv = ["jupyter-book", "build", "."]
    status = 1
    try:
        status = main(standalone_mode=False) or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else end.code is not None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(status))


if __name__ == "__main__":
    for name in COMMON:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            build(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
