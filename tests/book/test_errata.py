"""The numbers on the errata page."""

import math

import numpy as np
import torch

from eoslib.papers import basins, escape
from eoslib.papers.stationarity import window_change, zigzag
from eoslib.problems import landscapes


def test_the_example_against_proposition_1():
    def f(x):
        y = 1000 * abs(x)  # ln cosh y = y - ln 2 + ln(1 + exp(-2y))
        return 50 * x * x if x <= 0 else 1e-4 * (y - math.log(2) + math.log1p(math.exp(-2 * y)))

    def gradient(x):
        return 100 * x if x <= 0 else 0.1 * math.tanh(1000 * x)

    def curvature(x):
        return 100.0 if x <= 0 else 100 * (1 - math.tanh(1000 * x) ** 2)

    step_size, epsilon, delta, first, count = 1, 0.5, 0.0099, 1, 30
    x = [-0.05]
    for _ in range(60):
        x.append(x[-1] - step_size * gradient(x[-1]))
    tail = x[first : first + count]
    assert math.isclose(x[1], 4.95) and round(f(x[0]), 3) == 0.125 and round(f(x[1]), 3) == 0.495
    assert sum(gradient(y) ** 2 for y in tail) / count >= delta
    assert 25.2 < f(x[0]) / (step_size * epsilon * delta) < 25.3 < count  # the printed condition holds
    assert max(map(curvature, x[first : first + count + 1])) == 0 < 2 / step_size * (1 - epsilon)  # and yet
    needed = math.ceil(f(x[1]) / (step_size * epsilon * delta))
    length = next(t for t, y in enumerate(x[1:]) if y <= 0)  # steps until the slope ends
    assert needed == 100 and length == 50


def test_the_update_of_example_4():
    # one eigenvector with eigenvalue 3 of P, f = theta' P theta
    eigenvalue, step_size, theta, h = 3.0, 0.05, 0.7, 1e-6
    gradient = (eigenvalue * (theta + h) ** 2 - eigenvalue * (theta - h) ** 2) / (2 * h)
    assert math.isclose(theta - step_size * gradient, (1 - 2 * step_size * eigenvalue) * theta, rel_tol=1e-8)


def test_convergence_at_the_largest_step_size_of_f4():
    eta, minimum = 10 / 19, math.sqrt(1.9)

    def step(s):  # f₄ on x = y is (1 − s²/2)² + s²/20
        return s - eta * (-2 * (1 - s * s / 2) * s + s / 10)

    s, steps = minimum + 0.01, 10_000
    for _ in range(steps):
        s = step(s)
    distance = abs(s - minimum)
    c = 36 * 1.9 / 3.8**2 - 6 / (3 * 3.8)
    assert math.isclose(c, 80 / 19)
    assert round(distance, 4) == 0.0032
    # 1/d² grows by 2c a step, from 1/0.01²
    assert math.isclose(distance, (2 * c * steps + 1e4) ** -0.5, rel_tol=0.02)


def test_convergence_of_a_quartic_at_equality():
    x, at = 0.3, {}
    for k in range(1, 100_001):
        x = -x * (1 - 4 * x * x)
        at[k] = abs(x)
    assert (round(at[10], 4), round(at[1000], 4), round(at[100_000], 5)) == (0.0962, 0.0111, 0.00112)
    assert math.isclose(at[100_000], 1 / math.sqrt(8e5), rel_tol=0.01)


def test_gradient_descent_comes_to_rest_on_the_axes_of_f3():
    f3 = landscapes.get("f3")
    x, y = 2.0, 0.1
    for _ in range(2000):
        g, h = f3.gradient(x, y)
        x, y = x - g / 40, y - h / 40
    assert round(x, 5) == 1.98606 and abs(y) < 1e-12 and round(2 * x * x * (x * x - 3), 2) == 7.45
    starts = basins.pixel_centres((-3.0, 3.0, -3.0, 3.0), 400)
    rest = basins.classify(f3, 1 / 20, *starts).outcome == basins.Outcome.DEGENERATE
    assert round(100 * rest.mean(), 1) == 8.4


def test_the_orbit_of_lemma_2():
    found = []
    for n in (10, 30, 100):
        values = [float(v) for v in zigzag(n)[1]]
        found.append(n * window_change(np.array(values * 3), n))
        assert abs(values[0] - values[1]) < 1 / (n + 1)
    assert [float(f"{x:.2g}") for x in found] == [0.064, 0.025, 0.0078]


