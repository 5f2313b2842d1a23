"""papers.basins: closed forms, outcomes told apart, trajectories recomputed plainly, and whole maps."""

import itertools
import math

import cells
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from eoslib import store
from eoslib.chapter import experiments
from eoslib.chapter.experiments import Map, Pieces, Shares, Sizes, Uncertain
from eoslib.papers import basins
from eoslib.papers.basins import BasinMap, Outcome, classify, trap_radius
from eoslib.problems import landscapes
from eoslib.problems.landscapes import Polynomial
from eoslib.store import journal

(box_dimension,) = cells.functions("forward_invariance", "box_dimension")

NAMES = ("f1", "f2", "f3", "f4")
LARGEST = {"f1": 1, "f2": 1, "f3": 1 / 6, "f4": 10 / 19}
BOX = {"f1": 0.75, "f2": 0.75, "f3": 2.5, "f4": 2.5}
EACH = pytest.mark.parametrize("name", NAMES)


def polynomial(value, gradient, hessian, minimisers=((0.0, 0.0),)):
    return Polynomial(
        name="test", minimisers=minimisers, sharpness=None, source="", value=value, gradient=gradient, hessian=hessian
    )


# eigenvalues 4 and 1: converges iff η < 2/4
QUADRATIC = polynomial(
    lambda x, y: 2 * x * x + 0.5 * y * y,
    lambda x, y: (4 * x, y),
    lambda x, y: (4 + 0 * x, 0 * x, 1 + 0 * x),
)
# two strict minima, (0, 0) and (2, 0), of x²(x − 2)² + y²; only the first is listed
TWO_WELLS = polynomial(
    lambda x, y: x * x * (x - 2) * (x - 2) + y * y,
    lambda x, y: (4 * x * (x - 1) * (x - 2), 2 * y),
    lambda x, y: (12 * x * x - 24 * x + 8, 0 * x, 2 + 0 * x),
)
# x² + (y² − 1)²: with η = 0.24 the minima (0, ±1), of curvatures 2 and 8, are stable
DOUBLE_WELL = polynomial(
    lambda x, y: x * x + (y * y - 1) * (y * y - 1),
    lambda x, y: (2 * x, 4 * y * (y * y - 1)),
    lambda x, y: (2 + 0 * x, 0 * x, 12 * y * y - 4),
    ((0.0, 1.0), (0.0, -1.0)),
)


def starts(name, count=2000, seed=0, scale=1.0):
    points = np.random.default_rng(seed).uniform(-1, 1, (2, count)) * BOX[name] * scale
    return points[0], points[1]


# --- closed forms ----------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(fraction=st.floats(0.02, 0.97), x=st.floats(-5, 5), y=st.floats(-5, 5))
def test_a_quadratic_converges_stably_from_everywhere_below_its_limit(fraction, x, y):
    result = classify(QUADRATIC, fraction * 2 / 4, np.array([x]), np.array([y]))
    assert result.outcome[0] == Outcome.STABLE and result.last_rise[0] == 0 and result.minimiser[0] == 0


@pytest.mark.parametrize("step_size", [0, -0.1, 2 / 4, 0.6, float("nan")])
def test_a_step_size_at_or_above_the_limit_is_an_error(step_size):
    with pytest.raises(ValueError, match=r"less than 2/λ_max"):
        classify(QUADRATIC, step_size, np.zeros(1), np.zeros(1))


def test_the_number_of_steps_on_a_quadratic():
    """x is multiplied by 1 − 4η, y by 1 − η: the step at which the trap is entered can be counted."""
    eta, x, y = 0.3, 20.0, 8.0
    radius = 0.5 * trap_radius(QUADRATIC, eta, (0.0, 0.0))
    expected = next(k for k in itertools.count() if math.hypot(x * (1 - 4 * eta) ** k, y * (1 - eta) ** k) < radius)
    assert classify(QUADRATIC, eta, np.array([x]), np.array([y])).steps[0] == expected > 0


def test_two_minimisers_are_told_apart():
    y = np.array([0.7, -0.7, 1.1, -1.1])
    assert classify(DOUBLE_WELL, 0.1, np.full(4, 0.3), y).minimiser.tolist() == [0, 1, 0, 1]


