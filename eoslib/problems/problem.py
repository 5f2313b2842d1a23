"""What an experiment minimises, declared in plain values: a landscape, or the loss of a network on data.

A problem gives, at a seed, the objective and the initial θ; the fingerprint of its data; and its counted work.
"""

import dataclasses
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from eoslib.problems import datasets, landscapes, networks
from eoslib.problems.losses import BINARY_LOSSES
from eoslib.problems.objective import CHUNK, CHUNK_ON_DISK, Objective, SupervisedObjective

OVERHEAD = 1e7  # operations that take as long as Python does around a gradient
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class OnLandscape:
    """A function of `landscapes` from `start`, in float64 on the CPU: a few numbers are no work for a GPU."""

    landscape: str
    start: tuple[float, ...]
    examples = 1
    fingerprint = ""  # it uses no data

    def begin(self, seed: int, precision: str, device: torch.device) -> tuple[Objective, Tensor]:
        """The objective and the initial θ (d,)."""
        return Objective(landscapes.get(self.landscape).f), torch.tensor(self.start, dtype=torch.float64)

    def work(self, precision: str, examples: int | None = None) -> tuple[float, float]:
        """Operations that a gradient takes as long as, and bytes of memory."""
        return OVERHEAD, 1e6


@dataclass(frozen=True, kw_only=True)
class Data:
    """The first n examples of a data set, see `datasets.load`; data_options are its options."""

    dataset: str
    n: int
    standardisation: str = "per-pixel"
    data_options: dict = field(default_factory=dict)

    @property
    def fingerprint(self) -> str | None:
        """Of the data; None if they are absent here."""
        try:
            return datasets.fingerprint(self.dataset, **self.data_options)
        except datasets.DataAbsent:
            return None

    @property
    def warning(self) -> str | None:
        """What a reader must know about the data."""
        try:
            return self.source.warning("train")
        except datasets.DataAbsent:
            return f"{self.dataset} is not on this machine: its fingerprint is that of the recorded run"

    @property
    def source(self):
        """What is known of the data set without its files."""
        return datasets.SOURCES[self.dataset](**self.data_options)

    def load(self) -> datasets.Dataset:
        """The examples."""
        return datasets.load(self.dataset, self.n, self.standardisation, **self.data_options)

    def held_out(self, n: int) -> datasets.Dataset:
        """n others: of the test split, or, of data that have none, those that follow. Per channel, the latter are
        standardised together with the training examples. Raises ValueError where there are none."""
        if "test" in self.source.splits:
            return datasets.load(self.dataset, n, self.standardisation, "test", **self.data_options)
        if self.source.balanced:
            message = "has no test split, and taken class by class no examples follow the others"
            raise ValueError(f"{self.dataset} {message}")
        both = datasets.load(self.dataset, self.n + n, self.standardisation, **self.data_options)
        return dataclasses.replace(both, inputs=both.inputs[self.n :], labels=both.labels[self.n :])


@dataclass(frozen=True, kw_only=True)
class Network:
    """architecture: mlp, cnn, resnet18, resnet101, transformer or, of texts, transformer_xl. sizes: the arguments of
    that function of `networks` that do not follow from the data, e.g. {"hidden": [200, 200]}; plain values. Images are
    square; to a transformer each row of a channel is a token. weight_scale: by which all weights are multiplied at the
    initialisation; with √3 the PyTorch default of U(±1/√fan_in) has the variance 1/fan_in."""

    architecture: str
    sizes: dict
    activation: str
    bias_init: str = "default"
    weight_scale: float = 1.0

    def build(self, source, d_out: int, seed: int) -> torch.nn.Module:
        """The network at its initialisation, for data of `source` and d_out outputs."""
        d, side = source.d, math.isqrt(source.d // source.channels)
        image, token = (source.channels, side, side), (source.vocabulary, d) if source.tokens else (side, d // side)
        shapes = {"mlp": (d,), "cnn": (image,), "resnet18": (image,), "resnet101": (image,)}
        shapes |= {"transformer": token, "transformer_xl": token[:1]}
        if self.architecture not in shapes:
            raise ValueError(f"unknown architecture {self.architecture!r}; there are {', '.join(shapes)}")
        options = {"d_out": d_out, "activation": self.activation, "seed": seed, **self.sizes}
        if self.architecture not in ("resnet18", "resnet101"):  # which have no biases of their own
            options["bias_init"] = self.bias_init
        network = getattr(networks, self.architecture)(*shapes[self.architecture], **options)
        if self.weight_scale != 1:
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    parameter *= self.weight_scale if name.endswith("weight") else 1
        return network


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training loss of a network: a name of `losses.LOSSES`."""

    data: Data
    network: Network
    loss: str
    fingerprint = property(lambda self: self.data.fingerprint)
    examples = property(lambda self: self.data.n)  # the loss is a mean over so many

    def begin(self, seed: int, precision: str, device: torch.device) -> tuple[SupervisedObjective, Tensor]:
        """The objective and the initial θ (p,)."""
        network, dtype = self.build(seed), PRECISIONS[precision]
        theta = networks.flatten(network).to(device, dtype)
        return SupervisedObjective.of(network, self.data.load(), self.loss, device, dtype), theta

    def held_out(self, n: int, theta: Tensor) -> SupervisedObjective:
        """The same loss on n held-out examples, for parameters like `theta`."""
        return SupervisedObjective.of(self.build(0), self.data.held_out(n), self.loss, theta.device, theta.dtype)

    def build(self, seed: int) -> torch.nn.Module:
        """The network at its initialisation."""
        source = self.data.source
        return self.network.build(source, 1 if self.loss in BINARY_LOSSES else source.n_classes, seed)

    def work(self, precision: str, examples: int | None = None) -> tuple[float, float]:
        """Operations of a gradient on so many examples (default all), counted, and bytes of memory, roughly: of a
        Hessian-vector product; a gradient alone takes a quarter."""
        network, source, outputs, counted = self.build(0).to("meta").eval(), self.data.source, [], []
        dtype = torch.int64 if source.tokens else torch.float32
        for n in (2, 1):  # a product of weights is taken once for all examples
            with FlopCounterMode(display=False) as counter:  # on the meta device nothing is computed
                network(torch.zeros(n, source.d, dtype=dtype, device="meta"))
            counted.append(counter.get_total_flops())
        for module in network.modules():
            if not any(module.children()):  # what holds others puts out what the last of them does
                module.register_forward_hook(lambda module, inputs, output: outputs.append(output.numel()))
        network(torch.zeros(1, source.d, dtype=dtype, device="meta"))
        examples, item = examples or self.examples, PRECISIONS[precision].itemsize
        forward = counted[1] + (examples - 1) * (counted[0] - counted[1])
        p = sum(parameter.numel() for parameter in network.parameters())
        held = min(examples, CHUNK_ON_DISK if source.on_disk else CHUNK // source.labels)
        memory = item * (12 * held * sum(outputs) + 20 * p)
        return 3 * forward * item / 4 + OVERHEAD, memory  # backward takes twice forward
