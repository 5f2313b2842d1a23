"""chapter.costs: what a run will cost is said from what runs have cost, else from counted work."""

import time
from dataclasses import replace

import pytest
import torch

from eoslib import store
from eoslib.chapter import costs, experiments
from eoslib.chapter.experiments import Data, Descent, Network, OnLandscape, Training
from eoslib.dynamics.rules import Rule, Schedule
from eoslib.measure.curvature import Sharpness
from eoslib.measure.progress import Progress
from eoslib.problems import datasets
from eoslib.problems.batches import Batches
from eoslib.problems.objective import Objective
from eoslib.problems.problem import OVERHEAD
from eoslib.store import files

NETWORK = Network(architecture="mlp", sizes={"hidden": [8]}, activation="tanh")
TRAINING = Training(data=Data(dataset="digits", n=40), network=NETWORK, loss="mse-half-sum")
GD = Descent(chapter="test", experiment="gd", step_size=0.1, steps=20, problem=TRAINING)


def seconds(experiment):
    return costs.cost(experiment)[0]


def recorded_as_taking(experiment, seconds_per_step):
    """Its finished run, in the store, as if its steps had taken so long."""
    run = experiments.carry_on(experiment)
    path = store.home() / run.key / "manifest.json"
    manifest = files.read_json(path)
    times = {"seconds_per_step": seconds_per_step, "wall_seconds": seconds_per_step * manifest["step"]}
    files.write_json(path, manifest | times)


@pytest.fixture
def nothing_is_loaded_or_computed(monkeypatch):
    def forbidden(*arguments, **options):
        raise AssertionError("to say what a run costs, data were loaded, a clock read or something computed")

    for module, name in ((datasets, "load"), (datasets, "fingerprint"), (Objective, "evaluate"), (Objective, "expand")):
        monkeypatch.setattr(module, name, forbidden)
    for name in ("monotonic", "perf_counter", "process_time"):
        monkeypatch.setattr(time, name, forbidden)


# --- from runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"step_size": 0.05}, {"seed": 3}, {"stop_accuracy": 0.9}, {"chapter": "another", "experiment": "other"},
        {"steps": 500}, {"steps": 500, "seed": 3, "step_size": 0.3},
    ],
    ids=str,
)  # fmt: skip
def test_a_run_of_the_same_kind_on_the_same_problem_says_how_long_a_step_takes(change):
    recorded_as_taking(GD, 3.0)
    wanted = replace(GD, **change)
    assert seconds(wanted) == pytest.approx(3 * wanted.steps)


@pytest.mark.parametrize(
    "change",
    [
        {"problem": replace(TRAINING, loss="cross-entropy")},
        {"problem": replace(TRAINING, data=Data(dataset="digits", n=41))},
        {"problem": replace(TRAINING, network=replace(NETWORK, sizes={"hidden": [9]}))},
        {"problem": OnLandscape(landscape="quadratic", start=(1.0, 1.0))},
        {"measurements": (Sharpness(),)},
        {"measurements": (Progress(every=2),)},
        {"batches": Batches(batch_size=10)},
        {"rule": Rule(name="SGD")},
        {"schedule": Schedule(name="StepLR", options={"step_size": 3})},
        {"precision": "float64"},
    ],
    ids=str,
)
def test_a_run_of_something_else_says_nothing(change):
    wanted = replace(GD, **change)
    before = seconds(wanted)
    recorded_as_taking(GD, 1000.0)
    assert seconds(wanted) == before < 1000


def test_of_several_runs_the_median_is_taken():
    for seed, took in enumerate((1.0, 2.0, 90.0)):
        recorded_as_taking(replace(GD, seed=seed), took)
    assert seconds(replace(GD, seed=9)) == pytest.approx(2 * 20)


def test_recorded_runs_count_and_unfinished_ones_do_not(monkeypatch, tmp_path):
    recorded_as_taking(GD, 3.0)
    store.record(store.find(GD.identity))
    monkeypatch.setenv("EOSLIB_RUNS", str(tmp_path / "other"))
    wanted = replace(GD, step_size=0.3)
    assert seconds(wanted) == pytest.approx(3 * 20)
    monkeypatch.setenv("EOSLIB_RECORDED", str(tmp_path / "nothing"))
    counted = seconds(wanted)
    assert counted < 1
    assert experiments.carry_on(replace(GD, seed=1), budget=0) is None
    assert store.listing()[0]["status"] == "unfinished"
    assert seconds(wanted) == counted


def test_a_real_run_says_what_it_took():
    run = experiments.carry_on(GD)
    assert seconds(replace(GD, seed=1, steps=200)) == pytest.approx(200 * run.manifest["seconds_per_step"])


# --- from counted work ----------------------------------------------------------------------------------------


def test_without_runs_the_work_is_counted():
    assert store.manifests() == []
    operations = 3 * 40 * 2 * (64 * 8 + 8 * 10) + OVERHEAD  # multiplications and additions, three passes
    assert TRAINING.work("float32")[0] == operations
    assert seconds(replace(GD, measurements=(Progress(every=21),))) == pytest.approx(
        20 * operations / costs.RATE, rel=1
    )
    assert seconds(replace(GD, steps=40)) == 2 * seconds(GD)


def test_more_work_costs_more():
    wide = replace(NETWORK, sizes={"hidden": [4000, 4000]})
    large = replace(GD, problem=replace(TRAINING, network=wide, data=Data(dataset="digits", n=1000)))
    assert seconds(large) > 10 * seconds(GD)
    assert seconds(replace(large, precision="float64")) > 1.5 * seconds(large)
    assert seconds(replace(large, batches=Batches(batch_size=10))) < seconds(large) / 2
    measured = {every: seconds(replace(large, measurements=(Sharpness(every=every),))) for every in (1, 5, (3,), "end")}
    assert measured[1] > measured[5] > measured["end"] == measured[3,] > seconds(large) / 1.001
    assert seconds(replace(large, measurements=(Sharpness(eigenvalues=3),))) > 1.5 * measured[1]
    assert costs.cost(large)[1] > costs.cost(GD)[1] > 0


@pytest.mark.parametrize("has_run", [False, True])
def test_nothing_is_timed_and_no_data_are_loaded(has_run, request):
    experiment = replace(GD, measurements=(Progress(), Sharpness(every=3)), batches=Batches(batch_size=10))
    if has_run:
        recorded_as_taking(experiment, 3.0)
    request.getfixturevalue("nothing_is_loaded_or_computed")
    cost, memory = costs.cost(replace(experiment, step_size=0.3))
    assert (cost == pytest.approx(60)) == has_run
    assert cost > 0 and memory > 0


def test_the_cost_is_said_of_data_that_are_not_here(monkeypatch, tmp_path):
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path / "nothing"))
    absent = replace(GD, problem=replace(TRAINING, data=Data(dataset="cifar10", n=5000)))
    assert seconds(absent) > seconds(GD)


def test_the_network_is_only_counted_never_held(monkeypatch):
    """A network at the paper's own size may be larger than this machine."""
    forwards = []
    forward = torch.nn.Linear.forward

    def spy(self, x):
        forwards.append(x.device.type)
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", spy)
    GD.work()
    assert set(forwards) <= {"meta"}
