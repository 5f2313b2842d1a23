"""The observables of this book along anybody's training loop:

    with eoslib.watch(model, loss_fn, (x, y), every=20) as w:
        for batch in loader:
            …                                  # an ordinary loop, with any optimiser of PyTorch
            optimiser.step()
    w.trace.sharpness, w.plot(), w.save("watched.nc")

Whenever an optimiser moves the model, at every 20th step, f and its derivatives are taken on (x, y), by a copy of the
network: the training's parameters, buffers, gradients and generators have the bits that they would have without.
"""

import contextlib
import copy
import random
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from eoslib import store
from eoslib.dynamics.rules import preconditioner, stable_sharpness
from eoslib.dynamics.trajectory import OWN, Point, Scaled
from eoslib.measure import host
from eoslib.measure.curvature import PreconditionedSharpness, Sharpness
from eoslib.measure.progress import Progress, accuracy
from eoslib.measure.variables import Measurement, Variable
from eoslib.problems.objective import SupervisedObjective

THRESHOLD = Variable("largest stable sharpness of the optimiser: 2/η, with momentum β 2(1 + β)/η, …")
# how PyTorch says that there is no second derivative
TWICE = re.compile("derivative for|differentiate twice|double backward|used in the graph|not require grad")


class watch:
    """Measures loss, gradient norm, accuracy, relative progress, directional smoothness and sharpness at every step of
    an optimiser that is divisible by `every`; of Adam, AdamW and RMSprop the preconditioned sharpness.

    model: maps x (n, …) to outputs. loss_fn: outputs, y ↦ scalar, a mean over the examples. data: (x, y), on the
    model's device, or a `DataLoader` of such pairs, of whose data set so many `examples` are drawn once. eigenvalues:
    of the Hessian, so many. also: further measurements of `eoslib.measure`, each at its own cadence, such as
    `BatchSharpness(batch_size=32, minibatches=8, every=20)` or `Noise(batch_size=32, every=20)`.

    f is measured as a function: dropout and what else draws is as in evaluation; layers that normalise by the batch,
    and are in training, take the statistics of all of (x, y) and leave the running ones alone. Parameters that require
    no gradient are no part of θ. Hooks of the network run with it. Importing `eoslib` turns TF32 off.

    Raises ValueError on data or a cadence that cannot be measured, and on an optimiser that moves a part of θ only;
    RuntimeError that names the operation, at the first measurement, if f cannot be differentiated twice.
    """

    def __init__(
        self, model: nn.Module, loss_fn: Callable[[Tensor, Tensor], Tensor], data: tuple[Tensor, Tensor] | DataLoader,
        every: int = 20, eigenvalues: int = 1, also: Sequence[Measurement] = (), examples: int | None = None,
    ):  # fmt: skip
        if odd := [m for m in also if not isinstance(m.every, int | tuple)]:
            raise ValueError(f"a loop has no epochs and no end that are known: {odd[0].every!r} is no cadence of it")
        self.model = getattr(model, "_orig_mod", model)  # what torch.compile compiled has no second derivative
        self.moved = [p for p in self.model.parameters() if p.requires_grad]
        if not self.moved:
            raise ValueError("no parameter of the model requires a gradient")
        self.device = self.moved[0].device
        self.every, self.eigenvalues, self.also = every, eigenvalues, also
        self.network = _Measured(self.model)
        with self._apart():
            x, y = _sample(data, examples)
        self.objective = SupervisedObjective(self.network, x.to(self.device), y.to(self.device), loss_fn)
        self.t = 0  # steps taken
        self.rows: list[tuple[int, dict]] = []
        self.measurements: list[tuple[Measurement, Any]] | None = None  # not before the optimiser is known
        self.variables = OWN | {"threshold": THRESHOLD}
        self._point: Point | None = None  # θ_t, where the last step has arrived at it
        self._complete: Callable[[], None] | None = None  # what is left to do once the step is taken

    def __enter__(self) -> "watch":
        self._hooks = [register_optimizer_step_pre_hook(self._before), register_optimizer_step_post_hook(self._after)]
        return self

    def __exit__(self, *exception) -> None:
        for hook in self._hooks:
            hook.remove()
        self._point = self._complete = None  # and with them the graph

    @property
    def trace(self) -> xr.Dataset:
        """What was measured so far, in labelled tables as those of a stored run."""
        about = {"examples": len(self.objective.inputs)}
        about |= {"gradients": self.objective.gradients, "products": self.objective.products}
        return store.trace_of(self.rows, self.variables).assign_attrs(about)

    def save(self, path: str | Path) -> None:
        """Write the trace as netCDF, whole or not at all; `xarray.open_dataset` reads it."""
        store.write_atomically(Path(path), bytes(self.trace.to_netcdf(engine="h5netcdf")))

    def plot(self, path: str | Path | None = None, **options) -> None:
        """Show loss, sharpness and relative progress, the threshold drawn in; if asked, also write the picture to a
        file. options: of `figures.panels`, such as a caption."""
        from eoslib.chapter.figures import BLUE, GREEN, ORANGE, RULE, SKY, panels

        trace = store.side_by_side(self.trace)
        caption = f"Loss, sharpness and relative progress on {len(self.objective.inputs):,} examples at every "
        caption += f"{self.every} steps; dashed the largest stable sharpness."
        said = {"name": "watch", "caption": caption, "alt": caption} | options
        with panels(1, 3, **said) as (loss, curvature, progress):
            curves = [
                (loss, "loss", BLUE), (curvature, "directional_smoothness", SKY), (curvature, "batch_sharpness", GREEN),
                (curvature, "sharpness", ORANGE), (curvature, "preconditioned_sharpness", ORANGE),
                (curvature, "threshold", RULE), (progress, "relative_progress", BLUE),
            ]  # fmt: skip
            for ax, name, colour in curves:
                if name in trace and len(known := trace[name].dropna("step")):
                    line = "--" if name == "threshold" else "-"
                    ax.plot(known["step"], known, line, color=colour, label=name.replace("_", " "))
            loss.set(xlabel="step", ylabel="loss", yscale="log")
            curvature.set(xlabel="step", ylabel="curvature")
            named = curvature.get_legend_handles_labels()
            curvature.figure.legend(*named, loc="outside lower center", ncols=4)
            progress.set(xlabel="step", ylabel="relative progress")
            if path is not None:
                loss.figure.savefig(path)

    # --- around a step of the optimiser ---

    def _before(self, optimiser: Optimizer, *_) -> None:
        """Measure what is due at θ_t."""
        if not self._moves(optimiser):
            return
        groups = self._groups(optimiser)
        if self.measurements is None:
            self._begin(optimiser, groups)
        due = [(m, live) for m, live in self.measurements if m.due(self.t, False)]
        if not due:
            return
        with self._apart():
            point, self._point = self._point, None
            if point is None or not torch.equal(point.theta, self._theta()):  # a loop may move θ by itself
                point = self._arrive()
            eta = _one(float(group["lr"]) for group in groups)
            threshold = _one(stable_sharpness(optimiser, group) for group in groups)
            metric = self._metric(optimiser, groups)
            rows: dict[str, dict] = {}
            for m, live in due:
                at = Scaled(point, metric**-0.5) if m.preconditioned and metric is not None else point
                rows.setdefault(m.table, {}).update(host.numbers(self._measured(live, at, eta)))
            if along := next((m for m, _ in due if m.along), None):
                rows[along.table] |= {"eta": eta, "threshold": threshold}
                before, theta, gradient = point.numbers, point.theta, point.gradient
                self._complete = lambda: rows[along.table].update(self._along(along, before, theta, gradient, metric))
            self.rows.append((self.t, rows))

    def _after(self, optimiser: Optimizer, *_) -> None:
        """Measure what is known only of the step taken."""
        if not self._moves(optimiser):
            return
        self.t += 1
        if self._complete:
            with self._apart():
                self._complete()
            self._complete = None

    def _along(self, progress: Progress, before: dict, theta: Tensor, gradient: Tensor, metric: Tensor | None) -> dict:
        """The observables of the step from θ (p,); before: the numbers there. Where it ends is kept if it is due."""
        products = any(m.products for m, _ in self.measurements if m.due(self.t, False))
        point = self._arrive(products)
        found = progress.inner_products(theta - point.theta, gradient, point.gradient, metric)
        self._point = point if progress.due(self.t, False) else None
        return progress.compare(before, point.numbers, host.numbers(found))

    def _begin(self, optimiser: Optimizer, groups: list[dict]) -> None:
        """Choose what is measured, the optimiser being known."""
        adaptive = self._metric(optimiser, groups) is not None
        sharpness = (PreconditionedSharpness if adaptive else Sharpness)(every=self.every, eigenvalues=self.eigenvalues)
        measurements = [Progress(every=self.every), sharpness, *self.also]
        for m in measurements:
            if twice := self.variables.keys() & m.variables:
                raise ValueError(f"two measurements yield {', '.join(sorted(twice))}")
            self.variables |= m.variables
        self.measurements = [(m, m.begin(None, self._theta())) for m in measurements]

    def _arrive(self, products: bool = True) -> Point:
        """f and ∇f at the model's θ, its numbers on the host."""
        self.network.follow(self.model, self.objective.buffers)
        theta = self._theta()
        point = self.objective.expand(theta) if products else Point(self.objective, theta)
        point.numbers = {"loss": point.value, "gradient_norm": point.gradient.norm()}
        labels = self.objective.labels
        if point.outputs.dim() == 2 and labels.dim() == 1 and not labels.is_floating_point():
            point.numbers["accuracy"] = accuracy(point.outputs, labels)
        point.numbers = host.numbers(point.numbers)
        return point

    def _measured(self, live: Any, point: Any, eta: float) -> dict[str, Any]:
        try:
            return live.measure(point, eta)
        except RuntimeError as error:
            if not TWICE.search(str(error)):
                raise
            names = _not_twice(self.objective, self._theta())
            raise RuntimeError(f"the loss cannot be differentiated twice, for {names} cannot: {error}") from error

    def _theta(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.moved])

    def _moves(self, optimiser: Optimizer) -> bool:
        held = {id(p) for group in optimiser.param_groups for p in group["params"]}
        mine = [id(p) in held for p in self.moved]
        if any(mine) and not all(mine):
            raise ValueError(
                f"the optimiser moves {sum(mine)} of {len(mine)} parameter tensors that require a gradient; "
                "where the others are to stay as they are, requires_grad_(False) says so"
            )
        return all(mine)

    def _groups(self, optimiser: Optimizer) -> list[dict]:
        """The optimiser's group of each parameter tensor."""
        group_of = {id(p): group for group in optimiser.param_groups for p in group["params"]}
        return [group_of[id(p)] for p in self.moved]

    def _metric(self, optimiser: Optimizer, groups: list[dict]) -> Tensor | None:
        """The diagonal of P (p,) in the step that is about to be taken, or None."""
        parts = []
        with torch.no_grad():
            for p, group in zip(self.moved, groups, strict=True):
                gradient = torch.zeros_like(p) if p.grad is None else p.grad
                part = preconditioner(optimiser, group, p, p, gradient)
                if part is None:
                    return None
                parts.append(part.flatten())
        return torch.cat(parts)

    @contextlib.contextmanager
    def _apart(self) -> Iterator[None]:
        """Whatever is done inside, the training's generators and modes do not notice."""
        devices = [self.device] if self.device.type == "cuda" else []
        python, numpy = random.getstate(), np.random.get_state()
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the one attention with a second derivative
            if self.device.type in ("cpu", "cuda"):
                stack.enter_context(torch.autocast(self.device.type, enabled=False))
            try:
                yield
            finally:
                random.setstate(python)
                np.random.set_state(numpy)


