"""Analytic functions of two parameters, on which gradient descent can be understood completely.

Each `Landscape` carries its formula, its minimisers and, in closed form, the sharpness there.
All are defined in Ahn, Zhang & Sra (2022), "Understanding the unstable convergence of gradient descent".
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Landscape:
    """A function f(θ₁, θ₂) with everything known about its minimisers.

    `f` and `sharpness` take `theta` of shape (..., 2) and return shape (...). `f` can be differentiated to
    any order. `sharpness` is the largest eigenvalue of the Hessian of f **at minimisers**; elsewhere it means
    nothing.
    """

    name: str
    formula: str  # LaTeX
    f: Callable[[Tensor], Tensor]
    minimiser_set: str  # LaTeX
    minimisers: tuple[tuple[float, ...], ...]  # all of them where there are finitely many, else examples
    sharpness: Callable[[Tensor], Tensor]
    source: str


def _quadratic(theta: Tensor) -> Tensor:
    x, y = theta.unbind(-1)
    return 20 * x**2 + y**2


def _tanh_quadratic(theta: Tensor) -> Tensor:
    return torch.tanh(_quadratic(theta))


def _forty(theta: Tensor) -> Tensor:
    # tanh'(0) = 1, so the flattened quadratic has the Hessian diag(40, 2) of the quadratic itself
    return torch.full_like(theta[..., 0], 40)


def _linear_neuron(theta: Tensor) -> Tensor:
    x, y = theta.unbind(-1)
    return (x * y) ** 2


def _linear_neuron_sharpness(theta: Tensor) -> Tensor:
    # f = h² with h = 0 at minimisers, so ∇²f = 2∇h∇hᵀ there, whose only non-zero eigenvalue is 2‖∇h‖²
    x, y = theta.unbind(-1)
    return 2 * (y**2 + x**2)


def _tanh_neuron(theta: Tensor) -> Tensor:
    x, y = theta.unbind(-1)
    return (x * torch.tanh(y)) ** 2


def _tanh_neuron_sharpness(theta: Tensor) -> Tensor:
    # again 2‖∇h‖², now with h = θ₁ tanh θ₂ and tanh' = sech²
    x, y = theta.unbind(-1)
    return 2 * (torch.tanh(y) ** 2 + x**2 / torch.cosh(y) ** 4)


_VALLEY = r"\{\theta_1 \theta_2 = 0\}"
_ON_THE_VALLEY = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))

LANDSCAPES: dict[str, Landscape] = {
    landscape.name: landscape
    for landscape in (
        Landscape(
            name="quadratic",
            formula=r"20\theta_1^2 + \theta_2^2",
            f=_quadratic,
            minimiser_set=r"\{(0, 0)\}",
            minimisers=((0.0, 0.0),),
            sharpness=_forty,
            source="Ahn et al. 2022, Example 1",
        ),
        Landscape(
            name="tanh_quadratic",
            formula=r"\tanh(20\theta_1^2 + \theta_2^2)",
            f=_tanh_quadratic,
            minimiser_set=r"\{(0, 0)\}",
            minimisers=((0.0, 0.0),),
            sharpness=_forty,
            source="Ahn et al. 2022, Example 2",
        ),
        Landscape(
            name="linear_neuron",
            formula=r"(\theta_1 \theta_2)^2",
            f=_linear_neuron,
            minimiser_set=_VALLEY,
            minimisers=_ON_THE_VALLEY,
            sharpness=_linear_neuron_sharpness,
            source="Ahn et al. 2022, Example 3",
        ),
        Landscape(
            name="tanh_neuron",
            formula=r"(\theta_1 \tanh\theta_2)^2",
            f=_tanh_neuron,
            minimiser_set=_VALLEY,
            minimisers=_ON_THE_VALLEY,
            sharpness=_tanh_neuron_sharpness,
            source="Ahn et al. 2022, Example 3",
        ),
    )
}


def get(name: str) -> Landscape:
    """The landscape called `name`; a ValueError that lists the valid names if there is none."""
    if name not in LANDSCAPES:
        raise ValueError(f"unknown landscape {name!r}; expected one of: {', '.join(LANDSCAPES)}")
    return LANDSCAPES[name]
