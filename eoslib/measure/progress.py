"""Relative progress, directional smoothness and accuracy: as plain functions, and measured along a trajectory, where
those of step t cost nothing: they need only f and ∇f at θ_t and θ_{t+1}, which it has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from eoslib.measure.variables import Measurement, Stateful, Variable
from eoslib.problems.objective import Evaluation, Objective, SupervisedObjective


def relative_progress(value: float, value_after: float, slope: float) -> float:
    """RP(θ) = (f(θ − v) − f(θ)) / ⟨∇f(θ), v⟩, which for v = η∇f is Ahn et al. 2022, definition 1.

    value, value_after: f at θ and at θ − v; slope: ⟨∇f(θ), v⟩. nan at a stationary point.
    """
    return _ratio(value_after - value, slope)


def directional_smoothness(v: Tensor, gradient: Tensor, gradient_after: Tensor) -> float:
    """L(θ; v) = ⟨v, ∇f(θ) − ∇f(θ − v)⟩ / ‖v‖², Ahn et al. 2022, definition 2; all of shape (p,)."""
    return _ratio(torch.dot(v, gradient - gradient_after).item(), torch.dot(v, v).item())


def accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Share, a scalar, of labels (n,), or (n, length), at which the outputs (…, c) are largest; if c = 1 the sign
    decides."""
    predicted = outputs[..., 0] > 0 if outputs.shape[-1] == 1 else outputs.argmax(-1)
    return (predicted == labels).double().mean()


@dataclass(frozen=True, kw_only=True)
class Loss(Measurement):
    """f on the whole data, ‖∇f‖ and the accuracy."""

    variables: ClassVar = {
        "loss": Variable("training loss f(θ)"),
        "gradient_norm": Variable("gradient norm ‖∇f(θ)‖"),
        "accuracy": Variable("training accuracy"),
    }

    def measure(self, point: Any, step_size: float) -> dict[str, float]:
        """The trajectory has brought these numbers over already."""
        return point.numbers


@dataclass(frozen=True, kw_only=True)
class Progress(Loss):
    """The same, and relative progress and directional smoothness of the step v = θ_t − θ_{t+1} on the whole data.

    In the metric P of an adaptive method ‖v‖² is ⟨v, Pv⟩, which for P = 1 is that of gradient descent.
    """

    along: ClassVar[bool] = True
    variables: ClassVar = Loss.variables | {
        "relative_progress": Variable("relative progress (f(θ − v) − f(θ)) / ⟨∇f(θ), v⟩"),
        "directional_smoothness": Variable("directional smoothness L(θ; v)"),
    }

    def inner_products(self, v: Tensor, gradient: Tensor, gradient_after: Tensor, metric: Tensor | None) -> dict:
        """⟨v, ∇f(θ) − ∇f(θ − v)⟩, ⟨v, Pv⟩ and ⟨∇f(θ), v⟩ as scalar tensors; all of shape (p,)."""
        return {
            "turned": torch.dot(v, gradient - gradient_after),
            "square": torch.dot(v, v if metric is None else metric * v),
            "slope": torch.dot(gradient, v),
        }

    def compare(self, before: dict[str, float], after: dict[str, float], products: dict[str, float]) -> dict:
        """The observables of the step, in double precision, from the numbers at its two ends."""
        return {
            "relative_progress": relative_progress(before["loss"], after["loss"], products["slope"]),
            "directional_smoothness": _ratio(products["turned"], products["square"]),
        }


def segment_smoothness(objective: Objective, theta: Tensor, gradient: Tensor, step_size: float, taus) -> list[float]:
    """L(θ; ητ∇f(θ)) for every τ of `taus` in (0, 1] (Ahn et al. 2022, experiment 5); one gradient each."""
    steps = (step_size * tau * gradient for tau in taus)
    return [directional_smoothness(v, gradient, objective.gradient(theta - v)) for v in steps]


@dataclass(frozen=True, kw_only=True)
class SegmentSmoothness(Measurement):
    """L(θ; ητ∇f(θ)) along the step of gradient descent.

    rule: "gauss", the `nodes` Gauss–Legendre nodes of [0, 1], with which ∫₀¹ is exact to rounding for smooth f;
    "even", τ = 1/nodes, 2/nodes, …, 1 (the paper's experiment 5 has nodes = 100).
    """

    nodes: int = 16
    rule: str = "gauss"
    variables: ClassVar = {
        "segment_smoothness": Variable("directional smoothness L(θ; ητ∇f(θ)) along the step", dims=("tau",)),
    }

    def gradients(self, n: int) -> float:
        return self.nodes  # one for each τ

    def measure(self, point: Any, step_size: float) -> dict[str, list[float]]:
        where = point.objective, point.theta, point.gradient
        return {"segment_smoothness": segment_smoothness(*where, step_size, taus(self.nodes, self.rule))}


def taus(nodes: int, rule: str) -> np.ndarray:
    """The positions τ of `SegmentSmoothness`, shape (nodes,)."""
    if rule == "even":
        return np.arange(1, nodes + 1) / nodes
    if rule == "gauss":
        return gauss_legendre(nodes)[0]
    raise ValueError(f"unknown rule {rule!r}; there are even, gauss")


