"""Benchmarks of the numerical core against public peers, all in one process and one run.

Network 3072-200-200-10 (tanh) with 5,000 examples: CIFAR-10 if it is here, else power-law data of the same shape. The
sharpness is tracked past the onset of instability, on networks of four kinds; each row says how far past it.
Maps of starting points, and descent from many, against vectorised NumPy and a plain loop in Numba. Writes
benchmarks/results.json, benchmarks/scaling.png, benchmarks/maps.png and the table in the README.
"""

import contextlib
import copy
import functools
import itertools
import json
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numba
import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

import eoslib
from eoslib import store
from eoslib.chapter import sweep
from eoslib.chapter.figures import BLUE, GREEN, ORANGE
from eoslib.dynamics.rules import Rule
from eoslib.dynamics.starts import Starts, uniform_points
from eoslib.dynamics.trajectory import Trajectory
from eoslib.measure.curvature import SharpnessTracker, random_rows, top_eigenpairs
from eoslib.measure.noise import per_example
from eoslib.measure.progress import Loss
from eoslib.papers import basins
from eoslib.papers.escape import PhaseDiagram
from eoslib.papers.stabilization import SelfStabilization
from eoslib.problems import datasets, images, landscapes, networks
from eoslib.problems.batches import Batches
from eoslib.problems.compiled import compiled
from eoslib.problems.losses import cross_entropy
from eoslib.problems.objective import SupervisedObjective
from eoslib.problems.problem import Data, Network, Training
from eoslib.store import journal

FOLDER = Path(__file__).parent
N, HIDDEN, STEP_SIZE = 5000, (200, 200), 2 / 30
TRACKED = 24  # steps followed by our tracker
# at every third, of either phase of the oscillation, the eigenvalue is found anew, at the last ones by the peers too
SOLVED, JUDGED = range(2, TRACKED, 3), 3
ACCURACY = 1e-3  # relative error of the eigenvalue that every method must reach


def seconds(action: Callable, repeats: int = 7) -> float:
    """Median wall time of an action after one rehearsal."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def together(*actions: Callable, rounds: int = 12, repeats: int = 3) -> list[list[float]]:
    """Wall times of actions in turn, `rounds` of each, so that a change of the machine's speed meets them all alike."""
    times = [[seconds(action, repeats) for action in actions] for _ in range(rounds)]
    return list(map(list, zip(*times, strict=True)))


def timed(action: Callable) -> tuple[float, object]:
    """Wall time and result of one call."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def examples(n: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Images of CIFAR-10's shape, their labels, and the name of the data."""
    try:
        return cifar10(n)
    except datasets.DataError:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(n, 3072, generator=generator)
        return inputs, torch.randint(10, (n,), generator=generator), "generated"


