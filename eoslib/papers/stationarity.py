"""Trajectories whose averages settle although their points do not (Zhang, Li, Sra & Jadbabaie 2021).

Time averages and invariance, theorems 1 and 4; examples for lemma 2 and theorem 3; the invariant sets of theorems 6 and
7; what a smaller step would do, theorem 8; and the balance of gradient, noise and sharpness, equation (10).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from eoslib.measure import host
from eoslib.measure.noise import Noise, Sampler
from eoslib.measure.progress import gauss_legendre
from eoslib.measure.stochastic_curvature import SampleSharpness
from eoslib.measure.variables import Measurement, Variable
from eoslib.problems import networks
from eoslib.problems.landscapes import Landscape
from eoslib.problems.objective import Objective

# --- averages along a trajectory --------------------------------------------------------------------------


def time_averages(values: np.ndarray) -> np.ndarray:
    """μ_n(φ) = 1/n Σ_{t ≤ n} φ(θ_t), equation (4), for n = 1, 2, …; along the first axis."""
    return np.cumsum(values, 0) / np.arange(1, len(values) + 1).reshape(-1, *(1,) * (values.ndim - 1))


def invariance_gaps(values: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """|E_{θ ∼ μ_n}[φ(θ) − φ(F(θ))]| for n = 1, 2, …, which theorem 1 bounds. values: φ(θ_t); expected: of φ(F(θ_t)),
    the next value itself where F is deterministic. The sum over a deterministic F telescopes to (φ(θ₁) − φ(θ_{n+1}))/n;
    that over a stochastic one leaves a martingale, whose average falls like 1/√n."""
    return abs(time_averages(values - expected))


def window_change(values: np.ndarray, n: int) -> float:
    """The largest |M_t − M_{t−1}|, M_t = 1/n Σ_{t ≤ i < t+n} f(θ_i), lemma 2; values: f along the orbit (T,), T > n."""
    return abs(values[n:] - values[:-n]).max() / n


def lyapunov_exponent(landscape: Landscape, theta: np.ndarray, step_size: float) -> float:
    """The mean rate at which F(θ) = θ − η∇f(θ) stretches a small difference along an orbit theta (T, d), per step: it
    is negative where an orbit tends to an attracting cycle, positive where nearby orbits part for ever."""
    points = torch.as_tensor(theta, dtype=torch.float64)
    jacobians = torch.eye(points.shape[1]) - step_size * torch.func.vmap(torch.func.hessian(landscape.f))(points)
    v, total = np.ones(points.shape[1]) / points.shape[1] ** 0.5, 0.0
    for jacobian in jacobians.numpy():
        v = jacobian @ v
        stretched = np.linalg.norm(v)
        total, v = total + math.log(stretched), v / stretched
    return total / len(points)


def noisy_sines(step_size: float, noise: float, steps: int, chains: int, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """f = 100 sin θ₁ sin θ₂ along gradient descent with normal noise of standard deviation `noise` in each component of
    the gradient, and the expectation of f after each step, given where it begins; both (steps, chains).

    In u = θ₁ + θ₂, v = θ₁ − θ₂, f = 50 (cos v − cos u), and a normal ξ of variance s² has E cos(x + ξ) = e^{−s²/2}
    cos x; so E f(θ − η(∇f + ξ)) = e^{−η²σ²} f(θ − η∇f) exactly. The chains start at random.
    """
    generator = np.random.default_rng(seed)
    u, v = generator.uniform(-np.pi, np.pi, (2, chains))
    values, expected = np.empty((2, steps, chains))
    shrinks = math.exp(-((step_size * noise) ** 2))
    for t in range(steps):
        values[t] = 50 * (np.cos(v) - np.cos(u))
        u, v = u - 100 * step_size * np.sin(u), v + 100 * step_size * np.sin(v)
        expected[t] = shrinks * 50 * (np.cos(v) - np.cos(u))
        first, second = step_size * noise * generator.standard_normal((2, chains))
        u, v = u + first + second, v + first - second
    return values, expected


# --- examples ---------------------------------------------------------------------------------------------


def zigzag(n: int) -> tuple[list[Fraction], list[Fraction]]:
    """The orbit θ₀, …, θ_n of lemma 2's proof, of period n + 1, and f on it, exactly: f(θ) = −θ/(n + 1) for θ ≤ 0 and
    nθ/(n + 1) for θ > 0, equation (11), with F(θ) = θ − f′(θ) from θ₀ = 0.2/(n + 1).

    The proof has θ_k = −1 + (k − 0.8)/(n + 1), which is that of k − 1, and |f(θ₀) − f(θ₁)| ≥ 0.5, where that is about
    0.8/n. So M_t changes by about 0.8/n², not by 1/(2n).
    """
    theta, values = [Fraction(1, 5 * (n + 1))], []
    for _ in range(n + 1):
        slope = Fraction(n, n + 1) if theta[-1] > 0 else Fraction(-1, n + 1)
        values.append(slope * theta[-1])
        theta.append(theta[-1] - slope)
    assert theta.pop() == theta[0]
    return theta, values


def tent_orbit(symbols: np.ndarray) -> np.ndarray:
    """An orbit of gradient descent with η = 1 on the landscape `tent`, which on [0, 1] is the tent map θ ↦ 2θ, 2 − 2θ:
    the one that lies left of ½ wherever symbols (T,) is 0, right of it where it is 1; θ of shape (T − 53,), each right
    to rounding.

    Any sequence of symbols is that of one orbit, whose first binary digits are parities of sums of symbols. Computed by
    steps, an orbit would end at 0 after 53 of them, when all digits of a float are used up.
    """
    digits = np.cumsum(symbols) % 2
    ahead = np.lib.stride_tricks.sliding_window_view(digits, 53)
    value = ahead[:-1] @ 0.5 ** np.arange(1, 54)
    before = np.concatenate([[0], digits])[: len(value)]  # a step right of ½ turns all digits round
    return np.where(before == 1, 1 - 0.5**53 - value, value)


def doubling_blocks(length: int) -> np.ndarray:
    """Symbols in blocks of 1, 2, 4, 8, … zeros and ones in turn. On the orbit of `tent_orbit` that they name, time
    averages do not converge: at the ends of the blocks two thirds of the past were spent near one fixed point, 0 or ⅔,
    and one third near the other. So theorem 3 has an example of gradient descent, for a start chosen to that end."""
    return np.array([(i + 1).bit_length() - 1 for i in range(length)]) % 2


def lingering(steps: int, start: tuple[float, float] = (1.0, 0.5), ratio=3.0, speed=0.5) -> np.ndarray:
    """The angles α_t (steps,) of a continuous map of the cylinder {(α, δ)}, 0 ≤ δ ≤ 1, onto itself,

        F(α, δ) = (α + c(sin²α + δ²), δ exp(−a sin⁴α)),

    whose time averages of cos α converge from no start with δ > 0, α ∉ πℤ (theorem 3). On the circle δ = 0 the points 0
    and π are fixed. An orbit passes them by turns, each time slower: it stays π/(cδ) steps, and on the way δ falls by
    the factor `ratio` = exp(aπ/2c), in the limit. Hence each stay outlasts all before, and the average swings for ever
    between ±(ratio − 1)/(ratio + 1). speed: c.
    """
    rate = 2 * speed / math.pi * math.log(ratio)
    alpha, delta = start
    angles = np.empty(steps)
    for t in range(steps):
        angles[t] = alpha
        square = math.sin(alpha) ** 2
        alpha, delta = alpha + speed * (square + delta * delta), delta * math.exp(-rate * square * square)
    return angles


# --- how estimates converge with the sample ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SampleSizes(Measurement):
    """The estimates of `noise.sampled` and `SampleSharpness` from samples of each of `sizes`, each drawn so many
    `repeats`, in minibatches of half a sample, at most `batch_size` (figures 8 and 9). All of the data are one sample,
    measured once."""

    sizes: tuple[int, ...]
    repeats: int
    batch_size: int
    seed: int = 0
    whole: ClassVar[bool] = False
    products: ClassVar[bool] = True
    variables: ClassVar = {
        f"by_size_{name}": Variable(variable.long_name, dims=("size", "repeat"), tolerance=variable.tolerance)
        for name, variable in (Noise.variables | SampleSharpness.variables).items()
    }

    def gradients(self, n: int) -> float:
        return self.repeats * sum(self._samples(size).gradients(n) for size in self.sizes)

    def begin(self, problem: Any, theta: Any) -> "_BySize":
        return _BySize(self)

    def _samples(self, size: int) -> SampleSharpness:
        return SampleSharpness(examples=size, batch_size=min(size // 2, self.batch_size), seed=self.seed)


class _BySize(Sampler):
    def measure(self, point: Any, step_size: float) -> dict[str, list[list[float]]]:
        rows = []
        for size in self.declared.sizes:
            declared = self.declared._samples(size)
            noise = Noise(examples=size, batch_size=declared.batch_size).begin(None, None)
            sharpness = declared.begin(None, None)
            noise.generator = sharpness.generator = self.generator  # so that each sample is another
            repeats = self.declared.repeats
            drawn = 1 if size == len(point.objective.labels) else repeats
            of_size = [noise.measure(point, step_size) | sharpness.measure(point, step_size) for _ in range(drawn)]
            rows.append(of_size * (repeats // drawn))
        return {f"by_size_{name}": [[row[name] for row in of_size] for of_size in rows] for name in rows[0][0]}


# --- networks that stay in a compact set ------------------------------------------------------------------

SOFTMAX_LIPSCHITZ = 2**0.5  # lemma 5, 2: c_ℓ; a gradient e_y − p of softmax is shorter


class Layers(nn.Module):
    """The network (8): dense layers without biases, each but the last followed by the activation; widths: of the input,
    of each layer. batch_norm: whether a batch normalisation follows the last, as theorem 7 has it."""

    def __init__(self, widths: Sequence[int], activation: str, batch_norm: bool = False):
        super().__init__()
        self.activation = networks.ACTIVATIONS[activation]
        self.layers = nn.ModuleList(nn.Linear(*pair, bias=False) for pair in pairwise(widths))
        self.norm = nn.BatchNorm1d(widths[-1]) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (n, d) to outputs (n, c)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return self.norm(last(x))

    def scaled(self, norm: float) -> Tensor:
        """θ with each weight matrix scaled to this operator norm."""
        parts = [w.detach() * (norm / torch.linalg.matrix_norm(w.detach(), 2)) for w in self.layers.parameters()]
        return torch.cat([w.flatten() for w in (*parts, *(p.detach() for p in self.norm.parameters()))])


seeded_layers = networks.seeded(Layers)


def largest_norm(weight_decay: float, layers: int, loss_lipschitz=SOFTMAX_LIPSCHITZ, lipschitz=1.0) -> float:
    """The largest w of theorem 6, (γ / (c_ℓ c_σ^L))^{1/(L − 2)}: weights of operator norms up to it keep them under SGD
    with weight decay γ and η ≤ 1/γ. loss_lipschitz: c_ℓ. lipschitz: c_σ. Raises ValueError unless L > 2."""
    if layers <= 2:
        raise ValueError(f"theorem 6 needs more than two layers, not {layers}")
    return (weight_decay / (loss_lipschitz * lipschitz**layers)) ** (1 / (layers - 2))


def loss_range(weight_decay: float, layers: int, loss_lipschitz=SOFTMAX_LIPSCHITZ, lipschitz=1.0) -> float:
    """By how much the loss can differ from log d in the set of theorem 6, for inputs of length 1: c_ℓ (c_σ w)^L. The
    proof has (γ/(c_ℓ c_σ²))^{L/(L − 2)}, without the factor c_ℓ."""
    return loss_lipschitz * (lipschitz * largest_norm(weight_decay, layers, loss_lipschitz, lipschitz)) ** layers


@dataclass(frozen=True, kw_only=True)
class WeightNorms(Measurement):
    """The operator norms of the weight matrices, and the largest |a| of a batch normalisation's scales, if any."""

    whole: ClassVar[bool] = False
    variables: ClassVar = {
        "weight_norms": Variable("operator norms of the weight matrices", dims=("layer",)),
        "scale": Variable("largest scale |a| of the batch normalisation"),
    }

    def measure(self, point: Any, step_size: float) -> dict[str, Any]:
        parameters = dict(point.objective.network.named_parameters())
        parts = point.theta.split([p.numel() for p in parameters.values()])
        found = {name: part.view(p.shape) for (name, p), part in zip(parameters.items(), parts, strict=True)}
        matrices = [torch.linalg.matrix_norm(w, 2) for w in found.values() if w.dim() == 2]
        row = {"weight_norms": torch.stack(matrices).tolist()}
        return row | ({"scale": found["norm.weight"].abs().max()} if "norm.weight" in found else {})


