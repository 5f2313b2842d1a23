"""Labelled traces: made of rows, thinned for recording, hashed."""

import hashlib
import warnings

import numpy as np
import xarray as xr

from eoslib.measure.variables import VARIABLES

MAX_RECORDED_POINTS = 20_000


def thin(trace: xr.Dataset, most: int = MAX_RECORDED_POINTS) -> xr.Dataset:
    """A trace of more than `most` steps in windows of odd length, each with its mean, and minimum and maximum as
    `<name>_min`, `<name>_max`. Odd, because an even stride would see one phase of the period-2 oscillation."""
    window = -(-trace.sizes["step"] // most)
    if window <= 1:
        return trace
    return windowed(trace, window + 1 - window % 2)


def windowed(trace: xr.Dataset, window: int) -> xr.Dataset:
    """A trace in windows of so many steps, see `thin`; the trace itself if they hold one."""
    if window == 1:
        return trace
    windows = trace.coarsen(step=window, boundary="pad")  # the last one may hold fewer
    with warnings.catch_warnings():  # a window in which a sparse observable was never measured is nan
        warnings.simplefilter("ignore", RuntimeWarning)
        parts = {"": windows.mean(), "_min": windows.min(), "_max": windows.max()}
    return xr.merge([part.rename({n: n + s for n in part.data_vars}) for s, part in parts.items()]).assign_attrs(
        trace.attrs, window=window
    )


def single(trace: xr.Dataset) -> xr.Dataset:
    """A trace with its float64 as float32; what that cannot hold becomes infinite."""
    wide = [name for name, values in trace.data_vars.items() if values.dtype == "float64"]
    with np.errstate(over="ignore"):
        return trace.assign(trace[wide].astype("float32", keep_attrs=True))


def trace_of(rows: list[dict]) -> xr.Dataset:
    """Rows of observables, one for each step from 0 on, as a labelled trace."""
    return labelled({"step": np.arange(len(rows)), **columns(rows)})


def values_sha256(trace: xr.Dataset) -> str:
    """A hash over names, shapes and values of a trace's variables, independent of file format."""
    digest = hashlib.sha256()
    for name in sorted(map(str, trace.variables)):
        values = np.ascontiguousarray(trace[name].values)
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def netcdf(trace: xr.Dataset, encoding: dict | None = None) -> bytes:
    return bytes(trace.to_netcdf(engine="h5netcdf", encoding=encoding))


def columns(rows: list[dict]) -> dict[str, np.ndarray]:
    """Rows of observables as one array for each name; nan where an observable was not measured."""
    names = dict.fromkeys(name for row in rows for name in row)
    blank = {n: np.full(np.shape(next(r[n] for r in rows if n in r)), np.nan) for n in names}
    return {n: np.array([row.get(n, blank[n]) for row in rows], dtype=VARIABLES[n].dtype) for n in names}


def labelled(columns: dict[str, np.ndarray]) -> xr.Dataset:
    """Columns with their dimensions, long names and units, over the coordinate `step`."""
    step = ("step", columns.pop("step"), {"long_name": "iteration t", "units": "1"})
    data = {}
    for name, values in columns.items():
        variable = VARIABLES[name]
        data[name] = (("step", *variable.dims), values, {"long_name": variable.long_name, "units": variable.units})
    return xr.Dataset(data, {"step": step})
