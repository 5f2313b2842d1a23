"""eoslib.dynamics.descent: the updates against loops written out, and states that carry everything over."""

import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from eoslib.dynamics.descent import SGD, Adam, GradientDescent, InverseSharpnessDescent
from hypothesis import given
from hypothesis import strategies as st
from processes import carried

from eoslib import store
from eoslib.measure.curvature import SharpnessTracker
from eoslib.measure.progress import SegmentSmoothness, gauss_legendre
from eoslib.measure.variables import VARIABLES
from eoslib.problems import landscapes, networks
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


def trained(steps=30, step_size=0.5, measured=True):
    objective, theta = network_problem()
    measurements = [SharpnessTracker(2, 2), SegmentSmoothness(objective, 3, 4, "gauss")] if measured else []
    return GradientDescent(objective, theta, step_size, steps, measurements)


def stochastic(steps=30, step_size=0.5, batch_size=6, seed=0, n=20):
    objective, theta = network_problem(n=n)
    return SGD(objective, theta, step_size, steps, batch_size, seed)


RMSPROP = {"beta1": 0.0, "beta2": 0.99, "epsilon": 1e-7, "bias_correction": False}
ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "bias_correction": True}


def adaptive(steps=30, step_size=1e-2, method=ADAM, dtype=torch.float32):
    objective, theta = network_problem(dtype)
    return Adam(objective, theta, step_size, steps, [SharpnessTracker(2)], **method)


def scheduled(steps=30):
    objective, theta = network_problem()
    return InverseSharpnessDescent(objective, theta, 100.0, steps, [SharpnessTracker(3)])


# --- gradient descent ------------------------------------------------------------------------------------


@given(x=st.floats(-5, 5), y=st.floats(-5, 5), step_size=st.floats(1e-4, 2 / 41))
def test_a_quadratic_against_the_recursion_by_hand(x, y, step_size):
    process = GradientDescent(Objective(quadratic), start(x, y), step_size, 20)
    theta = np.array([x, y])
    for _ in range(20):
        f, gradient = 20 * theta[0] ** 2 + theta[1] ** 2, np.array([40, 2]) * theta
        process.step()
        row = process.observe()
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
        assert row["loss"] == at.value.item()
        assert row["accuracy"] == (at.outputs.argmax(1) == objective.labels).double().mean().item()
        theta = theta - 0.5 * at.gradient
    assert torch.equal(process.theta, theta)


def test_measuring_does_not_change_the_trajectory_nor_the_gradients_it_takes():
    bare, measured = trained(measured=False), trained()
    for a, b in zip(carried(bare), carried(measured), strict=True):
        assert a.items() <= b.items()
    assert torch.equal(bare.theta, measured.theta)
    assert bare.objective.gradients == 31  # one at each iterate, not two at each step
    assert measured.objective.gradients == 31 + 11 * 4  # and those of the segments
    assert bare.objective.products == 0


def test_measurements_are_taken_at_the_steps_divisible_by_their_cadence_and_at_no_other():
    rows = carried(trained())
    assert [t for t, row in enumerate(rows) if "sharpness" in row] == list(range(0, 30, 2))
    assert [t for t, row in enumerate(rows) if "segment_smoothness" in row] == list(range(0, 30, 3))
    assert {name for row in rows for name in row} <= VARIABLES.keys()
    assert all(isinstance(v, float | list) for row in rows for v in row.values())


def test_products_are_all_accounted_for():
    process = trained()
    spent = sum(row.get("products", 0) for row in carried(process))
    last = process._here["products"]  # measured at the last iterate, of which no row is made
    assert process.objective.products == spent + last


def test_theta_given_is_left_alone():
    theta = start()
    carried(GradientDescent(Objective(quadratic), theta, 0.01, 5))
    assert theta.tolist() == [1, 1] and not theta.requires_grad


