"""What is measured along a trajectory, each as a plain function; and the table of all trace variables.

Relative progress, directional smoothness and gradient norm of step t need only f and ∇f at θ_t and θ_{t+1},
which the trajectory has anyway.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eoslib.objective import Evaluation, Objective, SupervisedObjective


class Variable(NamedTuple):
    """How a trace variable is labelled: long_name, units, its dimensions beside `step`, and the type it is kept in."""

    long_name: str
    units: str = "1"
    dims: tuple[str, ...] = ()
    dtype: str = "float64"


VARIABLES: dict[str, Variable] = {
    "loss": Variable("training loss f(θ)"),
    "gradient_norm": Variable("gradient norm ‖∇f(θ)‖"),
    "accuracy": Variable("training accuracy"),
    "test_loss": Variable("loss on held-out examples"),
    "test_accuracy": Variable("accuracy on held-out examples"),
    "relative_progress": Variable("relative progress RP(θ)"),
    "directional_smoothness": Variable("directional smoothness L(θ; η∇f(θ))"),
    "sharpness": Variable("sharpness λ_max(∇²f(θ))"),
    "sharpness_residual": Variable("residual ‖Hu − λu‖ / |λ| of the top eigenpair"),
    "alignment": Variable("alignment |⟨∇f, u₁⟩| / ‖∇f‖ of the gradient with the top eigenvector"),
    "unstable_alignment": Variable("alignment of the gradient with the eigenvectors of eigenvalues ≥ 2/η"),
    "eigenvalues": Variable("top Hessian eigenvalues", dims=("eigenvalue",)),
    "products": Variable("Hessian-vector products spent"),
    "segment_smoothness": Variable("directional smoothness L(θ; ητ∇f(θ)) along the step", dims=("tau",)),
    "segment_sharpness": Variable("sharpness λ_max(∇²f) at points of the step", dims=("tau",)),
    "theta": Variable("parameters θ", dims=("coordinate",)),
    "batch_loss": Variable("loss of the minibatch f_B(θ)"),
    "batch_loss_after": Variable("loss of the same minibatch after the step"),
    "expected_relative_progress": Variable("expected relative progress E[RP(θ)]"),
    "expected_relative_progress_se": Variable("standard error of E[RP(θ)]"),
    "expected_relation": Variable("right-hand side of (6), −1 + (η/2) E[‖g‖² L(θ; ηg)] / ‖∇f‖²"),
    "expected_relation_se": Variable("standard error of the right-hand side of (6)"),
    "decreasing_share": Variable("share of the minibatches whose step decreases f"),
    "preconditioned_sharpness": Variable("preconditioned sharpness λ_max(P^{-1/2} ∇²f P^{-1/2})"),
    "midpoint_sharpness": Variable("sharpness at the midpoint (θ_t + θ_{t+1})/2"),
    "constrained_loss": Variable("loss f(θ†) of the constrained trajectory"),
    "constrained_sharpness": Variable("sharpness λ_max(∇²f(θ†)) of the constrained trajectory"),
    "constrained_eigenvalues": Variable("constrained eigenvalues of ∇²f(θ†), if several", dims=("eigenvalue",)),
    "constrained_residual": Variable("residual ‖Hu − λu‖ / |λ| of the top eigenpair at θ†"),
    "next_eigenvalue": Variable("largest eigenvalue of ∇²f(θ†) that is not constrained, λ₂ if one is"),
    "distance": Variable("distance ‖θ − θ†‖ to the constrained trajectory"),
    "flow_loss": Variable("loss of gradient flow"),
    "flow_sharpness": Variable("sharpness of gradient flow"),
    "flow_distance": Variable("distance of gradient flow to the constrained trajectory"),
    "central_loss": Variable("time average f(w) + Sσ²/2 of the loss by the central flow"),
    "central_sharpness": Variable("sharpness of the central flow"),
    "central_variance": Variable("variance σ² of the oscillation along u by the central flow"),
    "central_distance": Variable("distance of the central flow to the constrained trajectory"),
    "alpha": Variable("progressive sharpening α = −∇f·∇S⊥ at θ†"),
    "beta": Variable("strength of self-stabilization β = ‖∇S⊥‖² at θ†"),
    "delta": Variable("size of the deviation δ = √(2α/β)"),
    "epsilon": Variable("ε = η√α"),
    "sharpness_slope": Variable("slope ∇S·u of the sharpness along u at θ†"),
    "x": Variable("deviation x = u·(θ − θ†)"),
    "y": Variable("deviation y = ∇S⊥·(θ − θ†)"),
    "projected_gradient_norm": Variable("‖P∇f‖ at θ†, P the projection orthogonal to u and ∇S"),
    "projection_error": Variable("error ‖θ†_{t+1} − θ†_t + ηP∇f‖ / (η‖∇f‖) of the first-order form of the update"),
    "predicted_x": Variable("predicted x"),
    "predicted_y": Variable("predicted y"),
    "predicted_loss": Variable("predicted loss f(θ†) + x²/η"),
    "predicted_sharpness": Variable("predicted sharpness 2/η + y + (∇S·u)x"),
    "predicted_distance": Variable("predicted distance ‖v‖ to the constrained trajectory"),
    "predicted_error": Variable("error ‖v − (θ − θ†)‖ of the predicted deviation"),
    "generalised_x": Variable("x by the generalised prediction"),
    "generalised_y": Variable("y by the generalised prediction"),
    "generalised_loss": Variable("generalised prediction f(θ†) + x²/η + F(x) of the loss"),
    "generalised_sharpness": Variable("generalised prediction 2/η + y + F″(x) of the sharpness"),
    "generalised_distance": Variable("distance to the constrained trajectory by the generalised prediction"),
    "generalised_error": Variable("error of the deviation by the generalised prediction"),
    "limiting_sharpness": Variable("limit 2/η − F′(δ)/δ + F″(δ) of the sharpness"),
    "rho_3": Variable("ρ₃ = ‖∇³f(θ†)‖, by power iteration"),
    "rho_4": Variable("ρ₄ = ‖∇⁴f(θ†)‖, by power iteration"),
    "sharpening_alignment": Variable("alignment −∇f·∇S⊥ / (‖∇f‖‖∇S⊥‖) at θ†"),
    "restoring_ratio": Variable("‖∇S⊥‖ / ρ₃"),
    "fourth_order_ratio": Variable("ρ₄ / (ηρ₃²)"),
    "third_order_ratio_v": Variable("‖∇³f(v⊥, v⊥)‖ / (ρ₃‖v⊥‖²), v = θ − θ†"),
    "third_order_ratio_gradient": Variable("‖∇³f(∇f, ∇f)‖ / (ρ₃‖∇f‖²)"),
    "second_order_ratio_v": Variable("|v⊥·∇²f v⊥| / (S‖v⊥‖²), v = θ − θ†"),
    "outcome": Variable("outcome of each point, see eoslib.basins.Outcome", dims=("row", "column"), dtype="uint8"),
    "points": Variable("number of points of each outcome", dims=("kind",)),
    "point_steps": Variable("steps that all points took together"),
    "last_rise": Variable("last step at which f rose from a point that converges, the latest of all"),
    "eta": Variable("step size η"),
    "stable_area": Variable("area of U_η in the box"),
    "convergent_area": Variable("area of V_η in the box"),
    "stable_boxes": Variable("boxes of 1, 2, 4, … cells that the boundary of U_η crosses", dims=("size",)),
    "convergent_boxes": Variable("boxes of 1, 2, 4, … cells that the boundary of V_η crosses", dims=("size",)),
}


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


def distance(theta: Tensor, other: Tensor) -> float:
    """‖θ − θ′‖₂, both (p,)."""
    return (theta - other).norm().item()


def time_average(values: np.ndarray) -> np.ndarray:
    """Running mean over steps: (1/t) Σ_{s≤t} φ(θ_s), same shape as values (steps, …)."""
    values = np.asarray(values, dtype=float)
    count = np.arange(1, len(values) + 1).reshape(-1, *[1] * (values.ndim - 1))
    return values.cumsum(0) / count


def minibatch_gradient_noise(gradients: Tensor, full: Tensor) -> float:
    """Mean over minibatches of ‖g_B − ∇f‖², from minibatch gradients (b, p) and the full gradient (p,):
    the `per-minibatch` convention (what the code of Zhang et al. 2021 logs, squared)."""
    return ((gradients - full) ** 2).sum(1).mean().item()


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
