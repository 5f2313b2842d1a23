"""eoslib.store.journal: the first checkpoint waits as long as the size of the state lets expect."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from eoslib import store
from eoslib.store import journal


class Idle:
    """Nothing happens, in steps of a second."""

    steps, device, kept, variables = 100, torch.device("cpu"), {}, {}

    def __init__(self, numbers):
        self.t, self.numbers = 0, numbers

    @property
    def finished(self):
        return self.t == self.steps

    def step(self):
        self.t += 1

    def observe(self):
        return {}

    def state(self):
        return {"t": self.t, "inside": {"numbers": torch.zeros(self.numbers)}}


@pytest.mark.parametrize(
    "megabytes, first", [(0, 20), (40, 20), (80, 40), (120, 60), (1000, None)]
)  # 100 megabytes a second, fifty times
def test_a_large_state_is_first_saved_when_that_costs_at_most_two_per_cent(megabytes, first, monkeypatch):
    process, saved = Idle(megabytes * 250), []
    monkeypatch.setattr(journal, "BYTES_A_SECOND", 1e5)  # so that a kilobyte does for a megabyte
    monkeypatch.setattr(journal, "time", SimpleNamespace(monotonic=lambda: float(process.t)))
    monkeypatch.setattr(journal._Journal, "save", lambda self: saved.append(self.process.t))
    monkeypatch.setattr(journal._Journal, "finish", lambda self: None)
    store.carry_on(process, store.Identity({"step_size": 1, "experiment": "idle"}, {"size": megabytes}))
    assert saved[:1] == ([] if first is None else [first])
    assert [b - a for a, b in pairwise(saved)] == [20] * (len(saved) - 1)  # once known to cost none
