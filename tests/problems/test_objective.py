"""eoslib.problems.objective: derivatives against torch.func, finite differences and closed forms, in float64."""

import copy
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, hessian, jvp

from eoslib.measure.curvature import top_eigenpairs
from eoslib.problems import datasets, networks
from eoslib.problems import objective as objective_module
from eoslib.problems.landscapes import LANDSCAPES
from eoslib.problems.losses import BINARY_LOSSES, LOSSES
from eoslib.problems.objective import MixedExpansion, Objective, SupervisedObjective


def problem(loss, hidden=(5,), n=12, d=4, activation="tanh", seed=0):
    """A small network on random data of 3 classes, or 2 for a binary loss: its objective and initial θ, in float64."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, d, generator=generator, dtype=torch.float64)
    classes, outputs = (2, 1) if loss in BINARY_LOSSES else (3, 3)
    labels = torch.randint(classes, (n,), generator=generator)
    network = networks.mlp(d, hidden, outputs, activation, seed=seed).double()
    return SupervisedObjective(network, inputs, labels, loss), networks.flatten(network)


def f(objective):
    return lambda theta: objective.forward(theta)[0]


def direction(theta, seed=1):
    return torch.randn(len(theta), generator=torch.Generator().manual_seed(seed), dtype=theta.dtype)


def sharpness(objective, theta):
    """As the library measures it, to rounding."""
    point = objective.expand(theta)
    return top_eigenpairs(point.hvp, direction(theta)[None], tolerance=1e-9)


# --- derivatives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["tanh", "swish"])
def test_gradient_and_products_are_those_of_torch_func(loss, activation):
    objective, theta = problem(loss, activation=activation)
    point = objective.expand(theta)
    torch.testing.assert_close(point.gradient, grad(f(objective))(theta), rtol=1e-12, atol=1e-14)
    dense = hessian(f(objective))(theta)
    products = torch.stack([point.hvp(e) for e in torch.eye(len(theta), dtype=theta.dtype)])
    torch.testing.assert_close(products, dense, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
def test_third_derivative_is_that_of_the_quadratic_form(loss):
    objective, theta = problem(loss)
    u, v, h = direction(theta, 1), direction(theta, 2), 1e-5
    third = objective.expand(theta).third(u)

    def form(at):
        return u @ objective.expand(at).hvp(u)

    difference = (form(theta + h * v) - form(theta - h * v)) / (2 * h)
    torch.testing.assert_close(third @ v, difference, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_third_derivative_along_the_top_eigenvector_is_the_gradient_of_the_sharpness(loss):
    """∇S = ∇³f(u, u), Damian et al. 2023, section 3."""
    objective, theta = problem(loss)
    spectrum = sharpness(objective, theta)
    third = objective.expand(theta).third(spectrum.vectors[0])
    v, h = direction(theta, 2), 1e-4
    v = v / v.norm()
    above, below = (sharpness(objective, theta + s * h * v).values[0] for s in (1, -1))
    torch.testing.assert_close(third @ v, (above - below) / (2 * h), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_expansion_says_what_an_evaluation_says(loss):
    objective, theta = problem(loss)
    at, point = objective.evaluate(theta), objective.expand(theta)
    assert torch.equal(at.value, point.value) and torch.equal(at.value, objective.value(theta))
    assert torch.equal(at.gradient, point.gradient) and torch.equal(at.gradient, objective.gradient(theta))
    assert torch.equal(at.outputs, point.outputs)
    assert torch.equal(point.theta, theta)
    assert not any(x.requires_grad for x in (*at, point.value, point.gradient, point.outputs, point.theta, theta))


@pytest.mark.parametrize("name", LANDSCAPES)
@given(data=st.data())
def test_any_scalar_function_will_do(name, data):
    d = LANDSCAPES[name].dimension
    theta = torch.tensor(data.draw(st.lists(st.floats(-2, 2), min_size=d, max_size=d)), dtype=torch.float64)
    point = Objective(LANDSCAPES[name].f).expand(theta)
    assert point.outputs is None
    torch.testing.assert_close(point.gradient, grad(LANDSCAPES[name].f)(theta), rtol=1e-12, atol=1e-12)


# --- closed forms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "factor"), [("mse-sum", 2), ("mse-half-sum", 1)])
def test_linear_regression_has_the_gram_matrix_for_a_hessian(loss, factor):
    """Of the squared error, with or without ½, in a linear network: factor · X̃ᵀX̃/n for each class, X̃ with a 1."""
    objective, theta = problem(loss, hidden=())
    extended = torch.cat([objective.inputs, torch.ones(12, 1, dtype=torch.float64)], 1)
    gram = extended.T @ extended / 12
    top = torch.linalg.eigvalsh(gram)[-1] * factor
    torch.testing.assert_close(sharpness(objective, theta).values[0], top, rtol=1e-12, atol=0)
    every = torch.linalg.eigvalsh(hessian(f(objective))(theta))
    expected = factor * torch.linalg.eigvalsh(gram).repeat_interleave(3)
    torch.testing.assert_close(every, expected, rtol=1e-10, atol=1e-12)


def test_softmax_regression_has_the_covariance_of_its_probabilities_in_the_hessian():
    """∇²f = 1/n Σᵢ (diag pᵢ − pᵢpᵢᵀ) ⊗ x̃ᵢx̃ᵢᵀ."""
    objective, theta = problem("cross-entropy", hidden=())
    p = objective.evaluate(theta).outputs.softmax(1)
    extended = torch.cat([objective.inputs, torch.ones(12, 1, dtype=torch.float64)], 1)
    blocks = [
        torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(x, x)) for q, x in zip(p, extended, strict=True)
    ]
    top = torch.linalg.eigvalsh(torch.stack(blocks).mean(0))[-1]
    torch.testing.assert_close(sharpness(objective, theta).values[0], top, rtol=1e-12, atol=0)


def test_the_losses_by_hand():
    outputs, labels = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]], dtype=torch.float64), torch.tensor([0, 2])
    assert LOSSES["mse-sum"](outputs, labels).item() == pytest.approx((4 + 0.25 + 1) / 2, rel=1e-15)
    assert LOSSES["mse-half-sum"](outputs, labels).item() == pytest.approx((4 + 0.25 + 1) / 4, rel=1e-15)
    expected = (torch.logsumexp(outputs, 1) - outputs[[0, 1], labels]).mean()
    torch.testing.assert_close(LOSSES["cross-entropy"](outputs, labels), expected)


def test_the_binary_losses_by_hand():
    outputs, labels = torch.tensor([[0.5], [-3.0], [2.0]], dtype=torch.float64), torch.tensor([0, 0, 1])
    assert LOSSES["mse-binary"](outputs, labels).item() == pytest.approx((1.5**2 + 2**2 + 1) / 3, rel=1e-15)
    expected = torch.tensor([0.5, -3.0, -2.0], dtype=torch.float64).exp().log1p().mean()  # the exponents are −yf
    torch.testing.assert_close(LOSSES["logistic"](outputs, labels), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("factor", [1e3, 1e300])
def test_the_logistic_loss_of_large_outputs_is_linear_or_zero(factor):
    outputs = torch.tensor([[factor], [-factor]], dtype=torch.float64)
    for labels, expected in ((torch.tensor([1, 0]), 0.0), (torch.tensor([0, 1]), factor)):
        assert LOSSES["logistic"](outputs, labels).item() == pytest.approx(expected, rel=1e-15)


def test_logistic_regression_is_softmax_regression_with_the_difference_of_two_outputs():
    outputs = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    difference = outputs[:, 1:] - outputs[:, :1]
    torch.testing.assert_close(LOSSES["logistic"](difference, labels), LOSSES["cross-entropy"](outputs, labels))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [1, 700])
def test_four_derivatives_of_the_losses_in_every_mix_of_modes(loss, size):
    """Along a line of outputs, against finite differences; outputs of about 700 are certain of their class."""
    generator, h, t = torch.Generator().manual_seed(0), 1e-5, torch.zeros((), dtype=torch.float64)
    outputs, direction = torch.randn(2, 6, 1 if loss in BINARY_LOSSES else 3, generator=generator, dtype=t.dtype)
    labels = torch.tensor([0, 1, 1, 0, 1, 0])

    def reverse(f):
        return lambda t: grad(f)(t)

    def forward(f):
        return lambda t: jvp(f, (t,), (torch.ones_like(t),))[1]

    for modes in product([forward, reverse], repeat=4):

        def f(t):
            return LOSSES[loss](size * outputs + t * direction, labels)

        for mode in modes:
            difference = (f(t + h) - f(t - h)) / (2 * h)
            f = mode(f)
            torch.testing.assert_close(f(t), difference, rtol=1e-7, atol=1e-7 * size)


@pytest.mark.parametrize("loss", BINARY_LOSSES)
def test_a_binary_loss_needs_one_output_and_two_classes(loss):
    with pytest.raises(ValueError, match="one output for each example, not 2"):
        LOSSES[loss](torch.zeros(2, 2), torch.tensor([0, 1]))
    network = networks.mlp(64, (), 1, "tanh", seed=0)
    with pytest.raises(ValueError, match=f"the loss {loss} is for two classes; digits has 10"):
        SupervisedObjective.of(network, datasets.load("digits", 10), loss, torch.device("cpu"), torch.float64)
    digits = datasets.load("digits", 10, classes=(3, 8))
    objective = SupervisedObjective.of(network, digits, loss, torch.device("cpu"), torch.float64)
    assert torch.isfinite(objective.value(networks.flatten(network)))


def test_tokens_stay_integers():
    tokens = torch.randint(5, (6, 4), generator=torch.Generator().manual_seed(0))
    data = datasets.Dataset("made up", tokens, torch.tensor([0, 1, 0, 1, 1, 0]), 2, "", None)
    network = networks.transformer(5, 4, 1, 6, 2, 1, seed=0)
    objective = SupervisedObjective.of(network, data, "logistic", torch.device("cpu"), torch.float64)
    theta = networks.flatten(network)
    assert theta.dtype == torch.float64 and torch.equal(objective.inputs, tokens)
    assert objective.inputs.dtype == torch.int64
    # the last layer starts at zero, so f = log 2 and only that layer has a gradient
    at = objective.batch(torch.tensor([1, 0, 3])).evaluate(theta)
    assert at.value.item() == pytest.approx(torch.tensor(2.0, dtype=torch.float64).log().item(), rel=1e-15)
    assert torch.all(at.gradient[:-7] == 0) and torch.all(at.gradient[-7:] != 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_a_mean_over_examples(loss):
    objective, theta = problem(loss)
    singles = [objective.batch(torch.tensor([i])).evaluate(theta) for i in range(12)]
    whole = objective.evaluate(theta)
    torch.testing.assert_close(torch.stack([s.value for s in singles]).mean(), whole.value)
    torch.testing.assert_close(torch.stack([s.gradient for s in singles]).mean(0), whole.gradient)


# --- batches, counters, errors ---------------------------------------------------------------------------


def test_a_batch_is_the_loss_on_its_examples_alone():
    objective, theta = problem("cross-entropy")
    chosen = torch.tensor([7, 2, 2, 11])
    batch = objective.batch(chosen)
    outputs = objective.evaluate(theta).outputs[chosen]
    torch.testing.assert_close(batch.value(theta), LOSSES["cross-entropy"](outputs, objective.labels[chosen]))
    assert torch.equal(batch.labels, objective.labels[chosen])


def test_work_is_counted():
    objective, theta = problem("mse-sum")
    objective.value(theta)
    assert (objective.gradients, objective.products) == (0, 0)
    objective.evaluate(theta)
    objective.gradient(theta)
    point = objective.expand(theta)
    assert (objective.gradients, objective.products) == (3, 0)
    point.hvp(theta)
    assert (objective.gradients, objective.products) == (3, 1)
    point.third(theta)
    assert (objective.gradients, objective.products) == (3, 3)
    batch = objective.batch(torch.tensor([0]))
    batch.gradient(theta)
    assert (objective.gradients, batch.gradients) == (3, 1)


def test_an_unknown_loss_lists_the_known_ones():
    objective, _ = problem("mse-sum")
    with pytest.raises(ValueError, match=r"'hinge'.*cross-entropy, mse-half-sum, mse-sum"):
        SupervisedObjective(objective.network, objective.inputs, objective.labels, "hinge")


def test_theta_of_another_length_is_refused():
    objective, theta = problem("mse-sum")
    with pytest.raises(RuntimeError):
        objective.value(theta[:-1])


def test_a_mixed_expansion_takes_from_each_precision_what_it_should():
    double, theta = problem("cross-entropy")
    single = SupervisedObjective(
        copy.deepcopy(double.network).float(), double.inputs.float(), double.labels, double.loss
    )
    exact, rough = double.expand(theta), single.expand(theta.float())
    mixed = MixedExpansion(exact, rough)
    u, v = torch.randn(2, len(theta), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(
        [mixed.value, mixed.gradient, mixed.hvp(u)], [exact.value, exact.gradient, exact.hvp(u)], rtol=0, atol=0
    )
    for name, along in {"rough": (u,), "third": (u, v), "fourth": (u,)}.items():
        found, expected = getattr(mixed, name)(*along), getattr(exact, name)(*along)
        assert found.dtype == torch.float64 and not torch.equal(found, expected)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    torch.testing.assert_close(exact.rough(u), exact.hvp(u), rtol=0, atol=0)


def test_many_examples_are_taken_part_by_part(monkeypatch):
    """Seven at a time, the last part being smaller: what is held is less, what is found the same."""
    f, theta = problem("mse-sum", n=30)
    u, v = torch.randn(2, len(theta), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def everything():
        at = f.expand(theta)
        seen = [at.value, at.gradient, at.outputs, at.hvp(u), at.third(u), at.third(u, v), at.fourth(u)]
        return [*f.evaluate(theta), *seen]

    whole, counted = everything(), (f.gradients, f.products)
    monkeypatch.setattr(objective_module, "CHUNK", 7)
    assert [len(part.inputs) for _, part in f.parts()] == [7, 7, 7, 7, 2]
    torch.testing.assert_close(everything(), whole, rtol=1e-12, atol=1e-12)
    assert (f.gradients, f.products) == (2 * counted[0], 2 * counted[1])


# --- running statistics ----------------------------------------------------------------------------------


def normalised(n=12, norm=networks.BatchNorm):
    """A small network with batch normalisation on random images: objective, θ and the network as a plain module."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 18, generator=generator, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [torch.nn.Unflatten(1, (2, 3, 3)), torch.nn.Conv2d(2, 3, 2), norm(3), torch.nn.Tanh()]
        network = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(12, 3)).double()
    objective = SupervisedObjective(network, inputs, torch.arange(n) % 3, "cross-entropy")
    return objective, networks.flatten(network), copy.deepcopy(network)


