"""What the student's functions are asked in assignment 2. It runs beside the student's code, and knows no answer."""

import numpy as np


def polynomial(a, minimiser):
    """f = a₀u² + a₁v² + a₂u²v + a₃u³ + a₄v³ + a₅(u⁴ + v⁴) with (u, v) = θ − θ*, and its gradient."""

    def f(theta):
        u, v = np.moveaxis(np.asarray(theta) - minimiser, -1, 0)
        return a[0] * u**2 + a[1] * v**2 + a[2] * u**2 * v + a[3] * u**3 + a[4] * v**3 + a[5] * (u**4 + v**4)

    def gradient(theta):
        u, v = np.moveaxis(np.asarray(theta) - minimiser, -1, 0)
        du = 2 * a[0] * u + 2 * a[2] * u * v + 3 * a[3] * u**2 + 4 * a[5] * u**3
        dv = 2 * a[1] * v + a[2] * u**2 + 3 * a[4] * v**2 + 4 * a[5] * v**3
        return np.stack([du, dv], -1)

    return f, gradient


def with_bump(inputs, case):
    """F(θ) = scale · θ plus a push of length `height` near `centre`, which is felt up to the distance `width`."""
    scale, height, width = (inputs[name][case] for name in ("scale", "height", "width"))

    def F(theta):
        theta = np.asarray(theta)
        distance = np.linalg.norm(theta - inputs["centre"][case], axis=-1, keepdims=True)
        return scale * theta + height * np.clip(1 - distance / width, 0, None) * np.array([1.0, 0.0])

    return F


def q1(student, inputs):
    kinds = []
    for a, minimiser, step_size, radius in zip(
        *(inputs[n] for n in ("a", "minimiser", "step_size", "radius")), strict=True
    ):
        f, gradient = polynomial(a, minimiser)
        starts = inputs["starts"] + minimiser
        kinds.append(student["classify"](f, gradient, minimiser.copy(), radius, step_size, starts, inputs["steps"]))
    return {"kinds": np.array(kinds, int)}


def q2(student, inputs):
    shares = []
    for a, minimiser, step_size, radius in zip(
        *(inputs[n] for n in ("a", "minimiser", "step_size", "radius")), strict=True
    ):
        f, gradient = polynomial(a, minimiser)
        shares.append(student["share_kept"](f, gradient, minimiser.copy(), radius, step_size))
    return {"shares": np.array(shares, float)}


def q3(student, inputs):
    return {
        "proved": np.array(
            [
                bool(
                    student["proves_invariance"](with_bump(inputs, i), inputs["r"], inputs["lipschitz"][i], inputs["n"])
                )
                for i in range(len(inputs["scale"]))
            ]
        )
    }


def q4(student, inputs):
    return {
        "terms": np.array(student["own_terms"], float),
        "step_size": float(student["own_step_size"]),
        "starts": np.array([student["own_stable_start"], student["own_unstable_start"]], float),
    }
