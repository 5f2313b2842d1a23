"""Device code without a device: each kind of experiment on the pretend accelerator of `accelerator.py`."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from accelerator import DEVICE, Accelerator
from frozen.steps import name_of

from eoslib import store
from eoslib.chapter import presets
from eoslib.measure.curvature import SharpnessTracker, top_eigenpairs
from eoslib.measure.noise import Noise
from eoslib.measure.stochastic_curvature import BatchSharpness, CriticalSharpness, PowerIteration, SampleSharpness
from eoslib.papers.stationarity import Balance
from eoslib.problems import networks
from eoslib.problems.losses import LOSSES
from eoslib.problems.objective import Objective, SupervisedObjective

CPU = torch.device("cpu")
STEPS = 8
# one or two of each kind: chapter, experiment, place in its list
DESCENT = [
    ("unstable_convergence", "exp1", 0), ("unstable_convergence", "thm2", 0), ("unstable_convergence", "exp5", 0),
    ("unstable_convergence", "cor1", 0), ("unstable_convergence", "spectrum", 0), ("self_stabilization", "fig1", 0),
    ("self_stabilization", "fig6", -1),
]  # fmt: skip
STOCHASTIC = [
    ("unstable_convergence", "exp8", 0), ("unstable_convergence", "exp9", -1), ("no_stationary_points", "fig4", 0),
]  # fmt: skip
OTHERS = [
    ("unstable_convergence", "ex1", 0), ("unstable_convergence", "thm1", 0), ("unstable_convergence", "adaptive", 0),
    ("unstable_convergence", "adaptive", 1), ("forward_invariance", "fig2", 7),
]  # fmt: skip
STABILIZATION = [
    ("self_stabilization", "fig4", 0), ("self_stabilization", "cnn", 0), ("self_stabilization", "transformer", 0),
    ("self_stabilization", "several", 0),
]  # fmt: skip
ALL = [*DESCENT, *STOCHASTIC, *OTHERS, *STABILIZATION[:1]]  # on their way to the onset the others are like the first
CHEAP = [*DESCENT[:1], *DESCENT[-1:], *STOCHASTIC[:1], *OTHERS[2:3], *STABILIZATION[:1]]  # one of each kind of process


def each(entries):
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: name_of(*entry))


@pytest.fixture(scope="module")
def declared():
    """Experiments at `quick`, by chapter and name."""
    paths = [presets.chapter_path(chapter) for chapter in presets.chapters()]
    chapters = {path.stem: presets.declared_experiments(path, presets.parameters(path)) for path in paths}
    return lambda chapter, experiment, place: chapters[chapter][experiment][place]


def rows_of(process, steps):
    """What is observed in the next steps, at most so many, whichever the table."""
    rows = []
    while len(rows) < steps and not process.finished:
        process.step()
        rows.append({name: value for row in process.observe().values() for name, value in row.items()})
    return rows


def assert_same(rows, expected):
    """Bit for bit. All that the pretend device computes, the CPU's own kernels compute, from the same operations in
    the same order: the least difference is a fault of the library, which took another way on the device."""
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    for t, (row, other) in enumerate(zip(rows, expected, strict=True)):
        for name, value in row.items():
            np.testing.assert_array_equal(value, other[name], err_msg=f"{name} at step {t}")


def at_onset(process):
    """A `SelfStabilization` on the CPU carried to its onset, whose next step is tracked."""
    while process.onset is None or process.t < process.onset:
        process.step()
    return process


def moved(state):
    """A copy of a state as a checkpoint keeps it: on the CPU."""
    return {
        name: moved(v) if isinstance(v, dict) else v.detach().cpu().clone() if isinstance(v, torch.Tensor) else v
        for name, v in state.items()
    }


# --- the library on the device ---------------------------------------------------------------------------


@each(ALL)
def test_the_first_steps_are_the_cpus_bit_for_bit(entry, declared):
    experiment = declared(*entry)
    expected = rows_of(experiment.process(CPU), STEPS)
    with Accelerator():
        assert_same(rows_of(experiment.process(DEVICE), STEPS), expected)


def test_areas_of_basins_are_the_cpus(declared):
    experiment = dataclasses.replace(declared("forward_invariance", "sizes", 3), grid=64)
    last = {"t": experiment.steps - 1, "gradients": 0, "products": 0}  # where the step size is largest, paths are short
    process = experiment.process(CPU)
    process.load(last)
    with Accelerator():
        on_device = experiment.process(DEVICE)
        on_device.load(last)
        assert_same(rows_of(on_device, 1), rows_of(process, 1))


@each(STABILIZATION)
def test_tracked_steps_are_the_cpus_bit_for_bit(entry, declared):
    """From a state that the CPU saved at the onset, where all is due; costly networks from one a step later."""
    experiment = declared(*entry)
    process = at_onset(experiment.process(CPU))
    if experiment.problem.network.architecture != "mlp":
        rows_of(process, 1)
    saved = moved(process.state())
    with Accelerator():
        on_device = experiment.process(DEVICE)
        on_device.load(saved)
        rows = rows_of(on_device, 1)
        assert "constrained_loss" in rows[0]
        assert_same(rows, rows_of(process, 1))
        if experiment.problem.network.architecture == "mlp":  # what comes after is saved and continued as well
            after, rows = moved(on_device.state()), rows_of(on_device, 1)
            resumed = experiment.process(DEVICE)
            resumed.load(after)
            assert_same(rows_of(resumed, 1), rows)
            assert_same(rows, rows_of(process, 1))


@each(CHEAP)
def test_a_state_of_the_device_continues_on_the_device_and_on_the_cpu(entry, declared):
    experiment = declared(*entry)
    with Accelerator():
        process = experiment.process(DEVICE)
        rows_of(process, 3)
        saved = moved(process.state())
        rows = rows_of(process, 4)
        assert len(rows) == 4
        for device in (DEVICE, CPU):
            resumed = experiment.process(device)
            resumed.load(moved(saved))
            assert_same(rows_of(resumed, 4), rows)
            theta = getattr(resumed, "theta", None)
            assert theta is None or theta.device in (device, CPU)  # a landscape's two numbers stay on the CPU


@each([*DESCENT[-1:], *STOCHASTIC[:1], *OTHERS[2:3]])
def test_a_run_that_is_interrupted_on_the_device_resumes_there(entry, declared):
    experiment = dataclasses.replace(declared(*entry), steps=7)
    expected = store.carry_on(experiment.process(CPU), experiment.identity)
    identity = experiment.identity
    elsewhere = store.Identity(identity.values, identity.differing | {"on": "the device"})
    with Accelerator():
        process = experiment.process(DEVICE)
        step = process.step

        def breaking():
            if process.t == 4:
                raise KeyboardInterrupt
            step()

        process.step = breaking
        with contextlib.suppress(KeyboardInterrupt):
            store.carry_on(process, elsewhere, checkpoint_seconds=0)  # a checkpoint at each step
        assert process.t == 4
        run = store.carry_on(experiment.process(DEVICE), elsewhere)
    assert run.manifest["resumes"] == 1
    assert run.manifest["values_sha256"] == expected.manifest["values_sha256"]


def test_noise_and_curvature_of_minibatches_are_the_cpus(declared):
    """On the trajectory of an experiment; all that they draw is drawn on the CPU."""
    measurements = (
        Noise(examples=40, batch_size=10), SampleSharpness(examples=40, batch_size=10),
        PowerIteration(batch_size=20, iterations=2), BatchSharpness(batch_size=20, minibatches=2), CriticalSharpness(),
        Balance(batch_size=20, minibatches=2),
    )  # fmt: skip
    experiment = dataclasses.replace(declared("unstable_convergence", "exp1", 0), measurements=measurements)
    expected = rows_of(experiment.process(CPU), 2)
    with Accelerator():
        assert_same(rows_of(experiment.process(DEVICE), 2), expected)


# --- transfers -------------------------------------------------------------------------------------------


@each([*DESCENT, *STOCHASTIC, *OTHERS[2:4]])
def test_a_step_where_nothing_is_due_waits_once_at_most(entry, declared):
    with Accelerator() as accelerator:
        process, rows, transfers = declared(*entry).process(DEVICE), [], []
        for _ in range(12):
            before = accelerator.transfers
            rows += rows_of(process, 1)
            transfers.append(accelerator.transfers - before)
    # what is due at θ_t is observed in row t, and measured in that step or in the one that arrives there
    fewest = min(len(row) for row in rows)
    quiet = [t for t in range(1, 11) if len(rows[t]) == len(rows[t + 1]) == fewest]
    assert quiet
    assert max(transfers[t] for t in quiet) <= 1


@pytest.mark.parametrize("k", [1, 3])
def test_a_search_waits_once_for_each_product_and_start(k):
    """For its coordinates, from which all that is decided follows."""
    matrix = torch.diag(torch.arange(1.0, 41, dtype=torch.float64))
    with Accelerator() as accelerator:
        on_device = matrix.to(DEVICE)
        start = torch.ones(1, 40, dtype=torch.float64).to(DEVICE)
        spectrum = top_eigenpairs(lambda v: on_device @ v, start, k, tolerance=1e-6)
        assert spectrum.converged and accelerator.transfers == spectrum.products + len(start)
        assert spectrum.vectors.device == DEVICE
        np.testing.assert_allclose(spectrum.values, np.arange(40, 40 - k, -1), rtol=1e-9)


def test_a_measurement_waits_once_beside_its_search():
    with Accelerator() as accelerator:
        theta = torch.linspace(-1, 1, 20, dtype=torch.float64).to(DEVICE)
        point = Objective(lambda x: (x**4).sum() + x.prod()).expand(theta)
        row = SharpnessTracker(k=2).measure(point, 0.1)
        assert {"alignment", "unstable_alignment", "eigenvalues"} <= row.keys()
        assert accelerator.transfers <= row["products"] + 2 + 1  # and once for each vector of the start


def test_a_tracked_step_waits_for_little_but_its_searches(declared):
    experiment = declared("self_stabilization", "fig4", 0)
    saved = moved(at_onset(experiment.process(CPU)).state())
    with Accelerator() as accelerator:
        process = experiment.process(DEVICE)
        process.load(saved)
        rows_of(process, 1)  # the costly measurements are due at the onset
        before = accelerator.transfers
        (row,) = rows_of(process, 1)
        assert accelerator.transfers - before <= 2 * row["products"]


# --- the instrument --------------------------------------------------------------------------------------

SQUARE = torch.arange(9.0).reshape(3, 3)
MIXTURES = {
    "sum": lambda here, there: there + here,
    "product": lambda here, there: here @ there,
    "product with a column": lambda here, there: there @ here[0],
    "concatenation": lambda here, there: torch.cat([here, there]),
    "stack of numbers": lambda here, there: torch.stack([here[0, 0], there[0, 0]]),
    "choice": lambda here, there: torch.where(there > 2, there, here),
    "comparison": lambda here, there: torch.equal(here, there),
    "mask": lambda here, there: here[there > 2],
    "indices": lambda here, there: here[there[0].long()],
    "in place": lambda here, there: here.add_(there),
    "generator": lambda here, there: torch.randn(3, generator=torch.Generator(), device=DEVICE),
    "NumPy": lambda here, there: there.numpy(),
    "loss": lambda here, there: LOSSES["cross-entropy"](there, torch.tensor([0, 1, 2])),
}


@pytest.mark.parametrize("mix", MIXTURES.values(), ids=MIXTURES)
def test_devices_do_not_mix(mix):
    with Accelerator(), pytest.raises((RuntimeError, TypeError)):
        mix(SQUARE.clone(), SQUARE.to(DEVICE))


@pytest.mark.parametrize("part", ["inputs", "labels"])
def test_an_experiment_whose_data_stay_behind_is_found(part, declared):
    with Accelerator():
        process = declared("unstable_convergence", "exp1", 0).process(DEVICE)
        setattr(process.objective, part, getattr(process.objective, part).cpu())
        with pytest.raises(RuntimeError, match="on the CPU met one on pretend:0"):
            process.step()


def test_a_mixture_in_the_backward_pass_is_found():
    class Mixing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient + torch.ones(3)

    with Accelerator():
        x = torch.zeros(3, device=DEVICE, requires_grad=True)
        with pytest.raises(RuntimeError, match="on the CPU met one on pretend:0"):
            Mixing.apply(x).sum().backward()
        y = x.exp()
        y.register_hook(lambda gradient: gradient * 2)
        y.grad_fn.register_prehook(lambda gradients: (gradients[0] + torch.ones(3),))
        with pytest.raises(RuntimeError, match="on the CPU met one on pretend:0"):
            torch.autograd.grad(y.sum(), x)
        point = Objective(lambda x: x.exp().sum()).expand(x.detach())
        with pytest.raises(RuntimeError, match="on the CPU met one on pretend:0"):
            point.hvp(torch.ones(3))


def test_what_cuda_takes_from_the_cpu_is_taken():
    with Accelerator() as accelerator:
        there = SQUARE.to(DEVICE)
        there = there * torch.tensor(2.0) + SQUARE.sum()
        rows = there[torch.tensor([2, 0])]
        there[torch.tensor([True, False, True])] = torch.tensor(5.0)
        there.copy_(SQUARE)
        assert accelerator.transfers == 0
        assert there.tolist() == SQUARE.tolist() and rows.tolist() == [[48, 50, 52], [36, 38, 40]]


WAITS = {
    "item": lambda x: x[0, 0].item(),
    "float": lambda x: float(x[0, 0]),
    "truth": lambda x: bool(x.sum() > 0),
    "list": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu", torch.float64),
    "into": lambda x: torch.zeros(3, 3).copy_(x),
    "mask": lambda x: x[x > 2],
    "equal": lambda x: torch.equal(x, x),
    "nonzero": lambda x: x.nonzero(),
    "eigenvalues": lambda x: torch.linalg.eigh(x),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_wait_is_counted_once(wait):
    with Accelerator() as accelerator:
        there = SQUARE.to(DEVICE)
        there = (there + 1) @ there.T - there.mean()
        assert accelerator.transfers == 0
        wait(there)
        assert accelerator.transfers == 1


NETWORKS = {
    "mlp": lambda: networks.mlp(16, (5,), 2, "tanh", seed=0),
    "cnn": lambda: networks.cnn((1, 4, 4), 2, width=2, activation="gelu", seed=0),
    "resnet18": lambda: networks.resnet18((1, 4, 4), 2, widths=(4, 4), groups=2, seed=0),
    "transformer": lambda: networks.transformer(4, 4, 2, width=4, layers=1, seed=0),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_derivatives_to_the_fourth_order_are_the_cpus(network):
    network = NETWORKS[network]().double()
    theta = networks.flatten(network)
    theta, u = theta + 0.1 * torch.ones_like(theta), torch.linspace(-1, 1, len(theta), dtype=torch.float64)
    inputs = torch.linspace(-2, 2, 48, dtype=torch.float64).reshape(3, 16).sin()

    def derivatives(device):
        data = inputs.to(device), torch.tensor([0, 1, 1]).to(device)
        point = SupervisedObjective(network, *data, "cross-entropy").expand(theta.to(device))
        v = u.to(device)
        return [x.tolist() for x in (point.gradient, point.hvp(v), point.third(v), point.fourth(v))]

    expected = derivatives(CPU)
    with Accelerator():
        assert derivatives(DEVICE) == expected


def test_a_tensor_of_the_device_is_of_no_use_without_it():
    with Accelerator():
        there = SQUARE.to(DEVICE)
    with pytest.raises(RuntimeError, match="exists only inside"):
        there + 1


def test_no_other_device_is_asked_for_by_default():
    assert store.default_device() == CPU
