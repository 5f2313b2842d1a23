"""Self-stabilization: gradient descent at the edge of stability follows a constrained trajectory θ†, and how it
deviates from it can be predicted from a cubic expansion of the loss (Damian, Nichani & Lee 2023).

The stable set M holds the points with S(θ) ≤ 2/η and ∇L(θ)·u(θ) = 0, where S is the sharpness and u its unit
eigenvector; θ† is gradient descent projected to M at every step. With v = θ − θ†, the deviation moves in two
directions above all: x = u·v, which instability blows up, and y = ∇S⊥·v, the change of the sharpness.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement
from typing import ClassVar

import torch
from torch import Tensor

from eoslib.measure import host
from eoslib.measure.curvature import FOUND, Cycle, SharpnessTracker, Spectrum
from eoslib.measure.variables import Stateful, Variable
from eoslib.problems.objective import Evaluation, Expansion, MixedExpansion, Objective

ALSO = ("central flow", "assumptions")
REPETITIONS = 3  # of the linearised step in `project` at most, as in the authors' code
SETTLED = 1e-2  # a step so much shorter than the first (of the order of εδ) is not taken where f is rounded to single
EIGENVECTOR = 1e-6  # residual, where ∇S or u enters a prediction
SHARPNESS = 3e-4  # relative error of a sharpness that is only shown
FLOW_EVERY = 5  # steps from one sharpness of gradient flow to the next: it is smooth
CENTRAL_PARTS = 2  # Euler steps in time η: since S ≤ 2/η on the central flow, each is at most 1/S
NEAR = 1.5  # times 1/η: the sharpness from which every step is checked for the onset, as in the authors' code
LOWER_BOUND = 0.1  # a power iteration may stop some per cent below its limit


def eigenvector_tracker(k: int, period: int) -> SharpnessTracker:
    """Of the k top eigenpairs at points that come in cycles: `period` of them at each step."""
    return SharpnessTracker(k, EIGENVECTOR, cycle=Cycle(period, continued=True), audit_every=None, subspace=False)


@dataclass(frozen=True)
class Stable:
    """A point θ of the stable set M: f's expansion there; the k top eigenvalues (k,) of ∇²f(θ), with the residuals of
    their vectors; of the first the vector u (p,), and ∇S = ∇³f(u, u) (p,)."""

    point: Expansion | MixedExpansion
    values: Tensor
    residuals: Tensor
    u: Tensor
    sharpness_gradient: Tensor

    @property
    def theta(self) -> Tensor:
        return self.point.theta

    def state(self) -> dict:
        """All but what can be computed anew at θ without a search."""
        return {name: tensor for name, tensor in vars(self).items() if name != "point"}


def project(
    objective: Objective, theta: Tensor, step_size: float, tracker: SharpnessTracker,
    single: Callable[[Tensor], Expansion] | None = None,
) -> Stable:  # fmt: skip
    """The projection of θ (p,) to the stable set M, by linearised steps, each from a new expansion.

    With one eigenvalue (tracker.k = 1), as the authors do it after lemma 13: θ − max(0, S − 2/η) ∇S⊥/‖∇S⊥‖² −
    u (u·∇f)/S, where ∇S⊥ = ∇S − u (u·∇S). With k > 1 (section 8.2), ∇f·uᵢ = 0 is sought for all k, and those of the
    eigenvalues that are above 2/η are set to 2/η by moving in span{∇³f(uᵢ, uⱼ)} over the pairs of their eigenvectors;
    nan where these are linearly dependent. Three steps are taken. single: expands f in a lower precision, for the first
    step, whose error the later ones mend, and for all third derivatives and rough products; then it may end earlier.
    """
    first = torch.inf
    for repetition in range(REPETITIONS + 1):
        point = single(theta) if single and repetition == 0 else _expanded(objective, theta, single)
        spectrum = tracker.at(point, again=repetition > 1)
        u = spectrum.vectors[0]
        sharpness_gradient = point.third(u)
        step = _linearised(point, spectrum, sharpness_gradient, step_size)
        length = step.norm()
        if repetition == REPETITIONS or (single and repetition and length <= SETTLED * first):
            return Stable(point, spectrum.values, spectrum.residuals, u, sharpness_gradient)
        first = first if repetition else length
        theta = theta + step.to(theta)


def _expanded(objective: Objective, theta: Tensor, single: Callable | None) -> Expansion | MixedExpansion:
    return MixedExpansion(objective.expand(theta), single(theta)) if single else objective.expand(theta)


def _linearised(point: Expansion, spectrum: Spectrum, sharpness_gradient: Tensor, step_size: float) -> Tensor:
    """The step (p,) to M by what is known of f at a point."""
    values, vectors = spectrum.values, spectrum.vectors  # (k,), (k, p)
    step = -(vectors @ point.gradient / values.to(vectors)) @ vectors  # Newton's, to ∇f·uᵢ = 0
    excess = values - 2 / step_size
    unstable = [i for i in range(len(values)) if excess[i] > 0]
    if unstable:
        # uᵢᵀ∇²f uⱼ changes by ∇³f(uᵢ, uⱼ)·Δ: the shortest Δ that takes the excess and leaves the matrix diagonal
        first, *pairs = combinations_with_replacement(unstable, 2)  # values descend: the first is (0, 0)
        normals = torch.stack([sharpness_gradient, *(point.third(vectors[i], vectors[j]) for i, j in pairs)])
        normals = normals - (normals @ vectors.T) @ vectors
        wanted = torch.stack([excess[i] if i == j else torch.zeros_like(excess[i]) for i, j in (first, *pairs)])
        shares, singular = torch.linalg.solve_ex(normals @ normals.T, wanted.to(normals))
        step = step - torch.where(singular == 0, shares, torch.nan) @ normals  # nan: nothing moves the eigenvalues
    return step


class CubicExpansion:
    """What the predictions need of f at a point θ† of the constrained trajectory: definitions 3, 4 and 6.

    Beside point, sharpness, u and step_size it holds slope ∇S·u, `perpendicular` ∇S⊥ = ∇S − u (∇S·u) (p,),
    α = −∇f·∇S⊥, β = ‖∇S⊥‖², δ² = 2α/β and ε = η√α.
    """

    def __init__(self, stable: Stable, step_size: float):
        self.point, self.sharpness, self.u, self.step_size = stable.point, stable.values[0], stable.u, step_size
        sharpness_gradient = stable.sharpness_gradient
        self.slope = sharpness_gradient @ self.u
        self.perpendicular = sharpness_gradient - self.slope * self.u
        self.alpha = -self.point.gradient @ self.perpendicular
        self.beta = self.perpendicular @ self.perpendicular
        # The paper assumes α > 0. Otherwise ∇f does not press on the constraint, and the projection gives no push.
        self.delta_square = 2 * self.alpha.clamp(min=0) / self.beta
        self.epsilon = step_size * self.alpha.clamp(min=0).sqrt()

    def coordinates(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """x = u·v and y = ∇S⊥·v of a deviation v (p,)."""
        return self.u @ v, self.perpendicular @ v

    def outside(self, v: Tensor) -> Tensor:
        """v⊥ = v − u (u·v), shape (p,)."""
        return v - self.u * (self.u @ v)

    def tangent(self, v: Tensor) -> Tensor:
        """v without its components along u and ∇S, shape (p,): lemma 13's projection."""
        return self.outside(v) - self.perpendicular * (self.perpendicular @ v) / self.beta

    def predict(self, v: Tensor, displaced: Evaluation | Expansion | None = None) -> Tensor:
        """The deviation after the next step, predicted from v (p,); all of shape (p,).

        v − η[½(x² − δ²)∇S⊥ + ∇²f v + xyu]. Since ∇²f u = (2/η)u, its component along u is −(1 + ηy)x: definition 7,
        except that (6) then turns u into the next point's u; the authors' code does not, and the difference is of the
        order of the terms that both neglect. displaced: f at θ† + xu. With it, the generalised prediction of appendix
        F: along u the true gradient u·∇f(θ† + xu) takes the place of the linear (2/η)x.
        """
        x, y = self.coordinates(v)
        linear = self.point.rough(v if displaced is None else self.outside(v))
        if displaced is not None:
            linear = linear + self.u * (self.u @ displaced.gradient.to(v))
        return v - self.step_size * ((x**2 - self.delta_square) / 2 * self.perpendicular + linear + x * y * self.u)


