"""eoslib.problems.batches: which examples a step sees, how they are augmented, and the noise that is added."""

import json
import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from eoslib.problems import networks
from eoslib.problems.batches import Batches
from eoslib.problems.objective import Objective, SupervisedObjective


class Watched(nn.Module):
    """A linear network of images that remembers each batch which it was given."""

    def __init__(self, shape=(2, 4, 5)):
        super().__init__()
        self.shape, self.seen = shape, []
        self.head = nn.Linear(math.prod(shape), 3)

    def forward(self, x):
        self.seen.append(x)
        return self.head(x)


def problem(n=12, shape=(2, 4, 5)):
    """An objective on images, all pixels of which differ, and θ."""
    network = Watched(shape)
    inputs = 1 + torch.arange(n * math.prod(shape), dtype=torch.float32).view(n, -1)
    theta = torch.randn(sum(p.numel() for p in network.parameters()), generator=torch.Generator().manual_seed(0))
    return SupervisedObjective(network, inputs, torch.arange(n) % 3, "cross-entropy"), theta / 1000


def inputs_seen(declared, steps, n=12, seed=0, shape=(2, 4, 5)):
    """The inputs of each step."""
    objective, theta = problem(n, shape)
    live = declared.begin(objective, seed)
    for _ in range(steps):
        live.see(theta, None)
    return objective.network.seen


def examples_seen(declared, steps, n=12, seed=0):
    """The same as indices, in a network of no images: each input is its own number."""
    network = Watched((1, 1, 1))
    objective = SupervisedObjective(network, torch.arange(float(n))[:, None], torch.arange(n) % 3, "cross-entropy")
    live, ends = declared.begin(objective, seed), []
    assert live.epoch_begins
    for _ in range(steps):
        live.see(torch.zeros(6), None)
        ends.append(live.epoch_begins)
    return [x.flatten().int().tolist() for x in network.seen], ends


# --- which examples --------------------------------------------------------------------------------------