# --- where the expected change is zero --------------------------------------------------------------------


def balance(
    objective: Objective, theta: Tensor, step_size: float, gradients: Sequence[Tensor], fractions=(1.0,), nodes: int = 4
) -> dict[str, np.ndarray]:
    """What the equation before (10) relates at θ, for each of k stochastic `gradients` g (p,); f and ∇f of all data.

    - change (k, fractions): f(θ − cηg) − f(θ) for each c, theorem 8
    - corrected: η ∫∫ t ⟨g, ∇²f(θ − tτηg) g⟩ dt dτ = ∫ ⟨g, ∇f(θ) − ∇f(θ − tηg)⟩ dt. Since f(θ) − f(θ − ηg) =
      η⟨g, ∇f(θ)⟩ − η · that, E‖∇f‖² = E corrected wherever E f(F(θ)) = E f(θ)
    - printed: η ∫∫ ⟨∇f − g, ∇²f(θ − tτηg) g⟩ dt dτ, the right side as the paper has it
    - relation: ½ ⟨g, ∇f(θ) − ∇f(θ − ηg)⟩, which times 1/‖∇f‖² is what Ahn et al. 2022, (6) adds to −1: the corrected
      one with the integrand's value at the end for its mean
    - noise ‖g − ∇f‖², second ‖g‖²; square ‖∇f‖²

    The integrals over t are by `nodes` points of Gauss and Legendre, exact for polynomials f.
    """
    here, (at, weights) = objective.evaluate(theta), gauss_legendre(nodes)
    rows: dict[str, list] = {name: [] for name in ("change", "corrected", "printed", "relation", "noise", "second")}
    for g in gradients:
        ahead = {t: here.gradient - objective.gradient(theta - t * step_size * g) for t in (*at.tolist(), 1.0)}
        along = sum(w * (g @ ahead[t]) for t, w in zip(at.tolist(), weights, strict=True))
        across = sum(w / t * ((here.gradient - g) @ ahead[t]) for t, w in zip(at.tolist(), weights, strict=True))
        values = [objective.value(theta - c * step_size * g) - here.value for c in fractions]
        rows["change"].append(torch.stack(values))
        rows["corrected"].append(along)
        rows["printed"].append(across)
        rows["relation"].append(g @ ahead[1.0] / 2)
        rows["noise"].append((g - here.gradient).square().sum())
        rows["second"].append(g.square().sum())
    found = {name: torch.stack(row).double().cpu().numpy() for name, row in rows.items()}
    return found | {"square": here.gradient.square().sum().double().cpu().numpy()}