def limiting_sharpness(objective: Objective, cubic: CubicExpansion) -> float:
    """2/η − F′(δ)/δ + F″(δ), where by the generalised predictions the sharpness settles (appendix F.2).

    F(x) = f(θ† + xu) − f(θ†) − x²/η, of which only the even part matters. nan where δ = 0.
    """
    delta = cubic.delta_square.sqrt()
    first, second = [], []
    for x in (delta, -delta):
        there = objective.expand(cubic.point.theta + x * cubic.u)
        first.append(there.gradient @ cubic.u / x)  # 2/η + F′(x)/x
        second.append(there.hvp(cubic.u) @ cubic.u)  # 2/η + F″(x)
    return (2 / cubic.step_size + (sum(second) - sum(first)) / 2).item()


def central_velocity(point: Expansion, spectrum: Spectrum, step_size: float, duration: float) -> tuple[Tensor, Tensor]:
    """σ² () and −∇f − ½σ²∇S (p,) of the central flow at `point`, for one unstable eigenvalue (Cohen et al. 2025).

    Gradient descent that oscillates by ±σu around w has the mean gradient ∇f(w) + ½σ²∇S(w). The flow along it takes the
    smallest σ² ≥ 0 that keeps S at most 2/η. spectrum: the top eigenpair. duration: of the Euler step, at whose end
    S ≤ 2/η to first order.
    """
    normal = point.third(spectrum.vectors[0])
    excess = (spectrum.values[0] - 2 / step_size) / duration - point.gradient @ normal
    variance = (2 * excess / (normal @ normal)).clamp(min=0)
    return variance, -point.gradient - variance / 2 * normal


