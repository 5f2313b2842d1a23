"""The closed forms of eoslib.problems.landscapes against automatic differentiation in float64."""

import numpy as np
import pytest
import torch
from flint import arb, fmpq
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.functional import hessian
from torch.func import grad

from eoslib.problems.landscapes import LANDSCAPES, Piecewise, Polynomial, TwoBowls, get

NEURONS = ["linear_neuron", "tanh_neuron"]
POLYNOMIALS = [name for name, landscape in LANDSCAPES.items() if isinstance(landscape, Polynomial)]
SHARP = [name for name, landscape in LANDSCAPES.items() if landscape.source.startswith("Mohtashami")]
PIECEWISE = [name for name, landscape in LANDSCAPES.items() if isinstance(landscape, Piecewise)]
BOWLS = [name for name, landscape in LANDSCAPES.items() if isinstance(landscape, TwoBowls)]
SQUARES = ["circle", "rounded_square", "hyperbola"]
ZERO_AT_BEST = ["quadratic", "tanh_quadratic", *NEURONS, *SQUARES]


def point(*theta):
    return torch.tensor(theta, dtype=torch.float64)


def check_minimiser(landscape, theta):
    eigenvalues = torch.linalg.eigvalsh(hessian(landscape.f, theta))
    assert landscape.f(theta) == 0 or isinstance(landscape, Polynomial) or landscape.name in [*SHARP, "sines", "tent"]
    torch.testing.assert_close(grad(landscape.f)(theta), torch.zeros_like(theta), rtol=0, atol=1e-12)
    assert eigenvalues[0] >= -1e-10
    torch.testing.assert_close(eigenvalues[-1], landscape.sharpness(theta), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LANDSCAPES)
def test_minimisers_are_stationary_and_have_the_stated_sharpness(name):
    for theta in get(name).minimisers:
        check_minimiser(get(name), point(*theta))


@pytest.mark.parametrize("name", NEURONS)
@settings(deadline=None)
@given(t=st.floats(-20, 20), on_first_axis=st.booleans())
def test_the_whole_valley_of_the_neurons(name, t, on_first_axis):
    check_minimiser(get(name), point(t, 0) if on_first_axis else point(0, t))


@settings(deadline=None)
@given(angle=st.floats(0, 2 * np.pi), x=st.floats(0.1, 20))
def test_the_whole_curve_of_the_squares(angle, x):
    c, s = np.cos(angle), np.sin(angle)
    for name, theta in (
        ("circle", (c, s)),
        ("rounded_square", np.array([c, s]) / (c**4 + s**4) ** 0.25),
        ("hyperbola", (x, 1 / x)),
    ):
        landscape, theta = get(name), point(*theta)
        sharpness = landscape.sharpness(theta)
        assert landscape.f(theta) < 1e-28
        torch.testing.assert_close(
            torch.linalg.eigvalsh(hessian(landscape.f, theta))[-1], sharpness, rtol=1e-9, atol=1e-9
        )
    assert get("circle").sharpness(point(c, s)).item() == pytest.approx(8)


@pytest.mark.parametrize("name", [*ZERO_AT_BEST, "f2", "f3", "f4", "sines"])
@settings(deadline=None)
@given(x=st.floats(-30, 30), y=st.floats(-30, 30))
def test_no_value_is_below_that_of_the_minimisers(name, x, y):
    best = max(get(name).f(point(*theta)).item() for theta in get(name).minimisers)
    assert get(name).f(point(x, y)) >= best - 1e-12


def test_the_minimum_of_f1_is_only_local():
    assert get("f1").f(point(-3, 0)) < get("f1").f(point(0, 0))


