"""A watched training loop is the loop that it would be unwatched, and what is seen of it is right."""

import copy
import random

import numpy as np
import pytest
import torch
import xarray as xr
from accelerator import DEVICE, Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import eoslib
from eoslib import store
from eoslib.dynamics.rules import Rule
from eoslib.dynamics.trajectory import Trajectory
from eoslib.measure.curvature import PreconditionedSharpness, Sharpness
from eoslib.measure.noise import Noise
from eoslib.measure.progress import Progress
from eoslib.measure.stochastic_curvature import BatchSharpness
from eoslib.problems import networks
from eoslib.problems.objective import SupervisedObjective


class Block(nn.Module):
    """A ResNet as others write it: batch normalisation, dropout, operations in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv, self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x.view(-1, 1, 4, 4))))
        x = F.relu(self.second(self.conv(x)) + x, inplace=True)
        return self.head(F.dropout(self.drop(x), 0.1, self.training).mean((2, 3)))


class Attentive(nn.Module):
    """A transformer of PyTorch's own layers, whose attention has no second derivative as it is trained."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.2, batch_first=True, activation="gelu")
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.layer(x.view(-1, 4, 4)).mean(1))


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)),
    "resnet": Block,
    "transformer": Attentive,
}
OPTIMISERS = {
    "gd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def data(n=24):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 16, generator=generator), torch.randint(3, (n,), generator=generator)


def trained(make, optimiser, watched, device="cpu", steps=7, **options):
    """Model, optimiser and what was watched, after an ordinary loop over minibatches in a random order."""
    torch.manual_seed(0)
    model = make()
    x, y = data()
    if device != "cpu":
        model = to_device(model)
        x, y = x.to(device), y.to(device)
    optimiser = optimiser(model.parameters())
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)

    def loop():
        t = 0
        while t < steps:
            for inputs, labels in loader:
                optimiser.zero_grad()
                F.cross_entropy(model(inputs), labels).backward()
                optimiser.step()
                t += 1

    if not watched:
        loop()
        return model, optimiser, None
    with eoslib.watch(model, F.cross_entropy, (x, y), every=2, **options) as w:
        loop()
    return model, optimiser, w


def to_device(model):
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach().to(DEVICE))
        for name, buffer in list(module._buffers.items()):
            module._buffers[name] = buffer.to(DEVICE)
    return model


def bits(model, optimiser):
    """All that the next step depends on, and the generators."""
    state = {f"model {name}": t for name, t in model.state_dict().items()}
    state |= {f"gradient {name}": p.grad for name, p in model.named_parameters()}
    for i, p in enumerate(model.parameters()):
        state |= {f"optimiser {i} {name}": v for name, v in optimiser.state.get(p, {}).items()}
    state = {name: v.tolist() for name, v in state.items() if v is not None}
    modes = [module.training for module in model.modules()]
    return state, modes, torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("make", MODELS)
def test_watching_changes_no_bit_of_the_training(make, optimiser):
    random.seed(0)
    np.random.seed(0)
    expected = bits(*trained(MODELS[make], OPTIMISERS[optimiser], watched=False)[:2])
    also = [BatchSharpness(batch_size=4, minibatches=2, every=3)]
    model, opt, w = trained(MODELS[make], OPTIMISERS[optimiser], watched=True, also=also)
    assert bits(model, opt) == expected
    name = "preconditioned_sharpness" if optimiser == "adam" else "sharpness"
    assert w.trace.every_2.values.tolist() == [0, 2, 4, 6, 8] and np.isfinite(w.trace[name]).all()
    assert np.isfinite(w.trace.relative_progress).all() and np.isfinite(w.trace.batch_sharpness).all()


@pytest.mark.parametrize("make", MODELS)
def test_neither_does_it_on_an_accelerator_and_sees_the_same_as_on_the_cpu(make):
    _, _, expected = trained(MODELS[make], OPTIMISERS["gd"], watched=True)
    with Accelerator():
        unwatched = bits(*trained(MODELS[make], OPTIMISERS["gd"], watched=False, device=DEVICE)[:2])
        model, optimiser, w = trained(MODELS[make], OPTIMISERS["gd"], watched=True, device=DEVICE)
        assert bits(model, optimiser) == unwatched
    xr.testing.assert_identical(w.trace, expected.trace)


