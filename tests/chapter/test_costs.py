"""The work of an experiment is counted: by hand here, and without data, without a clock."""

import dataclasses
import time

import pytest
from declared import ADAPTIVE, EACH, GD, LANDSCAPE, MAP, NAMED, SEGMENT, SGD, SHARPNESS, STABILIZATION, changed

from eoslib.measure.curvature import SegmentSharpness, Sharpness
from eoslib.measure.progress import ExpectedProgress, HeldOut, Loss, Progress, SegmentSmoothness
from eoslib.problems import datasets
from eoslib.problems.batches import Batches
from eoslib.problems.problem import OVERHEAD, Data, Network, Training

ALL = pytest.mark.parametrize("experiment", EACH, ids=list(NAMED))
DIGITS, CIFAR = {"dataset": "digits"}, {"dataset": "cifar10"}
SST2 = {"dataset": "sst2", "data_options": {"vocabulary": 50, "length": 7}}


def convolution(side, c_in, c_out, size=3):
    return 2 * side**2 * size**2 * c_in * c_out


def block(side, c_in, c_out):
    """Two convolutions, and a third where the number of channels changes."""
    return (
        convolution(side, c_in, c_out)
        + convolution(side, c_out, c_out)
        + (c_in != c_out) * convolution(side, c_in, c_out, 1)
    )


def encoder(length, width, layers):
    """Queries, keys and values; two products of length × length in all heads; output; two dense layers."""
    return layers * (2 * length * width * 3 * width + 4 * length**2 * width + 3 * 2 * length * width**2)


# data, network, operations of a forward pass of one example; a multiplication and an addition are two
BY_HAND = {
    "mlp": (DIGITS, {"architecture": "mlp", "sizes": {"hidden": [6, 5]}}, 2 * (64 * 6 + 6 * 5 + 5 * 10)),
    "cnn": (
        CIFAR, {"architecture": "cnn", "sizes": {"width": 4}},
        convolution(32, 3, 4) + convolution(16, 4, 4) + 2 * 4 * 8 * 8 * 10,
    ),
    "resnet18": (
        CIFAR, {"architecture": "resnet18", "sizes": {"widths": [4, 8], "norm": "batch"}},
        convolution(32, 3, 4) + 2 * block(32, 4, 4) + block(16, 4, 8) + block(16, 8, 8) + 2 * 8 * 10,
    ),
    "transformer of rows": (
        DIGITS, {"architecture": "transformer", "sizes": {"width": 4, "heads": 2, "layers": 3}},
        2 * 8 * 8 * 4 + encoder(8, 4, 3) + 2 * 4 * 10,
    ),
    "transformer of words": (
        SST2, {"architecture": "transformer", "sizes": {"width": 6, "heads": 1, "layers": 1}},
        encoder(7, 6, 1) + 2 * 6 * 2,  # an embedding is looked up
    ),
}  # fmt: skip


def training(data, network, n=40):
    network = Network(**network, activation="tanh")
    return Training(data=Data(n=n, **data), network=network, loss="cross-entropy")


@pytest.mark.parametrize("examples", [None, 16])
@pytest.mark.parametrize("precision, times", [("float32", 1), ("float64", 2)])
@pytest.mark.parametrize("name", BY_HAND)
def test_the_operations_of_a_gradient_are_those_counted_by_hand(name, precision, times, examples):
    """The backward pass takes twice the forward pass; double precision twice single precision."""
    data, network, forward = BY_HAND[name]
    operations, _ = training(data, network).work(precision, examples)
    assert operations - OVERHEAD == 3 * times * (examples or 40) * forward


def test_a_linear_network_multiplies_its_weights_once_for_all_examples():
    network = {"architecture": "mlp", "sizes": {"hidden": [6, 5]}}
    problem = Training(
        data=Data(dataset="digits", n=40), network=Network(**network, activation="linear"), loss="cross-entropy"
    )
    # weights from the last to the first, and the biases with them; then one map for each example
    weights = 2 * 10 * 5 * 6 + 2 * 10 * 6 * 64
    biases = 2 * 10 * 5 + 2 * 10 * 6
    counted = problem.work("float32")[0] - OVERHEAD - 3 * 2 * 40 * 64 * 10
    assert 3 * weights <= counted <= 3 * (weights + biases)


def test_batch_normalisation_of_a_single_pixel_can_be_counted():
    """One example has no statistics there."""
    sizes = {"widths": [2, 2, 2, 2], "norm": "batch"}
    work = [training(DIGITS, {"architecture": "resnet18", "sizes": sizes}, n).work("float32")[0] for n in (40, 80)]
    assert work[1] - OVERHEAD == 2 * (work[0] - OVERHEAD)


