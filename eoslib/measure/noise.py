"""The quantities that Zhang et al. 2021 follow, equation (2), on the whole data or on a sample: loss, gradient norm and
gradient noise, with standard errors.

The noise σ(θ)² = 1/N Σᵢ ‖∇L(θ) − ∇ℓᵢ(θ)‖² asks for the norm of every example's gradient. These follow from one forward
and one backward pass: where a layer multiplies with a weight, an example's gradient is a product of what went into the
layer and of the derivative by what came out.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from eoslib.measure.variables import Measurement, Variable
from eoslib.problems.objective import SupervisedObjective

PIECE = 500  # examples whose layers are unfolded at once

# --- per-example gradient norms ---------------------------------------------------------------------------


class _Use(NamedTuple):
    """One use of a parameter in the forward pass: `factors` of ∂/∂output gives what each example adds to the gradient:
    a pair (left (n, t, a) or integers (n, t), right (n, t, b)) with gradient Σₜ left ⊗ right, or itself (n, …)."""

    name: str
    output: Tensor
    factors: Callable[[Tensor], Any]


class _Watched(TorchFunctionMode):
    """Notes each use of a parameter, and refuses those whose gradients it does not know."""

    def __init__(self, names: dict[int, str], n: int):
        super().__init__()
        self.names, self.n, self.uses = names, n, []  # names: of the parameters, by their ids

    def __torch_function__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        given = [*arguments, *(options or {}).values()]
        used = [self.names[id(a)] for a in given if id(a) in self.names]
        if used and isinstance(result, Tensor):
            rule = _RULES.get(function)
            found = rule(self, result, *arguments, **(options or {})) if rule else []
            known = [use.name for use in found]
            if sorted(known) != sorted(used) or len(result) % self.n:
                how = getattr(function, "__name__", function)
                raise NotImplementedError(f"no rule for per-example gradients of {', '.join(used)} in {how}")
            self.uses += found
        return result

    def use(self, parameter: Tensor | None, output: Tensor, factors: Callable) -> list[_Use]:
        """That use, if what is given is a parameter."""
        return [_Use(self.names[id(parameter)], output, factors)] if id(parameter) in self.names else []

    def rows(self, x: Tensor) -> Tensor:
        """(n · s, …, d) or (n, …, d) as (n, t, d)."""
        return x.reshape(self.n, -1, x.shape[-1])


def _linear(watched: _Watched, output, x, weight, bias=None):
    rows = watched.rows
    return [
        *watched.use(weight, output, lambda g: (rows(g), rows(x))),
        *watched.use(bias, output, lambda g: rows(g).sum(1)),
    ]


def _matmul(watched: _Watched, output, x, weight):
    if weight.dim() != 2:
        return []
    return watched.use(weight, output, lambda g: (watched.rows(x), watched.rows(g)))


def _embedding(
    watched: _Watched, output, tokens, weight, padding_idx=None, max_norm=None, norm_type=2.0,
    scale_grad_by_freq=False, sparse=False,
):  # fmt: skip
    if padding_idx is not None or max_norm is not None or scale_grad_by_freq:
        return []
    return watched.use(weight, output, lambda g: (tokens.reshape(watched.n, -1).long(), watched.rows(g)))


def _conv2d(watched: _Watched, output, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if groups != 1 or isinstance(padding, str):
        return []
    size = weight.shape[2:]

    def factors(g):
        patches = F.unfold(x, size, padding=padding, stride=stride, dilation=dilation)  # (n, c · size, t)
        return g.flatten(2).mT, patches.mT

    return [*watched.use(weight, output, factors), *watched.use(bias, output, lambda g: g.sum((2, 3)))]


def _group_norm(watched: _Watched, output, x, groups, weight=None, bias=None, eps=1e-5):
    def per_channel(g):
        return g.reshape(watched.n, -1, x.shape[1], x[0, 0].numel()).sum((1, 3))

    return [
        *watched.use(weight, output, lambda g: per_channel(g * F.group_norm(x, groups, eps=eps))),
        *watched.use(bias, output, per_channel),
    ]


def _add(watched: _Watched, output, x, y):
    def once(a):  # a summand is added wherever the axes before its own lead
        return lambda g: g.reshape(watched.n, -1, *a.shape).sum(1)

    fitting = (a for a in (x, y) if output.dim() > a.dim() and output.shape[output.dim() - a.dim() :] == a.shape)
    return [use for a in fitting for use in watched.use(a, output, once(a))]


_RULES = {
    F.linear: _linear, torch.matmul: _matmul, Tensor.matmul: _matmul,
    F.embedding: _embedding, F.conv2d: _conv2d, F.group_norm: _group_norm,
    torch.add: _add, Tensor.add: _add,
}  # fmt: skip


def _square_norms(name: str, factors: Sequence[Any]) -> Tensor:
    """‖·‖² (n,) of each example's gradient of one parameter, from what all of its uses give, see `_Use`."""
    pairs = [f for f in factors if isinstance(f, tuple)]
    if not pairs:
        return sum(factors).flatten(1).square().sum(1)
    if len(pairs) < len(factors):
        raise NotImplementedError(f"no rule for per-example gradients of {name}, a matrix and a summand at once")
    tokens, dense = (
        [torch.cat(parts, 1) for parts in zip(*(f for f in pairs if f[0].is_floating_point() == kind), strict=True)]
        for kind in (False, True)
    )
    total = 0
    if dense:
        left, right = dense
        (_, t, a), b = left.shape, right.shape[2]
        if t * (a + b) < a * b:  # ‖Σₜ lₜ ⊗ rₜ‖² = Σₜₛ ⟨lₜ, lₛ⟩⟨rₜ, rₛ⟩
            total = total + ((left @ left.mT) * (right @ right.mT)).sum((1, 2))
        else:
            total = total + (left.mT @ right).square().sum((1, 2))
    if tokens:  # rows of the identity take the place of lₜ
        chosen, rows = tokens
        total = total + ((chosen[:, :, None] == chosen[:, None]) * (rows @ rows.mT)).sum((1, 2))
    if dense and tokens:
        at_tokens = left.gather(2, chosen[:, None].expand(-1, t, -1))
        total = total + 2 * (at_tokens * (right @ rows.mT)).sum((1, 2))
    return total