def cifar10(n: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """The images themselves; raises `DataError` where they are not."""
    data = datasets.load("cifar10", n)
    return data.inputs, data.labels, "cifar10"


def power_law(n: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """The same of data whose variances along principal directions fall as a power, as those of images do."""
    data = datasets.load("power_law", n, d=4096)
    return data.inputs[:, :3072].contiguous(), data.labels, "power_law"


def problem(n: int = N, hidden: tuple[int, ...] = HIDDEN) -> tuple[SupervisedObjective, torch.Tensor, str]:
    """The objective, its initial θ, and the name of the data."""
    inputs, labels, name = examples(n)
    if name == "generated":
        inputs, labels, name = power_law(n)
    network = networks.mlp(3072, hidden, 10, "tanh", seed=0)
    return SupervisedObjective(network, inputs, labels, "cross-entropy"), networks.flatten(network), name


class OfTokens(torch.nn.CrossEntropyLoss):
    """The same of outputs (n, c), or (n, length, c) with a label for each token, which PyTorch has the other way."""

    def forward(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return super().forward(outputs.flatten(0, -2), labels.flatten())


class Peers:
    """The two peers at one θ, on an ordinary module."""

    def __init__(self, objective: SupervisedObjective):
        self.objective = objective
        self.module = objective.network

    def at(self, theta: torch.Tensor) -> None:
        """Put θ into the module, and make curvlinops' operator there; by reverse mode where that cannot differentiate
        the network forward (PyTorch cannot through group norm)."""
        from curvlinops import HessianLinearOperator

        torch.nn.utils.vector_to_parameters(theta.clone(), self.module.parameters())
        batches = [(self.objective.inputs, self.objective.labels)]
        self.operator = HessianLinearOperator(
            self.module, OfTokens(), list(self.module.parameters()), batches, check_deterministic=False
        ).to_scipy()
        try:
            self.operator @ theta.numpy()
        except NotImplementedError:
            hvp = self.objective.expand(theta).hvp
            self.operator = LinearOperator((len(theta),) * 2, lambda v: hvp(torch.from_numpy(v).to(theta)).numpy())

    def curvlinops(self, tolerance: float) -> float:
        """λ_max by SciPy's eigsh on that operator."""
        return float(eigsh(self.operator, k=1, which="LA", tol=tolerance, return_eigenvectors=False)[0])

    def pyhessian(self, tolerance: float) -> float:
        """λ_max by PyHessian's power iteration."""
        import pyhessian

        batch = (self.objective.inputs, self.objective.labels)
        hessian = pyhessian.hessian(self.module, cross_entropy, data=batch, cuda=False)
        return hessian.eigenvalues(maxIter=1000, tol=tolerance, top_n=1)[0][0]


@dataclass(frozen=True)
class Tracking:
    """A problem on which the sharpness is tracked: after `onset` steps of size η it has passed 2/η. products: how many
    a tracked step may cost; faster: how many times faster than the peers it must be."""

    objective: SupervisedObjective
    theta: torch.Tensor
    what: str
    step_size: float
    onset: int
    products: float
    faster: float

    @classmethod
    def of(cls, given: Training, what: str, *rest) -> "Tracking":
        """From a declaration."""
        return cls(*given.begin(0, "float32", torch.device("cpu")), what, *rest)


def tracked_problems() -> dict[str, Tracking]:
    """Those of the rows tracked-sharpness; what needs absent data is left out.

    The transformer is the language model of a chapter, with the step size of the MLP. On sentences of two classes, past
    the onset, λ₂/λ₁ is 0.06, so that a power iteration from a random vector needs 3 to 4 products: nothing can be five
    times faster there, and the row only asks that it be no slower."""

    def mlp(inputs, labels, name, *rest):
        network = networks.mlp(3072, HIDDEN, 10, "tanh", seed=0)
        objective = SupervisedObjective(network, inputs, labels, "cross-entropy")
        return Tracking(objective, networks.flatten(network), f"{name}, n = {N:,}, 3072-200-200-10", *rest)

    cases = {
        "cifar10-mlp": lambda: mlp(*cifar10(N), STEP_SIZE, 300, 3, 15),
        "power-law-mlp": lambda: mlp(*power_law(N), STEP_SIZE, 300, 5, 5),
        "cnn": lambda: Tracking.of(
            training("cifar10", 500, "cross-entropy", "cnn", {"width": 16}, "tanh"),
            "cifar10, n = 500, CNN of width 16", 2 / 15, 150, 5, 5,
        ),
        "transformer-images": lambda: Tracking.of(
            training("cifar10", 200, "cross-entropy", "transformer", TRANSFORMER, "tanh"),
            "cifar10, n = 200, rows of pixels as tokens, transformer of width 32", 2 / 10, 200, 5, 5,
        ),
        "transformer": lambda: Tracking.of(
            training("wikitext", 50, "cross-entropy", "transformer_xl", LANGUAGE_MODEL, "relu", **WORDS),
            "wikitext, n = 50 × 32 words, language model of width 32", STEP_SIZE, 300, 5, 5,
        ),
        "transformer-two-classes": lambda: Tracking.of(
            training("sst2", 500, "cross-entropy", "transformer", TRANSFORMER, "tanh", vocabulary=2000, length=20),
            "sst2, n = 500, transformer of width 32", 2 / 30, 390, 5, 1,
        ),
    }  # fmt: skip
    found = {}
    for name, case in cases.items():
        with contextlib.suppress(datasets.DataError):
            found[name] = case()
    return found


TRANSFORMER = {"width": 32, "heads": 2, "layers": 2}
# that of chapter no_stationary_points at `standard`, each text being one segment
LANGUAGE_MODEL = {"segment": 32, "memory": 16, "width": 32, "heads": 2, "layers": 2, "inner": 64}
WORDS = {"vocabulary": 1000, "length": 32, "part": "test"}


def training(
    dataset: str, n: int, loss: str, architecture: str, sizes: dict, activation: str = "swish", **options
) -> Training:
    """A problem in the words of the chapters."""
    data = Data(dataset=dataset, n=n, standardisation="per-channel", data_options=options)
    network = Network(architecture=architecture, sizes=sizes, activation=activation, bias_init="zero")
    return Training(data=data, network=network, loss=loss)


def per_example_problems() -> dict[str, tuple[SupervisedObjective, torch.Tensor, str, float]]:
    """Those of the rows per-example-norms: objective, θ, what it is, and how many gradients the norms may cost."""
    images = {"d_out": 10, "seed": 0}
    built = {
        "mlp": (networks.mlp(3072, HIDDEN, activation="tanh", **images), N, "3072-200-200-10", 3),
        "cnn": (networks.cnn((3, 32, 32), **images), 500, "CNN of width 32", 3),
        "transformer": (networks.transformer(2000, 20, 2, seed=0), 500, "transformer of width 64", 4),
    }
    found = {}
    for name, (network, n, what, most) in built.items():
        inputs, labels, data = examples(n)
        if name == "transformer":
            generator = torch.Generator().manual_seed(0)
            inputs, data = torch.randint(2000, (n, 20), generator=generator), "random tokens"
        objective = SupervisedObjective(network, inputs, labels % (2 if name == "transformer" else 10), "cross-entropy")
        found[name] = objective, networks.flatten(network), f"{data}, n = {n:,}, {what}", most
    return found


def compare_sharpness(case: Tracking) -> dict:
    """Time and error per tracked step, ours and the peers', on the same iterates after the onset; our products, the
    least and largest sharpness over 2/η, and λ₂/λ₁, on which it depends how many products a search from a random vector
    takes.

    Each peer gets the loosest tolerance at which it reaches the accuracy on all iterates judged. Our time is the mean
    over all steps, since now and then one costs more.
    """
    objective = case.objective
    descent = Trajectory(objective, case.theta, case.step_size, steps=10**6, measurements=(Loss(every="end"),))
    while descent.t < case.onset:
        descent.step()
    tracker = SharpnessTracker(tolerance=ACCURACY, wanted="values")
    tracker.at(objective.expand(descent.theta))  # the cold start is not part of tracking
    peers, tolerances = Peers(objective), {}
    times, errors = ({name: [] for name in ("ours", "curvlinops", "pyhessian")} for _ in range(2))
    products, heights, ratios = [], [], []
    for i in range(TRACKED):
        descent.step()
        # a step needs the gradient in any case: what tracking adds is the graph and the search
        bare, _ = timed(lambda: objective.evaluate(descent.theta))
        graph, expansion = timed(lambda: objective.expand(descent.theta))
        before = objective.products
        took, spectrum = timed(lambda e=expansion: tracker.at(e))
        products.append(objective.products - before)
        times["ours"].append(took + max(graph - bare, 0))
        heights.append(spectrum.values[0].item() * case.step_size / 2)
        if i not in SOLVED:
            continue
        start = torch.cat([spectrum.basis, random_rows(2, descent.theta, i)])  # finds what a tracker may miss
        found = top_eigenpairs(expansion.hvp, start, tolerance=1e-4, max_products=1000, spare=50)
        truth = found.values[0].item()
        ratios.append(found.beyond)
        errors["ours"].append(abs(spectrum.values[0].item() / truth - 1))
        if i not in SOLVED[-JUDGED:]:
            continue
        peers.at(descent.theta)
        for name in ("curvlinops", "pyhessian"):
            solve = getattr(peers, name)
            for tolerance in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
                if tolerance > tolerances.get(name, 1):
                    continue  # at which it was not accurate enough before
                took, value = timed(lambda s=solve, tol=tolerance: s(tol))
                if abs(value / truth - 1) <= ACCURACY:
                    break
            tolerances[name] = tolerance
            times[name].append(took)
            errors[name].append(abs(value / truth - 1))
    return {
        "time": {name: statistics.mean(values) for name, values in times.items()},
        "error": {name: max(values) for name, values in errors.items()},
        "products": statistics.mean(products), "heights": (min(heights), max(heights)),
        "ratio": statistics.mean(ratios),
    }  # fmt: skip


def tracked_steps() -> dict[str, tuple[Training, float, float]]:
    """Those of the rows tracked-step: the problem, the step size, and how many gradients a step may cost."""
    images = {"classes": [3, 5]}
    return {
        "mlp": (training("cifar10", N, "mse-half-sum", "mlp", {"hidden": list(HIDDEN)}), 2 / 50, 40),  # the paper's own
        "cnn": (training("cifar10", 100, "mse-binary", "cnn", {"width": 8}, **images), 2 / 700, 80),
        "transformer": (
            training("sst2", 100, "mse-binary", "transformer", TRANSFORMER, vocabulary=2000, length=20), 2 / 370, 80,
        ),
    }  # fmt: skip


def tracked_step(given: Training, step_size: float, steps: int = 20) -> tuple[float, float, float]:
    """The time of a tracked step of self-stabilization in single-precision gradients, timed in turn: the median; the
    products that a step takes; and the mean of ε."""
    cpu = torch.device("cpu")
    single, theta = given.begin(0, "float32", cpu)
    process = SelfStabilization(given.begin(0, "float64", cpu)[0], theta, step_size, 10**6, single, also=())
    while process.onset is None or process.t < process.onset + 12:
        process.step()
    ratios, rows = [], []
    for _ in range(steps):
        gradient = seconds(lambda: single.evaluate(theta), 3)
        took, _ = timed(process.step)
        row = process.observe()["step"]
        if "next_eigenvalue" not in row:  # now and then a step observes more
            ratios.append(took / gradient)
            rows.append(row)
    return statistics.median(ratios), *(statistics.mean(row[name] for row in rows) for name in ("products", "epsilon"))


def draw_scaling(path: Path) -> None:
    """Seconds of one gradient against n and width, and of one step against the number of step sizes."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained", sharey=True)
    sizes = (625, 1250, 2500, 5000)
    times = []
    for n in sizes:
        objective, theta, _ = problem(n)
        times.append(seconds(lambda o=objective, t=theta: o.evaluate(t), 5))
    axes[0].loglog(sizes, times, "o-", color=BLUE)
    axes[0].set(xlabel="examples n", ylabel="seconds", title="one gradient")
    widths = (50, 100, 200, 400)
    times = []
    for width in widths:
        objective, theta, _ = problem(1250, (width, width))
        times.append(seconds(lambda o=objective, t=theta: o.evaluate(t), 5))
    axes[1].loglog(widths, times, "o-", color=ORANGE)
    axes[1].set(xlabel="width of both hidden layers", title="one gradient, n = 1,250")
    counts = (1, 2, 4, 8)
    objective, theta, _ = problem(1250)
    times = []
    for count in counts:
        group = [Trajectory(objective, theta, 2 / (30 + i), steps=10**6) for i in range(count)]
        times.append(seconds(lambda descents=group: [descent.step() for descent in descents], 5))
    axes[2].loglog(counts, times, "o-", color=GREEN)
    axes[2].set(xlabel="step sizes, advanced side by side", title="one step of each, n = 1,250")
    for ax, ticks in zip(axes, (sizes, widths, counts), strict=True):
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.set_xticks([], minor=True)
        ax.grid(True, which="both", alpha=0.3)
    figure.savefig(path, dpi=150)


def map_by_numpy(landscape, step_size, x, y, traps, max_steps=5000) -> np.ndarray:
    """0 where a start is stable, 1 where it converges otherwise, else 2; by arrays from which decided points leave.

    traps: for each minimiser x, y and the square of its radius, (number of minimisers, 3).
    """
    outcome, where = np.full(x.size, 2), np.arange(x.size)
    x, y, rose, moved = x.ravel(), y.ravel(), np.zeros(x.size, bool), np.full(x.size, np.inf)
    f = landscape.value(x, y)
    for _ in range(max_steps):
        caught = np.zeros(len(x), bool)
        for mx, my, radius2 in traps:
            caught |= (x - mx) * (x - mx) + (y - my) * (y - my) < radius2
        outcome[where[caught]] = rose[caught]
        stays = ~caught & (x * x + y * y < 1e6) & (moved >= basins.REST**2)
        if not stays.all():
            x, y, f, rose, where = x[stays], y[stays], f[stays], rose[stays], where[stays]
        if not len(x):
            break
        g, h = landscape.gradient(x, y)
        dx, dy = step_size * g, step_size * h
        x, y, moved = x - dx, y - dy, dx * dx + dy * dy
        after = landscape.value(x, y)
        rose = rose | ~(after < f)
        f = after
    return outcome


def plain_loop(landscape) -> Callable:
    """The same map by a parallel loop over points, each followed to its end."""
    value, gradient = numba.njit(landscape.value), numba.njit(landscape.gradient)

    @numba.njit(parallel=True)
    def loop(step_size, x_all, y_all, traps, max_steps, rest2, outcome):
        for i in numba.prange(x_all.size):
            x, y = x_all[i], y_all[i]
            f, rose, outcome[i] = value(x, y), 0, 2
            for _ in range(max_steps):
                caught = False
                for m in range(len(traps)):
                    caught |= (x - traps[m, 0]) ** 2 + (y - traps[m, 1]) ** 2 < traps[m, 2]
                if caught:
                    outcome[i] = rose
                    break
                if not x * x + y * y < 1e6:
                    break
                g, h = gradient(x, y)
                x, y = x - step_size * g, y - step_size * h
                after = value(x, y)
                if not after < f:
                    rose = 1
                f = after
                if (step_size * g) ** 2 + (step_size * h) ** 2 < rest2:
                    break

    return loop


def compare_maps(grid: int = 1024) -> dict[str, float]:
    """Seconds for five maps of f₄, by `basins.classify` and by both peers on as many cores, all the same maps."""
    landscape = landscapes.get("f4")
    x, y = basins.pixel_centres((-2.5, 2.5, -2.5, 2.5), grid)
    loop = plain_loop(landscape)
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    total = {"ours": 0.0, "numpy": 0.0, "numba": 0.0}
    for fraction in (0.2, 0.4, 0.6, 0.8, 0.99):
        eta = fraction * 10 / 19
        traps = np.array([(*m, (0.5 * basins.trap_radius(landscape, eta, m)) ** 2) for m in landscape.minimisers])
        outcome = np.empty(x.size, np.int64)
        by_loop = (eta, x.ravel(), y.ravel(), traps, 5000, basins.REST**2, outcome)
        ours = np.minimum(basins.classify(landscape, eta, x, y).outcome.ravel(), 2)
        loop(*by_loop)
        assert np.array_equal(outcome, ours) and np.array_equal(map_by_numpy(landscape, eta, x, y, traps), ours)
        total["ours"] += seconds(lambda e=eta: basins.classify(landscape, e, x, y), 3)
        total["numba"] += seconds(lambda given=by_loop: loop(*given), 3)
        total["numpy"] += seconds(lambda e=eta, t=traps: map_by_numpy(landscape, e, x, y, t), 1)
    return total


def draw_maps(path: Path, grids: tuple[int, ...] = (256, 512, 1024)) -> float:
    """Seconds of a map against the number of looks at its undecided points, one a step and one at the start. Returns
    the nanoseconds a look, the median over the maps."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(5, 3.5), layout="constrained")
    per_step = []
    for name, largest, half, colour in (
        ("f1", 1, 0.75, BLUE), ("f2", 1, 0.75, ORANGE), ("f3", 1 / 6, 2.5, GREEN), ("f4", 10 / 19, 2.5, "0.4")
    ):  # fmt: skip
        points = []
        for grid, fraction in itertools.product(grids, (0.2, 0.6, 0.99)):
            x, y = basins.pixel_centres((-half, half, -half, half), grid)
            classify = functools.partial(basins.classify, landscapes.get(name), fraction * largest, x, y)
            looks = (classify().steps + 1).sum(dtype=np.int64)  # a start that is decided at once costs a look too
            points.append((looks, seconds(classify, 3)))
        per_step += [1e9 * took / looks for looks, took in points]
        ax.loglog(*zip(*points, strict=True), "o", color=colour, label=name)
    ends = np.array(ax.get_xlim())
    ax.loglog(ends, statistics.median(per_step) * 1e-9 * ends, color="0.7", zorder=0)
    ax.set(xlabel="looks at undecided points: steps, and the starts", ylabel="seconds")
    ax.legend()
    figure.savefig(path, dpi=150)
    return statistics.median(per_step)


def descend_by_numpy(landscape, theta: np.ndarray, step_size: float, steps: int) -> np.ndarray:
    """Gradient descent from all starts at once."""
    x = theta.T.copy()
    gradient = np.empty_like(x)
    for _ in range(steps):
        landscape.gradient_at(x, gradient)
        x = x - step_size * gradient
    return x.T


def plain_descent(landscape) -> Callable:
    """The same by a parallel loop over points, each followed to its end."""
    gradient_at, d = compiled(landscape.gradient_at), landscape.dimension

    @numba.njit(parallel=True)
    def loop(theta, step_size, steps):
        for i in numba.prange(len(theta)):
            x, gradient = theta[i].copy(), np.empty(d)
            for _ in range(steps):
                gradient_at(x, gradient)
                for k in range(d):
                    x[k] -= step_size * gradient[k]
            theta[i] = x

    return loop


def compare_starts(starts: int = 10_000, steps: int = 1000) -> dict[str, float]:
    """Point-steps a second on f_tm, by `Starts` and by both peers on as many cores, all to the same points."""
    landscape, step_size = landscapes.get("f_tm"), 0.01
    theta = uniform_points(((3.7, 4.5),), starts, 0)
    loop = plain_descent(landscape)
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    ends = {}

    def ours():
        process = Starts(landscape, theta, step_size, steps)
        while not process.finished:
            process.step()
        ends["ours"] = process.theta

    def by_loop():
        ends["numba"] = theta.copy()
        loop(ends["numba"], step_size, steps)

    def by_numpy():
        ends["numpy"] = descend_by_numpy(landscape, theta, step_size, steps)

    took = dict(zip(("ours", "numpy", "numba"), together(ours, by_numpy, by_loop, rounds=5, repeats=1), strict=True))
    assert all(np.array_equal(end, ends["ours"]) for end in ends.values())
    return {name: starts * steps / min(times) for name, times in took.items()}


def phase_diagram(side: int = 200, runs: int = 100, iterations: int = 1000) -> float:
    """Seconds of a diagram of so many step sizes and sizes of uniform noise, on f_tm."""
    diagram = PhaseDiagram(
        landscapes.get("f_tm"), ((3.7, 4.5),), np.geomspace(1e-4, 0.5, side).tolist(),
        np.geomspace(1, 1e4, side).tolist(), runs, iterations, (((0.0,), 2.9), ((4.1,), 0.4)),
    )  # fmt: skip
    began = time.perf_counter()
    while not diagram.finished:
        diagram.step()
    return time.perf_counter() - began


class Minibatches:
    """A network trained by minibatches twice: by a `Trajectory` to which nothing is due, and by the loop that users of
    PyTorch write, which logs nothing. Both start alike and see the same minibatches of the same tensors."""

    def __init__(self, network: torch.nn.Module, n: int, step_size: float, batch_size: int = 128, **options):
        self.inputs, self.labels, data = examples(n)
        self.what = f"{data}, n = {n:,}, 3×32×32, minibatches of {batch_size}"
        self.epoch = range(-(-n // batch_size))
        rule = Rule(name="SGD", options=options) if options else Rule()
        # never due: neither loss nor progress is taken on the whole data
        self.trajectory = Trajectory(
            SupervisedObjective(copy.deepcopy(network), self.inputs, self.labels, "cross-entropy"),
            networks.flatten(network), step_size, 10**9, (Loss(every="end"),),
            rule=rule, batches=Batches(batch_size=batch_size),
        )  # fmt: skip
        self.module = network.train()
        self.optimiser = torch.optim.SGD(self.module.parameters(), lr=step_size, **options)
        self._bare = self._steps(batch_size)

    def _steps(self, batch_size: int) -> Iterator[None]:
        loss, generator = torch.nn.CrossEntropyLoss(), torch.Generator().manual_seed(0)
        while True:
            for chosen in torch.randperm(len(self.inputs), generator=generator).split(batch_size):
                self.optimiser.zero_grad()
                loss(self.module(self.inputs[chosen]), self.labels[chosen]).backward()
                self.optimiser.step()
                yield

    def ours(self) -> None:
        """An epoch."""
        for _ in self.epoch:
            self.trajectory.step()

    def bare(self) -> None:
        """An epoch."""
        for _ in self.epoch:
            next(self._bare)

    def compare(self, **options) -> float:
        """Our time over that of the bare loop, once both have come to the same θ."""
        self.ours()
        self.bare()
        here, there = self.trajectory.theta, networks.flatten(self.module)
        assert torch.allclose(here, there, rtol=1e-3, atol=1e-5), (here - there).abs().max()
        bare, ours = together(self.bare, self.ours, **options)
        return statistics.median(o / b for b, o in zip(bare, ours, strict=True))


def minibatch_networks() -> dict[str, torch.nn.Module]:
    """Those of the rows minibatch-step."""
    return {
        "mlp": networks.mlp(3072, HIDDEN, 10, "tanh", seed=0),
        "cnn": networks.cnn((3, 32, 32), 10, 32, "swish", seed=0),
    }


def narrow_resnet(n: int = 1000) -> Minibatches:
    """ResNet-18 of an eighth of the usual widths, as it is trained in practice."""
    network = networks.resnet18((3, 32, 32), 10, (8, 16, 32, 64), activation="relu", norm="batch", seed=0)
    return Minibatches(network, n, 0.05, momentum=0.9, weight_decay=5e-4)


def watch_overhead(network: torch.nn.Module, n: int = N, every: int = 20, rounds: int = 12) -> tuple[float, str]:
    """What `eoslib.watch` adds, in per cent, to the time of a bare loop over minibatches and of the gradients and
    products that it counts; and on what. They are timed in turn, the same network trained twice."""
    watched, bare = (Minibatches(copy.deepcopy(network), n, 0.01, momentum=0.9) for _ in range(2))

    def steps(of: Minibatches) -> float:
        return timed(lambda: [next(of._bare) for _ in range(every)])[0]

    shares = []
    with eoslib.watch(watched.module, cross_entropy, (watched.inputs, watched.labels), every) as w:
        f = w.objective
        for _ in range(2 + rounds):
            gradients, products = f.gradients, f.products
            took = steps(watched)
            gradients, products = f.gradients - gradients, f.products - products
            theta = networks.flatten(watched.module)
            gradient, _ = timed(lambda at=theta: f.evaluate(at))
            expand, point = timed(lambda at=theta: f.expand(at))
            product = seconds(lambda e=point, v=theta: e.hvp(v), 3)
            # one gradient of each measurement comes with its graph
            counted = gradients / 2 * (gradient + expand) + products * product
            shares.append(took / (steps(bare) + counted) - 1)
    return 100 * statistics.median(shares[2:]), watched.what + f", watched on all at every {every} steps"


def loading_wait(side: int = 224, n: int = 16, batch_size: int = 2, sizes: dict | None = None) -> tuple[float, str]:
    """The share of the time, in per cent, that steps of ResNet-101 wait for their images, which other processes read
    from disk meanwhile; and on what. Photographs are of ImageNet's usual size. The first step, before which the
    processes start, is left out, and so is the last, after which nothing is left to be read ahead."""
    from PIL import Image

    waits, rng = [], np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n):
            path = Path(folder) / "train" / "ab"[i % 2] / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            slopes = np.linspace(0, 200, 500)[:, None] + rng.normal(0, 10, (375, 500, 3))
            Image.fromarray(slopes.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        options = {"folder": folder, "size": side, "n_classes": 2}
        data = Data(dataset="image_folder", n=n, standardisation="per-channel", data_options=options)
        network = Network(architecture="resnet101", sizes=sizes or {}, activation="relu")
        problem = Training(data=data, network=network, loss="cross-entropy")
        objective, theta = problem.begin(0, "float32", torch.device("cpu"))
        read = objective.inputs.batches

        def timed_batches(*arguments):
            coming = read(*arguments)
            while (found := timed(lambda: next(coming, None)))[1] is not None:
                waits.append(found[0])
                yield found[1]

        objective.inputs.batches = timed_batches
        batches = Batches(batch_size=batch_size, part=True).begin(objective, 0)
        steps = [timed(lambda: batches.see(theta, None))[0] for _ in range(n // batch_size)]
    what = f"{n} photographs of 500×375, ResNet-101 at {side}×{side}, {batch_size} a step, {images.WORKERS} readers"
    return 100 * sum(waits[1:-1]) / sum(steps[1:-1]), what


SWEPT = """\
# %% tags=["parameters"]
seed: int = 0
steps: int = 0
network: bool = True

# %% tags=["experiments"]
from eoslib.chapter.experiments import Data, Descent, Network, OnLandscape, Training

mlp = Network(architecture="mlp", sizes={"hidden": [32, 32]}, activation="tanh")
small = Training(data=Data(dataset="digits", n=500), network=mlp, loss="mse-sum")
bowl = OnLandscape(landscape="quadratic", start=(1.0, 1 + seed / 1000))
problem = small if network else bowl
run = Descent(chapter="swept", experiment="run", problem=problem, step_size=0.01, steps=steps, seed=seed)
experiments = {"run": [run]}
"""


def swept(cases: int, steps: int, network: bool) -> tuple[float, float, float, int]:
    """Of a sweep of so many cases, each one run of so many steps of a small network or on a landscape: seconds that a
    case takes; share of the cores' time, in per cent, that its workers were busy; what the sweep takes, in per cent,
    over the sum of its cases divided by the cores; and how many cases are lost."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folders = {variable: f"{name}/{variable}" for variable in ("EOSLIB_RUNS", "EOSLIB_RECORDED")}
        stack.enter_context(mock.patch.dict(os.environ, folders))
        (path := Path(name) / "swept.py").write_text(SWEPT)
        given = [{"seed": seed, "steps": steps, "network": network} for seed in range(cases)]
        wanted = sweep.cases(path, "quick", given)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        took, failed = timed(lambda: sweep.sweep(wanted, Path(name) / "out"))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = [json.loads(at.read_text()) for at in (Path(name) / "out").glob("*.json")]
        runs = [store.load(key).manifest["wall_seconds"] for key in store.inventory()]
    busy = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    total = sum(case["seconds"] for case in found) + sum(runs)
    lost = cases - len(found) + len(failed)
    return total / cases, 100 * busy / (took * cores), 100 * (took * cores / total - 1), lost


def checkpoint_share(checkpoints: int = 3, hidden: tuple[int, ...] = (2150, 2150), **policy) -> tuple[float, int]:
    """Share of the time that checkpoints take in per cent, until so many are written after the one at the start, and
    the number of parameters. The state holds θ and its momentum; policy: as of `store.carry_on`, by default its own."""
    network = networks.mlp(3072, hidden, 10, "relu", seed=0)
    running = Minibatches(network, 64, 1e-3, 16, momentum=0.9).trajectory
    saves, save = [], journal._Journal.save

    class Enough(Exception):
        pass

    def timed_save(self) -> None:
        begin = time.perf_counter()
        save(self)
        saves.append((begin, time.perf_counter()))
        if len(saves) == checkpoints:
            raise Enough

    identity = store.Identity({"experiment": "benchmark", "chapter": "none", "step_size": 1e-3}, {"is": "benchmark"})
    kept, begin = os.environ.get("EOSLIB_RUNS"), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:  # on a disk, not in memory
        os.environ["EOSLIB_RUNS"] = folder
        journal._Journal.save = timed_save
        try:
            store.carry_on(running, identity, **policy)
        except Enough:
            pass
        finally:
            journal._Journal.save = save
            os.environ.pop("EOSLIB_RUNS")
            if kept is not None:
                os.environ["EOSLIB_RUNS"] = kept
    return 100 * sum(e - b for b, e in saves) / (saves[-1][1] - begin), len(running.theta)


def transfers(steps: int = 20) -> int:
    """How often a step of gradient descent, or of SGD, waits for the device at most where nothing is due: counted on
    the tests' pretend accelerator, so that it is the same on every machine."""
    sys.path.append(str(FOLDER.parent / "tests"))
    from accelerator import DEVICE, Accelerator

    counts = []
    with Accelerator() as accelerator:
        for batches in (Batches(), Batches(batch_size=32)):
            network = networks.mlp(64, (32, 32), 10, "tanh", seed=0)
            data = datasets.load("digits", 20 * 32)
            objective = SupervisedObjective.of(network, data, "cross-entropy", DEVICE, torch.float32)
            theta = networks.flatten(network).to(DEVICE)
            trajectory = Trajectory(objective, theta, 0.1, steps, batches=batches)
            trajectory.step()  # the first arrives at θ_0, too, where an epoch begins
            for _ in range(steps - 2):
                before = accelerator.transfers
                trajectory.step()
                counts.append(accelerator.transfers - before)
    return max(counts)


def table(results: dict) -> str:
    """The rows as a Markdown table, the machine below."""
    lines = ["| measured | value | unit | bound |", "|---|---:|---|---|"]
    for r in results["rows"]:
        verdict = f"{r['bound'].replace('<=', '≤').replace('>=', '≥')}{'' if r['holds'] else ', does not hold'}"
        measured = f"{r['id']} ({r['data']})" if r.get("data") else r["id"]
        lines.append(f"| {measured} | {r['value']:.3g} | {r['unit']} | {verdict} |")
    m = results["machine"]
    lines += ["", f"{m['processor']}, {m['threads']} threads, PyTorch {m['torch']}, data: {m['data']}."]
    return "\n".join(lines)


def put_into_readme(text: str) -> None:
    """Replace what stands between the two marks in the README."""
    path = FOLDER.parent / "README.md"
    before, _, rest = path.read_text().partition("<!-- benchmarks -->\n")
    _, mark, after = rest.partition("<!-- end of benchmarks -->")
    path.write_text(f"{before}<!-- benchmarks -->\n{text}\n{mark}{after}")


def main() -> None:
    """Measure, judge, write."""
    warnings.simplefilter("ignore")  # of the peers
    objective, theta, data = problem()
    rows = []

    def row(name: str, value: float, unit: str, bound: str = "", holds: bool = True, on: str | None = None) -> None:
        on = f"{data}, n = {N:,}, 3072-200-200-10" if on is None else on
        rows.append({"id": name, "value": value, "unit": unit, "bound": bound, "holds": holds, "data": on})
        print(f"{name:<38} {value:10.3g} {unit:<14} {bound:<8} {'' if holds else 'does not hold'}", flush=True)

    # matrix products of the gradient's own dominant shape, forward and backward
    x, w, delta = objective.inputs, torch.randn(HIDDEN[0], 3072), torch.randn(N, HIDDEN[0])
    products = [a * b for a, b in itertools.pairwise([3072, *HIDDEN, 10])]
    # operations of a gradient over those of the two products
    operations = (3 * sum(products) - products[0]) / (2 * 3072 * HIDDEN[0])
    gradient, peak = together(lambda: objective.evaluate(theta), lambda: (x @ w.T, delta.T @ x))
    row("gradient", statistics.median(gradient), "s")
    share = statistics.median(operations * p / g for g, p in zip(gradient, peak, strict=True))
    row("gradient/matrix-product-peak", share, "ratio", ">= 0.8", share >= 0.8)

    expansion, v = objective.expand(theta), torch.randn_like(theta)
    gradient, hvp = together(lambda: objective.evaluate(theta), lambda: expansion.hvp(v))
    product = statistics.median(h / g for g, h in zip(gradient, hvp, strict=True))
    row("hvp/gradient", product, "gradients", "<= 1.3", product <= 1.3)

    descent = Trajectory(objective, theta, STEP_SIZE, steps=10**6)
    bare_theta = theta

    def bare_step():
        nonlocal bare_theta
        bare_theta = bare_theta - STEP_SIZE * objective.gradient(bare_theta)

    bare, observed = together(bare_step, descent.step)
    overhead = 100 * (statistics.median(o / b for b, o in zip(bare, observed, strict=True)) - 1)
    row("observables-every-step/overhead", overhead, "%", "<= 5", overhead <= 5)

    for name, network in minibatch_networks().items():
        minibatches = Minibatches(network, N, 0.01)
        ratio = minibatches.compare(**({} if name == "mlp" else {"rounds": 6, "repeats": 1}))
        row(f"minibatch-step/{name}", ratio, "bare steps", "<= 1.1", ratio <= 1.1, minibatches.what)
    resnet = narrow_resnet()
    throughput = 1 / resnet.compare(rounds=6, repeats=1)
    row("resnet-epoch", throughput, "bare epochs", ">= 0.95", throughput >= 0.95, resnet.what)
    overhead, what = watch_overhead(minibatch_networks()["mlp"])
    row("watch/overhead", overhead, "% beside the products", "<= 5", overhead <= 5, what)
    each, busy, over, _ = swept(64, 3000, network=True)
    row("sweep/busy", busy, "% of the cores", ">= 90", busy >= 90, f"64 cases of {each:.2g} s")
    row("sweep/over", over, "% over its cases", "<= 10", over <= 10, f"64 cases of {each:.2g} s")
    each, _, _, lost = swept(1000, 500, network=False)
    row("sweep/lost", lost, "cases", "<= 0", lost == 0, f"1,000 cases of {each:.2g} s")
    share, size = checkpoint_share()
    row("checkpoint-share", share, "% of time", "<= 2", share <= 2, f"{size:,} parameters with momentum")

    share, what = loading_wait()
    row("data-loading/wait", share, "% of a step", "<= 5", share <= 5, what)

    waits = transfers()
    row("transfers-per-step", waits, "at most", "<= 1", waits <= 1, "digits, n = 640, 64-32-32-10, pretend accelerator")

    for name, (given, at, on, most) in per_example_problems().items():
        plain, norms = together(
            lambda o=given, t=at: o.evaluate(t), lambda o=given, t=at: per_example(o, t), rounds=5, repeats=1
        )
        gradients = statistics.median(n / p for n, p in zip(norms, plain, strict=True))
        row(f"per-example-norms/{name}", gradients, "gradients", f"<= {most}", gradients <= most, on)

    for name, case in tracked_problems().items():
        compared = compare_sharpness(case)
        low, high = compared["heights"]  # past the onset it oscillates
        on = f"{case.what}, sharpness {low:.2f} to {high:.2f} · 2/η, λ₂/λ₁ {compared['ratio']:.2f}"
        spent, took = compared["products"], compared["time"]
        row(f"tracked-sharpness/{name}", spent, "products", f"<= {case.products:g}", spent <= case.products, on)
        row(f"tracked-sharpness/{name}/time", took["ours"], "s per step", on=on)
        for method, error in compared["error"].items():
            row(f"tracked-sharpness/{name}/error/{method}", error, "relative", "<= 1e-3", error <= ACCURACY, on)
        faster = min(took["curvlinops"], took["pyhessian"]) / took["ours"]
        row(f"tracked-sharpness/{name}/faster", faster, "times", f">= {case.faster:g}", faster >= case.faster, on)
    for name, (given, step_size, most) in tracked_steps().items():
        with contextlib.suppress(datasets.DataAbsent):
            gradients, spent, epsilon = tracked_step(given, step_size)
            on = f"{given.data.dataset}, n = {given.data.n:,}, {spent:.0f} products, ε {epsilon:.2f}"
            row(f"tracked-step/{name}", gradients, "gradients", f"<= {most}", gradients <= most, on)

    maps = compare_maps()
    on = "f4, five maps of 1024 x 1024 starts"
    row("map/ours", maps["ours"], "s", on=on)
    for peer, bound in (("numpy", 10), ("numba", 1)):
        faster = maps[peer] / maps["ours"]
        row(f"map/faster-than-{peer}", faster, "times", f">= {bound}", faster >= bound, on)
    row("map/look-at-a-point", draw_maps(FOLDER / "maps.png"), "ns", on="f4")

    rates = compare_starts()
    on = "f_tm, 10,000 starts, 1,000 steps"
    row("starts/ours", rates["ours"], "point-steps/s", on=on)
    for peer, bound in (("numpy", 10), ("numba", 1)):
        faster = rates["ours"] / rates[peer]
        row(f"starts/faster-than-{peer}", faster, "times", f">= {bound}", faster >= bound, on)
    took = phase_diagram()
    row("phase-diagram", took, "s", "<= 120", took <= 120, "f_tm, 200 x 200 cells, 100 runs, 1,000 steps, two regions")

    draw_scaling(FOLDER / "scaling.png")
    machine = store.machine(torch.device("cpu")) | {"threads": torch.get_num_threads(), "data": data}
    results = {"machine": machine, "rows": rows}
    (FOLDER / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    put_into_readme(table(results))
    print(f"wrote {FOLDER / 'results.json'} and the table in README.md")


if __name__ == "__main__":
    main()
