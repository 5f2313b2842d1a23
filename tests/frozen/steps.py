"""The first steps of each kind of experiment at `quick`, as they were when the structure of the library last changed.

`python tests/frozen/steps.py` writes those of this kind of machine; `test_frozen.py` compares. Bits are a matter of
the processor, so each kind of machine has a file of its own.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from eoslib import store
from eoslib.chapter import presets

FOLDER = Path(__file__).parent
CPU = torch.device("cpu")
STEPS = 50
# chapter, experiment, place in its list, and how many steps after the onset where there is one
FROZEN = [
    ("unstable_convergence", "ex1", 0), ("unstable_convergence", "ex2", 1), ("unstable_convergence", "ex3", 1),
    ("unstable_convergence", "exp1", 0),
    ("unstable_convergence", "exp2", 0), ("unstable_convergence", "exp3", 0), ("unstable_convergence", "bracket", 1),
    ("unstable_convergence", "thm2", 0), ("unstable_convergence", "exp5", 0), ("unstable_convergence", "cor1", 0),
    ("unstable_convergence", "spectrum", 0), ("unstable_convergence", "exp6", -1), ("unstable_convergence", "exp8", 0),
    ("unstable_convergence", "exp9", -1), ("unstable_convergence", "adaptive", 0),
    ("unstable_convergence", "adaptive", 1), ("forward_invariance", "fig1", 0), ("forward_invariance", "fig2", 7),
    ("forward_invariance", "fig3", 0), ("forward_invariance", "sizes", 3), ("self_stabilization", "fig1", 0),
    ("self_stabilization", "fig4", 0), ("self_stabilization", "transformer", 0), ("self_stabilization", "appf", 1),
    ("self_stabilization", "fig5", 0), ("self_stabilization", "several", 0), ("self_stabilization", "fig6", 1),
    ("self_stabilization", "fig6", -1), ("no_stationary_points", "fig1", 0), ("no_stationary_points", "fig2", 0),
    ("no_stationary_points", "fig4", 0), ("no_stationary_points", "sharpnesses", 0),
    ("large_learning_rates", "fig5", 0), ("large_learning_rates", "fig5", 2), ("large_learning_rates", "warm", 0),
]  # fmt: skip
AFTER_ONSET = 6


def name_of(chapter: str, experiment: str, place: int) -> str:
    return f"{chapter}.{experiment}.{place}"


def rows_of(chapter: str, experiment: str, place: int) -> dict[str, np.ndarray]:
    """The observables of the first steps by name, (steps, …), nan where not measured."""
    path = presets.chapter_path(chapter)
    declared = presets.declared_experiments(path, presets.parameters(path))
    process, rows = declared[experiment][place].process(CPU), []
    tracked = 0
    most = 3 if chapter == "forward_invariance" and experiment in ("fig2", "sizes") else STEPS  # each a picture
    while not process.finished:
        if tracked == AFTER_ONSET or (len(rows) >= most and not hasattr(process, "onset")):
            break
        t = process.t
        process.step()
        rows.append((t, process.observe()))
        tracked += "constrained_loss" in rows[-1][1].get("step", {})
    if tracked:
        rows = [*rows[: STEPS - AFTER_ONSET], *rows[-AFTER_ONSET:]]
    trace = store.side_by_side(store.trace_of(rows, process.variables))
    return {str(name): trace[name].values for name in trace.data_vars}


def file_of(machine: dict[str, str]) -> Path:
    slug = "".join(c if c.isalnum() else "-" for c in f"{store.processor(machine)}-{machine['torch']}").lower()
    return FOLDER / f"{slug}.npz"


def freeze() -> Path:
    torch.set_num_threads(1)
    arrays = {}
    for entry in FROZEN:
        for variable, values in rows_of(*entry).items():
            arrays[f"{name_of(*entry)}/{variable}"] = values
    np.savez_compressed(path := file_of(store.machine(CPU)), **arrays)
    return path


if __name__ == "__main__":
    sys.stdout.write(f"{freeze()}\n")
