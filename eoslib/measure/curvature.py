"""The largest algebraic eigenvalues of the Hessian, tracked along a trajectory.

Between two steps of gradient descent the top eigenvectors hardly turn, so the search starts from known ones:
Rayleigh–Ritz on their span, enlarged by the worst residual until all are small. From one vector this is Lanczos's
method (the residuals span the Krylov space), from several the block Davidson method without preconditioner. A warm
start cannot see an eigenvector that its space is orthogonal to, hence the spare vector and the cold audits.

An eigenvalue is right long before its vector: with residual r it errs by at most r²/gap, the vector by r/gap, where the
gap is the distance to the eigenvalues that are not sought. So a search is told which of the two is wanted.
"""

import copy
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eoslib.measure import host
from eoslib.measure.variables import Measurement, Stateful, Variable
from eoslib.problems import networks
from eoslib.problems.objective import Expansion, Objective, SupervisedObjective

MAX_BASIS = 32  # vectors kept before the basis is restarted from its best Ritz vectors
TURNED = 0.5**0.5  # cosine of 45°: vectors that turned farther are others
SPARE = 0.03  # residual of the spare vector
SINGLE = 3e-4  # tolerance down to which sums over p coordinates may be taken in single precision
LOST = 100  # times the rounding of an image: what is left of it then is nothing new
ROUGH_SHARE = 1e-2  # of an eigenvector, that may lie in directions multiplied roughly: their errors enter times this
NEAR = 0.8  # an eigenvalue that is so much of the last one sought belongs to the block that is followed
PRINCIPAL = 100  # directions of the inputs in a `Subspace`
FOUND = 1e-3  # to which an eigenvalue is found
COSINE = {"tolerance": 0.01, "absolute": True}  # the angle by which an eigenvector may be off
Wanted = Literal["vectors", "values"]


