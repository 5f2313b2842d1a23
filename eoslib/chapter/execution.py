"""Execute a chapter through papermill, and say of what an executed chapter depends."""

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from eoslib import store
from eoslib.chapter.presets import LIBRARY, code_cells, parameters, read_chapter
from eoslib.problems.problem import Data


@dataclass(eq=False)
class ChapterFailed(RuntimeError):
    """A chapter failed. cause: what happened and in which cell. partial: the notebook as far as it ran."""

    chapter: str
    cause: str
    partial: Path | None = None

    def __str__(self) -> str:
        kept = f"; as far as it ran, it is in {self.partial}" if self.partial else ""
        return f"chapter {self.chapter} failed: {self.cause}{kept}"


def execute(
    path: Path, out: Path, preset: str = "quick", overrides: Mapping[str, Any] | None = None, compute: bool = True,
    progress: bool = False, tag: str | None = None,
):  # fmt: skip
    """Execute a chapter, or only its code cells with the tag; write the executed notebook to ``out`` and return it.

    The kernel runs where you are, so that its run store is that of every other command, with one thread unless
    OMP_NUM_THREADS says otherwise. With ``compute=False`` the chapter only renders runs that are finished
    (EOSLIB_COMPUTE=0).
    ``metadata["eoslib"]`` of the result holds chapter, preset, parameters, cache key and seconds taken.
    Raises ParameterError before anything runs, and ChapterFailed when a cell raises or the kernel dies; the
    notebook as far as it ran is then kept beside ``out``, which itself is only ever written whole.
    """
    import nbformat
    import papermill

    from eoslib.chapter import engine

    path, out = Path(path).resolve(), Path(out)
    values = parameters(path, preset, overrides)
    key = cache_key(path, values, compute, tag)
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
        with mock.patch.dict(os.environ, environment):  # which the kernel inherits; papermill has no argument for it
            notebook = papermill.execute_notebook(
                read_chapter(path, tag),
                str(partial.resolve()).replace("{", "{{").replace("}", "}}"),  # papermill formats the path
                parameters=values,
                kernel_name="python3",
                engine_name=engine.NAME,
                progress_bar={"desc": path.stem} if progress else False,
                extra_arguments=["--log-level=CRITICAL"],  # a kernel also logs how it connects and shuts down
            )
    except Exception as error:  # of a cell, whose name and text papermill keeps, or a dead kernel
        cause = f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', error)}{_reached(partial)}"
        raise ChapterFailed(path.stem, cause, partial if partial.is_file() else None) from error
    for path_of_this_machine in ("input_path", "output_path"):
        del notebook.metadata["papermill"][path_of_this_machine]
    made_from = {"chapter": path.stem, "preset": preset, "parameters": values, "key": key}
    notebook.metadata["eoslib"] = made_from | {"seconds": round(time.monotonic() - started, 1)}
    store.write_atomically(out, nbformat.writes(notebook).encode())
    partial.unlink()
    return notebook


def options(preset: str, overrides: Mapping[str, Any] | None = None) -> str:
    """Preset and overrides as options of the command line, which `parameters` reads back."""
    given = {name: v if isinstance(v, str) else json.dumps(v) for name, v in (overrides or {}).items()}
    return " ".join([f"--preset {preset}", *(f"-p {shlex.quote(f'{n}={text}')}" for n, text in given.items())])


def cell_name(number: int | None, source: str) -> str:
    """How messages call a code cell: by its number and its first line."""
    lines = [line for line in source.splitlines() if line.strip()]
    return f"code cell {number} ({lines[0].strip()!r})" if lines else f"code cell {number}"


def _reached(partial: Path) -> str:
    """The last cell that had begun, in the notebook that papermill left."""
    import nbformat

    try:
        cells = enumerate(code_cells(nbformat.read(partial, as_version=4)), start=1)
    except (OSError, ValueError):
        return ""
    begun = [(i, cell.source) for i, cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    return f", in {cell_name(*begun[-1])}" if begun else ""


def cache_key(path: Path, parameters: Mapping[str, Any], compute: bool = True, tag: str | None = None) -> str:
    """A hash of all that an executed chapter depends on; prose is not part of it.

    Code cells (those with the tag), the library's sources and templates, parameters, claims, versions, the
    fingerprints of the data sets that parameters called ``…dataset`` name, and, where the chapter only renders
    (``compute=False``), the finished runs.
    """
    claims = path.parent / "claims" / f"{path.stem}.yaml"
    sources = sorted([*LIBRARY.rglob("*.py"), *LIBRARY.rglob("*.html")])
    ingredients = {
        "code": [cell.source for cell in code_cells(read_chapter(path, tag))],
        "library": {p.relative_to(LIBRARY).as_posix(): p.read_text(encoding="utf-8") for p in sources},
        "parameters": dict(parameters),
        "claims": claims.read_text(encoding="utf-8") if claims.is_file() else None,
        "versions": [platform.python_version(), *map(importlib.metadata.version, ("torch", "numpy", "matplotlib"))],
        "data": [Data(dataset=v, n=0).fingerprint for name, v in parameters.items() if name.endswith("dataset")],
        "runs": None if compute else store.inventory(),
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
