"""Update maps θ ↦ θ − v, and schedules of their step size.

Plain gradient descent, `gd`, is θ − ηg, written out. Every other rule is an optimiser of `torch.optim`, by its name,
with θ as its one parameter; every schedule one of `torch.optim.lr_scheduler`, save `inverse-sharpness`, which is ours.
"""

import inspect
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import lr_scheduler

from eoslib.measure.variables import Stateful

# They want a closure, sparse gradients, matrices; a function, other schedulers, a loss.
UNFIT = {"LBFGS", "SparseAdam", "Muon", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler"}
UNFIT |= {"ReduceLROnPlateau", "LRScheduler", "Optimizer"}
ADAPTIVE = ("Adam", "AdamW", "RMSprop")
ONE = {dtype: torch.ones((), dtype=dtype) for dtype in (torch.float32, torch.float64)}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An update map. name: "gd", or an optimiser of `torch.optim`; options: its arguments save parameters and lr."""

    name: str = "gd"
    options: dict = field(default_factory=dict)

    def begin(self, theta: Tensor, step_size: float) -> "GradientDescent | Optimiser":
        """The map at its first step. Raises ValueError on an unknown rule or option."""
        kind = _named(self, {"gd": GradientDescent}, torch.optim, torch.optim.Optimizer)
        return kind() if kind is GradientDescent else Optimiser(kind, theta, step_size, self.options)


class GradientDescent(Stateful):
    """θ − ηg, rounded twice. `torch.optim.SGD` rounds once, and a chaotic trajectory tells the two apart."""

    plain = True

    def move(
        self, theta: Tensor, gradient: Tensor, step_size: float, spent: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The next θ and v, both (p,); spent: nobody else wants the gradient; θ takes its memory and v is None,
        which for many parameters saves much of the time of a step on a small minibatch."""
        if spent and theta.is_cpu:  # one pass over the memory; only the division keeps it from rounding once
            return torch.addcdiv(theta, gradient, ONE[theta.dtype], value=-step_size, out=gradient), None
        if spent:
            return torch.sub(theta, gradient.mul_(step_size), out=gradient), None
        v = step_size * gradient
        return theta - v, v

    def metric(self, theta: Tensor, gradient: Tensor) -> None:
        """Euclidean."""


class Optimiser:
    """An optimiser of `torch.optim` on one flat leaf."""

    plain = False

    def __init__(self, kind: type[torch.optim.Optimizer], theta: Tensor, step_size: float, options: dict):
        self._leaf = theta.detach().clone().requires_grad_()
        try:
            self._optimiser = kind([self._leaf], lr=step_size, **options)
        except TypeError as error:
            known = ", ".join(name for name in inspect.signature(kind).parameters if name not in ("params", "lr"))
            raise ValueError(f"options of {kind.__name__}: {error}; there are {known}") from None
        (self._group,) = self._optimiser.param_groups

    def move(self, theta: Tensor, gradient: Tensor, step_size: float, spent: bool = False) -> tuple[Tensor, None]:
        """The next θ (p,), and no v: whoever wants it subtracts."""
        self._group["lr"] = step_size
        with torch.no_grad():
            self._leaf.copy_(theta)
        self._leaf.grad = gradient.clone()  # some work in their gradient: SGD with nesterov and foreach
        self._optimiser.step()
        return self._leaf.detach().clone(), None  # since the optimiser goes on to move its own in place

    def metric(self, theta: Tensor, gradient: Tensor) -> Tensor | None:
        """See `preconditioner`."""
        return preconditioner(self._optimiser, self._group, self._leaf, theta, gradient)

    def state(self) -> dict:
        """The buffers of the one parameter."""
        return {name: x.clone() for name, x in self._optimiser.state[self._leaf].items()}  # it moves them in place

    def load(self, state: dict) -> None:
        """Continue from `state`."""
        if state:
            groups = self._optimiser.state_dict()["param_groups"]
            self._optimiser.load_state_dict({"state": {0: state}, "param_groups": groups})
            (self._group,) = self._optimiser.param_groups


def preconditioner(
    optimiser: torch.optim.Optimizer, group: dict, parameter: Tensor, theta: Tensor, gradient: Tensor
) -> Tensor | None:
    """The diagonal of P, shaped as the parameter, where the step from θ along this gradient is v = ηP⁻¹m: √ν + ε of
    Adam and RMSprop, in whose averages the gradient already counts; None, Euclidean, for all others. group: of the
    optimiser, that of the parameter."""
    state, name = optimiser.state.get(parameter, {}), type(optimiser).__name__
    if name not in ADAPTIVE:
        return None
    gradient = -gradient if group["maximize"] else gradient
    if not group.get("decoupled_weight_decay"):
        gradient = gradient + group["weight_decay"] * theta
    decay, average = (group["alpha"], "square_avg") if name == "RMSprop" else (group["betas"][1], "exp_avg_sq")
    nu = decay * state.get(average, 0) + (1 - decay) * gradient**2
    if group.get("centered"):
        nu = nu - (decay * state.get("grad_avg", 0) + (1 - decay) * gradient) ** 2
    if group.get("amsgrad") and state:
        nu = torch.maximum(nu, state["max_exp_avg_sq"])
    if name != "RMSprop":
        nu = nu / (1 - decay ** (float(state.get("step", 0)) + 1))
    return nu.sqrt() + group["eps"]


def stable_sharpness(optimiser: torch.optim.Optimizer, group: dict) -> float:
    """The largest curvature that an optimiser endures on a quadratic, in the metric of its `preconditioner`.

    2/η of gradient descent; 2(1 + β)/η with momentum β, 2(1 + β)/((1 + 2β)η) with Nesterov's (Cohen et al. 2021,
    appendix B); where the momentum averages, with weight 1 − d for the new gradient, 2(1 + β)/((1 − d)η): of Adam
    d = β = β₁, hence 38/η (Cohen et al. 2022). SGD's weight decay is curvature of its own, and taken off. nan of other
    optimisers, of which no such number is known.
    """
    name, eta = type(optimiser).__name__, float(group["lr"])
    if name not in ("SGD", *ADAPTIVE) or not eta > 0:
        return float("nan")
    beta = group["betas"][0] if "betas" in group else group["momentum"]
    weight = 1 - (beta if "betas" in group else group.get("dampening", 0))
    ahead = 1 + 2 * beta if group.get("nesterov") else 1
    return 2 * (1 + beta) / (weight * ahead * eta) - (group["weight_decay"] if name == "SGD" else 0)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A step size that changes.

    name: "constant"; a scheduler of `torch.optim.lr_scheduler`, with `options` as its arguments, which advances
    with every "step" or with every "epoch"; or "inverse-sharpness", η_t = min(η, 1/S(θ_t)), the stable schedule of
    Damian et al. 2023, figure 6. There S is the sharpness as last measured, which must be often enough for it to be
    still true. The paper has no largest η; ours keeps the first steps within the figure's range.
    """

    name: str = "constant"
    options: dict = field(default_factory=dict)
    advances: str = "step"

    def begin(self, step_size: float) -> "_Constant | _InverseSharpness | _Scheduled":
        """The schedule at its first step. Raises ValueError on an unknown schedule or option."""
        if self.advances not in ("step", "epoch"):
            raise ValueError(f"a schedule advances with every step or epoch, not {self.advances!r}")
        ours = {"constant": _Constant, "inverse-sharpness": _InverseSharpness}
        kind = _named(self, ours, lr_scheduler, lr_scheduler.LRScheduler)
        if kind in ours.values():
            return kind(step_size)
        return _Scheduled(kind, step_size, self.options, self.advances == "epoch")


class _Constant(Stateful):
    constant = True
    carries = ("step_size",)

    def __init__(self, step_size: float):
        self.step_size = self.largest = step_size

    def see(self, sharpness: float | None) -> None:
        """The sharpness was measured at this θ, or not."""

    def advance(self, epoch_ends: bool) -> None:
        """A step was taken."""


class _InverseSharpness(_Constant):
    constant = False

    def see(self, sharpness: float | None) -> None:
        if sharpness is not None:
            self.step_size = 1 / max(sharpness, 1 / self.largest)


class _Scheduled(_Constant):
    """A scheduler drives the lr of an optimiser that moves nothing."""

    constant = False

    def __init__(self, kind: type[lr_scheduler.LRScheduler], step_size: float, options: dict, by_epoch: bool):
        idle = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=step_size)
        cycles = inspect.signature(kind).parameters.get("cycle_momentum")
        if cycles and options.get("cycle_momentum", cycles.default):
            raise ValueError(f"{kind.__name__} moves the step size only: give it cycle_momentum=False")
        try:
            self.scheduler = kind(idle, **options)
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"options of {kind.__name__}: {error}") from None
        idle.step()  # which the scheduler expects to come before its own
        (self.group,), self.by_epoch = idle.param_groups, by_epoch
        super().__init__(self.group["lr"])

    def advance(self, epoch_ends: bool) -> None:
        if epoch_ends or not self.by_epoch:
            self.scheduler.step()
            self.step_size = self.group["lr"]

    def state(self) -> dict:
        # what advances is numbers; the rest, settings and milestones, is as it was made
        numbers = {k: v for k, v in self.scheduler.state_dict().items() if isinstance(v, int | float)}
        return super().state() | {"scheduler": numbers}

    def load(self, state: dict) -> None:
        vars(self.scheduler).update(state["scheduler"])  # as `load_state_dict`, but CyclicLR's wants its function too
        self.step_size = self.group["lr"] = state["step_size"]


def _named(declared: Rule | Schedule, ours: dict[str, type], module, base: type) -> type:
    """The class called as declared, ours or one of the module's; a ValueError that lists the valid names if none is."""
    theirs = {k: v for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, base)}
    known = ours | {k: theirs[k] for k in sorted(theirs) if k not in UNFIT and k[0] != "_"}
    if declared.name not in known:
        what = type(declared).__name__.lower()
        raise ValueError(f"unknown {what} {declared.name!r}; expected one of: {', '.join(known)}")
    if declared.name in ours and declared.options:
        raise ValueError(f"{declared.name} takes no options, given {', '.join(declared.options)}")
    return known[declared.name]