def _piece(objective: SupervisedObjective, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    network, n = copy.copy(objective.network), len(objective.labels)
    network.is_linear = False  # a linear `networks.MLP` multiplies its weights first, which leaves no layer to look at
    names, shapes = zip(*((name, p.shape) for name, p in network.named_parameters()), strict=True)
    leaves = [part.view(shape) for part, shape in zip(theta.split([s.numel() for s in shapes]), shapes, strict=True)]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    with _Watched({id(leaf): name for leaf, name in zip(leaves, names, strict=True)}, n) as watched:
        outputs = torch.func.functional_call(network, dict(zip(names, leaves, strict=True)), objective.inputs)
    value = objective.loss(outputs, objective.labels)
    slopes = torch.autograd.grad(value, [*leaves, *(use.output for use in watched.uses)], materialize_grads=True)
    factors = {name: [] for name in names}
    with torch.no_grad():
        for use, slope in zip(watched.uses, slopes[len(leaves) :], strict=True):
            factors[use.name].append(use.factors(slope))
        squares = sum(_square_norms(name, found) for name, found in factors.items() if found)
    gradient = torch.cat([slope.flatten() for slope in slopes[: len(leaves)]])
    return value.detach(), gradient, n**2 * squares  # the loss is a mean over n


def per_example(objective: SupervisedObjective, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f and ∇f at θ, and ‖∇ℓᵢ(θ)‖² (n,) of every example, in one forward and one backward pass.

    Parameters may be used by dense and convolutional layers, embeddings, layer and group normalisation, as matrices
    that multiply inputs, as summands, and more than once; any other use raises NotImplementedError that names it.
    Examples lie along the first axis and do not interact. The first example's gradient is also computed alone: raises
    ValueError where it has another norm, since the identities then do not hold, and where examples share statistics.
    """
    value, gradient, squares = _additive(objective, theta)
    _check_first(objective, theta, squares)
    return value, gradient, squares


def _additive(objective: SupervisedObjective, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same, unchecked, by pieces of the data."""
    if objective.buffers:
        raise ValueError("examples that share batch statistics have no gradients of their own")
    pieces = [(weight, _piece(part, theta)) for weight, part in objective.parts(PIECE)]
    value, gradient = (sum(weight * found[i] for weight, found in pieces) for i in (0, 1))
    return value, gradient, torch.cat([found[2] for _, found in pieces])


def _check_first(objective: SupervisedObjective, theta: Tensor, squares: Tensor) -> None:
    alone = objective.batch(torch.zeros(1, dtype=torch.int64, device=theta.device)).gradient(theta).square().sum()
    if not torch.isclose(squares[0], alone, rtol=1e-3, atol=1e-12, equal_nan=True):
        raise ValueError("the examples interact, or do not lie along the first axis: their gradients are not additive")


# --- the quantities of equation (2) on a sample -----------------------------------------------------------


class Estimate(NamedTuple):
    """A number and its standard error over samples; float."""

    value: float
    standard_error: float


def draw(n: int, examples: int | None, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Minibatches (batch_size,) of different examples out of n, by default of all. Raises ValueError on a sample larger
    than the data, or one that does not consist of whole minibatches."""
    m = n if examples is None else examples
    if m > n:
        raise ValueError(f"a sample of {m} examples is larger than the data, which have {n}")
    if m % batch_size:
        raise ValueError(f"a sample of {m} examples does not consist of minibatches of {batch_size}")
    return list(torch.randperm(n, generator=generator)[:m].split(batch_size))


def sampled(objective: SupervisedObjective, theta: Tensor, minibatches: Sequence[Tensor]) -> dict[str, Estimate]:
    """The quantities of (2) at θ, from k ≥ 2 minibatches (b,) of different examples, m = kb of all N.

    - sample_loss, sample_gradient_norm ‖ĝ‖, sample_noise: (2) as printed, on the sample. ‖ĝ‖ is too large, for
      E‖ĝ‖² = ‖∇L‖² + σ²/m · (N − m)/(N − 1), and the noise too small, by a share of 1/m.
    - gradient_square, noise_square: unbiased estimates of ‖∇L‖², which may be negative, and of σ². Of the norms
      themselves there are none: a square root is concave (Jensen's inequality).
    - logged_gradient ‖ĝ‖², logged_noise 1/k Σ‖g_B − ĝ‖²: of minibatches, not of examples, as the authors' code logs.

    The noise of examples is left out where they share batch statistics; L is then the mean over minibatches. Standard
    errors are the jackknife's over up to `BLOCKS` groups of minibatches, with (1 − m/N) for a sample without
    repetition: of all data nothing is left to chance, but for the noise of minibatches, which are chosen.
    """
    k, b, big = len(minibatches), len(minibatches[0]), len(objective.labels)
    shared = bool(objective.buffers)
    blocks = min(k, BLOCKS)
    sums = theta.new_zeros(blocks, len(theta))  # of the gradients of each block's minibatches
    numbers: list[list[Tensor]] = [[] for _ in range(blocks)]
    for i, part in enumerate(objective.batches(minibatches)):
        block = i * blocks // k
        if shared:
            value, gradient, _ = part.evaluate(theta)
            squares = torch.full_like(value, torch.nan)
        else:
            value, gradient, squares = _additive(part, theta)
            if i == 0:
                _check_first(part, theta, squares)
        sums[block] += gradient
        numbers[block].append(torch.stack([value, gradient.square().sum(), squares.mean()]))
        objective.gradients += 1
    whole = sums.sum(0)
    products = torch.stack([sums @ whole, sums.square().sum(1)]).double().cpu().numpy()
    counts = np.array([len(found) for found in numbers])
    each = torch.stack([torch.stack(found).double().sum(0) for found in numbers]).cpu().numpy()  # (blocks, 3)
    every = _Sums(k, *each.sum(0), products[0].sum())
    # a block left out: ‖Σ − s‖² = ‖Σ‖² − 2⟨s, Σ⟩ + ‖s‖²
    rest = every.square - 2 * products[0] + products[1]
    others = _Sums(k - counts, *(each.sum(0) - each).T, rest)
    left_out = 1 - k * b / big
    found, without = every.statistics(b, big, shared), others.statistics(b, big, shared)
    estimates = {}
    for name, value in found.items():
        spread = (blocks - 1) / blocks * ((without[name] - without[name].mean()) ** 2).sum()
        estimates[name] = Estimate(float(value), float(np.sqrt(spread * (1 if name == "logged_noise" else left_out))))
    return estimates


BLOCKS = 20  # groups of minibatches, each left out once; so many gradients are kept


class _Sums(NamedTuple):
    """Over minibatches: how many, Σ f, Σ ‖g‖², Σ of the examples' mean ‖∇ℓ‖², and ‖Σ g‖². Numbers or arrays."""

    k: Any
    losses: Any
    squares: Any
    examples: Any
    square: Any

    def statistics(self, b: int, n: int, shared: bool) -> dict[str, Any]:
        """See `sampled`; b examples in a minibatch, n in the data."""
        k, m = self.k, self.k * b
        gradient = np.maximum(self.square, 0) / k**2  # what a block leaves may round below 0
        between = self.squares / k - gradient  # 1/k Σ‖g_B − ĝ‖²
        noise = np.maximum(self.examples / k - gradient, 0)  # nan where examples have none
        unbiased = (n - 1) / n * noise * m / (m - 1)
        # one minibatch says nothing of others
        spread = between / np.where(np.asarray(k) > 1, k - 1, np.nan)
        variance = spread if shared else unbiased * n / (n - 1) / m  # of ĝ, were there no end of examples
        found = {
            "sample_loss": self.losses / k,
            "sample_gradient_norm": np.sqrt(gradient),
            "gradient_square": gradient - (1 - m / n) * variance,
            "logged_gradient": gradient,
            "logged_noise": between,
        }
        return found if shared else found | {"sample_noise": np.sqrt(noise), "noise_square": unbiased}


_QUANTITIES = {
    "sample_loss": "loss L of the sample",
    "sample_gradient_norm": "gradient norm ‖ĝ‖ of the sample, as printed in (2)",
    "sample_noise": "noise σ of the sample, as printed in (2)",
    "gradient_square": "unbiased estimate of the squared gradient norm ‖∇L‖²",
    "noise_square": "unbiased estimate of the squared noise σ²",
    "logged_gradient": "squared gradient norm of the sample, as the authors' code logs it",
    "logged_noise": "mean squared deviation of a minibatch's gradient, as the authors' code logs it",
}


@dataclass(frozen=True, kw_only=True)
class Noise(Measurement):
    """`sampled` on so many `examples`, by default all, in minibatches of `batch_size`. seed: of their choice, which is
    the measurement's own."""

    batch_size: int
    examples: int | None = None
    seed: int = 0
    whole: ClassVar[bool] = False
    variables: ClassVar = {
        name + end: Variable(words + long_name)
        for end, words in (("", ""), ("_se", "standard error of the "))
        for name, long_name in _QUANTITIES.items()
    }

    def gradients(self, n: int) -> float:
        return 3 * (self.examples or n) / n  # of which the examples' norms take two

    def begin(self, problem: Any, theta: Any) -> "_Sampled":
        return _Sampled(self)


class Sampler:
    """Draws minibatches of its own, whatever it then measures on them."""

    def __init__(self, declared: Any):
        self.declared = declared
        self.generator = torch.Generator().manual_seed(declared.seed + 4)  # see `batches._GENERATORS`

    def minibatches(self, point: Any) -> list[Tensor]:
        """A sample as declared. Raises ValueError unless it is of two minibatches at least: one has no spread."""
        found = draw(len(point.objective.labels), self.declared.examples, self.declared.batch_size, self.generator)
        if len(found) < 2:
            raise ValueError(f"a sample needs two minibatches at least, not one of {self.declared.batch_size} examples")
        return found

    def fresh(self, point: Any) -> SupervisedObjective:
        """The loss on another minibatch of the declared size."""
        objective, size = point.objective, self.declared.batch_size
        (minibatch,) = draw(len(objective.labels), size, size, self.generator)
        return objective.batch(minibatch.to(point.theta.device))

    def state(self) -> dict:
        """All that the next sample depends on."""
        return {"generator": self.generator.get_state()}

    def load(self, state: dict) -> None:
        """Continue from `state`."""
        self.generator.set_state(state["generator"])


class _Sampled(Sampler):
    def measure(self, point: Any, step_size: float) -> dict[str, float]:
        estimates = sampled(point.objective, point.theta, self.minibatches(point))
        values = {name: estimate.value for name, estimate in estimates.items()}
        return values | {f"{name}_se": estimate.standard_error for name, estimate in estimates.items()}
