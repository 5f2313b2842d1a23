"""eoslib.problems.networks: derivatives against finite differences, initialisation and layout against PyTorch."""

import copy
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad, jvp

from eoslib.problems.datasets import Digits
from eoslib.problems.losses import BINARY_LOSSES, LOSSES
from eoslib.problems.networks import (
    ACTIVATIONS,
    CNN,
    MLP,
    NORMS,
    Attention,
    BatchNorm,
    Bottleneck,
    DeepResNet,
    LayerNorm,
    RelativeAttention,
    ResNet,
    apply,
    buffers,
    cnn,
    flatten,
    mlp,
    resnet18,
    resnet101,
    transformer,
    transformer_xl,
)
from eoslib.problems.objective import SupervisedObjective
from eoslib.problems.problem import Network

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


# --- networks: derivatives -------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A small network as network(d_out, activation), and its inputs as inputs(generator)."""

    network: Callable[[int, str], nn.Module]
    inputs: Callable[[torch.Generator], torch.Tensor]


def numbers(*shape):
    return lambda generator: torch.randn(*shape, generator=generator, dtype=torch.float64)


KINDS = {
    "mlp": Kind(lambda d_out, activation: mlp(5, (4, 3), d_out, activation, seed=0), numbers(3, 5)),
    "cnn": Kind(lambda d_out, activation: cnn((2, 4, 5), d_out, 3, activation, seed=0), numbers(3, 40)),
    "resnet18": Kind(
        lambda d_out, activation: resnet18((2, 4, 4), d_out, (2, 4), 2, activation, seed=0), numbers(3, 32)
    ),
    "resnet18 with batch normalisation": Kind(
        lambda d_out, activation: resnet18((2, 4, 4), d_out, (2, 4), 2, activation, "batch", seed=0), numbers(3, 32)
    ),
    "resnet18 without normalisation": Kind(
        lambda d_out, activation: resnet18((2, 4, 4), d_out, (2, 4), 2, activation, "none", seed=0), numbers(3, 32)
    ),
    "resnet101": Kind(
        lambda d_out, activation: resnet101((1, 16, 16), d_out, (2,), (1,), activation, seed=0), numbers(3, 256)
    ),
    "transformer on tokens": Kind(
        lambda d_out, activation: transformer(5, 4, d_out, 6, 2, 1, activation, seed=0),
        lambda generator: torch.randint(5, (3, 4), generator=generator),
    ),
    "transformer on features": Kind(
        lambda d_out, activation: transformer(3, 4, d_out, 6, 2, 1, activation, seed=0), numbers(3, 12)
    ),
}


def problem(kind, activation="swish", loss="cross-entropy"):
    """The network of a kind on data: objective, θ (p,) away from special values, a direction (p,); in float64."""
    generator = torch.Generator().manual_seed(1)
    network = KINDS[kind].network(1 if loss in BINARY_LOSSES else 3, activation).double()
    labels = torch.tensor([0, 1, 1] if loss in BINARY_LOSSES else [0, 2, 1])
    theta = flatten(network)
    theta += 0.3 * torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
    direction = torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
    return SupervisedObjective(network, KINDS[kind].inputs(generator), labels, loss), theta, direction


def pieces(network, direction):
    """For each parameter tensor, by name, the direction (p,) within it."""
    start, restricted = 0, {}
    for name, parameter in network.named_parameters():
        inside = slice(start, start + parameter.numel())
        restricted[name] = torch.zeros_like(direction)
        restricted[name][inside] = direction[inside]
        start = inside.stop
    return restricted