@pytest.mark.parametrize("name", BY_HAND)
def test_memory_holds_the_parameters_and_what_examples_leave(name):
    data, network, _ = BY_HAND[name]
    problem = training(data, network)
    p = sum(parameter.numel() for parameter in problem.build(0).parameters())
    small, large = (problem.work("float32", n)[1] for n in (1, 40))
    assert large > small >= 20 * 4 * p
    assert (large - 20 * 4 * p) == 40 * (small - 20 * 4 * p)
    assert problem.work("float64", 40)[1] == 2 * large


# --- experiments ---------------------------------------------------------------------------------------------


@ALL
def test_work_is_counted_without_data_and_without_a_clock(experiment, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("not here")

    counted = experiment.work()
    monkeypatch.setattr(datasets, "load", refuse)
    for clock in ("time", "perf_counter", "monotonic", "process_time", "perf_counter_ns", "monotonic_ns"):
        monkeypatch.setattr(time, clock, refuse)
    monkeypatch.setattr(type(experiment), "process", refuse)
    assert experiment.work() == counted
    assert all(amount > 0 for amount in counted)


@ALL
def test_more_steps_are_more_work_save_for_bands_of_a_map(experiment):
    longer = dataclasses.replace(experiment, steps=120)
    ratio = 120 * longer.work()[0] / (experiment.steps * experiment.work()[0])
    assert ratio == pytest.approx(1) if experiment is MAP else ratio > 5


@pytest.mark.parametrize(
    "more",
    [{"n": 300}, {"sizes": {"hidden": [60, 50]}}, {"dataset": "cifar10"}, {"precision": "float64"},
     {"measurements": (Sharpness(every=1, eigenvalues=2), SEGMENT)},
     {"measurements": (Sharpness(every=3, eigenvalues=4), SEGMENT)},
     {"measurements": (SHARPNESS, SegmentSmoothness(every=1, nodes=3))},
     {"measurements": (SHARPNESS, SegmentSmoothness(every=4, nodes=30))},
     {"measurements": (SHARPNESS, SEGMENT, SegmentSharpness(every=9, points=2))},
     {"measurements": (SHARPNESS, SEGMENT, HeldOut(every=9, examples=2))},
     {"measurements": (SHARPNESS, SEGMENT, ExpectedProgress(every=9, batch_size=2, minibatches=2))}],
    ids=str,
)  # fmt: skip
def test_work_grows_with_all_that_costs(more):
    operations, memory = GD.work()
    larger = changed(GD, **more).work()
    assert larger[0] > operations
    assert larger[1] >= memory


def test_work_at_given_steps_and_at_the_end_is_that_of_so_many_steps():
    def extra(every, steps=12):
        experiment = dataclasses.replace(GD, steps=steps, measurements=())
        asked = dataclasses.replace(experiment, measurements=(Sharpness(every=every),))
        return steps * (asked.work()[0] - experiment.work()[0])

    once = extra("end")
    assert once == pytest.approx(extra((4,))) == pytest.approx(extra("end", steps=120))
    assert extra((4, 5, 6)) == pytest.approx(3 * once)
    assert extra(6) == pytest.approx(2 * once) and extra(1) == pytest.approx(12 * once)


def test_minibatches_are_less_work_than_all_and_whole_data_is_more_the_more_often_it_is_seen():
    problem = dataclasses.replace(SGD.problem, data=Data(dataset="digits", n=1500))
    large, small = (dataclasses.replace(SGD, problem=problem, batches=Batches(batch_size=b)) for b in (1500, 100))
    assert large.work()[0] > small.work()[0]
    whole, batch = (problem.work("float32", n)[0] for n in (1500, 100))
    assert small.work()[0] == pytest.approx(batch + whole / 15)  # the loss once in an epoch of fifteen steps
    often = dataclasses.replace(small, measurements=(Loss(every=5),))
    assert often.work()[0] == pytest.approx(batch + whole / 5)
    along = dataclasses.replace(small, measurements=(Progress(every=5),))  # both ends of a step
    assert along.work()[0] == pytest.approx(batch + 2 * whole / 5)
    repeated = dataclasses.replace(small, batches=Batches(batch_size=100, repeats=3))
    assert repeated.work()[0] == pytest.approx(batch + whole / 45)
    assert dataclasses.replace(small, batches=Batches(flip=True)).work()[0] > whole


def test_stabilization_is_more_work_the_more_is_tracked_and_observed():
    operations = STABILIZATION.work()[0]
    long = dataclasses.replace(STABILIZATION, steps=1000)
    assert long.work()[0] < operations
    assert dataclasses.replace(long, tracked=500).work()[0] > long.work()[0]
    assert dataclasses.replace(STABILIZATION, every=30).work()[0] < operations
    assert changed(STABILIZATION, architecture="cnn", sizes={"width": 2}).work()[0] > operations


def test_adaptive_methods_and_landscapes_have_their_price():
    assert ADAPTIVE.work()[0] > dataclasses.replace(ADAPTIVE, measurements=()).work()[0]
    assert LANDSCAPE.work()[0] < GD.work()[0]