@dataclass(frozen=True)
class Spectrum:
    """Top eigenpairs: values (k,) descending, vectors (k, p) orthonormal rows, residuals ‖Hu − λu‖ (k,), the products
    they cost, and whether the search ended as it was asked to. `basis` (m, p) holds the vectors and, if the search had
    more than k directions, the next Ritz vector; `beyond` is its Ritz value over λₖ, else nan. Values and residuals lie
    on the CPU, where the search decides."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    converged: bool
    basis: Tensor
    beyond: float = math.nan


def top_eigenpairs(
    hvp: Callable[[Tensor], Tensor], start: Tensor, k: int = 1, tolerance: float = 3e-3, max_products: int = 300,
    eager: int | None = None, wanted: Wanted = "vectors", beyond: float = math.nan, spare: int = 0,
    rough: Callable[[Tensor], Tensor] | None = None, within: Tensor | None = None, outside: float = math.nan,
) -> Spectrum:  # fmt: skip
    """The k largest algebraic eigenvalues of a symmetric operator, from the rows of `start`.

    hvp: v (p,) ↦ Hv (p,). start: (m, p), m ≥ 1, any independent rows; random for a cold start, earlier eigenvectors for
    a warm one. eager: how many are used in any case (default all), the others only if those do not suffice. Every row
    costs one product. Stops, relative to |λ₁|, with k residuals r ≤ `tolerance` or, if the values are wanted, with
    min(r, r²/gap) ≤ `tolerance`, which bounds their errors; or at `max_products` with `converged` False. beyond: what
    is known of λₖ₊₁/λₖ, for the gap; nothing is known while it is nan and the search has k directions only. spare:
    how many more products are spent at most until the next pair, too, is found to a residual of `SPARE`. rough: a hvp
    that may be cheaper and less exact, for the directions that the search adds to `start`; should the result contain
    much of them it is multiplied once more, exactly.
    """
    p = start.shape[1]
    if not 1 <= k <= p:
        raise ValueError(f"k = {k} eigenpairs were asked of an operator of size {p}")
    dtype = start.dtype if tolerance >= SINGLE else torch.float64
    space = _Space(start.to(dtype))
    queued = space.size  # of the start, not used yet
    needed = min(p, max(k, len(start) if eager is None else eager))
    products, exact, multiply, direction = 0, 0, hvp, None
    while True:
        if space.size == space.used:  # it is closed under H
            space.extend(random_rows(1, space.rows, products)[0])
        space.use(multiply(space.next(direction).to(start)))
        products += 1
        exact += multiply == hvp
        queued = max(queued - 1, 0)
        if queued and space.used < needed:
            continue
        if not np.isfinite(space.images).all():  # f overflowed here: the spectrum does not exist, the run goes on
            nothing = torch.full((k,), torch.nan, dtype=start.dtype)
            return Spectrum(nothing, torch.full_like(start[:k], torch.nan), nothing, products, False, start)
        values, mixing, coordinates = space.pairs()
        added = mixing[:k, exact:].norm(dim=1).max()
        lengths = coordinates[: k + (spare > 0)].norm(dim=1)
        residuals = lengths[:k]
        next_ratio = (values[k] / values[k - 1]).item() if space.used > k else math.nan
        errors = residuals if wanted == "vectors" else _value_errors(values[:k], residuals, np.fmax(beyond, next_ratio))
        if wanted == "values" and within is not None and space.used == k:
            left = (residuals**2 - within**2).clamp(min=0).sqrt()
            parts = _value_errors(values[:k], within, beyond) + _value_errors(values[:k], left, outside)
            errors = torch.fmin(errors, parts)
        excess = errors / (tolerance * values[0].abs())
        small = space.used >= k and not bool((excess > 1).any())
        if small and spare and space.used < p and not (len(lengths) > k and lengths[k] <= SPARE * values[0].abs()):
            spare, small, excess = spare - 1, False, lengths
        if small and rough and added > ROUGH_SHARE:
            space = _Space(space.combined(mixing[:k]))
            queued, exact, multiply, direction = space.size, 0, hvp, None
            continue
        if small or space.used == p or products >= max_products:
            converged = small or space.used == p
            ritz = space.combined(mixing[: k + 1]).to(start)
            _Space.room = space.rows if start.is_cpu else None
            values, residuals = values[:k].to(start.dtype), residuals.to(start.dtype)
            return Spectrum(values, ritz[:k], residuals, products, converged, ritz, next_ratio)
        if not queued:
            direction, multiply = coordinates[excess.argmax(), space.used :], rough or hvp
        if space.used >= MAX_BASIS + k:  # thick restart: keep the best half, which needs no new products
            keep = MAX_BASIS // 2 + k
            space.restart(mixing[:keep])
            exact = exact if multiply == hvp else 0


class _Space:
    """The space of a search as a block Krylov–Schur decomposition (Zhou and Saad 2008): orthonormal rows V (size, p),
    the first `used` of them multiplied, and on the host C (used, size), the coordinates of their images: VᵤH = CV.

    What an image has outside of V becomes one more row, which waits to be used. So no image is kept, and a residual, a
    combination of rows that wait, is formed only as the next row to be used: what each product takes beside itself are
    two passes over V, and two more where what rounding left along V would else grow, as it does from row to row, beyond
    the root of the rounding (partial reorthogonalisation, Simon 1984): up to there no Ritz value is off.
    """

    room: ClassVar[Tensor | None] = None  # the last search's on a CPU, where new memory costs as much as a pass over it

    def __init__(self, start: Tensor):
        (m, p), room, _Space.room = start.shape, _Space.room, None
        fits = room is not None and start.is_cpu and room.dtype == start.dtype and room.shape[1] == p and len(room) >= m
        self.rows = room if fits else start.new_empty(max(8, m), p)  # with room for more
        self.size = self.used = 0
        self.tilt = torch.finfo(start.dtype).eps  # |⟨v, w⟩| of two rows: no bound, but its order of magnitude
        self.images = np.zeros((0, 0))
        for v in start:
            self.extend(v)

    def extend(self, v: Tensor) -> list[float]:
        """The coordinates of v (p,) in V, with one more row in it where they do not suffice."""
        if self.size == len(self.rows):  # doubled; memory that is not written yet costs nothing
            grown = self.rows.new_empty(2 * self.size, self.rows.shape[1])
            grown[: self.size], self.rows = self.rows, grown
        known, row = self.rows[: self.size], self.rows[self.size].copy_(v)

        def less_known() -> Tensor:
            coordinates = known @ row
            row.addmv_(known.T, coordinates, alpha=-1)
            return torch.cat([coordinates, row.norm()[None]])

        rounding = torch.finfo(row.dtype).eps
        allowed = rounding**0.5
        # near the limit the second pass is taken at once: both are waited for together
        passes = torch.stack([less_known() for _ in range(1 + (10 * self.tilt > allowed))]).tolist()
        *coordinates, left = passes[0]
        length = math.hypot(*coordinates, left)
        along = rounding * length + self.tilt * math.hypot(*coordinates)
        if len(passes) == 1 and along > allowed * left:
            passes.append(less_known().tolist())
        for *corrections, remaining in passes[1:]:  # twice is enough
            along = rounding * left + self.tilt * math.hypot(*corrections)
            coordinates = [first + second for first, second in zip(coordinates, corrections, strict=True)]
            left = remaining
        if not left > LOST * rounding * length:
            return coordinates
        row.div_(left)
        self.size += 1
        self.tilt = max(self.tilt, along / left)
        return [*coordinates, left]

    def next(self, direction: Tensor | None) -> Tensor:
        """The next row (p,) to multiply; direction: along which, in coordinates of the rows that wait. They are
        reflected so that it is the first of them, up to its sign. Zero, where a space is closed but for rounding: none
        is better than the first."""
        if direction is not None and len(direction) > 1 and direction.any():
            mirror = direction / direction.norm()
            mirror[0] += math.copysign(1, mirror[0])
            mirror *= 2**0.5 / mirror.norm()
            waiting, u = self.rows[self.used : self.size], mirror.to(self.rows)
            waiting.addr_(u, u @ waiting, alpha=-1)
            self.images[:, self.used :] -= np.outer(self.images[:, self.used :] @ mirror.numpy(), mirror.numpy())
        return self.rows[self.used]

    def use(self, image: Tensor) -> None:
        """image (p,): of the next row."""
        coordinates = self.extend(image)
        images = np.zeros((self.used + 1, self.size))
        images[: self.used, : self.images.shape[1]] = self.images
        images[self.used, : len(coordinates)] = coordinates
        self.images = images
        self.used += 1

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values (used,), descending; their vectors, rows of coordinates (used, used); and their residuals, in
        coordinates (used, size)."""
        inside = self.images[:, : self.used]  # of products that err no symmetric matrix
        values, mixing = np.linalg.eigh((inside + inside.T) / 2)
        values, mixing = values[::-1].copy(), mixing[:, ::-1].T.copy()
        residuals = mixing @ self.images
        residuals[:, : self.used] -= values[:, None] * mixing
        return tuple(map(torch.from_numpy, (values, mixing, residuals)))

    def combined(self, mixing: Tensor) -> Tensor:
        """The vectors (…, p) of these coordinates (…, used)."""
        return mixing.to(self.rows) @ self.rows[: self.used]

    def restart(self, mixing: Tensor) -> None:
        """Go on with these vectors, and with the rows that wait."""
        rows = torch.cat([self.combined(mixing), self.rows[self.used : self.size]])
        inside, outside = np.split(mixing.numpy() @ self.images, [self.used], axis=1)
        self.images = np.hstack([inside @ mixing.numpy().T, outside])
        self.used, self.size = len(mixing), len(rows)
        self.rows[: self.size] = rows


