"""eoslib.papers.stabilization: closed forms, conserved quantities, and the paper's formulas with full Hessians."""

import copy
import json
import math
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import cells
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import step_row, step_rows
from torch.func import grad, jacfwd, jacrev

from eoslib import store
from eoslib.measure.curvature import SharpnessTracker, top_eigenpairs
from eoslib.papers import stabilization
from eoslib.papers.stabilization import (
    CubicExpansion,
    SelfStabilization,
    Stable,
    assumption_ratios,
    central_velocity,
    eigenvector_tracker,
    limiting_sharpness,
    operator_norm,
    project,
)
from eoslib.problems import networks
from eoslib.problems.objective import Objective, SupervisedObjective
from eoslib.store import journal

toy_loss, simplified_flow, conserved_quantity, flow_extremes, transported, restoring_strengths = cells.functions(
    "self_stabilization",
    *("toy_loss", "simplified_flow", "conserved_quantity", "flow_extremes", "transported", "restoring_strengths"),
)

STEP_SIZE = 2 / 8  # the small network reaches sharpness 8 after some 170 steps


def small_problem(dtype=torch.float64):
    """A network with 37 parameters whose top eigenvalue rises well above the second; its objective and initial θ."""
    inputs = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = (inputs[:, 0] * inputs[:, 1] + inputs[:, 2] + 0.3 * inputs[:, 3] > 0).long()
    network = networks.mlp(4, (5,), 2, "swish", "zero", seed=0).to(dtype)
    return SupervisedObjective(network, inputs.to(dtype), labels, "mse-sum"), networks.flatten(network)


def trained(steps=170):
    """The small problem shortly before its onset."""
    objective, theta = small_problem()
    for _ in range(steps):
        theta = theta - STEP_SIZE * objective.gradient(theta)
    return objective, theta


def vector(*x):
    return torch.tensor(x, dtype=torch.float64)


def toy(step_size=0.05, alpha=1.0, beta=1.0, quartic=0.0, cubic=0.0):
    """The toy loss, with F(x) = quartic · x⁴ + cubic · x³ beside it."""

    def f(theta):
        return toy_loss(theta, step_size, alpha, beta) + quartic * theta[0] ** 4 + cubic * theta[0] ** 3

    return Objective(f)


def cubic_at(objective, theta, step_size=STEP_SIZE):
    point = objective.expand(theta)
    spectrum = eigenvector_tracker(1, 1).at(point)
    u = spectrum.vectors[0]
    return CubicExpansion(Stable(point, spectrum.values, spectrum.residuals, u, point.third(u)), step_size)


@pytest.fixture
def precise(monkeypatch):
    """Eigenvectors nearly to rounding, where a formula is compared and not a cost; for 1e-10 a search makes a hundred
    products."""
    monkeypatch.setattr(stabilization, "EIGENVECTOR", 1e-9)


# ------------------------------------------------------------------------------- toy loss and simplified dynamics

positive = st.floats(0.1, 10)


@given(step_size=st.floats(0.01, 1), alpha=positive, beta=positive)
def test_the_toy_loss_has_the_stated_sharpness_and_coefficients(step_size, alpha, beta):
    cubic = cubic_at(toy(step_size, alpha, beta), vector(0, 0, 0.3), step_size)
    assert cubic.sharpness.item() == pytest.approx(2 / step_size, rel=1e-12)
    assert cubic.alpha.item() == pytest.approx(alpha, rel=1e-9)
    assert cubic.beta.item() == pytest.approx(beta, rel=1e-9)
    assert cubic.delta_square.item() == pytest.approx(2 * alpha / beta, rel=1e-9)
    assert cubic.epsilon.item() == pytest.approx(step_size * alpha**0.5, rel=1e-9)
    torch.testing.assert_close(cubic.u.abs(), vector(1, 0, 0))
    torch.testing.assert_close(cubic.perpendicular, vector(0, beta**0.5, 0))


@given(x=st.floats(-1, 1), y=st.floats(-1, 1), step_size=st.floats(0.01, 0.2), alpha=positive, beta=positive)
def test_gradient_descent_on_the_toy_loss_is_the_map_3(x, y, step_size, alpha, beta):
    theta = vector(x, y / beta**0.5, 0)
    after = theta - step_size * toy(step_size, alpha, beta).gradient(theta)
    expected = -(1 + step_size * y) * x, y + step_size * (alpha - beta * x**2 / 2)
    assert (after[0].item(), after[1].item() * beta**0.5) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert after[2].item() == pytest.approx(step_size)


@given(x0=st.floats(1e-4, 1), alpha=positive, beta=positive)
@settings(max_examples=20)
def test_lemma_3_and_corollary_1_on_the_flow(x0, alpha, beta):
    x0 *= math.sqrt(2 * alpha / beta)  # at most δ
    period = 2 * math.pi / math.sqrt(2 * alpha)  # of small oscillations; large ones take longer
    x, y = simplified_flow(np.linspace(0, 10 * period, 3000), x0, alpha, beta)
    conserved = conserved_quantity(x, y, alpha, beta)
    np.testing.assert_allclose(conserved, conserved[0], rtol=1e-8, atol=1e-9)
    x_max, y_max = flow_extremes(x0, alpha, beta)
    assert x.min() >= x0 * (1 - 1e-6) and x.max() <= x_max * (1 + 1e-6) and abs(y).max() <= y_max * (1 + 1e-6) + 1e-9
    assert x.max() >= x_max * 0.98 and abs(y).max() >= y_max * 0.98 - 1e-9  # and they are met
    # the bounds that follow
    delta, log = math.sqrt(2 * alpha / beta), abs(math.log(x0 * math.sqrt(beta / (2 * alpha))))
    assert x_max <= delta * (1 + math.sqrt(2 * log)) * (1 + 1e-9)
    assert y_max <= math.sqrt(2 * alpha * log) * (1 + 1e-9) + 1e-9


