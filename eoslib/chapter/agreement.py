"""How far the same steps agree when they are computed twice, with other roundings."""

from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr

from eoslib import store
from eoslib.measure.variables import Variable

RATIOS = ("relative_progress", "expected_relation")  # of differences of f to what they are to first order: about 1
EXTREMES = ("last_rise",)  # the largest of thousands of starting points is one point's affair


def rows(process: store.Process, until: float = np.inf) -> Iterator[tuple[int, dict]]:
    """What a process observes at each of its steps before `until`, as rows of a trace."""
    while process.t < until and not process.finished:
        t = process.t
        process.step()
        yield t, process.observe()


def error(name: str, seen, expected, within: float, scale: float | None = None) -> float:
    """The largest error relative to `scale`, by default to the largest number expected, as some pass through zero.
    AssertionError if it is larger than `within`; but of many numbers one in a thousand may be off, because rounding
    decides on which side of a basin's boundary a pixel lies."""
    seen, expected = np.asarray(seen, float), np.asarray(expected, float)
    if scale is None:
        scale = np.max(abs(expected), initial=1e-300, where=np.isfinite(expected))
    with np.errstate(invalid="ignore"):  # inf − inf
        errors = np.where(np.isclose(seen, expected, 0, 0, equal_nan=True), 0, abs(seen - expected) / scale)
    assert np.mean(errors <= within) >= 0.999, f"{name}: expected within {within:.0e}, seen {np.max(errors):.1e} off"
    return float(np.max(errors))


def errors(seen: xr.Dataset, expected: xr.Dataset, variables: Mapping[str, Variable], within: float) -> dict:
    """By variable; what a search found may differ by its own tolerance, and what it cost by any amount."""
    found = {}
    for name in map(str, expected.data_vars):
        variable = variables[name]
        if variable.tolerance < np.inf and name not in EXTREMES:
            scale = 1.0 if variable.absolute or any(ratio in name for ratio in RATIOS) else None
            found[name] = error(name, seen[name], expected[name], max(within, variable.tolerance), scale)
    return found
