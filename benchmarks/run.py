"""Benchmarks of the numerical core against public peers, all in one process and one run.

Network 3072-200-200-10 (tanh) with 5,000 examples: CIFAR-10 if it is here, else generated inputs of the same shape.
Writes benchmarks/results.json and benchmarks/scaling.png, and prints a table.
"""

import itertools
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from scipy.sparse.linalg import eigsh

from eoslib import datasets, networks, runs
from eoslib.curvature import SharpnessTracker, top_eigenpairs
from eoslib.descent import GradientDescent
from eoslib.figures import BLUE, GREEN, ORANGE
from eoslib.objective import SupervisedObjective, cross_entropy

FOLDER = Path(__file__).parent
N, HIDDEN, STEP_SIZE = 5000, (200, 200), 2 / 30
ONSET = 300  # at this step size and seed the sharpness has passed 2/η by then
TRACKED, JUDGED = 24, 6  # steps followed by our tracker; of these, the last ones are solved by the peers too
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


def together(*actions: Callable, rounds: int = 12) -> list[list[float]]:
    """Wall times of actions in turn, `rounds` of each, so that a change of the machine's speed meets them all alike."""
    times = [[seconds(action, 3) for action in actions] for _ in range(rounds)]
    return list(map(list, zip(*times, strict=True)))


def timed(action: Callable) -> tuple[float, object]:
    """Wall time and result of one call."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def problem(n: int = N, hidden: tuple[int, ...] = HIDDEN) -> tuple[SupervisedObjective, torch.Tensor, str]:
    """The objective, its initial θ, and the name of the data."""
    try:
        data = datasets.load("cifar10", n)
        inputs, labels, name = data.inputs, data.labels, "cifar10"
    except datasets.DataError:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(n, 3072, generator=generator)
        labels, name = torch.randint(10, (n,), generator=generator), "generated"
    network = networks.mlp(3072, hidden, 10, "tanh", seed=0)
    return SupervisedObjective(network, inputs, labels, "cross-entropy"), networks.flatten(network), name


class Peers:
    """The two peers at one θ, on an ordinary module."""

    def __init__(self, objective: SupervisedObjective):
        self.objective = objective
        self.module = objective.network

    def at(self, theta: torch.Tensor) -> None:
        """Put θ into the module."""
        torch.nn.utils.vector_to_parameters(theta.clone(), self.module.parameters())

    def curvlinops(self, tolerance: float) -> float:
        """λ_max by SciPy's eigsh on curvlinops' operator."""
        from curvlinops import HessianLinearOperator

        batches = [(self.objective.inputs, self.objective.labels)]
        parameters = list(self.module.parameters())
        operator = HessianLinearOperator(
            self.module, torch.nn.CrossEntropyLoss(), parameters, batches, check_deterministic=False
        )
        return float(eigsh(operator.to_scipy(), k=1, which="LA", tol=tolerance, return_eigenvectors=False)[0])

    def pyhessian(self, tolerance: float) -> float:
        """λ_max by PyHessian's power iteration."""
        import pyhessian

        batch = (self.objective.inputs, self.objective.labels)
        hessian = pyhessian.hessian(self.module, cross_entropy, data=batch, cuda=False)
        return hessian.eigenvalues(maxIter=1000, tol=tolerance, top_n=1)[0][0]


