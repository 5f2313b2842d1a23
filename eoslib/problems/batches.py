"""What of the data a step sees: all, or minibatches, augmented, repeated; and noise added to the gradient, or its
length clipped."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from eoslib.problems import ranks
from eoslib.problems.objective import Objective, ObjectiveOnDisk, SupervisedObjective


@dataclass(frozen=True, kw_only=True)
class Batches:
    """batch_size: examples in a minibatch, drawn without replacement; the last one of an epoch holds what is left. None
    is the whole data. repeats: so many steps in a row see the same minibatch, its images augmented alike. crop, flip:
    each image is shifted by up to so many pixels either way, zeros coming in, and mirrored with probability ½.
    part: of images on disk a random part is seen, see `Images.batches`. repeat_epochs: in the first so many epochs only
    are minibatches repeated; None: in all. noise, noise_size: "uniform" on [−noise_size, noise_size], or "normal" of
    that standard deviation, is added to each component of the gradient. clip: a longer gradient is shortened to this
    norm, as by `torch.nn.utils.clip_grad_norm_`."""

    batch_size: int | None = None
    repeats: int = 1
    crop: int = 0
    flip: bool = False
    repeat_epochs: int | None = None
    noise: str | None = None
    noise_size: float = 0.0
    part: bool = False
    clip: float | None = None

    @property
    def whole(self) -> bool:
        """Whether the step's gradient is that of the whole data, noise aside."""
        return self.batch_size is None and not (self.crop or self.flip or self.part)

    def epoch(self, n: int) -> int:
        """Steps in an epoch of n examples, while minibatches are repeated."""
        return 1 if self.whole else self.repeats * math.ceil(n / (self.batch_size or n))

    def begin(self, objective: Objective, seed: int) -> "_Drawn":
        """The first of them. Raises ValueError on what the data cannot give."""
        n = len(objective.labels) if isinstance(objective, SupervisedObjective) else None
        if not self.whole and n is None:
            raise ValueError("a function without data has no minibatches and nothing to augment")
        if self.batch_size is not None and not 1 <= self.batch_size <= n:
            raise ValueError(f"batch_size must be 1 to {n}, got {self.batch_size}")
        for name, least in (("repeats", 1), ("repeat_epochs", 1), ("crop", 0)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive, got {self.clip}")
        if self.noise not in (None, "uniform", "normal"):
            raise ValueError(f"unknown noise {self.noise!r}; there are uniform, normal")
        if (self.crop or self.flip) and getattr(objective.network, "shape", None) is None:
            raise ValueError("crop and flip need a network that takes images")
        if self.part and not isinstance(objective, ObjectiveOnDisk):
            raise ValueError("random parts are of images on disk, those of an image folder")
        if not self.whole and (smallest := n % (self.batch_size or n) or self.batch_size or n) < ranks.count():
            raise ValueError(f"{ranks.count()} processes cannot share a minibatch of {smallest} examples")
        return _Drawn(self, objective, n, seed)


class _Drawn:
    """The minibatches in their order. The seed's own generator orders the examples, so that augmentation, noise and
    repeats change nothing else."""

    def __init__(self, declared: Batches, objective: Objective, n: int | None, seed: int):
        self.declared, self.objective, self.n = declared, objective, n
        self.generators = {name: torch.Generator().manual_seed(seed + i) for name, i in _GENERATORS.items()}
        self.order = torch.empty(0, dtype=torch.int64)  # of the examples in this epoch
        self.position = 0  # behind the minibatch that is seen now
        self.seen = 0  # minibatches so far, each repeat counted
        self.augmentation: dict[str, Tensor] = {}  # of this minibatch
        self.parts = 0  # the seed of the images' parts in this epoch
        self.coming: Iterator[SupervisedObjective] | None = None  # the minibatches of this epoch from this one on
        whole_life = declared.whole or declared.repeat_epochs is None
        self.repeated = math.inf if whole_life else declared.repeat_epochs * declared.epoch(n)  # in so many steps

    @property
    def epoch_begins(self) -> bool:
        """Whether the next step is the first of an epoch."""
        return self.declared.whole or (self.position >= len(self.order) and self._new)

    @property
    def _new(self) -> bool:
        """Whether the next step sees another minibatch than the last one."""
        return self.seen >= self.repeated or self.seen % self.declared.repeats == 0

    def see(self, theta: Tensor, whole: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The gradient (p,) that the next step follows, and the loss of its minibatch unless it sees all. whole: ∇f of
        the whole data at θ, where the step sees all."""
        if self.declared.whole:
            if self.objective.buffers:
                with torch.no_grad():  # the evaluation that gave the gradient has left them alone
                    self.objective.forward(theta, moves=True)
            return self._clipped(self._noisy(whole)), None
        here = self._minibatch().evaluate(theta, moves=True)
        self.objective.gradients += 1
        gradient, value = ranks.mean(here.gradient, here.value, len(self.batch.labels) / len(self._chosen))
        return self._clipped(self._noisy(gradient)), value

    @property
    def _chosen(self) -> Tensor:
        """The examples of the minibatch that is seen now."""
        size = self.declared.batch_size or self.n
        return self.order[self.position - size : self.position]

    def _minibatch(self) -> SupervisedObjective:
        """What this process sees of it."""
        size = self.declared.batch_size or self.n
        if self.epoch_begins:
            self.order = torch.randperm(self.n, generator=self.generators["order"])
            self.position, self.coming = 0, None
            if self.declared.part:
                self.parts = torch.randint(2**62, (), generator=self.generators["augmentation"]).item()
        new = self._new
        if new:
            self.position += size
        self.seen += 1
        if new or self.coming is None:
            if self.coming is None:
                left = self.order[self.position - size :].split(size)
                shares = [minibatch[ranks.share(len(minibatch))] for minibatch in left]
                self.coming = self.objective.batches(shares, *([self.parts] if self.declared.part else []))
            self.batch = next(self.coming)
            if self.declared.crop or self.declared.flip:
                if new:
                    self.augmentation = self._drawn_augmentation(len(self._chosen))
                own = ranks.share(len(self._chosen))
                shift, mirrored = self.augmentation["shift"][:, own], self.augmentation["mirrored"][own]
                self.batch.inputs = self._augmented(self.batch.inputs, shift, mirrored)
        return self.batch

    def _drawn_augmentation(self, n: int) -> dict[str, Tensor]:
        """By how much each of n images is shifted, plus `crop`, (2, n, 1), and which are mirrored (n, 1)."""
        generator = self.generators["augmentation"]
        shift = torch.randint(2 * self.declared.crop + 1, (2, n, 1), generator=generator)
        mirrored = torch.rand(n, 1, generator=generator) < 0.5 if self.declared.flip else torch.zeros(n, 1).bool()
        return {"shift": shift, "mirrored": mirrored}

    def _augmented(self, inputs: Tensor, shift: Tensor, mirrored: Tensor) -> Tensor:
        channels, rows, columns = self.objective.network.shape
        n, crop = len(inputs), self.declared.crop
        row, column = torch.arange(rows) + shift[0], torch.arange(columns) + shift[1]  # (n, rows), (n, columns)
        column = torch.where(mirrored, column.flip(1), column)
        padded = F.pad(inputs.unflatten(1, (channels, rows, columns)), (crop,) * 4)
        places = torch.arange(n)[:, None, None], row[:, :, None], column[:, None, :]
        examples, row, column = (place.to(inputs.device) for place in places)
        return padded[examples, :, row, column].movedim(3, 1).flatten(1)

    def _noisy(self, gradient: Tensor) -> Tensor:
        if self.declared.noise is None:
            return gradient
        options = {"generator": self.generators["noise"], "dtype": torch.float64}
        uniform = self.declared.noise == "uniform"
        noise = 2 * torch.rand(gradient.shape, **options) - 1 if uniform else torch.randn(gradient.shape, **options)
        return gradient + (self.declared.noise_size * noise).to(gradient)

    def _clipped(self, gradient: Tensor) -> Tensor:
        if self.declared.clip is None:
            return gradient
        return gradient * (self.declared.clip / (gradient.norm() + 1e-6)).clamp(max=1)

    def state(self) -> dict:
        """All that the next minibatches depend on."""
        generators = {name: generator.get_state() for name, generator in self.generators.items()}
        return {name: getattr(self, name) for name in _STATE} | {"generators": generators}

    def load(self, state: dict) -> None:
        """Continue from `state`."""
        self.coming = None
        for name in state.keys() & _STATE:  # one begun earlier may know of fewer
            setattr(self, name, state[name])
        for name, generator in self.generators.items():
            generator.set_state(state["generators"][name])


_STATE = {"order", "position", "seen", "augmentation", "parts"}  # of `_Drawn`, besides its generators
# seed + 1 is that of `measure.progress.ExpectedProgress`, seed + 4 that of `measure.noise.Sampler`
_GENERATORS = {"order": 0, "augmentation": 2, "noise": 3}
