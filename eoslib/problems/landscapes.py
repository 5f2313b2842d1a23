"""Analytic functions of few parameters, on which gradient descent can be understood completely.

Each `Landscape` carries its value, its gradient, its minimisers and, in closed form, the sharpness there. The first
four are defined in Ahn, Zhang & Sra (2022), "Understanding the unstable convergence of gradient descent", the
polynomials f₁ to f₄ in Chen, Peng, Li & Zhao (2024), "On the unstable convergence regime of gradient descent", to
whose extension the squares belong, which have a curve of minimisers. On the sines gradient descent wanders for ever if
its step is large; on the tent, with η = 1, it is the tent map: θ − f′(θ) = 2θ for θ < ½, and 2 − 2θ from there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Landscape:
    """A function f of θ = (θ₁, …, θ_d), d the `dimension`, with everything known about its minimisers. `f` and
    `sharpness` take `theta` of shape (..., d) and return shape (...). `f` can be differentiated to any order.
    `sharpness` is the largest eigenvalue of the Hessian of f **at minimisers**; elsewhere it means nothing.
    `gradient_at(theta, out)` writes ∇f(θ) into `out`: the coordinate k of the point is `theta[k]`, that of the gradient
    `out[k]`. It is plain arithmetic on one coordinate after another, so that Numba compiles it for one point (d,) and
    NumPy runs the same lines for many at once (d, n)."""

    name: str
    f: Callable[[Tensor], Tensor]
    minimisers: tuple[tuple[float, ...], ...]  # all of them where there are finitely many, else examples
    sharpness: Callable[[Tensor], Tensor]
    source: str
    gradient_at: Callable
    dimension: int = field(default=2, kw_only=True)


@dataclass(frozen=True)
class Piecewise(Landscape):
    """A function of one variable that is a polynomial between each two of its `knots` (ascending; a knot belongs to the
    piece on its right). pieces: for each (c, (a₀, a₁, …)), the polynomial a₀ + a₁(x − c) + a₂(x − c)² + …."""

    knots: tuple[float, ...]
    pieces: tuple[tuple[float, tuple[float, ...]], ...]
    f: Callable[[Tensor], Tensor] = field(init=False)
    sharpness: Callable[[Tensor], Tensor] = field(init=False)
    gradient_at: Callable = field(init=False)
    dimension: int = field(default=1, init=False)

    def __post_init__(self):
        if len(self.pieces) != len(self.knots) + 1 or list(self.knots) != sorted(self.knots):
            raise ValueError(f"{self.name}: ascending knots and a piece more than these were expected")
        value, slope, curvature = (self.derivative(order) for order in range(3))

        def gradient_at(theta, out):
            out[0] = slope(theta[0])

        for name, function in (
            ("f", _of_point(value)), ("sharpness", _of_point(curvature)), ("gradient_at", gradient_at),
        ):  # fmt: skip
            object.__setattr__(self, name, function)  # the dataclass is frozen

    def derivative(self, order: int) -> Callable:
        """f, f′, f″, … as a function of x, a number, an array or a tensor; at a knot that of the piece on its right."""
        *left, last = (_polynomial(c, _differentiated(a, order)) for c, a in self.pieces)
        for knot, piece in zip(self.knots[::-1], left[::-1], strict=True):
            last = _joined(piece, knot, last)
        return last


@dataclass(frozen=True)
class TwoBowls(Landscape):
    """f(x) = min(½L‖x‖², ½μ†‖x − x†‖² + c), x† = (distance, 0, …): a wide bowl around x⋆ = 0, and a sharp one in it.

    smoothness: L. sharp: μ† > L. depth: of x† below the wide bowl, ½L‖x†‖² − c > 0. The sharp bowl is the lower one in
    the ball M about `centre` · x†/‖x†‖. Outside, f is L-smooth and L-one-point-strongly convex towards x⋆; on M the
    same with μ† and x†. The gradient jumps on ∂M, as it must: where the segment from x† to x⋆ leaves M, a
    differentiable function would have to fall both towards x† and towards x⋆ (Mohtashami et al. 2023, Lemma 1).
    """

    smoothness: float
    sharp: float
    distance: float
    depth: float
    f: Callable[[Tensor], Tensor] = field(init=False)
    sharpness: Callable[[Tensor], Tensor] = field(init=False)
    gradient_at: Callable = field(init=False)

    def __post_init__(self):
        d, L, mu, distance = self.dimension, self.smoothness, self.sharp, self.distance
        offset = L * distance**2 / 2 - self.depth

        def bowls(theta):
            """The wide and the sharp one."""
            coordinates = theta.unbind(-1)
            square = sum(x * x for x in coordinates)
            there = square + distance * (distance - 2 * coordinates[0])  # ‖x − x†‖²
            return L / 2 * square, mu / 2 * there + offset

        def gradient_at(theta, out):
            square = 0 * theta[0]
            for k in range(d):
                square = square + theta[k] * theta[k]
            there = square + distance * (distance - 2 * theta[0])
            inside = mu / 2 * there + offset < L / 2 * square
            for k in range(d):
                out[k] = (inside * mu + (1 - inside) * L) * theta[k]
            out[0] = out[0] - inside * mu * distance

        def sharpness(theta):
            wide, sharp = bowls(theta)
            return torch.where(sharp < wide, mu, L).to(theta)

        for name, function in (
            ("f", lambda theta: torch.minimum(*bowls(theta))), ("sharpness", sharpness), ("gradient_at", gradient_at),
        ):  # fmt: skip
            object.__setattr__(self, name, function)  # the dataclass is frozen

    @property
    def centre(self) -> float:
        """Distance of the centre of M from x⋆."""
        return self.sharp * self.distance / (self.sharp - self.smoothness)

    @property
    def radius(self) -> float:
        """Of the ball M."""
        ratio = 1 / (self.sharp - self.smoothness)
        return ((self.smoothness * self.distance * ratio) ** 2 + 2 * self.depth * ratio) ** 0.5


def _differentiated(a: tuple[float, ...], order: int) -> tuple[float, ...]:
    """The coefficients of a derivative."""
    for _ in range(order):
        a = tuple(k * a[k] for k in range(1, len(a))) or (0.0,)
    return tuple(map(float, a))


def _polynomial(centre: float, a: tuple[float, ...]) -> Callable:
    descending = a[::-1]

    def polynomial(x):
        total = 0 * x
        for coefficient in descending:
            total = total * (x - centre) + coefficient
        return total

    return polynomial


def _joined(left: Callable, knot: float, right: Callable) -> Callable:
    return lambda x: (x < knot) * left(x) + (x >= knot) * right(x)


def _of_point(function: Callable) -> Callable:
    """A function of the coordinates as one of θ, (..., d)."""
    return lambda theta: function(*theta.unbind(-1))


def _writing(gradient: Callable) -> Callable:
    """The `gradient_at` of a gradient (f_x, f_y) given as a function of the two coordinates."""

    def gradient_at(theta, out):
        out[0], out[1] = gradient(theta[0], theta[1])

    return gradient_at


def _everywhere(number: float) -> Callable:
    return lambda x, y: torch.full_like(x, number)


@dataclass(frozen=True)
class Polynomial(Landscape):
    """A landscape whose value f, gradient (f_x, f_y) and Hessian (f_xx, f_xy, f_yy) are also given as plain arithmetic.
    The three take x and y separately and consist of +, −, · alone, so that one formula serves tensors, arrays, compiled
    loops and intervals, and gives the same bits on all that round as IEEE 754 says. (Powers are written as products,
    because a library's `pow` may round otherwise.)"""

    value: Callable
    gradient: Callable
    hessian: Callable
    f: Callable[[Tensor], Tensor] = field(init=False)
    gradient_at: Callable = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "f", _of_point(self.value))  # the dataclass is frozen
        object.__setattr__(self, "gradient_at", _writing(self.gradient))

    def eigenvalues(self, x, y):
        """The smallest and the largest eigenvalue of the Hessian at (x, y), numbers or arrays."""
        xx, xy, yy = self.hessian(x, y)
        mean, half_gap = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        return mean - half_gap, mean + half_gap


