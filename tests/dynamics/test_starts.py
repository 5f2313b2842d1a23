"""eoslib.dynamics.starts against plain NumPy loops, `Trajectory`, and SplitMix64 in Python's integers."""

import functools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from eoslib.dynamics import counter_noise, starts
from eoslib.dynamics.counter_noise import noise_at
from eoslib.dynamics.starts import Starts, uniform_points
from eoslib.dynamics.trajectory import Trajectory
from eoslib.problems.landscapes import LANDSCAPES, Landscape, get
from eoslib.problems.objective import Objective
from tests.processes import carried

# most of them let the points oscillate, and from some points diverge
STEP_SIZES = {
    "quadratic": 2 / 41, "tanh_quadratic": 2 / 41, "linear_neuron": 0.45, "tanh_neuron": 0.45, "f1": 0.4, "f2": 0.3,
    "f3": 0.15, "f4": 0.4, "circle": 0.22, "rounded_square": 0.05, "hyperbola": 0.3, "flat_and_sharp": 0.01,
    "returning": 0.019, "f_tm": 0.45, "two_bowls_1d": 0.95, "two_bowls_2d": 0.95, "two_bowls_10d": 0.95,
    "four_wells": 0.02, "sines": 0.015, "tent": 0.5,
}  # fmt: skip
EACH = pytest.mark.parametrize(("name", "step_size"), STEP_SIZES.items(), ids=STEP_SIZES)
NOISES = pytest.mark.parametrize("noise", ["uniform", "normal"])


def landscape(dimension, gradient_at):
    return Landscape(
        name="local", f=None, gradient_at=gradient_at, minimisers=(), sharpness=None, source="", dimension=dimension
    )


def product_except(theta, left_out):
    product = 1.0
    for k in range(10):
        if k != left_out:
            product = product * theta[k]
    return product


def ten_gradient(theta, out):
    """Of f = (θ₁⋯θ₁₀ − 1)² / 2 + Σ k θ_k² / 20."""
    residual = product_except(theta, -1) - 1
    for k in range(10):
        out[k] = residual * product_except(theta, k) + (k + 1) * theta[k] / 10


def bowl_gradient(theta, out):
    out[0] = theta[0]


def reciprocal_gradient(theta, out):
    out[0] = 1 / theta[0]


def flat_gradient(theta, out):
    out[0] = out[1] = 0 * theta[0]


TEN, FLAT = landscape(10, ten_gradient), landscape(2, flat_gradient)
BOWL, RECIPROCAL = landscape(1, bowl_gradient), landscape(1, reciprocal_gradient)


def numpy_loop(landscape, points, step_size, steps, escape=1e6, noise=None, momentum=0.0):
    """All points in lockstep: θ at the end (n, d), and where each one diverged. noise(t) is ξ_t (d, n)."""
    theta, gradient, velocity = points.T.copy(), np.empty(points.T.shape), np.zeros(points.T.shape)
    diverged_at = np.full(len(points), -1)
    for t in range(steps):
        with np.errstate(all="ignore"):
            landscape.gradient_at(theta, gradient)
            velocity = momentum * velocity + (gradient if noise is None else gradient + noise(t))
            moved = theta - step_size * velocity
            theta = np.where(diverged_at < 0, moved, theta)
            outside = ~(np.sqrt((theta * theta).sum(0)) <= escape)
        diverged_at[outside & (diverged_at < 0)] = t + 1
    return theta.T, diverged_at


def box(name):
    """Where the points start: for the landscapes with a sharp region, on both sides of it."""
    sharp = {"flat_and_sharp": (1.5, 3.5), "f_tm": (2, 5), "four_wells": (-3, 4)}
    low, high = (9, 11) if name.startswith("two_bowls") else sharp.get(name, (-1.5, 1.5))
    return [(low, high), *[(-1.5, 1.5) if low == 9 else (low, high)] * (get(name).dimension - 1)]


