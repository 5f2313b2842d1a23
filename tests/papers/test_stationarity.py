"""eoslib.papers.stationarity: exact orbits, identities and closed forms of Zhang et al. 2021, and its errors."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eoslib.dynamics.rules import Rule
from eoslib.dynamics.trajectory import Trajectory
from eoslib.measure.progress import Loss, expected_relative_progress, gauss_legendre
from eoslib.papers import stationarity
from eoslib.papers.stationarity import (
    SOFTMAX_LIPSCHITZ,
    Balance,
    SampleSizes,
    WeightNorms,
    balance,
    invariance_gaps,
    largest_norm,
    loss_range,
    lyapunov_exponent,
    seeded_layers,
    tent_orbit,
    time_averages,
    window_change,
    zigzag,
)
from eoslib.problems import landscapes, networks
from eoslib.problems.batches import Batches
from eoslib.problems.objective import Objective, SupervisedObjective

SINES, TENT = landscapes.get("sines"), landscapes.get("tent")


def descent(landscape, start, step_size, steps):
    """θ_t (steps, d), by steps of the landscape's own compiled gradient."""
    theta, g, rows = np.array(start, float), np.empty(len(start)), []
    for _ in range(steps):
        rows.append(theta.copy())
        landscape.gradient_at(theta, g)
        theta = theta - step_size * g
    return np.array(rows)


# --- averages -------------------------------------------------------------------------------------------


def test_time_averages_by_hand():
    assert time_averages(np.array([1.0, 3, 8])).tolist() == [1, 2, 4]
    assert time_averages(np.array([[1.0, 0], [3, 2]])).tolist() == [[1, 0], [2, 1]]


def test_the_gap_of_a_deterministic_map_telescopes():
    f = SINES.f(torch.from_numpy(descent(SINES, (1.0, 2.0), 0.04, 501))).numpy()
    n = np.arange(1, 501)
    np.testing.assert_allclose(invariance_gaps(f[:-1], f[1:]), abs(f[0] - f[1:]) / n, atol=1e-11)


def test_the_expectation_after_a_noisy_step_is_that_of_quadrature():
    eta, sigma = 0.02, 15.0
    values, expected = stationarity.noisy_sines(eta, sigma, 1, 5, seed=3)
    u, v = np.random.default_rng(3).uniform(-np.pi, np.pi, (2, 5))
    theta = np.stack([(u + v) / 2, (u - v) / 2])
    np.testing.assert_allclose(values[0], 100 * np.sin(theta[0]) * np.sin(theta[1]), rtol=1e-11)
    g = np.empty_like(theta)
    SINES.gradient_at(theta, g)
    x, weights = np.polynomial.hermite_e.hermegauss(40)
    x, y, w = x[:, None, None] * eta * sigma, x[None, :, None] * eta * sigma, np.outer(weights, weights)[:, :, None]
    after = 100 * np.sin(theta[0] - eta * g[0] - x) * np.sin(theta[1] - eta * g[1] - y)
    np.testing.assert_allclose(expected[0], (w * after).sum((0, 1)) / (2 * np.pi), rtol=1e-11)


def test_theorem_1_has_the_rates_of_its_two_kinds_of_map():
    n = 2 ** np.arange(4, 12)
    for noise, rate in ((20.0, -0.5), (0.0, -1.0)):
        values, expected = stationarity.noisy_sines(0.04, noise, n[-1], 200)
        gaps = np.sqrt((invariance_gaps(values, expected)[n - 1] ** 2).mean(1))
        slope = np.polyfit(np.log(n), np.log(gaps), 1)[0]
        assert slope == pytest.approx(rate, abs=0.05)


@given(st.integers(1, 6))
def test_the_change_of_a_window_by_sums(n):
    f = np.random.default_rng(n).normal(size=20)
    means = [f[t : t + n].mean() for t in range(20 - n + 1)]
    assert window_change(f, n) == pytest.approx(abs(np.diff(means)).max(), rel=1e-9)


def test_the_lyapunov_exponent_of_the_sines_is_that_of_two_maps_of_the_circle():
    """u = θ₁ + θ₂ moves by u − 100η sin u, v = θ₁ − θ₂ by v + 100η sin v, and each stretches by its own derivative."""
    orbit = descent(SINES, (1.0, 2.0), 0.04, 6000)[2000:]  # without its beginning
    u, v = orbit.sum(1), orbit[:, 0] - orbit[:, 1]
    each = [np.log(abs(1 - 4 * np.cos(u))).mean(), np.log(abs(1 + 4 * np.cos(v))).mean()]
    found = lyapunov_exponent(SINES, orbit, 0.04)
    assert found == pytest.approx(max(each), abs=2e-3)
    assert found > 0.05  # figure 5's second row is no periodic orbit
    # a second look: orbits of that circle map, 1e-11 apart, part at this rate as long as they are near
    one, other = u[:3000].copy(), u[:3000] + 1e-11
    for _ in range(100):
        one, other = one - 4 * np.sin(one), other - 4 * np.sin(other)
    assert np.log(abs(one - other) / 1e-11).mean() / 100 == pytest.approx(each[0], abs=0.02)
    assert lyapunov_exponent(SINES, descent(SINES, (1.0, 0.5), 0.015, 400), 0.015) < -0.1