@pytest.mark.parametrize("name", POLYNOMIALS)
@settings(deadline=None)
@given(x=st.floats(-5, 5), y=st.floats(-5, 5))
def test_the_derivatives_written_out_are_those_of_the_value(name, x, y):
    landscape, theta = get(name), point(x, y)
    assert landscape.value(x, y) == landscape.f(theta).item()
    torch.testing.assert_close(point(*landscape.gradient(x, y)), grad(landscape.f)(theta), rtol=1e-12, atol=1e-11)
    xx, xy, yy = landscape.hessian(x, y)
    dense = torch.tensor([[xx, xy], [xy, yy]], dtype=torch.float64)
    torch.testing.assert_close(dense, hessian(landscape.f, theta), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "value"),
    [("f1", 2.875), ("f2", 2.8125), ("f3", 0.5625), ("f4", 0.3125),
     ("circle", 0.0625), ("rounded_square", 0.00390625), ("hyperbola", 0.25)],
)  # fmt: skip
def test_polynomials_by_hand(name, value):
    assert get(name).value(1, 0.5) == value


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_intervals_enclose_a_polynomial(name):
    """The value and derivatives at exact points lie in their enclosures on a box around them."""
    landscape = get(name)
    for x, y in np.random.default_rng(0).uniform(-2, 2, (20, 2)):
        exact = fmpq(*x.as_integer_ratio()), fmpq(*y.as_integer_ratio())
        box = arb(x, 0.1), arb(y, 0.1)
        assert landscape.value(*box).contains(arb(landscape.value(*exact)))
        for function in landscape.gradient, landscape.hessian:
            assert all(b.contains(arb(e)) for b, e in zip(function(*box), function(*exact), strict=True))