_BALANCE = {
    "corrected": "right side of the equation before (10), corrected",
    "printed": "right side of the equation before (10), as printed",
    "relation": "‖∇L‖² times what Ahn et al.'s (6) adds to −1",
    "noise": "squared noise E‖g − ∇L‖² of a minibatch",
    "second": "second moment E‖g‖² of a minibatch's gradient",
}


@dataclass(frozen=True, kw_only=True)
class Balance(Measurement):
    """`balance` over so many `minibatches` of `batch_size`, drawn by the measurement's own `seed`: means and standard
    errors. fractions: of the step size, at which the change of the loss is measured."""

    batch_size: int
    minibatches: int
    fractions: tuple[float, ...] = (1.0,)
    nodes: int = 4
    seed: int = 0
    variables: ClassVar = {
        "balance_square": Variable("squared gradient norm ‖∇L‖²"),
        "balance_change": Variable("expected change of L by steps cηg", dims=("fraction",)),
        "balance_change_se": Variable("standard error of the expected change of L", dims=("fraction",)),
        **{
            f"balance_{name}{end}": Variable(words + long_name)
            for end, words in (("", ""), ("_se", "standard error of the "))
            for name, long_name in _BALANCE.items()
        },
    }

    def gradients(self, n: int) -> float:
        return self.minibatches * (self.nodes + 1 + len(self.fractions) / 3 + self.batch_size / n)

    def begin(self, problem: Any, theta: Any) -> "_Balanced":
        return _Balanced(self)


class _Balanced(Sampler):
    def measure(self, point: Any, step_size: float) -> dict[str, Any]:
        declared, objective, theta = self.declared, point.objective, point.theta
        gradients = (self.fresh(point).gradient(theta) for _ in range(declared.minibatches))
        found = balance(objective, theta, step_size, gradients, declared.fractions, declared.nodes)
        row = {"balance_square": float(found.pop("square"))}
        for name, values in found.items():
            mean, error = values.mean(0), values.std(0, ddof=1) / len(values) ** 0.5
            row |= {f"balance_{name}": mean.tolist(), f"balance_{name}_se": error.tolist()}
        return host.numbers(row)