def test_the_last_rise():
    eta = 0.24
    y = np.array([1.001, 0.3, 1.53, 1.55])
    result = classify(DOUBLE_WELL, eta, np.zeros(4), y)
    for i in range(4):
        path = [y[i]]
        for _ in range(200):
            path.append(path[-1] - eta * 4 * path[-1] * (path[-1] ** 2 - 1))
        f = [(v * v - 1) ** 2 for v in path]
        rises = [k + 1 for k in range(result.steps[i]) if not f[k + 1] < f[k]]
        assert result.last_rise[i] == max(rises, default=0)
        assert abs(path[-1]) == pytest.approx(1)
    assert result.last_rise.max() > 0 and result.last_rise.min() == 0


# --- outcomes --------------------------------------------------------------------------------------------


def outcome(landscape, step_size, x, y, **options):
    point = (np.array([float(v)]) for v in (x, y))
    return Outcome(classify(landscape, step_size, *point, **options).outcome[0])


def test_each_outcome():
    f3, f4 = landscapes.get("f3"), landscapes.get("f4")
    assert outcome(f4, 0.3, 1.5, 2) is Outcome.STABLE
    assert outcome(f4, 0.3, 0.1, 2.5) is Outcome.UNSTABLE
    assert outcome(f4, 0.5, 0.1, 2.5) is Outcome.DIVERGED
    assert outcome(f3, 0.03, 2.0, 0.0) is Outcome.DEGENERATE  # on the axis f is constant
    assert outcome(f3, 0.03, 2.0, 0.1) is Outcome.DEGENERATE  # and a valley beyond √3
    assert outcome(f4, 0.3, 1.0, -1.0) is Outcome.SADDLE  # on x = −y the iterates reach the saddle at 0
    assert outcome(f4, 0.3, 1.5, 2, max_steps=3) is Outcome.WANDERING


def test_a_cycle():
    """x²(x − 3)²(1 + x)/9 + y²/2 has minima at x = 0, of curvature 2, and at 3, of curvature 8 > 2/η."""
    one_too_sharp = polynomial(
        lambda x, y: x * x * (x - 3) * (x - 3) * (1 + x) / 9 + y * y / 2,
        lambda x, y: ((2 * x * (x - 3) * (2 * x - 3) * (1 + x) + x * x * (x - 3) * (x - 3)) / 9, y),
        lambda x, y: ((20 * x * x * x - 60 * x * x + 18 * x + 18) / 9, 0 * x, 1 + 0 * x),
    )
    assert outcome(one_too_sharp, 0.26, 2.9, 0.0) is Outcome.CYCLING


def test_a_strict_minimum_that_is_not_listed_is_an_error():
    with pytest.raises(ValueError, match=r"\(2\.0, .*is a strict minimum of test, but not among its minimisers"):
        outcome(TWO_WELLS, 0.1, 2.2, 0.1)


def test_what_creeps_is_not_called_a_cycle():
    quartic = polynomial(  # x falls ever more slowly
        lambda x, y: x * x * x * x + y * y,
        lambda x, y: (4 * x * x * x, 2 * y),
        lambda x, y: (12 * x * x, 0 * x, 2 + 0 * x),
        ((50.0, 0.0),),  # no minimiser, only a place where the Hessian is positive and where no iterate comes
    )
    assert outcome(quartic, 1e-5, 2e-2, 0.0, max_steps=10) is Outcome.WANDERING


def test_overflow_is_divergence():
    assert outcome(landscapes.get("f1"), 0.5, 1e200, -1e200) is Outcome.DIVERGED
    assert outcome(landscapes.get("f1"), 0.5, 0, -1e3) is Outcome.DIVERGED


@EACH
def test_a_minimiser_itself_is_stable_at_once(name):
    landscape = landscapes.get(name)
    x, y = np.array(landscape.minimisers).T
    result = classify(landscape, 0.5 * LARGEST[name], x, y)
    assert (result.outcome == Outcome.STABLE).all() and (result.steps == 0).all()
    assert result.minimiser.tolist() == list(range(len(x)))


