"""A process cheap enough to be killed, and what the tests of the store do with it."""

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eoslib import store
from eoslib.measure.variables import Variable
from eoslib.store import files, journal

ROOT = Path(__file__).parents[2]

VARIABLES = {
    "loss": Variable("the distance walked"),
    "theta": Variable("where it is", dims=("coordinate",)),
    "sharpness": Variable("sparse"),
    "eigenvalues": Variable("sparse, and a vector", dims=("eigenvalue",)),
    "rare": Variable("at every third step", units="m"),
    "epoch_loss": Variable("at steps that are not equally far apart"),
    "first": Variable("at some steps", dtype="int64"),
    "final": Variable("where it ends", dims=("coordinate",)),
}
CHOSEN = (0, 1, 17)


class Walk:
    """A random walk. What matters of its state is a vector, a generator and a number.

    Of its table over steps one observable is sparse, one a vector, one both; it has tables of every other cadence.
    hook: called with t before each step. keep: of these t, or at the "last", θ_t is kept.
    """

    variables, device = VARIABLES, torch.device("cpu")

    def __init__(self, steps=40, hook=lambda t: None, keep=()):
        self.steps, self.hook, self.keep, self.t = steps, hook, keep, 0
        self.theta, self.generator = torch.zeros(3, dtype=torch.float64), torch.Generator().manual_seed(5)
        self.kept = {"0": self.theta} if 0 in keep else {}

    @property
    def finished(self):
        return self.t >= self.steps

    def step(self):
        self.hook(self.t)
        self.theta = 0.9 * self.theta + torch.randn(3, generator=self.generator, dtype=torch.float64)
        self.t += 1
        self.kept = {str(self.t): self.theta} if self.t in self.keep else {}
        if self.finished and "last" in self.keep:
            self.kept["last"] = self.theta

    def observe(self):
        t, theta = self.t - 1, self.theta.tolist()
        row = {"loss": self.theta.norm().item(), "theta": theta}
        tables = {"step": row | ({"sharpness": 1 / self.t, "eigenvalues": [1.0, self.t]} if self.t % 7 == 3 else {})}
        if t % 3 == 0:
            tables["every_3"] = {"rare": theta[0]}
        if is_square(t):
            tables["epoch"] = {"epoch_loss": theta[1]}
        if t in CHOSEN:
            tables["chosen"] = {"first": t}
        if self.finished:
            tables["end"] = {"final": theta}
        return tables

    def state(self):
        return {"t": self.t, "theta": self.theta, "inner": {"generator": self.generator.get_state(), "none": None}}

    def load(self, state):
        self.t, self.theta, self.kept = state["t"], state["theta"], {}
        self.generator.set_state(state["inner"]["generator"])
        assert state["inner"]["none"] is None


def is_square(t):
    return round(t**0.5) ** 2 == t


VALUES = {"chapter": "test", "experiment": "walk", "step_size": 0.5, "seed": 0, "hidden": (3, 4), "fingerprint": ""}


def named(**changes):
    """The identity of a walk that differs from the usual one in these values."""
    values = VALUES | changes
    labels = ("chapter", "experiment", "fingerprint")
    return store.Identity(values, {name: value for name, value in values.items() if name not in labels})


IDENTITY = named()


def folder():
    (found,) = store.home().iterdir()
    return found


def names(path):
    return sorted(p.name for p in path.iterdir())


FINISHED = ["holder.json", "lock", "manifest.json", "trace.nc"]  # what a finished run leaves


def stop_at(k, error=KeyboardInterrupt):
    """A hook that raises in the k-th step."""

    def hook(t):
        if t == k:
            raise error

    return hook


def never(t):
    raise AssertionError("a finished run was computed again")


@contextlib.contextmanager
def no_time_passes():
    """Checkpoints then cost nothing, and come as often as they are asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "time", SimpleNamespace(monotonic=lambda: 0.0))
        yield


def carried_on(process, identity=IDENTITY, **options):
    """`store.carry_on` with a checkpoint at every step."""
    with no_time_passes():
        return store.carry_on(process, identity, checkpoint_seconds=0, **options)


def interrupted(at=25, steps=40, keep=(), **options):
    """Leave an unfinished walk in the store, with a checkpoint at that step."""
    with pytest.raises(KeyboardInterrupt):
        carried_on(Walk(steps, stop_at(at), keep), **options)
    assert store.status(IDENTITY) == f"at step {at}"


@contextlib.contextmanager
def another_store():
    """An empty one, meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EOSLIB_RUNS", os.environ["EOSLIB_RUNS"] + f"-{time.monotonic_ns()}")
        yield


def whole(steps=40):
    """The walk that nothing disturbs, from a store of its own."""
    with another_store():
        return store.carry_on(Walk(steps), IDENTITY)


def begun_elsewhere(processor="abacus"):
    """Make the checkpoint in the store another kind of machine's."""
    path = folder() / "checkpoint.json"
    checkpoint = files.read_json(path)
    machine = checkpoint["machine"] | {"processor": processor}
    files.write_json(path, checkpoint | {"machine": machine})
    return machine


def flip_a_bit(path, seed=0):
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def environment(**more):
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return os.environ | {"PYTHONPATH": paths} | more


def script(code, *prefix, **more):
    """Run Python in a process of its own with `Walk` at hand; returns its standard output."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", "from walk import *\n" + textwrap.dedent(code)],
        capture_output=True, text=True, timeout=300, env=environment(**more),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