def test_corollary_1_as_printed_does_not_hold():
    _, y_max = flow_extremes(0.1 * math.sqrt(2), 1.0, 1.0)  # X(0) = δ/10
    assert y_max == pytest.approx(1.9, abs=0.01) and y_max > math.sqrt(math.log(10)) + 0.3


def test_the_map_follows_the_flow_to_first_order():
    def error(step_size):
        objective, theta = toy(step_size), vector(0.3, 0, 0)
        points = []
        for _ in range(round(12 / step_size)):  # more than a cycle
            points.append(theta)
            theta = theta - step_size * objective.gradient(theta)
        x, y = simplified_flow(step_size * np.arange(len(points)), 0.3, 1.0, 1.0)
        path = torch.stack(points).numpy()
        return max(abs(np.abs(path[:, 0]) - x).max(), abs(path[:, 1] - y).max())

    coarse, fine = error(0.004), error(0.002)
    assert fine < 0.1
    assert coarse / fine == pytest.approx(2, rel=0.1)


def test_the_four_stages_follow_each_other():
    x, y = simplified_flow(np.linspace(0, 8, 2000), 0.01, 1.0, 1.0)
    large, unstable = x > math.sqrt(2), y > 0
    # sharpening and blow-up below δ with y > 0; then self-stabilization; the return with y < 0; and sharpening again
    stages = np.select([~large & unstable, large & unstable, large & ~unstable], [1, 2, 3], 4)
    visited = stages[1:][np.r_[True, np.diff(stages[1:]) != 0]]
    assert visited[:5].tolist() == [1, 2, 3, 4, 1]
    for now, (dx, dy) in {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1)}.items():
        inside = (stages[:-1] == now) & (stages[1:] == now) & (np.arange(1999) > 0)
        assert (np.sign(np.diff(x))[inside] == dx).all()
        assert (np.sign(np.diff(y))[inside] == dy).all()


# ----------------------------------------------------------------------------------------- derivatives, dense


def hessian(f):
    """∇²f, backwards twice: `torch.func.hessian` goes forwards and takes five times as long."""
    return jacrev(grad(f))


def dense(objective, theta):
    """∇f and ∇²f as NumPy arrays, with its eigenvalues, S, u, ∇S and ∇S⊥."""

    def f(at):
        return objective.forward(at)[0]

    g, h = grad(f)(theta).numpy(), hessian(f)(theta)
    values, vectors = np.linalg.eigh(h.numpy())
    fixed = torch.from_numpy(vectors[:, -1])
    dS, u = grad(lambda at: fixed @ hessian(f)(at) @ fixed)(theta).numpy(), fixed.numpy()
    return SimpleNamespace(g=g, h=h.numpy(), values=values, S=values[-1], u=u, dS=dS, perp=dS - u * (u @ dS))


def third_tensor(objective, theta):
    return jacfwd(hessian(lambda at: objective.forward(at)[0]))(theta).numpy()


def test_higher_derivatives_against_full_tensors():
    objective, theta = small_problem()
    point = objective.expand(theta)
    u, v = (torch.randn(len(theta), generator=torch.Generator().manual_seed(i)).double() for i in (1, 2))
    np.testing.assert_allclose(
        point.third(u, v), third_tensor(objective, theta) @ u.numpy() @ v.numpy(), rtol=1e-9, atol=1e-11
    )
    torch.testing.assert_close(point.third(u, u), point.third(u))
    h = 1e-5  # ∇⁴f(u, u, u) is the derivative of ∇³f(u, u) along u
    difference = (objective.expand(theta + h * u).third(u) - objective.expand(theta - h * u).third(u)) / (2 * h)
    torch.testing.assert_close(point.fourth(u), difference, rtol=1e-6, atol=1e-6)


def test_a_cubic_expansion_against_full_tensors_and_finite_differences(precise):
    objective, theta = trained()
    cubic, full = cubic_at(objective, theta), dense(objective, theta)
    assert cubic.sharpness.item() == pytest.approx(full.S)
    np.testing.assert_allclose(cubic.perpendicular, full.perp, rtol=1e-8, atol=1e-8)
    assert abs(cubic.slope.item()) == pytest.approx(abs(full.u @ full.dS))
    assert cubic.alpha.item() == pytest.approx(-full.g @ full.perp)
    assert cubic.beta.item() == pytest.approx(full.perp @ full.perp)
    # ∇S, seen in the sharpness itself
    gradient = cubic.perpendicular + cubic.slope * cubic.u
    v, h = torch.randn(len(theta), generator=torch.Generator().manual_seed(3)).double(), 1e-5
    above, below = (dense(objective, theta + s * h * v).S for s in (1, -1))
    assert (gradient @ v).item() == pytest.approx((above - below) / (2 * h), rel=1e-6)


def test_where_the_loss_pushes_away_from_the_constraint_delta_is_zero():
    cubic = cubic_at(toy(alpha=-1.0), vector(0, 0, 0), 0.05)
    assert cubic.alpha.item() == pytest.approx(-1)
    assert cubic.delta_square == 0 and cubic.epsilon == 0