def whole(network, loss, x, y, optimiser, steps, **options):
    """Watched training on all data at once, which is also what is measured."""
    with eoslib.watch(network, loss, (x, y), **options) as w:
        for _ in range(steps):
            optimiser.zero_grad()
            loss(network(x), y).backward()
            optimiser.step()
    return w


@pytest.mark.parametrize("rule", [("SGD", {"momentum": 0.5}), ("Adam", {}), ("RMSprop", {"centered": True})])
def test_it_sees_what_a_trajectory_observes(rule):
    """Every step, in double precision: where a step arrives is where the next begins."""
    name, options = rule
    x, y = data()
    x = x.double()
    network = networks.mlp(16, (8,), 3, "tanh", seed=0).double()
    sharpness = (Sharpness if name == "SGD" else PreconditionedSharpness)(eigenvalues=2)
    objective = SupervisedObjective(copy.deepcopy(network), x, y, "cross-entropy")
    trajectory = Trajectory(
        objective, networks.flatten(network), 0.01, 12, (Progress(), sharpness), rule=Rule(name=name, options=options)
    )
    rows = []
    while not trajectory.finished:
        trajectory.step()
        rows.append((trajectory.t - 1, trajectory.observe()))
    expected = store.trace_of(rows, trajectory.variables)
    optimiser = getattr(torch.optim, name)(network.parameters(), lr=0.01, **options)
    w = whole(network, F.cross_entropy, x, y, optimiser, 12, every=1, eigenvalues=2)
    assert set(expected) < set(w.trace) and w.trace.attrs["examples"] == 24
    for variable in expected:
        np.testing.assert_allclose(w.trace[variable], expected[variable], rtol=1e-6, atol=1e-8, err_msg=variable)
    assert (w.objective.gradients, w.objective.products) == (objective.gradients, objective.products)


@pytest.mark.parametrize("make", MODELS)
def test_its_sharpness_is_that_of_the_hessian(make):
    """Of f as a function: without dropout, normalised by the batch; the Hessian by differences of gradients."""
    torch.manual_seed(0)
    model = MODELS[make]().double()
    x, y = data()
    x = x.double()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    deterministic = copy.deepcopy(model)
    for module in deterministic.modules():
        module.training = isinstance(module, nn.BatchNorm2d)
    theta = nn.utils.parameters_to_vector(deterministic.parameters()).detach()

    def gradient(at):
        nn.utils.vector_to_parameters(at, deterministic.parameters())
        found = torch.autograd.grad(F.cross_entropy(deterministic(x), y), list(deterministic.parameters()))
        return torch.cat([g.flatten() for g in found])

    step = 1e-5
    columns = [gradient(theta + step * e) - gradient(theta - step * e) for e in torch.eye(len(theta)).double()]
    hessian = torch.stack(columns) / (2 * step)
    w = whole(model, F.cross_entropy, x, y, optimiser, 1)
    np.testing.assert_allclose(w.trace.sharpness.values, torch.linalg.eigvalsh(hessian)[-1:], rtol=1e-3)
    np.testing.assert_allclose(w.trace.gradient_norm.values, gradient(theta).norm()[None], rtol=1e-9)


def test_a_step_size_that_a_scheduler_changes_is_followed():
    model, (x, y) = MODELS["mlp"](), data()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 2, 0.5)
    with eoslib.watch(model, F.cross_entropy, (x, y), every=2) as w:
        for _ in range(4):
            optimiser.step(lambda: F.cross_entropy(model(x), y).backward())
            scheduler.step()
    assert w.trace.eta.values.tolist() == [0.2, 0.1]
    np.testing.assert_allclose(w.trace.threshold, [15, 30])


def test_a_loader_is_measured_on_a_sample_and_draws_nothing():
    x, y = data()
    loader = DataLoader(TensorDataset(x, y), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(3))
    models = [MODELS["mlp"](), MODELS["mlp"]()]
    before = loader.generator.get_state(), torch.get_rng_state()
    watched = [eoslib.watch(model, F.cross_entropy, loader, examples=10) for model in models]
    first, second = (w.objective for w in watched)
    assert torch.equal(first.inputs, second.inputs) and len(first.inputs) == len(first.labels) == 10
    rows = [torch.nonzero((x == row).all(1)).item() for row in first.inputs]
    assert len(set(rows)) == 10 and torch.equal(first.labels, y[rows])
    assert torch.equal(before[0], loader.generator.get_state()) and torch.equal(before[1], torch.get_rng_state())


