"""What the student's functions are asked in assignment 5. It runs beside the student's code, and knows no answer."""

import numpy as np


def warped(A, kappa, minimiser):
    """x ↦ A(x − x⋆) + κ(x − x⋆)³, a gradient for symmetric A."""
    return lambda x: (x - minimiser) @ A + kappa * (x - minimiser) ** 3


def two_bowls(sharp, wide, place, depth):
    """The gradient of min(½ wide ‖x‖², ½ sharp ‖x − place‖² + c), and where the second is the lower one."""

    def inside(x):
        below = wide / 2 * (place @ place) - depth
        return sharp / 2 * ((x - place) ** 2).sum(1) + below < wide / 2 * (x**2).sum(1)

    return lambda x: np.where(inside(x)[:, None], sharp * (x - place), wide * x), inside


def q1(student, inputs):
    cases = zip(*(inputs[name] for name in ("A", "kappa", "minimiser", "points")), strict=True)
    return {
        "constants": np.array(
            [student["constants"](warped(A, k, m), m.copy(), points) for A, k, m, points in cases], float
        )
    }


def q2(student, inputs):
    """An empty interval is a pair of zeros."""
    cases = zip(inputs["L"], inputs["mu_star"], inputs["mu_dagger"], strict=True)
    found = [student["step_sizes"](*(float(part) for part in case)) for case in cases]
    return {"ends": np.array([(0.0, 0.0) if ends is None else ends for ends in found], float)}


def q3(student, inputs):
    found = []
    for i in range(len(inputs["sharp"])):
        gradient, inside = two_bowls(*(inputs[name][i] for name in ("sharp", "wide", "place", "depth")))
        starts, low, high = inputs["starts"][i].copy(), float(inputs["low"][i]), float(inputs["high"][i])
        found.append(student["escape_step_size"](gradient, inside, starts, inputs["steps"], low, high))
    return {"step_sizes": np.array(found, float)}


def q4(student, inputs):
    def gradient_of(x, batch):
        return inputs["A"] @ x + np.sin(x) - inputs["slopes"][batch]

    batches, x = [int(batch) for batch in inputs["batches"]], inputs["x"].copy()
    return {
        "path": np.array(
            student["sgd_with_repeats"](gradient_of, batches, x, inputs["step_size"], inputs["repeats"]), float
        )
    }


def q5(student, inputs):
    cases = zip(inputs["k"], inputs["step"], strict=True)
    return {"variances": np.array([student["variances"](int(k), float(step)) for k, step in cases], float)}