def test_the_run_ends_with_the_first_step_that_reaches_the_accuracy():
    accuracies = [row["accuracy"] for row in carried(trained(200))]
    wanted = sorted(set(accuracies))[-2]
    first = next(t for t, accuracy in enumerate(accuracies) if accuracy >= wanted)
    objective, theta = network_problem()
    process = GradientDescent(objective, theta, 0.5, 200, stop_accuracy=wanted)
    rows = carried(process)
    assert len(rows) == first + 1 < 200
    assert rows[-1]["accuracy"] >= wanted
    assert process.diverged_at is None


# --- divergence is a result ------------------------------------------------------------------------------


def test_divergence_is_recorded_with_the_first_iterate_that_overflows():
    """On ½·40x² the iterates are (1 − 40η)^t exactly; 20x² overflows first."""
    eta = 2.0
    process = GradientDescent(Objective(quadratic), start(1, 0), eta, 10_000)
    rows = carried(process)
    with np.errstate(over="ignore"):
        iterates = np.float64(1 - 40 * eta) ** np.arange(200)
        first = int(np.argmin(np.isfinite(20 * iterates**2)))
    assert process.diverged_at == first
    assert len(rows) == first
    assert all(math.isfinite(row["loss"]) for row in rows)  # the last row is of the last finite iterate


@pytest.mark.parametrize("k", [0, 1, 7])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_ends_the_run_where_it_appears(k, bad):
    calls = []

    def breaking(theta):
        calls.append(1)
        return quadratic(theta) * (bad if len(calls) > k else 1)

    process = GradientDescent(Objective(breaking), start(), 0.01, 100, [SharpnessTracker()])
    rows = carried(process)
    assert process.diverged_at == k
    assert len(rows) == max(k, 1)


def test_a_gradient_that_is_not_finite_counts_too():
    process = GradientDescent(Objective(lambda theta: theta.abs().sqrt().sum()), start(0.0, 1.0), 0.1, 10)
    carried(process)  # f = 1 at the start, but its derivative in x is not finite
    assert process.diverged_at == 0


def test_a_diverged_run_is_stored_and_found(tmp_path):
    process = GradientDescent(Objective(quadratic), start(), 2.0, 10_000)
    run = store.carry_on(process, {"chapter": "test", "experiment": "diverges", "step_size": 2.0})
    assert run.diverged_at == process.diverged_at == store.find(run.identity).diverged_at
    assert store.listing()[0]["diverged_at"] == run.diverged_at


def test_sgd_divergence_is_recorded():
    process = stochastic(1000, step_size=1e38)
    rows = carried(process)
    assert process.diverged_at == len(rows) < 1000
    assert not math.isfinite(rows[-1]["batch_loss_after"])


# --- SGD -------------------------------------------------------------------------------------------------


def batches(process, steps):
    """The examples of each minibatch, as SGD takes them from the objective."""
    taken, batch = [], process.objective.batch
    process.objective.batch = lambda indices: (taken.append(indices.tolist()), batch(indices))[1]
    for _ in range(steps):
        process.step()
    return taken


