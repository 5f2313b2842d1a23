"""What an assignment is to the grader: questions, the inputs they are asked with, and the marks that answers earn.

`assignments/NAME/checks.py` lists its `QUESTIONS`; `assignments/NAME/asks.py`, beside it, says how the student's
functions are called. The first never leaves the grader, the second is all that a sandbox sees of the assignment.
"""

import hashlib
import importlib.util
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Mark:
    """The share of a question's points that an answer earns, in [0, 1], and a sentence for each thing wrong with it."""

    share: float
    remarks: tuple[str, ...] = ()


def marked(*faults: str | None) -> Mark:
    """The mark of an answer that was looked at in several ways, which count alike: each is None, or what is wrong."""
    remarks = tuple(fault for fault in faults if fault)
    return Mark(1 - len(remarks) / len(faults), remarks)


def marked_parts(right: Iterable[bool], names: Iterable[str]) -> Mark:
    """The mark of an answer in parts, each right or wrong, and with a name for the remark "wrong …"."""
    return marked(*(None if ok else f"wrong {name}" for ok, name in zip(right, names, strict=True)))


@dataclass(frozen=True)
class Question:
    """One question: `inputs` draws what it is asked with, `check(inputs, outputs)` compares the answer with its own.

    Inputs and outputs are dicts of arrays, numbers and strings. Whatever `check` raises costs the whole question. A
    question without a `check` is marked by hand, after its `guide`.
    """

    name: str
    points: float
    inputs: Callable[[np.random.Generator], dict] | None = None
    check: Callable[[dict, dict], Mark] | None = None
    guide: str = ""


@dataclass(frozen=True)
class Assignment:
    name: str
    folder: Path
    questions: tuple[Question, ...]


def module(path: Path) -> types.ModuleType:
    """One of the lecturer's files, `checks.py` or `asks.py`, as a module."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def load(folder: Path) -> Assignment:
    """The assignment in this folder, by its `checks.py`."""
    folder = Path(folder).resolve()
    return Assignment(folder.name, folder, tuple(module(folder / "checks.py").QUESTIONS))


def generator(seed: str, assignment: str, question: str) -> np.random.Generator:
    """The generator of a question's hidden inputs: the same for every student, unknown without the lecturer's seed."""
    digest = hashlib.sha256("\0".join((seed, assignment, question)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest))


def misshapen(outputs: dict, name: str, shape: tuple[int, ...]) -> str | None:
    """Why one output is not a number or an array of numbers of this shape, or None; so that no answer is broadcast."""
    if name not in outputs:
        return f"{name} is missing"
    given = np.asarray(outputs[name])
    if given.dtype.kind not in "biuf":
        return f"{name} should be a real number or an array of them, not {given.dtype}"
    if given.shape != shape:
        return f"{name} has the shape {given.shape} instead of {shape}"
    return None


def differs(outputs: dict, name: str, expected, tolerance: float = 1e-6) -> str | None:
    """What is wrong with one output, or None: it should be a number or an array of the expected shape and values.

    The tolerance is relative to the largest finite expected magnitude, absolute where that is zero. A NaN equals
    only a NaN.
    """
    expected = np.asarray(expected, dtype=float)
    if fault := misshapen(outputs, name, expected.shape):
        return fault
    scale = np.max(np.abs(expected), initial=0, where=np.isfinite(expected))
    given = np.asarray(outputs[name], dtype=float)
    if not np.allclose(given, expected, rtol=0, atol=tolerance * (scale or 1), equal_nan=True):
        return f"{name} has a wrong value"
    return None