def assert_derivatives(objective, theta, directions, v, h=3e-5):
    """∇²f·u, ∇³f(u, u), ∇³f(u, v) and ∇⁴f(u, u, v), all by reverse mode, each against central differences of the one
    before, for each u of `directions` (by name) and one v."""

    def expanded(direction):
        return [objective.expand(theta + s * h * direction) for s in (1, -1)]

    def difference(quantity, points):
        above, below = map(quantity, points)
        return (above - below) / (2 * h)

    def check(name, what, actual, expected):
        error = (actual - expected).norm() / (expected.norm() + 1e-2)
        assert error < 1e-5, f"{what} in the direction of {name} is wrong by {error:.1e}"

    def gradient(scalar):
        return torch.autograd.grad(scalar, t, create_graph=True)[0]

    t = theta.clone().requires_grad_()
    first = gradient(objective.forward(t)[0])
    here, along_v = objective.expand(theta), expanded(v)
    check("v", "∇f", here.gradient @ v, difference(lambda point: point.value, along_v))
    for name, u in directions.items():
        along_u = expanded(u)
        check(name, "∇²f·u", here.hvp(u), difference(lambda point: point.gradient, along_u))
        check(name, "∇³f(u, u)", here.third(u), difference(lambda point, u=u: point.hvp(u), along_u))
        second = gradient(first @ u)
        check(name, "∇³f(u, v)", gradient(second @ v), difference(lambda point, u=u: point.hvp(u), along_v))
        fourth = gradient(gradient(second @ u) @ v)
        check(name, "∇⁴f(u, u, v)", fourth, difference(lambda point, u=u: point.third(u), along_v))


@pytest.mark.parametrize("kind", KINDS)
def test_four_derivatives_of_every_layer(kind):
    """The direction u lies in one parameter tensor at a time, so that a failure names the layer."""
    objective, theta, direction = problem(kind)
    assert_derivatives(objective, theta, pieces(objective.network, direction), direction / direction.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_four_derivatives_with_every_activation(kind, activation):
    objective, theta, direction = problem(kind, activation)
    u, v = direction / direction.norm(), direction.roll(1) / direction.norm()
    assert_derivatives(objective, theta, {"u": u}, v, h=1e-6 if activation in ("relu", "elu", "softplus") else 3e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_four_derivatives_of_every_loss(kind, loss):
    objective, theta, direction = problem(kind, loss=loss)
    u, v = direction / direction.norm(), direction.roll(1) / direction.norm()
    assert_derivatives(objective, theta, {"u": u}, v)


@pytest.mark.parametrize("kind", KINDS)
def test_every_mix_of_modes_gives_the_same_fourth_derivative_of_a_network(kind):
    objective, theta, direction = problem(kind)
    u, t = direction / direction.norm(), torch.zeros((), dtype=theta.dtype)
    fourth = []
    for modes in product([forward, reverse], repeat=4):

        def f(t):
            return objective.forward(theta + t * u)[0]

        for mode in modes:
            f = mode(f)
        fourth.append(f(t))
    torch.testing.assert_close(torch.stack(fourth), fourth[0].expand(16), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "layer", "torch_forward"),
    [
        ("transformer on tokens", LayerNorm, lambda self, x: F.layer_norm(x, x.shape[-1:], self.weight, self.bias)),
        (
            "resnet18 with batch normalisation",
            BatchNorm,
            lambda self, x: F.batch_norm(x, None, None, self.weight, self.bias, training=True),
        ),
    ],
)
def test_these_tests_would_see_the_wrong_derivatives_of_torch(kind, layer, torch_forward, monkeypatch):
    """PyTorch's own layer_norm and batch_norm, put in place of ours."""
    objective, theta, direction = problem(kind)
    monkeypatch.setattr(layer, "forward", torch_forward)
    with pytest.raises(AssertionError, match="wrong by"):
        assert_derivatives(objective, theta, pieces(objective.network, direction), direction / direction.norm())
    with pytest.raises(AssertionError):
        test_every_mix_of_modes_gives_the_same_fourth_derivative_of_a_network(kind)


@pytest.mark.parametrize(("order", "message"), [(2, "∇²f·u"), (3, "∇³f"), (4, "∇⁴f")])
@pytest.mark.parametrize("kind", ["cnn", "transformer on features"])
def test_these_tests_would_see_a_single_wrong_derivative(kind, order, message, monkeypatch):
    """An activation whose derivatives are right but for that of this order, which is missing."""

    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, k):
            ctx.save_for_backward(x)
            ctx.k = k
            return (x + k * math.pi / 2).sin()  # the k-th derivative

        @staticmethod
        def backward(ctx, g):
            derivative = Sine.apply(*ctx.saved_tensors, ctx.k + 1)
            return g * (derivative.detach() if ctx.k + 1 == order - 1 else derivative), None

    monkeypatch.setitem(ACTIVATIONS, "swish", lambda x: Sine.apply(x, 0))
    objective, theta, direction = problem(kind)
    with pytest.raises(AssertionError, match=f"^{message}"):
        assert_derivatives(objective, theta, pieces(objective.network, direction), direction / direction.norm())