@given(n=st.integers(3, 40), batch_size=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_every_epoch_takes_each_example_once(n, batch_size, seed):
    batch_size = min(batch_size, n)
    per_epoch = math.ceil(n / batch_size)
    taken = batches(stochastic(batch_size=batch_size, seed=seed, n=n), 2 * per_epoch)
    for epoch in (taken[:per_epoch], taken[per_epoch:]):
        assert sorted(i for batch in epoch for i in batch) == list(range(n))
        assert all(len(batch) == batch_size for batch in epoch[:-1])


def test_the_seed_determines_the_batches():
    first, again, other = (batches(stochastic(seed=seed), 8) for seed in (0, 0, 1))
    assert first == again != other
    assert first[:4] != first[4:]  # every epoch has an order of its own


def test_neither_reads_nor_moves_the_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = carried(stochastic())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert carried(stochastic()) == one


def test_sgd_against_a_plain_loop():
    objective, theta = network_problem()
    process, taken = stochastic(), batches(stochastic(), 30)
    for t, row in enumerate(carried(process)):
        minibatch = objective.batch(torch.tensor(taken[t]))
        at = minibatch.evaluate(theta)
        if t % 4 == 0:  # 20 examples in batches of 6: an epoch has 4 steps
            whole = objective.evaluate(theta)
            assert (row["loss"], row["gradient_norm"]) == (whole.value.item(), whole.gradient.norm().item())
        else:
            assert "loss" not in row
        theta = theta - 0.5 * at.gradient
        assert row["batch_loss"] == at.value.item()
        assert row["batch_loss_after"] == minibatch.value(theta).item()
    assert torch.equal(process.theta, theta)


def test_sgd_on_the_whole_data_is_gradient_descent():
    objective, theta = network_problem(torch.float64)
    sgd = SGD(objective, theta, 0.5, 30, batch_size=20, seed=3)
    gd = GradientDescent(objective, theta, 0.5, 30)
    losses = [[row["loss"] for row in carried(process)] for process in (sgd, gd)]
    np.testing.assert_allclose(*losses, rtol=1e-10)  # the sum over examples is taken in another order
    torch.testing.assert_close(sgd.theta, gd.theta, rtol=1e-9, atol=1e-12)


def test_minibatch_gradients_are_counted():
    process = stochastic(30)
    carried(process)
    assert process.objective.gradients == 30 + math.ceil(30 / 4)  # and the whole one at the start of every epoch


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_size", [0, -0.1, float("nan")])
@pytest.mark.parametrize("build", [trained, stochastic, adaptive])
def test_a_step_size_that_is_not_positive_is_refused(build, step_size):
    with pytest.raises(ValueError, match="step_size must be positive"):
        build(step_size=step_size)


@pytest.mark.parametrize("batch_size", [0, -1, 21])
def test_a_batch_size_outside_the_data_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"1 to 20, got {batch_size}"):
        stochastic(batch_size=batch_size)


# --- states ----------------------------------------------------------------------------------------------


def through_files(state, folder):
    """A state as the run store writes and reads it."""
    numbers, tensors = journal._split(state)
    (folder / "state.json").write_text(json.dumps(numbers))
    safetensors.torch.save_file(tensors, folder / "state.safetensors")
    return journal._join(
        json.loads((folder / "state.json").read_text()), safetensors.torch.load_file(folder / "state.safetensors")
    )


@pytest.mark.parametrize("build", [trained, stochastic, adaptive, scheduled])
@pytest.mark.parametrize("k", [0, 1, 2, 5, 13, 29])
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


def test_a_state_does_not_change_when_the_process_goes_on():
    for build in (trained, stochastic):
        process = build()
        for _ in range(5):
            process.step()
        state = process.state()
        before = {name: tensor.clone() for name, tensor in journal._split(state)[1].items()}
        numbers = json.dumps(journal._split(state)[0])
        carried(process)
        assert json.dumps(journal._split(state)[0]) == numbers
        assert all(torch.equal(tensor, before[name]) for name, tensor in journal._split(state)[1].items())


def test_a_fresh_process_on_this_machine_continues_with_the_same_bits(tmp_path):
    """As the test above, but with nothing left of the first process's memory."""
    code = f"""
    import json, sys, torch
    sys.path[:0] = [*{[str(folder) for folder in list(Path(__file__).parents)[:3]]}]
    import safetensors.torch
    import test_descent as t
    torch.set_num_threads(1)
    out = {{}}
    for name in ("trained", "stochastic"):
        process = getattr(t, name)()
        numbers = json.load(open(f"{{sys.argv[1]}}/{{name}}.json"))
        process.load(t.journal._join(numbers, safetensors.torch.load_file(f"{{sys.argv[1]}}/{{name}}.safetensors")))
        out[name] = t.carried(process)
    print(json.dumps(out))
    """
    expected = {}
    for build in (trained, stochastic):
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


@pytest.mark.parametrize("name", landscapes.LANDSCAPES)
def test_every_landscape_can_be_descended(name):
    process = GradientDescent(Objective(landscapes.get(name).f), start(0.5, 0.3), 0.01, 50, [SharpnessTracker(10)])
    rows = carried(process)
    assert rows[-1]["loss"] < rows[0]["loss"]


