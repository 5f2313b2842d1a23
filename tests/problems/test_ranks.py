"""eoslib.problems.ranks: two processes on the CPU, which torchrun starts, take the steps of one run."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from test_datasets import write_cifar10

from eoslib import store
from eoslib.chapter import presets
from eoslib.chapter.experiments import carry_on
from eoslib.problems import networks, ranks
from eoslib.problems.batches import Batches
from eoslib.problems.objective import SupervisedObjective

CHAPTER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %%
from pydantic import PositiveInt

# %% tags=["parameters"]
steps: PositiveInt = 20

# %% tags=["experiments"]
from eoslib.chapter.experiments import Data, Descent, Network, Training
from eoslib.dynamics.rules import Rule, Schedule
from eoslib.measure.noise import Noise
from eoslib.measure.progress import HeldOut, Loss
from eoslib.problems.batches import Batches

training = Training(
    data=Data(dataset="cifar10", n=17, standardisation="per-channel"),
    network=Network(architecture="cnn", sizes={"width": 2}, activation="tanh"), loss="cross-entropy",
)
common = {"chapter": "mini", "problem": training, "step_size": 0.05, "steps": steps, "precision": "float64"}
experiments = {
    "sgd": [
        Descent(
            **common, experiment="sgd", rule=Rule(name="SGD", options={"momentum": 0.9, "weight_decay": 1e-3}),
            schedule=Schedule(name="StepLR", options={"step_size": 2, "gamma": 0.5}, advances="epoch"),
            batches=Batches(batch_size=5, crop=2, flip=True, noise="normal", noise_size=1e-3),
            measurements=(Loss(every="epoch"), HeldOut(every=6, examples=3), Noise(every=7, batch_size=4, examples=12)),
        )
    ],
    "gd": [Descent(**common, experiment="gd")],
}
"""

# each process says which it is; rank 0 of a run that is to be killed waits for it behind its checkpoint of step 14
SCRIPT = """\
import functools, os, time
from pathlib import Path
from eoslib import __main__, store
from eoslib.chapter import presets
from eoslib.dynamics.trajectory import Trajectory

presets.NOTEBOOKS = Path("notebooks")
rank = os.environ["RANK"]
if other := os.environ.get("DATA_OF_RANK_" + rank):
    os.environ["EOSLIB_DATA"] = other
Path("pid" + rank).write_text(str(os.getpid()))
if rank == "0" and "WAIT" in os.environ:
    step = Trajectory.step
    Trajectory.step = lambda self: (time.sleep({13: 1, 14: 100}.get(self.t, 0)), step(self))
store.carry_on = functools.partial(store.carry_on, checkpoint_seconds=0)
__main__.main()
"""


@pytest.fixture(autouse=True)
def chapter(tmp_path, monkeypatch):
    """A project with one chapter, on small CIFAR-10 files."""
    (tmp_path / "notebooks" / "presets").mkdir(parents=True)
    (tmp_path / "notebooks" / "mini.py").write_text(CHAPTER)
    (tmp_path / "notebooks" / "presets" / "mini.yaml").write_text("quick: {}\n")
    (tmp_path / "compute.py").write_text(SCRIPT)
    write_cifar10(tmp_path / "data" / "cifar-10-batches-bin")
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(presets, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.chdir(tmp_path)


def started(runs, *arguments, **environment):
    """`torchrun --nproc-per-node 2 compute.py compute mini`, its runs in the folder `runs`."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"EOSLIB_RUNS": str(runs), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        [*torchrun, "compute.py", "compute", "mini", *arguments], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(process):
    """Its exit status and what it said."""
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


def test_two_processes_agree_with_one_and_when_one_is_killed_the_run_resumes_bit_for_bit(tmp_path, monkeypatch):
    status, said = ended(started("two"))
    assert status == 0 and said.count("2 of 2 run(s) of mini at quick are finished") == 1, said
    process, deadline = started("killed", "--only", "sgd", WAIT=""), time.monotonic() + 100
    while not list(tmp_path.glob("killed/*/state-000000014.*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(int((tmp_path / "pid1").read_text()), signal.SIGKILL)
    status, said = ended(process)
    assert status != 0 and not list(tmp_path.glob("killed/*/manifest.json")), said
    status, said = ended(started("killed", "--only", "sgd"))
    assert status == 0, said

    path = presets.chapter_path("mini")
    (sgd,), (gd,) = presets.declared_experiments(path, presets.parameters(path)).values()
    found = {}
    for runs in ("one", "two", "killed"):
        monkeypatch.setenv("EOSLIB_RUNS", runs)
        found[runs] = carry_on(sgd) if runs == "one" else store.find(sgd.identity)
    one, two, killed = found.values()
    assert killed.manifest["resumes"] == 1 and killed.manifest["values_sha256"] == two.manifest["values_sha256"]
    assert two.manifest["machine"] == one.manifest["machine"] | {"processes": "2"}
    assert one.trace.keys() == two.trace.keys() >= {"batch_loss", "loss", "test_loss", "gradient_square"}
    for name in one.trace:  # numbers sum in another order
        np.testing.assert_allclose(two.trace[name], one.trace[name], rtol=1e-8, atol=1e-12, err_msg=name)
    monkeypatch.setenv("EOSLIB_RUNS", "two")  # rank 0 takes the steps on the whole data alone
    alone = store.find(gd.identity)
    monkeypatch.setenv("EOSLIB_RUNS", "one")
    assert alone.manifest["values_sha256"] == carry_on(gd).manifest["values_sha256"]


def test_processes_that_see_other_data_are_named(tmp_path):
    folder = tmp_path / "other" / "cifar-10-batches-bin"
    rows = write_cifar10(folder)
    rows[:4, 1] ^= 1
    rows[:4].tofile(folder / "data_batch_1.bin")
    status, said = ended(started("runs", DATA_OF_RANK_1=str(tmp_path / "other")))
    assert status != 0 and not list(tmp_path.glob("runs/*"))
    assert "error: ranks 0 and 1 do not see the same data, or were not asked for the same" in said


def test_shares_cover_a_minibatch_and_are_refused_where_one_would_be_empty(monkeypatch):
    assert ranks.share(7) == slice(0, 7) and ranks.count() == 1 and ranks.rank() == 0
    monkeypatch.setattr(ranks, "count", lambda: 3)
    seen = []
    for rank in range(3):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        seen.append(list(range(8))[ranks.share(8)])
    assert [i for part in seen for i in part] == list(range(8)) and {len(s) for s in seen} == {2, 3}
    network = networks.mlp(4, (3,), 2, "tanh", seed=0)
    objective = SupervisedObjective(network, torch.ones(7, 4), torch.zeros(7), "mse-sum")
    Batches(batch_size=4).begin(objective, 0)
    with pytest.raises(ValueError, match="3 processes cannot share a minibatch of 1 examples"):
        Batches(batch_size=3).begin(objective, 0)