def copied(buffers):
    return {name: buffer.clone() for name, buffer in buffers.items()}


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("chunk", [5_000, 7])
@pytest.mark.parametrize("norm", [networks.BatchNorm, torch.nn.BatchNorm2d])
def test_an_evaluation_moves_nothing(norm, chunk, monkeypatch):
    monkeypatch.setattr(objective_module, "CHUNK", chunk)
    objective, theta, module = normalised(norm=norm)
    before = copied(objective.buffers)
    assert len(before) == 3
    point = objective.expand(theta)
    first = [*objective.evaluate(theta), objective.value(theta), point.hvp(theta)]
    objective.gradient(theta)
    point.third(theta), point.fourth(theta)
    objective.forward(theta), objective.forward(theta, training=False), objective.forward(theta, True, training=False)
    objective.batch(torch.arange(5)).evaluate(theta)
    assert_same(objective.buffers, before)
    assert_same(dict(objective.network.named_buffers()), dict(module.named_buffers()))
    assert_same([*objective.evaluate(theta), objective.value(theta), objective.expand(theta).hvp(theta)], first)


def test_five_training_steps_are_those_of_a_plain_loop():
    """Minibatch SGD with nn.BatchNorm2d, and evaluations in between: θ, the running statistics, held-out outputs."""
    objective, theta, _ = normalised()
    _, _, peer = normalised(norm=torch.nn.BatchNorm2d)
    held, optimiser = dict(objective.buffers), torch.optim.SGD(peer.parameters(), 0.1)
    for i in range(5):
        chosen = (torch.arange(4) + 3 * i) % 12
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(peer(objective.inputs[chosen]), objective.labels[chosen]).backward()
        optimiser.step()

        batch = objective.batch(chosen)
        theta = theta - 0.1 * batch.evaluate(theta, moves=True).gradient
        batch.value(theta), objective.expand(theta).hvp(theta)

        torch.testing.assert_close(theta, networks.flatten(peer), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(objective.buffers, dict(peer.named_buffers()), rtol=1e-11, atol=1e-12)
    assert all(objective.buffers[name] is buffer and not buffer.requires_grad for name, buffer in held.items())
    others = objective.inputs.flip(1)
    held_out = SupervisedObjective(objective.network, others, objective.labels, "cross-entropy", objective.buffers)
    outputs = held_out.forward(theta, training=False)[1]
    torch.testing.assert_close(outputs, peer.eval()(others), rtol=1e-11, atol=1e-12)
    assert (outputs - held_out.forward(theta)[1]).abs().max() > 0.01


def test_a_training_evaluation_says_what_any_other_says():
    objective, theta, _ = normalised()
    expected, hvp = objective.evaluate(theta), objective.expand(theta).hvp(theta)
    assert_same([*objective.evaluate(theta, moves=True)], [*expected])
    point = objective.expand(theta)  # from statistics that have moved
    assert_same([point.value, point.gradient, point.outputs, point.hvp(theta)], [*expected, hvp])
    for any_other in (problem("mse-sum")[0], Objective(torch.sum)):
        theta = torch.zeros(43, dtype=torch.float64)
        assert_same([*any_other.evaluate(theta, moves=True)], [*any_other.evaluate(theta)])
        assert_same(any_other.expand(theta).gradient, any_other.gradient(theta))


@pytest.mark.parametrize("chunk", [5_000, 7])
def test_products_see_that_the_statistics_are_those_of_theta(chunk, monkeypatch):
    """The dense Hessian, whole and in parts of seven, against finite differences of value and gradient."""
    monkeypatch.setattr(objective_module, "CHUNK", chunk)
    objective, theta, _ = normalised()
    point, h, unit = objective.expand(theta), 1e-5, torch.eye(len(theta), dtype=theta.dtype)

    def differences(of):
        return torch.stack([(of(theta + h * e) - of(theta - h * e)) / (2 * h) for e in unit])

    torch.testing.assert_close(point.gradient, differences(objective.value), rtol=1e-7, atol=1e-9)
    dense = torch.stack([point.hvp(e) for e in unit])
    torch.testing.assert_close(dense, differences(objective.gradient), rtol=1e-6, atol=1e-8)
    thirds = torch.stack([point.third(unit[0], e) for e in unit])
    torch.testing.assert_close(thirds, differences(lambda at: objective.expand(at).hvp(unit[0])), rtol=1e-6, atol=1e-7)


def test_each_part_has_statistics_of_its_own(monkeypatch):
    """However f is computed: of 12 examples the first seven, then the last five; the running ones move so, too."""
    objective, theta, peer = normalised(norm=torch.nn.BatchNorm2d)
    monkeypatch.setattr(objective_module, "CHUNK", 7)
    outputs = torch.cat([peer(objective.inputs[:7]), peer(objective.inputs[7:])]).detach()
    value = LOSSES["cross-entropy"](outputs, objective.labels)
    at, point = objective.evaluate(theta, moves=True), objective.expand(theta)
    for found in (objective.forward(theta), at, (point.value, point.gradient, point.outputs)):
        torch.testing.assert_close((found[0], found[-1]), (value, outputs), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(objective.buffers, dict(peer.named_buffers()), rtol=1e-12, atol=1e-12)
    assert all(part.buffers is objective.buffers for _, part in objective.parts())


def test_held_out_examples_are_seen_as_by_a_module_in_evaluation_mode(monkeypatch):
    objective, theta, module = normalised()
    for _ in range(3):
        objective.evaluate(theta, moves=True)
        module(objective.inputs)
    for chunk in (5_000, 7):
        monkeypatch.setattr(objective_module, "CHUNK", chunk)
        value, outputs = objective.forward(theta, training=False)
        torch.testing.assert_close(outputs, module.eval()(objective.inputs), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(value, LOSSES["cross-entropy"](outputs, objective.labels))


def test_buffers_follow_the_objective_s_device_and_type_and_may_be_shared():
    network, digits = networks.resnet18((1, 8, 8), 10, (4, 4), norm="batch", seed=0), datasets.load("digits", 20)
    objective = SupervisedObjective.of(network, digits, "cross-entropy", torch.device("cpu"), torch.float64)
    floating = [b for b in objective.buffers.values() if b.is_floating_point()]
    assert len(floating) == 2 * 10 and all(b.dtype == torch.float64 for b in floating)
    other = SupervisedObjective.of(
        network, digits, "cross-entropy", torch.device("cpu"), torch.float64, objective.buffers
    )
    other.evaluate(networks.flatten(network), moves=True)
    assert objective.buffers["stem.1.num_batches_tracked"] == 1
    assert network.stem[1].num_batches_tracked == 0


def test_a_network_without_buffers_is_called_as_it_stands(monkeypatch):
    """Once, on the inputs themselves, however many there are: the bits are what they were."""
    objective, theta = problem("cross-entropy")
    monkeypatch.setattr(objective_module, "CHUNK", 7)
    assert objective.buffers == {} and objective.batch(torch.arange(3)).buffers is objective.buffers
    calls = []
    objective.network.register_forward_hook(lambda module, inputs, output: calls.append((*inputs, output)))
    _, outputs = objective.forward(theta)
    ((inputs, output),) = calls
    assert inputs is objective.inputs and output is outputs