@pytest.mark.parametrize("k", [1, 2])
def test_the_cyclic_tracker_finds_the_eigenpairs_and_saves_products(k):
    """A matrix that turns steadily, seen at three places of each cycle."""
    p, generator = 40, torch.Generator().manual_seed(0)
    base, turn, offset = (torch.randn(p, p, generator=generator, dtype=torch.float64) for _ in range(3))
    base, turn, offset = base + base.T, turn + turn.T, offset + offset.T

    def point(step, place):
        matrix = base + 0.01 * step * turn + 0.05 * place * offset
        values = torch.linalg.eigvalsh(matrix).flip(0)[:k]
        return SimpleNamespace(hvp=lambda v: matrix @ v, rough=None, gradient=matrix[0]), values

    tracker, products, plain = eigenvector_tracker(k, 3), 0, 0
    vectors = None
    for step in range(20):
        for place in range(3):
            at, values = point(step, place)
            spectrum = tracker.at(at)
            assert spectrum.converged
            torch.testing.assert_close(spectrum.values, values, rtol=1e-9, atol=0)
            u = tracker.past[-1]
            torch.testing.assert_close(u @ u.T, torch.eye(k, dtype=u.dtype))
            if vectors is not None:
                assert (u * tracker.past[-2]).sum(1).min() > 0.5  # never turned round
                products += spectrum.products
                plain += top_eigenpairs(at.hvp, vectors, k, 1e-6).products
            vectors = spectrum.vectors
    assert products < 0.7 * plain


# ------------------------------------------------------------------------------------------------- projection


@pytest.mark.parametrize("theta_scale", [1.0, 1.01])
def test_one_repetition_is_the_formula(theta_scale, monkeypatch, precise):
    monkeypatch.setattr(stabilization, "REPETITIONS", 1)
    objective, theta = trained(230)
    theta = theta_scale * theta
    d = dense(objective, theta)
    assert d.S > 2 / STEP_SIZE
    expected = theta.numpy() - (d.S - 2 / STEP_SIZE) * d.perp / (d.perp @ d.perp) - d.u * (d.u @ d.g) / d.S
    projected = project(objective, theta, STEP_SIZE, eigenvector_tracker(1, 1)).theta
    np.testing.assert_allclose(projected, expected, atol=1e-10)


@pytest.mark.parametrize("tracker", [eigenvector_tracker(1, 3), SharpnessTracker(tolerance=1e-6)])
def test_the_projection_lies_in_the_stable_set_and_near(tracker):
    objective, theta = trained(190)
    projected = project(objective, theta, STEP_SIZE, tracker).theta
    before, d = dense(objective, theta), dense(objective, projected)
    assert before.S > 2 / STEP_SIZE + 0.1
    assert pytest.approx(2 / STEP_SIZE, rel=1e-6) == d.S
    assert abs(d.u @ d.g) < 1e-6
    # no other way could be much shorter: the sharpness has at most this slope
    shortest = (before.S - d.S) / np.linalg.norm(before.perp)
    assert (projected - theta).norm().item() == pytest.approx(shortest, rel=0.2)


def test_a_stable_point_only_loses_its_gradient_along_u():
    objective, theta = trained(100)
    projected = project(objective, theta, STEP_SIZE, eigenvector_tracker(1, 3)).theta
    d = dense(objective, projected)
    assert d.S < 2 / STEP_SIZE and abs(d.u @ d.g) < 1e-7
    assert (projected - theta).norm() < 1e-3


def test_projecting_again_changes_nothing():
    objective, theta = trained(190)
    once = project(objective, theta, STEP_SIZE, eigenvector_tracker(1, 3)).theta
    assert (project(objective, once, STEP_SIZE, eigenvector_tracker(1, 3)).theta - once).norm() < 1e-5


def two_toys():
    """As the toy loss with η = 0.1, but two directions x, where the Hessian is 20 + [[w₀, w₂/√2], [w₂/√2, w₁]], and
    ∇f = −1 along the three w: the distance of w is Frobenius' distance of the matrices."""

    def f(theta):
        x, w = theta[:2], theta[2:]
        form = w[0] * x[0] ** 2 + w[1] * x[1] ** 2 + 2**0.5 * w[2] * x[0] * x[1]
        return 10 * (x**2).sum() + form / 2 - w.sum()

    return Objective(f)


def test_two_eigenvalues_are_projected_together():
    """Where both are unstable, all of the three w must go: the only matrix without excess and off-diagonal is 20."""
    theta = vector(0.01, -0.02, 0.3, 0.1, 0.05)
    projected = project(two_toys(), theta, 0.1, eigenvector_tracker(2, 3)).theta
    torch.testing.assert_close(projected, torch.zeros(5, dtype=torch.float64), atol=1e-4, rtol=0)
    # of one unstable eigenvalue only its own excess: the matrix keeps the other
    theta = vector(0, 0, 0.3, -0.2, 0.1)
    before = dense(two_toys(), theta).values
    after = dense(two_toys(), project(two_toys(), theta, 0.1, eigenvector_tracker(2, 3)).theta).values
    np.testing.assert_allclose(after[-2:], [before[-2], 20], atol=1e-6)


