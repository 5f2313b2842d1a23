"""eoslib: observables along the trajectories of gradient descent at the edge of stability.

*Observables* are measured along the *trajectory* that an *update map* draws on an *objective*; a *claim* of a
paper is a criterion on those observables. Each part of that sentence is a floor, and imports only from those below it:
`problems`, `measure`, `dynamics`, `papers`, `chapter`; `store` keeps what lasts.
"""

__version__ = "0.1.0"

from eoslib.chapter.watch import watch

__all__ = ["watch"]