# --- networks: what they compute -------------------------------------------------------------------------


def test_layer_norm_is_that_of_torch():
    x, norm = torch.randn(2, 3, 5), LayerNorm(5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    torch.testing.assert_close(norm(x), F.layer_norm(x, (5,), norm.weight, norm.bias, 1e-6))


def batch_norms(dtype=torch.float64):
    """Ours and PyTorch's with the same random numbers, and inputs for three training steps."""
    generator = torch.Generator().manual_seed(0)
    ours, peer = BatchNorm(5).to(dtype), nn.BatchNorm2d(5).to(dtype)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, generator=generator)
    peer.load_state_dict(ours.state_dict())
    return ours, peer, 3 * torch.randn(3, 4, 5, 2, 3, generator=generator, dtype=dtype) + 1


def test_batch_norm_is_that_of_torch_with_its_running_statistics():
    ours, peer, xs = batch_norms()
    for training in (True, True, True, False):
        for x in xs.clone().requires_grad_():
            torch.testing.assert_close(ours.train(training)(x), peer.train(training)(x), rtol=1e-12, atol=1e-12)
        assert ours.state_dict().keys() == peer.state_dict().keys()
        torch.testing.assert_close(ours.state_dict(), peer.state_dict(), rtol=1e-12, atol=1e-12)
        assert not any(b.requires_grad for b in ours.buffers())


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_has_the_first_two_derivatives_of_that_of_torch(training):
    """With respect to the inputs and the parameters."""
    *layers, (before, x, u) = batch_norms()

    def derivatives(layer):
        layer.train()(before)
        variables = [x.clone().requires_grad_(), *layer.parameters()]
        first = torch.autograd.grad(layer.train(training)(variables[0]).sin().sum(), variables, create_graph=True)
        along = sum((g * d).sum() for g, d in zip(first, (u, u[0, :, 0, 0], u[1, :, 0, 0]), strict=True))
        return *first, *torch.autograd.grad(along, variables)

    torch.testing.assert_close(*map(derivatives, layers), rtol=1e-11, atol=1e-11)


def test_batch_norm_of_a_single_value_is_refused():
    with pytest.raises(ValueError, match=r"more than one value per channel, got \(1, 5, 1, 1\)"):
        BatchNorm(5)(torch.zeros(1, 5, 1, 1))
    assert torch.all(BatchNorm(5).eval()(torch.zeros(1, 5, 1, 1)) == 0)


def test_attention_is_that_of_torch():
    ours, peer, x = Attention(6, 3), nn.MultiheadAttention(6, 3, batch_first=True), torch.randn(2, 4, 6)
    peer.in_proj_weight.data, peer.in_proj_bias.data = (p.data for p in ours.queries_keys_values.parameters())
    peer.out_proj.weight.data, peer.out_proj.bias.data = (p.data for p in ours.out.parameters())
    torch.testing.assert_close(ours(x), peer(x, x, x)[0])


def test_a_transformer_is_made_of_the_encoder_layers_of_torch():
    network, x = transformer(7, 4, 3, 6, 2, 2, "gelu", seed=0), torch.randint(7, (5, 4))
    nn.init.normal_(network.head.weight)
    y = network.embedding[x] + network.positions
    for ours in network.layers:
        peer = nn.TransformerEncoderLayer(
            6, 2, 6, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True
        )
        nn.utils.vector_to_parameters(flatten(ours.attention), peer.self_attn.parameters())
        peers = {"attention_norm": peer.norm1, "first": peer.linear1, "second": peer.linear2, "norm": peer.norm2}
        for name, other in peers.items():
            layer = getattr(ours, name)
            nn.utils.vector_to_parameters(torch.randn_like(flatten(layer)), layer.parameters())
            nn.utils.vector_to_parameters(flatten(layer), other.parameters())
        y = peer(y)
    torch.testing.assert_close(network(x), F.linear(y.mean(1), network.head.weight))