def test_one_repetition_with_two_eigenvalues_is_the_shortest_way(monkeypatch, precise):
    """Among all Δ ⟂ u₁, u₂ with ∇³f(uᵢ, uⱼ)·Δ = −(λᵢ − 2/η)δᵢⱼ, the shortest; on a network whose normals are no
    orthogonal set."""
    monkeypatch.setattr(stabilization, "REPETITIONS", 1)
    objective, theta = trained()
    d, tensor = dense(objective, theta), third_tensor(objective, theta)
    values, u = np.linalg.eigh(d.h)
    (second, first), u = values[-2:], u[:, -2:]
    step_size = 2 / (second - 0.05)
    conditions = np.stack([tensor @ u[:, i] @ u[:, j] for i, j in ((0, 0), (0, 1), (1, 1))])
    conditions = np.r_[conditions, u.T]
    wanted = np.r_[-(second - 2 / step_size), 0, -(first - 2 / step_size), 0, 0]
    shortest = np.linalg.lstsq(conditions, wanted, rcond=None)[0]
    newton = -u @ ((u.T @ d.g) / np.array([second, first]))
    projected = project(objective, theta, step_size, eigenvector_tracker(2, 1)).theta
    np.testing.assert_allclose(projected - theta, shortest + newton, atol=1e-9)
    assert np.linalg.norm(shortest) > 10 * np.linalg.norm(newton) > 0


def test_where_nothing_moves_the_sharpness_there_is_no_projection():
    """Where ∇S = 0 and S > 2/η the constrained trajectory does not exist, which ends a run as divergence."""
    objective = Objective(lambda theta: 11 * theta[0] ** 2 + theta[1] ** 4)
    assert project(objective, vector(0.1, 0.2), 0.1, eigenvector_tracker(1, 3)).theta.isnan().all()
    process = SelfStabilization(objective, vector(0.1, 0.2), 0.1, 50)
    assert len(step_rows(process)) == 1 and process.onset == process.diverged_at == 0


# ------------------------------------------------------------------------------- predictions, written out densely


def dense_project(objective, theta):
    for _ in range(3):
        d = dense(objective, theta)
        push = max(0.0, d.S - 2 / STEP_SIZE) * d.perp / (d.perp @ d.perp)
        theta = theta - torch.from_numpy(push + d.u * (d.u @ d.g) / d.S)
    return theta


def dense_central(objective, w):
    """The full tensors at w, and σ² and dw/dt of the central flow there, whose Euler steps take half of η."""
    d = dense(objective, w)
    wanted = d.dS @ d.g - 2 * (d.S - 2 / STEP_SIZE) / STEP_SIZE  # dS/dt without oscillation is −∇S·∇f
    variance = max(0.0, -2 * wanted / (d.dS @ d.dS))
    return d, variance, -d.g - variance / 2 * d.dS


def dense_step(d, v, along):
    """v − η[½(x² − δ²)∇S⊥ + Hv + xyu], where `along` stands for u·Hv."""
    x, y = d.u @ v, d.perp @ v
    delta_square = -2 * (d.g @ d.perp) / (d.perp @ d.perp)
    bracket = (x**2 - delta_square) / 2 * d.perp + d.h @ (v - x * d.u) + along * d.u + x * y * d.u
    return v - STEP_SIZE * bracket


def test_seventy_steps_against_full_tensors(precise):
    """Constrained trajectory, both predictions and all coordinates, through the first blow-up."""
    objective, theta = trained(185)
    theta = theta + 0.02 * torch.from_numpy(dense(objective, theta).u)  # x is not lost in rounding
    process = SelfStabilization(objective, theta, STEP_SIZE, 70, every=8)
    process.step()
    assert process.onset == 0
    descent = flow = central = theta
    constrained = dense_project(objective, theta)
    plain = generalised = (theta - constrained).numpy()
    largest = 0.0
    while True:
        d, row = dense(objective, constrained), step_row(process)
        u = d.u * np.sign(d.u @ process.cubic.u.numpy())
        v = (descent - constrained).numpy()
        close = partial(pytest.approx, rel=1e-6, abs=1e-8)
        assert row["distance"] == close(np.linalg.norm(v))
        assert row["flow_distance"] == close((flow - constrained).norm().item())
        assert row["flow_loss"] == close(objective.value(flow).item())
        assert row["central_distance"] == close((central - constrained).norm().item())
        c, variance, _ = dense_central(objective, central)
        assert row["central_sharpness"] == close(c.S) and row["central_variance"] == close(variance)
        assert row["central_loss"] == close(objective.value(central).item() + c.S * variance / 2)
        assert row["constrained_loss"] == close(objective.value(constrained).item())
        assert row["constrained_sharpness"] == close(d.S)
        assert row["alpha"] == close(-d.g @ d.perp)
        assert row["x"] == close(u @ v) and row["y"] == close(d.perp @ v)
        assert row["predicted_x"] == close(u @ plain) and row["predicted_y"] == close(d.perp @ plain)
        assert row["generalised_x"] == close(u @ generalised) and row["generalised_y"] == close(d.perp @ generalised)
        assert row["predicted_error"] == close(np.linalg.norm(plain - v))
        assert row["predicted_sharpness"] == close(2 / STEP_SIZE + d.dS @ plain)
        assert row["predicted_loss"] == close(objective.value(constrained).item() + (u @ plain) ** 2 / STEP_SIZE)
        x = u @ generalised
        there = constrained + x * torch.from_numpy(u)
        assert row["generalised_loss"] == close(objective.value(there).item())
        assert row["generalised_sharpness"] == close(
            d.perp @ generalised + u @ np.asarray(objective.expand(there).hvp(torch.from_numpy(u)))
        )
        largest = max(largest, abs(u @ plain))
        if process.finished:
            break
        plain = dense_step(d, plain, d.S * (d.u @ plain))
        along = d.u @ objective.gradient(constrained + d.u @ generalised * torch.from_numpy(d.u)).numpy()
        generalised = dense_step(d, generalised, along)
        descent = descent - STEP_SIZE * objective.gradient(descent)
        parts = math.ceil(STEP_SIZE * dense(objective, flow).S)
        for _ in range(parts):
            flow = flow - STEP_SIZE / parts * objective.gradient(flow)
        for _ in range(2):
            _, _, velocity = dense_central(objective, central)
            central = central + STEP_SIZE / 2 * torch.from_numpy(velocity)
        constrained = dense_project(objective, constrained - STEP_SIZE * torch.from_numpy(d.g))
        process.step()
    assert largest > 1.5 * row["delta"]  # there was something to predict


