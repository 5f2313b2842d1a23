"""A landscape of eoslib as JavaScript, from its one source: its own Python lines, run on values that write down what is
done to them. So a browser does the same operations in the same order, and where they round as IEEE 754 says it computes
the same doubles.
"""

import torch
from numpy.lib.mixins import NDArrayOperatorsMixin

from eoslib.problems.landscapes import Landscape

# By the name that NumPy, or PyTorch, has for a function
JAVASCRIPT = {
    "add": "({} + {})", "subtract": "({} - {})", "multiply": "({} * {})", "divide": "({} / {})",
    "power": "({} ** {})", "negative": "(-{})", "absolute": "Math.abs({})", "abs": "Math.abs({})",
    "less": "({} < {})", "less_equal": "({} <= {})", "greater": "({} > {})", "greater_equal": "({} >= {})",
    "bitwise_and": "({} && {})", "bitwise_or": "({} || {})", "invert": "(!{})", "where": "({} ? {} : {})",
    "relu": "Math.max({}, 0)", "maximum": "Math.max({}, {})", "minimum": "Math.min({}, {})",
    **{name: f"Math.{name}({{}})" for name in ("cos", "cosh", "exp", "log", "sign", "sin", "sinh", "sqrt", "tanh")},
}  # fmt: skip


class Expression(NDArrayOperatorsMixin):
    """A JavaScript expression: arithmetic on it, and functions of NumPy and PyTorch, make larger ones."""

    def __init__(self, text: str):
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __array_ufunc__(self, function, method, *arguments):
        return _applied(function, arguments)

    def __array_function__(self, function, types, arguments, options):
        return _applied(function, arguments)

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        return _applied(function, arguments)

    def __bool__(self):
        raise TypeError("a landscape that branches cannot become JavaScript: write where(condition, a, b), not if")


def _applied(function, arguments: tuple) -> Expression:
    if function.__name__ not in JAVASCRIPT:
        raise NotImplementedError(f"{function.__name__} has no JavaScript in as_javascript.py yet")
    return Expression(JAVASCRIPT[function.__name__].format(*arguments))


class _Point(list):
    """θ of one point, as the functions of landscapes take it."""

    def unbind(self, dim: int) -> list:
        return self


def as_javascript(landscape: Landscape) -> dict:
    """What the explorer needs of a landscape, as JSON can hold it.

    value: f as an expression in x, or in x and y; gradient: one expression for each coordinate; minimisers; sharpness:
    the largest at a minimiser. Raises ValueError for one of more dimensions, NotImplementedError for a function without
    JavaScript, TypeError if it branches.
    """
    if landscape.dimension > 2:
        raise ValueError(f"{landscape.name} has {landscape.dimension} dimensions; the explorer shows one or two")
    theta, gradient = _Point(map(Expression, "xy"[: landscape.dimension])), [None] * landscape.dimension
    landscape.gradient_at(theta, gradient)
    return {
        "value": str(landscape.f(theta)),
        "gradient": [str(component) for component in gradient],
        "minimisers": landscape.minimisers,
        "sharpness": float(landscape.sharpness(torch.tensor(landscape.minimisers, dtype=torch.float64)).max()),
    }