def language_model(segment, memory=0, seed=1):
    """In float64, of two layers, away from special values; θ (p,), and two texts of eight tokens (2, 8)."""
    network = transformer_xl(7, 7, segment, memory, 6, 2, 2, 5, "tanh", seed=0).double()
    generator = torch.Generator().manual_seed(seed)
    theta = flatten(network)
    theta += 0.3 * torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
    return network, theta, torch.randint(7, (2, 8), generator=generator)


@pytest.mark.parametrize("segment", [1, 2, 3, 4])
def test_segments_with_a_memory_of_all_are_one_long_segment(segment):
    one, theta, text = language_model(8)
    several, *_ = language_model(segment, memory=8)
    torch.testing.assert_close(apply(several, theta, text), apply(one, theta, text), rtol=1e-12, atol=1e-12)


def test_what_is_not_in_the_memory_is_not_seen():
    """A layer sees the two states before its segment, which saw two more: two layers reach four tokens back."""
    network, theta, text = language_model(2, memory=2)
    others = text.clone()
    others[:, :2] += 1
    others %= 7
    same = (apply(network, theta, text) == apply(network, theta, others))[0].all(1)
    assert same.tolist() == [False] * 6 + [True] * 2
    alone, *_ = language_model(2, memory=0)
    assert (apply(alone, theta, text) == apply(alone, theta, others))[0].all(1).tolist() == [False] * 2 + [True] * 6


def test_no_output_sees_a_later_token():
    network, theta, text = language_model(4, memory=4)
    others = text.clone()
    others[:, 5] = (others[:, 5] + 1) % 7
    same = (apply(network, theta, text) == apply(network, theta, others))[0].all(1)
    assert same.tolist() == [True] * 5 + [False] * 3


def test_no_gradient_reaches_back_into_an_earlier_segment():
    network, theta, _ = language_model(2, memory=2)
    text = torch.tensor([[0, 1, 2, 3]])
    theta.requires_grad_()
    (slope,) = torch.autograd.grad(apply(network, theta, text)[:, 2:].sum(), theta)
    rows = slope[: 7 * 6].view(7, 6).abs().sum(1)  # of the embedding
    assert (rows > 0).tolist() == [False, False, True, True, False, False, False]


def test_relative_attention_pair_by_pair():
    generator = torch.Generator().manual_seed(0)
    layer = RelativeAttention(6, 2).double()
    past, x = (torch.randn(1, length, 6, generator=generator, dtype=torch.float64) for length in (3, 4))
    every = torch.cat([past, x], 1)[0]
    q, k, v = layer.queries_keys_values(every).chunk(3, 1)

    def waves(distance):
        angles = [distance / 10_000 ** (i / 6) for i in (0, 2, 4)]
        return torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)

    rows = []
    for i in range(3, 7):
        heads = []
        for h, part in enumerate((slice(0, 3), slice(3, 6))):
            r = [layer.distances(waves(i - j))[part] for j in range(i + 1)]
            scores = [(q[i, part] + layer.u[h]) @ k[j, part] + (q[i, part] + layer.v[h]) @ r[j] for j in range(i + 1)]
            heads.append((torch.stack(scores) / 3**0.5).softmax(0) @ v[: i + 1, part])
        rows.append(torch.cat(heads))
    torch.testing.assert_close(layer(x, past)[0], layer.out(torch.stack(rows)), rtol=1e-12, atol=1e-12)


def test_four_derivatives_of_a_language_model():
    """Of one segment, since what a memory holds is fixed in derivatives, but not in differences."""
    network, theta, text = language_model(8)
    objective = SupervisedObjective(network, text, text.roll(1), "cross-entropy")
    direction = torch.randn(theta.shape, generator=torch.Generator().manual_seed(2), dtype=theta.dtype)
    assert_derivatives(objective, theta, pieces(network, direction), direction / direction.norm())


def test_features_that_are_one_hot_are_tokens():
    network, x = transformer(7, 4, 3, 6, 2, 1, seed=0), torch.randint(7, (5, 4))
    nn.init.normal_(network.head.weight)
    torch.testing.assert_close(network(F.one_hot(x, 7).float().flatten(1)), network(x))