@given(n=st.integers(1, 40), batch_size=st.integers(1, 40), repeats=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_every_epoch_shows_each_example_once_and_each_minibatch_so_many_times(n, batch_size, repeats, seed):
    batch_size = min(batch_size, n)
    length = math.ceil(n / batch_size) * repeats
    taken, ends = examples_seen(Batches(batch_size=batch_size, repeats=repeats), 2 * length, n, seed)
    assert [t for t, end in enumerate(ends) if end] == [length - 1, 2 * length - 1]
    for epoch in (taken[:length], taken[length:]):
        minibatches = epoch[::repeats]
        assert epoch == [batch for batch in minibatches for _ in range(repeats)]
        assert sorted(i for batch in minibatches for i in batch) == list(range(n))
        assert all(len(batch) == batch_size for batch in minibatches[:-1])


@given(
    n=st.integers(2, 30), batch_size=st.integers(1, 30), repeats=st.integers(1, 4), repeat_epochs=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_after_some_epochs_each_minibatch_is_seen_once(n, batch_size, repeats, repeat_epochs, seed):
    """The order of the minibatches stays that without repeats."""
    batch_size = min(batch_size, n)
    length = math.ceil(n / batch_size)
    plain, _ = examples_seen(Batches(batch_size=batch_size), (repeat_epochs + 2) * length, n, seed)
    declared = Batches(batch_size=batch_size, repeats=repeats, repeat_epochs=repeat_epochs)
    repeated = repeat_epochs * length
    taken, ends = examples_seen(declared, repeated * repeats + 2 * length, n, seed)
    assert taken == [batch for batch in plain[:repeated] for _ in range(repeats)] + plain[repeated:]
    epochs = [declared.epoch(n)] * repeat_epochs + [length] * 2
    assert [t + 1 for t, end in enumerate(ends) if end] == np.cumsum(epochs).tolist()


def test_the_seed_determines_the_order_and_every_epoch_has_its_own():
    first, again, other = (examples_seen(Batches(batch_size=5), 6, seed=seed)[0] for seed in (0, 0, 1))
    assert first == again != other
    assert first[:3] != first[3:]


def test_the_order_is_that_of_the_seeds_own_generator():
    generator = torch.Generator().manual_seed(7)
    expected = [b.tolist() for _ in range(2) for b in torch.randperm(12, generator=generator).split(5)]
    assert examples_seen(Batches(batch_size=5), 6, seed=7)[0] == expected


def test_the_order_depends_neither_on_repeats_nor_on_augmentation_nor_on_noise():
    plain, _ = examples_seen(Batches(batch_size=5), 9)
    noisy, _ = examples_seen(Batches(batch_size=5, noise="normal", noise_size=1.0), 9)
    mirrored, _ = examples_seen(Batches(batch_size=5, flip=True), 9)  # of a single pixel nothing shows
    repeated, _ = examples_seen(Batches(batch_size=5, repeats=2, flip=True, noise="uniform", noise_size=1.0), 18)
    assert plain == noisy == mirrored == repeated[::2]
    # of shifted images the largest pixel that is left tells which they were
    shifted = inputs_seen(Batches(batch_size=5, crop=1), 9)
    assert [((x.amax(1) - 1) // 40).int().tolist() for x in shifted] == plain


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_gradient_and_the_loss_are_those_of_the_minibatch(repeats):
    objective, theta = problem()
    live = Batches(batch_size=5, repeats=repeats).begin(objective, 3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3)).split(5)
    for t in range(3 * repeats):
        gradient, loss = live.see(theta, None)
        there = objective.batch(order[t // repeats]).evaluate(theta)
        assert torch.equal(gradient, there.gradient) and torch.equal(loss, there.value)
        theta = theta - 1e-3 * gradient
    assert objective.gradients == 3 * repeats  # and not those that this test took of other batches


def test_the_whole_data_are_seen_as_they_are():
    objective, theta = problem()
    live, whole = Batches(repeats=3).begin(objective, 0), torch.ones_like(theta)
    assert Batches(repeats=3).whole and not Batches(batch_size=12).whole and not Batches(crop=1).whole
    for _ in range(4):
        gradient, loss = live.see(theta, whole)
        assert gradient is whole and loss is None
        assert live.epoch_begins
    assert objective.network.seen == [] and objective.gradients == 0


# --- augmentation ----------------------------------------------------------------------------------------


def variants(image, crop, flip, shape=(2, 4, 5)):
    """All that can become of one image (d,): by shift along rows, along columns, and whether it is mirrored."""
    channels, rows, columns = shape
    image, found = image.view(shape), {}
    for down, right, mirrored in product(*[range(-crop, crop + 1)] * 2, [False, True] if flip else [False]):
        moved = torch.zeros(shape)
        for c, i, j in product(range(channels), range(rows), range(columns)):
            if 0 <= i - down < rows and 0 <= j - right < columns:
                moved[c, i, j] = image[c, i - down, j - right]
        found[down, right, mirrored] = moved.flip(2) if mirrored else moved
    return {key: moved.flatten() for key, moved in found.items()}


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize(("crop", "flip"), [(1, False), (2, True), (0, True)])
def test_each_image_is_one_of_the_shifted_and_mirrored_ones(crop, flip, batch_size):
    images = problem()[0].inputs
    steps, seed, counts = 60, 4, {}
    order = torch.Generator().manual_seed(seed)
    epochs = [torch.randperm(12, generator=order).split(batch_size or 12) for _ in range(steps)]
    chosen = [batch for epoch in epochs for batch in epoch][:steps]
    candidates = [variants(image, crop, flip) for image in images]
    for batch, augmented in zip(
        chosen, inputs_seen(Batches(batch_size=batch_size, crop=crop, flip=flip), steps, seed=seed), strict=True
    ):
        assert augmented.shape == (len(batch), 40)
        for i, image in zip(batch.tolist(), augmented, strict=True):
            (which,) = [key for key, candidate in candidates[i].items() if torch.equal(candidate, image)]
            counts[which] = counts.get(which, 0) + 1
    assert counts.keys() == candidates[0].keys()
    total = sum(counts.values())
    for place in range(3):  # shifts of either axis and mirroring: each value as often as the others
        marginal = {}
        for which, count in counts.items():
            marginal[which[place]] = marginal.get(which[place], 0) + count
        expected = total / len(marginal)
        assert all(abs(count - expected) < 5 * expected**0.5 for count in marginal.values())
    assert all(abs(c - total / len(counts)) < 6 * (total / len(counts)) ** 0.5 for c in counts.values())


def test_without_crop_and_flip_the_images_stay():
    images = problem()[0].inputs
    for x in inputs_seen(Batches(batch_size=5), 3):
        assert all(any(torch.equal(image, row) for image in images) for row in x)


def test_augmentation_is_determined_by_the_seed():
    declared = Batches(batch_size=5, crop=1, flip=True)
    first, again, other = (inputs_seen(declared, 6, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_augmentation_does_not_depend_on_noise():
    plain = inputs_seen(Batches(batch_size=5, crop=1, flip=True), 6)
    noisy = inputs_seen(Batches(batch_size=5, crop=1, flip=True, noise="normal", noise_size=1.0), 6)
    assert all(torch.equal(a, b) for a, b in zip(plain, noisy, strict=True))


def test_augmentation_leaves_the_data_alone():
    objective, theta = problem()
    before = objective.inputs.clone()
    live = Batches(batch_size=12, crop=2, flip=True).begin(objective, 0)
    live.see(theta, None)
    assert torch.equal(objective.inputs, before)


@pytest.mark.parametrize("batch_size", [None, 5])
def test_repeats_see_the_same_images_and_the_next_minibatch_others(batch_size):
    seen = inputs_seen(Batches(batch_size=batch_size, repeats=3, crop=2, flip=True), 12)
    once = inputs_seen(Batches(batch_size=batch_size, crop=2, flip=True), 4)
    assert all(torch.equal(x, once[t // 3]) for t, x in enumerate(seen))
    assert all(len(x) > 0 for x in seen)
    assert not torch.equal(once[0].sort(0).values, once[1].sort(0).values)


# --- noise -----------------------------------------------------------------------------------------------


def noise_of(declared, seed=0, steps=2):
    """What is added to the gradient of a function of many parameters, (steps, p)."""
    live, gradient = declared.begin(Objective(torch.sum), seed), torch.full((100_000,), 3.0, dtype=torch.float64)
    return torch.stack([live.see(gradient, gradient)[0] - gradient for _ in range(steps)])


@pytest.mark.parametrize(("kind", "deviation"), [("uniform", 1 / 3**0.5), ("normal", 1.0)])
@pytest.mark.parametrize("size", [0.02, 5.0])
def test_noise_has_mean_variance_and_range_as_declared(kind, deviation, size):
    noise = noise_of(Batches(noise=kind, noise_size=size)) / size
    count = noise.numel()
    assert abs(noise.mean().item()) < 4 * deviation / count**0.5
    assert noise.std().item() == pytest.approx(deviation, rel=4 / count**0.5)
    kurtosis = (noise**4).mean() / (noise**2).mean() ** 2
    assert kurtosis.item() == pytest.approx({"uniform": 1.8, "normal": 3}[kind], rel=0.03)
    largest = noise.abs().max().item()
    assert 0.999 < largest <= 1 + 1e-9 if kind == "uniform" else largest > 4
    correlation = (noise[0] * noise[1]).mean() / deviation**2  # no step has the noise of another
    assert abs(correlation.item()) < 4 / noise.shape[1] ** 0.5
    assert abs(((noise[0, 1:] * noise[0, :-1]).mean() / deviation**2).item()) < 4 / noise.shape[1] ** 0.5


def test_noise_is_determined_by_the_seed():
    declared = Batches(noise="uniform", noise_size=1.0)
    assert torch.equal(noise_of(declared), noise_of(declared))
    assert not torch.equal(noise_of(declared), noise_of(declared, seed=1))


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_the_noise_of_a_network_is_that_of_a_landscape_beside_its_gradient(batch_size, kind):
    objective, theta = problem()
    whole = torch.ones_like(theta)
    noisy = Batches(batch_size=batch_size, noise=kind, noise_size=0.5).begin(objective, 2)
    plain = Batches(batch_size=batch_size).begin(objective, 2)
    landscape = Batches(noise=kind, noise_size=0.5).begin(Objective(torch.sum), 2)
    for _ in range(4):
        gradient, loss = noisy.see(theta, whole)
        expected, expected_loss = plain.see(theta, whole)
        zero = torch.zeros(len(theta), dtype=torch.float64)
        noise, _ = landscape.see(zero, zero)
        assert gradient.dtype == theta.dtype
        assert torch.equal(gradient, expected + noise.float())
        assert (loss is None) == (expected_loss is None) == (batch_size is None)
        assert loss is None or torch.equal(loss, expected_loss)
    assert whole.unique().tolist() == [1]  # the gradient that was handed over stays


@pytest.mark.parametrize("batch_size", [None, 5])
def test_a_longer_gradient_is_clipped_as_by_torch(batch_size):
    objective, theta = problem()
    whole = objective.gradient(theta)
    gradient, _ = Batches(batch_size=batch_size).begin(objective, 0).see(theta, whole)
    for clip in (0.5 * gradient.norm().item(), 2 * gradient.norm().item()):
        clipped, _ = Batches(batch_size=batch_size, clip=clip).begin(objective, 0).see(theta, whole)
        leaf = theta.clone().requires_grad_()
        leaf.grad = gradient.clone()
        nn.utils.clip_grad_norm_([leaf], clip)
        torch.testing.assert_close(clipped, leaf.grad)


def test_without_noise_its_size_is_nothing():
    objective, theta = problem()
    live = Batches(noise_size=9.0).begin(objective, 0)
    assert live.see(theta, theta)[0] is theta


# --- what is refused, and states -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ({"batch_size": 0}, "batch_size must be 1 to 12, got 0"),
        ({"batch_size": -1}, "batch_size must be 1 to 12, got -1"),
        ({"batch_size": 13}, "batch_size must be 1 to 12, got 13"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"batch_size": 3, "repeats": -2}, "repeats must be at least 1, got -2"),
        ({"crop": -1}, "crop must be at least 0, got -1"),
        ({"clip": 0.0}, "clip must be positive, got 0.0"),
        ({"noise": "laplace"}, "unknown noise 'laplace'; there are uniform, normal"),
    ],
)
def test_what_the_data_cannot_give_is_named(declared, named):
    with pytest.raises(ValueError, match=named):
        Batches(**declared).begin(problem()[0], 0)


@pytest.mark.parametrize("declared", [{"batch_size": 1}, {"crop": 1}, {"flip": True}])
def test_minibatches_and_augmentation_of_a_landscape_are_refused(declared):
    with pytest.raises(ValueError, match="without data"):
        Batches(**declared).begin(Objective(torch.sum), 0)


@pytest.mark.parametrize("declared", [{"crop": 1}, {"flip": True}, {"batch_size": 2, "flip": True}])
def test_augmentation_of_a_network_that_takes_no_images_is_refused(declared):
    objective = SupervisedObjective(
        networks.mlp(4, (3,), 2, "tanh", seed=0), torch.ones(6, 4), torch.zeros(6), "mse-sum"
    )
    with pytest.raises(ValueError, match="crop and flip need a network that takes images"):
        Batches(**declared).begin(objective, 0)


@pytest.mark.parametrize("build", [networks.cnn, networks.resnet18])
def test_networks_of_images_can_be_augmented(build):
    options = {"width": 2} if build is networks.cnn else {"widths": (2,), "norm": "none"}
    network = build((1, 4, 4), 2, seed=0, **options)
    inputs = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    objective = SupervisedObjective(network, inputs, torch.arange(6) % 2, "cross-entropy")
    live, theta = Batches(flip=True).begin(objective, 1), networks.flatten(network)
    theta = theta + torch.randn(len(theta), generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(3)
    torch.randint(1, (2, 6, 1), generator=generator)
    mirrored = torch.rand(6, 1, generator=generator) < 0.5
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    images = torch.where(
        mirrored[..., None, None], inputs[order].view(6, 1, 4, 4).flip(3), inputs[order].view(6, 1, 4, 4)
    )
    by_hand = F.cross_entropy(networks.apply(network, theta, images.flatten(1)), objective.labels[order])
    assert live.see(theta, None)[1].item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert by_hand.item() != pytest.approx(objective.value(theta).item(), rel=1e-4)


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_what_is_restored_goes_on_with_the_same_minibatches_images_and_noise(k, batch_size):
    declared = Batches(batch_size=batch_size, repeats=2, crop=1, flip=True, noise="normal", noise_size=0.1)
    objective, theta = problem()
    live, restored = declared.begin(objective, 5), declared.begin(objective, 6)
    for _ in range(k):
        live.see(theta, None)
    state = live.state()
    then = {name: x.clone() for name, x in state["generators"].items()}
    restored.load(state | json.loads(json.dumps({name: state[name] for name in ("position", "seen")})))
    for _ in range(9):
        assert live.epoch_begins == restored.epoch_begins
        (a, a_loss), (b, b_loss) = live.see(theta, None), restored.see(theta, None)
        assert torch.equal(a, b) and torch.equal(a_loss, b_loss)
    assert all(torch.equal(x, then[name]) for name, x in state["generators"].items())


def test_the_global_generator_is_neither_read_nor_moved():
    declared = Batches(batch_size=5, crop=1, flip=True, noise="uniform", noise_size=1.0)
    torch.manual_seed(1)
    one = inputs_seen(declared, 6)
    torch.manual_seed(1)
    objective, theta = problem()
    live, before = declared.begin(objective, 0), torch.get_rng_state()
    gradients = [live.see(theta, None)[0] for _ in range(6)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    objective, theta = problem()
    again = declared.begin(objective, 0)
    assert all(torch.equal(gradient, again.see(theta, None)[0]) for gradient in gradients)
    assert all(torch.equal(a, b) for a, b in zip(one, objective.network.seen, strict=True))
