"""Recompute the first steps of a recorded run and compare."""

import numpy as np
import torch
import xarray as xr

from eoslib import store
from eoslib.chapter import agreement
from eoslib.chapter.experiments import built


def audit(run: store.Run, steps: int = 20) -> list[str]:
    """The differences between a run's trace and its first steps, recomputed: bit for bit (as float32) on the machine
    that made it, with its number of threads; elsewhere to a relative 1e-3. What was searched for has a tolerance of its
    own everywhere, and what it cost is left out: see `measure.variables.Variable`. A thinned trace is compared in whole
    windows; a run with an onset is recomputed to so many steps after it."""
    experiment, stored = built(run.identity), run.stored
    windows = {table: store.window_of(stored, table) for table in store.tables_of(stored)}
    steps, threads = steps + experiment.onset(run.trace), torch.get_num_threads()
    steps = -(-steps // windows.get("step", 1)) * windows.get("step", 1)
    torch.set_num_threads(run.manifest["threads"])
    try:
        process = experiment.process(store.default_device())
        recomputed = store.trace_of(list(agreement.rows(process, steps)), process.variables)
    finally:
        torch.set_num_threads(threads)
    # of a run that several machines made, the first steps may be another's
    here = [run.manifest["machine"]] == [store.machine(process.device), *run.manifest.get("stretches", [])]
    if list(windows) == ["step"]:  # as everything lay before tables had cadences of their own
        recomputed = store.side_by_side(recomputed)
    differences = []
    for table in store.tables_of(recomputed):
        window = windows.get(table, 1)
        whole = recomputed.sizes[table] if process.finished else recomputed.sizes[table] // window * window
        if not whole:
            continue
        part = store.single(store.windowed(recomputed.isel({table: slice(whole)}), window, table))
        recorded = store.single(stored.sel({table: slice(part[table].values[-1])}))
        part, recorded = xr.align(part, recorded, join="outer")
        for name in [name for name in part.data_vars if part[name].dims[0] == table]:
            variable = process.variables[name.removesuffix("_min").removesuffix("_max")]
            if variable.tolerance == np.inf:
                continue
            if name not in stored:
                differences.append((0, f"{name} is not in the trace"))
                continue
            new, old = part[name].values, recorded[name].values
            tolerance = variable.tolerance or (0 if here else 1e-3)
            relative, absolute = (0, tolerance) if variable.absolute else (tolerance, 0)
            same = np.isclose(new, old, relative, absolute, equal_nan=True)
            for i in np.flatnonzero(~same.reshape(len(same), -1).all(1)):
                step = part[table].values[i]
                differences.append((step, f"step {step:g}: {name} is {new[i]}, stored is {old[i]}"))
    return [text for _, text in sorted(differences)]
