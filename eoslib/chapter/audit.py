"""Recompute the first steps of a recorded run and compare."""

import numpy as np
import torch

from eoslib import store
from eoslib.chapter.experiments import device, from_identity

# What an iterative search found is right to its tolerance: a better search must not make recorded runs wrong.
# An eigenvalue is right to a relative 1e-3.
TOLERANCES = dict.fromkeys(
    [
        "sharpness", "eigenvalues", "segment_sharpness", "preconditioned_sharpness", "midpoint_sharpness",
        "constrained_sharpness", "constrained_eigenvalues", "next_eigenvalue", "flow_sharpness", "central_sharpness",
    ],
    1e-3,
)  # fmt: skip


# Lower bounds, and ratios to them: a power iteration may stop some per cent below its limit.
TOLERANCES |= dict.fromkeys(
    [
        "rho_3", "rho_4", "restoring_ratio", "fourth_order_ratio", "third_order_ratio_v", "third_order_ratio_gradient",
    ],
    0.1,
)  # fmt: skip


# A cosine with an eigenvector is right to the angle by which that may be off, whatever its size.
COSINES, COSINE_TOLERANCE = ("alignment", "unstable_alignment"), 0.01


# What it cost and how far it went is no result.
DIAGNOSTICS = ("products", "sharpness_residual", "constrained_residual")


def audit(run: store.Run, steps: int = 20) -> list[str]:
    """Recompute the first steps of a run and compare with its trace: bit for bit (as float32) on the machine that
    made it, with its number of threads; elsewhere to a relative 1e-3. What was searched for has `TOLERANCES` of its own
    everywhere, `COSINES` an absolute one, and `DIAGNOSTICS` are left out. A thinned trace is compared in whole windows.
    A `StabilizationRun` is recomputed to so many steps after its onset. Returns the differences found."""
    here = run.manifest["machine"] == store.machine()
    window = int(run.trace.attrs.get("window", 1))
    if "constrained_loss" in run.trace:
        steps += int(np.isfinite(run.trace.constrained_loss.values).argmax())
    threads = torch.get_num_threads()
    torch.set_num_threads(run.manifest["threads"])
    try:
        process, rows = from_identity(run.identity).process(device()), []
        while len(rows) < -(-steps // window) * window and not process.finished:
            process.step()
            rows.append(process.observe())
    finally:
        torch.set_num_threads(threads)
    recomputed = store.single(store.windowed(store.trace_of(rows), window))
    recorded = store.single(run.trace.reindex(step=recomputed["step"]))
    differences = []
    for name in recomputed.data_vars:
        observable = name.removesuffix("_min").removesuffix("_max")
        if observable in DIAGNOSTICS:
            continue
        if name not in recorded:
            differences.append((0, f"{name} is not in the trace"))
            continue
        new, stored = recomputed[name].values, recorded[name].values
        with np.errstate(invalid="ignore"):  # inf − inf
            relative = TOLERANCES.get(observable, 0 if here else 1e-3)
            close = abs(stored - new) <= (COSINE_TOLERANCE if observable in COSINES else relative * abs(stored))
        same = close | (stored == new) | (np.isnan(stored) & np.isnan(new))
        for i in np.flatnonzero(~same.reshape(len(same), -1).all(1)):
            differences.append((i, f"step {recomputed['step'].values[i]:g}: {name} is {new[i]}, stored is {stored[i]}"))
    return [text for _, text in sorted(differences)]