def test_a_cnn_layer_by_layer():
    network, x = cnn((3, 8, 8), 4, 5, "tanh", seed=0), torch.randn(2, 192)
    first, second = network.convolutions
    peer = nn.Sequential(
        nn.Unflatten(1, (3, 8, 8)), first, nn.Tanh(), nn.AvgPool2d(2), second, nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), network.head,
    )  # fmt: skip
    torch.testing.assert_close(network(x), peer(x))


def test_a_residual_network_halves_the_image_at_every_stage_but_the_first():
    network, sizes = resnet18((3, 16, 8), 10, (4, 8, 12), 4, seed=0), []
    for block in network.blocks:
        block.register_forward_hook(lambda block, inputs, output: sizes.append(tuple(output.shape[1:])))
    network(torch.randn(2, 384))
    assert sizes == 2 * [(4, 16, 8)] + 2 * [(8, 8, 4)] + 2 * [(12, 4, 2)]


def test_residual_blocks_add_their_input():
    """With the last normalisation of every block at zero, what the stem gives only passes the shortcuts."""
    network, x = resnet18((3, 4, 4), 10, (4, 8), 4, "linear", seed=0), torch.randn(2, 48)
    nn.init.normal_(network.head.weight)
    for block in network.blocks:
        nn.init.zeros_(block.second[1].weight)
    expected = network.head(network.blocks[2].shortcut(network.stem(x.view(2, 3, 4, 4))).mean((2, 3)))
    torch.testing.assert_close(network(x), expected)


def test_the_deep_residual_network_is_that_of_he_et_al():
    """Its number of parameters is that of torchvision's resnet101, and resnet50; sizes shrink where they should."""
    with torch.device("meta"):
        sizes = [flatten(DeepResNet((3, 224, 224), 1000, blocks=b)).numel() for b in ((3, 4, 23, 3), (3, 4, 6, 3))]
    assert sizes == [44_549_160, 25_557_032]
    network, shapes = resnet101((3, 64, 64), 5, (2, 3), (1, 2), seed=0), []
    for module in (network.stem, *network.blocks):
        module.register_forward_hook(lambda module, x, y: shapes.append(tuple(y.shape[1:])))
    assert network(torch.randn(2, 3 * 64**2)).shape == (2, 5)
    assert shapes == [(2, 32, 32), (8, 16, 16), (12, 8, 8), (12, 8, 8)]
    assert [type(block.shortcut) for block in network.blocks] == [nn.Sequential, nn.Sequential, nn.Identity]
    weight = resnet101((3, 64, 64), 5, (64,), (1,), seed=0).blocks[0].middle[0].weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_a_bottleneck_is_three_convolutions_beside_its_input():
    block, x = Bottleneck(8, 2, 1, torch.tanh).double(), torch.randn(3, 8, 4, 4).double()
    norm = functools.partial(F.batch_norm, running_mean=None, running_var=None, training=True)
    y = norm(F.conv2d(x, block.narrow[0].weight)).tanh()
    y = norm(F.conv2d(y, block.middle[0].weight, padding=1)).tanh()
    torch.testing.assert_close(block(x), (norm(F.conv2d(y, block.widen[0].weight)) + x).tanh())


def test_without_normalisation_a_residual_network_is_convolutions_with_biases():
    network, x = resnet18((3, 4, 4), 10, (4,), activation="tanh", norm="none", seed=0), torch.randn(2, 3, 4, 4)
    nn.init.normal_(network.head.weight)
    assert {type(m) for m in network.modules() if not list(m.children())} == {nn.Conv2d, nn.Linear, nn.Identity}
    y = network.stem(x).tanh()
    for block in network.blocks:
        y = (block.second(block.first(y).tanh()) + y).tanh()
    torch.testing.assert_close(network(x.flatten(1)), network.head(y.mean((2, 3))))
    assert network.stem[0].bias.abs().max() > 0


