"""What the student's functions are asked in assignment 1. It runs beside the student's code, and knows no answer."""

import numpy as np


def quartic(P, kappa):
    """f(θ) = ½ θᵀPθ + κ/4 Σ θᵢ⁴ and its gradient."""
    return (
        lambda theta: float(theta @ P @ theta / 2 + kappa / 4 * (theta**4).sum()),
        lambda theta: P @ theta + kappa * theta**3,
    )


def q1(student, inputs):
    cases = zip(inputs["P"], inputs["kappa"], inputs["theta"], inputs["step_size"], strict=True)
    return {"values": np.array([student["relative_progress"](*quartic(P, k), t, eta) for P, k, t, eta in cases], float)}


def q2(student, inputs):
    cases = zip(inputs["P"], inputs["kappa"], inputs["theta"], inputs["v"], strict=True)
    return {
        "values": np.array([student["directional_smoothness"](quartic(P, k)[1], t, v) for P, k, t, v in cases], float)
    }


def q3(student, inputs):
    f, gradient = quartic(inputs["P"], inputs["kappa"])
    run = student["descend"](f, gradient, inputs["theta"], inputs["step_size"], inputs["steps"])
    return {name: np.array(run[name], float) for name in ("loss", "relative_progress", "directional_smoothness")}


def q4(student, inputs):
    return {"values": np.array([student["sharpness"](lambda v, H=H: H @ v, len(H)) for H in inputs["H"]], float)}


def q5(student, inputs):
    cases = zip(inputs["sharpnesses"], inputs["step_size"], strict=True)
    return {"steps": np.array([student["onset"](inputs["steps"].copy(), s.copy(), eta) for s, eta in cases], int)}
