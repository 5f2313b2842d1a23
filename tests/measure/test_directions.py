"""eoslib.measure.directions: the loss along lines."""

import numpy as np
import torch

from eoslib.dynamics.trajectory import Trajectory
from eoslib.measure.directions import Line
from eoslib.measure.progress import Progress
from eoslib.problems.objective import Objective

START = torch.tensor([1.0, 2.0], dtype=torch.float64)
MEASURED = Progress(), Line(every=(0, 3), points=5)


def quartic(theta):
    return (theta**4).sum() - theta.prod()


def rows(process):
    found = {}
    while not process.finished:
        t = process.t
        process.step()
        found[t] = process.observe()
    return found


def test_a_line_joins_the_first_iterate_to_this_one():
    process = Trajectory(Objective(quartic), START, 0.01, 4, MEASURED, keep=(3,))
    found = rows(process)
    assert [t for t, row in found.items() if "chosen" in row] == [0, 3]
    theta = START
    for _ in range(3):
        theta = theta - 0.01 * Objective(quartic).gradient(theta)
    expected = [quartic(START + s * (theta - START)).item() for s in (0, 0.25, 0.5, 0.75, 1)]
    np.testing.assert_allclose(found[3]["chosen"]["line_loss"], expected, rtol=1e-14)
    assert found[3]["chosen"]["distance"] == (theta - START).norm().item()
    assert found[0]["chosen"]["line_loss"] == [quartic(START).item()] * 5 and found[0]["chosen"]["distance"] == 0


def test_a_run_that_goes_on_measures_from_the_same_origin():
    whole, half, rest = (Trajectory(Objective(quartic), START, 0.01, 4, MEASURED) for _ in range(3))
    half.step()
    half.step()
    rest.load(half.state())
    assert rows(rest)[3] == rows(whole)[3]
