"""eoslib: observables along the trajectories of gradient descent at the edge of stability.

*Observables* are measured along the *trajectory* that an *update map* draws on an *objective*; a *claim* of a
paper is a criterion on those observables. Each noun is a module.
"""

from eoslib import (
    basins,
    curvature,
    datasets,
    descent,
    experiments,
    landscapes,
    networks,
    objective,
    observables,
    runs,
    stabilization,
)

__version__ = "0.1.0"
__all__ = [
    "basins",
    "curvature",
    "datasets",
    "descent",
    "experiments",
    "landscapes",
    "networks",
    "objective",
    "observables",
    "runs",
    "stabilization",
]
