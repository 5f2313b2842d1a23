"""Experiments: complete declarations in plain values, each of which names a run and can build its process.

An experiment is composed of small frozen dataclasses, which lie beside what they declare: a problem, `Batches`, `Rule`,
`Schedule`, measurements. A chapter declares lists of experiments; `collect` turns such a list into finished runs.
`python -m eoslib compute` does the same without a notebook.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from eoslib import store
from eoslib.chapter import presets
from eoslib.chapter.templates import render
from eoslib.dynamics.rules import Rule, Schedule
from eoslib.dynamics.scan import Scan
from eoslib.dynamics.starts import Starts, uniform_points
from eoslib.dynamics.trajectory import Trajectory, asked
from eoslib.measure.variables import Measurement
from eoslib.papers.basins import BasinMap, BasinSizes, Uncertainty, UnstablePieces, UnstableShares
from eoslib.papers.escape import PhaseDiagram
from eoslib.papers.paths import Displacements
from eoslib.papers.stabilization import ALSO, SelfStabilization
from eoslib.problems import landscapes, ranks
from eoslib.problems.batches import Batches
from eoslib.problems.problem import Data, Network, OnLandscape, Training

LABELS = ("chapter", "experiment")  # where an experiment belongs; not hashed


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What every experiment says: where it belongs, η, and how many steps at most."""

    chapter: str
    experiment: str
    step_size: float
    steps: int

    revision: ClassVar[int] = 1  # raised in the commit that changes what the kind computes
    instant: ClassVar[bool] = False  # so cheap that every build may compute it

    @property
    def fingerprint(self) -> str | None:
        """Of the data; None if they are absent here, "" if it uses none."""
        return self.problem.fingerprint if hasattr(self, "problem") else ""

    @property
    def builds_on(self) -> "tuple[Descent, ...]":
        """Runs whose kept θ this one needs: they come first."""
        return ()

    @property
    def identity(self) -> store.Identity:
        """All that determines the run."""
        return store.Identity(described(self) | {"fingerprint": self.fingerprint}, differing(self))

    def process(self, device: torch.device) -> store.Process:
        """The computation itself, at its first step."""
        raise NotImplementedError

    def work(self) -> tuple[float, float]:
        """Operations that a step takes as long as, counted roughly, and bytes of memory."""
        raise NotImplementedError

    def onset(self, trace) -> int:
        """The first step that an audit has to reach."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Descent(Experiment):
    """A `Trajectory`: problem × batches × rule × schedule × measurements. precision: float32 or float64. seed: of the
    network and of the batches. stop_accuracy, keep: see `Trajectory`. start: another run on the same problem, at whose
    kept θ of step `start_at` this one begins, its momentum at zero; by default the network's initialisation."""

    problem: Training | OnLandscape
    rule: Rule = Rule()  # noqa: RUF009 – frozen, here and below
    schedule: Schedule = Schedule()  # noqa: RUF009
    batches: Batches = Batches()  # noqa: RUF009
    measurements: tuple[Measurement, ...] = ()
    precision: str = "float32"
    seed: int = 0
    stop_accuracy: float | None = None
    keep: tuple[int | str, ...] = ()
    start: "Descent | None" = None
    start_at: int | str = "last"

    @property
    def instant(self) -> bool:
        return isinstance(self.problem, OnLandscape)

    @property
    def builds_on(self) -> "tuple[Descent, ...]":
        return (self.start,) if self.start else ()

    def process(self, device: torch.device) -> Trajectory:
        objective, theta = self.problem.begin(self.seed, self.precision, device)
        if self.start:
            if self.start.problem != self.problem or objective.buffers:
                raise ValueError("a warm start is on the same problem, of a network without running statistics")
            theta = finished(self.start).theta(self.start_at).to(theta)
        return Trajectory(
            objective, theta, self.step_size, self.steps, self.measurements, rule=self.rule, schedule=self.schedule,
            batches=self.batches, problem=self.problem, seed=self.seed, stop_accuracy=self.stop_accuracy, keep=self.keep
        )  # fmt: skip

    def work(self) -> tuple[float, float]:
        whole, memory = self.problem.work(self.precision)
        size, n = self.batches.batch_size, self.problem.examples
        operations, _ = self.problem.work(self.precision, size)
        epoch = self.batches.epoch(n)
        measured = asked(self.measurements, self.batches.whole)
        for m in measured:
            ends = 0 if self.batches.whole else (1 + m.along) * m.whole  # where the whole data are seen for its sake
            operations += (ends + m.gradients(n)) * whole * min(1, m.share(self.steps, epoch))
        return operations, memory if any(m.products for m in measured) else memory / 4


