"""A landscape of one dimension, in pieces: a sharp well at -1 (f'' = 4) and a flat one at 3 (f'' = 1)."""

import numpy as np
import torch

from eoslib.problems.landscapes import Landscape


def value(theta):
    (x,) = theta.unbind(-1)
    left, right = 2 * (x + 1) * (x + 1), 0.5 * (x - 3) * (x - 3) - 0.25
    return torch.where(x < -0.25, left, torch.where(x < 1, 1.75 + 2 * x - 2 * x * x, right))


def gradient_at(theta, out):
    x = theta[0]
    out[0] = np.where(x < -0.25, 4 * (x + 1), np.where(x < 1, 2 - 4 * x, x - 3))


WELLS = Landscape(
    "wells", value, ((-1.0,), (3.0,)), lambda theta: torch.where(theta[..., 0] < 0, 4.0, 1.0), "a test", gradient_at,
    dimension=1,
)  # fmt: skip
VIEW = {"formula": "two wells", "half": 4, "fraction": 0.45, "most": 3, "start": [-0.9]}