class _Measured(nn.Module):
    """A copy of a network, whose parameters that require no gradient are buffers, with modes of its own."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.copied = copy.deepcopy(model)
        for module in self.copied.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None and not parameter.requires_grad:
                    del module._parameters[name]
                    module.register_buffer(name, parameter.detach())
            module.zero_grad()

    def forward(self, x: Tensor) -> Tensor:
        return self.copied(x)

    def follow(self, model: nn.Module, buffers: dict[str, Tensor]) -> None:
        """Take over what of the model is not θ: its buffers and what is frozen, and whether it normalises by batch."""
        now = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        for name in buffers:
            buffers[name] = now[name.removeprefix("copied.")].detach()
        for mine, module in zip(self.copied.modules(), model.modules(), strict=True):
            mine.training = module.training and isinstance(module, nn.modules.batchnorm._NormBase)


def _sample(data: tuple[Tensor, Tensor] | DataLoader, examples: int | None) -> tuple[Tensor, Tensor]:
    """x and y; of a loader so many examples of its data set, the same every time."""
    if isinstance(data, DataLoader):
        if examples is None:
            raise ValueError("of a data loader say how many examples are measured: examples=1000")
        if not hasattr(data.dataset, "__len__") or examples > len(data.dataset):
            raise ValueError(f"a sample of {examples} examples cannot be drawn from {type(data.dataset).__name__}")
        order = torch.randperm(len(data.dataset), generator=torch.Generator().manual_seed(0))
        data = data.collate_fn([data.dataset[i] for i in order[:examples].tolist()])
    elif examples is not None:
        raise ValueError("(x, y) is measured whole: examples is for a data loader")
    if not (isinstance(data, list | tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)):
        raise ValueError("expected data as a pair (x, y) of tensors, or a loader of such pairs")
    if len(data[0]) != len(data[1]):
        raise ValueError(f"{len(data[0])} inputs with {len(data[1])} labels")
    return tuple(data)


def _one(values: Iterable[float]) -> float:
    """The number that all parameters share; nan if they do not."""
    different = set(values)
    return different.pop() if len(different) == 1 else float("nan")


def _not_twice(objective: SupervisedObjective, theta: Tensor) -> str:
    """The names of the operations that can be differentiated once only: functions that say so themselves, else what
    PyTorch's anomaly detection tells."""
    value, _ = objective.forward(theta.detach().requires_grad_())
    waiting, nodes = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node and node not in nodes:
            nodes.add(node)
            waiting += [before for before, _ in node.next_functions]
    marked = {node._forward_cls for node in nodes if isinstance(node, torch.autograd.function.BackwardCFunction)}
    found = [function.__name__ for function in marked if hasattr(function.backward, "__wrapped__")]  # see the decorator
    if not found:
        with warnings.catch_warnings(record=True) as told, torch.autograd.set_detect_anomaly(True, False):
            warnings.simplefilter("always")
            with contextlib.suppress(RuntimeError):
                objective.expand(theta).hvp(torch.ones_like(theta))
        found = re.findall(r"(?:detected in|induced by) (\w+)", " ".join(str(warning.message) for warning in told))
    return ", ".join(dict.fromkeys(found)) or "one of its operations"