def compare_sharpness(objective: SupervisedObjective, theta: torch.Tensor) -> dict:
    """Time and error per tracked step, ours and the peers', on the same iterates after the onset.

    Each peer gets the loosest tolerance at which it reaches the accuracy on all iterates judged.
    """
    descent = GradientDescent(objective, theta, STEP_SIZE, steps=10**6)
    while descent.t < ONSET:
        descent.step()
    tracker = SharpnessTracker()
    tracker.at(objective.expand(descent.theta))  # the cold start is not part of tracking
    times, iterates, found = [], [], []
    for _ in range(TRACKED):
        descent.step()
        # the graph of the gradient serves the step too: what tracking adds is the search
        expansion = objective.expand(descent.theta)
        took, spectrum = timed(lambda e=expansion: tracker.at(e))
        times.append(took)
        iterates.append(descent.theta)
        found.append(spectrum)
    graph = seconds(lambda: objective.expand(descent.theta)) - seconds(lambda: objective.evaluate(descent.theta))
    truth = [
        top_eigenpairs(objective.expand(t).hvp, warm.vectors, tolerance=1e-4).values[0].item()
        for t, warm in zip(iterates, found, strict=True)
    ]
    result = {
        "ours": (statistics.mean(times) + max(graph, 0), worst_error([s.values[0].item() for s in found], truth)),
        "products": statistics.mean(s.products for s in found),
    }
    truth = truth[-JUDGED:]
    peers = Peers(objective)
    for name in ("curvlinops", "pyhessian"):
        solve = getattr(peers, name)
        for tolerance in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
            times, values = [], []
            for t in iterates[-JUDGED:]:
                peers.at(t)
                took, value = timed(lambda s=solve, tol=tolerance: s(tol))
                times.append(took)
                values.append(value)
                if abs(value / truth[len(values) - 1] - 1) > ACCURACY:
                    break  # not accurate enough: no need to time the rest
            result[name] = (statistics.mean(times), worst_error(values, truth[: len(values)]))
            if result[name][1] <= ACCURACY:
                break
    return result


def worst_error(values: list[float], truth: list[float]) -> float:
    """The largest relative error."""
    return max(abs(v / t - 1) for v, t in zip(values, truth, strict=True))


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
        together = [GradientDescent(objective, theta, 2 / (30 + i), steps=10**6) for i in range(count)]
        times.append(seconds(lambda group=together: [descent.step() for descent in group], 5))
    axes[2].loglog(counts, times, "o-", color=GREEN)
    axes[2].set(xlabel="step sizes, advanced side by side", title="one step of each, n = 1,250")
    for ax in axes:
        ax.grid(True, which="both", alpha=0.3)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, judge, write."""
    warnings.simplefilter("ignore")  # of the peers
    objective, theta, data = problem()
    rows = []

    def row(name: str, value: float, unit: str, bound: str = "", holds: bool = True) -> None:
        rows.append({"id": name, "value": value, "unit": unit, "bound": bound, "holds": holds})
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

    descent = GradientDescent(objective, theta, STEP_SIZE, steps=10**6)
    bare_theta = theta

    def bare_step():
        nonlocal bare_theta
        bare_theta = bare_theta - STEP_SIZE * objective.gradient(bare_theta)

    bare, observed = together(bare_step, descent.step)
    overhead = 100 * (statistics.median(o / b for b, o in zip(bare, observed, strict=True)) - 1)
    row("observables-every-step/overhead", overhead, "%", "<= 5", overhead <= 5)

    compared = compare_sharpness(objective, theta)
    spent = compared.pop("products")
    row("tracked-sharpness/products", spent, "per step", "<= 3", spent <= 3)
    row("tracked-sharpness/ours/all-in-products", compared["ours"][0] / statistics.median(hvp), "per step")
    for name, (took, error) in compared.items():
        row(f"tracked-sharpness/{name}/time", took, "s per step")
        row(f"tracked-sharpness/{name}/error", error, "relative", "<= 1e-3", error <= ACCURACY)
    faster = min(compared["curvlinops"][0], compared["pyhessian"][0]) / compared["ours"][0]
    row("tracked-sharpness/faster-than-peers", faster, "times", ">= 4", faster >= 4)

    draw_scaling(FOLDER / "scaling.png")
    machine = runs.machine() | {"threads": torch.get_num_threads(), "data": data}
    (FOLDER / "results.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(f"wrote {FOLDER / 'results.json'}")


if __name__ == "__main__":
    main()