def last(process):
    """What there is after the last step, by the names of a row."""
    carried(process)
    return {"theta": process.theta, "diverged_at": process.diverged_at}


def kept(process):
    """The rows that were kept, each with its step."""
    rows = {}
    while not process.finished:
        t = process.t
        process.step()
        if row := process.observe():
            rows[t] = row["chosen"]
    return rows


# ------------------------------------------------------------------------------------------ against other computations


@EACH
def test_all_points_as_in_a_loop_of_numpy(name, step_size):
    points = uniform_points(box(name), 300, seed=0)  # two whole blocks and a part of one
    tanh = name.startswith("tanh")
    steps = 10 if tanh else 100  # NumPy's tanh rounds otherwise, which oscillations amplify
    row = last(Starts(get(name), points, step_size, steps))
    theta, diverged_at = numpy_loop(get(name), points, step_size, steps)
    assert (row["diverged_at"] == diverged_at).all()
    assert (diverged_at < 0).sum() > 50
    if tanh:
        np.testing.assert_allclose(row["theta"], theta, rtol=1e-12, atol=1e-13)
    else:
        np.testing.assert_array_equal(row["theta"], theta)


def test_some_of_those_points_diverge():
    diverging = {
        name for name, step_size in STEP_SIZES.items()
        if (numpy_loop(get(name), uniform_points(box(name), 300, 0), step_size, 100)[1] >= 0).any()
    }  # fmt: skip
    assert {"f1", "f2", "f3", "circle", "rounded_square"} <= diverging


@EACH
def test_a_point_goes_as_with_gradient_descent(name, step_size):
    points = torch.tensor([[0.4, 0.3], [-0.3, 0.4], [0.2, -0.5]], dtype=torch.float64)
    points = points.repeat(1, 5)[:, : get(name).dimension]
    theta = last(Starts(get(name), points, step_size, 20))["theta"]
    for ours, start in zip(theta, points, strict=True):
        descent = Trajectory(Objective(get(name).f), start, step_size, 20)
        carried(descent)
        assert descent.diverged_at is None and not torch.equal(descent.theta, start)
        np.testing.assert_allclose(ours, descent.theta.numpy(), rtol=1e-11, atol=1e-15)


def test_ten_dimensions_from_ten_thousand_points():
    points = uniform_points([(-1.2, 1.3)] * 10, 10_000, seed=1)
    row = last(Starts(TEN, points, 0.5, 50))
    theta, diverged_at = numpy_loop(TEN, points, 0.5, 50)
    np.testing.assert_array_equal(row["theta"], theta)
    assert (row["diverged_at"] == diverged_at).all() and 0 < (diverged_at >= 0).sum() < 5000


def test_every_landscape_is_among_those_tested():
    assert set(STEP_SIZES) == set(LANDSCAPES)


# ---------------------------------------------------------------------------------------------------- starting points


def test_a_symmetric_square_is_drawn_as_ever():
    generator = torch.Generator().manual_seed(3)
    expected = 0.3 * (2 * torch.rand(1000, 2, generator=generator, dtype=torch.float64) - 1)
    np.testing.assert_array_equal(uniform_points([(-0.3, 0.3)] * 2, 1000, 3), expected.numpy())


def test_any_box():
    box = np.array([(-1, 5), (2, 2.5), (7, 7)])
    points = uniform_points(box, 4000, seed=0)
    assert points.shape == (4000, 3)
    assert (points >= box[:, 0]).all() and (points <= box[:, 1]).all()
    for k in (0, 1):
        assert stats.kstest(points[:, k], "uniform", (box[k, 0], box[k, 1] - box[k, 0])).pvalue > 0.01
    assert (points != uniform_points(box, 4000, seed=1))[:, :2].all()