@dataclass(frozen=True, kw_only=True)
class ManyStarts(Experiment):
    """Gradient descent on a function of `landscapes` from `starts` points of a box, side by side, see `Starts`.
    box: (low, high) for each coordinate. keep: the steps at which θ is observed. noise, noise_size: added to the
    gradient, see `counter_noise.noise_at`. seed: of the points and of the noise."""

    instant: ClassVar[bool] = True

    landscape: str
    starts: int
    box: tuple[tuple[float, float], ...]
    seed: int = 0
    keep: tuple[int, ...]
    noise: str = "none"
    noise_size: float = 0.0

    def process(self, device: torch.device) -> Starts:
        theta = uniform_points(self.box, self.starts, self.seed)
        f = landscapes.get(self.landscape)
        return Starts(f, theta, self.step_size, self.steps, self.keep, self.noise, self.noise_size, self.seed)

    def work(self) -> tuple[float, float]:
        return self.starts * 100.0, 100.0 * self.starts * len(self.box)


@dataclass(frozen=True, kw_only=True)
class Phases(Experiment):
    """Where starts in a box end, and what share of them meets each of the balls: at `steps` step sizes up to
    `step_size`, each `ratio` times the one before, and at each of the noise_sizes; see `escape.PhaseDiagram`."""

    landscape: str
    box: tuple[tuple[float, float], ...]
    runs: int
    iterations: int
    balls: tuple[tuple[tuple[float, ...], float], ...]
    ratio: float = 2.0
    noise: str = "none"
    noise_sizes: tuple[float, ...] = (0.0,)
    momentum: float = 0.0
    seed: int = 0

    @property
    def step_sizes(self) -> tuple[float, ...]:
        return tuple(self.step_size / self.ratio**k for k in reversed(range(self.steps)))

    @property
    def instant(self) -> bool:
        return self.steps * self.work()[0] < 2e10  # seconds

    def process(self, device: torch.device) -> PhaseDiagram:
        return PhaseDiagram(
            landscapes.get(self.landscape), self.box, self.step_sizes, self.noise_sizes, self.runs, self.iterations,
            self.balls, self.noise, self.seed, self.momentum,
        )  # fmt: skip

    def work(self) -> tuple[float, float]:
        points = self.runs * len(self.noise_sizes)
        return points * self.iterations * 100.0, 100.0 * points * len(self.box)


@dataclass(frozen=True, kw_only=True)
class Map(Experiment):
    """The outcome of gradient descent from each pixel of box = (left, right, bottom, top), see `basins.BasinMap`."""

    landscape: str
    box: tuple[float, float, float, float]
    grid: int

    kind: ClassVar[type] = BasinMap

    def process(self, device: torch.device) -> Scan:
        return self.kind(landscapes.get(self.landscape), self.step_size, self.box, self.grid, self.steps)

    def work(self) -> tuple[float, float]:
        return self.grid**2 * (2e4 / self.steps if self.kind is BasinMap else 2e4), 90 * self.grid**2


@dataclass(frozen=True, kw_only=True)
class Sizes(Map):
    """Areas and boundaries of U_η and V_η at `steps` step sizes up to `step_size`, see `basins.BasinSizes`."""

    kind: ClassVar[type] = BasinSizes


@dataclass(frozen=True, kw_only=True)
class Shares(Map):
    """The unstable share of V_η at `steps` step sizes from `smallest` to `step_size`, see `basins.UnstableShares`."""

    smallest: float

    kind: ClassVar[type] = UnstableShares

    def process(self, device: torch.device) -> Scan:
        place = landscapes.get(self.landscape), self.step_size, self.box, self.grid, self.steps
        return self.kind(*place, self.smallest)


