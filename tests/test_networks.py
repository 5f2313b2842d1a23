"""eoslib.networks: derivatives against finite differences, initialisation and layout against PyTorch."""

import copy
from itertools import product

import pytest
import torch
from torch import nn
from torch.func import grad, jvp

from eoslib.networks import ACTIVATIONS, MLP, apply, flatten, mlp, narrowed

# torch.func.jvp itself still calls torch.jit.script, which torch deprecates
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def forward(f):
    """x ↦ f′(x), elementwise, by forward mode."""
    return lambda x: jvp(f, (x,), (torch.ones_like(x),))[1]


def reverse(f):
    """x ↦ f′(x), elementwise, by reverse mode."""
    return grad(lambda x: f(x).sum())


def away_from_zero():
    """Both branches of every activation, no kink."""
    return torch.linspace(-4, 4, 40, dtype=torch.float64)  # even number of points: 0 is not among them


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_four_derivatives_against_finite_differences(name):
    x, h, f = away_from_zero(), 1e-5, ACTIVATIONS[name]
    for _ in range(4):
        difference = (f(x + h) - f(x - h)) / (2 * h)
        f = reverse(f)
        torch.testing.assert_close(f(x), difference, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_mix_of_forward_and_reverse_mode_agrees_and_is_finite_far_out(name):
    x = torch.cat([away_from_zero(), torch.tensor([-800.0, -30, 30, 800], dtype=torch.float64)])
    fourth = []
    for modes in product([forward, reverse], repeat=4):
        f = ACTIVATIONS[name]
        for mode in modes:
            f = mode(f)
        fourth.append(f(x))
    assert torch.isfinite(fourth[0]).all()
    for other in fourth[1:]:
        torch.testing.assert_close(other, fourth[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_four_derivatives_through_a_network(name):
    """Derivatives of the outputs along a line θ + tv, by reverse mode through apply."""
    network = mlp(3, (5, 4), 2, name, seed=1)
    theta = flatten(network).double()
    generator = torch.Generator().manual_seed(2)
    v = torch.randn(theta.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)

    def f(t):
        return apply(network, theta + t * v, x).sin().sum()

    t, h = torch.zeros((), dtype=torch.float64), 1e-5
    for _ in range(4):
        difference = (f(t + h) - f(t - h)) / (2 * h)
        f = grad(f)
        torch.testing.assert_close(f(t), difference, rtol=1e-6, atol=1e-6)


def sequential(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


@pytest.mark.parametrize("seed", [0, 3])
def test_mlp_is_the_sequential_of_the_same_seed(seed):
    network, peer, x = mlp(7, (5, 4), 3, "tanh", seed=seed), sequential(seed), torch.randn(6, 7)
    assert torch.equal(flatten(network), flatten(peer))
    assert torch.equal(network(x), peer(x))


def test_mlp_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    undisturbed = torch.rand(3)
    torch.manual_seed(5)
    mlp(7, (5,), 3, "relu", seed=1)
    assert torch.equal(torch.rand(3), undisturbed)


def test_zero_biases_keep_the_weights():
    default, zero = (mlp(7, (5,), 3, "tanh", bias_init, seed=0) for bias_init in ("default", "zero"))
    for ours, theirs in zip(zero.layers, default.layers, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.all(ours.bias == 0)
        assert torch.any(theirs.bias != 0)


def test_a_linear_network_is_the_composition_of_its_layers():
    network, x = mlp(4, (6, 5), 2, "linear", seed=0).double(), torch.randn(3, 4, dtype=torch.float64)
    layer_by_layer = x
    for layer in network.layers:
        layer_by_layer = layer(layer_by_layer)
    torch.testing.assert_close(network(x), layer_by_layer)


@pytest.mark.parametrize("activation", ["linear", "tanh"])
@pytest.mark.parametrize("hidden", [(), (6, 5)])
def test_an_offset_is_added_to_what_the_first_layer_gives(activation, hidden):
    network, x = mlp(4, hidden, 2, activation, seed=0).double(), torch.randn(3, 4, dtype=torch.float64)
    shifted = copy.deepcopy(network)
    shifted.layers[0].bias.data += 0.5
    offset = torch.full_like(network.layers[0](x), 0.5)
    torch.testing.assert_close(network(x, offset), shifted(x))


def test_a_narrowed_network_differs_in_its_first_layer_only():
    network = mlp(40, (6, 5), 2, "tanh", seed=0).double()
    narrow = narrowed(network, 3)
    assert narrow(torch.randn(7, 3, dtype=torch.float64)).shape == (7, 2)
    assert [p.shape for p in narrow.parameters()][1:] == [p.shape for p in network.parameters()][1:]
    assert network.layers[0].weight.shape == (6, 40)


def test_without_hidden_layers_the_network_is_affine():
    network, x = MLP(4, (), 2, "tanh"), torch.randn(3, 4)
    torch.testing.assert_close(network(x), x @ network.layers[0].weight.T + network.layers[0].bias)


def test_flatten_and_apply_are_inverse():
    network, x = mlp(7, (5, 4), 3, "swish", seed=0), torch.randn(6, 7)
    theta = flatten(network)
    assert theta.shape == (sum(p.numel() for p in network.parameters()),)
    assert torch.equal(apply(network, theta, x), network(x))
    theta.zero_()  # a copy: the network keeps its parameters
    assert torch.any(network(x) != 0)
    assert torch.all(apply(network, theta, x) == 0)


def test_apply_follows_the_precision_of_theta():
    network, x = mlp(7, (5,), 3, "swish", seed=0), torch.randn(6, 7)
    double = apply(network, flatten(network).double(), x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), network(x))


def test_the_flat_gradient_is_that_of_the_parameters_in_order():
    network, x = mlp(7, (5, 4), 3, "gelu", seed=0), torch.randn(6, 7)
    flat = grad(lambda theta: apply(network, theta, x).square().sum())(flatten(network))
    network(x).square().sum().backward()
    torch.testing.assert_close(flat, torch.cat([p.grad.flatten() for p in network.parameters()]))


def test_apply_serves_other_modules_too():
    peer, x = sequential(0), torch.randn(6, 7)
    theta = torch.randn_like(flatten(peer))
    nn.utils.vector_to_parameters(theta, peer.parameters())
    assert torch.equal(apply(sequential(1), theta, x), peer(x))


@pytest.mark.parametrize("extra", [-1, 1])
def test_theta_of_another_length_is_refused(extra):
    network = mlp(7, (5,), 3, "tanh", seed=0)
    with pytest.raises(RuntimeError, match="split_sizes"):
        apply(network, torch.zeros(flatten(network).numel() + extra), torch.zeros(1, 7))


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match=r"activation 'tahn'.*linear, tanh, relu, elu, swish, softplus"):
        MLP(2, (3,), 1, "tahn")
    with pytest.raises(ValueError, match=r"bias_init 'none'.*default, zero"):
        mlp(2, (3,), 1, "tanh", "none", seed=0)
