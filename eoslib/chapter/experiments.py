"""Experiments: complete sets of parameters, each of which names a run and can build its process.

A chapter declares lists of them; `collect` turns such a list into finished runs. `python -m eoslib compute`
does the same without a notebook.
"""

import dataclasses
import functools
import html
import itertools
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from eoslib import store
from eoslib.dynamics.descent import SGD, Adam, GradientDescent, InverseSharpnessDescent
from eoslib.measure.curvature import SegmentSharpness, SharpnessTracker
from eoslib.measure.directions import Position
from eoslib.measure.progress import HeldOut, SegmentSmoothness
from eoslib.papers.basins import BasinMap, BasinSizes
from eoslib.papers.stabilization import SelfStabilization
from eoslib.problems import datasets, landscapes, networks
from eoslib.problems.losses import BINARY_LOSSES
from eoslib.problems.objective import CHUNK, Objective, SupervisedObjective

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What every experiment says: where it belongs, η, and how many steps at most.

    revision: raised in the commit that changes what the experiment computes, so that older runs are not used.
    """

    chapter: str
    experiment: str
    step_size: float
    steps: int
    revision: int = 1

    kind: ClassVar[str]
    instant: ClassVar[bool] = False  # so cheap that every build may compute it

    @property
    def fingerprint(self) -> str | None:
        """Of the data; None if it uses data that is absent here, "" if it uses none."""
        return ""

    @property
    def identity(self) -> dict:
        """All that determines the run, as plain values."""
        return {"kind": self.kind, **dataclasses.asdict(self), "fingerprint": self.fingerprint}

    @property
    def data_warning(self) -> str | None:
        """What a reader must know about the data."""
        return None

    def process(self, device: torch.device):
        """The computation itself, at its first step."""
        raise NotImplementedError

    def cost(self) -> tuple[float, float]:
        """Estimated seconds on this machine's CPU, at most, and bytes of memory."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LandscapeRun(Experiment):
    """Gradient descent from `start` on a function of `landscapes`, in float64; records θ at every step."""

    kind: ClassVar[str] = "LandscapeRun"
    instant: ClassVar[bool] = True

    landscape: str
    start: tuple[float, ...]

    def process(self, device: torch.device) -> GradientDescent:
        f = landscapes.get(self.landscape).f
        theta = torch.tensor(self.start, dtype=torch.float64)  # two numbers are no work for a GPU
        return GradientDescent(Objective(f), theta, self.step_size, self.steps, [Position()])

    def cost(self) -> tuple[float, float]:
        return self.steps * 2e-4, 1e6


@dataclass(frozen=True, kw_only=True)
class ManyStarts(Experiment):
    """Gradient descent on a function of `landscapes` from `starts` points drawn uniformly from [−box, box]², at once.

    f summed over the points has each point's own gradient, so one run holds them all. Records θ, all points
    flattened, at the first and the last step.
    """

    kind: ClassVar[str] = "ManyStarts"
    instant: ClassVar[bool] = True

    landscape: str
    starts: int
    box: float
    seed: int

    def process(self, device: torch.device) -> GradientDescent:
        f = landscapes.get(self.landscape).f
        generator = torch.Generator().manual_seed(self.seed)
        points = self.box * (2 * torch.rand(self.starts, 2, generator=generator, dtype=torch.float64) - 1)
        objective = Objective(lambda theta: f(theta.reshape(-1, 2)).sum())
        return GradientDescent(
            objective, points.flatten(), self.step_size, self.steps, [Position(every=self.steps - 1)]
        )

    def cost(self) -> tuple[float, float]:
        return self.steps * 3e-4, 1e6


@dataclass(frozen=True, kw_only=True)
class MapRun(Experiment):
    """The outcome of gradient descent from each pixel of box = (left, right, bottom, top), see `basins.BasinMap`."""

    kind: ClassVar[str] = "MapRun"

    landscape: str
    box: tuple[float, float, float, float]
    grid: int

    def process(self, device: torch.device) -> BasinMap:
        return BasinMap(landscapes.get(self.landscape), self.step_size, self.box, self.grid, self.steps, device)

    def cost(self) -> tuple[float, float]:
        # compiling takes seconds, a band some overhead, and a point at most some 200 steps of 5 ns on average
        return 5 + self.steps * 5e-3 + self.grid**2 * 1e-6, 30 * self.grid**2


