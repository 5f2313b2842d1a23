"""eoslib.measure.stochastic_curvature: against whole Hessians of a small network, and closed forms."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eoslib.dynamics.trajectory import Trajectory
from eoslib.measure.noise import draw
from eoslib.measure.progress import Progress
from eoslib.measure.stochastic_curvature import (
    BatchSharpness,
    CriticalSharpness,
    PowerIteration,
    SampleSharpness,
    critical_step,
)
from eoslib.problems import networks
from eoslib.problems.landscapes import LANDSCAPES
from eoslib.problems.objective import Objective, SupervisedObjective

N = 60
ALL = (
    Progress(),
    SampleSharpness(batch_size=5, examples=20), PowerIteration(batch_size=20, iterations=3),
    BatchSharpness(batch_size=10, minibatches=4), CriticalSharpness(),
)  # fmt: skip


@pytest.fixture(scope="module")
def problem():
    network = networks.mlp(4, (5,), 3, "tanh", seed=0).double()
    inputs = torch.randn(N, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = SupervisedObjective(network, inputs, torch.arange(N) % 3, "cross-entropy")
    return objective, 2 * networks.flatten(network)


def hessian(objective, theta):
    return torch.func.hessian(lambda t: objective.forward(t)[0])(theta)


def measured(declared, objective, theta, step_size=0.1):
    return declared.begin(None, theta).measure(objective.expand(theta), step_size)


def test_the_sharpness_of_all_examples_is_that_of_the_whole_hessian(problem):
    objective, theta = problem
    eigenvalues = torch.linalg.eigvalsh(hessian(objective, theta))
    row = measured(SampleSharpness(batch_size=10), objective, theta)
    assert row["sample_sharpness"] == pytest.approx(eigenvalues[-1].item(), rel=1e-3)
    assert row["sample_operator_norm"] == pytest.approx(eigenvalues.abs().max().item(), rel=1e-3)
    assert row["sample_sharpness_residual"] < 0.1
    assert row["sample_sharpness_se"] == 0
    assert np.isnan(row["fresh_sharpness"])


def test_the_operator_norm_sees_a_large_negative_eigenvalue(problem):
    """At a maximum of the loss along a direction; (2) asks for the norm, not for the largest eigenvalue."""
    objective, theta = problem
    network, inputs = objective.network, objective.inputs
    wrong = SupervisedObjective(network, inputs, objective.forward(theta)[1].argmin(1), "mse-sum")
    eigenvalues = torch.linalg.eigvalsh(hessian(wrong, 0.2 * theta))
    assert -eigenvalues[0] > 0.02 * eigenvalues[-1]
    shifted = Objective(lambda t: wrong.forward(t)[0] - eigenvalues[-1] * (t @ t))  # all eigenvalues are negative now
    shifted.labels, shifted.batch = wrong.labels, lambda indices: shifted
    shifted.batches = lambda minibatches: (shifted for _ in minibatches)
    row = measured(SampleSharpness(batch_size=10), shifted, 0.2 * theta)
    assert row["sample_operator_norm"] == pytest.approx((2 * eigenvalues[-1] - eigenvalues[0]).item(), rel=1e-3)
    assert row["sample_sharpness"] == pytest.approx(-eigenvalues[-1].item(), rel=1e-3)


def test_the_sharpness_of_a_sample_is_too_large_and_that_of_fresh_examples_too_small(problem):
    objective, theta = problem
    truth = torch.linalg.eigvalsh(hessian(objective, theta))[-1].item()
    live = SampleSharpness(batch_size=4, examples=20).begin(None, theta)
    rows = [live.measure(objective.expand(theta), 0.1) for _ in range(60)]
    sample, error, fresh = (
        np.array([row[name] for row in rows]) for name in ("sample_sharpness", "sample_sharpness_se", "fresh_sharpness")
    )
    assert fresh.mean() + 3 * fresh.std() / 60**0.5 < truth < sample.mean() - 3 * sample.std() / 60**0.5
    assert np.sqrt((error**2).mean()) == pytest.approx(sample.std(), rel=0.4)  # of five minibatches each


def test_power_iteration_on_all_examples_finds_the_eigenvalue_of_largest_size(problem):
    objective, theta = problem
    eigenvalues = torch.linalg.eigvalsh(hessian(objective, theta))
    largest = eigenvalues[eigenvalues.abs().argmax()].item()
    row = measured(PowerIteration(batch_size=N, iterations=200), objective, theta)
    assert row["power_sharpness"] == pytest.approx(largest, rel=1e-6)
    assert row["power_sharpness_residual"] < 1e-3
    few = measured(PowerIteration(batch_size=N, iterations=2), objective, theta)
    assert few["power_sharpness"] < 0.9 * largest and few["power_sharpness_residual"] > 0.1


def test_each_product_of_power_iteration_is_of_a_new_minibatch(problem):
    """The same numbers from whole Hessians."""
    objective, theta = problem
    declared = PowerIteration(batch_size=7, iterations=3, seed=5)
    row = measured(declared, objective, theta)
    generator = torch.Generator().manual_seed(5 + 4)
    v = torch.randn(len(theta), generator=generator, dtype=torch.float64)
    for _ in range(3):
        v = v / v.norm()
        (minibatch,) = draw(N, 7, 7, generator)
        product = hessian(objective.batch(minibatch), theta) @ v
        quotient, last, v = v @ product, v, product
    assert row["power_sharpness"] == pytest.approx(quotient.item(), rel=1e-10)
    residual = (product - quotient * last).norm() / quotient.abs()
    assert row["power_sharpness_residual"] == pytest.approx(residual.item(), rel=1e-10)


def test_batch_sharpness_is_the_mean_curvature_along_minibatch_gradients(problem):
    objective, theta = problem
    row = measured(BatchSharpness(batch_size=9, minibatches=5, seed=2), objective, theta)
    generator = torch.Generator().manual_seed(2 + 4)
    quotients = []
    for _ in range(5):
        batch = objective.batch(draw(N, 9, 9, generator)[0])
        g = batch.gradient(theta)
        quotients.append((g @ hessian(batch, theta) @ g / (g @ g)).item())
    assert row["batch_sharpness"] == pytest.approx(np.mean(quotients), rel=1e-10)
    assert row["batch_sharpness_se"] == pytest.approx(np.std(quotients, ddof=1) / 5**0.5, rel=1e-10)


class Quadratics:
    """A population of examples f_i(θ) = ½ ⟨θ, H_i θ⟩ with gradients of their own, known already: a thousand samples are
    measured in a second."""

    def __init__(self, hessians, gradients):
        self.hessians, self.gradients = hessians, gradients
        self.labels = gradients

    def batch(self, indices):
        return Quadratics(self.hessians[indices], self.gradients[indices])

    def batches(self, minibatches):
        return map(self.batch, minibatches)

    def expand(self, theta):
        self.hessian, self.gradient = self.hessians.mean(0), self.gradients.mean(0)
        return self

    def hvp(self, v):
        return self.hessian @ v


@pytest.mark.parametrize("lowest", [-1.5, -1.05, -0.95, -0.1, 0.0])
def test_the_operator_norm_sees_one_negative_eigenvalue_among_many_that_are_zero(lowest):
    """A random vector has next to nothing of it, so that the search must not end with the first small residual."""
    hessian = torch.zeros(400, 400, dtype=torch.float64)
    hessian[0, 0], hessian[1, 1] = 1.0, lowest
    point = SimpleNamespace(
        objective=Quadratics(hessian.expand(20, 400, 400), torch.zeros(20, 400)), theta=torch.zeros(400).double()
    )
    row = SampleSharpness(batch_size=10).begin(None, point.theta).measure(point, 0.1)
    assert row["sample_operator_norm"] == pytest.approx(max(1, -lowest), rel=1e-3)


def test_a_thousand_resamples_have_the_spread_that_is_stated():
    generator = torch.Generator().manual_seed(0)
    near, scale = torch.randn(N, 4, generator=generator, dtype=torch.float64), torch.rand(N, generator=generator)
    near[:, 0] += 5  # examples are steep along much the same direction
    population = Quadratics(scale[:, None, None] * near[:, :, None] * near[:, None], near * scale[:, None])
    point = SimpleNamespace(objective=population, theta=torch.zeros(4, dtype=torch.float64))
    for declared, names in (
        (BatchSharpness(batch_size=6, minibatches=4), ["batch_sharpness"]),
        (SampleSharpness(batch_size=2, examples=20), ["sample_sharpness", "fresh_sharpness"]),
    ):
        live = declared.begin(None, point.theta)
        rows = [live.measure(point, 0.1) for _ in range(1000)]
        for name in names:
            values, errors = np.array([(row[name], row[f"{name}_se"]) for row in rows]).T
            assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.15), name


def test_critical_sharpness_of_a_quadratic_is_the_curvature_along_the_gradient():
    objective, theta = Objective(LANDSCAPES["quadratic"].f), torch.tensor([0.3, -2.0], dtype=torch.float64)
    g = objective.gradient(theta)
    curvature = (40 * g[0] ** 2 + 2 * g[1] ** 2) / g.square().sum()
    live = CriticalSharpness().begin(None, theta)
    for step_size in (1e-4, 3.0, 0.05):  # wherever the search begins
        row = live.measure(objective.expand(theta), step_size)
        assert abs(row["critical_sharpness"] - curvature) <= row["critical_sharpness_error"]
        assert row["critical_sharpness_error"] <= curvature / 16
    assert row["forward_passes"] <= 6  # from the last one found


@pytest.mark.parametrize("guess", [1e-3, 0.5, 300.0])
def test_between_the_ends_of_the_interval_the_loss_ceases_to_fall(guess, problem):
    objective, theta = problem
    here = objective.evaluate(theta)
    low, high, spent = critical_step(objective, theta, here.value.item(), here.gradient, guess)
    passes = [objective.value(theta - step * here.gradient) - here.value for step in (low, high)]
    assert passes[0] < 0 <= passes[1]
    assert high - low <= high / 16 and spent <= 20


def test_where_every_step_lowers_the_loss_there_is_no_critical_step():
    falling = Objective(lambda t: -t.sum())
    theta = torch.zeros(2, dtype=torch.float64)
    assert critical_step(falling, theta, 0.0, falling.gradient(theta), 1.0) == (0.0, float("inf"), 60)
    row = CriticalSharpness().begin(None, theta).measure(falling.expand(theta), 1.0)
    assert np.isnan(row["critical_sharpness"]) and row["forward_passes"] == 60


def test_all_of_them_on_one_trajectory_resume_and_move_nothing(problem):
    objective, theta = problem

    def run(steps, state=None, measurements=ALL):
        process = Trajectory(objective, theta, 0.1, 6, measurements)
        if state:
            process.load(state)
        rows = []
        for _ in range(steps):
            process.step()
            rows.append(process.observe()["step"])
        return rows, process

    rows, process = run(6)
    expected = {name for declared in ALL for name in declared.variables}
    assert set(rows[0]) == expected
    assert all(np.isfinite(value) for row in rows for value in row.values())
    _, half = run(3)
    assert run(3, half.state())[0] == rows[3:]
    assert torch.equal(run(6, measurements=())[1].theta, process.theta)
