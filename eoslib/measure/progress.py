"""Relative progress, directional smoothness and accuracy, each as a plain function, and measurements made of them.

Relative progress, directional smoothness and gradient norm of step t need only f and ∇f at θ_t and θ_{t+1},
which the trajectory has anyway.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eoslib.problems.objective import Evaluation, Objective, SupervisedObjective


def relative_progress(value: float, value_after: float, gradient_square: float, step_size: float) -> float:
    """RP(θ) = (f(θ − v) − f(θ)) / (η‖∇f‖²), Ahn et al. 2022, definition 1; v = η∇f.

    value, value_after: f at θ and at θ − v; gradient_square: ‖∇f(θ)‖², for another update ⟨∇f, v⟩/η. nan at a
    stationary point.
    """
    return _ratio(value_after - value, step_size * gradient_square)


def directional_smoothness(v: Tensor, gradient: Tensor, gradient_after: Tensor, square: float | None = None) -> float:
    """L(θ; v) = ⟨v, ∇f(θ) − ∇f(θ − v)⟩ / ‖v‖², Ahn et al. 2022, definition 2; all of shape (p,).

    square: ‖v‖² in another metric than the Euclidean one, ⟨v, Pv⟩.
    """
    return _ratio(torch.dot(v, gradient - gradient_after).item(), torch.dot(v, v).item() if square is None else square)


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Share of examples whose largest output (n, c) is at their label (n,); of a single output the sign decides."""
    predicted = outputs[:, 0] > 0 if outputs.shape[1] == 1 else outputs.argmax(1)
    return (predicted == labels).double().mean().item()


def time_average(values: np.ndarray) -> np.ndarray:
    """Running mean over steps: (1/t) Σ_{s≤t} φ(θ_s), same shape as values (steps, …)."""
    values = np.asarray(values, dtype=float)
    count = np.arange(1, len(values) + 1).reshape(-1, *[1] * (values.ndim - 1))
    return values.cumsum(0) / count


def segment_smoothness(objective: Objective, theta: Tensor, gradient: Tensor, step_size: float, taus) -> list[float]:
    """L(θ; ητ∇f(θ)) for every τ of `taus` in (0, 1] (Ahn et al. 2022, experiment 5); one gradient each."""
    smoothness = []
    for tau in taus:
        v = step_size * tau * gradient
        smoothness.append(directional_smoothness(v, gradient, objective.gradient(theta - v)))
    return smoothness


def expected_relative_progress(
    objective: SupervisedObjective, theta: Tensor, here: Evaluation, step_size: float, minibatches: Sequence[Tensor]
) -> dict[str, float]:
    """E[RP(θ)] of SGD and the right-hand side of relation (6), from a sample of minibatches.

    Ahn et al. 2022, definition 3: E[RP] = (E f(θ − ηg) − f(θ)) / (η‖∇f‖²); (6): E[RP] ≈ −1 + (η/2)
    E[‖g‖²/‖∇f‖² · L(θ; ηg)]. here: f and ∇f at θ; minibatches: their indices, each (b,). Returns both means, their
    standard errors, and the share of the minibatches with f(θ − ηg) < f(θ). Costs a full gradient for each.
    """
    square = torch.dot(here.gradient, here.gradient)
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
    error = len(minibatches) ** 0.5
    return {
        "expected_relative_progress": float(np.mean(progress)),
        "expected_relative_progress_se": float(np.std(progress, ddof=1)) / error,
        "expected_relation": float(np.mean(relation)),
        "expected_relation_se": float(np.std(relation, ddof=1)) / error,
        "decreasing_share": float(np.mean(decreases)),
    }


class SegmentSmoothness:
    """Measures `segment_smoothness` at every step divisible by `every`.

    rule: "gauss", the `nodes` Gauss–Legendre nodes of [0, 1], with which ∫₀¹ is exact to rounding for smooth f;
    "even", τ = 1/nodes, 2/nodes, …, 1 (the paper's experiment 5 has nodes = 100).
    """

    def __init__(self, objective: Objective, every: int, nodes: int, rule: str):
        self.objective, self.every, self.taus = objective, every, taus(nodes, rule)

    def measure(self, point, step_size: float) -> dict[str, list[float]]:
        """Observables at an `objective.Expansion` or `Evaluation` with its θ."""
        values = segment_smoothness(self.objective, point.theta, point.gradient, step_size, self.taus)
        return {"segment_smoothness": values}

    def state(self) -> dict:
        """Nothing carries over from one measurement to the next."""
        return {}

    def load(self, state: dict) -> None:
        """Nothing to load."""


class HeldOut:
    """Measures loss and accuracy on other examples, those of `objective`, at the steps divisible by `every`."""

    def __init__(self, objective: SupervisedObjective, every: int):
        self.objective, self.every = objective, every

    def measure(self, point, step_size: float) -> dict[str, float]:
        """Observables at an `objective.Expansion`."""
        with torch.no_grad():
            loss, outputs = self.objective.forward(point.theta)
        return {"test_loss": loss.item(), "test_accuracy": accuracy(outputs, self.objective.labels)}

    def state(self) -> dict:
        """Nothing carries over from one measurement to the next."""
        return {}

    def load(self, state: dict) -> None:
        """Nothing to load."""


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


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")