# --- expectations along SGD ------------------------------------------------------------------------------


def test_estimating_does_not_change_the_path_of_sgd():
    objective, theta = network_problem()
    plain, estimating = (SGD(objective, theta, 0.5, 12, 6, 0, estimates) for estimates in (0, 3))
    rows = carried(estimating)
    carried(plain)
    assert torch.equal(plain.theta, estimating.theta)
    assert [i for i, row in enumerate(rows) if "expected_relation" in row] == [0, 4, 8]  # 20 examples: 4 batches


# --- adaptive methods ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [RMSPROP, ADAM], ids=["rmsprop", "adam"])
def test_adaptive_methods_against_pytorch(method):
    process = adaptive(method=method, dtype=torch.float64)
    theta = process.theta.clone().requires_grad_()
    if method is ADAM:
        optimiser = torch.optim.Adam([theta], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, foreach=False)
    else:
        optimiser = torch.optim.RMSprop([theta], lr=1e-2, alpha=0.99, eps=1e-7, foreach=False)
    carried(process)
    for _ in range(30):
        optimiser.zero_grad()
        process.objective.forward(theta)[0].backward()
        optimiser.step()
    assert torch.allclose(process.theta, theta.detach(), rtol=1e-12, atol=1e-14)


def test_the_identity_holds_in_the_metric_of_rmsprop():
    """RP = −1 + η ∫ τ L dτ with both in the metric P, as derived in the chapter."""
    process = adaptive(method=RMSPROP, dtype=torch.float64)
    for _ in range(5):
        process.step()
    theta, gradient, metric = process.theta, process._gradient, process._metric()
    v = process.step_size * gradient / metric
    tau, weight = gauss_legendre(16)
    after = [process.objective.gradient(theta - t * v) for t in tau]
    smoothness = [(t * v @ (gradient - g) / (t**2 * v @ (metric * v))).item() for t, g in zip(tau, after, strict=True)]
    process.step()
    row = process.observe()
    assert row["relative_progress"] == pytest.approx(-1 + process.step_size * (weight * tau) @ smoothness, abs=1e-10)
    at_the_end = (v @ (gradient - process._gradient) / (v @ (metric * v))).item()
    assert row["directional_smoothness"] == pytest.approx(at_the_end, rel=1e-10)


def test_the_preconditioned_sharpness_against_the_dense_matrix():
    process = adaptive(dtype=torch.float64)
    process.measurements = (SharpnessTracker(2, tolerance=1e-10),)
    for _ in range(5):
        process.step()
    hessian = torch.func.hessian(lambda t: process.objective.forward(t)[0])
    # step 4 was measured at θ_4; go there again
    again = adaptive(dtype=torch.float64)
    for _ in range(4):
        again.step()
    theta, scale = again.theta, again._metric() ** -0.5
    expected = torch.linalg.eigvalsh(scale[:, None] * hessian(theta) * scale)[-1]
    assert process.observe()["preconditioned_sharpness"] == pytest.approx(expected.item(), rel=1e-8)
    assert "sharpness" not in process.observe()


def test_the_inverse_sharpness_step_minimises_a_quadratic_along_its_top_eigenvector():
    objective = Objective(quadratic)
    process = InverseSharpnessDescent(objective, start(), 1.0, 3, [SharpnessTracker(1)])
    rows = carried(process)
    assert [row["eta"] for row in rows] == pytest.approx([1 / 40] * 3)
    assert process.theta.tolist() == pytest.approx([0, (1 - 2 / 40) ** 3])


def test_its_step_is_never_larger_than_the_one_given_and_kept_between_measurements():
    def run(step_size):
        objective, theta = network_problem(torch.float64)
        return carried(InverseSharpnessDescent(objective, theta, step_size, 12, [SharpnessTracker(4)]))

    assert {row["eta"] for row in run(0.01)} == {0.01}
    rows = run(100.0)
    for t, row in enumerate(rows):
        assert row["eta"] == pytest.approx(1 / rows[t - t % 4]["sharpness"])
