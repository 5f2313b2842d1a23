"""eoslib.dynamics.trajectory: against loops written out, measurements at any cadence, states that carry everything."""

import copy
import itertools
import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import carried
from torch import nn
from torch.nn import functional as F

from eoslib import store
from eoslib.dynamics.rules import Rule, Schedule
from eoslib.dynamics.trajectory import Trajectory
from eoslib.measure import host
from eoslib.measure.curvature import PreconditionedSharpness, SegmentSharpness, Sharpness
from eoslib.measure.noise import Noise
from eoslib.measure.progress import (
    ExpectedProgress,
    HeldOut,
    Loss,
    Progress,
    SegmentSmoothness,
    gauss_legendre,
)
from eoslib.measure.stochastic_curvature import PowerIteration
from eoslib.problems import landscapes, networks
from eoslib.problems.batches import Batches
from eoslib.problems.objective import Objective, SupervisedObjective
from eoslib.store import journal


def quadratic(theta):
    return 20 * theta[0] ** 2 + theta[1] ** 2


def start(x=1.0, y=1.0):
    return torch.tensor([x, y], dtype=torch.float64)


def network_problem(dtype=torch.float32, n=20):
    """An objective on fixed random data, and its initial θ."""
    network = networks.mlp(5, (6,), 3, "tanh", seed=0).to(dtype)
    inputs = torch.randn(n, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    return SupervisedObjective(network, inputs, torch.arange(n) % 3, "cross-entropy"), networks.flatten(network)


def image_problem(dtype=torch.float32, n=14, seed=0):
    """The same of a small residual network with batch normalisation."""
    network = networks.resnet18((1, 6, 6), 3, widths=(2, 3), activation="tanh", norm="batch", seed=0).to(dtype)
    inputs = torch.randn(n, 36, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return SupervisedObjective(network, inputs, torch.arange(n) % 3, "cross-entropy"), networks.flatten(network)


def trained(steps=30, step_size=0.5, measured=True):
    objective, theta = network_problem()
    measurements = [Sharpness(every=2, eigenvalues=2), SegmentSmoothness(every=3, nodes=4)] if measured else []
    return Trajectory(objective, theta, step_size, steps, measurements)


def stochastic(steps=30, step_size=0.5, batch_size=6, seed=0, n=20, dtype=torch.float32, measurements=(), **options):
    objective, theta = network_problem(dtype, n)
    batches = Batches(batch_size=batch_size)
    return Trajectory(objective, theta, step_size, steps, measurements, batches=batches, seed=seed, **options)


RMSPROP = Rule(name="RMSprop", options={"alpha": 0.99, "eps": 1e-7})
ADAM = Rule(name="Adam", options={"betas": [0.9, 0.999], "eps": 1e-8})
HEAVY_BALL = Rule(name="SGD", options={"momentum": 0.9})


def adaptive(steps=30, step_size=1e-2, rule=ADAM, dtype=torch.float32):
    objective, theta = network_problem(dtype)
    return Trajectory(objective, theta, step_size, steps, [PreconditionedSharpness(every=2)], rule=rule)


def scheduled(steps=30):
    objective, theta = network_problem()
    schedule = Schedule(name="inverse-sharpness")
    return Trajectory(objective, theta, 100.0, steps, [Sharpness(every=3)], schedule=schedule)


def composed(steps=30):
    """Momentum, weight decay, a schedule, repeated and augmented minibatches, batch normalisation, held-out data."""
    objective, theta = image_problem()
    test, _ = image_problem(n=5, seed=1)
    return Trajectory(
        objective,
        theta,
        0.05,
        steps,
        [
            Progress(every=7),
            Sharpness(every="epoch"),
            HeldOut(examples=5, every=3),
            ExpectedProgress(every=(2, 13, 17), batch_size=4, minibatches=2),
        ],
        rule=Rule(name="SGD", options={"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
        schedule=Schedule(name="OneCycleLR", options={"max_lr": 0.1, "total_steps": 40, "cycle_momentum": False}),
        batches=Batches(batch_size=5, repeats=2, crop=1, flip=True),
        problem=SimpleNamespace(held_out=lambda n, like: test),
        seed=3,
    )


def noisy(steps=30):
    batches = Batches(noise="normal", noise_size=0.1)
    return Trajectory(Objective(quadratic), start(), 0.02, steps, [Sharpness(every=4)], batches=batches, seed=1)


BUILDS = [trained, stochastic, adaptive, scheduled, composed, noisy]


def merged(row):
    """The variables of all tables."""
    return {name: value for table in row.values() for name, value in table.items()}


def path_of(process):
    """θ at the beginning and after each step, and the variables of each step."""
    thetas, rows = [process.theta], []
    while not process.finished:
        process.step()
        thetas.append(process.theta)
        rows.append(merged(process.observe()))
    return thetas, rows


# --- gradient descent ------------------------------------------------------------------------------------


@given(x=st.floats(-5, 5), y=st.floats(-5, 5), step_size=st.floats(1e-4, 2 / 41))
def test_a_quadratic_against_the_recursion_by_hand(x, y, step_size):
    process = Trajectory(Objective(quadratic), start(x, y), step_size, 20)
    theta = np.array([x, y])
    for _ in range(20):
        f, gradient = 20 * theta[0] ** 2 + theta[1] ** 2, np.array([40, 2]) * theta
        process.step()
        (row,) = process.observe().values()
        after = theta - step_size * gradient
        assert row["loss"] == pytest.approx(f, rel=1e-12, abs=1e-300)
        assert row["gradient_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-12, abs=1e-300)
        if f > 1e-200:
            change = 20 * after[0] ** 2 + after[1] ** 2 - f
            square = gradient @ gradient
            assert row["relative_progress"] == pytest.approx(change / (step_size * square), rel=1e-6, abs=1e-9)
            rayleigh = gradient @ (np.array([40, 2]) * gradient) / square
            assert row["directional_smoothness"] == pytest.approx(rayleigh, rel=1e-9)
        theta = after
        np.testing.assert_allclose(process.theta.numpy(), theta, rtol=1e-12, atol=1e-300)


def test_a_network_against_a_plain_loop():
    objective, theta = network_problem()
    process = trained()
    for row in carried(process):
        at = objective.evaluate(theta)
        assert row["step"]["loss"] == at.value.item()
        assert row["step"]["gradient_norm"] == at.gradient.norm().item()
        assert row["step"]["accuracy"] == (at.outputs.argmax(1) == objective.labels).double().mean().item()
        theta = theta - 0.5 * at.gradient
    assert torch.equal(process.theta, theta)


def test_measuring_does_not_change_the_trajectory_nor_the_gradients_it_takes():
    bare, measured = trained(measured=False), trained()
    for a, b in zip(carried(bare), carried(measured), strict=True):
        assert a["step"].items() <= b["step"].items()
    assert torch.equal(bare.theta, measured.theta)
    assert bare.objective.gradients == 31  # one at each iterate, not two at each step
    assert measured.objective.gradients == 31 + 10 * 4  # and those of the segments, none of the last iterate
    assert bare.objective.products == 0


def test_a_trajectory_without_measurements_that_are_due_takes_only_the_gradients_of_its_steps():
    objective, theta = network_problem()
    carried(Trajectory(objective, theta, 0.5, 30, [Loss(every=10)]))
    assert objective.gradients == 30


def test_measurements_are_taken_at_the_steps_divisible_by_their_cadence_and_at_no_other():
    process = trained()
    rows = carried(process)
    assert [t for t, row in enumerate(rows) if "sharpness" in merged(row)] == list(range(0, 30, 2))
    assert [t for t, row in enumerate(rows) if "segment_smoothness" in merged(row)] == list(range(0, 30, 3))
    assert {name for row in rows for name in merged(row)} <= process.variables.keys()
    assert all(isinstance(v, float | list) for row in rows for v in merged(row).values())


def test_products_are_all_accounted_for():
    process = trained()
    spent = sum(merged(row).get("products", 0) for row in carried(process))
    assert process.objective.products == spent > 0  # nothing is measured at an iterate of which no row is made


def test_theta_given_is_left_alone():
    for rule in (Rule(), HEAVY_BALL, ADAM):
        theta = start()
        process = Trajectory(Objective(quadratic), theta, 0.01, 5, rule=rule)
        carried(process)
        assert theta.tolist() == [1, 1] and not theta.requires_grad
        assert process.theta.tolist() != [1, 1] and not process.theta.requires_grad


@pytest.mark.parametrize("every", [1, "epoch", 7])
def test_the_run_ends_with_the_first_step_that_reaches_the_accuracy(every):
    objective, theta = network_problem()
    rows = carried(Trajectory(objective, theta, 0.5, 200, [Loss(every=every)]))
    accuracies = {t: merged(row)["accuracy"] for t, row in enumerate(rows) if "accuracy" in merged(row)}
    wanted = sorted(set(accuracies.values()))[-2]
    first = next(t for t, reached in accuracies.items() if reached >= wanted)
    process = Trajectory(objective, theta, 0.5, 200, [Loss(every=every)], stop_accuracy=wanted)
    rows = carried(process)
    assert len(rows) == first + 1 < 200
    assert merged(rows[-1])["accuracy"] >= wanted
    assert process.diverged_at is None and process.finished


def test_stochastic_runs_end_with_the_accuracy_too():
    reached = [merged(row).get("accuracy", 0) for row in carried(stochastic(200))]
    wanted = max(reached)
    first = next(t for t, there in enumerate(reached) if there >= wanted)
    assert len(carried(stochastic(200, stop_accuracy=wanted))) == first + 1 < 200


@pytest.mark.parametrize("name", landscapes.LANDSCAPES)
def test_every_landscape_can_be_descended(name):
    landscape = landscapes.get(name)
    theta = torch.tensor((0.5, 0.3, *(0.1,) * 8)[: landscape.dimension], dtype=torch.float64)
    rows = carried(Trajectory(Objective(landscape.f), theta, 0.01, 50, [Sharpness(every=10)]))
    assert rows[-1]["step"]["loss"] < rows[0]["step"]["loss"]


# --- divergence is a result ------------------------------------------------------------------------------


def test_divergence_is_recorded_with_the_first_iterate_that_overflows():
    """On ½·40x² the iterates are (1 − 40η)^t exactly; 20x² overflows first."""
    eta = 2.0
    process = Trajectory(Objective(quadratic), start(1, 0), eta, 10_000)
    rows = carried(process)
    with np.errstate(over="ignore"):
        iterates = np.float64(1 - 40 * eta) ** np.arange(200)
        first = int(np.argmin(np.isfinite(20 * iterates**2)))
    assert process.diverged_at == first
    assert len(rows) == first
    assert all(math.isfinite(row["step"]["loss"]) for row in rows)  # the last row is of the last finite iterate


@pytest.mark.parametrize("k", [0, 1, 7])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_ends_the_run_where_it_appears(k, bad):
    calls = []

    def breaking(theta):
        calls.append(1)
        return quadratic(theta) * (bad if len(calls) > k else 1)

    process = Trajectory(Objective(breaking), start(), 0.01, 100, [Sharpness(), SegmentSmoothness(every="end")])
    rows = carried(process)
    assert process.diverged_at == k
    assert len(rows) == max(k, 1)
    assert all(("sharpness" in merged(row)) == (k > 0) for row in rows)
    assert not any("end" in row for row in rows)  # there is nothing to measure of it


def test_a_gradient_that_is_not_finite_counts_too():
    process = Trajectory(Objective(lambda theta: theta.abs().sqrt().sum()), start(0.0, 1.0), 0.1, 10)
    carried(process)  # f = 1 at the start, but its derivative in x is not finite
    assert process.diverged_at == 0


def test_a_diverged_run_is_stored_and_found():
    process = Trajectory(Objective(quadratic), start(), 2.0, 10_000)
    values = {"chapter": "test", "experiment": "diverges", "step_size": 2.0}
    run = store.carry_on(process, store.Identity(values, values))
    assert run.diverged_at == process.diverged_at == store.find(store.Identity(values, values)).diverged_at
    assert run.diverged_at is not None
    assert store.listing()[0]["diverged_at"] == run.diverged_at


def test_sgd_divergence_is_recorded():
    process = stochastic(1000, step_size=1e38)
    rows = [merged(row) for row in carried(process)]
    assert process.diverged_at == len(rows) - 1 < 999  # the iterate at which that minibatch's loss was taken
    assert [math.isfinite(row["batch_loss"]) for row in rows] == [True] * (len(rows) - 1) + [False]


@pytest.mark.parametrize("rule", [HEAVY_BALL, ADAM])
def test_divergence_of_other_rules_is_recorded_with_the_iterate(rule):
    objective = Objective(lambda theta: torch.log(60 - theta).sum())  # which falls until it ends
    process = Trajectory(objective, start(), 5.0, 1000, rule=rule)
    thetas, rows = path_of(process)
    assert process.diverged_at == len(rows) < 1000
    assert [objective.value(theta).isfinite().item() for theta in thetas] == [True] * len(rows) + [False]


def test_a_whole_loss_that_is_not_finite_ends_a_stochastic_run():
    """At the beginning of an epoch, before its minibatches are seen."""
    process = stochastic(measurements=[Loss(every=4)])
    evaluate, calls = process.objective.evaluate, []

    def breaking(theta, moves=False):
        calls.append(1)
        there = evaluate(theta, moves)
        return there._replace(value=there.value * (math.nan if len(calls) == 3 else 1))

    process.objective.evaluate = breaking
    rows = carried(process)
    assert process.diverged_at == len(rows) == 8


# --- SGD -------------------------------------------------------------------------------------------------


def batches_of(process, steps):
    """The examples of each minibatch, as the steps take them from the objective."""
    taken, batch = [], process.objective.batch
    process.objective.batch = lambda indices: (taken.append(indices.tolist()), batch(indices))[1]
    for _ in range(steps):
        process.step()
    return taken


@given(n=st.integers(3, 40), batch_size=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_every_epoch_takes_each_example_once(n, batch_size, seed):
    batch_size = min(batch_size, n)
    per_epoch = math.ceil(n / batch_size)
    taken = batches_of(stochastic(2 * per_epoch, batch_size=batch_size, seed=seed, n=n), 2 * per_epoch)
    for epoch in (taken[:per_epoch], taken[per_epoch:]):
        assert sorted(i for batch in epoch for i in batch) == list(range(n))
        assert all(len(batch) == batch_size for batch in epoch[:-1])


def test_the_seed_determines_the_batches():
    first, again, other = (batches_of(stochastic(seed=seed), 8) for seed in (0, 0, 1))
    assert first == again != other
    assert first[:4] != first[4:]  # every epoch has an order of its own


@pytest.mark.parametrize("build", [stochastic, composed, noisy])
def test_neither_reads_nor_moves_the_global_generator(build):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = carried(build())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert carried(build()) == one


def test_sgd_against_a_plain_loop():
    objective, theta = network_problem()
    process, taken = stochastic(), batches_of(stochastic(), 30)
    for t, row in enumerate(carried(process)):
        at = objective.batch(torch.tensor(taken[t])).evaluate(theta)
        if t % 4 == 0:  # 20 examples in batches of 6: an epoch has 4 steps
            whole = objective.evaluate(theta)
            assert row["epoch"] == {
                "loss": whole.value.item(),
                "gradient_norm": whole.gradient.norm().item(),
                "accuracy": (whole.outputs.argmax(1) == objective.labels).double().mean().item(),
            }
        else:
            assert row.keys() == {"step"}
        theta = theta - 0.5 * at.gradient
        assert row["step"] == {"batch_loss": at.value.item()}
    assert torch.equal(process.theta, theta)


def test_sgd_on_the_whole_data_is_gradient_descent():
    objective, theta = network_problem(torch.float64)
    sgd = Trajectory(objective, theta, 0.5, 30, batches=Batches(batch_size=20), seed=3)
    gd = Trajectory(objective, theta, 0.5, 30)
    losses = [[merged(row)["loss"] for row in carried(process)] for process in (sgd, gd)]
    np.testing.assert_allclose(*losses, rtol=1e-10)  # the sum over examples is taken in another order
    torch.testing.assert_close(sgd.theta, gd.theta, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("repeats", [1, 3])
def test_repeats_of_the_whole_data_are_as_many_steps_of_gradient_descent(repeats):
    objective, theta = network_problem(torch.float64)
    gd = path_of(Trajectory(objective, theta, 0.5, 12))[0]
    same = path_of(Trajectory(objective, theta, 0.5, 12, batches=Batches(repeats=repeats)))[0]
    assert all(torch.equal(a, b) for a, b in zip(gd, same, strict=True))
    drawn = path_of(Trajectory(objective, theta, 0.5, 12, batches=Batches(batch_size=20, repeats=repeats)))[0]
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(gd, drawn, strict=True))


def test_repeats_against_a_plain_loop_and_once_is_plain_sgd():
    objective, theta = network_problem()
    order = [
        batch
        for g in [torch.Generator().manual_seed(5)]
        for _ in range(3)
        for batch in torch.randperm(20, generator=g).split(6)
    ]
    for repeats in (1, 3):
        batches, here = Batches(batch_size=6, repeats=repeats), theta
        process = Trajectory(objective, theta, 0.5, 12 * repeats, batches=batches, seed=5)
        thetas, rows = path_of(process)
        for t in range(12 * repeats):
            assert torch.equal(thetas[t], here)
            assert ("loss" in rows[t]) == (t % (4 * repeats) == 0)  # an epoch has four minibatches
            here = here - 0.5 * objective.batch(order[t // repeats]).gradient(here)
        assert torch.equal(thetas[-1], here)


def test_minibatch_gradients_are_counted():
    process = stochastic(30)
    carried(process)
    assert process.objective.gradients == 30 + math.ceil(30 / 4)  # and the whole one at the start of every epoch


def test_estimating_does_not_change_the_path_of_sgd():
    plain = stochastic(12)
    estimating = stochastic(12, measurements=[ExpectedProgress(every="epoch", batch_size=6, minibatches=3)])
    rows = carried(estimating)
    carried(plain)
    assert torch.equal(plain.theta, estimating.theta)
    assert [i for i, row in enumerate(rows) if "expected_relation" in merged(row)] == [
        0,
        4,
        8,
    ]  # 20 examples: 4 batches


# --- other rules and schedules ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [HEAVY_BALL, RMSPROP, ADAM, Rule(name="AdamW", options={"weight_decay": 0.1})])
@pytest.mark.parametrize("schedule", [None, "CosineAnnealingLR", "StepLR"])
@pytest.mark.parametrize("batch_size", [None, 6])
def test_rules_and_schedules_against_a_plain_loop_of_torch(rule, schedule, batch_size):
    objective, theta = network_problem()
    options = {None: {}, "CosineAnnealingLR": {"T_max": 12}, "StepLR": {"step_size": 2, "gamma": 0.5}}[schedule]
    declared = Schedule(name=schedule, options=options, advances="epoch") if schedule else Schedule()
    process = Trajectory(
        objective, theta, 0.02, 16, rule=rule, schedule=declared, batches=Batches(batch_size=batch_size), seed=2
    )
    rows = carried(process)

    leaf = theta.clone().requires_grad_()
    optimiser = getattr(torch.optim, rule.name)([leaf], lr=0.02, **rule.options)
    scheduler = getattr(torch.optim.lr_scheduler, schedule)(optimiser, **options) if schedule else None
    generator = torch.Generator().manual_seed(2)
    minibatches = [batch for _ in range(4) for batch in torch.randperm(20, generator=generator).split(6)]
    for t in range(16):
        seen = objective if batch_size is None else objective.batch(minibatches[t])
        optimiser.zero_grad()
        seen.forward(leaf)[0].backward()
        step = merged(rows[t])
        assert step.get("eta") == (optimiser.param_groups[0]["lr"] if schedule else None)
        optimiser.step()
        if schedule and (batch_size is None or t % 4 == 3):
            scheduler.step()
    assert torch.equal(process.theta, leaf.detach())


def test_the_inverse_sharpness_step_minimises_a_quadratic_along_its_top_eigenvector():
    schedule = Schedule(name="inverse-sharpness")
    process = Trajectory(Objective(quadratic), start(), 1.0, 3, [Sharpness()], schedule=schedule)
    rows = carried(process)
    assert [row["step"]["eta"] for row in rows] == pytest.approx([1 / 40] * 3)
    assert process.theta.tolist() == pytest.approx([0, (1 - 2 / 40) ** 3])


def test_its_step_is_never_larger_than_the_one_given_and_kept_between_measurements():
    def run(step_size):
        objective, theta = network_problem(torch.float64)
        schedule = Schedule(name="inverse-sharpness")
        process = Trajectory(objective, theta, step_size, 12, [Sharpness(every=4)], schedule=schedule)
        return [merged(row) for row in carried(process)]

    assert {row["eta"] for row in run(0.01)} == {0.01}
    rows = run(100.0)
    for t, row in enumerate(rows):
        assert row["eta"] == pytest.approx(1 / rows[t - t % 4]["sharpness"])


def test_a_constant_step_size_is_not_recorded_and_a_changing_one_at_each_step():
    assert not any("eta" in merged(row) for row in carried(stochastic(5)))
    schedule = Schedule(name="ExponentialLR", options={"gamma": 0.5})
    rows = carried(stochastic(5, schedule=schedule, measurements=[Loss(every=100)]))
    assert [row["step"]["eta"] for row in rows] == [0.5 * 0.5**t for t in range(5)]


# --- relative progress of any step -----------------------------------------------------------------------

RULES = [
    Rule(),
    HEAVY_BALL,
    Rule(name="SGD", options={"weight_decay": 0.5}),
    Rule(name="SGD", options={"momentum": 0.9, "weight_decay": 0.5, "nesterov": True, "foreach": True}),
    Rule(name="AdamW", options={"weight_decay": 0.5}),
    Rule(name="NAdam"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}-{len(rule.options)}")
@pytest.mark.parametrize(
    ("batches", "every"),
    [(Batches(), 1), (Batches(), 5), (Batches(batch_size=6), 1), (Batches(batch_size=6), 5),
     (Batches(noise="normal", noise_size=0.1), 1)],
)  # fmt: skip
def test_progress_is_of_the_step_on_the_whole_data_without_weight_decay(rule, batches, every):
    objective, theta = network_problem(torch.float64)
    process = Trajectory(objective, theta, 0.05, 12, [Progress(every=every)], rule=rule, batches=batches, seed=1)
    thetas, rows = path_of(process)
    for t, row in enumerate(rows):
        assert ("relative_progress" in row) == ("loss" in row) == (t % every == 0)
        if t % every:
            continue
        here, after = objective.evaluate(thetas[t]), objective.evaluate(thetas[t + 1])
        v = thetas[t] - thetas[t + 1]
        promised = (here.gradient @ v).item()
        assert row["loss"] == pytest.approx(here.value.item(), rel=1e-12)
        assert row["relative_progress"] == pytest.approx((after.value - here.value).item() / promised, rel=1e-9)
        if rule.name != "AdamW":  # whose metric is another
            smoothness = v @ (here.gradient - after.gradient) / (v @ v)
            assert row["directional_smoothness"] == pytest.approx(smoothness.item(), rel=1e-8)


def test_progress_on_minibatches_takes_the_whole_gradients_at_both_ends_of_the_step():
    def gradients(every):
        process = stochastic(12, measurements=[Progress(every=every)])
        carried(process)
        return process.objective.gradients

    assert gradients(1) == 12 + 13
    assert gradients(6) == 12 + 2 * 2
    assert gradients("epoch") == 12 + 3 * 2
    assert gradients((11,)) == 12 + 2


def test_what_looks_at_minibatches_of_its_own_costs_no_gradient_of_the_whole_data():
    """And changes nothing: its numbers and the path are those of a run that also takes the loss there."""
    own = [Noise(every=5, batch_size=3, examples=6), PowerIteration(every=5, batch_size=4, iterations=2)]
    alone, beside = stochastic(12, measurements=[Loss(every=4), *own]), stochastic(12, measurements=[Loss(), *own])
    rows, others = ([merged(row) for row in carried(process)] for process in (alone, beside))
    # of minibatches: of the steps, and of the noise's two at each of three steps; and of the whole data at 0, 4 and 8
    assert alone.objective.gradients == 12 + 3 * 2 + 3
    assert beside.objective.gradients == 12 + 3 * 2 + 12
    for t, (row, other) in enumerate(zip(rows, others, strict=True)):
        assert ("loss" in row) == (t % 4 == 0) and ("sample_noise" in row) == ("power_sharpness" in row) == (t % 5 == 0)
        assert row == {name: other[name] for name in row}
    assert torch.equal(alone.theta, beside.theta)


def test_of_gradient_descent_the_promise_is_the_squared_gradient_norm():
    """In double precision from the norm that is recorded, so that figures may use either."""
    rows = [row["step"] for row in carried(trained(measured=False))]
    for here, after in itertools.pairwise(rows):
        assert here["relative_progress"] == (after["loss"] - here["loss"]) / (0.5 * here["gradient_norm"] ** 2)


# --- adaptive methods ------------------------------------------------------------------------------------


def test_the_identity_holds_in_the_metric_of_rmsprop():
    """RP = −1 + η ∫ τ L dτ with both in the metric P, as derived in the chapter."""
    process = adaptive(rule=RMSPROP, dtype=torch.float64)
    for _ in range(5):
        process.step()
    theta, gradient = process.theta, process.gradient
    metric = process.rule.metric(theta, gradient)
    v = 1e-2 * gradient / metric
    tau, weight = gauss_legendre(16)
    after = [process.objective.gradient(theta - t * v) for t in tau]
    smoothness = [(t * v @ (gradient - g) / (t**2 * v @ (metric * v))).item() for t, g in zip(tau, after, strict=True)]
    process.step()
    row = process.observe()["step"]
    assert row["relative_progress"] == pytest.approx(-1 + 1e-2 * (weight * tau) @ smoothness, abs=1e-10)
    at_the_end = (v @ (gradient - process.gradient) / (v @ (metric * v))).item()
    assert row["directional_smoothness"] == pytest.approx(at_the_end, rel=1e-10)


@pytest.mark.parametrize("rule", [ADAM, RMSPROP])
@pytest.mark.parametrize("batch_size", [None, 6])
def test_directional_smoothness_is_in_the_metric_that_torch_used_for_the_step(rule, batch_size):
    """The averages that torch holds after the step, of minibatches too: v = ηP⁻¹m."""
    objective, theta = network_problem(torch.float64)
    batches = Batches(batch_size=batch_size)
    process = Trajectory(objective, theta, 1e-2, 8, [Progress()], rule=rule, batches=batches)
    for count in range(1, 9):
        here = process.theta
        process.step()
        state = process.rule.state()
        if rule is ADAM:
            metric = (state["exp_avg_sq"] / (1 - 0.999**count)).sqrt() + 1e-8
            m = state["exp_avg"] / (1 - 0.9**count)
            torch.testing.assert_close(here - process.theta, 1e-2 * m / metric, rtol=1e-8, atol=1e-12)
        else:
            metric = state["square_avg"].sqrt() + 1e-7
        v, turned = here - process.theta, objective.gradient(here) - objective.gradient(process.theta)
        expected = (v @ turned / (v @ (metric * v))).item()
        assert process.observe()["step"]["directional_smoothness"] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("rule", [ADAM, RMSPROP])
def test_the_preconditioned_sharpness_against_the_dense_matrix(rule):
    objective, theta = network_problem(torch.float64)
    measurements = [PreconditionedSharpness(every=2, tolerance=1e-10)]
    process = Trajectory(objective, theta, 1e-2, 30, measurements, rule=rule)
    for _ in range(4):
        process.step()
    theta = process.theta
    process.step()
    row, state = merged(process.observe()), process.rule.state()  # step 4 was measured at θ_4, its averages are there
    if rule is ADAM:
        scale = ((state["exp_avg_sq"] / (1 - 0.999**5)).sqrt() + 1e-8) ** -0.5
    else:
        scale = (state["square_avg"].sqrt() + 1e-7) ** -0.5
    hessian = torch.func.hessian(lambda t: objective.forward(t)[0])(theta)
    expected = torch.linalg.eigvalsh(scale[:, None] * hessian * scale)[-1]
    assert row["preconditioned_sharpness"] == pytest.approx(expected.item(), rel=1e-8)
    assert "sharpness" not in row


def test_without_a_metric_the_preconditioned_sharpness_is_the_sharpness():
    for rule in (Rule(), HEAVY_BALL):
        objective, theta = network_problem(torch.float64)
        process = Trajectory(objective, theta, 0.1, 1, [PreconditionedSharpness(tolerance=1e-9)], rule=rule)
        process.step()
        dense = torch.func.hessian(lambda t, f=objective: f.forward(t)[0])(theta)
        expected = torch.linalg.eigvalsh(dense)[-1].item()
        assert process.observe()["step"]["preconditioned_sharpness"] == pytest.approx(expected, rel=1e-8)


# --- measurements at any cadence -------------------------------------------------------------------------

CADENCES = [1, 5, "epoch", "end", (0, 3, 7)]
KINDS = [
    Loss,
    Progress,
    HeldOut,
    Sharpness,
    PreconditionedSharpness,
    SegmentSharpness,
    SegmentSmoothness,
    ExpectedProgress,
]
ARGUMENTS = {
    HeldOut: {"examples": 5},
    SegmentSharpness: {"points": 2},
    SegmentSmoothness: {"nodes": 2},
    ExpectedProgress: {"batch_size": 4, "minibatches": 2},
}
NAMES = {Sharpness: {"sharpness", "sharpness_residual", "alignment", "products"}}
NAMES[PreconditionedSharpness] = NAMES[Sharpness] - {"sharpness"} | {"preconditioned_sharpness"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", CADENCES)
@pytest.mark.parametrize("batch_size", [None, 6])
def test_any_measurement_can_be_taken_at_any_cadence(kind, every, batch_size):
    objective, theta = network_problem()
    test, _ = network_problem(n=5)
    asked = kind(every=every, **ARGUMENTS.get(kind, {}))
    process = Trajectory(
        objective, theta, 0.3, 10, [asked], batches=Batches(batch_size=batch_size),
        problem=SimpleNamespace(held_out=lambda n, like: test),
    )  # fmt: skip
    thetas, rows = [theta], []
    while not process.finished:
        process.step()
        thetas.append(process.theta)
        rows.append(process.observe())
    due = {
        1: [*range(10)],
        5: [0, 5],
        "epoch": [0, 4, 8] if batch_size else [*range(10)],
        "end": [9],
        (0, 3, 7): [0, 3, 7],
    }[every]
    names = NAMES.get(kind, set(kind.variables))
    if kind is Progress and every == "end":
        names = set(Loss.variables)  # from there no step is taken
    table = {1: "step", 5: "every_5", "epoch": "epoch", "end": "end", (0, 3, 7): "chosen"}[every]
    assert [t for t, row in enumerate(rows) if names <= row.get(table, {}).keys()] == due
    assert [t for t, row in enumerate(rows) if names & merged(row).keys()] == due
    # where they were taken
    for t in due:
        at = objective.evaluate(thetas[10 if every == "end" else t])
        row = rows[t][table]
        if issubclass(kind, Loss):
            assert row["loss"] == at.value.item() and row["gradient_norm"] == at.gradient.norm().item()
            assert row["accuracy"] == (at.outputs.argmax(1) == objective.labels).double().mean().item()
        if kind is HeldOut:
            assert row["test_loss"] == test.value(thetas[10 if every == "end" else t]).item()
        if kind is Sharpness:
            there = thetas[10 if every == "end" else t]
            dense = torch.func.hessian(lambda theta: objective.forward(theta)[0])(there)
            assert row["sharpness"] == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-3)


def test_several_measurements_have_a_cadence_each():
    process = stochastic(12, measurements=[Loss(every="end"), Sharpness(every="epoch"), SegmentSmoothness(every=(5,))])
    rows = carried(process)
    assert [sorted(row) for row in rows] == [
        ["epoch", "step"], ["step"], ["step"], ["step"], ["epoch", "step"], ["chosen", "step"], ["step"], ["step"],
        ["epoch", "step"], ["step"], ["step"], ["end", "step"],
    ]  # fmt: skip
    assert {*process.variables} == {
        "batch_loss", "eta", *Loss.variables, *Sharpness.variables, *SegmentSmoothness.variables,
    }  # fmt: skip


def test_what_is_taken_at_the_end_is_of_the_last_iterate_wherever_the_run_ends():
    objective, theta = network_problem()
    bare = carried(Trajectory(objective, theta, 0.5, 60))
    wanted = bare[20]["step"]["accuracy"]
    first = next(t for t, row in enumerate(bare) if row["step"]["accuracy"] >= wanted)
    measurements = [Progress(), SegmentSmoothness(every="end", nodes=1, rule="even")]
    process = Trajectory(objective, theta, 0.5, 60, measurements, stop_accuracy=wanted)
    rows = carried(process)
    assert len(rows) == first + 1 and [t for t, row in enumerate(rows) if "end" in row] == [first]
    assert rows[-1]["end"]["segment_smoothness"] == [pytest.approx(bare[first + 1]["step"]["directional_smoothness"])]


@pytest.mark.parametrize(
    ("measurements", "named"),
    [
        ([Progress(), Loss(every=5)], "two measurements yield accuracy, gradient_norm, loss"),
        ([Sharpness(), Sharpness(every=5)], "two measurements yield .*sharpness"),
        ([Sharpness(), PreconditionedSharpness()], "two measurements yield .*alignment"),
    ],
)
def test_two_measurements_of_one_variable_are_refused(measurements, named):
    objective, theta = network_problem()
    with pytest.raises(ValueError, match=named):
        Trajectory(objective, theta, 0.1, 5, measurements)


@pytest.mark.parametrize("rule", [Rule(), HEAVY_BALL, ADAM])
@pytest.mark.parametrize("batches", [Batches(), Batches(batch_size=5, crop=1, noise="normal", noise_size=0.01)])
def test_measuring_changes_neither_the_trajectory_nor_a_generator(rule, batches):
    def run(measurements):
        objective, theta = image_problem()
        test, _ = image_problem(n=5, seed=1)
        problem = SimpleNamespace(held_out=lambda n, like: test)
        process = Trajectory(objective, theta, 0.02, 8, measurements, rule=rule, batches=batches, problem=problem)
        return path_of(process)[0], process

    everything = [kind(every=1 + i % 2, **ARGUMENTS.get(kind, {})) for i, kind in enumerate(KINDS) if kind not in
                  (Loss, PreconditionedSharpness)]  # fmt: skip
    (bare, bare_process), (measured, process) = run([Loss(every="end")]), run([*everything])
    assert all(torch.equal(a, b) for a, b in zip(bare, measured, strict=True))
    ours, theirs = (p.batches.state()["generators"] for p in (bare_process, process))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    buffers, after = bare_process.objective.buffers, process.objective.buffers
    assert all(torch.equal(buffers[name], after[name]) for name in buffers)


# --- one transfer ----------------------------------------------------------------------------------------


def test_numbers_on_the_host_are_the_floats_of_item_and_keeps_what_is_no_tensor():
    numbers = {
        "a": torch.tensor(0.1), "b": 3.5, "c": torch.tensor(0.1, dtype=torch.float64), "d": [1.0],
        "e": torch.tensor(math.nan), "f": torch.tensor(1e-45), "g": torch.tensor(2.0, requires_grad=True),
    }  # fmt: skip
    arrived = host.numbers(numbers)
    assert list(arrived) == list(numbers)
    assert all(type(arrived[name]) is float for name in "abcefg") and arrived["d"] is numbers["d"]
    for name in "acfg":
        assert arrived[name] == numbers[name].item()
    assert math.isnan(arrived["e"]) and arrived["b"] == 3.5
    assert host.numbers({"x": 1.0}) == {"x": 1.0} and host.numbers({}) == {}


# --- batch normalisation ---------------------------------------------------------------------------------


def plain_network(objective, theta):
    """The same with PyTorch's own batch normalisation, and its parameters in θ's order."""
    network = copy.deepcopy(objective.network)
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, networks.BatchNorm):
                plain = nn.BatchNorm2d(child.num_features).to(theta.dtype)
                setattr(module, name, plain)
    nn.utils.vector_to_parameters(theta.clone(), network.parameters())
    return network.train()


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_move_the_running_statistics_as_in_a_plain_loop_and_nothing_else_does(batch_size, momentum):
    objective, theta = image_problem(torch.float64)
    test, _ = image_problem(torch.float64, n=5, seed=1)
    network = plain_network(objective, theta)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=momentum)
    generator = torch.Generator().manual_seed(0)
    order = [batch for _ in range(3) for batch in torch.randperm(14, generator=generator).split(batch_size or 14)]
    process = Trajectory(
        objective, theta, 0.05, 9, [Progress(), Sharpness(every=2), HeldOut(examples=5), SegmentSmoothness(nodes=2),
                                    ExpectedProgress(batch_size=4, minibatches=2)],
        rule=Rule(name="SGD", options={"momentum": momentum}) if momentum else Rule(),
        batches=Batches(batch_size=batch_size), problem=SimpleNamespace(held_out=lambda n, like: test),
    )  # fmt: skip
    for t in range(9):
        network.eval()
        held_out = F.cross_entropy(network(test.inputs), test.labels).item()
        network.train()
        process.step()
        seen = order[t] if batch_size else torch.arange(14)
        optimiser.zero_grad()
        F.cross_entropy(network(objective.inputs[seen]), objective.labels[seen]).backward()
        optimiser.step()
        statistics = dict(network.named_buffers())
        assert statistics.keys() == objective.buffers.keys() and len(statistics) > 0
        for name, ours in objective.buffers.items():
            torch.testing.assert_close(ours, statistics[name], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            process.theta, nn.utils.parameters_to_vector(network.parameters()).detach(), rtol=1e-7, atol=1e-10
        )
        # of held-out examples by the statistics at that iterate, not by their own
        assert process.observe()["step"]["test_loss"] == pytest.approx(held_out, rel=1e-8)
        if t > 0:
            assert held_out != pytest.approx(test.value(theta).item(), rel=1e-6)
    before = {name: buffer.clone() for name, buffer in objective.buffers.items()}
    objective.evaluate(process.theta), objective.value(process.theta), objective.expand(process.theta).hvp(theta)
    assert all(torch.equal(before[name], buffer) for name, buffer in objective.buffers.items())


# --- what is refused, and what is kept -------------------------------------------------------------------


@pytest.mark.parametrize("step_size", [0, -0.1, float("nan")])
@pytest.mark.parametrize("build", [trained, stochastic, adaptive])
def test_a_step_size_that_is_not_positive_is_refused(build, step_size):
    with pytest.raises(ValueError, match="step_size must be positive"):
        build(step_size=step_size)


@pytest.mark.parametrize("batch_size", [0, -1, 21])
def test_a_batch_size_outside_the_data_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"1 to 20, got {batch_size}"):
        stochastic(batch_size=batch_size)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rule": Rule(name="sgd")}, "unknown rule 'sgd'"),
        ({"schedule": Schedule(name="cosine")}, "unknown schedule 'cosine'"),
        ({"batches": Batches(batch_size=3)}, "without data"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_runs(options, named):
    objective = Objective(quadratic)
    with pytest.raises(ValueError, match=named):
        Trajectory(objective, start(), 0.1, 5, **options)
    assert objective.gradients == 0


@pytest.mark.parametrize("rule", [Rule(), HEAVY_BALL, ADAM])
def test_theta_is_kept_at_the_steps_asked_for_and_at_the_last(rule):
    process = Trajectory(Objective(quadratic), start(), 0.01, 6, rule=rule, keep=(0, 2, 5, "last", 99))
    kept, thetas = dict(process.kept), [process.theta.clone()]
    while not process.finished:
        process.step()
        thetas.append(process.theta.clone())
        assert not process.kept.keys() & kept.keys()  # each is handed over once
        kept |= process.kept
    assert kept.keys() == {"0", "2", "5", "last"}
    for name, t in {"0": 0, "2": 2, "5": 5, "last": 6}.items():
        assert torch.equal(kept[name], thetas[t])


def test_the_last_theta_is_kept_wherever_the_run_ends_and_nothing_unless_asked():
    process = trained(200)
    assert all(not process.kept for _ in carried(process)) and process.kept == {}
    objective, theta = network_problem()
    process = Trajectory(objective, theta, 0.5, 200, stop_accuracy=0.5, keep=("last",))
    rows = carried(process)
    assert len(rows) < 200
    assert process.kept.keys() == {"last"} and torch.equal(process.kept["last"], process.theta)


# --- states ----------------------------------------------------------------------------------------------


def through_files(state, folder):
    """A state as the run store writes and reads it."""
    numbers, tensors = journal._split(state)
    (folder / "state.json").write_text(json.dumps(numbers))
    safetensors.torch.save_file(tensors, folder / "state.safetensors")
    return journal._join(
        json.loads((folder / "state.json").read_text()), safetensors.torch.load_file(folder / "state.safetensors")
    )


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("k", [0, 1, 2, 5, 13, 29, 30])
def test_a_restored_process_continues_with_the_same_bits(build, k, tmp_path):
    undisturbed, saved = build(), build()
    rows = carried(undisturbed)
    for _ in range(k):
        saved.step()
    restored = build()
    restored.load(through_files(saved.state(), tmp_path))
    assert restored.observe() == (rows[k - 1] if k else {})
    assert carried(restored) == rows[k:]
    assert torch.equal(restored.theta, undisturbed.theta)
    for counter in ("gradients", "products"):
        assert getattr(restored.objective, counter) == getattr(undisturbed.objective, counter)
    assert restored.objective.buffers.keys() == undisturbed.objective.buffers.keys()
    for name, buffer in undisturbed.objective.buffers.items():
        assert torch.equal(restored.objective.buffers[name], buffer)


@pytest.mark.parametrize("build", BUILDS)
def test_a_state_does_not_change_when_the_process_goes_on(build):
    process = build()
    for _ in range(5):
        process.step()
    state = process.state()
    before = {name: tensor.clone() for name, tensor in journal._split(state)[1].items()}
    numbers = json.dumps(journal._split(state)[0])
    carried(process)
    assert json.dumps(journal._split(state)[0]) == numbers
    assert all(torch.equal(tensor, before[name]) for name, tensor in journal._split(state)[1].items())


@pytest.mark.parametrize("build", BUILDS)
def test_a_row_does_not_change_when_the_process_goes_on(build):
    """The run store keeps it until the next checkpoint."""
    process, rows, then = build(), [], []
    while not process.finished:
        process.step()
        rows.append(process.observe())
        then.append(json.dumps(rows[-1]))
    assert [json.dumps(row) for row in rows] == then


def test_a_fresh_process_on_this_machine_continues_with_the_same_bits(tmp_path):
    """As the test above, but with nothing left of the first process's memory."""
    code = f"""
    import json, sys, torch
    sys.path[:0] = [*{[str(folder) for folder in list(Path(__file__).parents)[:3]]}]
    import safetensors.torch
    import test_trajectory as t
    torch.set_num_threads(1)
    out = {{}}
    for build in t.BUILDS:
        process, name = build(), build.__name__
        numbers = json.load(open(f"{{sys.argv[1]}}/{{name}}.json"))
        process.load(t.journal._join(numbers, safetensors.torch.load_file(f"{{sys.argv[1]}}/{{name}}.safetensors")))
        out[name] = t.carried(process)
    print(json.dumps(out))
    """
    expected = {}
    for build in BUILDS:
        process = build()
        for _ in range(11):
            process.step()
        numbers, tensors = journal._split(process.state())
        (tmp_path / f"{build.__name__}.json").write_text(json.dumps(numbers))
        safetensors.torch.save_file(tensors, tmp_path / f"{build.__name__}.safetensors")
        expected[build.__name__] = carried(process)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected
