"""Several processes that take the steps of one run together, started by `torchrun`, each on a device of its own.

Each sees its share of every minibatch; the gradient is their mean, by one `all_reduce` for a step, so that all hold the
same θ. The first, rank 0, alone measures, holds the run store and decides when to stop. As in PyTorch's own
DistributedDataParallel, batch normalisation takes the statistics of a share, and rank 0's running ones are kept.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

DAY = timedelta(days=1)  # so long the others wait while rank 0 measures


class RanksDisagree(RuntimeError):
    """The processes were not asked for the same runs, or see other data."""


class Stopped(Exception):
    """Rank 0 takes no further step."""


def rank() -> int:
    """Which process this is."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def joined(device: torch.device, runs: Sequence[str]) -> Iterator[None]:
    """Join the other processes, if `torchrun` started any; at the end rank 0 sends them home. runs: the keys of all
    that may be computed, which name their data too. Raises RanksDisagree."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=DAY)
    try:
        everyone: list[Any] = [None] * count()
        dist.all_gather_object(everyone, list(runs))
        if other := [i for i, theirs in enumerate(everyone) if theirs != everyone[0]]:
            differing = sorted(set(everyone[0]) ^ set(everyone[other[0]]))
            raise RanksDisagree(
                f"ranks 0 and {other[0]} do not see the same data, or were not asked for the same: the runs "
                f"{', '.join(differing)} are known to one of them only"
            )
        yield
        if rank() == 0:
            dist.broadcast_object_list([None])
    finally:
        dist.destroy_process_group()


def share(n: int) -> slice:
    """Which of n examples this process sees."""
    return slice(n * rank() // count(), n * (rank() + 1) // count())


def mean(gradient: Tensor, value: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Gradient (p,) and loss () of the minibatch from those of the shares, each of which holds `weight` of it."""
    if count() == 1:
        return gradient, value
    flat = torch.cat([weight * gradient, torch.stack([weight * value, torch.zeros_like(value)])])
    dist.all_reduce(flat)
    if rank() and flat[-1] > 0:  # see `Led.release`
        raise Stopped
    return flat[:-2], flat[-2]


class Led:
    """A process, as `store.carry_on` drives it on rank 0, whose steps the others take too. key: names it to them."""

    def __init__(self, process: Any, key: str):
        self.process, self.key, self.followed = process, key, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.process, name)

    def step(self) -> None:
        """A step, before the first of which the others learn where it begins."""
        if not self.followed:
            dist.broadcast_object_list([(self.key, _on_cpu(self.process.state()))])
            self.followed = True
        self.process.step()

    def release(self) -> None:
        """Let the others go, who wait for the next step's gradient."""
        if self.followed:
            ending = torch.zeros(len(self.process.theta) + 2).to(self.process.theta)
            ending[-1] = 1
            dist.all_reduce(ending)


def follow(processes: Mapping[str, Callable[[], Any]]) -> None:
    """On a rank other than 0: take the steps of whatever rank 0 leads, until it is done. processes: how to build each
    one, by its key."""
    while True:
        message: list[Any] = [None]
        dist.broadcast_object_list(message)
        if message[0] is None:
            return
        key, state = message[0]
        process = processes[key]()
        process.measurements = []
        process.load(state)
        with contextlib.suppress(Stopped):
            while True:
                process.step()


def _on_cpu(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _on_cpu(part) for name, part in state.items()}
    return state.cpu() if isinstance(state, Tensor) else state