@dataclass(frozen=True, kw_only=True)
class Pieces(Map):
    """Into how many pieces the unstable starts fall, on `steps` grids up to `grid`, see `basins.UnstablePieces`."""

    kind: ClassVar[type] = UnstablePieces


@dataclass(frozen=True, kw_only=True)
class Uncertain(Map):
    """How many starts each of `steps` shifts moves into U_η or V_η or out of it, see `basins.Uncertainty`."""

    kind: ClassVar[type] = Uncertainty


@dataclass(frozen=True, kw_only=True)
class Together(Experiment):
    """`Displacements` of the θ that `runs` keep, at steps, from the first that the first of them keeps, in one step.
    step_size: the largest of theirs."""

    runs: tuple[Descent, ...]

    @property
    def fingerprint(self) -> str | None:
        return self.runs[0].fingerprint

    @property
    def builds_on(self) -> tuple[Descent, ...]:
        return self.runs

    def process(self, device: torch.device) -> Displacements:
        found = [finished(run) for run in self.runs]
        return Displacements([{t: run.theta(t) for t in e.keep} for e, run in zip(self.runs, found, strict=True)])

    def work(self) -> tuple[float, float]:
        points = sum(len(run.keep) for run in self.runs)
        return 1e8 * points, 4e6 * points


@dataclass(frozen=True, kw_only=True)
class Stabilization(Experiment):
    """Gradient descent, constrained trajectory, flows and predictions side by side, see `SelfStabilization`.
    tracked, unstable, every, predict_from, also: its parameters. precision: of the steps before the onset, and after it
    of what tolerates rounding; states and gradients are in float64 then. In the trace the variables of the constrained
    trajectory are nan before the onset."""

    problem: Training
    tracked: int
    unstable: int = 1
    every: int = 50
    predict_from: float = 0.0
    also: tuple[str, ...] = ALSO
    precision: str = "float32"
    seed: int = 0

    def process(self, device: torch.device) -> SelfStabilization:
        approach, theta = self.problem.begin(self.seed, self.precision, device)
        objective, _ = self.problem.begin(self.seed, "float64", device)
        return SelfStabilization(
            objective, theta, self.step_size, self.steps, approach, self.tracked, self.unstable, self.every,
            self.predict_from, self.also,
        )  # fmt: skip

    def work(self) -> tuple[float, float]:
        approach, _ = self.problem.work(self.precision)
        _, memory = self.problem.work("float64")
        gradients = 40 + 20 * ("central flow" in self.also) + 600 / self.every * ("assumptions" in self.also)
        derivatives = 1 if self.problem.network.architecture == "mlp" else 1.6  # what higher ones cost more elsewhere
        return approach * (1 + min(1, self.tracked / self.steps) * derivatives * gradients), 5 * memory

    def onset(self, trace) -> int:
        if "constrained_loss" not in trace:
            return 0
        return int(trace["step"].values[np.isfinite(trace.constrained_loss.values).argmax()])  # of a window its middle


def described(value: Any, leave_out: Callable[[Any, dataclasses.Field], bool] | None = None) -> Any:
    """A declaration as plain values; a part says what it `is`. leave_out: whether to leave out a part's field."""
    if dataclasses.is_dataclass(value):
        fields = [f.name for f in dataclasses.fields(value) if not (leave_out and leave_out(value, f))]
        revision = {"revision": value.revision} if leave_out and getattr(value, "revision", 1) != 1 else {}
        inside = {name: getattr(value, name) for name in fields}
        return {"is": type(value).__name__} | revision | described(inside, leave_out)
    if isinstance(value, dict):
        return {name: described(inner, leave_out) for name, inner in value.items()}
    return [described(inner, leave_out) for inner in value] if isinstance(value, list | tuple) else value


def differing(value: Any) -> Any:
    """The same without what has its default and without labels, and with revisions: what names a run."""
    return described(value, leave_out=_as_before)


def _as_before(value: Any, field: dataclasses.Field) -> bool:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    now = getattr(value, field.name)
    same = described(now) == described(default)  # whether listed or in a tuple
    return field.name in LABELS or (same and getattr(now, "revision", 1) == 1)


def built(values: Any) -> Any:
    """The inverse of `described`, from what the store read; fields that came later have their defaults."""
    if isinstance(values, dict):
        inside = {name: built(value) for name, value in values.items() if name not in ("is", "fingerprint")}
        return _parts()[values["is"]](**inside) if "is" in values else inside
    return tuple(built(value) for value in values) if isinstance(values, list) else values


def _parts() -> dict[str, type]:
    parts = (Data, Network, OnLandscape, Training, Rule, Schedule, Batches)
    return {part.__name__: part for part in (*parts, *_subclasses(Experiment), *_subclasses(Measurement))}


def _subclasses(kind: type) -> Iterator[type]:
    for sub in kind.__subclasses__():
        yield from (sub, *_subclasses(sub))


def carry_on(experiment: Experiment, budget: float | None = None, fresh: bool = False, **options) -> store.Run | None:
    """The experiment's finished run, computed as far as needed; None if the budget (seconds) ended first. options: see
    `store.carry_on`."""
    identity = experiment.identity
    if not fresh and (found := store.find(identity)):
        return found
    process = experiment.process(store.default_device())
    if ranks.count() == 1 or not _shared(experiment):
        return store.carry_on(process, identity, budget, fresh, **options)
    led = ranks.Led(process, identity.key)
    run = store.carry_on(led, identity, budget, fresh, **options)
    led.release()
    return run


def follow(experiments: Sequence[Experiment]) -> None:
    """On a rank other than 0, take the steps of those of the experiments that rank 0 carries on, see `ranks`."""
    ranks.follow({e.identity.key: lambda e=e: e.process(store.default_device()) for e in experiments if _shared(e)})


def _shared(experiment: Experiment) -> bool:
    """Whether several processes can take its steps: those on minibatches, whose size no measurement decides."""
    return (
        isinstance(experiment, Descent)
        and not experiment.batches.whole
        and experiment.schedule.name != "inverse-sharpness"
    )


def finished(experiment: Experiment) -> store.Run:
    """The finished run of an experiment that another one builds on. Raises StoreError if there is none."""
    if found := store.find(experiment.identity):
        return found
    raise store.StoreError(
        f"run {experiment.identity.key} ({experiment.chapter}.{experiment.experiment}, η = {experiment.step_size:g}), "
        "which this one builds on, is not there: compute it first"
    )


def collect(experiments: Sequence[Experiment]) -> list[store.Run]:
    """The finished runs of a list of experiments, in its order. What is missing is computed, unless EOSLIB_COMPUTE is
    0: then the page says that it was not run at this preset, with the command that runs it, and the list is shorter."""
    may_compute = os.environ.get("EOSLIB_COMPUTE", "1") != "0"
    found = [(e, carry_on(e) if may_compute or e.instant else store.find(e.identity)) for e in experiments]
    if missing := [e for e, run in found if run is None]:
        _show_not_run(missing)
    return [run for _, run in found if run is not None]


def at_quick(chapter: str, experiment: str, which: int = 0) -> store.Run:
    """One finished run of a chapter's own at the preset quick, at whichever preset the chapter runs: to compare with.
    It is computed if it is not in the store, which at quick the chapter does anyway."""
    path = presets.chapter_path(chapter)
    return carry_on(presets.declared_experiments(path, presets.parameters(path))[experiment][which])


def _show_not_run(missing: Sequence[Experiment]) -> None:
    """A box for the page, with a machine-readable twin."""
    from IPython.display import display

    from eoslib.chapter.costs import cost  # which knows experiments

    first = missing[0]
    options = os.environ.get("EOSLIB_OPTIONS", "--preset quick")
    command = f"python -m eoslib compute {first.chapter} {options} --only {first.experiment}"
    minutes = sum(cost(e)[0] for e in missing) / 60
    text = f"{first.experiment}: {len(missing)} run(s) not run at this preset"
    record = {"experiment": first.experiment, "missing": len(missing), "command": command, "minutes": minutes}
    box = render("not_run.html", **record)
    display({"text/plain": text, "text/html": box, "application/vnd.eoslib.notrun+json": record}, raw=True)
