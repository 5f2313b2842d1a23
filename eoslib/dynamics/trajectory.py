"""The one process that moves θ: objective × batches × rule × schedule × measurements.

A process has `step()`, `observe()`, `state()`, `load(state)`, the number of `steps` it may take, whether it is
`finished`, its `device` and the `variables` that it observes; `store.carry_on` drives it. `observe()` after the t-th
`step()` describes the step θ_t → θ_{t+1}: what was measured at θ_t and along the step, by tables of the trace.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from eoslib.dynamics.rules import Rule, Schedule
from eoslib.measure import host
from eoslib.measure.progress import Loss, Progress, accuracy
from eoslib.measure.variables import Measurement, Stateful, Variable
from eoslib.problems.batches import Batches
from eoslib.problems.objective import Objective

OWN = {"batch_loss": Variable("loss of the minibatch f_B(θ)"), "eta": Variable("step size η")}


class Place:
    """θ alone: theta (p,), for what looks at minibatches of its own, or at no data."""

    def __init__(self, objective: Objective, theta: Tensor):
        self.objective, self.theta = objective, theta


class Point(Place):
    """f and ∇f at θ: theta (p,), value (), gradient (p,), the network's outputs (n, c) or None; on the host, the
    `numbers` loss, gradient_norm and accuracy. Where products are wanted an `Expansion` takes its place."""

    numbers: dict[str, float]

    def __init__(self, objective: Objective, theta: Tensor):
        super().__init__(objective, theta)
        self.value, self.gradient, self.outputs = objective.evaluate(theta)


class Trajectory(Stateful):
    """θ_{t+1} = θ_t − v_t, v_t by the rule from the gradient of what the step sees.

    theta: start (p,), whose type and device the run keeps. step_size: η > 0, which the schedule may change. steps: at
    most so many. measurements: if neither `Loss` nor `Progress` is among them, progress is taken at every step where a
    step sees the whole data, else the loss at every epoch. problem: handed to measurements that need more than the
    objective. seed: of the batches. stop_accuracy: the run ends with the first step whose accuracy reaches it. keep: of
    these t, or at the "last", θ_t is `kept`. It ends too when a loss or gradient is no longer finite; `diverged_at` is
    then the index of that iterate, else None. Raises ValueError on what does not fit together.
    """

    carries = ("t", "diverged_at", "theta", "gradient", "numbers", "measured", "rows", "rule", "schedule", "batches")

    def __init__(
        self, objective: Objective, theta: Tensor, step_size: float, steps: int,
        measurements: Sequence[Measurement] = (), *,
        rule: Rule = Rule(), schedule: Schedule = Schedule(), batches: Batches = Batches(),  # noqa: B008 – frozen
        problem: Any = None, seed: int = 0, stop_accuracy: float | None = None, keep: Sequence[int | str] = (),
    ):  # fmt: skip
        if not step_size > 0:
            raise ValueError(f"step_size must be positive, got {step_size}")
        self.objective, self.steps, self.stop_accuracy, self.keep = objective, steps, stop_accuracy, keep
        self.theta, self.device = theta.detach(), theta.device
        self.rule, self.schedule = rule.begin(self.theta, step_size), schedule.begin(step_size)
        self.batches, self.whole = batches.begin(objective, seed), batches.whole
        measurements = asked(measurements, self.whole)
        self.variables = dict(OWN)
        for m in measurements:
            if twice := self.variables.keys() & m.variables:
                raise ValueError(f"two measurements yield {', '.join(sorted(twice))}")
            self.variables |= m.variables
        self.measurements = [(m, m.begin(problem, self.theta)) for m in measurements]
        self.t = 0
        self.diverged_at: int | None = None
        self.kept = {"0": self.theta} if 0 in keep else {}
        self.numbers: dict[str, float] | None = None  # f, ‖∇f‖ and accuracy at θ_t, where ∇f is known
        self.gradient: Tensor | None = None  # ∇f(θ_t)
        self.measured: dict[str, dict] | None = None  # at θ_t, by table
        self.rows: dict[str, dict] = {}

    @property
    def finished(self) -> bool:
        """Whether the run's own stopping rule is met."""
        accuracies = [row["accuracy"] for row in self.rows.values() if "accuracy" in row]
        reached = self.stop_accuracy is not None and max(accuracies, default=0) >= self.stop_accuracy
        return self.t >= self.steps or reached or self.diverged_at is not None

    def step(self) -> None:
        """Move from θ_t to θ_{t+1}."""
        if self.measured is None:
            self._arrive({})
        before, gradient, rows = self.numbers, self.gradient, self.measured
        along = next((m for m, _ in self.measurements if m.along and m.due(self.t, self.batches.epoch_begins)), None)
        self.schedule.see(next((row["sharpness"] for row in rows.values() if "sharpness" in row), None))
        step_size, theta = self.schedule.step_size, self.theta
        seen, batch_loss = self.batches.see(theta, gradient)
        metric = self.rule.metric(theta, seen) if along else None
        self.theta, v = self.rule.move(theta, seen, step_size, spent=not self.whole and not along)
        self.t += 1
        self.schedule.advance(self.batches.epoch_begins)

        def inner_products(gradient_after: Tensor) -> dict[str, Tensor]:
            return along.inner_products(theta - self.theta if v is None else v, gradient, gradient_after, metric)

        own = {} if batch_loss is None else {"batch_loss": batch_loss}
        numbers = self._arrive(own, inner_products if along else None)
        if along:
            if self.rule.plain and seen is gradient:
                numbers["slope"] = step_size * before["gradient_norm"] ** 2  # which is ⟨∇f, η∇f⟩
            rows = rows | {along.table: rows[along.table] | along.compare(before, self.numbers, numbers)}
        own = {name: numbers[name] for name in own} | ({} if self.schedule.constant else {"eta": step_size})
        self.rows = rows | {"step": rows.get("step", {}) | own} if own else rows
        self.kept = {str(self.t): self.theta} if self.t in self.keep else {}
        if self.finished:
            self._end()

    def observe(self) -> dict[str, dict]:
        """The observables of the last step, by table and by names of `variables`."""
        return self.rows

    def state(self) -> dict:
        """All that the next step depends on: tensors, numbers and nested dicts of them."""
        return super().state() | {
            "buffers": {name: buffer.clone() for name, buffer in self.objective.buffers.items()},
            "measurements": {str(i): live.state() for i, (_, live) in enumerate(self.measurements)},
            "gradients": self.objective.gradients,
            "products": self.objective.products,
            "unreadable": self.objective.unreadable,
        }

    def load(self, state: dict) -> None:
        """Continue from `state`."""
        self.kept = {}
        super().load(state)
        self.theta = self.theta.to(self.device)
        self.gradient = None if self.gradient is None else self.gradient.to(self.device)
        for name, buffer in state["buffers"].items():
            self.objective.buffers[name].copy_(buffer)
        for i, (_, live) in enumerate(self.measurements):
            live.load(state["measurements"][str(i)])
        self.objective.gradients, self.objective.products = state["gradients"], state["products"]
        if unreadable := state.get("unreadable"):  # which those of earlier versions do not say
            self.objective.inputs.unreadable.update(unreadable)

    def _arrive(self, numbers: dict[str, Tensor], along: Callable[[Tensor], dict] | None = None) -> dict[str, float]:
        """Evaluate and measure what is due at θ_t. Its numbers come over together with the step's own, which are
        returned: `numbers`, and what `along` makes of the gradient here."""
        more = self.t < self.steps  # of the last iterate only what the step needs
        due = [(m, live) for m, live in self.measurements if more and m.due(self.t, self.batches.epoch_begins)]
        self.numbers, self.gradient, point = None, None, None
        whole = [m for m, _ in due if m.whole]
        if along or whole or (self.whole and more):
            point = self._point(any(m.products for m in whole))
            if along:
                numbers = numbers | along(point.gradient)
        arrived = host.numbers(numbers | (point.numbers if point else {}))
        if point:
            self.numbers, self.gradient = {name: arrived[name] for name in point.numbers}, point.gradient
            point.numbers = self.numbers
        if not math.isfinite(arrived.get("batch_loss", 0)):
            self.diverged_at = self.t - 1
        elif not all(math.isfinite(arrived.get(name, 0)) for name in ("loss", "gradient_norm")):
            self.diverged_at = self.t if self.diverged_at is None else self.diverged_at
        due = [(m, live) for m, live in due if self.diverged_at is None or isinstance(m, Loss)]
        self.measured = self._measure(due, point or Place(self.objective, self.theta))
        return arrived

    def _point(self, products: bool) -> Any:
        """f and ∇f at θ_t, with its numbers as tensors still."""
        point = self.objective.expand(self.theta) if products else Point(self.objective, self.theta)
        point.numbers = {"loss": point.value, "gradient_norm": point.gradient.norm()}
        if point.outputs is not None:
            point.numbers["accuracy"] = accuracy(point.outputs, self.objective.labels)
        return point

    def _measure(self, due: Sequence[tuple[Measurement, Any]], point: Any) -> dict[str, dict]:
        """The rows of the tables that are due."""
        rows: dict[str, dict] = {}
        for m, live in due:
            metric = self.rule.metric(point.theta, point.gradient) if m.preconditioned else None
            at = point if metric is None else Scaled(point, metric**-0.5)
            rows.setdefault(m.table, {}).update(live.measure(at, self.schedule.step_size))
        return {table: host.numbers(row) for table, row in rows.items()}

    def _end(self) -> None:
        """What is kept and measured of the last iterate."""
        if "last" in self.keep:
            self.kept["last"] = self.theta
        ending = [(m, live) for m, live in self.measurements if m.every == "end"]
        if ending and self.diverged_at is None:
            point = Place(self.objective, self.theta)
            if whole := [m for m, _ in ending if m.whole]:
                point = self._point(any(m.products for m in whole))
                point.numbers = host.numbers(point.numbers)
            self.rows = self.rows | self._measure(ending, point)


class Scaled:
    """An expansion seen in coordinates θ/s: gradient s∇f, Hessian s∇²f s; s (p,) is the diagonal of a matrix.

    With s = P^{-1/2} the step P⁻¹∇f is one of gradient descent.
    """

    def __init__(self, point, s: Tensor):
        self.theta, self.value, self.gradient = point.theta, point.value, s * point.gradient
        self._point, self._s = point, s

    def hvp(self, w: Tensor) -> Tensor:
        """s∇²f s w, shape (p,)."""
        return self._s * self._point.hvp(self._s * w)

    rough = hvp


def asked(measurements: Sequence[Measurement], whole: bool) -> Sequence[Measurement]:
    """The measurements, and what is taken where none of them is of the loss; whole: whether a step sees all data."""
    if any(isinstance(m, Loss) for m in measurements):
        return measurements
    return [Progress() if whole else Loss(every="epoch"), *measurements]
