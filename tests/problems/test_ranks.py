"""eoslib.problems.ranks: two processes on the CPU, which torchrun starts, take the steps of one run."""

import contextlib
import os
import signal
import socket
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

# What each of two processes does. At first rank 0 waits behind its checkpoint of step 14, until the test has killed
# rank 1 and torchrun starts both again; then they carry on, do the same undisturbed, and at last see data that differ:
# one start of torchrun, since each process takes seconds to import what it needs. As torchrun leaves them a place to
# meet once only, they have a port of their own for each.
SCRIPT = """\
import functools, os, sys, time
from pathlib import Path
from eoslib import __main__, store
from eoslib.chapter import presets
from eoslib.dynamics.trajectory import Trajectory

presets.NOTEBOOKS = Path("notebooks")
store.carry_on = functools.partial(store.carry_on, checkpoint_seconds=0)
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
rank, (_, first, *ports) = os.environ["RANK"], sys.argv

def compute(port, runs, *arguments):
    os.environ |= {"EOSLIB_RUNS": runs, "MASTER_PORT": port}
    sys.argv = ["eoslib", "compute", "mini", *arguments]
    try:
        __main__.main()
    except SystemExit as end:
        Path(f"status-{runs}-{rank}").write_text(str(end.code or 0))

if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    Path("pid" + rank).write_text(str(os.getpid()))
    if rank == "0":
        step = Trajectory.step
        Trajectory.step = lambda self: (time.sleep({13: 1, 14: 100}.get(self.t, 0)), step(self))
    compute(first, "killed", "--only", "sgd")
compute(ports[0], "killed", "--only", "sgd")
compute(ports[1], "two")
if rank == "1":
    os.environ["EOSLIB_DATA"] = "other"
compute(ports[2], "differing")
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


def free_ports(n):
    """n ports at which nobody listens."""
    with contextlib.ExitStack() as at_last:
        sockets = [at_last.enter_context(socket.socket()) for _ in range(n)]
        for free in sockets:
            free.bind(("localhost", 0))
        return [str(free.getsockname()[1]) for free in sockets]


def test_two_processes_agree_with_one_resume_bit_for_bit_when_one_is_killed_and_see_when_data_differ(
    tmp_path, monkeypatch
):
    folder = tmp_path / "other" / "cifar-10-batches-bin"
    rows = write_cifar10(folder)
    rows[:4, 1] ^= 1
    rows[:4].tofile(folder / "data_batch_1.bin")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    process = subprocess.Popen(
        [*torchrun, "compute.py", *free_ports(4)], env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("killed/*/state-000000014.*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(int((tmp_path / "pid1").read_text()), signal.SIGKILL)
    try:
        said, _ = process.communicate(timeout=120)
    finally:
        process.terminate()
    ends = {path.name.removeprefix("status-"): path.read_text() for path in tmp_path.glob("status-*")}
    assert [ends.pop(f"differing-{rank}") for rank in "01"] == ["1", "1"] and set(ends.values()) <= {"0"}, said
    assert not list(tmp_path.glob("differing/*"))
    assert "error: ranks 0 and 1 do not see the same data, or were not asked for the same" in said
    assert said.count("2 of 2 run(s) of mini at quick are finished") == 1, said

    path = presets.chapter_path("mini")
    (sgd,), (gd,) = presets.declared_experiments(path, presets.parameters(path)).values()
    found = {}
    for runs in ("one", "two", "killed"):
        monkeypatch.setenv("EOSLIB_RUNS", runs)
        found[runs] = carry_on(sgd) if runs == "one" else store.find(sgd.identity)
    one, two, killed = found.values()
    assert killed.manifest["resumes"] == 1 and killed.manifest["values_sha256"] == two.manifest["values_sha256"]
    assert two.manifest["resumes"] == 0
    assert two.manifest["machine"] == one.manifest["machine"] | {"processes": "2"}
    assert one.trace.keys() == two.trace.keys() >= {"batch_loss", "loss", "test_loss", "gradient_square"}
    for name in one.trace:  # numbers sum in another order
        np.testing.assert_allclose(two.trace[name], one.trace[name], rtol=1e-8, atol=1e-12, err_msg=name)
    monkeypatch.setenv("EOSLIB_RUNS", "two")  # rank 0 takes the steps on the whole data alone
    alone = store.find(gd.identity)
    monkeypatch.setenv("EOSLIB_RUNS", "one")
    assert alone.manifest["values_sha256"] == carry_on(gd).manifest["values_sha256"]


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
