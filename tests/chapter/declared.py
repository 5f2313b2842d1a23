"""One small experiment of each kind, with parts of every sort that have none of their defaults."""

import dataclasses

from eoslib import store
from eoslib.chapter.experiments import (
    Descent,
    Experiment,
    Map,
    Phases,
    Pieces,
    Shares,
    Sizes,
    Stabilization,
    Together,
    Uncertain,
    carry_on,
)  # fmt: skip
from eoslib.dynamics.rules import Rule, Schedule
from eoslib.measure.curvature import PreconditionedSharpness, SegmentSharpness, Sharpness
from eoslib.measure.directions import Line, Position
from eoslib.measure.noise import Noise
from eoslib.measure.progress import ExpectedProgress, HeldOut, Loss, Progress, SegmentSmoothness
from eoslib.measure.stochastic_curvature import BatchSharpness, CriticalSharpness, PowerIteration, SampleSharpness
from eoslib.papers.stationarity import Balance, SampleSizes, WeightNorms
from eoslib.problems.batches import Batches
from eoslib.problems.problem import Data, Network, OnLandscape, Training

DIGITS = Data(dataset="digits", n=30)
MLP = Network(architecture="mlp", sizes={"hidden": [6, 5]}, activation="tanh")
PROBLEM = Training(data=DIGITS, network=MLP, loss="mse-half-sum")
LABELS = {"chapter": "test", "experiment": "e"}
SHARPNESS, SEGMENT = Sharpness(every=3, eigenvalues=2), SegmentSmoothness(every=4, nodes=3)
GD = Descent(**LABELS, step_size=2 / 5, steps=12, problem=PROBLEM, measurements=(SHARPNESS, SEGMENT))
SGD = Descent(**LABELS, step_size=0.1, steps=12, problem=PROBLEM, batches=Batches(batch_size=7))
LANDSCAPE = Descent(
    chapter="test", experiment="l", step_size=2 / 41, steps=10, measurements=(Progress(), Position()),
    problem=OnLandscape(landscape="quadratic", start=(1.0, 0.5)),
)  # fmt: skip
BETWEEN = Descent(
    **LABELS, step_size=2 / 5, steps=12, problem=PROBLEM,
    measurements=(Progress(every=2), SegmentSharpness(every=5, points=3)),
)  # fmt: skip
ADAPTIVE = Descent(
    **LABELS, step_size=1e-3, steps=12, problem=PROBLEM, batches=Batches(clip=0.5),
    rule=Rule(name="Adam", options={"betas": [0.9, 0.99], "eps": 1e-7}),
    measurements=(PreconditionedSharpness(every=3, eigenvalues=2, tolerance=1e-3),),
)  # fmt: skip
SCHEDULED = Descent(
    **LABELS, step_size=0.5, steps=12, seed=3, precision="float64", keep=(0, 5, "last"), stop_accuracy=0.99,
    problem=Training(
        data=Data(dataset="digits", n=20, standardisation="per-channel", data_options={"classes": [8, 9]}),
        network=Network(architecture="cnn", sizes={"width": 2}, activation="swish", bias_init="zero", weight_scale=0.9),
        loss="cross-entropy",
    ),
    rule=Rule(name="SGD", options={"momentum": 0.9, "nesterov": True}),
    schedule=Schedule(name="MultiStepLR", options={"milestones": [1, 2], "gamma": 0.5}, advances="epoch"),
    batches=Batches(batch_size=8, repeats=2, crop=1, flip=True, noise="normal", noise_size=1e-3),
    measurements=(
        Loss(every="epoch"), Position(every=(2, 7)), Sharpness(every="end", eigenvalues=2, tolerance=1e-4),
        ExpectedProgress(every=6, batch_size=5, minibatches=4, seed=1),
    ),
)  # fmt: skip
STABLE = Descent(
    **LABELS, step_size=4.0, steps=12, schedule=Schedule(name="inverse-sharpness"),
    problem=Training(
        data=DIGITS, network=Network(architecture="cnn", sizes={"width": 2}, activation="swish", bias_init="zero"),
        loss="mse-sum",
    ),
    measurements=(Sharpness(every=3, eigenvalues=2), HeldOut(every=3, examples=20)),
)  # fmt: skip
WARM = Descent(
    **LABELS, step_size=0.1, steps=12, problem=SCHEDULED.problem, precision="float64", seed=3, start=SCHEDULED,
    start_at=5, keep=(0, 6), batches=Batches(batch_size=8, repeats=2, repeat_epochs=1),
    measurements=(Line(every=(0, 6, 11), points=4),),
)  # fmt: skip
TOGETHER = Together(**LABELS, runs=(WARM, dataclasses.replace(WARM, step_size=0.3)), step_size=0.3, steps=1)
NOISY = Descent(
    **LABELS, step_size=0.1, steps=8, problem=PROBLEM, batches=Batches(batch_size=7),
    measurements=(
        Progress(every=2), Noise(every=3, batch_size=5, examples=20, seed=1),
        SampleSharpness(every=4, batch_size=5, examples=10, seed=2),
        PowerIteration(every=4, batch_size=5, iterations=3, seed=3),
        BatchSharpness(every=3, batch_size=5, minibatches=3, seed=4), CriticalSharpness(every=3), WeightNorms(every=3),
        SampleSizes(every=4, sizes=(6, 10), repeats=2, batch_size=5, seed=5),
        Balance(every=4, batch_size=5, minibatches=3, fractions=(0.5, 1.0), nodes=3, seed=6),
    ),
)  # fmt: skip
MAP = Map(chapter="test", experiment="m", step_size=0.4, steps=4, landscape="f4", box=(-2.0, 3.0, -1.0, 2.0), grid=32)
SIZES = Sizes(
    chapter="test", experiment="a", step_size=0.5, steps=3, landscape="f4", box=(-3.0, 3.0, -3.0, 3.0), grid=64
)
SHARES = Shares(
    chapter="test", experiment="s", step_size=0.5, smallest=0.4, steps=3, landscape="f4", box=(-3.0, 3.0, -3.0, 3.0),
    grid=32,
)  # fmt: skip
PIECES = Pieces(
    chapter="test", experiment="b", step_size=0.5, steps=2, landscape="f4", box=(-3.0, 3.0, -3.0, 3.0), grid=64
)
UNCERTAIN = Uncertain(
    chapter="test", experiment="u", step_size=0.5, steps=3, landscape="f4", box=(-3.0, 3.0, -3.0, 3.0), grid=32
)
PHASES = Phases(
    chapter="test", experiment="p", step_size=0.45, steps=3, ratio=10.0, landscape="f_tm", box=((3.7, 4.5),), runs=4,
    iterations=20, balls=(((0.0,), 2.9), ((4.1,), 0.4)), noise="normal", noise_sizes=(1.0, 5.0), momentum=0.1, seed=1,
)  # fmt: skip
STABILIZATION = Stabilization(
    **LABELS, step_size=2 / 10, steps=12, tracked=100, every=3, also=("assumptions", "central flow"),
    problem=Training(
        data=Data(dataset="digits", n=30, data_options={"classes": [8, 9]}),
        network=Network(architecture="mlp", sizes={"hidden": [8]}, activation="swish", bias_init="zero"),
        loss="mse-binary",
    ),
)  # fmt: skip
OTHERWISE = dataclasses.replace(STABILIZATION, unstable=2, predict_from=0.5, precision="float64", seed=1)