def _ahn(name, minimisers, example, f, gradient, sharpness) -> Landscape:
    source = f"Ahn et al. 2022, Example {example}"
    return Landscape(name, _of_point(f), minimisers, _of_point(sharpness), source, _writing(gradient))


def _chen(name, minimisers, sharpness, equation, **functions) -> Polynomial:
    source = f"Chen et al. 2024, equation ({equation})"
    return Polynomial(name, minimisers, _of_point(_everywhere(sharpness)), source, **functions)


def _square(name, minimisers, h, h_gradient, h_hessian) -> Polynomial:
    """f = h², whose minimisers are the points with h = 0: a curve. ∇f = 2h∇h, ∇²f = 2∇h∇hᵀ + 2h∇²h."""

    def value(x, y):
        return h(x, y) * h(x, y)

    def gradient(x, y):
        (hx, hy), twice = h_gradient(x, y), 2 * h(x, y)
        return twice * hx, twice * hy

    def hessian(x, y):
        (hx, hy), (hxx, hxy, hyy), twice = h_gradient(x, y), h_hessian(x, y), 2 * h(x, y)
        return 2 * hx * hx + twice * hxx, 2 * hx * hy + twice * hxy, 2 * hy * hy + twice * hyy

    def sharpness(x, y):  # the only non-zero eigenvalue of 2∇h∇hᵀ
        hx, hy = h_gradient(x, y)
        return 2 * (hx * hx + hy * hy)

    source = "Chen et al. 2024, section Extension; the function is our choice, except for (1 - xy)^2"
    return Polynomial(name, minimisers, _of_point(sharpness), source, value, gradient, hessian)


def _mohtashami(name, minimisers, where, knots, pieces) -> Piecewise:
    return Piecewise(name, minimisers, f"Mohtashami et al. 2023, {where}", knots, pieces)


def _bump(u):
    return torch.relu(u - 1) * torch.relu(2 - u)


def _four_wells(x, y):
    return x**2 + y**2 - 200 * _bump(torch.abs(x)) * _bump(torch.abs(y))


def _four_wells_gradient(x, y):
    u, v = np.abs(x), np.abs(y)
    in_well = 200 * ((u > 1) * (u < 2) * (v > 1) * (v < 2))
    x_slope = in_well * (3 - 2 * u) * (v - 1) * (2 - v) * np.sign(x)
    y_slope = in_well * (3 - 2 * v) * (u - 1) * (2 - u) * np.sign(y)
    return 2 * x - x_slope, 2 * y - y_slope


def _four_wells_sharpness(x, y):
    u, v = x.abs(), y.abs()
    xx, yy = 2 + 400 * _bump(v), 2 + 400 * _bump(u)  # inside of the wells; at the origin both bumps vanish
    xy = torch.where((_bump(u) > 0) & (_bump(v) > 0), 200 * (3 - 2 * u) * (3 - 2 * v), 0)
    return (xx + yy) / 2 + torch.hypot((xx - yy) / 2, xy)


def _tanh_quadratic_gradient(x, y):
    t = np.tanh(20 * x * x + y * y)
    slope = 1 - t * t
    return slope * 40 * x, slope * 2 * y


def _tanh_neuron_gradient(x, y):
    t = np.tanh(y)
    twice = 2 * (x * t)
    return twice * t, twice * x * (1 - t * t)


def _f3(x, y):
    xx, yy = x * x, y * y
    return xx * yy * (xx + yy - 3) + 1


def _f4(x, y):
    residual = 1 - x * y
    return residual * residual + (x * x + y * y) / 20


def _sines_gradient(x, y):
    return 100 * np.cos(x) * np.sin(y), 100 * np.sin(x) * np.cos(y)


def _two_bowls(dimension: int) -> TwoBowls:
    source = "Mohtashami et al. 2023, Lemma 1 and figure 4; the numbers are our choice"
    minimisers = ((0.0,) * dimension, (10.0,) + (0.0,) * (dimension - 1))
    return TwoBowls(f"two_bowls_{dimension}d", minimisers, source, 1.0, 100.0, 10.0, 0.5, dimension=dimension)


_ROOT = 2.9**0.5 / 360  # f_tm's first branch and its second have the same slope at 2.9 = α + _ROOT
_CUBE = 86400 * ((0.1 + _ROOT) ** 3 - _ROOT**3) + 2.9**2  # f₁(3)
_BETA = 8640000 * (0.1 + _ROOT) ** 2
_TOP = _CUBE + 0.001 * _BETA  # f₂(3.1)

# On x = y the gradient vanishes at three points of a well of appendix K; the middle one is its minimum
_WELL = sorted(np.roots((200, -900, 1299, -600)).real)[1].item()

_ORIGIN = ((0.0, 0.0),)
_QUARTERS = tuple((x * np.pi / 2, y * np.pi / 2) for x, y in ((1, -1), (-1, 1), (3, 1), (1, 3), (-3, -1), (-1, -3)))
_VALLEY = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))  # of the points with θ₁θ₂ = 0
_M4 = (19 / 20) ** 0.5  # on x = y the gradient of f₄ vanishes where 1 − x² = 1/20

_ALL: tuple[Landscape, ...] = (
    _ahn(
        "quadratic", _ORIGIN, 1,
        f=lambda x, y: 20 * x**2 + y**2,
        gradient=lambda x, y: (40 * x, 2 * y),
        sharpness=_everywhere(40),
    ),
    _ahn(
        "tanh_quadratic", _ORIGIN, 2,
        f=lambda x, y: torch.tanh(20 * x**2 + y**2),
        gradient=_tanh_quadratic_gradient,
        sharpness=_everywhere(40),  # tanh'(0) = 1: the Hessian diag(40, 2) is that of the quadratic itself
    ),
    # The neurons are h² with h = 0 at minimisers, so ∇²f = 2∇h∇hᵀ there, whose only non-zero eigenvalue is 2‖∇h‖².
    _ahn(
        "linear_neuron", _VALLEY, 3,
        f=lambda x, y: (x * y) ** 2,
        gradient=lambda x, y: (2 * (x * y) * y, 2 * (x * y) * x),
        sharpness=lambda x, y: 2 * (y**2 + x**2),
    ),
    _ahn(
        "tanh_neuron", _VALLEY, 3,
        f=lambda x, y: (x * torch.tanh(y)) ** 2,
        gradient=_tanh_neuron_gradient,
        sharpness=lambda x, y: 2 * (torch.tanh(y) ** 2 + x**2 / torch.cosh(y) ** 4),  # tanh' = sech²
    ),
    _chen(
        "f1", _ORIGIN, 2, 43,
        value=lambda x, y: x * x + y * y + x * x * y + x * x * x + y * y * y,
        gradient=lambda x, y: (2 * x + 2 * x * y + 3 * x * x, 2 * y + x * x + 3 * y * y),
        hessian=lambda x, y: (2 + 2 * y + 6 * x, 2 * x, 2 + 6 * y),
    ),
    _chen(
        "f2", _ORIGIN, 2, 44,
        value=lambda x, y: x * x + y * y + x * x * y + x * x * x * x + y * y * y * y,
        gradient=lambda x, y: (2 * x + 2 * x * y + 4 * x * x * x, 2 * y + x * x + 4 * y * y * y),
        hessian=lambda x, y: (2 + 2 * y + 12 * x * x, 2 * x, 2 + 12 * y * y),
    ),
    _chen(
        "f3", ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)), 12, 45,
        value=_f3,
        gradient=lambda x, y: (
            2 * x * (y * y) * (2 * (x * x) + y * y - 3), 2 * y * (x * x) * (x * x + 2 * (y * y) - 3)
        ),
        hessian=lambda x, y: (
            2 * (y * y) * (6 * (x * x) + y * y - 3),
            4 * x * y * (2 * (x * x) + 2 * (y * y) - 3),
            2 * (x * x) * (x * x + 6 * (y * y) - 3),
        ),
    ),
    _chen(
        "f4", ((_M4, _M4), (-_M4, -_M4)), 3.8, 46,
        value=_f4,
        gradient=lambda x, y: (-2 * (1 - x * y) * y + x / 10, -2 * (1 - x * y) * x + y / 10),
        # not 2y² + 0.1: as a float, 0.1 is not 1/10, and intervals would enclose the Hessian of another function
        hessian=lambda x, y: ((20 * y * y + 1) / 10, 4 * x * y - 2, (20 * x * x + 1) / 10),
    ),
    _square(
        "circle", ((1.0, 0.0), (0.0, -1.0)),
        h=lambda x, y: x * x + y * y - 1,
        h_gradient=lambda x, y: (2 * x, 2 * y),
        h_hessian=lambda x, y: (2 + 0 * x, 0 * x, 2 + 0 * y),
    ),
    _square(
        "rounded_square", ((1.0, 0.0), (0.0, -1.0)),
        h=lambda x, y: x * x * x * x + y * y * y * y - 1,
        h_gradient=lambda x, y: (4 * x * x * x, 4 * y * y * y),
        h_hessian=lambda x, y: (12 * x * x, 0 * x, 12 * y * y),
    ),
    _square(
        "hyperbola", ((1.0, 1.0), (2.0, 0.5), (-4.0, -0.25)),
        h=lambda x, y: 1 - x * y,
        h_gradient=lambda x, y: (-y, -x),
        h_hessian=lambda x, y: (0 * x, 0 * x - 1, 0 * y),
    ),
    _mohtashami(
        "flat_and_sharp", ((0.0,), (2.5,), (8.5,)), "appendix J, with 10⁵ for 10⁴ at the edges of the plateau",
        knots=(2, 3, 8.4, 8.40001, 8.59999, 8.6),
        pieces=(
            (0, (0, 0, 20)),
            (2.5, (0, 0, 1020, 800, -2000, -1600)),
            (0, (0, 0, 20)),
            (8.4, (1411.2, -1411.2e5)),
            (8.5, (0,)),
            (8.6, (1479.2, 1479.2e5)),
            (0, (0, 0, 20)),
        ),
    ),
    _mohtashami(
        "returning", ((0.0,),), "figure 2; the numbers are our choice",
        knots=(-1, 1),
        pieces=((0, (49.5, 0, 0.5)), (0, (0, 0, 50)), (0, (49.5, 0, 0.5))),
    ),
    _mohtashami(
        "f_tm", ((0.0,), (4.1,)), "appendix H, with x² up to 2.9",
        knots=(2.9, 3, 3.1, 3.7),
        pieces=(
            (0, (0, 0, 1)),
            (2.9 - _ROOT, (2.9**2 - 86400 * _ROOT**3, 0, 0, 86400)),
            (3.1, (_TOP, 0, 0, _BETA)),
            (3.1, (_TOP, 0, -300)),
            (4.1, (_TOP - 108 - 72, 0, 450)),
        ),
    ),
    *map(_two_bowls, (1, 2, 10)),
    Landscape(
        "four_wells", _of_point(_four_wells),
        ((0.0, 0.0), *((x, y) for x in (-_WELL, _WELL) for y in (-_WELL, _WELL))), _of_point(_four_wells_sharpness),
        "Mohtashami et al. 2023, appendix K", _writing(_four_wells_gradient),
    ),
    Landscape(
        "sines", _of_point(lambda x, y: 100 * torch.sin(x) * torch.sin(y)),
        _QUARTERS, _of_point(_everywhere(100)),
        "Zhang et al. 2021, section 3", _writing(_sines_gradient),
    ),
    Piecewise(
        "tent", ((2 / 3,),), "our example for Zhang et al. 2021, lemma 2 and theorem 3",
        knots=(0.5,), pieces=((0, (0, 0, -0.5)), (2 / 3, (-1 / 6, 0, 1.5))),
    ),
)  # fmt: skip
LANDSCAPES = {landscape.name: landscape for landscape in _ALL}


def get(name: str) -> Landscape:
    """The landscape called `name`; a ValueError that lists the valid names if there is none."""
    if name not in LANDSCAPES:
        raise ValueError(f"unknown landscape {name!r}; expected one of: {', '.join(LANDSCAPES)}")
    return LANDSCAPES[name]