def test_explicit_points_and_kept_steps():
    points = [(1.0, 2.0), (0.5, -0.25), (3.0, 3.0)]
    rows = kept(Starts(get("quadratic"), points, 1 / 64, 5, keep=(0, 2, 3)))
    assert [*rows] == [0, 2, 3]
    for t, row in rows.items():  # θ₁ ← (1 − 40/64)θ₁ and θ₂ ← (1 − 2/64)θ₂, without rounding
        np.testing.assert_array_equal(row["theta"], np.array(points) * [0.375**t, 0.96875**t])


def test_the_starting_points_are_kept_unless_told():
    process = Starts(get("quadratic"), [(1.0, 2.0)], 1 / 64, 5)
    assert [*kept(process)] == [0]
    assert process.t == process.steps == 5
    assert carried(Starts(get("quadratic"), [(1.0, 2.0)], 1 / 64, 5, keep=())) == [{}]


# --------------------------------------------------------------------------------------------------------- divergence


def test_a_point_ends_alone_and_stays_where_it_left():
    # θ ← −2θ
    points = np.array([[2.0**-k] for k in range(300)])
    row = last(Starts(BOWL, points, 3.0, 20, escape=1000))
    gone = np.arange(300) <= 10
    np.testing.assert_array_equal(row["diverged_at"], np.where(gone, np.arange(300) + 10, -1))
    np.testing.assert_array_equal(row["theta"][gone, 0], (-1.0) ** (np.arange(11)) * 1024)
    np.testing.assert_array_equal(row["theta"][~gone], 2.0**20 * points[~gone])


def test_at_the_distance_itself_a_point_goes_on():
    assert last(Starts(BOWL, [[1.0], [1.5]], 3.0, 3, escape=8))["diverged_at"].tolist() == [-1, 3]


def test_infinities_and_nans_end_a_point():
    process = Starts(RECIPROCAL, [[0.0], [1.0], [-2.0]], 0.5, 3, keep=(1,))
    for row in (kept(process)[1], last(process)):
        assert row["theta"][0] == -np.inf and row["diverged_at"].tolist() == [1, -1, -1]
    assert process.theta[2] == -1.75 - 0.5 / -1.75 + 0.5 / (1.75 - 0.5 / 1.75)
    nan = landscape(1, lambda theta, out: bowl_gradient(theta * np.nan, out))
    row = last(Starts(nan, [[1.0]], 0.5, 4))
    assert np.isnan(row["theta"]).all() and row["diverged_at"].tolist() == [1]


def test_a_start_out_of_bounds_has_diverged_at_once():
    row = last(Starts(BOWL, [[5.0], [3.0]], 0.5, 4, escape=4))
    assert row["diverged_at"].tolist() == [0, -1] and row["theta"].tolist() == [[5.0], [3 / 16]]


def test_gradients_are_counted_while_points_last():
    process = Starts(BOWL, [[2.0], [1.0], [2.0**-60]], 3.0, 20, escape=1000)
    carried(process)
    assert process.state()["gradients"] == 9 + 10 + 20


# -------------------------------------------------------------------------------------------------------------- noise