def test_the_constants_of_f4_are_not_rounded():
    """Its Hessian at the origin is that of the formula, 1/10, not of the nearest float."""
    assert get("f4").hessian(fmpq(0), fmpq(0)) == (fmpq(1, 10), -2, fmpq(1, 10))
    assert get("f4").hessian(arb(0), arb(0))[0].contains(fmpq(1, 10))


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_a_polynomial_gives_the_same_bits_on_arrays_and_tensors(name):
    x, y = torch.rand(2, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 6 - 3
    for function in get(name).value, get(name).gradient, get(name).hessian:
        ours = (
            function(x, y),
            function(x.numpy(), y.numpy()),
            [function(*pair) for pair in zip(x.tolist(), y.tolist(), strict=True)],
        )
        if isinstance(ours[0], tuple):
            ours = torch.stack(ours[0]), np.stack(ours[1]), np.array(ours[2]).T
        assert (ours[0].numpy() == ours[1]).all() and (ours[1] == np.asarray(ours[2])).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("quadratic", 20.25), ("tanh_quadratic", 1.0), ("linear_neuron", 0.25), ("tanh_neuron", 0.21355226)],
)
def test_values_by_hand(name, value):
    torch.testing.assert_close(get(name).f(point(1, 0.5)), point(value)[0], rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", LANDSCAPES)
def test_the_gradient_at_a_point_is_that_of_f(name):
    landscape = get(name)
    theta = torch.rand(50, landscape.dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4 - 2
    if name in SHARP:  # some in its sharp region
        theta[:25] = theta[:25] * 0.1 + torch.tensor(landscape.minimisers[-1], dtype=torch.float64)
    side_by_side, alone = np.full(theta.T.shape, np.nan), np.full(landscape.dimension, np.nan)
    landscape.gradient_at(theta.T.numpy(), side_by_side)
    for point, column in zip(theta, side_by_side.T, strict=True):
        landscape.gradient_at(point.numpy(), alone)
        np.testing.assert_array_equal(alone, column)
        np.testing.assert_allclose(alone, grad(landscape.f)(point).numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PIECEWISE)
def test_pieces_meet(name):
    """To rounding, at every knot; f_tm's and the toy's bowls also with their slopes."""
    landscape = get(name)
    value, slope = landscape.derivative(0), landscape.derivative(1)
    for knot in landscape.knots:
        before = np.nextafter(knot, -np.inf)
        assert value(before) == pytest.approx(value(knot), rel=1e-12, abs=1e-6)
        if name == "f_tm" or (name == "flat_and_sharp" and knot < 8):
            assert slope(before) == pytest.approx(slope(knot), rel=1e-12, abs=1e-12)


def test_pieces_as_printed():
    """Appendices H and J of Mohtashami et al., written down a second time."""
    x = np.linspace(-1, 12, 10_001)
    u = x - 2.5
    f = np.where((x >= 2) & (x < 3), -1600 * u**5 - 2000 * u**4 + 800 * u**3 + 1020 * u**2, 20 * x**2)
    f = np.where((x >= 8.40001) & (x < 8.59999), 0, f)
    far = np.minimum(abs(x - 8.4), abs(x - 8.6)) > 1e-4
    np.testing.assert_allclose(get("flat_and_sharp").derivative(0)(x)[far], f[far], rtol=1e-9, atol=1e-9)
    alpha = 2.9 - np.sqrt(2.9) / 360
    f1 = lambda x: 86400 * ((x - alpha) ** 3 - (2.9 - alpha) ** 3) + 2.9**2  # noqa: E731 – as the paper has it
    f2 = lambda x: 8640000 * (3 - alpha) ** 2 * ((x - 3.1) ** 3 + 0.001) + f1(3)  # noqa: E731
    f3 = lambda x: -300 * (x - 3.1) ** 2 + f2(3.1)  # noqa: E731
    f4 = 450 * ((x - 4.1) ** 2 - 0.16) + f3(3.7)
    f = np.select([x < 2.9, x < 3, x < 3.1, x < 3.7], [x**2, f1(x), f2(x), f3(x)], f4)
    np.testing.assert_allclose(get("f_tm").derivative(0)(x), f, rtol=1e-9)


def test_knots_must_ascend():
    with pytest.raises(ValueError, match="wrong: ascending knots and a piece more"):
        Piecewise("wrong", (), "", knots=(1, 0), pieces=((0, (1,)),) * 3)


@pytest.mark.parametrize("name", BOWLS)
def test_the_sharp_bowl_is_a_ball(name):
    """Where the sharp quadratic is the lower one, drawn at random about its sphere."""
    landscape = get(name)
    direction = torch.randn(500, landscape.dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direction = direction / direction.norm(dim=1, keepdim=True)
    centre = torch.zeros(landscape.dimension, dtype=torch.float64)
    centre[0] = landscape.centre
    for factor, inside in ((0.999, True), (1.001, False)):
        theta = centre + factor * landscape.radius * direction
        wide = landscape.smoothness / 2 * (theta**2).sum(1)
        assert ((landscape.f(theta) < wide * (1 - 1e-12)) == inside).all()  # outside they are equal, to rounding
        assert (landscape.sharpness(theta) == (landscape.sharp if inside else landscape.smoothness)).all()


@pytest.mark.parametrize("name", LANDSCAPES)
def test_batches_of_points(name):
    landscape, theta = get(name), torch.rand(3, 5, get(name).dimension, dtype=torch.float64)
    for function in landscape.f, landscape.sharpness:
        values = function(theta)
        assert values.shape == (3, 5)
        assert values[1, 2] == function(theta[1, 2])


def test_example_3_of_ahn_et_al():
    """θ⁰ = (13, 0.01), η = 2/150: linear diverges, tanh settles at a sharpness near 2/η."""
    step_size, end = 2 / 150, {}
    for name in NEURONS:
        theta = point(13, 0.01)
        for _ in range(1000):
            theta = theta - step_size * grad(get(name).f)(theta)
        end[name] = theta
    assert not torch.isfinite(end["linear_neuron"]).all()
    assert get("tanh_neuron").f(end["tanh_neuron"]) < 1e-12
    assert 140 < get("tanh_neuron").sharpness(end["tanh_neuron"]) <= 150


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"'cubic'.*quadratic, tanh_quadratic, linear_neuron, tanh_neuron"):
        get("cubic")
