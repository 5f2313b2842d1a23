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
    experiment, window = built(run.identity), int(run.stored.attrs.get("window", 1))
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
    here = run.manifest["machine"] == store.machine(process.device)
    recomputed = store.single(store.windowed(store.side_by_side(store.trace_of(rows, process.variables)), window))
    recorded = store.single(run.trace.reindex(step=recomputed["step"]))
    differences = []
    for name in recomputed.data_vars:
        variable = process.variables[name.removesuffix("_min").removesuffix("_max")]
        if variable.tolerance == np.inf:
            continue
        if name not in recorded:
            differences.append((0, f"{name} is not in the trace"))
            continue
        new, stored = recomputed[name].values, recorded[name].values
        tolerance = variable.tolerance or (0 if here else 1e-3)
        with np.errstate(invalid="ignore"):  # inf − inf
            close = abs(stored - new) <= (tolerance if variable.absolute else tolerance * abs(stored))
        same = close | (stored == new) | (np.isnan(stored) & np.isnan(new))
        for i in np.flatnonzero(~same.reshape(len(same), -1).all(1)):
            differences.append((i, f"step {recomputed['step'].values[i]:g}: {name} is {new[i]}, stored is {stored[i]}"))
    return [text for _, text in sorted(differences)]