def operator_norm(form: Callable[[Tensor], Tensor], start: Tensor, tolerance: float = 1e-3, most: int = 100) -> Tensor:
    """‖T‖ of a symmetric tensor of any order, by the power iteration v ← T(v, …, v)/‖T(v, …, v)‖; a scalar on the CPU.

    form: v (p,) ↦ T(v, …, v) (p,), with one argument free. start: (p,). The largest ‖T(v, …, v)‖ met until it changes
    by less than `tolerance` relative to itself, or after `most` applications: a lower bound, for the iteration may end
    in a local maximum, and converges so slowly that it may stop some per cent below it.
    """
    v, sizes = start / start.norm(), []
    for _ in range(most):
        image = form(v)
        sizes.append(image.norm().cpu())
        settled = len(sizes) > 1 and abs(sizes[-1] - sizes[-2]) <= tolerance * sizes[-1]
        if settled or not sizes[-1] > 0:  # 0 or nan leads nowhere
            break
        v = image / sizes[-1]
    return torch.stack(sizes).max()


def assumption_ratios(cubic: CubicExpansion, v: Tensor) -> dict[str, float]:
    """ρ₃ = ‖∇³f‖, ρ₄ = ‖∇⁴f‖ at θ†, and the ratios that the theory assumes to be of order 1 or small (appendix E).

    v: the deviation θ − θ† (p,). By names of `VARIABLES`; α and ε complete the paper's eight panels.
    """
    point, size = cubic.point, torch.linalg.vector_norm
    rho_3 = operator_norm(point.third, cubic.u)
    rho_4 = operator_norm(point.fourth, cubic.u)
    gradient, v = (w / size(w) for w in (cubic.outside(point.gradient), cubic.outside(v)))
    strength = size(cubic.perpendicular)
    ratios = {
        "rho_3": rho_3,
        "rho_4": rho_4,
        "sharpening_alignment": -gradient @ cubic.perpendicular / strength,
        "restoring_ratio": strength / rho_3,
        "fourth_order_ratio": rho_4 / (cubic.step_size * rho_3**2),
        "third_order_ratio_v": size(point.third(v)) / rho_3,
        "third_order_ratio_gradient": size(point.third(gradient)) / rho_3,
        "second_order_ratio_v": (v @ point.hvp(v)).abs() / cubic.sharpness,
    }
    return host.numbers(ratios)


