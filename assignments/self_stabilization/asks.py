"""What the student's functions are asked in assignment 4. It runs beside the student's code, and knows no answer."""

import numpy as np
import torch


def products_of(H, budget):
    """v ↦ Hv, so many times."""
    left = [budget]

    def hvp(v):
        if left[0] == 0:
            raise RuntimeError(f"more than {budget} products")
        left[0] -= 1
        return H @ v

    return hvp


def q1(student, inputs):
    values, vectors = [], []
    for H, start, budget in zip(inputs["H"], inputs["start"], inputs["products"], strict=True):
        value, vector = student["lanczos"](products_of(H, int(budget)), start.copy(), int(budget))
        values.append(value)
        vectors.append(vector)
    return {"values": np.array(values, float), "vectors": np.array(vectors, float)}


def q2(student, inputs):
    gradients = []
    for A, T, kappa, theta in zip(*(inputs[name] for name in ("A", "T", "kappa", "theta")), strict=True):
        A, T = torch.tensor(A), torch.tensor(T)

        def loss(t, A=A, T=T, kappa=kappa):
            cubic = torch.einsum("ijk,i,j,k->", T, t, t, t)
            return t @ A @ t / 2 + cubic / 6 + kappa * (t**4).sum() / 24

        found = student["sharpness_gradient"](loss, torch.tensor(theta))
        gradients.append(torch.as_tensor(found).detach().numpy())
    return {"gradients": np.array(gradients)}


def q3(student, inputs):
    of = [inputs[name] for name in ("x", "y", "step_size", "alpha", "beta", "steps")]
    x, y = student["predicted"](*of)
    return {"x": np.array(x, float), "y": np.array(y, float)}


def q4(student, inputs):
    cases = zip(inputs["x0"], inputs["alpha"], inputs["beta"], strict=True)
    return {"extremes": np.array([student["extremes"](*(float(part) for part in case)) for case in cases], float)}