def _value_errors(values: Tensor, residuals: Tensor, beyond: float) -> Tensor:
    """Bounds min(r, r²/gap) of the errors of k Ritz values; beyond: λₖ₊₁/λₖ, or nan. It is a Ritz value too, which lies
    below the eigenvalue, so half of the gap is counted on."""
    gaps = (values - beyond * values[-1]).clamp(min=0) / 2
    return torch.fmin(residuals, residuals**2 / gaps)


def random_rows(count: int, like: Tensor, seed: int) -> Tensor:
    """Standard normal rows (count, p), the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, like.shape[-1], generator=generator, dtype=torch.float64).to(like)


@dataclass(frozen=True)
class Cycle:
    """Start vectors from measurements that come in cycles of `period`: those at the same place of the last cycle or, if
    `continued`, the last ones, turned as the vectors have turned at this place of the last two cycles, linearly
    continued. Cycle(1) is a slow trajectory. At the edge of stability the iterates alternate, and so do the
    eigenvectors: Cycle(2). Where the trajectory is smooth, a search from continued ones takes half of the products."""

    period: int
    continued: bool = False

    @property
    def memory(self) -> int:
        """How many measurements it looks back."""
        return 2 * self.period + 1 if self.continued else self.period

    @property
    def patience(self) -> int:
        """How many products a spare is worth: where the vectors leap, the next one may be on top a step later."""
        return 2 if self.continued else 8

    def start(self, past: list[Tensor]) -> Tensor:
        """Vectors (k, p) to begin with, from those of the last measurements. Next to them a residual is a better
        direction than any other that is known."""
        n = self.period
        if not self.continued:
            return past[-n] if len(past) >= n else past[0]
        if len(past) < self.memory:
            return past[-1]
        return past[-1] + 2 * (past[-n] - past[-n - 1]) - (past[-2 * n] - past[-2 * n - 1])


class SharpnessTracker(Stateful):
    """Measures the k top eigenpairs whenever the trajectory asks, starting from those of earlier measurements.

    It begins with the vectors that `cycle` names; often they suffice. Next comes the spare, the next eigenvector known.
    Where the spare's eigenvalue is near the last one sought it belongs to the block from the
    beginning, for two eigenvalues may change places between measurements; elsewhere it is used now and then.

    tolerance, wanted: see `top_eigenpairs`. audit_every: at each so many measurements a cold search is run
    beside the warm one, and its result taken if it found a larger eigenvalue; `missed` counts those; None: never, which
    is for points that another tracker audits. subspace: whether to search in a `Subspace` first, where there is one.
    top: λ₁'s name.
    """

    SPARE_EVERY = 5  # odd, for both phases: by each so many measurements the spare is used in any case, and found anew
    carries = ("measurements", "missed", "beyond", "outside")

    def __init__(
        self, k: int = 1, tolerance: float = 3e-3, wanted: Wanted = "vectors", cycle: Cycle = Cycle(2),
        audit_every: int | None = 50, subspace: bool = True, seed: int = 0, top: str = "sharpness",
    ):  # fmt: skip
        self.k, self.tolerance, self.wanted, self.cycle = k, tolerance, wanted, cycle
        self.audit_every, self.subspace, self.seed, self.top = audit_every, subspace, seed, top
        self.measurements = self.missed = 0
        self.past: list[Tensor] = []  # eigenvectors (k, p) of the last measurements
        self.spares: list[Tensor] = []  # with each the next one known (≤ 1, p)
        self.beyond = math.nan  # the largest λₖ₊₁/λₖ seen since the last audit
        self.outside = math.nan  # the curvature over λₖ along the last residual that left the `Subspace`

    def track(
        self, hvp: Callable[[Tensor], Tensor], like: Tensor, rough: Callable | None = None, again: bool = False,
        share: float = 1.0,
    ) -> Spectrum:  # fmt: skip
        """The spectrum at the next point of the trajectory; `like` gives size, type and device. again: the point is
        near the last one and takes its place in the cycle. share: of the tolerance, to which it is found."""
        found, tolerance = [], share * self.tolerance
        audited = not self.past or (self.audit_every is not None and self.measurements % self.audit_every == 0)
        if audited:  # a cold search knows no gap, and stops on the residuals
            cold = random_rows(self.k, like, self.seed + self.measurements)
            found.append(top_eigenpairs(hvp, cold, self.k, tolerance, spare=20, rough=rough))
        if self.past:
            due = self.measurements % self.SPARE_EVERY == 0
            past = [vectors.to(like) for vectors in self.past]  # a resumed state lies on the CPU
            first = past[-1] if again else self.cycle.start(past)
            spare = self.spares[-self.cycle.period :][0].to(like)
            eager = self.k + (len(spare) > 0 and (due or self.beyond > NEAR))
            found.append(
                top_eigenpairs(
                    hvp, torch.cat([first, spare]), self.k, tolerance,
                    eager=eager, wanted=self.wanted, beyond=self.beyond, spare=due * self.cycle.patience, rough=rough,
                )
            )  # fmt: skip
        last = found[-1].values[0]
        better = bool(found[0].values[0] > last + tolerance * last.abs())
        spectrum = replace(found[0 if better else -1], products=sum(s.products for s in found))
        if self.past:  # signs are arbitrary: let them stay
            opposed = (spectrum.vectors @ past[-1].T).diagonal() < 0
            spectrum.vectors.mul_(torch.where(opposed, -1, 1)[:, None])
        self.missed += better
        self.measurements += 1
        if spectrum.values.isfinite().all():
            if again:
                self.past, self.spares = self.past[:-1], self.spares[:-1]
            self._remember(spectrum, forget=better)
            known = found[0].beyond if audited else self.beyond
            self.beyond = max((x for x in (known, spectrum.beyond) if math.isfinite(x)), default=math.nan)
        return spectrum

    def _remember(self, spectrum: Spectrum, forget: bool) -> None:
        """forget: what was known before. Vectors that missed something would find only themselves again."""
        vectors = spectrum.vectors
        if self.cycle.continued and self.past:  # turned within their span, to be nearest to those before
            left, cosines, right = torch.linalg.svd((self.past[-1].to(vectors) @ vectors.T).cpu())
            vectors = (left @ right).to(vectors) @ vectors
            forget = forget or bool(cosines.min() < TURNED)  # there is nothing to continue
        spare = spectrum.basis[self.k : self.k + 1]
        if not len(spare) and self.spares:
            spare = self.spares[-self.cycle.period :][0]
        keep = 0 if forget else self.cycle.memory - 1
        self.past = [*(self.past[-keep:] if keep else []), vectors]
        self.spares = [*self.spares, spare][-len(self.past) :]

    def state(self) -> dict:
        """All that the next measurement depends on."""
        pairs = zip(self.past, self.spares, strict=True)
        return super().state() | {"past": {str(i): torch.cat([v, spare.to(v)]) for i, (v, spare) in enumerate(pairs)}}

    def load(self, state: dict) -> None:
        """Continue from `state`."""
        super().load(state)
        blocks = [state["past"][str(i)] for i in range(len(state["past"]))]
        self.past, self.spares = [block[: self.k] for block in blocks], [block[self.k :] for block in blocks]

    def at(self, point, again: bool = False) -> Spectrum:
        """The spectrum at an `objective.Expansion`, the next point of the trajectory or the last one `again`, moved a
        little. If there is a `Subspace`, the search takes place there, and ∇²f itself only multiplies what was found,
        until that is good enough. `products` counts the latter."""
        inside = Subspace.of(point) if self.subspace else None
        if inside is None:
            return self.track(point.hvp, point.gradient, point.rough, again)
        outside = math.nan if self.measurements % self.SPARE_EVERY == 0 else self.outside  # now and then found anew
        share = 0.7 if self.wanted == "values" else 1.0  # the errors inside and outside add up
        found = self.track(inside.hvp, inside.gradient, again=again, share=share)
        spectrum = top_eigenpairs(
            point.hvp, inside.lift(found.vectors), self.k, self.tolerance,
            wanted=self.wanted, beyond=self.beyond, within=found.residuals.double(), outside=outside,
        )  # fmt: skip
        self.outside = spectrum.beyond if math.isfinite(spectrum.beyond) else self.outside
        return spectrum

    def measure(self, point, step_size: float) -> dict[str, float | list[float]]:
        """The observables that `Sharpness` labels, at an `objective.Expansion`; only if k > 1 all eigenvalues, and the
        alignment with the span of those uᵢ whose λᵢ ≥ 2/η."""
        spectrum = self.at(point)
        row = {
            self.top: spectrum.values[0].item(),
            "sharpness_residual": (spectrum.residuals[0] / spectrum.values[0].abs()).item(),
            "alignment": (spectrum.vectors[0] @ point.gradient).abs() / point.gradient.norm(),
            "products": float(spectrum.products),
        }
        if self.k > 1:
            unstable = spectrum.vectors[spectrum.values >= 2 / step_size]
            row["eigenvalues"] = spectrum.values.tolist()
            row["unstable_alignment"] = (unstable @ point.gradient).norm() / point.gradient.norm()
        return host.numbers(row)


class Subspace(Expansion):
    """f at one θ, seen in a subspace: of the first layer's weights only the components along the leading principal
    directions of the inputs vary. The gradient of those weights is a sum of inputs, and so are nearly the Hessian's top
    eigenvectors: on CIFAR-10 100 of 3,072 directions hold all but about 1e-4 of their squared length. Gradient (q,) and
    `hvp` are those of the coordinates z in the subspace; `lift` maps them to θ's."""

    _known: ClassVar = weakref.WeakKeyDictionary()  # objective → directions, the inputs in them, the later layers
    _seen: ClassVar = weakref.WeakKeyDictionary()  # network → of its last evaluation what the first layer put out

    def __init__(self, objective: SupervisedObjective, theta: Tensor):
        if objective not in self._known:
            directions = torch.linalg.eigh(objective.inputs.T @ objective.inputs).eigenvectors[:, -PRINCIPAL:]
            later = copy.deepcopy(objective.network)
            later.layers = later.layers[1:]
            self._known[objective] = directions, objective.inputs @ directions, later
        if objective.network not in self._seen:
            seen = self._seen[objective.network] = {}
            objective.network.layers[0].register_forward_hook(
                lambda layer, given, put_out: seen.update(
                    inputs=given[0], weight=layer.weight.detach(), put_out=put_out.detach(), of=layer.weight._version
                )
            )
        self._directions, inputs, later = self._known[objective]
        activation, loss, labels = later.activation, objective.loss, objective.labels
        self._hidden, d = objective.network.layers[0].weight.shape
        weight, others = theta[: self._hidden * d].view(self._hidden, d), theta[self._hidden * d :]
        inside = weight @ self._directions  # (h, r)
        bias, seen = others[: self._hidden], self._seen[objective.network]
        unchanged = seen.get("inputs") is objective.inputs and seen["weight"]._version == seen["of"]
        if unchanged and torch.equal(seen["weight"], weight):  # by the expansion at θ
            put_out = seen["put_out"]
        else:
            put_out = F.linear(objective.inputs, weight, bias)  # the same bits
        fixed = put_out - bias - inputs @ inside.T  # (n, h): what the weights' other components give

        def f(z: Tensor) -> Tensor:
            first, bias, rest = z.split([inside.numel(), self._hidden, len(z) - inside.numel() - self._hidden])
            x = inputs @ first.view_as(inside).T + bias + fixed
            return loss(networks.apply(later, rest, activation(x), buffers={}) if len(later.layers) else x, labels)

        super().__init__(Objective(f), torch.cat([inside.flatten(), others]))

    @classmethod
    def of(cls, point) -> "Subspace | None":
        """That of an expansion; None where the first layer is not what a product costs, or θ has other coordinates."""
        objective = point.objective if isinstance(point, Expansion) else None
        if not isinstance(objective, SupervisedObjective) or not isinstance(objective.network, networks.MLP):
            return None
        if objective.network.is_linear or objective.inputs.shape[1] < 10 * PRINCIPAL:
            return None
        return cls(objective, point.theta)

    def lift(self, rows: Tensor) -> Tensor:
        """Rows (m, q) of the subspace as rows (m, p); lengths and angles stay."""
        r = self._directions.shape[1]
        first = rows[:, : self._hidden * r].unflatten(1, (self._hidden, r)) @ self._directions.T
        return torch.cat([first.flatten(1), rows[:, self._hidden * r :]], dim=1)


