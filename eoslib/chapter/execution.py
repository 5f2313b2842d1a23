"""Execute a chapter through papermill, and say of what an executed chapter depends."""

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from eoslib.chapter.presets import LIBRARY, code_cells, parameters, read_chapter


class ChapterFailed(RuntimeError):
    """A chapter whose execution failed.

    Attributes: ``chapter`` (name), ``cause`` (what happened and in which cell), ``partial`` (path of the
    notebook as far as it ran, or None).
    """

    def __init__(self, chapter: str, cause: str, partial: Path | None = None):
        super().__init__(chapter, cause, partial)  # all three, so that it can be pickled between processes
        self.chapter, self.cause, self.partial = chapter, cause, partial

    def __str__(self) -> str:
        kept = f"; as far as it ran, it is in {self.partial}" if self.partial else ""
        return f"chapter {self.chapter} failed: {self.cause}{kept}"


def execute(
    path: Path,
    out: Path,
    preset: str = "quick",
    overrides: Mapping[str, Any] | None = None,
    compute: bool = True,
    progress: bool = False,
    tag: str | None = None,
):
    """Execute a chapter and write the executed notebook to ``out``, which is also returned.

    tag: execute only the code cells that carry it.

    The kernel runs in the repository root, with one thread unless OMP_NUM_THREADS says otherwise. With
    ``compute=False`` the chapter only renders runs that are finished (EOSLIB_COMPUTE=0).
    ``metadata["eoslib"]`` of the result holds chapter, preset, parameters, cache key and seconds taken.

    Raises ParameterError before anything runs, and ChapterFailed when a cell raises or the kernel dies; the
    notebook as far as it ran is then kept beside ``out``, which itself is only ever written whole.
    """
    import nbformat
    import papermill

    from eoslib import store

    path, out = Path(path).resolve(), Path(out)
    values = parameters(path, preset, overrides)
    key = cache_key(path, values, compute, tag)
    root = path.parent.parent
    partial = out.with_suffix(".partial.ipynb")
    partial.parent.mkdir(parents=True, exist_ok=True)
    # papermill would warn of each parameter whose type it cannot read; ours were checked above
    logging.getLogger("papermill").setLevel(logging.ERROR)
    environment = {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "EOSLIB_COMPUTE": "1" if compute else "0",
        "EOSLIB_OPTIONS": options(preset, overrides),
        # of tqdm, where a library imports it in a kernel without ipywidgets: no fault of the chapter
        "PYTHONWARNINGS": ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:IProgress not found"])),
        # the kernel imports this very library, whether or not it is installed
        "PYTHONPATH": os.pathsep.join(filter(None, [str(LIBRARY.parent), os.environ.get("PYTHONPATH")])),
    }
    started = time.monotonic()
    try:
        with _environment(environment):
            notebook = papermill.execute_notebook(
                read_chapter(path, tag),
                str(partial.resolve()).replace("{", "{{").replace("}", "}}"),  # papermill formats the path
                parameters=values,
                kernel_name="python3",
                progress_bar={"desc": path.stem} if progress else False,
                cwd=root,
                extra_arguments=["--log-level=CRITICAL"],  # a kernel also logs how it connects and shuts down
            )
    except papermill.PapermillExecutionError as error:
        cause = f"{error.ename}: {error.evalue}, in {cell_name(error.exec_count, error.source)}"
        raise ChapterFailed(path.stem, cause, partial) from error
    except Exception as error:  # a dead kernel above all
        cause = f"{type(error).__name__}: {error}{_reached(partial)}"
        raise ChapterFailed(path.stem, cause, partial if partial.is_file() else None) from error
    for path_of_this_machine in ("input_path", "output_path"):
        del notebook.metadata["papermill"][path_of_this_machine]
    notebook.metadata["eoslib"] = {
        "chapter": path.stem,
        "preset": preset,
        "parameters": values,
        "key": key,
        "seconds": round(time.monotonic() - started, 1),
    }
    store.write_atomically(out, nbformat.writes(notebook).encode())
    partial.unlink()
    return notebook


def options(preset: str, overrides: Mapping[str, Any] | None = None) -> str:
    """Preset and overrides as options of the command line, which `parameters` reads back."""
    given = []
    for name, value in (overrides or {}).items():
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).split("\n")[0]
        given.append(f"-p {shlex.quote(f'{name}={text}')}")
    return " ".join([f"--preset {preset}", *given])


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]):
    """Set environment variables for a kernel to inherit: papermill has no argument for them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def cell_name(number: int | None, source: str) -> str:
    """How messages call a code cell: by its number and its first line."""
    lines = [line for line in source.splitlines() if line.strip()]
    return f"code cell {number} ({lines[0].strip()!r})" if lines else f"code cell {number}"


def _reached(partial: Path) -> str:
    """The last cell that had begun, in the notebook that papermill left."""
    try:
        cells = json.loads(partial.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return ""
    begun = [
        (number, "".join(cell["source"]))
        for number, cell in enumerate((c for c in cells if c["cell_type"] == "code"), start=1)
        if cell["metadata"].get("papermill", {}).get("start_time")
    ]
    return f", in {cell_name(*begun[-1])}" if begun else ""


def cache_key(path: Path, parameters: Mapping[str, Any], compute: bool = True, tag: str | None = None) -> str:
    """A hash of all that an executed chapter depends on; prose is not part of it.

    Code cells (those with the tag), the library's sources and templates, parameters, claims, versions, the
    fingerprints of the data sets that parameters called ``…dataset`` name, and, where the chapter only renders
    (``compute=False``), the finished runs.
    """
    path = Path(path)
    claims = path.parent / "claims" / f"{path.stem}.yaml"
    sources = sorted([*LIBRARY.rglob("*.py"), *LIBRARY.rglob("*.html")])
    packages = ("torch", "numpy", "matplotlib")
    ingredients = {
        "code": [cell.source for cell in code_cells(read_chapter(path, tag))],
        "library": {str(p): p.read_text(encoding="utf-8") for p in sources},
        "parameters": dict(parameters),
        "claims": claims.read_text(encoding="utf-8") if claims.is_file() else None,
        "versions": [platform.python_version(), *map(importlib.metadata.version, packages)],
        "data": [_fingerprint(value) for name, value in parameters.items() if name.endswith("dataset")],
        "runs": None if compute else _inventory(),
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def _fingerprint(dataset: str) -> str:
    from eoslib.problems import datasets  # here, because it imports torch

    try:
        return datasets.fingerprint(dataset)
    except datasets.DataAbsent:
        return "absent"


def _inventory() -> dict[str, str]:
    from eoslib import store

    return store.inventory()