# of images that are not here: `test_images` trains on some
ON_DISK = dataclasses.replace(
    SGD, batches=Batches(batch_size=7, part=True),
    problem=Training(
        data=Data(dataset="image_folder", n=30, standardisation="per-channel", data_options={"n_classes": 3}),
        network=Network(architecture="resnet101", sizes={"widths": [2], "blocks": [1]}, activation="relu"),
        loss="cross-entropy",
    ),
)  # fmt: skip

NAMED = {
    "gd": GD, "sgd": SGD, "landscape": LANDSCAPE, "between": BETWEEN, "adaptive": ADAPTIVE, "scheduled": SCHEDULED,
    "stable": STABLE, "warm": WARM, "together": TOGETHER, "noisy": NOISY, "map": MAP, "sizes": SIZES, "shares": SHARES,
    "pieces": PIECES, "uncertain": UNCERTAIN, "phases": PHASES, "stabilization": STABILIZATION, "otherwise": OTHERWISE,
}  # fmt: skip
EACH = tuple(NAMED.values())


def carried_on(experiment: Experiment) -> store.Run:
    """`carry_on`, after what the experiment builds on."""
    for other in experiment.builds_on:
        carried_on(other)
    return carry_on(experiment)


def changed(experiment: Descent, **fields) -> Descent:
    """The experiment with other fields, wherever they stand: its own, the network's, the data's, the loss."""
    problem = experiment.problem

    def of(part):
        return {k: v for k, v in fields.items() if k in {f.name for f in dataclasses.fields(part)}}

    parts = {"data": dataclasses.replace(problem.data, **of(problem.data))}
    parts["network"] = dataclasses.replace(problem.network, **of(problem.network))
    problem = dataclasses.replace(problem, **parts, **of(problem))
    unknown = fields.keys() - {k for part in (experiment, problem, *parts.values()) for k in of(part)}
    assert not unknown, unknown
    return dataclasses.replace(experiment, problem=problem, **of(experiment))