def split_mix(state):
    """The outputs of SplitMix64, in Python's own integers."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        yield z ^ z >> 31


def test_split_mix_gives_its_published_numbers():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    numbers = np.arange(4, dtype=np.uint64)
    assert counter_noise._bits(np.array([1234567], np.uint64), numbers).tolist() == published
    outputs = split_mix(1234567)
    assert [next(outputs) for _ in range(4)] == published


@pytest.mark.parametrize("seed", [0, 12, -1, 2**63])
def test_the_noise_is_what_its_formula_says(seed):
    keys = split_mix(next(split_mix(seed % 2**64)))
    key = [next(keys) for _ in range(6)][5]
    bits = split_mix(key)
    fractions = [(next(bits) // 2**12 + 0.5) / 2**52 for _ in range(2 * 3 * 8)]
    for step in (0, 7):
        pairs = [fractions[2 * (3 * step + k) :][:2] for k in range(3)]
        uniform = [0.5 * (2 * u - 1) for u, _ in pairs]
        normal = [0.5 * math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v) for u, v in pairs]
        assert noise_at("uniform", 0.5, seed, 5, step, 3).tolist() == uniform
        np.testing.assert_allclose(noise_at("normal", 0.5, seed, 5, step, 3), normal, rtol=1e-14)
        assert noise_at("none", 0.0, seed, 5, step, 3).tolist() == [0, 0, 0]


@NOISES
def test_the_loop_adds_this_noise(noise):
    points = uniform_points([(-1.5, 1.5)] * 2, 150, seed=0)
    row = last(Starts(get("f1"), points, 0.4, 12, noise=noise, sigma=0.1, seed=9))
    theta, diverged_at = numpy_loop(
        get("f1"), points, 0.4, 12,
        noise=lambda t: np.stack([noise_at(noise, 0.1, 9, start, t, 2) for start in range(150)], axis=1),
    )  # fmt: skip
    assert (diverged_at >= 0).any()
    np.testing.assert_array_equal(row["diverged_at"], diverged_at)
    np.testing.assert_array_equal(row["theta"], theta)


def noises(noise, sigma, seed, n=20_000, steps=6):
    """ξ (steps, n, 2), seen from where f is constant and η = 1."""
    rows = kept(Starts(FLAT, np.zeros((n, 2)), 1.0, steps + 1, range(steps + 1), noise, sigma, seed))
    return -np.diff([row["theta"] for row in rows.values()], axis=0)


@NOISES
def test_the_noise_has_its_distribution(noise):
    sigma = 0.7
    xi, law = noises(noise, sigma, seed=4), {"uniform": stats.uniform(-1, 2), "normal": stats.norm()}[noise]
    size = xi.size
    variance = {"uniform": sigma**2 / 3, "normal": sigma**2}[noise]
    kurtosis = law.stats("k") + 3
    assert abs(xi.mean()) < 4 * np.sqrt(variance / size)
    assert abs(xi.var() / variance - 1) < 4 * np.sqrt((kurtosis - 1) / size)
    assert stats.kstest(xi.ravel() / sigma, law.cdf).pvalue > 0.01
    largest = np.abs(xi).max()
    assert sigma * (1 - 1e-4) < largest <= sigma * (1 + 1e-12) if noise == "uniform" else 4 < largest / sigma < 6.5


@NOISES
def test_the_noise_of_steps_starts_coordinates_and_seeds_is_independent(noise):
    xi, other = noises(noise, 1.0, seed=4), noises(noise, 1.0, seed=5)
    pairs = {
        "steps": (xi[:-1], xi[1:]), "starts": (xi[:, :-1], xi[:, 1:]), "coordinates": (xi[..., 0], xi[..., 1]),
        "steps and starts": (xi[:-1, 1:], xi[1:, :-1]), "seeds": (xi, other),
        "seeds and starts": (xi[:, 1:], other[:, :-1]),
    }  # fmt: skip
    for name, (a, b) in pairs.items():
        for power in (1, 2):  # squares see what shares its size only, as two halves of Box and Muller's would
            assert abs(np.corrcoef(a.ravel() ** power, b.ravel() ** power)[0, 1]) < 4 / np.sqrt(a.size), name


@NOISES
def test_the_noise_is_reproducible(noise):
    np.testing.assert_array_equal(noises(noise, 0.3, 1, n=200), noises(noise, 0.3, 1, n=200))
    assert (noises(noise, 0.3, 1, n=200) != noises(noise, 0.3, 2, n=200)).all()
    np.testing.assert_array_equal(noises(noise, 0.3, 1, n=200)[:, :50], noises(noise, 0.3, 1, n=50))


# --------------------------------------------------------------------------------------------------- resume, threads


def noisy(noise="normal"):
    points = uniform_points([(-1.5, 1.5)] * 2, 300, seed=0)
    sigma = 0.0 if noise == "none" else 0.05
    return Starts(get("f1"), points, 0.4, 40, keep=(0, 7, 30, 39), noise=noise, sigma=sigma, seed=2)


def assert_rows_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for variable in a.get("chosen", {}):
            np.testing.assert_array_equal(a["chosen"][variable], b["chosen"][variable])


@pytest.mark.parametrize("noise", ["none", "uniform", "normal"])
def test_momentum_noise_of_many_sizes_and_balls_as_in_a_loop_of_numpy(noise):
    points, sigma = uniform_points([(-1.5, 1.5)] * 2, 300, seed=0), np.linspace(0, 0.5, 300) * (noise != "none")
    balls = (((0.0, 0.0), 0.4), ((0.5, 0.2), 0.3), ((9.0, 9.0), 0.1))
    process = Starts(get("f2"), points, 0.2, 60, noise=noise, sigma=sigma, seed=4, momentum=0.8, balls=balls)
    carried(process)

    @functools.cache  # all paths begin alike
    def xi(t):
        return np.array([noise_at(noise, s, 4, i, t, 2) for i, s in enumerate(sigma)]).T

    theta, diverged_at = numpy_loop(get("f2"), points, 0.2, 60, noise=xi, momentum=0.8)
    np.testing.assert_allclose(process.theta, theta, rtol=1e-9, atol=1e-12)
    assert (process.diverged_at == diverged_at).all()
    # where each θ_t lies, from runs that end at every t
    path = [points] + [numpy_loop(get("f2"), points, 0.2, t, noise=xi, momentum=0.8)[0] for t in range(1, 61)]
    for b, (centre, radius) in enumerate(balls):
        inside = np.linalg.norm(np.array(path) - centre, axis=2) < radius  # (t, start)
        entered = np.where(inside.any(0), inside.argmax(0), -1)
        after = ~inside & (np.arange(61)[:, None] > entered) & (entered >= 0)
        assert (process.inside[:, b] == inside.sum(0)).all()
        assert (process.entered_at[:, b] == entered).all()
        assert (process.left_at[:, b] == np.where(after.any(0), after.argmax(0), -1)).all()
    assert (process.left_at[:, 0] > 0).any() and not process.inside[:, 2].any()


def test_momentum_is_that_of_torch():
    start = torch.tensor([1.2, -0.7], dtype=torch.float64)
    process = Starts(get("f2"), [start.tolist()], 0.05, 50, momentum=0.9)
    carried(process)
    theta = start.clone().requires_grad_()
    optimiser = torch.optim.SGD([theta], lr=0.05, momentum=0.9)
    for _ in range(50):
        optimiser.zero_grad()
        get("f2").f(theta).backward()
        optimiser.step()
    np.testing.assert_allclose(process.theta[0], theta.detach().numpy(), rtol=1e-12)


def test_a_run_with_momentum_and_balls_resumes():
    def begun():
        points = uniform_points([(-1.5, 1.5)] * 2, 200, seed=0)
        return Starts(get("f2"), points, 0.2, 40, keep=(0, 17), momentum=0.9, balls=[((0, 0), 0.5)])

    whole, resumed = begun(), begun()
    whole.step()
    resumed.load(whole.state())
    carried(whole), carried(resumed)
    for name in ("theta", "velocity", "visits", "diverged_at"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(resumed, name))
    assert whole.velocity.any()


@pytest.mark.parametrize("noise", ["none", "uniform", "normal"])
def test_a_run_resumes_anywhere(noise, monkeypatch):
    monkeypatch.setattr(starts, "WORK", 5 * 600)  # five steps of 300 points in the plane
    process, states, rows = noisy(noise), [], []
    while not process.finished:
        states.append(process.state())
        process.step()
        rows.append(process.observe())
    assert [state["t"] for state in states] == [0, 5, 7, 12, 17, 22, 27, 30, 35, 39]
    assert (process.diverged_at >= 0).any() and (process.diverged_at < 0).any()
    for done, state in enumerate(states):
        resumed = noisy(noise)
        resumed.load(state)
        assert_rows_equal(carried(resumed), rows[done:])


def test_how_far_one_call_goes_does_not_matter(monkeypatch):
    whole = carried(noisy())
    monkeypatch.setattr(starts, "WORK", 1)  # one step at a time
    single = carried(noisy())
    assert len(single) == 40 and len(whole) == 4
    assert_rows_equal([row for row in single if row], whole)


def test_the_number_of_threads_does_not_matter():
    threads, rows = torch.get_num_threads(), {}
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            points = uniform_points([(-1.5, 1.5)] * 2, 5000, seed=0)
            rows[n] = carried(Starts(get("f4"), points, 0.4, 60, keep=(0, 59), noise="normal", sigma=0.1))
    finally:
        torch.set_num_threads(threads)
    assert_rows_equal(rows[1], rows[3])


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"step_size": 0}, "step_size must be positive"),
        ({"step_size": -0.1}, "step_size must be positive"),
        ({"step_size": math.nan}, "step_size must be positive"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"keep": (0, 10)}, "keep must be steps from 0 to 9"),
        ({"noise": "cauchy"}, "noise must be one of none, uniform, normal, got 'cauchy'"),
        ({"noise": "normal", "sigma": -1}, "sigma must be ≥ 0"),
        ({"noise": "normal", "sigma": [0.1, 0.2]}, r"sigma must be a number or of shape \(1,\)"),
        ({"momentum": 1}, "momentum must be at least 0 and less than 1"),
        ({"balls": [((0,), 1)]}, "balls must be"),
        ({"balls": [((0, 0), 0)]}, "balls must be"),
        ({"sigma": 1}, "sigma must be ≥ 0, and 0 without noise"),
        ({"escape": 0}, "escape must be positive"),
        ({"escape": math.inf}, "escape must be positive and at most"),
        ({"theta": [(1, 2, 3)]}, r"theta must be of shape \(n, 2\)"),
        ({"theta": [1, 2]}, r"theta must be of shape \(n, 2\)"),
        ({"theta": np.empty((0, 2))}, r"theta must be of shape \(n, 2\)"),
        ({"theta": [(1, math.nan)]}, "theta must be finite"),
    ],
)
def test_bad_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Starts(**({"landscape": get("f4"), "theta": [(1, 2)], "step_size": 0.1, "steps": 10} | wrong))


@pytest.mark.parametrize("box", [(-1, 1), [(-1, 1, 2)], [(1, -1)], [(0, math.inf)], [[(0, 1)]]])
def test_a_box_of_wrong_shape(box):
    with pytest.raises(ValueError, match=r"box must be a finite \(low, high\) for each dimension"):
        uniform_points(box, 3, 0)


def test_a_box_of_another_dimension_than_the_landscape():
    with pytest.raises(ValueError, match=r"theta must be of shape \(n, 2\)"):
        Starts(get("f4"), uniform_points([(-1, 1)] * 3, 5, 0), 0.1, 10)


def test_a_landscape_that_forgets_its_dimension():
    with pytest.raises(IndexError):
        Starts(landscape(2, ten_gradient), [(1, 2)], 0.1, 10)


def test_a_loop_is_compiled_once_whatever_is_asked_of_it():
    bowl = landscape(1, bowl_gradient)
    for points, options in (
        (np.ones((3, 1)), {}),
        (np.ones((700, 1), order="F"), {"balls": (((0.0,), 1.0),) * 2}),
        (np.ones((4, 1)), {"sigma": np.zeros(4)}),
        (np.ones((8, 1))[::2], {"sigma": np.zeros(8)[::2]}),
    ):
        run = Starts(bowl, points, 0.5, 2, **options)
        run.step()
    assert len(run._loop.signatures) == 1


def test_numba_is_imported_only_to_compile():
    code = "import sys, eoslib.dynamics.starts; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
