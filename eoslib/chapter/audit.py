"""Recompute the first steps of a recorded run and compare."""

import numpy as np
import torch

from eoslib import store
from eoslib.chapter.experiments import built


def audit(run: store.Run, steps: int = 20) -> list[str]:
    """The differences between a run's trace and its first steps, recomputed: bit for bit (as float32) on the machine
    that made it, with its number of threads; elsewhere to a relative 1e-3. What was searched for has a tolerance of its
    own everywhere, and what it cost is left out: see `measure.variables.Variable`. A thinned trace is compared in whole
    windows; a run with an onset is recomputed to so many steps after it."""
    experiment, window = built(run.identity), store.window_of(run.stored)
    steps += experiment.onset(run.trace)
    threads = torch.get_num_threads()
    torch.set_num_threads(run.manifest["threads"])
    try:
        process, rows = experiment.process(store.default_device()), []
        while process.t < -(-steps // window) * window and not process.finished:
            t = process.t
            process.step()
            rows.append((t, process.observe()))
    finally:
        torch.set_num_threads(threads)
    # of a run that several machines made, the first steps may be another's
    here = [run.manifest["machine"]] == [store.machine(process.device), *run.manifest.get("stretches", [])]
    recomputed = store.trace_of(rows, process.variables)
    missing = [name for name in recomputed.data_vars if name not in run.stored and _judged(process.variables[name])]
    differences = [(0, f"{name} is not in the trace") for name in missing]
    for table in store.tables_of(run.stored):
        if table != "end":
            differences += _differences(run.stored, table, recomputed, process, here)
    return [text for _, text in sorted(differences)]


def _judged(variable) -> bool:
    return variable.tolerance != np.inf


def _differences(trace, table: str, recomputed, process, here: bool) -> list[tuple[int, str]]:
    """Those of one table, each with its place there. Runs of old have all variables in the table `step`."""
    names = [name for name in trace.data_vars if trace[name].dims[0] == table]
    both = store.side_by_side(recomputed[[name for name in recomputed.data_vars if name in names]])
    window = store.window_of(trace, table)
    whole = both.sizes.get("step", 0) if process.finished else both.sizes.get("step", 0) // window * window
    if not whole:
        return []
    both = store.single(store.windowed(both.isel(step=slice(whole)), window))
    recorded = store.single(store.side_by_side(trace[names]).reindex(step=both["step"]))
    differences = []
    for name in both.data_vars:
        variable = process.variables[name.removesuffix("_min").removesuffix("_max")]
        if not _judged(variable):
            continue
        new, stored = both[name].values, recorded[name].values
        tolerance = variable.tolerance or (0 if here else 1e-3)
        with np.errstate(invalid="ignore"):  # inf − inf
            close = abs(stored - new) <= (tolerance if variable.absolute else tolerance * abs(stored))
        same = close | (stored == new) | (np.isnan(stored) & np.isnan(new))
        for i in np.flatnonzero(~same.reshape(len(same), -1).all(1)):
            differences.append((i, f"step {both['step'].values[i]:g}: {name} is {new[i]}, stored is {stored[i]}"))
    return differences
