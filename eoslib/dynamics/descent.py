"""Update maps θ ↦ θ − ηg(θ) as processes: gradient descent and stochastic gradient descent.

A process has `step()`, `observe()`, `state()`, `load(state)`, the number of `steps` it may take and whether it
is `finished`; `store.carry_on` drives it. `observe()` after the t-th `step()` describes the step θ_t → θ_{t+1}:
f, ∇f and all else at θ_t, with relative progress and directional smoothness, which need θ_{t+1} too.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from eoslib.measure import progress
from eoslib.problems.objective import Objective, SupervisedObjective


class Measurement(Protocol):
    """An observable that costs something, hence measured only at the steps divisible by `every`."""

    every: int

    def measure(self, point, step_size: float) -> dict: ...
    def state(self) -> dict: ...
    def load(self, state: dict) -> None: ...


class GradientDescent:
    """θ_{t+1} = θ_t − η∇f(θ_t).

    theta: start (p,), whose type and device the run keeps. step_size: η > 0. steps: at most so many.
    stop_accuracy: the run ends with the first step whose accuracy reaches it. It ends too when f or ∇f
    is no longer finite; `diverged_at` is then the index of that iterate, else None.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        step_size: float,
        steps: int,
        measurements: Sequence[Measurement] = (),
        stop_accuracy: float | None = None,
    ):
        if not step_size > 0:
            raise ValueError(f"step_size must be positive, got {step_size}")
        self.objective, self.step_size, self.steps = objective, step_size, steps
        self.measurements, self.stop_accuracy = tuple(measurements), stop_accuracy
        self.theta = theta.detach()
        self.t = 0
        self.diverged_at: int | None = None
        self._here: dict | None = None  # observables at θ_t, and its gradient
        self._gradient: Tensor | None = None
        self._row: dict = {}

    @property
    def finished(self) -> bool:
        """Whether the run's own stopping rule is met."""
        reached = self.stop_accuracy is not None and self._row.get("accuracy", 0) >= self.stop_accuracy
        return self.t >= self.steps or reached or self.diverged_at is not None

    def step(self) -> None:
        """Move from θ_t to θ_{t+1}."""
        if self._here is None:
            self._here, self._gradient = self._arrive()
        here, gradient = self._here, self._gradient
        v, gradient_square, v_square = self._update()
        self.theta = self.theta - v
        self.t += 1
        self._here, self._gradient = self._arrive()
        there = self._here
        self._row = here | {
            "relative_progress": progress.relative_progress(
                here["loss"], there["loss"], gradient_square, self.step_size
            ),
            "directional_smoothness": progress.directional_smoothness(v, gradient, self._gradient, v_square),
        }

    def observe(self) -> dict[str, float | list[float]]:
        """The observables of the last step, by names of `variables.VARIABLES`."""
        return self._row

    def state(self) -> dict:
        """All that the next step depends on: tensors, numbers and nested dicts of them."""
        return {
            "t": self.t,
            "diverged_at": self.diverged_at,
            "theta": self.theta,
            "gradient": self._gradient,
            "here": self._here,
            "row": self._row,
            "gradients": self.objective.gradients,
            "products": self.objective.products,
            "measurements": {str(i): m.state() for i, m in enumerate(self.measurements)},
        }

    def load(self, state: dict) -> None:
        """Continue from `state`."""
        self.t, self.diverged_at = state["t"], state["diverged_at"]
        device = self.theta.device
        self.theta = state["theta"].to(device)
        self._gradient = None if state["gradient"] is None else state["gradient"].to(device)
        self._here, self._row = state["here"], state["row"]
        self.objective.gradients, self.objective.products = state["gradients"], state["products"]
        for i, measurement in enumerate(self.measurements):
            measurement.load(state["measurements"][str(i)])

    def _update(self) -> tuple[Tensor, float, float | None]:
        """The update v with θ_{t+1} = θ_t − v, and ⟨∇f, v⟩/η and ‖v‖² (None if Euclidean) in the map's own metric."""
        return self.step_size * self._gradient, self._here["gradient_norm"] ** 2, None

    def _measure(self, measurement: Measurement, point) -> dict:
        """One measurement at an `objective.Expansion`."""
        return measurement.measure(point, self.step_size)

    def _arrive(self) -> tuple[dict, Tensor]:
        """Observables at θ_t, and the gradient there; the graph is kept only where a measurement is due."""
        due = [m for m in self.measurements if self.t % m.every == 0]
        point = self.objective.expand(self.theta) if due else self.objective.evaluate(self.theta)
        here = {"loss": point.value.item(), "gradient_norm": point.gradient.norm().item()}
        if point.outputs is not None:
            here["accuracy"] = progress.accuracy(point.outputs, self.objective.labels)
        if math.isfinite(here["loss"]) and math.isfinite(here["gradient_norm"]):
            for measurement in due:
                here |= self._measure(measurement, point)
        elif self.diverged_at is None:
            self.diverged_at = self.t
        return here, point.gradient


