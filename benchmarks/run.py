"""Benchmarks of the numerical core, all in one process and one run; writes benchmarks/results.json and prints a table.

Network 3072-200-200-10 (tanh) with 5,000 examples: CIFAR-10 if it is here, else generated inputs of the same shape.
"""

import json
import statistics
import time
from pathlib import Path

import torch

from eoslib import datasets, networks, runs
from eoslib.curvature import SharpnessTracker
from eoslib.descent import GradientDescent
from eoslib.objective import SupervisedObjective

N, HIDDEN, STEP_SIZE = 5000, (200, 200), 2 / 30


def seconds(action, repeats: int = 7) -> float:
    """Median wall time of an action after one rehearsal."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def problem() -> tuple[SupervisedObjective, torch.Tensor, str]:
    """The objective, its initial θ, and the name of the data."""
    try:
        data = datasets.load("cifar10", N)
        inputs, labels, name = data.inputs, data.labels, "cifar10"
    except datasets.DataError:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(N, 3072, generator=generator)
        labels, name = torch.randint(10, (N,), generator=generator), "generated"
    network = networks.mlp(3072, HIDDEN, 10, "tanh", seed=0)
    return SupervisedObjective(network, inputs, labels, "cross-entropy"), networks.flatten(network), name


def main() -> None:
    """Measure, judge, write."""
    objective, theta, data = problem()
    rows = []

    def row(name: str, value: float, unit: str, bound: str, holds: bool) -> None:
        rows.append({"id": name, "value": value, "unit": unit, "bound": bound, "holds": holds})
        print(f"{name:<32} {value:10.3f} {unit:<12} {bound:<10} {'holds' if holds else 'does not hold'}", flush=True)

    # a matrix product of the gradient's own dominant shape
    x, w = objective.inputs, torch.randn(200, 3072)
    peak = 2 * N * 3072 * 200 / seconds(lambda: x @ w.T)
    widths = [3072, *HIDDEN, 10]
    products = [a * b for a, b in zip(widths, widths[1:], strict=False)]
    flops = 2 * N * (3 * sum(products) - products[0])
    gradient = seconds(lambda: objective.evaluate(theta))
    share = flops / gradient / peak
    row("gradient/matrix-product-peak", share, "ratio", ">= 0.8", share >= 0.8)

    expansion = objective.expand(theta)
    v = torch.randn_like(theta)
    product = seconds(lambda: expansion.hvp(v)) / gradient
    row("hvp/gradient", product, "gradients", "<= 1.3", product <= 1.3)

    tracker = SharpnessTracker()
    descent = GradientDescent(objective, theta, STEP_SIZE, steps=10_000)
    while descent.t < 400:  # past the onset
        descent.step()
    tracker.measure(objective.expand(descent.theta), STEP_SIZE)
    before, tracked = objective.products, 25
    for _ in range(tracked):
        descent.step()
        tracker.measure(objective.expand(descent.theta), STEP_SIZE)
    spent = (objective.products - before) / tracked
    row("tracked-sharpness/products", spent, "per step", "<= 3", spent <= 3)

    bare_theta = descent.theta.clone()

    def bare_step():
        nonlocal bare_theta
        bare_theta = bare_theta - STEP_SIZE * objective.gradient(bare_theta)

    bare, observed = seconds(bare_step, 25), seconds(descent.step, 25)
    overhead = observed / bare - 1
    row("observables-every-step/overhead", 100 * overhead, "%", "<= 5", overhead <= 0.05)

    machine = runs.machine() | {"threads": torch.get_num_threads(), "data": data}
    result = {"machine": machine, "rows": rows}
    path = Path(__file__).parent / "results.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