def test_the_normalisation_does_not_change_the_initial_numbers():
    group, batch = (resnet18((1, 4, 4), 2, (2, 4), 2, norm=norm, seed=0) for norm in ("group", "batch"))
    assert torch.equal(flatten(group), flatten(batch))
    assert torch.equal(flatten(group), flatten(resnet18((1, 4, 4), 2, (2, 4), 2, seed=0)))


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        # 9·3·32 + 32, 9·32·32 + 32, 10·(2048 + 1)
        (lambda: cnn((3, 32, 32), 10, seed=0), 896 + 9_248 + 20_490),
        # convolutions 9·16·(3 + 4·16), 9·32·(16 + 3·32) + 16·32, …; two numbers per normalised channel; the head
        (
            lambda: resnet18((3, 32, 32), 10, seed=0),
            9 * (3 * 16 + 4 * 16**2 + sum(w * (w // 2 + 3 * w) for w in (32, 64, 128)))
            + sum(w * w // 2 for w in (32, 64, 128))
            + 2 * (5 * 16 + 5 * (32 + 64 + 128))
            + 10 * (128 + 1),
        ),
        # embeddings and positions; in each layer six 64 × 64 matrices with biases and two normalisations; the head
        (lambda: transformer(4096, 64, 1, seed=0), 64 * (4096 + 64) + 2 * (6 * 65 * 64 + 4 * 64) + 65),
    ],
)
def test_number_of_parameters_at_the_paper_s_sizes(network, parameters):
    assert flatten(network()).numel() == parameters


def test_initial_weights_are_uniform_within_one_over_the_root_of_the_fan_in():
    networks = [
        cnn((3, 8, 8), 10, 16, bias_init="zero", seed=0),
        resnet18((3, 8, 8), 10, seed=0),
        transformer(50, 10, 10, bias_init="zero", seed=0),
    ]
    for network in networks:
        for name, parameter in network.named_parameters():
            if name.endswith("bias") or (name.startswith("head") and not isinstance(network, CNN)):
                assert torch.all(parameter == 0), name
            elif parameter.dim() == 1:  # of a normalisation
                assert torch.all(parameter == 1), name
            else:
                fan_in = parameter.shape[1:].numel()
                largest = parameter.abs().max().item() * math.sqrt(fan_in)
                assert 0.95 < largest <= 1, name
                assert parameter.std().item() * math.sqrt(3 * fan_in) == pytest.approx(1, abs=0.1), name


def test_zero_biases_keep_the_weights_of_every_network():
    for make in (
        (lambda b: cnn((1, 4, 4), 2, 3, "tanh", b, seed=0)),
        (lambda b: transformer(5, 4, 2, 6, bias_init=b, seed=0)),
    ):
        default, zero = (dict(make(bias_init).named_parameters()) for bias_init in ("default", "zero"))
        biases = [name for name in default if name.endswith("bias")]
        assert all(torch.all(zero[name] == 0) for name in biases)
        assert any(torch.any(default[name] != 0) for name in biases)
        assert all(torch.equal(zero[name], default[name]) for name in default.keys() - biases)


def test_seeds_decide_and_leave_the_global_generator_alone():
    for make in (
        lambda seed: cnn((1, 4, 4), 2, 3, seed=seed),
        lambda seed: resnet18((1, 4, 4), 2, (2,), 2, seed=seed),
        lambda seed: transformer(5, 4, 2, 6, seed=seed),
    ):
        torch.manual_seed(5)
        undisturbed = torch.rand(3)
        torch.manual_seed(5)
        one, again, other = (flatten(make(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, again) and not torch.equal(one, other)
        assert torch.equal(torch.rand(3), undisturbed)


def sequential(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


@pytest.mark.parametrize("seed", [0, 3])
def test_mlp_is_the_sequential_of_the_same_seed(seed):
    network, peer, x = mlp(7, (5, 4), 3, "tanh", seed=seed), sequential(seed), torch.randn(6, 7)
    assert torch.equal(flatten(network), flatten(peer))
    assert torch.equal(network(x), peer(x))


def test_the_seeded_functions_have_the_signature_of_the_network_and_a_seed():
    signature = inspect.signature(resnet18)
    assert list(signature.parameters) == ["shape", "d_out", "widths", "groups", "activation", "norm", "seed"]
    assert signature.return_annotation is ResNet and resnet18.__doc__ == ResNet.__doc__
    with pytest.raises(TypeError, match="seed"):
        resnet18((1, 4, 4), 2)


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


def test_scaled_weights_leave_the_biases():
    declared = Network(architecture="mlp", sizes={"hidden": [5]}, activation="tanh")
    plain, scaled = (
        dict(network.build(Digits(), 3, 0).named_parameters())
        for network in (declared, dataclasses.replace(declared, weight_scale=2))
    )
    for name, parameter in plain.items():
        torch.testing.assert_close(scaled[name], parameter * (2 if name.endswith("weight") else 1), rtol=0, atol=0)


def test_a_linear_network_is_the_composition_of_its_layers():
    network, x = mlp(4, (6, 5), 2, "linear", seed=0).double(), torch.randn(3, 4, dtype=torch.float64)
    layer_by_layer = x
    for layer in network.layers:
        layer_by_layer = layer(layer_by_layer)
    torch.testing.assert_close(network(x), layer_by_layer)


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


def normalised(norm=BatchNorm):
    """A network with running statistics, its θ, inputs and the statistics that a forward pass leaves."""
    network = nn.Sequential(nn.Unflatten(1, (2, 3, 3)), nn.Conv2d(2, 4, 2), norm(4), nn.Flatten(), nn.Linear(16, 2))
    x, moved = torch.randn(6, 18), copy.deepcopy(network)
    moved(x)
    return network, flatten(network), x, dict(moved.named_buffers())


@pytest.mark.parametrize("norm", [BatchNorm, nn.BatchNorm2d])
def test_the_buffers_that_are_passed_move_and_those_of_the_module_do_not(norm):
    network, theta, x, moved = normalised(norm)
    before, passed = buffers(network), buffers(network)
    held = list(passed.values())
    training, evaluation = copy.deepcopy(network)(x), copy.deepcopy(network).eval()(x)

    assert torch.equal(apply(network, theta, x), training)
    assert torch.equal(apply(network, theta, x, buffers=passed, training=False), evaluation)
    torch.testing.assert_close([passed, dict(network.named_buffers())], [before, before], rtol=0, atol=0)

    assert torch.equal(apply(network, theta, x, buffers=passed), training)
    torch.testing.assert_close([passed, dict(network.named_buffers())], [moved, before], rtol=0, atol=0)
    assert all(now is then for now, then in zip(passed.values(), held, strict=True))  # in place


def test_the_mode_is_that_of_the_call_and_the_module_keeps_its_own():
    network, theta, x, moved = normalised()
    for training in (True, False):
        network.train(training)
        evaluations = [apply(network, theta, x, buffers=moved, training=False) for _ in range(2)]
        assert torch.equal(*evaluations) and not torch.equal(apply(network, theta, x), evaluations[0])
        assert all(module.training == training for module in network.modules())
    with pytest.raises(RuntimeError):
        apply(network, theta, x[:, 1:])  # in the other mode, too
    assert not network.training


def test_buffers_are_copies_and_are_given_whole():
    network, theta, x, _ = normalised()
    some = buffers(network)
    assert some.keys() == {"2.running_mean", "2.running_var", "2.num_batches_tracked"}
    some.pop("2.running_var").zero_()
    assert torch.all(network[2].running_var == 1)
    with pytest.raises(RuntimeError, match=r"all of the module.s or none; not so: 2.running_var"):
        apply(network, theta, x, buffers=some)
    assert buffers(mlp(3, (4,), 2, "tanh", seed=0)) == {}


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
    with pytest.raises(ValueError, match=r"norm 'layer'.*group, batch, none"):
        resnet18((1, 4, 4), 1, norm="layer", seed=0)
    for make in (
        lambda: cnn((1, 4, 4), 1, activation="tahn", seed=0),
        lambda: resnet18((1, 4, 4), 1, activation="tahn", seed=0),
        lambda: transformer(2, 3, 1, activation="tahn", seed=0),
    ):
        with pytest.raises(ValueError, match="activation 'tahn'"):
            make()


def test_distances_need_an_even_width():
    with pytest.raises(ValueError, match="even width, not 3"):
        transformer_xl(5, 5, width=3, heads=1, seed=0)


def test_heads_and_groups_must_divide_the_widths():
    with pytest.raises(ValueError, match="heads must divide the width 64, not be 3"):
        transformer(5, 4, 2, heads=3, seed=0)
    with pytest.raises(ValueError, match="divisible"):
        resnet18((1, 4, 4), 2, (6,), 4, seed=0)
    for norm in set(NORMS) - {"group"}:
        resnet18((1, 4, 4), 2, (6,), 4, norm=norm, seed=0)
