"""What differs between two runs, two executed notebooks, or two builds of the book."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import xarray as xr

from eoslib import store
from eoslib.chapter import claims, presets
from eoslib.chapter.templates import render

ROUNDING = {"float32": 1e-5, "float64": 1e-12}  # relative: a hundred times what a number itself is rounded by
GROWN = 0.1  # a relative difference that grows no more
ABSENT = "–"


@dataclass(frozen=True)
class Parting:
    """Where two trajectories part: at which step an observable differs by more than rounding for the first time, by how
    much relative to its size, the factor by which the difference then grows in a step, or nan, and the largest."""

    observable: str
    step: int
    difference: float
    growth: float
    largest: float


@dataclass
class Comparison:
    """What differs, each as (name, in A, in B); parted: observables of two runs, the first first; pictures: base64."""

    a: str
    b: str
    parameters: list[tuple[str, str, str]] = field(default_factory=list)
    verdicts: list[tuple[str, str, str]] = field(default_factory=list)
    values: list[tuple[str, str, str]] = field(default_factory=list)
    parted: list[Parting] = field(default_factory=list)
    pictures: list[tuple[str, str | None, str | None]] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return not (self.parameters or self.verdicts or self.values or self.parted or self.pictures)

    def text(self) -> str:
        """In words, for a terminal."""
        if self.identical:
            return f"{self.a} and {self.b} are identical"
        lines = [f"A: {self.a}", f"B: {self.b}"]
        for title, rows in self.sections().items():
            lines += ["", f"{title} ({len(rows)}):", *(f"  {name}: {a} → {b}" for name, a, b in rows)]
        if self.pictures:
            lines += ["", f"figures ({len(self.pictures)}): {', '.join(name for name, _, _ in self.pictures)}"]
        if self.parted:
            lines += ["", "the trajectories part:", *(f"  {line}" for line in self.partings())]
        return "\n".join(lines)

    def sections(self) -> dict[str, list[tuple[str, str, str]]]:
        """The tables that have rows, by title."""
        tables = {"parameters": self.parameters, "verdicts": self.verdicts, "values": self.values}
        return {title: rows for title, rows in tables.items() if rows}

    def partings(self) -> list[str]:
        """A sentence for each observable that parts."""
        return [
            f"{p.observable} at step {p.step}, by {p.difference:.2g} of its size"
            + (f", then {p.growth:.4g} times as much with each step" if np.isfinite(p.growth) else "")
            + f"; at most {p.largest:.2g}"
            for p in self.parted
        ]

    def markdown(self) -> str:
        """The tables, for a cell of a notebook."""
        lines = []
        for title, rows in self.sections().items():
            lines += ["", f"| {title} | {self.a} | {self.b} |", "|---|---|---|"]
            lines += ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
        return "\n".join(lines)

    def html(self) -> str:
        """As a page of its own, figures side by side."""
        return render("compare.html", c=self)


def compare(a: str, b: str) -> Comparison:
    """Each is an executed notebook (.ipynb), a folder of them such as `_build/html` or `.executed/quick`, or a run: a
    key, or its path. Raises StoreError, and ParameterError where one is a run and the other is none."""
    left, right = _notebooks(a), _notebooks(b)
    if (left is None) != (right is None):
        raise presets.ParameterError(f"cannot compare a run with notebooks: {a}, {b}")
    found = Comparison(a, b)
    if left is None:
        _runs(found, store.load(a), store.load(b))
    elif len(left) == len(right) == 1:
        _pair(found, *left.values(), *right.values(), "")
    else:
        for name in sorted(left.keys() | right.keys()):
            if name in left and name in right:
                _pair(found, left[name], right[name], f"{name}: ")
            else:
                found.parameters.append((name, *("there" if name in side else ABSENT for side in (left, right))))
    return found


def with_preset(notebook: Any) -> Comparison:
    """What an executed notebook changed against its preset, and which verdicts are not those acknowledged there."""
    said = notebook.metadata["eoslib"]
    chapter, preset = said["chapter"], said["preset"]
    found = Comparison(f"{chapter} at {preset}", "this run")
    given = presets.parameters(presets.chapter_path(chapter), preset)
    found.parameters = _differing(given, said["parameters"], "")
    before, now = claims.acknowledged_here(chapter, preset), claims.in_notebook(notebook)
    now = {v["id"]: v["verdict"] for v in now if v["id"] in before}
    found.verdicts = _differing({id_: before[id_] for id_ in now}, now, "")
    return found


def _notebooks(name: str) -> dict[str, Any] | None:
    """The executed notebooks of a file or folder, by name within it; None if it is neither."""
    path = Path(name)
    if path.suffix == ".ipynb":
        return {path.name: nbformat.read(path, as_version=4)}
    paths = sorted(path.rglob("*.ipynb")) if path.is_dir() else []
    paths = [p for p in paths if not p.name.endswith(".partial.ipynb")]
    return {str(p.relative_to(path)): nbformat.read(p, as_version=4) for p in paths} or None


def _pair(found: Comparison, left: Any, right: Any, prefix: str) -> None:
    """Add what differs between two executed notebooks."""
    said = [n.metadata.get("eoslib", {}) for n in (left, right)]
    given = [{"preset": s.get("preset")} | dict(s.get("parameters", {})) for s in said]
    found.parameters += _differing(*given, prefix)
    by_id = [{v["id"]: v for v in claims.in_notebook(n)} for n in (left, right)]
    found.verdicts += _differing(*({i: v["verdict"] for i, v in side.items()} for side in by_id), prefix)
    values = [
        {" ".join(filter(None, [i, label])): value for i, v in side.items() for label, value in v["cases"].items()}
        for side in by_id
    ]
    found.values += _differing(*values, prefix)
    shown = [dict(_figures(n)) for n in (left, right)]
    names = [name for name in dict.fromkeys([*shown[0], *shown[1]]) if shown[0].get(name) != shown[1].get(name)]
    found.pictures += [(prefix + name, *(side.get(name) for side in shown)) for name in names]


def _figures(notebook: Any) -> Iterator[tuple[str, str]]:
    from eoslib.chapter.figures import MIME  # here, because drawing takes a second to import

    for cell in presets.code_cells(notebook):
        for output in cell.outputs:
            if MIME in output.get("data", {}):
                png = output["data"]["image/png"]
                base64.b64decode(png, validate=True)  # it goes into a page as it is
                yield output["data"][MIME]["name"], png


def _runs(found: Comparison, left: store.Run, right: store.Run) -> None:
    """Add what differs between two runs."""
    found.parameters += _differing(*(dict(_flat(run.identity)) for run in (left, right)), "")
    ran = [run.manifest["machine"] | {"threads": run.manifest["threads"]} for run in (left, right)]
    found.parameters += _differing(*ran, "")
    found.values += _differing(*({"diverged at": run.diverged_at} for run in (left, right)), "")
    precise = all(run.identity.get("precision") == "float64" for run in (left, right))
    tolerance = ROUNDING["float64" if precise and not (left.recorded or right.recorded) else "float32"]
    found.parted = partings(left.stored, right.stored, tolerance)


def partings(left: xr.Dataset, right: xr.Dataset, tolerance: float) -> list[Parting]:
    """Where the scalar observables that two traces share part, the earliest first. A difference is relative to the
    larger of the two; it grows by exp of the slope of its logarithm against the step, fitted from there until it is
    `GROWN`."""
    found = []
    for name in sorted(set(left.data_vars) & set(right.data_vars)):
        if left[name].ndim != 1 or left[name].dims != right[name].dims or left[name].dtype.kind != "f":
            continue
        a, b = xr.align(left[name], right[name], join="inner")
        steps, a, b = a[a.dims[0]].values, a.values.astype(float), b.values.astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            size = np.fmax(np.abs(a), np.abs(b))
            difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b) / size)
        difference = np.where(np.isnan(difference), np.inf, difference)  # finite here, and there not
        if not (difference > tolerance).any():
            continue
        first = int((difference > tolerance).argmax())
        grown = difference[first:] >= GROWN
        end = first + int(grown.argmax()) + 1 if grown.any() else len(difference)
        used = slice(first, end)
        usable = (difference[used] > 0) & np.isfinite(difference[used])
        growth = np.nan
        if usable.sum() >= 3:
            growth = float(np.exp(np.polyfit(steps[used][usable], np.log(difference[used][usable]), 1)[0]))
        found.append(Parting(name, int(steps[first]), float(difference[first]), growth, float(difference.max())))
    return sorted(found, key=lambda parting: parting.step)


def _differing(left: Mapping[str, Any], right: Mapping[str, Any], prefix: str) -> list[tuple[str, str, str]]:
    """Names, in the order of the first, under which the two have something else, with both as text."""
    names = [name for name in dict.fromkeys([*left, *right]) if left.get(name, ABSENT) != right.get(name, ABSENT)]
    return [(prefix + name, str(left.get(name, ABSENT)), str(right.get(name, ABSENT))) for name in names]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A nested declaration as dotted names and values."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else name)
    else:
        yield path, value