@dataclass(frozen=True, kw_only=True)
class SizesRun(MapRun):
    """Areas and boundaries of U_η and V_η at `steps` step sizes up to `step_size`, see `basins.BasinSizes`."""

    kind: ClassVar[str] = "SizesRun"

    def process(self, device: torch.device) -> BasinSizes:
        return BasinSizes(landscapes.get(self.landscape), self.step_size, self.box, self.grid, self.steps, device)

    def cost(self) -> tuple[float, float]:
        seconds, memory = super().cost()
        return self.steps * seconds, 3 * memory


@dataclass(frozen=True, kw_only=True)
class SupervisedRun(Experiment):
    """Training a network, which a subclass gives.

    dataset, n, standardisation, data_options: see `datasets.load`. loss: a name of `objective.LOSSES`.
    activation, bias_init, seed: of the network and its initialisation, see `networks`.
    precision: float32 or float64.
    """

    dataset: str
    n: int
    standardisation: str = "per-pixel"
    data_options: dict = field(default_factory=dict)
    loss: str
    activation: str
    bias_init: str = "default"
    seed: int = 0
    precision: str = "float32"

    @property
    def fingerprint(self) -> str | None:
        try:
            return datasets.fingerprint(self.dataset, **self.data_options)
        except datasets.DataAbsent:
            return None

    @property
    def data_warning(self) -> str | None:
        try:
            return self._data().warning
        except datasets.DataAbsent:
            return f"{self.dataset} is not on this machine: its fingerprint is that of the recorded run"

    def network(self) -> torch.nn.Module:
        """The network at its initialisation."""
        raise NotImplementedError

    def gradient_cost(self, examples: int) -> tuple[float, float]:
        """Estimated seconds for a gradient on so many examples, and bytes of memory."""
        raise NotImplementedError

    def problem(self, device: torch.device) -> tuple[SupervisedObjective, torch.Tensor]:
        """The objective and the initial θ (p,)."""
        data, dtype = self._data(), PRECISIONS[self.precision]
        network = self.network()
        theta = networks.flatten(network).to(device, dtype)
        return SupervisedObjective.of(network, data, self.loss, device, dtype), theta

    @property
    def _source(self):
        """What is known of the data set without its files."""
        return datasets.SOURCES[self.dataset](**self.data_options)

    @property
    def _d_out(self) -> int:
        return 1 if self.loss in BINARY_LOSSES else self._source.n_classes

    def _data(self) -> datasets.Dataset:
        return datasets.load(self.dataset, self.n, self.standardisation, **self.data_options)


@dataclass(frozen=True, kw_only=True)
class NetworkRun(SupervisedRun):
    """Training a fully connected network with layers of `hidden` units, see `networks.mlp`."""

    hidden: tuple[int, ...]

    def network(self) -> torch.nn.Module:
        return networks.mlp(self._source.d, self.hidden, self._d_out, self.activation, self.bias_init, seed=self.seed)

    def gradient_cost(self, examples: int) -> tuple[float, float]:
        """Seconds for a gradient on so many examples, from multiplications counted and this machine's rate, and
        bytes of memory."""
        widths = [self._source.d, *self.hidden, self._d_out]
        products = [a * b for a, b in itertools.pairwise(widths)]
        # forward, backward to weights, and backward to activations except the input's
        operations = 2 * examples * (3 * sum(products) - products[0])
        item = PRECISIONS[self.precision].itemsize
        overhead = 8e-4  # of Python: what counts for small networks
        seconds = operations / _multiply_rate() * item / 4 + overhead
        return seconds, item * (examples * (widths[0] + 6 * sum(widths[1:])) + 20 * sum(products))


@dataclass(frozen=True, kw_only=True)
class TrainingRun(NetworkRun):
    """Full-batch gradient descent on a network.

    stop_accuracy: see `GradientDescent`.
    sharpness_every, eigenvalues, sharpness_tolerance: see `SharpnessTracker`; 0 measures none.
    segment_every, segment_nodes, segment_rule: see `SegmentSmoothness`; 0 measures none.
    """

    kind: ClassVar[str] = "TrainingRun"

    stop_accuracy: float | None = None
    sharpness_every: int = 0
    eigenvalues: int = 1
    sharpness_tolerance: float = 3e-3
    segment_every: int = 0
    segment_nodes: int = 16
    segment_rule: str = "gauss"

    def process(self, device: torch.device) -> GradientDescent:
        objective, theta = self.problem(device)
        measurements = []
        if self.sharpness_every:
            measurements.append(SharpnessTracker(self.sharpness_every, self.eigenvalues, self.sharpness_tolerance))
        if self.segment_every:
            measurements.append(SegmentSmoothness(objective, self.segment_every, self.segment_nodes, self.segment_rule))
        return GradientDescent(objective, theta, self.step_size, self.steps, measurements, self.stop_accuracy)

    def cost(self) -> tuple[float, float]:
        seconds, memory = self.gradient_cost(self.n)
        gradients = 1.0
        if self.sharpness_every:
            gradients += 3 * self.eigenvalues / self.sharpness_every
        if self.segment_every:
            gradients += self.segment_nodes / self.segment_every
        return self.steps * gradients * seconds, memory


