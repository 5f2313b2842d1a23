"""The student's side: executes a notebook and answers the questions with what it defines. Runs in the sandbox.

    python student_side.py ASKS.PY < questions > answers

Whatever the notebook does here, it can only change its own answers: what is right is known to the grader alone, which
compares. So there is no result to forge and nothing to sign; an answer that is right was worked out, or it is luck.
"""

import contextlib
import importlib.util
import json
import math
import os
import resource
import sys
import traceback
import types
from pathlib import Path

import exchange


def main() -> None:
    task, *inputs = exchange.unpack(sys.stdin.buffer.read())
    _restrict(task)
    asks = _module(Path(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # what a notebook prints is neither kept nor bounded
        os.dup2(nowhere, standard)

    answers.write(exchange.pack({"ready": True}))
    defined, trouble = execute(bytes(task["notebook"]), task["seconds"])
    answers.write(exchange.pack({"trouble": "\n".join(trouble)}))
    for name, values in zip(json.loads(task["questions"]), inputs, strict=True):
        try:
            with exchange.deadline(task["seconds"]):
                answer = exchange.pack(getattr(asks, name)(defined, values))
        except BaseException as error:
            answer = exchange.pack({"error": _said(error)})
        answers.write(answer)
    os._exit(0)  # without waiting for threads that the notebook left


def _restrict(task: dict) -> None:
    """Limits that no unprivileged process can raise again; they hold for every process that the notebook starts."""
    for limit, most in (
        (resource.RLIMIT_DATA, task["memory"] * 2**20),
        (resource.RLIMIT_NPROC, task["processes"]),
        (resource.RLIMIT_CPU, math.ceil(task["total"]) + 1),
        (resource.RLIMIT_FSIZE, exchange.LIMIT),
        (resource.RLIMIT_NOFILE, 128),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    with contextlib.suppress(OSError):  # if the machine runs out of memory, a sandbox goes first, not the grader
        Path("/proc/self/oom_score_adj").write_text("1000")


def _module(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("asks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Defined(dict):
    """What the notebook defined, by name."""

    def __missing__(self, name):
        raise NameError(f"the notebook does not define {name}")


def execute(notebook: bytes, seconds: float) -> tuple[Defined, list[str]]:
    """The names that the code cells define, executed in order, and a line for each cell that raised."""
    main = types.ModuleType("__main__")  # a real module: classes and dataclasses look up the one they are defined in
    sys.modules["__main__"] = main
    main.get_ipython, main.display = _Silent, lambda *_, **__: None
    sys.modules["otter"] = types.ModuleType("otter")  # the notebook's own checks are the student's, for working on it
    sys.modules["otter"].Notebook = _Silent
    try:  # the library nbformat would do, but its import takes longer than most notebooks
        cells = ["".join(cell["source"]) for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]
    except Exception as error:
        return Defined(), [f"this is no notebook of format 4: {_said(error)}"]
    trouble = []
    for number, source in enumerate(cells, 1):
        try:
            code = compile(_python(source), f"code cell {number}", "exec")
            with exchange.deadline(seconds):
                exec(code, main.__dict__)
        except BaseException as error:
            trouble.append(f"code cell {number}: {_said(error)}")
    return Defined(main.__dict__), trouble[:50]


def _python(source: str) -> str:
    """The cell as plain Python: of a cell magic the body, other magics and shell commands as calls that do nothing."""
    if source.startswith(("%%time", "%%capture")):
        source = source.partition("\n")[2]
    try:
        compile(source, "", "exec")
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager

        return TransformerManager().transform_cell(source)
    return source


class _Silent:
    """Stands in for IPython and for otter's notebook: every command succeeds and does nothing."""

    def __init__(self, *_):
        pass

    def __getattr__(self, name):
        return lambda *_, **__: None


def _said(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()[:500]


if __name__ == "__main__":
    main()
