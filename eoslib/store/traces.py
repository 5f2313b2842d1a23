"""Labelled traces: made of rows, thinned for recording, hashed.

A trace is a set of tables in one dataset. A table is all variables whose first dimension is `step`, `every_20`,
`epoch`, `end` or `chosen`; the coordinate of that name holds the steps at which they were measured.
"""

import hashlib
import io
import warnings
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import xarray as xr

MAX_RECORDED_POINTS = 20_000
STEP = SimpleNamespace(dims=(), long_name="iteration t", units="1")  # how the steps of a table are labelled

Columns = dict[str, np.ndarray]  # "table/variable", or "table/step" → one entry a row


def columns(rows: Iterable[tuple[int, dict[str, dict]]], variables: Mapping[str, Any]) -> Columns:
    """Rows (step, table → variable → value) as arrays; nan where a variable was not measured. What belongs to the end
    belongs to the iterate after the last step. variables: name → how it is labelled, a `measure` Variable."""
    by_table: dict[str, list[tuple[int, dict]]] = {}
    for step, tables in rows:
        for table, row in tables.items():
            by_table.setdefault(table, []).append((step + (table == "end"), row))
    arrays = {}
    for table, listed in by_table.items():
        arrays[f"{table}/step"] = np.array([step for step, _ in listed])
        for name in dict.fromkeys(name for _, row in listed for name in row):
            blank = np.full(np.shape(next(row[name] for _, row in listed if name in row)), np.nan)
            values = [row.get(name, blank) for _, row in listed]
            arrays[f"{table}/{name}"] = np.array(values, dtype=variables[name].dtype)
    return arrays


def labelled(parts: Iterable[Columns], variables: Mapping[str, Any]) -> xr.Dataset:
    """Consecutive columns as one trace, with dimensions, long names and units."""
    tables: dict[str, list[xr.Dataset]] = {}
    for part in parts:
        data: dict[str, dict] = {}
        for path, values in part.items():
            table, name = path.split("/")
            v = STEP if name == "step" else variables[name]
            named = ((table, *v.dims), values, {"long_name": v.long_name, "units": v.units})
            data.setdefault(table, {})[table if v is STEP else name] = named
        for table, named in data.items():
            tables.setdefault(table, []).append(xr.Dataset(named))
    how = {"join": "outer", "data_vars": "all", "coords": "minimal", "compat": "override"}
    return xr.merge([xr.concat(parts, table, **how) for table, parts in tables.items()])


def read(content: bytes) -> xr.Dataset:
    """A trace from the bytes of its netCDF file, whose variables lie in groups of HDF5 with their dimensions as scales.

    By h5py, since `xarray.open_dataset` takes six times as long for tables so small, as much as drawing a chapter.
    """
    with h5py.File(io.BytesIO(content)) as file:
        variables = {
            name: (
                [name] if values.is_scale else [scales[0].name.strip("/") for scales in values.dims],
                values[()],
                _labels(values.attrs),
            )
            for name, values in file.items()
            if not values.attrs.get("NAME", b"").startswith(b"This is a netCDF dimension but not a netCDF variable")
        }
        return xr.Dataset(variables, attrs=_labels(file.attrs))


def _labels(attributes: Mapping[str, Any]) -> dict:
    # those of ours, a number as one: the file holds it as an array
    ours = ("identity", "long_name", "units", "window")
    return {name: value[0] if np.ndim(value) else value for name, value in attributes.items() if name in ours}


def tables_of(trace: xr.Dataset) -> list[str]:
    """The names of its tables."""
    return [str(name) for name in trace.indexes]


def side_by_side(trace: xr.Dataset) -> xr.Dataset:
    """All tables save the end's over `step`, nan where nothing was measured."""
    names = [name for name in tables_of(trace) if name != "end"]
    parts = [trace.drop_dims(set(tables_of(trace)) - {name}).rename({name: "step"}) for name in names]
    return xr.merge(parts, join="outer").assign_attrs(trace.attrs) if len(names) != 1 else parts[0]


def thin(trace: xr.Dataset, most: int | None = None) -> xr.Dataset:
    """A trace whose tables of more than `most` rows (20,000) are in windows of odd length, each with its mean, and
    minimum and maximum as `<name>_min`, `<name>_max`. Odd, because an even stride would see one phase of the period-2
    oscillation."""
    for table in tables_of(trace):
        window = -(-trace.sizes[table] // (most or MAX_RECORDED_POINTS))
        if window > 1:
            trace = windowed(trace, window + 1 - window % 2, table)
    return trace


def windowed(trace: xr.Dataset, window: int, table: str = "step") -> xr.Dataset:
    """A trace with one table in windows of so many steps, see `thin`; the trace itself if they hold one."""
    if window == 1:
        return trace
    own = trace.drop_dims(set(tables_of(trace)) - {table})
    windows = own.coarsen({table: window}, boundary="pad")  # the last one may hold fewer
    with warnings.catch_warnings():  # a window in which a sparse observable was never measured is nan
        warnings.simplefilter("ignore", RuntimeWarning)
        parts = {"": windows.mean(), "_min": windows.min(), "_max": windows.max()}
    parts = [part.rename({n: n + s for n in part.data_vars}) for s, part in parts.items()]
    thinned = xr.merge([*parts, trace.drop_dims(table)]).assign_attrs(trace.attrs)
    thinned[table].attrs["window"] = window
    return thinned.assign_attrs(window=window) if table == "step" else thinned


def window_of(trace: xr.Dataset, table: str) -> int:
    """Of how many rows each window of a table is."""
    if table not in trace.coords:
        return 1
    # the whole trace said so while it was one table
    return int(trace[table].attrs.get("window", trace.attrs.get("window", 1) if table == "step" else 1))


def single(trace: xr.Dataset) -> xr.Dataset:
    """A trace with its float64 as float32; what that cannot hold becomes infinite."""
    wide = [name for name, values in trace.data_vars.items() if values.dtype == "float64"]
    with np.errstate(over="ignore"):
        return trace.assign(trace[wide].astype("float32", keep_attrs=True))


def trace_of(rows: Iterable[tuple[int, dict[str, dict]]], variables: Mapping[str, Any]) -> xr.Dataset:
    """What a process observed, as a labelled trace; arguments as of `columns`."""
    return labelled([columns(rows, variables)], variables)


def values_sha256(trace: xr.Dataset) -> str:
    """A hash over names, shapes and values of a trace's variables, independent of file format."""
    digest = hashlib.sha256()
    for name in sorted(map(str, trace.variables)):
        values = np.ascontiguousarray(trace[name].values)
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode() + values.tobytes())
    return digest.hexdigest()