@dataclass(frozen=True, kw_only=True)
class SegmentRun(TrainingRun):
    """A `TrainingRun` that also measures the sharpness at `points` points of every `every`-th step."""

    kind: ClassVar[str] = "SegmentRun"

    every: int
    points: int

    def process(self, device: torch.device) -> GradientDescent:
        process = super().process(device)
        process.measurements += (SegmentSharpness(process.objective, self.every, self.points),)
        return process

    def cost(self) -> tuple[float, float]:
        seconds, memory = super().cost()
        return seconds + self.steps / self.every * 4 * self.points * self.gradient_cost(self.n)[0], memory


@dataclass(frozen=True, kw_only=True)
class SGDRun(NetworkRun):
    """Stochastic gradient descent on a network; batch_size, estimates: see `SGD`."""

    kind: ClassVar[str] = "SGDRun"

    batch_size: int
    estimates: int = 0

    def process(self, device: torch.device) -> SGD:
        objective, theta = self.problem(device)
        return SGD(objective, theta, self.step_size, self.steps, self.batch_size, self.seed, self.estimates)

    def cost(self) -> tuple[float, float]:
        seconds, _ = self.gradient_cost(self.batch_size)
        epoch, memory = self.gradient_cost(self.n)
        return self.steps * (2 * seconds + (1 + self.estimates) * epoch * self.batch_size / self.n), memory


@dataclass(frozen=True, kw_only=True)
class AdaptiveRun(NetworkRun):
    """Full-batch RMSProp or Adam on a network, see `Adam`; measures the preconditioned sharpness."""

    kind: ClassVar[str] = "AdaptiveRun"

    beta1: float
    beta2: float
    epsilon: float
    bias_correction: bool
    sharpness_every: int
    stop_accuracy: float | None = None

    def process(self, device: torch.device) -> Adam:
        objective, theta = self.problem(device)
        return Adam(
            objective, theta, self.step_size, self.steps, [SharpnessTracker(self.sharpness_every)], self.stop_accuracy,
            beta1=self.beta1, beta2=self.beta2, epsilon=self.epsilon, bias_correction=self.bias_correction,
        )  # fmt: skip

    def cost(self) -> tuple[float, float]:
        seconds, memory = self.gradient_cost(self.n)
        return self.steps * (1 + 3 / self.sharpness_every) * seconds, memory