# --- lemma 2 and theorem 3 ---------------------------------------------------------------------------------


@given(st.integers(1, 200))
def test_lemma_2s_orbit_and_the_two_errors_in_its_proof(n):
    theta, values = zigzag(n)
    assert theta[1:] == [-1 + (k + Fraction(1, 5)) / (n + 1) for k in range(1, n + 1)]
    assert abs(values[0] - values[1]) < Fraction(1, 2)
    period = np.array([float(v) for v in values] * 3)
    assert window_change(period, n) <= 0.8 / n**2
    if n > 20:
        assert n**2 * window_change(period, n) == pytest.approx(0.8, abs=4 / n)


def test_the_tent_is_1_lipschitz_and_its_descent_the_tent_map():
    x = np.linspace(0, 1, 1001)
    slope = TENT.derivative(1)(x)
    assert abs(slope).max() <= 1 and abs(np.diff(slope)).max() < 0.004  # and no jump
    np.testing.assert_allclose(x - slope, np.where(x < 0.5, 2 * x, 2 - 2 * x), atol=1e-15)


def test_an_orbit_of_the_tent_has_the_symbols_that_it_was_asked_for():
    symbols = np.random.default_rng(0).integers(0, 2, 2053)
    theta = tent_orbit(symbols)
    assert len(theta) == 2000
    assert ((theta >= 0.5) == symbols[:2000]).all()
    np.testing.assert_allclose(theta[1:], theta[:-1] - TENT.derivative(1)(theta[:-1]), atol=2**-52, rtol=0)


def test_on_the_tent_averages_over_every_window_go_on_changing_by_a_share_of_its_length():
    """From 2ⁿx = ⅔, x < ½, f changes by 1/6 − x²/2 ≥ 1/9 in n steps, and an orbit without pattern comes near each x."""
    f = TENT.derivative(0)(tent_orbit(np.random.default_rng(1).integers(0, 2, 30_000)))
    for n in range(1, 40):
        assert 1 / 9 < n * window_change(f, n) < 1 / 6 + 1e-9


def test_averages_along_doubling_blocks_have_two_limits():
    theta = tent_orbit(stationarity.doubling_blocks(2**15 + 53))
    averages = time_averages(TENT.derivative(0)(theta))
    ends = 2 ** np.arange(11, 16) - 2
    np.testing.assert_allclose(averages[ends][::2], -1 / 18, atol=1e-3)  # after zeros, near 0
    np.testing.assert_allclose(averages[ends][1::2], -1 / 9, atol=1e-3)  # after ones, near ⅔
    np.testing.assert_allclose(theta[1:], theta[:-1] - TENT.derivative(1)(theta[:-1]), atol=2**-52, rtol=0)


@pytest.mark.parametrize(("ratio", "start"), [(3.0, (1.0, 0.5)), (3.0, (2.0, 0.9)), (2.0, (1.0, 0.5))])
def test_a_lingering_map_swings_for_ever(ratio, start):
    averages = time_averages(np.cos(stationarity.lingering(200_000, start, ratio)))
    late, expected = averages[20_000:], (ratio - 1) / (ratio + 1)
    assert late.max() == pytest.approx(expected, abs=0.05) and late.min() == pytest.approx(-expected, abs=0.05)


# --- samples -----------------------------------------------------------------------------------------------


def test_by_size_each_sample_is_a_new_one_and_the_largest_all_there_is(network):
    objective, theta, _ = network
    declared = SampleSizes(sizes=(4, 12, 24), repeats=3, batch_size=4)
    row = declared.begin(None, theta).measure(objective.expand(theta), 0.1)
    assert set(row) == set(SampleSizes.variables)
    losses = np.array(row["by_size_sample_loss"])
    assert losses.shape == (3, 3) and len(set(losses[0])) == 3
    np.testing.assert_allclose(losses[2], objective.value(theta).item(), rtol=1e-12)
    truth = torch.linalg.eigvalsh(torch.func.hessian(lambda t: objective.forward(t)[0])(theta))[-1].item()
    np.testing.assert_allclose(row["by_size_sample_sharpness"][2], truth, rtol=1e-3)
    assert np.isfinite(row["by_size_fresh_sharpness"][:2]).all() and np.isnan(row["by_size_fresh_sharpness"][2]).all()