class InverseSharpnessDescent(GradientDescent):
    """Gradient descent with η_t = min(η, 1/S(θ_t)), the stable schedule of Damian et al. 2023, figure 6.

    S is the sharpness as last measured, so that a `SharpnessTracker` must be among the measurements, and measure often
    enough for S to be still true. The paper has no largest η; ours keeps the first steps within the figure's range.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.largest = self.step_size

    def _update(self) -> tuple[Tensor, float, float | None]:
        if "sharpness" in self._here:
            self.step_size = 1 / max(self._here["sharpness"], 1 / self.largest)
        self._here["eta"] = self.step_size
        return super()._update()

    def state(self) -> dict:
        """All that the next step depends on."""
        return super().state() | {"step_size": self.step_size}

    def load(self, state: dict) -> None:
        """Continue from `state`."""
        super().load(state)
        self.step_size = state["step_size"]


class Adam(GradientDescent):
    """θ_{t+1} = θ_t − ηP_t⁻¹m_t, full batch, with exponential averages m of ∇f and ν of its squares, P = diag(√ν + ε).

    beta1, beta2: their decay; beta1 = 0 makes it RMSProp. bias_correction: m/(1 − β₁ᵗ) and ν/(1 − β₂ᵗ) take their
    place, as in Adam and not in RMSProp. The observables are those of the metric P: relative progress
    (f(θ − v) − f(θ)) / ⟨∇f, v⟩ and directional smoothness ⟨v, ∇f(θ) − ∇f(θ − v)⟩ / ⟨v, Pv⟩ of the step v = ηP⁻¹m,
    which for P = 1, m = ∇f are those of gradient descent; and the sharpness of P^{-1/2} ∇²f P^{-1/2}.
    """

    def __init__(self, *arguments, beta1: float, beta2: float, epsilon: float, bias_correction: bool, **options):
        super().__init__(*arguments, **options)
        self.beta1, self.beta2, self.epsilon, self.bias_correction = beta1, beta2, epsilon, bias_correction
        self.m, self.nu = torch.zeros_like(self.theta), torch.zeros_like(self.theta)

    def _arrive(self) -> tuple[dict, Tensor]:
        self._averaged = False
        here, gradient = super()._arrive()
        self._average(gradient)
        return here, gradient

    def _average(self, gradient: Tensor) -> None:
        """Let ∇f(θ_t) into the averages, once."""
        if not self._averaged:
            self.m = self.beta1 * self.m + (1 - self.beta1) * gradient
            self.nu = self.beta2 * self.nu + (1 - self.beta2) * gradient**2
            self._averaged = True

    def _metric(self) -> Tensor:
        """The diagonal of P_t (p,)."""
        correction = 1 - self.beta2 ** (self.t + 1) if self.bias_correction else 1.0
        return (self.nu / correction).sqrt() + self.epsilon

    def _update(self) -> tuple[Tensor, float, float | None]:
        correction = 1 - self.beta1 ** (self.t + 1) if self.bias_correction else 1.0
        m = self.m / correction
        v = self.step_size * m / self._metric()
        return v, torch.dot(self._gradient, v).item() / self.step_size, self.step_size * torch.dot(m, v).item()

    def _measure(self, measurement: Measurement, point) -> dict:
        """In the coordinates P^{1/2}θ, where the step is one of gradient descent."""
        self._average(point.gradient)
        row = super()._measure(measurement, _Scaled(point, self._metric() ** -0.5))
        return {"preconditioned_sharpness" if name == "sharpness" else name: value for name, value in row.items()}

    def state(self) -> dict:
        """All that the next step depends on."""
        return super().state() | {"m": self.m, "nu": self.nu}

    def load(self, state: dict) -> None:
        """Continue from `state`."""
        super().load(state)
        self.m, self.nu = state["m"].to(self.theta.device), state["nu"].to(self.theta.device)


class _Scaled:
    """An expansion seen in coordinates θ/s: gradient s∇f, Hessian s∇²f s; s (p,) is the diagonal of a matrix."""

    def __init__(self, point, s: Tensor):
        self.theta, self.value, self.gradient = point.theta, point.value, s * point.gradient
        self._point, self._s = point, s

    def hvp(self, w: Tensor) -> Tensor:
        """s∇²f s w, shape (p,)."""
        return self._s * self._point.hvp(self._s * w)

    def restricted(self) -> None:
        """No subspace of cheap products: s mixes the principal directions of the inputs."""


class SGD:
    """θ_{t+1} = θ_t − η∇f_B(θ_t), the minibatches B of each epoch drawn without replacement.

    batch_size: examples in a minibatch; the last one of an epoch holds what is left. seed: of the order of the
    examples. At each step the minibatch's loss before and after is observed; the whole objective's loss,
    gradient norm and accuracy at the first step of every epoch, and there, with `estimates` > 0,
    `progress.expected_relative_progress` over so many minibatches of their own. Ends after `steps` or when a
    loss is not finite.
    """

    def __init__(
        self,
        objective: SupervisedObjective,
        theta: Tensor,
        step_size: float,
        steps: int,
        batch_size: int,
        seed: int,
        estimates: int = 0,
    ):
        if not step_size > 0:
            raise ValueError(f"step_size must be positive, got {step_size}")
        if not 1 <= batch_size <= len(objective.labels):
            raise ValueError(f"batch_size must be 1 to {len(objective.labels)}, got {batch_size}")
        self.objective, self.step_size, self.steps, self.batch_size = objective, step_size, steps, batch_size
        self.theta = theta.detach()
        self.generator = torch.Generator().manual_seed(seed)
        self.estimates = estimates
        self.estimator = torch.Generator().manual_seed(seed + 1)  # its own: estimating must not change the path
        self.order = torch.empty(0, dtype=torch.int64)  # of the examples in this epoch
        self.position = 0
        self.t = 0
        self.diverged_at: int | None = None
        self._row: dict = {}

    @property
    def finished(self) -> bool:
        """Whether the run's own stopping rule is met."""
        return self.t >= self.steps or self.diverged_at is not None

    def step(self) -> None:
        """Move from θ_t to θ_{t+1} along the next minibatch's gradient."""
        self._row = {}
        if self.position >= len(self.order):
            self.order = torch.randperm(len(self.objective.labels), generator=self.generator)
            self.position = 0
            whole = self.objective.evaluate(self.theta)
            self._row = {
                "loss": whole.value.item(),
                "gradient_norm": whole.gradient.norm().item(),
                "accuracy": progress.accuracy(whole.outputs, self.objective.labels),
            }
            if self.estimates:
                self._row |= progress.expected_relative_progress(
                    self.objective, self.theta, whole, self.step_size, self._sample_minibatches()
                )
        chosen = self.order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        minibatch = self.objective.batch(chosen.to(self.theta.device))
        at = minibatch.evaluate(self.theta)
        self.objective.gradients += 1
        self.theta = self.theta - self.step_size * at.gradient
        self.t += 1
        self._row |= {"batch_loss": at.value.item(), "batch_loss_after": minibatch.value(self.theta).item()}
        if not math.isfinite(self._row["batch_loss_after"]):
            self.diverged_at = self.t

    def observe(self) -> dict[str, float]:
        """The observables of the last step, by names of `variables.VARIABLES`."""
        return self._row

    def state(self) -> dict:
        """All that the next step depends on."""
        return {
            "t": self.t,
            "diverged_at": self.diverged_at,
            "theta": self.theta,
            "row": self._row,
            "order": self.order,
            "position": self.position,
            "generator": self.generator.get_state(),
            "estimator": self.estimator.get_state(),
            "gradients": self.objective.gradients,
            "products": self.objective.products,
        }

    def load(self, state: dict) -> None:
        """Continue from `state`."""
        self.t, self.diverged_at, self._row = state["t"], state["diverged_at"], state["row"]
        self.theta = state["theta"].to(self.theta.device)
        self.order, self.position = state["order"], state["position"]
        self.generator.set_state(state["generator"])
        self.estimator.set_state(state["estimator"])
        self.objective.gradients, self.objective.products = state["gradients"], state["products"]

    def _sample_minibatches(self) -> list[Tensor]:
        n, device = len(self.objective.labels), self.theta.device
        return [
            torch.randperm(n, generator=self.estimator)[: self.batch_size].to(device) for _ in range(self.estimates)
        ]