def test_through_a_first_cycle_errors_are_small_beside_its_size():
    """θ† and the predicted deviation of a run in double and of one in two precisions, against full tensors."""
    objective, theta = trained(185)
    theta = (theta + 0.02 * torch.from_numpy(dense(objective, theta).u)).float()
    single, _ = small_problem(torch.float32)
    runs = {
        1e-6: SelfStabilization(objective, theta.double(), STEP_SIZE, 40, every=50, also=()),
        1e-3: SelfStabilization(objective, theta, STEP_SIZE, 40, single, every=50, also=()),
    }
    exact = dense_project(objective, theta.double())
    v, heights = (theta.double() - exact).numpy(), []
    for _ in range(40):
        d = dense(objective, exact)
        v = dense_step(d, v, d.S * (d.u @ v))
        exact = dense_project(objective, exact - STEP_SIZE * torch.from_numpy(d.g))
        for within, process in runs.items():
            process.step()
            row = step_row(process)
            assert (process.constrained - exact).norm() < within * row["delta"]
            assert (process.predicted - torch.from_numpy(v)).norm() < within * row["delta"]
        heights.append(abs(row["x"]) / row["delta"])
    assert max(heights) > 2 and heights[-1] < 0.7, "the cycle was gone through"


def test_on_the_toy_loss_the_prediction_is_exact(precise):
    process = SelfStabilization(toy(0.1), vector(0.001, 0.05, 0), 0.1, 100, every=4)
    rows = step_rows(process)
    assert process.onset == 0 and len(rows) == 100
    # but for the first step, where S(θ†) is 1e-7 below 2/η, which the cycle up to x = 8 amplifies
    assert max(row["predicted_error"] for row in rows) < 1e-3
    assert max(abs(row["x"]) for row in rows) > 5
    for row in rows:
        assert row["constrained_sharpness"] == pytest.approx(20, rel=1e-6)
        assert row["predicted_x"] == pytest.approx(row["x"], abs=1e-3)
        assert row["predicted_loss"] == pytest.approx(row["constrained_loss"] + 10 * row["x"] ** 2, rel=1e-3, abs=1e-3)
        assert row["predicted_sharpness"] == pytest.approx(20 + row["y"], abs=1e-3)


def test_with_a_quartic_term_only_the_generalised_prediction_is_exact():
    process = SelfStabilization(toy(0.1, quartic=-0.3), vector(0.3, 0.1, 0), 0.1, 100, every=4)
    rows = step_rows(process)
    assert process.onset == 0
    assert max(row["generalised_error"] for row in rows) < 1e-5
    assert max(row["predicted_error"] for row in rows) > 0.1


@pytest.mark.parametrize("quartic", [-0.3, 0.0, 0.5])
def test_the_limiting_sharpness_is_that_of_appendix_f2(quartic):
    # F's even part is cx⁴, and δ² = 8: −F′(δ)/δ + F″(δ) = 8cδ²
    objective = toy(0.1, alpha=2.0, beta=0.5, quartic=quartic, cubic=0.7)
    cubic = cubic_at(objective, vector(0, 0, 0), 0.1)
    assert limiting_sharpness(objective, cubic) == pytest.approx(20 + 64 * quartic)


def test_lemma_4_is_the_recursion_6(precise):
    """x_{t+1} = −(1 + ηy)x and y_{t+1} = η Σ β_{s→t} (δ² − x²)/2 + what is left of v₀, for v moved by (6)."""
    objective, theta = trained()
    process = SelfStabilization(objective, theta, STEP_SIZE, 100, tracked=40, every=50)
    path = []
    while not process.finished:
        process.step()
        if "x" in step_row(process):
            path.append(process.cubic)
    assert len(path) == 40
    v = 0.01 * path[0].u + path[0].outside(torch.randn(37, generator=torch.Generator().manual_seed(0)).double()) * 1e-3
    left, beta = v, restoring_strengths(path)
    pushes = []
    for t, (here, there) in enumerate(pairwise(path)):
        x, y = here.coordinates(v)
        pushes.append((here.delta_square - x**2) / 2)
        v = transported(here.predict(v), here.u, there.u)
        left = here.outside(left)
        left = left - STEP_SIZE * here.point.hvp(left)
        after_x, after_y = there.coordinates(v)
        assert after_x.item() == pytest.approx((-(1 + STEP_SIZE * y) * x).item(), rel=1e-6)
        lemma = STEP_SIZE * (beta[: t + 1, t] @ torch.stack(pushes)) + there.perpendicular @ left
        assert after_y.item() == pytest.approx(lemma.item(), rel=1e-7, abs=1e-9)
    assert (beta.tril(-1) == 0).all()
    assert abs(after_x) > 0.1


def test_on_the_toy_loss_the_restoring_strength_is_constant():
    cubics = [cubic_at(toy(beta=2.5), vector(0, 0, 0.05 * t), 0.05) for t in range(5)]
    torch.testing.assert_close(restoring_strengths(cubics), torch.full((4, 4), 2.5, dtype=torch.float64).triu())


# ------------------------------------------------------------------------------------------------ assumptions