@dataclass(frozen=True, kw_only=True)
class Sharpness(Measurement):
    """The `eigenvalues` largest eigenvalues of the Hessian, see `SharpnessTracker`. tolerance: of residuals, since the
    vectors enter the alignments."""

    eigenvalues: int = 1
    tolerance: float = 3e-3
    products: ClassVar[bool] = True
    variables: ClassVar = {
        "sharpness": Variable("sharpness λ_max(∇²f(θ))", tolerance=FOUND),
        "sharpness_residual": Variable("residual ‖Hu − λu‖ / |λ| of the top eigenpair", tolerance=math.inf),
        "alignment": Variable("alignment |⟨∇f, u₁⟩| / ‖∇f‖ of the gradient with the top eigenvector", **COSINE),
        "products": Variable("Hessian-vector products spent", tolerance=math.inf),
        "eigenvalues": Variable("top Hessian eigenvalues", dims=("eigenvalue",), tolerance=FOUND),
        "unstable_alignment": Variable("alignment of the gradient with those of eigenvalues ≥ 2/η", **COSINE),
    }

    def gradients(self, n: int) -> float:
        return 5.0 * self.eigenvalues  # a product takes little more than a gradient, and each is found by a few

    def begin(self, problem: Any, theta: Any) -> SharpnessTracker:
        return SharpnessTracker(self.eigenvalues, self.tolerance, top=next(iter(self.variables)))