# --- the trap --------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.99])
def test_the_eigenvalues_hold_on_the_trap_and_fail_just_outside(name, fraction):
    landscape, step_size = landscapes.get(name), fraction * LARGEST[name]
    generator = np.random.default_rng(0)
    for minimiser in landscape.minimisers:
        radius = trap_radius(landscape, step_size, minimiser)

        def eigenvalues(r, minimiser=minimiser):
            angle = generator.uniform(0, 2 * np.pi, 20_000)
            x, y = minimiser[0] + r * np.cos(angle), minimiser[1] + r * np.sin(angle)
            xx, xy, yy = landscape.hessian(x, y)
            matrices = np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -1)
            return np.linalg.eigvalsh(matrices)

        inside = eigenvalues(0.99 * radius * np.sqrt(generator.uniform(0, 1, 20_000)))
        assert inside.min() > 0 and inside.max() < 2 / step_size
        outside = eigenvalues(1.05 * radius)
        assert outside.min() <= 0 or outside.max() >= 2 / step_size


@EACH
@pytest.mark.parametrize("fraction", [0.3, 0.7, 0.99])
def test_a_trap_keeps_its_points_lowers_f_and_leads_to_the_minimiser(name, fraction):
    landscape, step_size = landscapes.get(name), fraction * LARGEST[name]
    generator = np.random.default_rng(1)
    for minimiser in landscape.minimisers:
        radius = 0.99 * trap_radius(landscape, step_size, minimiser)
        r, angle = radius * np.sqrt(generator.uniform(0.01, 1, 5000)), generator.uniform(0, 2 * np.pi, 5000)
        x, y = minimiser[0] + r * np.cos(angle), minimiser[1] + r * np.sin(angle)
        for _ in range(5):
            f, distance = landscape.value(x, y), np.hypot(x - minimiser[0], y - minimiser[1])
            g, h = landscape.gradient(x, y)
            x, y = x - step_size * g, y - step_size * h
            assert (np.hypot(x - minimiser[0], y - minimiser[1]) < distance).all()
            assert (landscape.value(x, y) < f).all()