# --- networks -----------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=6), st.integers(0, 5))
def test_lemma_5(x, y):
    """And no constant smaller than √2 would do."""
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([y % len(x)])
    loss = torch.nn.functional.cross_entropy(x[None], label)
    assert 0 <= loss.item() <= (x.max() - x.min()).item() + math.log(len(x)) + 1e-12
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.norm() <= SOFTMAX_LIPSCHITZ
    far = torch.tensor([40.0, 0.0], dtype=torch.float64, requires_grad=True)
    (steep,) = torch.autograd.grad(torch.nn.functional.cross_entropy(far[None], torch.tensor([1])), far)
    assert steep.norm() == pytest.approx(SOFTMAX_LIPSCHITZ, rel=1e-12)


def trained(network, theta, weight_decay, step_size, steps=300):
    """SGD with weight decay on inputs of length 1; the trace of norms and the losses."""
    inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = inputs / inputs.norm(dim=1, keepdim=True)
    objective = SupervisedObjective(network.double(), inputs, torch.arange(40) % 3, "cross-entropy")
    rule = Rule(name="SGD", options={"weight_decay": weight_decay})
    measurements = WeightNorms(), Loss()
    batches = Batches(batch_size=8)
    process = Trajectory(objective, theta.double(), step_size, steps, measurements, rule=rule, batches=batches)
    rows = []
    for _ in range(steps):
        process.step()
        rows.append(process.observe()["step"])
    return rows


@pytest.mark.parametrize("decay", [1.0, 0.3])
def test_theorem_6_holds_within_its_hypotheses(decay):
    """Started on the boundary of C_w and with the largest step size, and the loss stays in its narrow range."""
    network = seeded_layers((6, 8, 8, 3), "tanh", seed=0)
    w = largest_norm(decay, 3)
    rows = trained(network, network.scaled(w), decay, 1 / decay)
    assert max(max(row["weight_norms"]) for row in rows) <= w * (1 + 1e-6)  # scaled in single precision
    assert max(abs(row["loss"] - math.log(3)) for row in rows) <= loss_range(decay, 3)
    assert len(rows[0]["weight_norms"]) == 3


def test_outside_of_its_hypotheses_the_set_is_left():
    """From norms of 1, which the theorem allows at γ ≥ √2 only, weights grow."""
    network = seeded_layers((6, 8, 8, 3), "tanh", seed=0)
    rows = trained(network, network.scaled(1.0), 1e-3, 0.5)
    assert max(rows[-1]["weight_norms"]) > 2


def test_the_norms_of_theorem_6_by_hand():
    assert largest_norm(2**0.5, 3) == pytest.approx(1)
    assert largest_norm(1.0, 4, loss_lipschitz=4.0) == pytest.approx(0.5)
    w = largest_norm(0.1, 5, lipschitz=2.0)
    assert SOFTMAX_LIPSCHITZ * 2**5 * w**4 == pytest.approx(0.1 * w)  # a gradient's bound is the pull of the decay
    # the proof's range, (γ/(c_ℓ c_σ²))^{L/(L−2)}, lacks the factor c_ℓ
    assert loss_range(0.1, 5, lipschitz=2.0) == pytest.approx(SOFTMAX_LIPSCHITZ * (0.1 / (2**0.5 * 4)) ** (5 / 3))
    assert loss_range(1e-4, 3) < 1e-10  # a network within the hypotheses at a usual weight decay learns nothing
    with pytest.raises(ValueError, match="more than two layers"):
        largest_norm(0.1, 2)


def test_theorem_7_keeps_the_scale_and_a_larger_step_does_not():
    network, bound = seeded_layers((6, 8, 3), "relu", batch_norm=True, seed=0), 2 * 8**0.5
    theta = networks.flatten(network)
    theta[-6:-3] = bound  # a, on the boundary
    inside = trained(network, theta, 1.0, 1.0)
    assert max(row["scale"] for row in inside) <= bound * (1 + 1e-6)
    assert trained(network, theta, 1.0, 2.5, steps=30)[-1]["scale"] > 10 * bound


def test_theorem_7s_bound_of_the_loss_forgets_the_shift():
    """|a| ≤ 2√m/γ, yet the loss is above 4m/γ + log d: b is not bounded by the hypotheses."""
    network = seeded_layers((6, 8, 3), "relu", batch_norm=True, seed=0).double()
    theta = networks.flatten(network)
    theta[-3] = 100.0
    inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = SupervisedObjective(network, inputs, torch.tensor([1, 1, 2, 2]), "cross-entropy")
    assert objective.value(theta).item() > 4 * 4 / 1.0 + math.log(3)


# --- the balance -------------------------------------------------------------------------------------------