def gauss_legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss–Legendre quadrature on [0, 1], each of shape (nodes,)."""
    x, weights = np.polynomial.legendre.leggauss(nodes)
    return (x + 1) / 2, weights / 2


def expected_relative_progress(
    objective: SupervisedObjective, theta: Tensor, here: Evaluation, step_size: float, minibatches: Sequence[Tensor]
) -> dict[str, float]:
    """E[RP(θ)] of SGD and the right-hand side of relation (6), from a sample of minibatches.

    Ahn et al. 2022, definition 3: E[RP] = (E f(θ − ηg) − f(θ)) / (η‖∇f‖²); (6): E[RP] ≈ −1 + (η/2)
    E[‖g‖²/‖∇f‖² · L(θ; ηg)]. here: f and ∇f at θ; minibatches: their indices, each (b,). Returns both means, their
    standard errors, and the share of the minibatches with f(θ − ηg) < f(θ). Costs a full gradient for each.
    """
    square, error = torch.dot(here.gradient, here.gradient), len(minibatches) ** 0.5
    progress, relation, decreases = [], [], []
    for minibatch in minibatches:
        g = objective.batch(minibatch).gradient(theta)
        after = objective.evaluate(theta - step_size * g)
        # E⟨g, ∇f⟩ is ‖∇f‖² exactly, so the sample's deviation from it is taken out: the same mean, far less noise
        deviation = step_size * (torch.dot(g, here.gradient) - square)
        progress.append(((after.value - here.value + deviation) / (step_size * square)).item())
        # ‖g‖² L(θ; ηg) = ⟨g, ∇f(θ) − ∇f(θ − ηg)⟩ / η
        relation.append((-1 + torch.dot(g, here.gradient - after.gradient) / (2 * square)).item())
        decreases.append(float(after.value < here.value))
    return {
        "expected_relative_progress": float(np.mean(progress)),
        "expected_relative_progress_se": float(np.std(progress, ddof=1)) / error,
        "expected_relation": float(np.mean(relation)),
        "expected_relation_se": float(np.std(relation, ddof=1)) / error,
        "decreasing_share": float(np.mean(decreases)),
    }


@dataclass(frozen=True, kw_only=True)
class ExpectedProgress(Measurement):
    """`expected_relative_progress` over so many `minibatches` of `batch_size` examples.

    seed: of their choice, which is the measurement's own: estimating does not change the path.
    """

    batch_size: int
    minibatches: int
    seed: int = 0
    variables: ClassVar = {
        "expected_relative_progress": Variable("expected relative progress E[RP(θ)]"),
        "expected_relative_progress_se": Variable("standard error of E[RP(θ)]"),
        "expected_relation": Variable("right-hand side of (6), −1 + (η/2) E[‖g‖² L(θ; ηg)] / ‖∇f‖²"),
        "expected_relation_se": Variable("standard error of the right-hand side of (6)"),
        "decreasing_share": Variable("share of the minibatches whose step decreases f"),
    }

    def gradients(self, n: int) -> float:
        return self.minibatches * (1 + self.batch_size / n)  # of each and, where its step leads, of all examples

    def begin(self, problem: Any, theta: Any) -> "_Estimator":
        return _Estimator(self)


class _Estimator:
    def __init__(self, declared: ExpectedProgress):
        self.declared = declared
        self.generator = torch.Generator().manual_seed(declared.seed + 1)  # not that of the order of the examples

    def measure(self, point: Any, step_size: float) -> dict[str, float]:
        n, b = len(point.objective.labels), self.declared.batch_size
        orders = (torch.randperm(n, generator=self.generator) for _ in range(self.declared.minibatches))
        sample = [order[:b].to(point.theta.device) for order in orders]
        return expected_relative_progress(point.objective, point.theta, point, step_size, sample)

    def state(self) -> dict:
        return {"generator": self.generator.get_state()}

    def load(self, state: dict) -> None:
        self.generator.set_state(state["generator"])


@dataclass(frozen=True, kw_only=True)
class HeldOut(Measurement):
    """Loss and accuracy on so many held-out `examples`: of the test split, or, of data that have none, those that
    follow the training examples. Layers that normalise by the batch take their running statistics there."""

    examples: int
    whole: ClassVar[bool] = False
    variables: ClassVar = {
        "test_loss": Variable("loss on held-out examples"),
        "test_accuracy": Variable("accuracy on held-out examples"),
    }

    def gradients(self, n: int) -> float:
        return self.examples / n / 3  # a forward pass, the third part of a gradient

    def begin(self, problem: Any, theta: Any) -> "_HeldOut":
        return _HeldOut(problem.held_out(self.examples, theta))


class _HeldOut(Stateful):
    def __init__(self, objective: SupervisedObjective):
        self.objective = objective

    def measure(self, point: Any, step_size: float) -> dict[str, Tensor]:
        self.objective.buffers = point.objective.buffers
        with torch.no_grad():
            loss, outputs = self.objective.forward(point.theta, training=False)
        return {"test_loss": loss, "test_accuracy": accuracy(outputs, self.objective.labels)}


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")
