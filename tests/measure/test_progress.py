"""eoslib.measure.progress: exact identities of Ahn et al. 2022, in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eoslib.measure import curvature, progress, variables
from eoslib.measure.progress import (
    ExpectedProgress,
    HeldOut,
    Loss,
    Progress,
    SegmentSmoothness,
    directional_smoothness,
    gauss_legendre,
    relative_progress,
    segment_smoothness,
    taus,
)
from eoslib.problems import networks
from eoslib.problems.landscapes import LANDSCAPES
from eoslib.problems.losses import BINARY_LOSSES, LOSSES
from eoslib.problems.objective import Objective, SupervisedObjective

step_sizes = st.floats(1e-3, 0.5)
coordinates = st.floats(-2, 2)
vectors = st.lists(st.floats(-3, 3), min_size=4, max_size=4).map(lambda v: torch.tensor(v, dtype=torch.float64))


def one_step(objective, theta, step_size, nodes):
    """RP(θ) and −1 + η∫₀¹ τL(θ; ητ∇f)dτ, the two sides of the identity, and the rounding to be expected."""
    here = objective.evaluate(theta)
    after = objective.value(theta - step_size * here.gradient)
    square = here.gradient.square().sum().item()
    points, weights = gauss_legendre(nodes)
    along = segment_smoothness(objective, theta, here.gradient, step_size, points)
    integral = step_size * sum(w * tau * smooth for w, tau, smooth in zip(weights, points, along, strict=True))
    # of f, as it shows in RP; where even f or ‖∇f‖² is lost in rounding, nothing can be said
    rounding = 1e-14 * (here.value + after).item() / (step_size * square) if square > 1e-200 else np.inf
    return relative_progress(here.value.item(), after.item(), step_size * square), -1 + integral, rounding


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("step_size", [2 / 60, 2 / 5])
def test_relative_progress_is_the_integral_of_directional_smoothness_on_a_network(loss, step_size):
    """RP = −1 + η∫₀¹ τL(θ; ητ∇f)dτ; Gauss–Legendre nodes make it exact to rounding on a smooth network."""
    outputs, classes = (1, 2) if loss in BINARY_LOSSES else (3, 3)
    network = networks.mlp(5, (6, 6), outputs, "tanh", seed=1).double()
    inputs = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = SupervisedObjective(network, inputs, torch.arange(20) % classes, loss)
    progress, integral, rounding = one_step(objective, networks.flatten(network), step_size, 24)
    assert progress == pytest.approx(integral, abs=1e-12 + rounding)


@pytest.mark.parametrize(("name", "nodes"), [("quadratic", 2), ("linear_neuron", 3)])
@given(x=coordinates, y=coordinates, step_size=step_sizes)
def test_the_same_identity_on_polynomial_landscapes(name, nodes, x, y, step_size):
    """There the integrand is a polynomial, of degree 1 and 3, and so few nodes are exact."""
    theta = torch.tensor([x, y], dtype=torch.float64)
    progress, integral, rounding = one_step(Objective(LANDSCAPES[name].f), theta, step_size, nodes)
    assume(rounding < 1e-4)
    assert progress == pytest.approx(integral, rel=1e-9, abs=1e-9 + rounding)


@pytest.mark.parametrize("name", ["tanh_quadratic", "tanh_neuron"])
@given(x=st.floats(-1, 1), y=st.floats(-1, 1), step_size=st.floats(1e-3, 0.02))
@settings(max_examples=30)
def test_the_same_identity_on_bounded_landscapes(name, x, y, step_size):
    theta = torch.tensor([x, y], dtype=torch.float64)
    progress, integral, rounding = one_step(Objective(LANDSCAPES[name].f), theta, step_size, 60)
    assume(rounding < 1e-4)
    assert progress == pytest.approx(integral, rel=1e-7, abs=1e-7 + rounding)


@given(v=vectors, theta=vectors)
def test_on_a_quadratic_directional_smoothness_is_the_rayleigh_quotient(v, theta):
    a = torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    a = a + a.T
    assume(v.norm() > 1e-3)
    smooth = directional_smoothness(v, a @ theta, a @ (theta - v))
    scale = (a @ theta).norm() / v.norm() + a.norm()
    assert smooth == pytest.approx((v @ a @ v / (v @ v)).item(), abs=1e-13 * scale.item())


@given(x=coordinates, y=coordinates)
def test_a_step_that_is_exactly_reversed_has_directional_smoothness_2_over_step_size(x, y):
    """∇f(θ − η∇f) = −∇f(θ) gives L = 2/η: the picture of unstable convergence."""
    gradient = torch.tensor([x, y], dtype=torch.float64)
    assume(gradient.norm() > 1e-3)
    assert directional_smoothness(0.1 * gradient, gradient, -gradient) == pytest.approx(20, rel=1e-12)


def test_relative_progress_by_hand():
    """On ½ax² with η: −1 + ηa/2; −1 if the promise of first order is kept, 0 on the edge."""
    for a, expected in [(0.2, -0.99), (1, -0.95), (20, 0), (30, 0.5)]:
        x, eta = 1.7, 0.1
        f, g = a * x**2 / 2, a * x
        after = a * (x - eta * g) ** 2 / 2
        assert relative_progress(f, after, eta * g**2) == pytest.approx(expected, abs=1e-12)


def test_a_stationary_point_has_no_relative_progress_and_no_directional_smoothness():
    zero = torch.zeros(3, dtype=torch.float64)
    assert np.isnan(relative_progress(1.0, 1.0, 0.0))
    assert np.isnan(directional_smoothness(zero, zero, zero))


# --- along a segment -------------------------------------------------------------------------------------


@given(nodes=st.integers(1, 30), degree=st.integers(0, 59))
def test_gauss_legendre_on_the_unit_interval(nodes, degree):
    points, weights = gauss_legendre(nodes)
    assert ((points > 0) & (points < 1)).all()
    if degree <= 2 * nodes - 1:
        assert weights @ points**degree == pytest.approx(1 / (degree + 1), rel=1e-12)


def test_the_rules_of_a_segment():
    assert taus(4, "even").tolist() == [0.25, 0.5, 0.75, 1]
    assert taus(3, "gauss").tolist() == gauss_legendre(3)[0].tolist()
    with pytest.raises(ValueError, match=r"'simpson'.*even, gauss"):
        taus(4, "simpson")


def test_the_end_of_the_segment_is_the_directional_smoothness_of_the_step():
    objective, theta, eta = Objective(LANDSCAPES["tanh_neuron"].f), torch.tensor([0.7, -0.4]).double(), 0.1
    gradient = objective.gradient(theta)
    after = objective.gradient(theta - eta * gradient)
    measured = SegmentSmoothness(nodes=4, rule="even").measure(objective.expand(theta), eta)["segment_smoothness"]
    assert len(measured) == 4
    assert measured[-1] == pytest.approx(directional_smoothness(eta * gradient, gradient, after), rel=1e-14)


def test_a_segment_costs_one_gradient_a_node():
    objective, theta = Objective(LANDSCAPES["quadratic"].f), torch.tensor([1.0, 1.0]).double()
    point = objective.expand(theta)
    SegmentSmoothness(nodes=7).measure(point, 0.01)
    assert (objective.gradients, objective.products) == (8, 0)


# --- accuracy ---------------------------------------------------------------------------


def test_accuracy_by_hand():
    outputs = torch.tensor([[1.0, 2, 3], [3, 2, 1], [0, 5, 0], [9, 0, 0]])
    assert progress.accuracy(outputs, torch.tensor([2, 1, 1, 0])).item() == 0.75
    assert progress.accuracy(torch.tensor([[0.3], [-2], [5], [-0.1]]), torch.tensor([1, 1, 1, 0])).item() == 0.75
    assert progress.accuracy(outputs.view(2, 2, -1), torch.tensor([[2, 1], [1, 0]])).item() == 0.75


def test_held_out_examples_are_measured_at_the_same_parameters():
    network = networks.mlp(4, (3,), 2, "tanh", seed=0)
    inputs = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10) % 2
    train, test = (
        SupervisedObjective(network, inputs[part], labels[part], "cross-entropy") for part in (slice(6), slice(6, 10))
    )
    theta = networks.flatten(network)
    problem = SimpleNamespace(held_out=lambda n, like: {4: test}[n])
    row = HeldOut(examples=4, every=2).begin(problem, theta).measure(train.expand(theta), 0.1)
    there = test.evaluate(theta)
    assert {name: value.item() for name, value in row.items()} == {
        "test_loss": there.value.item(),
        "test_accuracy": (there.outputs.argmax(1) == test.labels).double().mean().item(),
    }


def test_every_trace_variable_is_labelled():
    measurements = {m for m in declared(variables.Measurement) if m.__module__.startswith("eoslib.")}
    assert {Loss, Progress, HeldOut, SegmentSmoothness, curvature.Sharpness, ExpectedProgress} < measurements
    for m in measurements:
        assert m.variables, m
        for name, variable in m.variables.items():
            assert variable.long_name and variable.units, name
            assert isinstance(variable.dims, tuple)


def declared(kind):
    """All subclasses."""
    return {inner for sub in kind.__subclasses__() for inner in {sub} | declared(sub)}


def test_a_cadence_names_its_table_and_the_steps_that_are_due():
    """Steps 0 to 11 of epochs of four."""
    for every, table, due in [
        (1, "step", [*range(12)]),
        (5, "every_5", [0, 5, 10]),
        ("epoch", "epoch", [0, 4, 8]),
        ("end", "end", []),  # which is not on the way
        ((0, 7, 3), "chosen", [0, 3, 7]),
    ]:
        m = Loss(every=every)
        assert m.table == table
        assert [t for t in range(12) if m.due(t, t % 4 == 0)] == due


def test_an_estimate_takes_minibatches_of_its_own_seed():
    network = networks.mlp(4, (3,), 2, "tanh", seed=0).double()
    inputs = torch.randn(10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = SupervisedObjective(network, inputs, torch.arange(10) % 2, "cross-entropy")
    theta = networks.flatten(network)
    point = objective.expand(theta)

    def rows(seed, resume=False):
        live = ExpectedProgress(batch_size=3, minibatches=4, seed=seed).begin(None, theta)
        first = live.measure(point, 0.1)
        if resume:
            restored = ExpectedProgress(batch_size=3, minibatches=4, seed=seed + 9).begin(None, theta)
            restored.load(live.state())
            live = restored
        return first, live.measure(point, 0.1)

    assert rows(0) == rows(0) == rows(0, resume=True)
    assert rows(0)[0] != rows(0)[1] and rows(0)[0] != rows(1)[0]
    generator = torch.Generator().manual_seed(1)  # seed 0 of the estimate is not the one that orders the examples
    sample = [torch.randperm(10, generator=generator)[:3] for _ in range(4)]
    assert rows(0)[0] == progress.expected_relative_progress(objective, theta, objective.evaluate(theta), 0.1, sample)


def test_on_linear_regression_both_sides_of_relation_6_are_the_same_and_known():
    """f is quadratic: f(θ − ηg) = f − η⟨g, ∇f⟩ + ½η²gᵀHg, so both are −1 + (η/2) E[gᵀHg] / ‖∇f‖²."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    network = networks.mlp(3, (), 2, "linear", seed=0).double()
    objective = SupervisedObjective(network, inputs, torch.arange(12) % 2, "mse-half-sum")
    theta, eta = networks.flatten(network), 0.3
    minibatches = list(torch.randperm(12, generator=generator).split(4))
    here = objective.evaluate(theta)
    measured = progress.expected_relative_progress(objective, theta, here, eta, minibatches)
    hessian = torch.func.hessian(lambda t: objective.forward(t)[0])(theta)
    g = torch.stack([objective.batch(m).gradient(theta) for m in minibatches])
    values = -1 + eta / 2 * torch.einsum("bi,ij,bj->b", g, hessian, g) / here.gradient.square().sum()
    assert measured["expected_relative_progress"] == pytest.approx(values.mean().item(), rel=1e-10)
    assert measured["expected_relation"] == pytest.approx(values.mean().item(), rel=1e-10)
    assert measured["expected_relation_se"] == pytest.approx(values.std().item() / 3**0.5, rel=1e-10)
    # the minibatches are all of an epoch, so the plain definition needs no correction
    after = torch.stack([objective.value(theta - eta * row) for row in g])
    plain = ((after.mean() - here.value) / (eta * here.gradient.square().sum())).item()
    assert measured["expected_relative_progress"] == pytest.approx(plain, rel=1e-10)
    assert measured["decreasing_share"] == (after < here.value).double().mean().item()