@dataclass(frozen=True, kw_only=True)
class ArchitectureRun(SupervisedRun):
    """Training a network of any architecture.

    architecture: mlp, cnn, resnet18 or transformer. sizes: the arguments of that function of `networks` that do not
    follow from the data, e.g. {"width": 32}; plain values, lists instead of tuples. Images are square; to a transformer
    each row of a channel is a token.
    """

    architecture: str
    sizes: dict

    def network(self) -> torch.nn.Module:
        source = self._source
        d = source.d
        side = math.isqrt(d // source.channels)
        options = {"d_out": self._d_out, "activation": self.activation, "seed": self.seed, **self.sizes}
        if self.architecture != "resnet18":  # which has no biases of its own
            options["bias_init"] = self.bias_init
        match self.architecture:
            case "mlp":
                return networks.mlp(d, **options)
            case "cnn":
                return networks.cnn((source.channels, side, side), **options)
            case "resnet18":
                return networks.resnet18((source.channels, side, side), **options)
            case "transformer":
                d_in, length = (source.vocabulary, d) if source.tokens else (side, d // side)
                return networks.transformer(d_in, length, **options)
        raise ValueError(f"unknown architecture {self.architecture!r}; there are mlp, cnn, resnet18, transformer")

    def gradient_cost(self, examples: int) -> tuple[float, float]:
        """Seconds for a gradient on so many examples, as timed here with a few, and bytes of memory."""
        dtype, few = PRECISIONS[self.precision], min(examples, 100)
        network = self.network().to(dtype)
        p = len(networks.flatten(network))
        inputs = torch.zeros(few, self._source.d, dtype=torch.int64 if self._source.tokens else dtype)
        key = str(network), p, inputs.shape, dtype
        if key not in _timed:  # once: networks that are equal are to cost the same
            _timed[key] = _time_gradient(network, inputs)
        seconds, numbers = _timed[key]
        memory = dtype.itemsize * (9 * min(examples, CHUNK) * numbers / few + 20 * p)
        return seconds * examples / few, memory


_timed: dict[tuple, tuple[float, int]] = {}


def _time_gradient(network: torch.nn.Module, inputs: torch.Tensor) -> tuple[float, int]:
    """Seconds for a gradient, the shortest of three, and how many numbers the outputs of all modules are."""
    sizes, seconds = [], []
    for module in network.modules():
        module.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
    for _ in range(3):
        sizes.clear()
        start = time.perf_counter()
        network(inputs).sum().backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds), sum(sizes)


@dataclass(frozen=True, kw_only=True)
class StabilizationRun(ArchitectureRun):
    """Gradient descent, constrained trajectory, flows and predictions side by side, see `SelfStabilization`.

    tracked, unstable, every, predict_from: its parameters. precision: of the steps before the onset; all else is in
    float64. In the trace the variables of the constrained trajectory are nan before the onset.
    """

    kind: ClassVar[str] = "StabilizationRun"

    tracked: int
    unstable: int = 1
    every: int = 50
    predict_from: float = 0.0

    def process(self, device: torch.device) -> SelfStabilization:
        approach, theta = self.problem(device)
        objective, _ = dataclasses.replace(self, precision="float64").problem(device)
        return SelfStabilization(
            objective, theta, self.step_size, self.steps, approach, self.tracked, self.unstable, self.every,
            self.predict_from,
        )  # fmt: skip

    def cost(self) -> tuple[float, float]:
        approach, _ = self.gradient_cost(self.n)
        seconds, memory = dataclasses.replace(self, precision="float64").gradient_cost(self.n)
        gradients = (65 if self.architecture == "mlp" else 150) + 600 / self.every  # as long as these, a step took
        return self.steps * approach + min(self.tracked, self.steps) * gradients * seconds, 5 * memory


@dataclass(frozen=True, kw_only=True)
class DescentRun(ArchitectureRun):
    """Full-batch gradient descent on any architecture.

    every, eigenvalues: see `SharpnessTracker`. test_n: so many held-out examples are observed at the same steps: of the
    test split, or, of data that have none, those that follow the training examples; per channel they are
    standardised with the statistics of the whole training set, or of both. schedule: constant, or inverse-sharpness
    for η_t = min(η, 1/S(θ_t)).
    """

    kind: ClassVar[str] = "DescentRun"

    every: int
    eigenvalues: int = 1
    test_n: int = 0
    schedule: str = "constant"

    def process(self, device: torch.device) -> GradientDescent:
        objective, theta = self.problem(device)
        measurements = [SharpnessTracker(self.every, self.eigenvalues)]
        if self.test_n:
            dtype = PRECISIONS[self.precision]
            held_out = SupervisedObjective.of(self.network(), self._held_out(), self.loss, device, dtype)
            measurements.append(HeldOut(held_out, self.every))
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}; there are {', '.join(SCHEDULES)}")
        return SCHEDULES[self.schedule](objective, theta, self.step_size, self.steps, measurements)

    def cost(self) -> tuple[float, float]:
        seconds, memory = self.gradient_cost(self.n)
        held_out = self.gradient_cost(self.test_n)[0] if self.test_n else 0
        return self.steps * (seconds + (5 * self.eigenvalues * seconds + held_out) / self.every), memory

    def _held_out(self) -> datasets.Dataset:
        if "test" in self._source.splits:
            return datasets.load(self.dataset, self.test_n, self.standardisation, "test", **self.data_options)
        if self._source.balanced:
            raise ValueError(
                f"{self.dataset} has no test split, and taken class by class no examples follow the others"
            )
        both = datasets.load(self.dataset, self.n + self.test_n, self.standardisation, **self.data_options)
        return dataclasses.replace(both, inputs=both.inputs[self.n :], labels=both.labels[self.n :])


SCHEDULES = {"constant": GradientDescent, "inverse-sharpness": InverseSharpnessDescent}


KINDS = {
    kind.kind: kind
    for kind in (
        LandscapeRun, ManyStarts, MapRun, SizesRun, TrainingRun, SegmentRun, SGDRun, AdaptiveRun, StabilizationRun,
        DescentRun,
    )
}  # fmt: skip


