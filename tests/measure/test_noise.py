"""eoslib.measure.noise: per-example gradients against `torch.func`, estimators against brute force and resamples."""

from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

from eoslib.dynamics.trajectory import Trajectory
from eoslib.measure import noise
from eoslib.measure.noise import Noise, per_example, sampled
from eoslib.problems import networks
from eoslib.problems.batches import Batches
from eoslib.problems.objective import SupervisedObjective

N = 12


class Tied(nn.Module):
    """One matrix embeds the tokens, is a dense layer of the features, and maps to the outputs: three uses."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.dense = nn.Linear(4, 4)

    def forward(self, x):
        x = torch.tanh(self.dense(torch.tanh(self.dense(self.embedding(x)))))  # the dense layer, too, twice
        return F.linear(x, self.embedding.weight).mean(1)


class Strided(nn.Module):
    """A strided, dilated convolution without bias, group normalisation, and a dense layer of pixels."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, stride=2, dilation=2, padding=1, bias=False)
        self.norm, self.head = nn.GroupNorm(2, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.tanh(self.norm(self.convolution(x.view(-1, 2, 7, 7))))
        return self.head(x.flatten(2).mT).mean(1)


def tokens(high=5, length=6):
    return torch.randint(high, (N, length), generator=torch.Generator().manual_seed(1))


def features(d):
    return torch.randn(N, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


NETWORKS = {
    "mlp": (lambda: networks.mlp(5, (6, 4), 3, "tanh", seed=0), features(5)),
    "linear": (lambda: networks.mlp(5, (6, 4), 3, "linear", seed=0), features(5)),
    "cnn": (lambda: networks.cnn((2, 9, 9), 3, width=3, seed=0), features(162)),
    "wide cnn": (lambda: networks.cnn((1, 4, 4), 3, width=12, seed=0), features(16)),  # few pixels: by inner products
    "resnet": (lambda: networks.resnet18((2, 8, 8), 3, widths=(4, 4), groups=2, seed=0), features(128)),
    "transformer": (lambda: networks.transformer(5, 6, 3, width=4, layers=2, seed=0), tokens()),
    "transformer of features": (lambda: networks.transformer(4, 6, 3, width=4, layers=1, seed=0), features(24)),
    "transformer_xl": (lambda: networks.transformer_xl(5, 3, 2, 3, 4, 2, 2, 6, seed=0), tokens()),
    "tied": (Tied, tokens()),
    "strided": (Strided, features(98)),
}


def problem(network, inputs, loss="cross-entropy"):
    """An objective in float64, away from zero weights, and θ."""
    network = network.double()
    theta = networks.flatten(network)
    theta = theta + 0.1 * torch.randn(theta.shape, generator=torch.Generator().manual_seed(2), dtype=theta.dtype)
    outputs = 1 if loss in ("logistic", "mse-binary") else 3
    labels = torch.arange(len(inputs)) % max(outputs, 2)
    if isinstance(network, networks.TransformerXL):  # every token has its own
        labels = (inputs + labels[:, None]) % outputs
    return SupervisedObjective(network, inputs, labels, loss), theta


def brute(objective, theta):
    """Every example's gradient (n, p), by `vmap(grad)`."""
    names, shapes = zip(*((name, p.shape) for name, p in objective.network.named_parameters()), strict=True)

    def f(theta, x, y):
        parts = theta.split([shape.numel() for shape in shapes])
        given = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return objective.loss(functional_call(objective.network, given, x[None]), y[None])

    return vmap(grad(f), (None, 0, 0))(theta, objective.inputs, objective.labels)


@pytest.mark.parametrize("name", NETWORKS)
def test_per_example_norms_are_those_of_torch_func(name):
    make, inputs = NETWORKS[name]
    objective, theta = problem(make(), inputs)
    value, gradient, squares = per_example(objective, theta)
    here = objective.evaluate(theta)
    expected = brute(objective, theta)
    torch.testing.assert_close(value, here.value, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient, here.gradient, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(expected.mean(0), gradient, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(squares, expected.square().sum(1), rtol=1e-11, atol=0)


@pytest.mark.parametrize("loss", ["mse-binary", "logistic"])  # vmap cannot map the one-hot labels of the others
def test_of_every_loss_in_pieces_and_in_single_precision(loss, monkeypatch):
    monkeypatch.setattr(noise, "PIECE", 5)
    objective, theta = problem(networks.mlp(5, (6,), 1, "tanh", seed=0), features(5), loss)
    expected = brute(objective, theta).square().sum(1)
    torch.testing.assert_close(per_example(objective, theta)[2], expected, rtol=1e-12, atol=0)
    single = SupervisedObjective(objective.network.float(), objective.inputs.float(), objective.labels, loss)
    torch.testing.assert_close(per_example(single, theta.float())[2], expected.float(), rtol=1e-4, atol=0)


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 5))

    def forward(self, x):
        return F.linear(x, self.weight**2)


class Product(nn.Linear):
    def forward(self, x):
        return x @ (self.weight.T @ self.weight)


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3, padding_idx=0)

    def forward(self, x):
        return self.embedding(x).mean(1)


class Twofold(nn.Module):
    """A matrix that multiplies, and is added, too."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 3))

    def forward(self, x):
        return (x @ self.weight)[:, None].expand(-1, 5, -1).add(self.weight).mean(1)


class Mixing(nn.Linear):
    """Its examples see their mean."""

    def forward(self, x):
        return super().forward(x - x.mean(0))


class Shared(nn.Module):
    """A dense layer of constants, as of relative positions: no example has a part of its gradient to itself."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(5, 3)

    def forward(self, x):
        return x[:, :3] * self.dense(torch.linspace(0, 1, 5 * len(x)).view(-1, 5).to(x)).mean(0)


def test_what_has_no_rule_is_refused_by_name():
    for network, words in ((Squared(), "weight in pow"), (Product(5, 3), "weight in __get__")):
        with pytest.raises(NotImplementedError, match=f"no rule for per-example gradients of {words}"):
            per_example(*problem(network, features(5)))
    with pytest.raises(NotImplementedError, match=r"no rule for .* embedding\.weight in embedding"):
        per_example(*problem(Padded(), tokens()))
    with pytest.raises(NotImplementedError, match="weight, a matrix and a summand at once"):
        per_example(*problem(Twofold(), features(5)))
    batch = networks.resnet18((2, 8, 8), 3, widths=(4,), norm="batch", seed=0)
    with pytest.raises(ValueError, match="share batch statistics"):
        per_example(*problem(batch, features(128)))


@pytest.mark.parametrize("network", [Mixing(5, 3), Shared()])
def test_identities_that_do_not_hold_are_found(network):
    with pytest.raises(ValueError, match="examples interact"):
        per_example(*problem(network, features(5)))


# --- estimates from samples -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def population():
    """240 examples, whose gradients differ much."""
    network = networks.mlp(5, (6,), 3, "tanh", seed=0).double()
    inputs = torch.randn(240, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    objective = SupervisedObjective(network, inputs, torch.arange(240) % 3, "cross-entropy")
    theta = 2 * networks.flatten(network)
    return objective, theta, brute(objective, theta)


def minibatches(m, b, seed, n=240):
    return noise.draw(n, m, b, torch.Generator().manual_seed(seed))


def test_the_whole_data_give_equation_2_exactly(population):
    objective, theta, gradients = population
    found = sampled(objective, theta, minibatches(None, 12, 0))
    mean = gradients.mean(0)
    square, variance = mean.square().sum().item(), (gradients - mean).square().sum(1).mean().item()
    for name, expected in {
        "sample_loss": objective.value(theta).item(), "sample_gradient_norm": square**0.5, "gradient_square": square,
        "logged_gradient": square, "sample_noise": variance**0.5, "noise_square": variance,
    }.items():  # fmt: skip
        assert found[name].value == pytest.approx(expected, rel=1e-12), name
        assert found[name].standard_error == 0, name


def test_a_sample_gives_equation_2_on_the_sample_and_what_the_authors_logged(population):
    objective, theta, gradients = population
    groups = minibatches(60, 6, 1)
    found = sampled(objective, theta, groups)
    ours = gradients[torch.cat(groups)]
    by_group = torch.stack([gradients[group].mean(0) for group in groups])
    square = ours.mean(0).square().sum().item()
    assert found["sample_gradient_norm"].value == pytest.approx(square**0.5, rel=1e-12)
    assert found["logged_gradient"].value == pytest.approx(square, rel=1e-12)
    variance = (ours - ours.mean(0)).square().sum(1).mean().item()
    assert found["sample_noise"].value == pytest.approx(variance**0.5, rel=1e-12)
    between = (by_group - by_group.mean(0)).square().sum(1).mean().item()
    assert found["logged_noise"].value == pytest.approx(between, rel=1e-12)


def test_the_jackknife_leaves_every_block_out(population):
    """Against the estimates without it, one by one: the whole data but for it take the place of all."""
    objective, theta, _ = population
    groups = minibatches(60, 6, 1)
    found = sampled(objective, theta, groups)
    left_out = [sampled(objective, theta, groups[:i] + groups[i + 1 :]) for i in range(10)]
    for name, estimate in found.items():
        values = np.array([other[name].value for other in left_out])
        factor = 1 if name == "logged_noise" else 1 - 60 / 240
        expected = np.sqrt(factor * 9 / 10 * ((values - values.mean()) ** 2).sum())
        assert estimate.standard_error == pytest.approx(expected, rel=1e-9), name


class Table:
    """A population of which loss and gradient of every example are known already."""

    buffers: ClassVar = {}

    def __init__(self, losses, gradients):
        self.losses, self.all, self.gradients = losses, gradients, 0

    @property
    def labels(self):
        return self.losses

    def batches(self, minibatches):
        return (Table(self.losses[indices], self.all[indices]) for indices in minibatches)


def test_a_thousand_resamples_have_the_bias_and_the_spread_that_are_stated(population, monkeypatch):
    objective, theta, gradients = population
    losses = F.cross_entropy(objective.forward(theta)[1], objective.labels, reduction="none").detach()
    table, m, n = Table(losses, gradients), 40, 240
    monkeypatch.setattr(noise, "_additive", lambda t, _: (t.losses.mean(), t.all.mean(0), t.all.square().sum(1)))
    monkeypatch.setattr(noise, "_check_first", lambda *_: None)
    samples = [sampled(table, theta, minibatches(m, 2, seed)) for seed in range(1000)]
    mean = gradients.mean(0)
    square, variance = mean.square().sum().item(), (gradients - mean).square().sum(1).mean().item()
    expected = {
        "sample_loss": objective.value(theta).item(),
        "gradient_square": square,
        "noise_square": variance,
        "logged_gradient": square + variance / m * (n - m) / (n - 1),
        "logged_noise": 19 / 20 * variance / 2 * n / (n - 1),
    }
    for name in samples[0]:
        values, errors = np.array([(s[name].value, s[name].standard_error) for s in samples]).T
        assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.15), name
        if name in expected:
            assert abs(values.mean() - expected[name]) < 4 * values.std() / 1000**0.5, name
    # Jensen: the printed norm is too large by far more than chance allows, which the corrected square is not
    printed = np.array([s["sample_gradient_norm"].value for s in samples])
    assert printed.mean() - square**0.5 > 10 * printed.std() / 1000**0.5


def test_examples_that_are_all_alike_have_no_noise():
    objective, theta = problem(networks.mlp(5, (6,), 3, "tanh", seed=0), features(5)[:1].repeat(12, 1))
    objective.labels = torch.ones(12, dtype=torch.int64)
    found = sampled(objective, theta, minibatches(8, 2, 0, 12))
    assert found["noise_square"].value == pytest.approx(0, abs=1e-14)
    assert found["sample_noise"].value == pytest.approx(0, abs=1e-7)
    assert found["gradient_square"].value == pytest.approx(objective.gradient(theta).square().sum().item(), rel=1e-12)
    assert all(estimate.standard_error == pytest.approx(0, abs=1e-7) for estimate in found.values())


def test_examples_that_share_statistics_are_measured_by_minibatches():
    network = networks.resnet18((1, 4, 4), 3, widths=(4,), norm="batch", seed=0)
    objective, theta = problem(network, features(16))
    groups = minibatches(None, 4, 0, N)
    found = sampled(objective, theta, groups)
    assert "sample_noise" not in found and "noise_square" not in found
    gradients = torch.stack([objective.batch(group).gradient(theta) for group in groups])
    mean = gradients.mean(0)
    assert found["logged_gradient"].value == pytest.approx(mean.square().sum().item(), rel=1e-12)
    assert found["gradient_square"].value == found["logged_gradient"].value  # all were seen
    expected = (gradients - mean).square().sum(1).mean().item()
    assert found["logged_noise"].value == pytest.approx(expected, rel=1e-12)
    part = sampled(objective, theta, groups[:2])
    variance = (gradients[:2] - gradients[:2].mean(0)).square().sum().item()  # of one minibatch, k − 1 = 1
    expected = part["logged_gradient"].value - (1 - 8 / 12) * variance / 2
    assert part["gradient_square"].value == pytest.approx(expected, rel=1e-12)
    before = {name: buffer.clone() for name, buffer in objective.buffers.items()}
    sampled(objective, theta, groups)
    assert all(torch.equal(buffer, objective.buffers[name]) for name, buffer in before.items())


def test_a_sample_that_the_data_cannot_give_is_refused(population):
    objective, theta, _ = population
    for options, words in (
        ({"examples": 250, "batch_size": 10}, "250 examples is larger than the data, which have 240"),
        ({"examples": 50, "batch_size": 20}, "does not consist of minibatches of 20"),
        ({"examples": 50, "batch_size": 50}, "two minibatches at least"),
    ):
        with pytest.raises(ValueError, match=words):
            Noise(**options).begin(None, theta).measure(objective.expand(theta), 0.1)


def test_along_a_trajectory_it_draws_anew_resumes_and_moves_nothing(population):
    objective, theta, _ = population

    def rows(steps, state=None, measured=True):
        measurements = [Noise(examples=24, batch_size=12, every=2)] if measured else []
        process = Trajectory(objective, theta, 0.1, 6, measurements, batches=Batches(batch_size=48))
        if state:
            process.load(state)
        found = []
        for _ in range(steps):
            process.step()
            found.append(process.observe())
        return found, process

    found, process = rows(6)
    first, _, second, *_ = [row.get("every_2") for row in found]
    assert first["sample_loss"] != second["sample_loss"]
    assert {name.removesuffix("_se") for name in first} == {name for name in Noise.variables if "_se" not in name}
    assert torch.equal(process.theta, rows(6, measured=False)[1].theta)
    _, half = rows(3)
    assert [r.get("every_2") for r in rows(3, half.state())[0]] == [r.get("every_2") for r in found[3:]]