@given(strengths=st.lists(st.floats(0.1, 5), min_size=3, max_size=3), order=st.integers(3, 4))
def test_the_operator_norm_of_a_diagonal_tensor(strengths, order):
    """T = Σ λᵢ eᵢ⊗…⊗eᵢ in a turned basis: each eᵢ is a local maximum, and ‖T‖ the largest λ."""
    basis = torch.linalg.qr(torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    weights = torch.tensor(sorted(strengths), dtype=torch.float64)

    def form(v):
        return basis @ (weights * (basis.T @ v) ** (order - 1))

    start = basis @ vector(0.1, 0.1, 1)
    assert operator_norm(form, start).item() == pytest.approx(weights[-1].item(), rel=1e-3)


def test_the_operator_norm_of_nothing_is_nothing():
    assert operator_norm(torch.zeros_like, vector(1, 2)) == 0
    assert operator_norm(lambda v: v * torch.nan, vector(1, 2)).isnan()


def test_the_assumption_ratios_against_full_tensors():
    objective, theta = trained()
    cubic, d, tensor = cubic_at(objective, theta), dense(objective, theta), third_tensor(objective, theta)
    deviation = torch.randn(37, generator=torch.Generator().manual_seed(0)).double()
    ratios = assumption_ratios(cubic, deviation)
    assert ratios.keys() <= stabilization.VARIABLES.keys()

    def f(at):
        return objective.forward(at)[0]

    fourth = jacfwd(jacfwd(hessian(f)))(theta).numpy()
    rho_3, rho_4 = ratios["rho_3"], ratios["rho_4"]
    # lower bounds of the norms that no random direction beats, and not below those at u
    v = torch.randn(37, 200, generator=torch.Generator().manual_seed(1)).double().numpy()
    v = np.c_[d.u, v / np.linalg.norm(v, axis=0)]
    third_v = np.einsum("ijk,jn,kn->in", tensor, v, v)
    assert rho_3 >= np.linalg.norm(third_v, axis=0).max() * (1 - 1e-6)
    fourth_v = np.einsum("ijkl,jn,kn,ln->in", fourth, v, v, v, optimize=True)
    assert rho_4 >= np.linalg.norm(fourth_v, axis=0).max() * (1 - 1e-6)

    def outside(w):
        w = w - d.u * (d.u @ w)
        return w / np.linalg.norm(w)

    def third(w):
        return np.linalg.norm(tensor @ w @ w)

    w, g, perp = outside(deviation.numpy()), outside(d.g), np.linalg.norm(d.perp)
    assert ratios["sharpening_alignment"] == pytest.approx(-g @ d.perp / perp, rel=1e-4)
    assert ratios["restoring_ratio"] == pytest.approx(perp / rho_3, rel=1e-4)
    assert ratios["fourth_order_ratio"] == pytest.approx(rho_4 / (STEP_SIZE * rho_3**2))
    assert ratios["third_order_ratio_v"] == pytest.approx(third(w) / rho_3, rel=1e-4)
    assert ratios["third_order_ratio_gradient"] == pytest.approx(third(g) / rho_3, rel=1e-4)
    assert ratios["second_order_ratio_v"] == pytest.approx(abs(w @ d.h @ w) / d.S, rel=1e-4)


# ------------------------------------------------------------------------------------------------ the central flow


@given(alpha=positive, beta=positive, y=st.floats(-1, 1), duration=st.floats(0.01, 1))
def test_the_central_flow_of_the_toy_loss(alpha, beta, y, duration):
    """Its variance takes away what of the excess over 2/η there is and what the Euler step would add."""
    point = toy(0.05, alpha, beta).expand(vector(0, y / beta**0.5, 0))
    variance, velocity = central_velocity(point, eigenvector_tracker(1, 1).at(point), 0.05, duration)
    assert variance.item() == pytest.approx(max(0, 2 * (alpha + y / duration) / beta), rel=1e-6, abs=1e-9)
    ahead = 40 + y + duration * beta**0.5 * velocity[1].item()  # S at x = 0
    assert ahead == pytest.approx(min(40, 40 + y + duration * alpha), rel=1e-9)
    assert (velocity[0].item(), velocity[2].item()) == pytest.approx((0, 1), abs=1e-9)


def test_the_mean_gradient_of_an_oscillation_is_that_of_the_central_flow():
    objective, theta = trained()
    point = objective.expand(theta)
    spectrum = eigenvector_tracker(1, 1).at(point)
    u = spectrum.vectors[0]
    variance, velocity = central_velocity(point, spectrum, 2 / (spectrum.values[0].item() - 0.1), 1.0)
    assert variance > 0
    small = 1e-3  # the mean over ±small·u differs from ∇f by ½ small² ∇S + O(small⁴)
    mean = (objective.gradient(theta + small * u) + objective.gradient(theta - small * u)) / 2
    expected = (mean - point.gradient) * variance / small**2
    torch.testing.assert_close(-velocity - point.gradient, expected, rtol=1e-3, atol=1e-5 * expected.norm().item())


def test_the_tangent_is_orthogonal_to_u_and_the_gradient_of_the_sharpness():
    objective, theta = trained()
    cubic = cubic_at(objective, theta)
    v = torch.randn(len(theta), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    tangent = cubic.tangent(v)
    normals = torch.stack([cubic.u, cubic.point.third(cubic.u)])
    torch.testing.assert_close(normals @ tangent, torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(tangent @ tangent, tangent @ v)  # and nothing else was taken away


# -------------------------------------------------------------------------------------------------- the process


def network_process(steps=215, precision=torch.float32, **options):
    (objective, _), (single, theta) = small_problem(), small_problem(precision)
    return SelfStabilization(objective, theta, STEP_SIZE, steps, approach=single, **{"every": 20} | options)


@pytest.fixture(scope="module")
def rows():
    return step_rows(network_process())


def tracked(rows):
    return [row for row in rows if "x" in row]


def test_the_onset_is_the_first_step_whose_midpoint_is_unstable():
    process = network_process(precision=torch.float64)
    objective, theta = small_problem()
    for t in range(200):  # noqa: B007
        gradient = objective.gradient(theta)
        if dense(objective, theta - STEP_SIZE / 2 * gradient).S >= 2 / STEP_SIZE:
            break
        process.step()
        assert step_row(process)["loss"] == objective.value(theta).item()
        assert "sharpness" not in step_row(process)
        theta = theta - STEP_SIZE * gradient
    assert process.onset == t > 100
    process.step()
    row = step_row(process)
    assert row["loss"] == row["flow_loss"] == objective.value(theta).item()
    assert row["predicted_error"] == row["generalised_error"] == 0


def test_before_the_onset_the_midpoint_is_checked_now_and_then_and_always_when_near(rows):
    onset = len(rows) - len(tracked(rows))
    checked = {t: row["midpoint_sharpness"] for t, row in enumerate(rows) if "midpoint_sharpness" in row}
    near = next(t for t in range(19, onset, 20) if checked[t] >= 1.5 / STEP_SIZE)
    assert list(checked) == [*range(20), *range(39, near + 1, 20), *range(near + 1, onset)]
    assert 40 < near < onset - 20, "there is something to tell apart"
    assert max(checked.values()) < 2 / STEP_SIZE


@pytest.mark.parametrize("every", [1, 50])
def test_an_onset_at_the_start_is_not_missed(every):
    """On the toy loss instability comes and goes within fifty steps."""
    process = SelfStabilization(toy(0.1), torch.tensor([0.3, -0.5, 0.0], dtype=torch.float64), 0.1, 200, every=every)
    while process.onset is None:
        process.step()
    assert process.onset == 5


def test_everything_observed_has_a_label_and_is_a_number(rows):
    assert {name for row in rows for name in row} <= stabilization.VARIABLES.keys()
    assert all(isinstance(value, float) and math.isfinite(value) for row in rows for value in row.values())
    late = tracked(rows)
    assert [i for i, row in enumerate(late) if "rho_3" in row] == list(range(0, len(late), 20))


def test_the_trajectories_are_what_they_should_be(rows):
    late = tracked(rows)
    assert all(row["constrained_residual"] <= 1e-6 for row in late)
    assert all(row["constrained_sharpness"] == pytest.approx(2 / STEP_SIZE, rel=1e-5) for row in late[1:])
    assert all(after["constrained_loss"] < row["constrained_loss"] for row, after in pairwise(late))
    assert all(row["flow_sharpness"] > 2 / STEP_SIZE for row in late[5::stabilization.FLOW_EVERY])
    assert max(row["sharpness"] for row in late) > 2 / STEP_SIZE + 0.5
    quiet = late[20]
    assert quiet["predicted_distance"] == pytest.approx(quiet["distance"], rel=0.05)
    assert quiet["predicted_sharpness"] == pytest.approx(quiet["sharpness"], rel=0.01)


def test_products_per_expansion_are_few(rows):
    """A step expands f at θ, at the flow, at θ† + xu, twice in the projection and twice on the central flow."""
    usual = [row["products"] for row in tracked(rows)[5:] if "rho_3" not in row]
    # 4 ∇³f (2 each), 3 for the predictions, and 6 spectra
    assert np.median(usual) <= 3 + 4 * 2 + 6 * 3


def test_the_first_order_form_of_the_constrained_update_holds(rows):
    """Lemma 13, with a constant of 5, and lemma 14: the loss falls by some multiple of η‖P∇f‖²."""
    late = tracked(rows)
    assert all(row["projection_error"] < 5 * row["epsilon"] ** 2 for row in late[1:])
    for row, after in pairwise(late[1:]):
        fall = row["constrained_loss"] - after["constrained_loss"]
        assert fall == pytest.approx(STEP_SIZE * row["projected_gradient_norm"] ** 2, rel=0.5)


def test_predictions_start_where_the_oscillation_is_large_enough(rows):
    threshold = max(abs(row["x"]) / row["delta"] for row in tracked(rows)) / 2
    late = tracked(step_rows(network_process(predict_from=threshold)))
    start = next(i for i, row in enumerate(late) if "predicted_x" in row)
    assert 0 < start < len(late) - 1
    assert all(abs(row["x"]) < threshold * row["delta"] for row in late[:start])
    assert abs(late[start]["x"]) >= threshold * late[start]["delta"]
    assert late[start]["predicted_error"] == late[start]["generalised_error"] == 0
    assert all("predicted_x" in row for row in late[start:])
    assert [row["x"] for row in late] == [row["x"] for row in tracked(rows)]  # the trajectories do not mind


def test_the_flow_takes_small_enough_steps():
    """Where Euler's method with step η would oscillate, on a quadratic along a second direction."""
    objective = Objective(lambda q: toy_loss(q[:3], 0.1, 1.0, 1.0) + 9.5 * q[3] ** 2)  # λ₂ = 19 = 1.9/η
    process = SelfStabilization(objective, vector(0.1, 0.05, 0, 1), 0.1, 20, every=1)
    process.step()
    process.step()
    # three steps of η/3 each: (1 − 19 η/3)³
    assert process.onset == 0
    assert process.flow[3].item() == pytest.approx((1 - 1.9 / 3) ** 6, rel=1e-9)


def test_it_ends_when_another_eigenvalue_becomes_unstable():
    objective = Objective(lambda q: toy_loss(q[:3], 0.1, 1.0, 1.0) + (9 + 2 * q[2]) * q[3] ** 2)  # λ₂ = 18 + 4ηt
    process = SelfStabilization(objective, vector(0.1, 0.05, 0, 0), 0.1, 100, every=2)
    rows = step_rows(process)
    values = [row["next_eigenvalue"] for row in rows if "next_eigenvalue" in row]
    assert values == pytest.approx([18 + 0.8 * i for i in range(3)], abs=0.1) and len(rows) == 5
    assert max(values[:-1]) <= 19 < values[-1]


def test_it_ends_so_many_steps_after_the_onset():
    process = network_process(tracked=7)
    assert len(tracked(step_rows(process))) == 7


def test_divergence_is_a_result():
    process = SelfStabilization(toy(0.1, quartic=5.0), vector(1.0, 0.05, 0), 0.1, 200, every=200)
    rows = step_rows(process)
    assert process.diverged_at == len(rows) - 1 < 150
    finite = [all(math.isfinite(row[f"{name}loss"]) for name in ("", "constrained_", "flow_")) for row in rows]
    assert all(finite[:-1]) and not finite[-1]


def test_divergence_before_the_onset_is_a_result():
    concave = Objective(lambda theta: theta[1] ** 2 - theta[0] ** 4)
    process = SelfStabilization(concave, vector(1, 0), 0.1, 100, every=10)
    rows = step_rows(process)
    assert process.onset is None and process.diverged_at == len(rows) - 1 < 20
    assert math.isfinite(rows[-2]["loss"]) and not math.isfinite(rows[-1]["loss"])


def test_two_constrained_eigenvalues():
    """Section 8.2: with both constrained, θ† has nowhere to go; constraining only λ₁ ends where λ₂ becomes unstable."""
    one, two = (
        SelfStabilization(two_toys(), vector(0.02, 0.01, 0.01, 0, 0), 0.1, 30, unstable=k, every=3) for k in (1, 2)
    )
    rows = step_rows(two)
    assert len(step_rows(one)) == 1  # λ₂ is past 1.9/η at once
    assert len(rows) == 30 and not any("x" in row for row in rows)
    assert all(row["constrained_sharpness"] == pytest.approx(20, rel=1e-6) for row in rows[1:])
    assert all(row["constrained_eigenvalues"] == pytest.approx([20, 20], rel=1e-6) for row in rows[1:])
    assert all(row["constrained_loss"] == pytest.approx(0, abs=1e-3) for row in rows[1:])
    assert max(row["distance"] for row in rows) > 1 and rows[-1]["flow_loss"] < -5


def test_an_unusable_step_size_is_named():
    with pytest.raises(ValueError, match="step_size must be positive, got 0"):
        SelfStabilization(toy(), vector(0, 0, 0), 0, 10)


@pytest.mark.parametrize("name", ["tracked", "unstable", "every"])
def test_an_unusable_number_is_named(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        SelfStabilization(toy(), vector(0, 0, 0), 0.1, 10, **{name: 0})


# ---------------------------------------------------------------------------------------------------- resuming


def through_files(state, folder):
    """The state as `runs` keeps it."""
    numbers, tensors = journal._split(state)
    safetensors.torch.save_file(tensors, folder / "state.safetensors")
    return journal._join(json.loads(json.dumps(numbers)), safetensors.torch.load_file(folder / "state.safetensors"))


@pytest.mark.parametrize("k", [0, 1, 47, 176, 177, 178, 193])
def test_a_restored_process_continues_with_the_same_bits(k, rows, tmp_path):
    saved = network_process()
    for _ in range(k):
        saved.step()
    state = saved.state()
    content = copy.deepcopy(state)
    step_rows(saved)
    assert json.dumps(journal._split(state)[0]) == json.dumps(journal._split(content)[0])  # no longer its concern
    restored = network_process()
    restored.load(through_files(content, tmp_path))
    assert step_row(restored) == (rows[k - 1] if k else {})
    assert step_rows(restored) == rows[k:]
    assert restored.state()["gradients"] == saved.state()["gradients"]
    assert restored.state()["products"] == saved.state()["products"]
    for name in SelfStabilization._POINTS:
        assert torch.equal(getattr(restored, name), getattr(saved, name))


@pytest.mark.parametrize("options", [{"unstable": 2}, {"predict_from": 0.5}])
def test_so_does_one_with_other_options(options, tmp_path):
    whole = step_rows(network_process(**options))
    saved = network_process(**options)
    for _ in range(len(whole) - 9):
        saved.step()
    restored = network_process(**options)
    restored.load(through_files(saved.state(), tmp_path))
    assert step_rows(restored) == whole[-9:]


def test_a_run_can_be_interrupted_and_ends_in_a_trace(rows):
    values = {"chapter": "self_stabilization", "experiment": "small", "step_size": STEP_SIZE}
    identity = store.Identity(values, {"step_size": STEP_SIZE})
    assert store.carry_on(network_process(), identity, budget=0.5) is None
    run = store.carry_on(network_process(), identity)
    assert run.manifest["resumes"] == 1
    np.testing.assert_array_equal(run.trace["loss"], [row["loss"] for row in rows])
    np.testing.assert_array_equal(run.trace["y"].dropna("step"), [row["y"] for row in tracked(rows)])