def from_identity(identity: dict) -> Experiment:
    """The experiment that a stored run's identity describes."""
    kind = KINDS[identity["kind"]]
    values = {f.name: identity[f.name] for f in dataclasses.fields(kind)}
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def device() -> torch.device:
    """EOSLIB_DEVICE, or a GPU if there is one. Raises RuntimeError if it names a GPU that is absent."""
    wanted = os.environ.get("EOSLIB_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(f"device {wanted!r} was asked for, but PyTorch sees no GPU here; use cpu")
    return torch.device(wanted)


def carry_on(experiment: Experiment, budget: float | None = None, fresh: bool = False) -> store.Run | None:
    """The experiment's finished run, computed as far as needed; None if the budget (seconds) ended first."""
    if not fresh and (found := store.find(experiment.identity)):
        return found
    return store.carry_on(experiment.process(device()), experiment.identity, budget, fresh)


def collect(experiments: Sequence[Experiment]) -> list[store.Run]:
    """The finished runs of a list of experiments, in its order.

    What is missing is computed, unless EOSLIB_COMPUTE is 0: then the page says that it was not run at this
    preset, with the command that runs it, and the list is shorter.
    """
    may_compute = os.environ.get("EOSLIB_COMPUTE", "1") != "0"
    found = [(e, carry_on(e) if may_compute or e.instant else store.find(e.identity)) for e in experiments]
    if missing := [e for e, run in found if run is None]:
        _show_not_run(missing)
    return [run for _, run in found if run is not None]


def provenance(*groups: Sequence[store.Run]) -> None:
    """Show what the runs of a chapter were made from: data, seeds, machines, versions, time and products."""
    from IPython.display import display

    everything = {run.key: run for group in groups for run in group}.values()
    manifests = [run.manifest for run in everything]
    trained = [run.identity for run in everything if "dataset" in run.identity]
    data = {(i["dataset"], i["fingerprint"]): from_identity(i) for i in trained}
    rows = {
        "runs": f"{len(manifests)}, of which {sum(run.recorded for run in everything)} recorded",
        "data": "; ".join(f"{name}, fingerprint {fingerprint[:12]}…" for name, fingerprint in data),
        "about the data": "; ".join({w: w for e in data.values() if (w := e.data_warning)}),
        "seeds": ", ".join(sorted({str(i["seed"]) for i in trained})),
        "precision": ", ".join(sorted({i["precision"] for i in trained})),
        "processor": "; ".join(sorted({m["machine"]["processor"] for m in manifests})),
        "GPU": "; ".join(sorted({m["machine"]["gpu"] for m in manifests})),
        "threads": ", ".join(sorted({str(m["threads"]) for m in manifests})),
        "PyTorch": ", ".join(sorted({m["machine"]["torch"] for m in manifests})),
        "library": ", ".join(sorted({m["library_sha256"][:12] for m in manifests})),
        "commit": ", ".join(sorted({(m["commit"] or "none")[:12] for m in manifests})),
        "computing time": f"{sum(m['wall_seconds'] for m in manifests):.0f} s",
        "gradients": f"{sum(m['gradients'] for m in manifests):,}",
        "Hessian-vector products": f"{sum(m['products'] for m in manifests):,}",
    }
    rows = {name: text for name, text in rows.items() if text}
    items = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in rows.items())
    plain = "\n".join(f"{name}: {text}" for name, text in rows.items())
    record = {"application/vnd.eoslib.provenance+json": rows}
    display({"text/plain": plain, "text/html": f'<dl class="eos-provenance">{items}</dl>'} | record, raw=True)


@functools.cache
def _multiply_rate() -> float:
    """Floating-point operations a second of a float32 matrix product of the sizes met here, measured once."""
    a, b = torch.randn(2000, 1024), torch.randn(1024, 256)
    a @ b
    start = time.perf_counter()
    for _ in range(10):
        a @ b
    return 10 * 2 * 2000 * 1024 * 256 / (time.perf_counter() - start)


def _show_not_run(missing: Sequence[Experiment]) -> None:
    """A box for the page, with a machine-readable twin."""
    from IPython.display import display

    first = missing[0]
    options = os.environ.get("EOSLIB_OPTIONS", "--preset quick")
    command = f"python -m eoslib compute {first.chapter} {options} --only {first.experiment}"
    minutes = sum(e.cost()[0] for e in missing) / 60
    text = f"{first.experiment}: {len(missing)} run(s) not run at this preset"
    record = {"experiment": first.experiment, "missing": len(missing), "command": command, "minutes": minutes}
    box = (
        f'<div class="eos-box eos-not-run"><strong>Not run at this preset:</strong> {len(missing)} run(s) of '
        f"{first.experiment}. <code>{html.escape(command)}</code> computes them, in at most {minutes:.0f} minutes on "
        "this machine's CPU.</div>"
    )
    display({"text/plain": text, "text/html": box, "application/vnd.eoslib.notrun+json": record}, raw=True)
