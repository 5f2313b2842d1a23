"""The closed forms of eoslib.landscapes against automatic differentiation in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.functional import hessian
from torch.func import grad

from eoslib.landscapes import LANDSCAPES, get

NEURONS = ["linear_neuron", "tanh_neuron"]


def point(*theta):
    return torch.tensor(theta, dtype=torch.float64)


def check_minimiser(landscape, theta):
    eigenvalues = torch.linalg.eigvalsh(hessian(landscape.f, theta))
    assert landscape.f(theta) == 0
    assert torch.all(grad(landscape.f)(theta) == 0)
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


@pytest.mark.parametrize("name", LANDSCAPES)
@settings(deadline=None)
@given(x=st.floats(-30, 30), y=st.floats(-30, 30))
def test_no_value_is_below_that_of_the_minimisers(name, x, y):
    assert get(name).f(point(x, y)) >= 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("quadratic", 20.25), ("tanh_quadratic", 1.0), ("linear_neuron", 0.25), ("tanh_neuron", 0.21355226)],
)
def test_values_by_hand(name, value):
    torch.testing.assert_close(get(name).f(point(1, 0.5)), point(value)[0], rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", LANDSCAPES)
def test_batches_of_points(name):
    landscape, theta = get(name), torch.rand(3, 5, 2, dtype=torch.float64)
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
