"""The README shows the benchmarks that were measured, and what they measure runs on small sizes."""

import contextlib
import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from distributed import LocalCluster

from eoslib.problems import networks

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def benchmarks():
    spec = importlib.util.spec_from_file_location("benchmarks_run", ROOT / "benchmarks/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_in_the_readme_is_that_of_the_results(benchmarks):
    results = json.loads((ROOT / "benchmarks/results.json").read_text())
    assert f"<!-- benchmarks -->\n{benchmarks.table(results)}\n<!--" in (ROOT / "README.md").read_text()
    assert len(results["rows"]) > 10


def test_a_row_says_its_data_its_bound_and_whether_it_holds(benchmarks):
    row = {"id": "a", "value": 2.345, "unit": "times", "bound": "<= 2", "holds": False, "data": "digits, n = 9"}
    machine = {"processor": "abacus", "threads": 2, "torch": "1", "data": "generated"}
    lines = benchmarks.table({"rows": [row], "machine": machine}).splitlines()
    assert lines[2] == "| a (digits, n = 9) | 2.35 | times | ≤ 2, does not hold |"


def test_minibatches_are_compared_with_the_loop_that_they_equal(benchmarks):
    """Both have come to the same θ, else the comparison stops."""
    network = networks.mlp(3072, (3,), 10, "tanh", seed=0)
    compared = benchmarks.Minibatches(network, 40, 0.01, 16, momentum=0.9)
    assert len(compared.epoch) == 3 and "n = 40" in compared.what and "minibatches of 16" in compared.what
    assert 0 < compared.compare(rounds=1, repeats=1) < 100
    assert compared.trajectory.observe()["step"].keys() == {"batch_loss"}  # nothing else was due
    astray = benchmarks.Minibatches(network, 40, 0.01, 16)
    with torch.no_grad():
        next(astray.module.parameters()).add_(0.1)
    with pytest.raises(AssertionError):
        astray.compare(rounds=1, repeats=1)


def test_the_networks_of_the_rows_have_the_sizes_that_the_rows_say(benchmarks):
    sizes = {name: len(networks.flatten(network)) for name, network in benchmarks.minibatch_networks().items()}
    assert sizes == {"mlp": 656_810, "cnn": 30_634}
    resnet = benchmarks.narrow_resnet(130)
    assert resnet.trajectory.objective.buffers and "n = 130" in resnet.what and len(resnet.epoch) == 2
    (group,) = resnet.optimiser.param_groups
    assert (group["momentum"], group["weight_decay"]) == (0.9, 5e-4)


def test_what_watching_adds_is_measured_beside_what_it_counts(benchmarks):
    overhead, what = benchmarks.watch_overhead(networks.mlp(3072, (3,), 10, "tanh", seed=0), 130, 2, rounds=1)
    assert -100 < overhead < 10_000 and "n = 130" in what and "every 2 steps" in what


def test_steps_wait_for_their_images_for_a_share_of_the_time(benchmarks):
    share, what = benchmarks.loading_wait(8, 8, 2, {"widths": [2], "blocks": [1]})
    assert 0 < share < 100 and "8 photographs" in what


def test_a_sweep_is_timed_beside_its_cases(benchmarks, monkeypatch):
    runs = os.environ["EOSLIB_RUNS"]
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        monkeypatch.setattr(benchmarks.sweep, "_local", lambda: contextlib.nullcontext(cluster.scheduler_address))
        each, busy, over, lost = benchmarks.swept(3, 20, network=False)
    assert 0 < each < 60 and 0 <= busy < 100 and over > -100
    assert lost == 0 and os.environ["EOSLIB_RUNS"] == runs


def test_per_example_norms_are_timed_on_networks_of_three_kinds(benchmarks, monkeypatch):
    monkeypatch.setattr(benchmarks, "N", 20)
    found = benchmarks.per_example_problems()
    assert {name: most for name, (*_, most) in found.items()} == {"mlp": 3, "cnn": 3, "transformer": 4}
    for objective, theta, what, _ in found.values():
        _, gradient, squares = benchmarks.per_example(objective.batch(torch.arange(5)), theta)
        assert len(squares) == 5 and len(gradient) == len(theta) and "n = " in what


def test_the_peers_minimise_what_we_do(benchmarks):
    for shape in ((6, 5), (6, 3, 5)):
        outputs, labels = torch.randn(shape), torch.randint(5, shape[:-1])
        torch.testing.assert_close(benchmarks.OfTokens()(outputs, labels), benchmarks.cross_entropy(outputs, labels))


def test_a_tracked_step_is_timed_in_gradients(benchmarks):
    given = benchmarks.training("digits", 60, "mse-binary", "mlp", {"hidden": [6]}, classes=[8, 9])
    gradients, products, epsilon = benchmarks.tracked_step(given, 2 / 20, 4)
    assert gradients > 1 and products > 5 and 0 < epsilon < 2
    assert {most for *_, most in benchmarks.tracked_steps().values()} == {40, 80}


def test_the_share_of_checkpoints_is_measured_and_leaves_nothing_behind(benchmarks, monkeypatch):
    store, before = os.environ["EOSLIB_RUNS"], set(benchmarks.FOLDER.iterdir())
    share, parameters = benchmarks.checkpoint_share(3, (5, 5), checkpoint_seconds=0)
    assert 0 < share < 100 and parameters == 3072 * 5 + 5 + 5 * 5 + 5 + 5 * 10 + 10
    assert os.environ["EOSLIB_RUNS"] == store and set(benchmarks.FOLDER.iterdir()) == before


def test_many_starts_are_compared_with_loops_that_come_to_the_same_points(benchmarks):
    rates = benchmarks.compare_starts(300, 50)
    assert rates.keys() == {"ours", "numpy", "numba"} and min(rates.values()) > 0
    assert 0 < benchmarks.phase_diagram(2, 3, 4) < 60