@dataclass(frozen=True, kw_only=True)
class PreconditionedSharpness(Sharpness):
    """λ_max(P^{-1/2} ∇²f P^{-1/2}), P the diagonal of an adaptive method; for P = 1 the sharpness."""

    preconditioned: ClassVar[bool] = True
    variables: ClassVar = {
        "preconditioned_sharpness": Variable("preconditioned sharpness λ_max(P^{-1/2} ∇²f P^{-1/2})", tolerance=FOUND),
        **{name: variable for name, variable in Sharpness.variables.items() if name != "sharpness"},
    }


@dataclass(frozen=True, kw_only=True)
class SegmentSharpness(Measurement):
    """λ_max(∇²f) at so many equidistant `points` of the step of gradient descent from θ_t, both ends included.

    Their maximum bounds the smoothness L_t between the two iterates (Ahn et al. 2022, corollary 1) from below.
    """

    points: int
    products: ClassVar[bool] = True
    variables: ClassVar = {
        "segment_sharpness": Variable("sharpness λ_max(∇²f) at points of the step", dims=("tau",), tolerance=FOUND),
    }

    def gradients(self, n: int) -> float:
        return 5.0 * self.points  # those of a sharpness at each

    def begin(self, problem: Any, theta: Any) -> "_SegmentTracker":
        return _SegmentTracker(self.points)


class _SegmentTracker:
    def __init__(self, points: int):
        self.trackers = [SharpnessTracker(tolerance=FOUND, wanted="values") for _ in range(points)]

    def measure(self, point, step_size: float) -> dict[str, list[float]]:
        values = []
        for tau, tracker in zip(torch.linspace(0, 1, len(self.trackers)).tolist(), self.trackers, strict=True):
            there = point.objective.expand(point.theta - step_size * tau * point.gradient) if tau else point
            values.append(tracker.at(there).values[0].item())
        return {"segment_sharpness": values}

    def state(self) -> dict:
        return {str(i): tracker.state() for i, tracker in enumerate(self.trackers)}

    def load(self, state: dict) -> None:
        for i, tracker in enumerate(self.trackers):
            tracker.load(state[str(i)])