VARIABLES = {
    "loss": Variable("training loss f(θ)"),
    "sharpness": Variable("sharpness λ_max(∇²f(θ))", tolerance=FOUND),
    "products": Variable("Hessian-vector products spent", tolerance=math.inf),
    "midpoint_sharpness": Variable("sharpness at the midpoint (θ_t + θ_{t+1})/2", tolerance=FOUND),
    "constrained_loss": Variable("loss f(θ†) of the constrained trajectory"),
    "constrained_sharpness": Variable("sharpness λ_max(∇²f(θ†)) of the constrained trajectory", tolerance=FOUND),
    "constrained_eigenvalues": Variable("constrained eigenvalues at θ†", dims=("eigenvalue",), tolerance=FOUND),
    "constrained_residual": Variable("residual ‖Hu − λu‖ / |λ| of the top eigenpair at θ†", tolerance=math.inf),
    "next_eigenvalue": Variable("largest eigenvalue of ∇²f(θ†) that is not constrained, λ₂ if one is", tolerance=FOUND),
    "distance": Variable("distance ‖θ − θ†‖ to the constrained trajectory"),
    "flow_loss": Variable("loss of gradient flow"),
    "flow_sharpness": Variable("sharpness of gradient flow", tolerance=FOUND),
    "flow_distance": Variable("distance of gradient flow to the constrained trajectory"),
    "central_loss": Variable("time average f(w) + Sσ²/2 of the loss by the central flow"),
    "central_sharpness": Variable("sharpness of the central flow", tolerance=FOUND),
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
    "predicted_loss_there": Variable("loss f(θ† + v) at the predicted point"),
    "predicted_sharpness_there": Variable("sharpness λ_max(∇²f(θ† + v)) at the predicted point", tolerance=FOUND),
    "predicted_x": Variable("predicted x"),
    "predicted_y": Variable("predicted y"),
    "predicted_loss": Variable("predicted loss f(θ†) + x²/η"),
    "predicted_sharpness": Variable("predicted sharpness 2/η + y + (∇S·u)x"),
    "predicted_distance": Variable("predicted distance ‖v‖ to the constrained trajectory"),
    "predicted_error": Variable("error ‖v − (θ − θ†)‖ of the predicted deviation"),
    "generalised_loss_there": Variable("loss f(θ† + v) at the point of the generalised prediction"),
    "generalised_sharpness_there": Variable(
        "sharpness λ_max(∇²f(θ† + v)) at the point of the generalised prediction", tolerance=FOUND
    ),
    "generalised_x": Variable("x by the generalised prediction"),
    "generalised_y": Variable("y by the generalised prediction"),
    "generalised_loss": Variable("generalised prediction f(θ†) + x²/η + F(x) of the loss"),
    "generalised_sharpness": Variable("generalised prediction 2/η + y + F″(x) of the sharpness"),
    "generalised_distance": Variable("distance to the constrained trajectory by the generalised prediction"),
    "generalised_error": Variable("error of the deviation by the generalised prediction"),
    "limiting_sharpness": Variable("limit 2/η − F′(δ)/δ + F″(δ) of the sharpness"),
    "rho_3": Variable("ρ₃ = ‖∇³f(θ†)‖, by power iteration", tolerance=LOWER_BOUND),
    "rho_4": Variable("ρ₄ = ‖∇⁴f(θ†)‖, by power iteration", tolerance=LOWER_BOUND),
    "sharpening_alignment": Variable("alignment −∇f·∇S⊥ / (‖∇f‖‖∇S⊥‖) at θ†"),
    "restoring_ratio": Variable("‖∇S⊥‖ / ρ₃", tolerance=LOWER_BOUND),
    "fourth_order_ratio": Variable("ρ₄ / (ηρ₃²)", tolerance=LOWER_BOUND),
    "third_order_ratio_v": Variable("‖∇³f(v⊥, v⊥)‖ / (ρ₃‖v⊥‖²), v = θ − θ†", tolerance=LOWER_BOUND),
    "third_order_ratio_gradient": Variable("‖∇³f(∇f, ∇f)‖ / (ρ₃‖∇f‖²)", tolerance=LOWER_BOUND),
    "second_order_ratio_v": Variable("|v⊥·∇²f v⊥| / (S‖v⊥‖²), v = θ − θ†"),
}