# --- by other ways of computing --------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [2, 3])
def test_points_may_be_shared_among_threads_and_come_in_any_shape(threads, monkeypatch):
    """More points than a block or a thread's share holds; those that leave a block let the others trade places."""
    x, y = starts("f4", 3 * basins.SHARE + 17)
    alone = classify(landscapes.get("f4"), 0.5, x, y)
    assert len(np.unique(alone.outcome)) > 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    shared = classify(landscapes.get("f4"), 0.5, *(a[: 3 * basins.SHARE].reshape(64, -1) for a in (x, y)))
    few = classify(landscapes.get("f4"), 0.5, x[-5:], y[-5:])
    for field in ("outcome", "steps", "last_rise", "minimiser"):
        whole, together, last = (getattr(found, field) for found in (alone, shared, few))
        assert together.shape == (64, 3 * basins.SHARE // 64) and together.dtype == whole.dtype
        np.testing.assert_array_equal(together.ravel(), whole[: 3 * basins.SHARE], field)
        np.testing.assert_array_equal(last, whole[-5:], field)


@EACH
@pytest.mark.parametrize("fraction", [0.4, 0.95])
def test_a_plain_loop_in_python_agrees(name, fraction):
    """Without traps: 3,000 steps, then see where the iterate is and when f last rose before it was settled."""
    landscape, step_size = landscapes.get(name), fraction * LARGEST[name]
    xs, ys = starts(name, 60, seed=3)
    result = classify(landscape, step_size, xs, ys)
    for i, (x, y) in enumerate(zip(xs.tolist(), ys.tolist(), strict=True)):
        path, f = [(x, y)], [landscape.value(x, y)]
        while len(path) < 3000 and math.hypot(x, y) < 1e3:
            g, h = landscape.gradient(x, y)
            x, y = x - step_size * g, y - step_size * h
            path.append((x, y))
            f.append(landscape.value(x, y))
        near = [math.dist(path[-1], minimiser) < 1e-6 for minimiser in landscape.minimisers]
        steps = result.steps[i]
        rises = [k + 1 for k in range(min(steps, len(f) - 1)) if not f[k + 1] < f[k]]
        assert result.last_rise[i] == max(rises, default=0)
        if any(near):
            assert near[result.minimiser[i]]
            assert result.outcome[i] == (Outcome.UNSTABLE if rises else Outcome.STABLE)
        else:
            assert result.minimiser[i] == -1 and result.outcome[i] not in (Outcome.STABLE, Outcome.UNSTABLE)
        if result.outcome[i] == Outcome.DIVERGED:
            assert len(path) == steps + 1 and not math.hypot(*path[-1]) < 1e3


@pytest.mark.parametrize("name", ["circle", "rounded_square", "hyperbola"])
def test_the_compiled_loop_follows_formulas_made_of_closures(name):
    """Where no minimiser is strict there are no traps: a plain loop of 40 steps, until an iterate rests or escapes."""
    landscape, step_size, steps = landscapes.get(name), 0.05, 40
    x, y = (a.ravel() for a in basins.pixel_centres((-2.5, 2.5, -2.5, 2.5), 40))
    last_x, last_y, found = x.copy(), y.copy(), [np.full(x.size, n, d) for n, d in ((-1, "i4"), (0, "i4"), (-1, "i1"))]
    arrays = last_x, last_y, landscape.value(x, y), *found
    basins._loop()(*arrays, np.empty((0, 3)), basins._descend(landscape), step_size, steps, 1e6, basins.REST**2)
    decided, last_rise, moving = np.full(x.size, -1), np.zeros(x.size, int), np.ones(x.size, bool)
    moved = np.full(x.size, np.inf)
    with np.errstate(all="ignore"):
        for k in range(steps + 1):
            ends = moving & (~(x * x + y * y < 1e6) | (moved < basins.REST**2) | (k == steps))
            decided[ends], moving = k, moving & ~ends
            g, h = (step_size * a for a in landscape.gradient(x, y))
            after_x, after_y = np.where(moving, x - g, x), np.where(moving, y - h, y)
            rises = moving & ~(landscape.value(after_x, after_y) < landscape.value(x, y))
            last_rise[rises], moved = k + 1, g * g + h * h
            x, y = after_x, after_y
    np.testing.assert_allclose(last_x, x, rtol=1e-6)
    np.testing.assert_allclose(last_y, y, rtol=1e-6)
    assert (found[0] == decided).mean() > 0.99 and (found[1] == last_rise).mean() > 0.99
    assert 0 < (decided < steps).sum() < x.size and (found[2] == -1).all()


def pixels_from_a_boundary(outcome, changed):
    """Whether each changed pixel touches one of another outcome in the map."""
    padded = np.pad(outcome, 1, mode="edge")
    n = len(outcome)
    around = [padded[1 + i : 1 + i + n, 1 + j : 1 + j + n] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return np.any([a != outcome for a in around], 0)[changed]


@EACH
@pytest.mark.parametrize("fraction", [0.4, 0.99])
def test_halving_the_trap_changes_next_to_nothing_and_only_at_a_boundary(name, fraction):
    landscape, step_size = landscapes.get(name), fraction * LARGEST[name]
    x, y = basins.pixel_centres((-BOX[name], BOX[name], -BOX[name], BOX[name]), 200)
    full, half = (classify(landscape, step_size, x, y, trap=trap).outcome for trap in (0.5, 0.25))
    changed = full != half
    assert changed.mean() <= 1e-3 and pixels_from_a_boundary(full, changed).all()
    farther = classify(landscape, step_size, x, y, escape=1e6).outcome
    assert (farther != full).mean() <= 1e-3 and pixels_from_a_boundary(full, farther != full).all()


@EACH
@pytest.mark.parametrize("fraction", [0.4, 0.99])
def test_long_doubles_change_next_to_nothing_and_only_at_a_boundary(name, fraction):
    """The formulas take arrays of any precision; the rule is written out plainly."""
    landscape, step_size, box = landscapes.get(name), fraction * LARGEST[name], BOX[name]
    x, y = basins.pixel_centres((-box, box, -box, box), 120)
    expected = classify(landscape, step_size, x, y)
    a, b = (v.ravel().astype(np.longdouble) for v in (x, y))
    f, eta, where = landscape.value(a, b), np.longdouble(step_size), np.arange(x.size)
    traps = [(*m, 0.5 * trap_radius(landscape, step_size, m)) for m in landscape.minimisers]
    rise, longer = np.zeros(x.size, bool), np.full(x.size, Outcome.WANDERING)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(5001):
            caught = np.any([(a - mx) ** 2 + (b - my) ** 2 < r * r for mx, my, r in traps], 0)
            escaped = ~(a * a + b * b < 1e6)
            longer[where[caught]] = np.where(rise[where[caught]], Outcome.UNSTABLE, Outcome.STABLE)
            longer[where[escaped]] = Outcome.DIVERGED
            left = ~caught & ~escaped
            a, b, f, where = a[left], b[left], f[left], where[left]
            g, h = landscape.gradient(a, b)
            a, b = a - eta * g, b - eta * h
            after = landscape.value(a, b)
            rise[where] |= ~(after < f)
            f = after
    expected = expected.outcome.copy()
    expected[expected > Outcome.DIVERGED] = Outcome.WANDERING  # which the plain rule does not tell apart
    changed = longer.reshape(x.shape) != expected
    assert changed.mean() <= 1e-3 and pixels_from_a_boundary(expected, changed).all()


# --- processes -------------------------------------------------------------------------------------------

MAP = Map(chapter="test", experiment="map", step_size=0.4, steps=8, landscape="f4", box=(-2.0, 3.0, -1.0, 2.0), grid=64)
SIZES = Sizes(
    chapter="test", experiment="sizes", step_size=0.95, steps=5, landscape="f2", box=(-1.0, 1.0, -1.0, 1.0), grid=128
)
SHARES = Shares(
    chapter="test", experiment="shares", smallest=0.4, step_size=0.5, steps=4, landscape="f4",
    box=(-3.0, 3.0, -3.0, 3.0), grid=48,
)  # fmt: skip
PIECES = Pieces(
    chapter="test", experiment="p", step_size=0.5, steps=4, landscape="f4", box=(-3.0, 3.0, -3.0, 3.0), grid=256
)
UNCERTAIN = Uncertain(
    chapter="test", experiment="u", step_size=0.99, steps=4, landscape="f1", box=(-0.75, 0.75, -0.75, 0.75), grid=64
)


def test_a_map_is_the_classification_of_its_pixels():
    trace = experiments.carry_on(MAP).trace
    assert trace.outcome.dtype == "uint8" and trace.outcome.shape == (8, 8, 64)
    x, y = basins.pixel_centres(MAP.box, 64)
    assert (x[0, 0], y[0, 0]) == (-2 + 2.5 / 64, -1 + 1.5 / 64) and (x[0, -1], y[-1, 0]) == (3 - 2.5 / 64, 2 - 1.5 / 64)
    whole = classify(landscapes.get("f4"), 0.4, x, y)
    np.testing.assert_array_equal(trace.outcome.values.reshape(64, 64), whole.outcome)
    np.testing.assert_array_equal(trace.points.sum("step"), np.bincount(whole.outcome.ravel(), minlength=7))
    assert trace.point_steps.sum() == whole.steps.sum()
    assert trace.last_rise.max() == whole.last_rise[whole.outcome == Outcome.UNSTABLE].max()


def test_bands_must_divide_the_rows():
    with pytest.raises(ValueError, match="7 bands do not divide 64 rows"):
        BasinMap(landscapes.get("f1"), 0.5, (-1.0, 1.0, -1.0, 1.0), 64, 7)


@pytest.mark.parametrize("experiment", [MAP, SIZES, SHARES, PIECES, UNCERTAIN], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("done", [0, 1, 3])
def test_an_interrupted_run_ends_as_if_it_had_not_been(experiment, done, monkeypatch):
    monkeypatch.setattr(journal, "ROWS_IN_MEMORY", 1)  # a checkpoint after every step
    whole = store.values_sha256(experiments.carry_on(experiment).trace)

    class Killed(Exception):
        pass

    process = experiment.process(torch.device("cpu"))
    step = process.step

    def dies():
        if process.t == done:
            raise Killed
        step()

    process.step = dies
    with pytest.raises(Killed):
        store.carry_on(process, experiment.identity, fresh=True, checkpoint_seconds=0)
    assert store.status(experiment.identity) == (f"at step {done}" if done else "at step 0")
    resumed = experiments.carry_on(experiment)
    assert resumed.manifest["resumes"] == 1
    assert store.values_sha256(resumed.trace) == whole
    assert resumed.manifest["gradients"] > 0


def test_a_recorded_map_is_small_and_whole():
    run = experiments.carry_on(MAP)
    path = store.record(run)
    (read,) = store.recorded_runs("test")
    assert read.trace.outcome.dtype == "uint8" and read.trace.points.dtype == "float32"
    np.testing.assert_array_equal(read.trace.outcome, run.trace.outcome)
    np.testing.assert_array_equal(read.trace.points, run.trace.points)
    assert path.stat().st_size < 30_000


def test_sizes_are_those_of_the_maps():
    trace = experiments.carry_on(SIZES).trace
    np.testing.assert_allclose(trace.eta, 0.95 * np.arange(1, 6) / 5)
    x, y = basins.pixel_centres(SIZES.box, 128)
    for t in (1, 4):
        found = classify(landscapes.get("f2"), float(trace.eta[t]), x, y).outcome
        assert trace.stable_area[t] == pytest.approx(4 * (found == 0).mean(), rel=1e-12)
        assert trace.convergent_area[t] == pytest.approx(4 * (found <= 1).mean(), rel=1e-12)
        cells = basins.boundary(found == 0)
        assert trace.stable_boxes[t, 0] == cells.sum()
    assert (trace.stable_area <= trace.convergent_area).all()


def test_the_unstable_share_is_that_of_a_finer_map():
    trace, f4 = experiments.carry_on(SHARES).trace, landscapes.get("f4")
    np.testing.assert_allclose(trace.eta, [0.4, 0.4 + 0.1 / 3, 0.4 + 0.2 / 3, 0.5])
    for eta, shares in zip(trace.eta.values, trace.unstable_share.values, strict=True):
        found = classify(f4, eta, *basins.pixel_centres((-4.0, 4.0, -4.0, 4.0), 400)).outcome
        exact = (found == Outcome.UNSTABLE).sum() / (found <= Outcome.UNSTABLE).sum()
        assert len(shares) == 4 and shares.mean() == pytest.approx(exact, abs=4 * shares.std(ddof=1) / 2 + 0.01)
        assert 0.1 < exact < 0.95 and np.ptp(shares) > 0


def test_pieces_are_counted_by_flooding():
    """On 32², 64², 128² and 256² starts, each piece found from one of its pixels."""
    trace = experiments.carry_on(PIECES).trace
    for n, count in zip((32, 64, 128, 256), trace.pieces.values, strict=True):
        found = classify(landscapes.get("f4"), 0.5, *basins.pixel_centres(PIECES.box, n))
        left = {(int(i), int(j)) for i, j in np.argwhere((found.outcome == Outcome.UNSTABLE) & (found.minimiser == 0))}
        least, sizes = max(len(left) / 1000, 4), []
        while left:
            todo, size = [left.pop()], 0
            while todo:
                (i, j), size = todo.pop(), size + 1
                beside = {(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)} & left
                left -= beside
                todo += beside
            sizes.append(size)
        assert count == sum(size >= least for size in sizes) < len(sizes)
    assert count > 3


def test_uncertain_starts_are_those_that_a_shift_moves():
    """At shifts of 10^-1.5, 10^-2, … of half the box, all of the same starts."""
    trace, x, y = experiments.carry_on(UNCERTAIN).trace, *np.random.default_rng(0).uniform(-0.75, 0.75, (2, 2048))
    np.testing.assert_allclose(trace["shift"], 10.0 ** np.array([-1.5, -2, -2.5, -3]))
    f1, g = landscapes.get("f1"), np.random.default_rng(1)
    before = classify(f1, 0.99, x, y).outcome
    counts = np.stack([trace.stable_moved, trace.convergent_moved], axis=1)
    for shift, moved in zip(trace["shift"].values, counts, strict=True):
        angle = g.uniform(0, 2 * np.pi, x.size)
        after = classify(f1, 0.99, x + 0.75 * shift * np.cos(angle), y + 0.75 * shift * np.sin(angle)).outcome
        for last, count in zip((Outcome.STABLE, Outcome.UNSTABLE), moved, strict=True):
            expected = ((before <= last) != (after <= last)).sum()
            assert abs(count - expected) <= 4 * (2 * expected + 1) ** 0.5  # other directions
    assert (np.diff(trace.stable_moved) < 0).all() and trace.stable_moved[0] > 50


# --- dimension -------------------------------------------------------------------------------------------


def disc(n=1024):
    x, y = basins.pixel_centres((-1.0, 1.0, -1.0, 1.0), n)
    return x * x + y * y < 0.64


def half_plane(n=1024):
    x, y = basins.pixel_centres((-1.0, 1.0, -1.0, 1.0), n)
    return 0.3 * x + y < 0.1


def snowflake(depth=7, n=2048):
    """The inside of Koch's snowflake."""
    corners = np.exp(2j * np.pi * np.arange(3) / 3)
    for _ in range(depth):
        a, b = corners, np.roll(corners, -1)
        third = (b - a) / 3
        corners = np.stack([a, a + third, a + third * (1 + np.exp(1j * np.pi / 3)), a + 2 * third], 1).ravel()
    image = Image.new("1", (n, n))
    points = (corners * np.exp(0.3j) / 2.5 + 0.5 + 0.5j) * n
    ImageDraw.Draw(image).polygon([(z.real, z.imag) for z in points], fill=1)
    return np.asarray(image)


def test_a_boundary_is_the_cells_with_both_sides():
    inside = np.zeros((5, 5), bool)
    inside[2, 2] = True
    np.testing.assert_array_equal(np.argwhere(basins.boundary(inside)), [[1, 1], [1, 2], [2, 1], [2, 2]])
    assert not basins.boundary(~np.zeros((5, 5), bool)).any()


def test_box_counts_of_one_cell_and_of_all():
    one = np.zeros((64, 64), bool)
    one[40, 3] = True
    np.testing.assert_array_equal(basins.box_counts(one), np.ones(7))
    counts = basins.box_counts(np.ones((64, 64), bool))
    assert counts[0] == 4096
    assert counts[-1] == (1 + 3 * 4) / 4  # one box of the largest size; shifted, they are 2 × 2


@pytest.mark.parametrize("curve", [disc, half_plane])
def test_the_dimension_of_a_smooth_curve_is_one(curve):
    dimension, error = box_dimension(basins.box_counts(basins.boundary(curve())))
    assert abs(dimension - 1) < 0.03 and error < 0.03


def test_the_dimension_of_the_sierpinski_triangle():
    """i & j = 0 on a grid of 2ᵏ: boxes of 2ᵐ that lie with the grid count 3^(k − m) exactly."""
    i, j = np.ogrid[:1024, :1024]
    triangle = (i & j) == 0
    aligned = [3.0 ** (10 - m) for m in range(7)]
    assert box_dimension(aligned)[0] == pytest.approx(math.log2(3), abs=1e-12)
    assert box_dimension(aligned)[1] == pytest.approx(0, abs=1e-12)
    dimension, error = box_dimension(basins.box_counts(triangle))
    assert abs(dimension - math.log2(3)) < 0.05 + 2 * error


def test_the_dimension_of_koch_s_curve():
    dimension, error = box_dimension(basins.box_counts(basins.boundary(snowflake())))
    assert abs(dimension - math.log(4) / math.log(3)) < 0.05 and error < 0.05


def test_a_short_boundary_has_no_dimension():
    assert np.isnan(box_dimension(basins.box_counts(np.eye(40, dtype=bool)))).all()