def test_the_balance_of_a_quadratic_in_closed_form():
    """f = aθ²/2 with noise of variance s²: at the invariant distribution E‖∇f‖² = aηs²/(2 − ηa), which the corrected
    right side gives, and the printed one gives −ηas²."""
    a, eta, s, count = 1.0, 0.1, 1.0, 4000
    objective = Objective(lambda t: a * (t @ t) / 2)
    generator = torch.Generator().manual_seed(0)
    spread = (eta * s**2 / (a * (2 - eta * a))) ** 0.5
    found = []
    for theta in (spread * torch.randn(count, generator=generator, dtype=torch.float64)).split(1):
        g = a * theta + s * torch.randn(1, generator=generator, dtype=torch.float64)
        one = balance(objective, theta, eta, [g], nodes=2)
        assert one["corrected"][0] == pytest.approx((eta * a * g @ g / 2).item(), rel=1e-9)
        assert one["printed"][0] == pytest.approx((eta * a * (a * theta - g) @ g).item(), rel=1e-9)
        found.append([one["square"], one["corrected"][0], one["printed"][0], one["change"][0, 0]])
    mean, error = np.mean(found, 0), np.std(found, 0) / count**0.5
    truth = np.array([a * eta * s**2 / (2 - eta * a), a * eta * s**2 / (2 - eta * a), -eta * a * s**2, 0])
    assert (abs(mean - truth) < 4 * error).all()
    assert truth[0] == pytest.approx(0.0526, abs=1e-4)


@pytest.fixture(scope="module")
def network():
    module = networks.mlp(4, (5,), 3, "tanh", seed=0).double()
    inputs = torch.randn(24, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = SupervisedObjective(module, inputs, torch.arange(24) % 3, "cross-entropy")
    minibatches = list(torch.randperm(24, generator=torch.Generator().manual_seed(1)).split(6))
    return objective, networks.flatten(module), minibatches


def test_the_balance_against_the_double_integral_over_whole_hessians(network):
    objective, theta, minibatches = network
    eta, nodes = 0.7, 12
    gradients = [objective.batch(minibatch).gradient(theta) for minibatch in minibatches]
    found = balance(objective, theta, eta, gradients, (0.5, 1.0), nodes)
    mean = objective.gradient(theta)
    hessian = torch.func.hessian(lambda t: objective.forward(t)[0])
    for i, g in enumerate(gradients):
        corrected = printed = 0
        for t, wt in zip(*gauss_legendre(nodes), strict=True):
            for tau, w in zip(*gauss_legendre(nodes), strict=True):
                product = hessian(theta - t * tau * eta * g) @ g
                corrected += eta * wt * w * t * (g @ product)
                printed += eta * wt * w * ((mean - g) @ product)
        assert found["corrected"][i] == pytest.approx(corrected.item(), rel=1e-9)
        assert found["printed"][i] == pytest.approx(printed.item(), rel=1e-7)
        for j, c in enumerate((0.5, 1.0)):
            change = objective.value(theta - c * eta * g) - objective.value(theta)
            assert found["change"][i, j] == pytest.approx(change.item(), rel=1e-12)
        # the identity itself: f(θ − ηg) − f(θ) = −η⟨g, ∇f⟩ + η · corrected
        assert found["change"][i, 1] == pytest.approx((eta * (-(g @ mean) + corrected)).item(), abs=1e-12)


def test_the_balance_is_relation_6_of_ahn_et_al(network):
    objective, theta, minibatches = network
    gradients = [objective.batch(minibatch).gradient(theta) for minibatch in minibatches]
    found = balance(objective, theta, 0.7, gradients)
    theirs = expected_relative_progress(objective, theta, objective.evaluate(theta), 0.7, minibatches)
    assert -1 + found["relation"].mean() / found["square"] == pytest.approx(theirs["expected_relation"], rel=1e-10)
    progress = -1 + found["corrected"].mean() / found["square"]
    assert progress == pytest.approx(theirs["expected_relative_progress"], rel=1e-5)


def test_a_balance_is_measured_on_minibatches_of_its_own(network):
    objective, theta, _ = network
    declared = Balance(batch_size=6, minibatches=3, fractions=(0.1, 1.0), every=2)

    def rows(steps, state=None):
        process = Trajectory(objective, theta, 0.1, 6, [declared], batches=Batches(batch_size=6))
        if state:
            process.load(state)
        found = []
        for _ in range(steps):
            process.step()
            found.append(process.observe().get("every_2"))
        return found, process

    found, _ = rows(6)
    assert set(found[0]) == set(Balance.variables)
    assert len(found[0]["balance_change"]) == 2 and found[0] != found[2]
    assert found[0]["balance_square"] == pytest.approx(objective.gradient(theta).square().sum().item())
    assert rows(3, rows(3)[1].state())[0] == found[3:]
