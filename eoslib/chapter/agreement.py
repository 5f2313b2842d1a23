"""How far the same steps agree when they are computed twice, with other roundings."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from eoslib.measure.variables import Variable

RATIOS = ("relative_progress", "expected_relation")  # of differences of f to what they are to first order: about 1
EXTREMES = ("last_rise",)  # the largest of thousands of starting points is one point's affair


def error(name: str, seen, expected, within: float, scale: float | None = None) -> float:
    """The largest error relative to `scale`, by default to the largest number expected, as some pass through zero.

    AssertionError if it is larger than `within`; but of many numbers one in a thousand may be off, because rounding
    decides on which side of a basin's boundary a pixel lies.
    """
    seen, expected = np.asarray(seen, float), np.asarray(expected, float)
    if scale is None:
        scale = np.max(abs(expected), initial=1e-300, where=np.isfinite(expected))
    same = (seen == expected) | (np.isnan(seen) & np.isnan(expected))
    errors = np.where(same, 0, abs(np.where(same, 0, seen) - np.where(same, 0, expected)) / scale)
    assert np.mean(errors <= within) >= 0.999, f"{name}: expected within {within:.0e}, seen {np.max(errors):.1e} off"
    return float(np.max(errors))


def errors(
    seen: xr.Dataset, expected: xr.Dataset, variables: Mapping[str, Variable], within: float
) -> dict[str, float]:
    """By variable; what a search found may differ by its own tolerance, and what it cost by any amount."""
    found = {}
    for name in map(str, expected.data_vars):
        variable = variables[name]
        if variable.tolerance < np.inf and name not in EXTREMES:
            scale = 1.0 if variable.absolute or any(ratio in name for ratio in RATIOS) else None
            found[name] = error(name, seen[name], expected[name], max(within, variable.tolerance), scale)
    return found