def test_what_is_frozen_is_no_part_of_theta():
    torch.manual_seed(0)
    model, (x, y) = MODELS["mlp"](), data()
    model[0].requires_grad_(False)
    optimiser = torch.optim.SGD(model[2].parameters(), lr=0.1)
    w = whole(model, F.cross_entropy, x, y, optimiser, 1)
    head = w.objective.network.copied[2]  # as it was before the step
    of_features = SupervisedObjective(head, torch.tanh(model[0](x)).detach(), y, F.cross_entropy)
    expected = of_features.evaluate(networks.flatten(head)).gradient.norm().item()
    assert w.trace.gradient_norm.item() == pytest.approx(expected, rel=1e-5)


def test_gradient_noise_is_measured_on_request_and_a_table_is_saved(tmp_path):
    model, (x, y) = MODELS["mlp"](), data()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    w = whole(model, F.cross_entropy, x, y, optimiser, 5, every=2, also=[Noise(batch_size=4, every=4)])
    assert w.trace.noise_square.dims == ("every_4",) and (w.trace.noise_square > 0).all()
    w.save(tmp_path / "w.nc")
    with xr.open_dataset(tmp_path / "w.nc") as saved:
        xr.testing.assert_identical(saved.load(), w.trace)
    assert "largest stable sharpness" in saved.threshold.long_name


def test_nothing_is_watched_outside_the_block_and_no_other_model():
    model, other, (x, y) = MODELS["mlp"](), MODELS["mlp"](), data()
    optimiser, others = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, other))
    w = whole(model, F.cross_entropy, x, y, others, 3)
    assert w.rows == []
    with w:
        F.cross_entropy(other(x), y).backward()
        others.step()
    optimiser.step()
    assert w.rows == [] and w.t == 0


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g


ONCE = {"Once": Once.apply, "Cdist": lambda x: torch.cdist(x, torch.eye(3), p=3.0)}


@pytest.mark.parametrize("name", ONCE)
def test_an_operation_without_second_derivative_is_named(name):
    class Model(nn.Linear):
        def forward(self, x):
            return ONCE[name](super().forward(x))

    model, (x, y) = Model(16, 3), data()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match=f"cannot be differentiated twice, for .*{name}"):
        whole(model, F.cross_entropy, x, y, optimiser, 1)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"data": (torch.ones(3, 16), torch.ones(2))}, "3 inputs with 2 labels"),
        ({"data": torch.ones(3, 16)}, "pair"),
        ({"data": DataLoader(TensorDataset(*data()))}, "how many examples"),
        ({"data": DataLoader(TensorDataset(*data())), "examples": 25}, "25 examples cannot be drawn"),
        ({"data": data(), "examples": 5}, "measured whole"),
        ({"data": data(), "also": [Noise(batch_size=4, every="epoch")]}, "'epoch' is no cadence"),
    ],
)
def test_what_cannot_be_watched_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        eoslib.watch(MODELS["mlp"](), F.cross_entropy, **given)


def test_an_optimiser_of_a_part_is_refused():
    model, (x, y) = MODELS["mlp"](), data()
    with pytest.raises(ValueError, match="2 of 4 parameter tensors"):
        whole(model, F.cross_entropy, x, y, torch.optim.SGD(model[0].parameters(), lr=0.1), 1)
    with pytest.raises(ValueError, match="no parameter"):
        eoslib.watch(model.requires_grad_(False), F.cross_entropy, (x, y))


def test_a_picture_is_drawn(tmp_path):
    model, (x, y) = MODELS["mlp"](), data()
    w = whole(model, F.cross_entropy, x, y, torch.optim.Adam(model.parameters(), lr=0.01), 5, every=2)
    w.plot(tmp_path / "w.png")
    assert (tmp_path / "w.png").stat().st_size > 5000
