"""What a measurement is: what it yields, when it is taken, and what it needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

Cadence = int | Literal["epoch", "end"] | tuple[int, ...]


class Variable(NamedTuple):
    """How a trace variable is labelled: long_name, units, its dimensions beside the table's, the type it is kept in.

    tolerance: by how much an audit may find another value, relative to it, or absolute. What an iterative search
    found is right to its tolerance only: a better search must not make recorded runs wrong. inf: what it cost is no
    result.
    """

    long_name: str
    units: str = "1"
    dims: tuple[str, ...] = ()
    dtype: str = "float64"
    tolerance: float = 0.0
    absolute: bool = False


class Stateful:
    """What carries on from a state: the attributes that `carries` names, of which some have states of their own."""

    carries: ClassVar[tuple[str, ...]] = ()

    def state(self) -> dict:
        """All that the next step or measurement depends on."""
        own = {name: getattr(self, name) for name in self.carries}
        return {name: part.state() if hasattr(part, "state") else part for name, part in own.items()}

    def load(self, state: dict) -> None:
        """Continue from `state`."""
        for name in self.carries:
            if hasattr(part := getattr(self, name), "load"):
                part.load(state[name])
            else:
                setattr(self, name, state[name])


@dataclass(frozen=True, kw_only=True)
class Measurement(Stateful):
    """Something that is measured along a trajectory; a subclass says what, and names its `variables`.

    every: at the steps divisible by it, at the first step of each "epoch", at the "end", or at the given steps.
    """

    every: Cadence = 1
    variables: ClassVar[Mapping[str, Variable]]
    whole: ClassVar[bool] = True  # whether it looks at f or its derivatives there, on the whole data
    products: ClassVar[bool] = False  # whether it multiplies with the Hessian of the point, or of one as large
    along: ClassVar[bool] = False  # whether it looks at both ends of a step
    preconditioned: ClassVar[bool] = False  # whether it is taken in the metric of the update map

    def begin(self, problem: Any, theta: Any) -> Stateful:
        """What measures, with a state of its own where it has any. problem: what the experiment minimises."""
        return self

    def measure(self, point: Any, step_size: float) -> dict[str, Any]:
        """Observables at an `objective.Point`, by names of `variables`; scalars may be tensors."""
        raise NotImplementedError

    def gradients(self, n: int) -> float:
        """What it takes as long as, roughly, in gradients of n examples; the point itself not counted."""
        return 5.0 if self.products else 0.0

    @property
    def table(self) -> str:
        """The table of the trace in which the variables stand."""
        if isinstance(self.every, int):
            return "step" if self.every == 1 else f"every_{self.every}"
        return self.every if isinstance(self.every, str) else "chosen"

    def share(self, steps: int, epoch: float) -> float:
        """Of so many steps, with `epoch` steps in an epoch, the share at which it is taken."""
        if not isinstance(self.every, int | str):
            return len(self.every) / steps
        return 1 / {"epoch": epoch, "end": steps}.get(self.every, self.every)

    def due(self, t: int, epoch_begins: bool) -> bool:
        """Whether it is taken at θ_t, on the way."""
        if isinstance(self.every, str):
            return epoch_begins and self.every == "epoch"
        return t % self.every == 0 if isinstance(self.every, int) else t in self.every
