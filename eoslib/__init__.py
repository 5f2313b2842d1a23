"""eoslib: observables along the trajectories of gradient descent at the edge of stability.

*Observables* are measured along the *trajectory* that an *update map* draws on an *objective*; a *claim* of a
paper is a criterion on those observables. Each part of that sentence is a floor, and imports only from those below it:
`problems`, `measure`, `dynamics`, `papers`, `chapter`; `store` keeps what lasts.
"""

__version__ = "0.1.0"

__all__ = ["watch"]


def __getattr__(name: str):
    if name != "watch":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from eoslib.chapter.watch import watch  # here, or every floor would import those above it

    return watch