class SelfStabilization(Stateful):
    """Gradient descent, and from its onset of instability on the constrained trajectory, flows and predictions.

    The onset is the first θ_t for which the sharpness at the midpoint of θ_t and θ_{t+1} is at least 2/η. Of each
    `every` steps the last is checked for it; all are checked at the start, where the last is unstable, and where the
    last before was at least 1.5/η. At the onset θ† = project(θ), both flows start from θ, the predictions from θ − θ†.

    objective: f in float64. theta: start (p,). approach: f in the precision of `theta`, for the steps before the
    onset; by default `objective`. The paper has float32 there, and it matters: while gradient descent is stable, its
    oscillation along u decays to the rounding errors, and the instability grows from what is left. After the onset
    gradient descent and θ† and their gradients are in float64, the eigenpair at θ† is found to a residual of 1e-6 in
    float64, and `approach` serves for what tolerates its rounding: the searches, third derivatives, the flow's slope.
    steps: at most so many in all. tracked: at most so many after the onset. unstable: k, how many eigenvalues are
    constrained to 2/η; predictions and the central flow are made for k = 1 only. every: what costs more is observed at
    the steps after the onset that are divisible by it: λ_{k+1}, exact sharpness at the predicted points, and what of
    `also` is the "assumptions" and the limiting sharpness. The "central flow" in `also` is followed.
    predict_from: the predictions start at the first step with |x| ≥ predict_from · δ; 0, the onset, is the paper's.
    While |x| ≪ δ, x is not so much an oscillation as a smooth offset that the theory neglects, and theorem 1 does not
    hold; a prediction from there errs in the time of the first blow-up. Ends too when λ_{k+1}(θ†), observed with the
    costly, exceeds 1.9/η, or when a loss is not finite (`diverged_at`).

    onset: its step, None before. cubic: f's `CubicExpansion` at the θ† of the last step, if k = 1.
    """

    variables: ClassVar = VARIABLES
    kept: ClassVar = {}  # no θ
    carries = ("t", "onset", "diverged_at", "flow_parts")
    _POINTS = ("theta", "constrained", "flow", "central", "predicted", "generalised")  # (p,), None until the onset

    def __init__(
        self, objective: Objective, theta: Tensor, step_size: float, steps: int, approach: Objective | None = None,
        tracked: int = 2000, unstable: int = 1, every: int = 50, predict_from: float = 0.0,
        also: Sequence[str] = ALSO,
    ):  # fmt: skip
        if odd := set(also) - set(ALSO):
            raise ValueError(f"also: {', '.join(sorted(odd))} is not among {', '.join(ALSO)}")
        if not step_size > 0:
            raise ValueError(f"step_size must be positive, got {step_size}")
        for name, number in {"tracked": tracked, "unstable": unstable, "every": every}.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.objective, self.approach = objective, approach or objective
        self._type = theta.dtype
        self._single = None if self._type == torch.float64 else lambda at: self.approach.expand(at.to(self._type))
        self.also = also
        self.step_size, self.steps, self.tracked = step_size, steps, tracked
        self.unstable, self.every, self.predict_from = unstable, every, predict_from
        self.theta, self.device = theta.detach(), theta.device
        self.constrained = self.flow = self.central = self.predicted = self.generalised = None
        shown = partial(SharpnessTracker, tolerance=SHARPNESS, wanted="values", subspace=False)
        self.trackers = {
            "theta": shown(),
            "flow": shown(tolerance=FOUND, cycle=Cycle(1, continued=True)),
            "predicted": shown(),
            "generalised": shown(),
            "constrained": eigenvector_tracker(unstable, 2),
            "central": eigenvector_tracker(1, CENTRAL_PARTS),
            # what the former missed, exceeds 1.9/η here
            "next": shown(unstable + 1, tolerance=FOUND, audit_every=4),
        }
        self._stable: Stable | None = None  # θ†, expanded
        self.t, self.onset, self.diverged_at = 0, None, None
        self.flow_parts = 1  # Euler steps of at most 1/S, in time η
        self.cubic: CubicExpansion | None = None
        self._approaching: list[dict] = []  # rows of the steps before the onset that are already taken
        self._row: dict = {}

    @property
    def finished(self) -> bool:
        """Whether the run's own stopping rule is met."""
        tracked = self.onset is not None and self.t - self.onset >= self.tracked
        unconstrained = self._row.get("next_eigenvalue", 0) > 1.9 / self.step_size
        return self.t >= self.steps or tracked or unconstrained or self.diverged_at is not None

    def step(self) -> None:
        """Move everything by one step of gradient descent."""
        if not self._approaching and self.onset is None:
            self._approach()
        self._row, *self._approaching = self._approaching or [self._track()]
        if not _finite(self._row):
            self.diverged_at = self.t
        self.t += 1

    def observe(self) -> dict[str, dict]:
        """The observables at θ_t, t the step before the last move."""
        return {"step": self._row}

    def state(self) -> dict:
        """All that the next step depends on."""
        return super().state() | {
            "approaching": self._approaching,
            "row": self._row,
            "gradients": sum(f.gradients for f in {self.objective, self.approach}),
            "products": self._products,
            "points": {name: getattr(self, name) for name in self._POINTS},
            "stable": None if self._stable is None else self._stable.state(),
            "trackers": {name: tracker.state() for name, tracker in self.trackers.items()},
        }

    def load(self, state: dict) -> None:
        """Continue from `state`."""
        super().load(state)
        self._approaching, self._row = state["approaching"], state["row"]
        for name, point in state["points"].items():
            setattr(self, name, None if point is None else point.to(self.device))
        for name, tracker in self.trackers.items():
            tracker.load(state["trackers"][name])
        if state["stable"] is not None:
            point = _expanded(self.objective, self.constrained, self._single)
            self._stable = Stable(point, **{name: tensor.to(self.device) for name, tensor in state["stable"].items()})
        self.approach.gradients = self.approach.products = 0
        self.objective.gradients, self.objective.products = state["gradients"], state["products"]

    def _approach(self) -> None:
        """Take the next `every` steps of gradient descent, or those to the onset if it lies among them."""
        start, tracker = self.theta, self.trackers["theta"].state()
        near = self._row.get("midpoint_sharpness", math.inf) >= NEAR / self.step_size  # at the start, too
        unstable = self._descend(check_all=near)
        if unstable and not near:
            self.theta = start
            self.trackers["theta"].load(tracker)
            unstable = self._descend(check_all=True)
        if unstable:
            self.onset = self.t + len(self._approaching)
            self.theta = self.theta.double()
            self._project(self.theta)
            self.flow, self.central = self.theta.clone(), self.theta.clone()  # a state's tensors share no memory

    def _descend(self, check_all: bool) -> bool:
        """At most `every` steps, up to the first checked one whose midpoint is unstable; whether there was one."""
        self._approaching = []
        for i in range(self.every):
            here = self.approach.evaluate(self.theta)
            row = {"loss": here.value.item()}
            if check_all or i == self.every - 1:
                midpoint = self.approach.expand(self.theta - self.step_size / 2 * here.gradient)
                row["midpoint_sharpness"] = self.trackers["theta"].at(midpoint).values[0].item()
                if row["midpoint_sharpness"] >= 2 / self.step_size:
                    return True
            self._approaching.append(row)
            self.theta = self.theta - self.step_size * here.gradient
        return False

    def _track(self) -> dict:
        """Observe everything at step t after the onset, then move it."""
        products = self._products
        self.cubic = None  # frees its graph
        stable, point = self._stable, self._stable.point
        here = self.objective.evaluate(self.theta)
        due = (self.t - self.onset) % self.every == 0
        row = {
            "loss": here.value,
            "sharpness": self.trackers["theta"].at(self._rough(self.theta)).values[0],
            "distance": (self.theta - self.constrained).norm(),
            "flow_distance": (self.flow - self.constrained).norm(),
            "constrained_loss": point.value,
            "constrained_sharpness": stable.values[0],
            "constrained_residual": stable.residuals[0] / stable.values[0].abs(),
        }
        if (self.t - self.onset) % FLOW_EVERY == 0:
            flow = self._rough(self.flow)
            row["flow_sharpness"] = self.trackers["flow"].at(flow).values[0]
            if row["flow_sharpness"].isfinite():
                self.flow_parts = max(1, math.ceil(self.step_size * row["flow_sharpness"]))
        else:
            flow = self.approach.evaluate(self.flow.to(self._type))
        row["flow_loss"] = flow.value
        if due:
            row["next_eigenvalue"] = self.trackers["next"].at(self._rough(self.constrained)).values[-1]
        if self.unstable > 1:
            row["constrained_eigenvalues"] = stable.values.tolist()
        else:
            row |= self._predict(stable, due)
            if "central flow" in self.also:
                row |= self._central_flow()
        row = host.numbers(row)
        if _finite(row):
            self.theta = self.theta - self.step_size * here.gradient
            for i in range(self.flow_parts):
                slope = self.approach.gradient(self.flow.to(self._type)) if i else flow.gradient
                self.flow = self.flow - self.step_size / self.flow_parts * slope.to(self.flow)
            before = self.constrained
            self._project(before - self.step_size * point.gradient)
            if self.unstable == 1:
                tangent = self.cubic.tangent(point.gradient)
                error = ((self.constrained - before) / self.step_size + tangent).norm() / point.gradient.norm()
                row |= host.numbers({"projected_gradient_norm": tangent.norm(), "projection_error": error})
        return row | {"products": float(self._products - products)}

    @property
    def _products(self) -> int:
        return sum(f.products for f in {self.objective, self.approach})

    def _rough(self, theta: Tensor) -> Expansion:
        """f at θ (p,) in the lower of the two precisions."""
        return self.approach.expand(theta.to(self._type))

    def _project(self, theta: Tensor) -> None:
        """θ† = the projection of θ (p,)."""
        tracker = self.trackers["constrained"]
        self._stable = project(self.objective, theta, self.step_size, tracker, self._single)
        self.constrained = self._stable.theta

    def _central_flow(self) -> dict[str, Tensor]:
        """Observe the central flow, then move it by time η."""
        row, duration = {}, self.step_size / CENTRAL_PARTS
        for _ in range(CENTRAL_PARTS):
            point = _expanded(self.objective, self.central, self._single)
            spectrum = self.trackers["central"].at(point)
            variance, velocity = central_velocity(point, spectrum, self.step_size, duration)
            row = row or {
                "central_loss": point.value + spectrum.values[0] * variance / 2,
                "central_sharpness": spectrum.values[0],
                "central_variance": variance,
                "central_distance": (self.central - self.constrained).norm(),
            }
            self.central = self.central + duration * velocity
        return row

    def _predict(self, stable: Stable, due: bool) -> dict[str, Tensor | float]:
        """Observe the predictions of step t beside what they predict, then move them."""
        self.cubic = cubic = CubicExpansion(stable, self.step_size)
        v = self.theta - self.constrained
        x, y = cubic.coordinates(v)
        row = {"alpha": cubic.alpha, "beta": cubic.beta, "delta": cubic.delta_square.sqrt(), "epsilon": cubic.epsilon}
        row |= {"sharpness_slope": cubic.slope, "x": x, "y": y}
        if self.predicted is None and x.abs() >= self.predict_from * row["delta"]:
            self.predicted, self.generalised = v, v.clone()  # a state's tensors share no memory
        if self.predicted is not None:
            row |= self._move_prediction("predicted", v, due) | self._move_prediction("generalised", v, due)
        if due and "assumptions" in self.also:
            row |= assumption_ratios(cubic, v) | {"limiting_sharpness": limiting_sharpness(self.objective, cubic)}
        return row

    def _move_prediction(self, name: str, v: Tensor, due: bool) -> dict[str, Tensor]:
        """Observe one of the predictions of v, then move it."""
        cubic, predicted, displaced = self.cubic, getattr(self, name), None
        x, y = cubic.coordinates(predicted)
        if name == "predicted":
            loss = cubic.point.value + x**2 / self.step_size
            sharpness = 2 / self.step_size + y + cubic.slope * x
        else:  # f(θ†) + x²/η + F(x) and 2/η + y + F″(x), see `limiting_sharpness`
            displaced = self._rough(self.constrained + x * cubic.u)
            loss, sharpness = displaced.value, y + displaced.hvp(cubic.u.to(displaced.theta)).to(y) @ cubic.u
        distance, error = predicted.norm(), (predicted - v).norm()
        row = {"x": x, "y": y, "loss": loss, "sharpness": sharpness, "distance": distance, "error": error}
        there = self.constrained + predicted
        if due:
            there = self._rough(there)
            row |= {"loss_there": there.value, "sharpness_there": self.trackers[name].at(there).values[0]}
        else:
            row["loss_there"] = self.approach.value(there.to(self._type))
        setattr(self, name, cubic.predict(predicted, displaced))
        return {f"{name}_{quantity}": value for quantity, value in row.items()}


def _finite(row: dict[str, float]) -> bool:
    """Whether everything that moves is still finite; the predictions may diverge by themselves."""
    return all(math.isfinite(row.get(name, 0)) for name in ("loss", "constrained_loss", "flow_loss", "flow_sharpness"))