def test_the_bands_of_figure_5():
    """u ↦ u − 4 sin u: twelve bands visited in a fixed order, and a positive exponent from every start."""
    u = np.random.default_rng(0).uniform(-np.pi, np.pi, 500)
    exponents = np.zeros(500)
    for t in range(20_000):
        if t >= 2000:
            exponents += np.log(abs(1 - 4 * np.cos(u))) / 18_000
        u = u - 4 * np.sin(u)
    assert exponents.min() > 0.0785 and exponents.max() < 0.0905
    orbit, x = np.empty(100_000), 2.9
    for t in range(105_000):
        if t >= 5000:
            orbit[t - 5000] = (x + np.pi) % (2 * np.pi) - np.pi
        x = x - 4 * math.sin(x)
    places = np.sort(orbit)
    cuts = np.flatnonzero(np.diff(places) > 0.02)
    low, high = places[[0, *(cuts + 1)]], places[[*cuts, -1]]
    assert len(low) == 12 and round((high - low).sum() / (2 * np.pi), 3) == 0.006
    band = np.searchsorted(low, orbit, side="right") - 1
    assert all(len(set(band[1:][band[:-1] == b])) == 1 for b in range(12))


def test_the_shift_of_theorem_7():
    outputs, labels = torch.tensor([[100.0, 0, 0]]).repeat(4, 1), torch.tensor([1, 1, 2, 2])
    assert torch.nn.functional.cross_entropy(outputs, labels) > 99 > round(4 * 4 + math.log(3), 1) == 17.1


def test_both_sides_of_the_identity_before_10():
    eta = 0.1
    variance = eta / (2 - eta)
    assert round(variance, 4) == 0.0526 == round(eta / 2 * (variance + 1), 4)


def test_the_counterexample_to_theorem_2():
    low, high, gamma = 9.96, 10.24, 0.9
    starts = np.linspace(99.6, 102.4, 1002)[1:-1]
    after = (1 - gamma) * starts  # f = x²/2
    assert ((after > low) & (after < high)).all() and starts[0] > high
    bound = 2 * (102.4 / low) ** (-1 / math.log2(1 - gamma)) * (high - low) / (102.4 - 99.6)
    assert round(bound, 2) == 0.40


def test_a_smooth_function_leaves_a_gap_between_the_regions_of_lemma_1():
    """Appendix J's function falls towards neither minimum as it must, right beside the region around the sharp one."""
    f = landscapes.get("flat_and_sharp")
    assert max(escape.one_point_convexity(f, towards, 2.0, 2.2) for towards in (2.5, 0.0)) < 0
    assert escape.one_point_convexity(f, 2.5, 2.2, 2.8) > 0 and abs(escape.jumps(f, 1)[2]) < 1e-9


def test_theorem_4_cannot_keep_the_iterates():
    gamma, L, r = 1 / 1800, 900, 0.4
    assert gamma == L / (2 * L**2)
    spread = math.sqrt(L * r**2 / gamma)
    assert round(spread) == 509
    reach = gamma * math.sqrt(3) * spread  # uniform noise of this variance
    assert round(reach, 2) == 0.49
    mean = (1 - gamma * L) * np.linspace(-r, r, 2001)  # where a step from M leads without noise
    stays = (np.minimum(mean + reach, r) - np.maximum(mean - reach, -r)) / (2 * reach)
    assert (1 - stays).min() > 0.18 and 2 / (2 - gamma * L) > 1 and stays.min() > gamma * L / 2


def test_the_numbers_of_proposition_3():
    f_tm = landscapes.get("f_tm")
    assert math.isclose(f_tm.derivative(1)(4.0), -90) and abs(f_tm.derivative(1)(4.1)) < 1e-9
    constant = escape.one_point_convexity(f_tm, 4.1, 3.108, 9)
    assert round(constant, 2) == 4.84 and round(2 / 4.5, 3) == 0.444 and round(2 / constant, 3) == 0.413
    worst = (1 - 900 / 1000) * 0.4 + 360 / 1000
    assert math.isclose(worst, 0.4) and math.isclose((1 - 2 / 1000) * 2.9 + 5.8 / 1000, 2.9)


def test_the_global_minimum_of_appendix_k():
    f = landscapes.get("four_wells")
    well = torch.tensor(f.minimisers[-1], dtype=torch.float64)
    assert f.f(0 * well) == 0 and f.f(torch.tensor([1.5, 1.5])) == -8
    assert round(well[0].item(), 3) == 1.470 and round(f.f(well).item(), 2) == -8.09
    assert round(f.sharpness(well).item()) == 102


def test_the_edge_of_the_plateau_as_printed():
    assert round(1411.2 * (1 - 1e4 * (8.40001 - 8.4))) == 1270
    assert abs(1411.2 * (1 - 1e5 * (8.40001 - 8.4))) < 1e-6
