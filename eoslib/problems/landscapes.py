"""Analytic functions of few parameters, on which gradient descent can be understood completely.

Each `Landscape` carries its formula, its gradient, its minimisers and, in closed form, the sharpness there. The first
four are defined in Ahn, Zhang & Sra (2022), "Understanding the unstable convergence of gradient descent", the
polynomials f₁ to f₄ in Chen, Peng, Li & Zhao (2024), "On the unstable convergence regime of gradient descent"; the last
three, squares, have a curve of minimisers, and belong to that paper's extension.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Landscape:
    """A function f of θ = (θ₁, …, θ_d), d the `dimension`, with everything known about its minimisers.

    `f` and `sharpness` take `theta` of shape (..., d) and return shape (...). `f` can be differentiated to
    any order. `sharpness` is the largest eigenvalue of the Hessian of f **at minimisers**; elsewhere it means
    nothing. `gradient_at(theta, out)` writes ∇f(θ) into `out`: the coordinate k of the point is `theta[k]`, that of the
    gradient `out[k]`. It is plain arithmetic on one coordinate after another, so that Numba compiles it for one point
    (d,) and NumPy runs the same lines for many at once (d, n).
    """

    name: str
    formula: str  # LaTeX
    f: Callable[[Tensor], Tensor]
    minimiser_set: str  # LaTeX
    minimisers: tuple[tuple[float, ...], ...]  # all of them where there are finitely many, else examples
    sharpness: Callable[[Tensor], Tensor]
    source: str
    gradient_at: Callable
    dimension: int = field(default=2, kw_only=True)


def _quadratic(theta: Tensor) -> Tensor:
    x, y = theta.unbind(-1)
    return 20 * x**2 + y**2


def _quadratic_gradient(theta, out):
    out[0], out[1] = 40 * theta[0], 2 * theta[1]


def _tanh_quadratic(theta: Tensor) -> Tensor:
    return torch.tanh(_quadratic(theta))


def _tanh_quadratic_gradient(theta, out):
    x, y = theta[0], theta[1]
    t = np.tanh(20 * x * x + y * y)
    slope = 1 - t * t
    out[0], out[1] = slope * 40 * x, slope * 2 * y


def _forty(theta: Tensor) -> Tensor:
    # tanh'(0) = 1, so the flattened quadratic has the Hessian diag(40, 2) of the quadratic itself
    return torch.full_like(theta[..., 0], 40)


def _linear_neuron(theta: Tensor) -> Tensor:
    x, y = theta.unbind(-1)
    return (x * y) ** 2


def _linear_neuron_gradient(theta, out):
    x, y = theta[0], theta[1]
    twice = 2 * (x * y)
    out[0], out[1] = twice * y, twice * x


def _linear_neuron_sharpness(theta: Tensor) -> Tensor:
    # f = h² with h = 0 at minimisers, so ∇²f = 2∇h∇hᵀ there, whose only non-zero eigenvalue is 2‖∇h‖²
    x, y = theta.unbind(-1)
    return 2 * (y**2 + x**2)


def _tanh_neuron(theta: Tensor) -> Tensor:
    x, y = theta.unbind(-1)
    return (x * torch.tanh(y)) ** 2


def _tanh_neuron_gradient(theta, out):
    x, t = theta[0], np.tanh(theta[1])
    twice = 2 * (x * t)
    out[0], out[1] = twice * t, twice * x * (1 - t * t)


def _tanh_neuron_sharpness(theta: Tensor) -> Tensor:
    # again 2‖∇h‖², now with h = θ₁ tanh θ₂ and tanh' = sech²
    x, y = theta.unbind(-1)
    return 2 * (torch.tanh(y) ** 2 + x**2 / torch.cosh(y) ** 4)


@dataclass(frozen=True)
class Polynomial(Landscape):
    """A landscape whose value f, gradient (f_x, f_y) and Hessian (f_xx, f_xy, f_yy) are also given as plain arithmetic.

    The three take x and y separately and consist of +, −, · alone, so that one formula serves tensors, arrays,
    compiled loops and intervals, and gives the same bits on all that round as IEEE 754 says. (Powers are written as
    products, because a library's `pow` may round otherwise.)
    """

    value: Callable
    gradient: Callable
    hessian: Callable
    gradient_at: Callable = field(init=False)

    def __post_init__(self):
        gradient = self.gradient

        def gradient_at(theta, out):
            out[0], out[1] = gradient(theta[0], theta[1])

        object.__setattr__(self, "gradient_at", gradient_at)  # the dataclass is frozen

    def eigenvalues(self, x, y):
        """The smallest and the largest eigenvalue of the Hessian at (x, y), numbers or arrays."""
        xx, xy, yy = self.hessian(x, y)
        mean, half_gap = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        return mean - half_gap, mean + half_gap


def _polynomial(name, formula, value, gradient, hessian, minimisers, sharpness, equation) -> Polynomial:
    return Polynomial(
        name=name,
        formula=formula,
        f=lambda theta: value(*theta.unbind(-1)),
        minimiser_set=r"\{" + ", ".join(f"({x:.4g}, {y:.4g})" for x, y in minimisers) + r"\}",
        minimisers=minimisers,
        sharpness=lambda theta: torch.full_like(theta[..., 0], sharpness),
        source=f"Chen et al. 2024, equation ({equation})",
        value=value,
        gradient=gradient,
        hessian=hessian,
    )


def _f1(x, y):
    return x * x + y * y + x * x * y + x * x * x + y * y * y


def _f1_gradient(x, y):
    return 2 * x + 2 * x * y + 3 * x * x, 2 * y + x * x + 3 * y * y


def _f1_hessian(x, y):
    return 2 + 2 * y + 6 * x, 2 * x, 2 + 6 * y


def _f2(x, y):
    return x * x + y * y + x * x * y + x * x * x * x + y * y * y * y


def _f2_gradient(x, y):
    return 2 * x + 2 * x * y + 4 * x * x * x, 2 * y + x * x + 4 * y * y * y


def _f2_hessian(x, y):
    return 2 + 2 * y + 12 * x * x, 2 * x, 2 + 12 * y * y


def _f3(x, y):
    xx, yy = x * x, y * y
    return xx * yy * (xx + yy - 3) + 1


def _f3_gradient(x, y):
    xx, yy = x * x, y * y
    return 2 * x * yy * (2 * xx + yy - 3), 2 * y * xx * (xx + 2 * yy - 3)


def _f3_hessian(x, y):
    xx, yy = x * x, y * y
    return 2 * yy * (6 * xx + yy - 3), 4 * x * y * (2 * xx + 2 * yy - 3), 2 * xx * (xx + 6 * yy - 3)


def _f4(x, y):
    residual = 1 - x * y
    return residual * residual + (x * x + y * y) / 20


def _f4_gradient(x, y):
    residual = 1 - x * y
    return -2 * residual * y + x / 10, -2 * residual * x + y / 10


def _f4_hessian(x, y):
    # not 2y² + 0.1: as a float, 0.1 is not 1/10, and intervals would enclose the Hessian of another function
    return (20 * y * y + 1) / 10, 4 * x * y - 2, (20 * x * x + 1) / 10


def _square(name, formula, h, h_gradient, h_hessian, minimiser_set, minimisers) -> Polynomial:
    """f = h², whose minimisers are the points with h = 0: a curve. ∇f = 2h∇h, ∇²f = 2∇h∇hᵀ + 2h∇²h."""

    def value(x, y):
        return h(x, y) * h(x, y)

    def gradient(x, y):
        (hx, hy), twice = h_gradient(x, y), 2 * h(x, y)
        return twice * hx, twice * hy

    def hessian(x, y):
        (hx, hy), (hxx, hxy, hyy), twice = h_gradient(x, y), h_hessian(x, y), 2 * h(x, y)
        return 2 * hx * hx + twice * hxx, 2 * hx * hy + twice * hxy, 2 * hy * hy + twice * hyy

    def sharpness(theta):
        # the only non-zero eigenvalue of 2∇h∇hᵀ
        hx, hy = h_gradient(*theta.unbind(-1))
        return 2 * (hx * hx + hy * hy)

    return Polynomial(
        name=name,
        formula=formula,
        f=lambda theta: value(*theta.unbind(-1)),
        minimiser_set=minimiser_set,
        minimisers=minimisers,
        sharpness=sharpness,
        source="Chen et al. 2024, section Extension; the function is our choice, except for (1 - xy)^2",
        value=value,
        gradient=gradient,
        hessian=hessian,
    )


def _circle(x, y):
    return x * x + y * y - 1


def _circle_gradient(x, y):
    return 2 * x, 2 * y


def _circle_hessian(x, y):
    return 2 + 0 * x, 0 * x, 2 + 0 * y


def _rounded_square(x, y):
    return x * x * x * x + y * y * y * y - 1


def _rounded_square_gradient(x, y):
    return 4 * x * x * x, 4 * y * y * y


def _rounded_square_hessian(x, y):
    return 12 * x * x, 0 * x, 12 * y * y


def _hyperbola(x, y):
    return 1 - x * y


def _hyperbola_gradient(x, y):
    return -y, -x


def _hyperbola_hessian(x, y):
    return 0 * x, 0 * x - 1, 0 * y


_M4 = (19 / 20) ** 0.5  # on x = y the gradient of f₄ vanishes where 1 − x² = 1/20

_VALLEY = r"\{\theta_1 \theta_2 = 0\}"
_ON_THE_VALLEY = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))

LANDSCAPES: dict[str, Landscape] = {
    landscape.name: landscape
    for landscape in (
        Landscape(
            name="quadratic",
            formula=r"20\theta_1^2 + \theta_2^2",
            f=_quadratic,
            gradient_at=_quadratic_gradient,
            minimiser_set=r"\{(0, 0)\}",
            minimisers=((0.0, 0.0),),
            sharpness=_forty,
            source="Ahn et al. 2022, Example 1",
        ),
        Landscape(
            name="tanh_quadratic",
            formula=r"\tanh(20\theta_1^2 + \theta_2^2)",
            f=_tanh_quadratic,
            gradient_at=_tanh_quadratic_gradient,
            minimiser_set=r"\{(0, 0)\}",
            minimisers=((0.0, 0.0),),
            sharpness=_forty,
            source="Ahn et al. 2022, Example 2",
        ),
        Landscape(
            name="linear_neuron",
            formula=r"(\theta_1 \theta_2)^2",
            f=_linear_neuron,
            gradient_at=_linear_neuron_gradient,
            minimiser_set=_VALLEY,
            minimisers=_ON_THE_VALLEY,
            sharpness=_linear_neuron_sharpness,
            source="Ahn et al. 2022, Example 3",
        ),
        Landscape(
            name="tanh_neuron",
            formula=r"(\theta_1 \tanh\theta_2)^2",
            f=_tanh_neuron,
            gradient_at=_tanh_neuron_gradient,
            minimiser_set=_VALLEY,
            minimisers=_ON_THE_VALLEY,
            sharpness=_tanh_neuron_sharpness,
            source="Ahn et al. 2022, Example 3",
        ),
        _polynomial("f1", "x^2 + y^2 + x^2y + x^3 + y^3", _f1, _f1_gradient, _f1_hessian, ((0.0, 0.0),), 2, 43),
        _polynomial("f2", "x^2 + y^2 + x^2y + x^4 + y^4", _f2, _f2_gradient, _f2_hessian, ((0.0, 0.0),), 2, 44),
        _polynomial(
            "f3", "x^4y^2 + x^2y^4 - 3x^2y^2 + 1", _f3, _f3_gradient, _f3_hessian,
            ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)), 12, 45,
        ),
        _polynomial(
            "f4", r"(1 - xy)^2 + \tfrac{1}{20}(x^2 + y^2)", _f4, _f4_gradient, _f4_hessian,
            ((_M4, _M4), (-_M4, -_M4)), 3.8, 46,
        ),
        _square(
            "circle", "(x^2 + y^2 - 1)^2", _circle, _circle_gradient, _circle_hessian,
            r"\{x^2 + y^2 = 1\}", ((1.0, 0.0), (0.0, -1.0)),
        ),
        _square(
            "rounded_square", "(x^4 + y^4 - 1)^2", _rounded_square, _rounded_square_gradient, _rounded_square_hessian,
            r"\{x^4 + y^4 = 1\}", ((1.0, 0.0), (0.0, -1.0)),
        ),
        _square(
            "hyperbola", "(1 - xy)^2", _hyperbola, _hyperbola_gradient, _hyperbola_hessian,
            r"\{xy = 1\}", ((1.0, 1.0), (2.0, 0.5), (-4.0, -0.25)),
        ),
    )
}  # fmt: skip


def get(name: str) -> Landscape:
    """The landscape called `name`; a ValueError that lists the valid names if there is none."""
    if name not in LANDSCAPES:
        raise ValueError(f"unknown landscape {name!r}; expected one of: {', '.join(LANDSCAPES)}")
    return LANDSCAPES[name]
