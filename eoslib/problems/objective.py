"""f over one flat parameter vector θ of shape (p,): its value, gradient, Hessian-vector products and ∇³f(u, u).

An `Objective` is any scalar function of θ, a `SupervisedObjective` the training loss of a network on data.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eoslib.problems import networks
from eoslib.problems.datasets import Dataset
from eoslib.problems.losses import BINARY_LOSSES, LOSSES

# TF32 keeps 10 bits of mantissa: enough to train, not to see an eigenvalue cross 2/η.
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True  # or a convolution's backward pass would not resume bit for bit

CHUNK = 5_000  # labels of examples whose graph is held at once; f on more is a sum of such parts
CHUNK_ON_DISK = 100  # the same of images on disk, which are large
Buffers = dict[str, Tensor]


class Evaluation(NamedTuple):
    """f and ∇f at one θ: value (), gradient (p,), and the network's outputs (n, c) where f has any."""

    value: Tensor
    gradient: Tensor
    outputs: Tensor | None


class Expansion:
    """f at one θ with its gradient's graph kept, so that every product at θ reuses it: drop it before moving on.
    value (), gradient (p,) and outputs are those of `Evaluation`, at no extra gradient."""

    def __init__(self, objective: "Objective", theta: Tensor):
        self.objective = objective
        self._theta = theta.detach().requires_grad_()
        value, outputs = objective.forward(self._theta)
        (self._gradient,) = torch.autograd.grad(value, self._theta, create_graph=True)
        objective.gradients += 1
        self.theta = self._theta.detach()
        self.value, self.gradient = value.detach(), self._gradient.detach()
        self.outputs = None if outputs is None else outputs.detach()

    def hvp(self, v: Tensor) -> Tensor:
        """∇²f(θ)v; v and the result of shape (p,)."""
        self.objective.products += 1
        (product,) = torch.autograd.grad(self._gradient, self._theta, v, retain_graph=True)
        return product

    @property
    def rough(self) -> Callable[[Tensor], Tensor]:
        """`hvp` where little hangs on its precision: the same, unless there is something cheaper."""
        return self.hvp

    def third(self, u: Tensor, v: Tensor | None = None) -> Tensor:
        """∇³f(θ)(u, v) = ∇_θ(uᵀ∇²f(θ)v) for fixed u and v, shape (p,); v defaults to u. ∇³f(u, u) is the gradient of
        the sharpness when u is the top unit eigenvector (Damian et al. 2023, section 3). Costs about two products
        and is counted so."""
        self.objective.products += 2
        (hu,) = torch.autograd.grad(self._gradient, self._theta, u, create_graph=True)
        (result,) = torch.autograd.grad(hu @ (u if v is None else v), self._theta, retain_graph=True)
        return result

    def fourth(self, u: Tensor) -> Tensor:
        """∇⁴f(θ)(u, u, u) = ∇_θ(∇³f(θ)(u, u, u)) for fixed u, shape (p,). Counted as four products."""
        self.objective.products += 4
        (hu,) = torch.autograd.grad(self._gradient, self._theta, u, create_graph=True)
        (third,) = torch.autograd.grad(hu @ u, self._theta, create_graph=True)
        (result,) = torch.autograd.grad(third @ u, self._theta, retain_graph=True)
        return result


class ChunkedExpansion(Expansion):
    """The same where the graph of all examples would not fit into memory: for every product the graph of one part after
    the other is built anew, at about three times the cost."""

    def __init__(self, objective: "SupervisedObjective", theta: Tensor):
        self.objective, self.theta = objective, theta.detach()
        self.value, self.gradient, self.outputs = objective.evaluate(theta)

    def hvp(self, v: Tensor) -> Tensor:
        return self._sum(1, lambda part: part.hvp(v))

    def third(self, u: Tensor, v: Tensor | None = None) -> Tensor:
        return self._sum(2, lambda part: part.third(u, v))

    def fourth(self, u: Tensor) -> Tensor:
        return self._sum(4, lambda part: part.fourth(u))

    def _sum(self, products: int, of: Callable[[Expansion], Tensor]) -> Tensor:
        self.objective.products += products
        return sum(weight * of(part.expand(self.theta)) for weight, part in self.objective.parts())


class MixedExpansion:
    """f at one θ in two precisions: value, gradient and `hvp` as of `exact`, all else as of the cheaper `single`."""

    def __init__(self, exact: Expansion, single: Expansion):
        self.exact, self.single = exact, single
        self.objective, self.theta, self.outputs = exact.objective, exact.theta, exact.outputs
        self.value, self.gradient, self.hvp = exact.value, exact.gradient, exact.hvp

    def rough(self, v: Tensor) -> Tensor:
        return self.single.hvp(v.to(self.single.theta)).to(v)

    def third(self, u: Tensor, v: Tensor | None = None) -> Tensor:
        like = self.single.theta
        return self.single.third(u.to(like), v if v is None else v.to(like)).to(u)

    def fourth(self, u: Tensor) -> Tensor:
        return self.single.fourth(u.to(self.single.theta)).to(u)


class Objective:
    """A scalar function f of θ, given as `f(theta) -> scalar tensor` that PyTorch can differentiate twice. gradients,
    products: how many were computed so far (a forward and backward pass; a ∇²f·v). `moves` tells an evaluation that it
    is a training step's, which alone moves the running statistics that f may have."""

    def __init__(self, f: Callable[[Tensor], Tensor]):
        self.f = f
        self.buffers: Buffers = {}  # of normalisation layers: only a training step moves them
        self.gradients = self.products = 0

    @property
    def unreadable(self) -> list[str]:
        """The data that were met and could not be read."""
        return []

    def forward(self, theta: Tensor, moves: bool = False) -> tuple[Tensor, Tensor | None]:
        """f(θ) and, where f has any, the outputs it was computed from."""
        return self.f(theta), None

    def value(self, theta: Tensor) -> Tensor:
        """f(θ), a scalar without graph."""
        with torch.no_grad():
            return self.forward(theta)[0]

    def evaluate(self, theta: Tensor, moves: bool = False) -> Evaluation:
        """f and ∇f at θ, in one forward and one backward pass."""
        theta = theta.detach().requires_grad_()
        value, outputs = self.forward(theta, moves=moves)
        (gradient,) = torch.autograd.grad(value, theta)
        self.gradients += 1
        return Evaluation(value.detach(), gradient, None if outputs is None else outputs.detach())

    def gradient(self, theta: Tensor) -> Tensor:
        """∇f(θ), shape (p,)."""
        return self.evaluate(theta).gradient

    def expand(self, theta: Tensor) -> Expansion:
        """f, ∇f and the means to multiply with ∇²f(θ), see `Expansion`."""
        return Expansion(self, theta)


class SupervisedObjective(Objective):
    """f(θ) = loss(network(θ, inputs), labels). network: a module whose forward maps inputs (n, d) to outputs (n, c), c
    = 1 for `BINARY_LOSSES`; only its shapes are used, the parameters are those of θ in the order of `networks.flatten`.
    loss: a name of `LOSSES`, or a function like those, a mean over examples. buffers: the network's running statistics
    by name, by default copies of its own; minibatches hold the same tensors. f takes the statistics of the examples it
    is evaluated on, of each part of `chunk` its own, and leaves `buffers` alone, unless `moves`, which moves them once
    for every part."""

    def __init__(
        self, network: torch.nn.Module, inputs: Tensor, labels: Tensor, loss: str | Callable[[Tensor, Tensor], Tensor],
        buffers: Buffers | None = None,
    ):  # fmt: skip
        if not callable(loss) and loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}; there are {', '.join(LOSSES)}")
        super().__init__(lambda theta: self.forward(theta)[0])
        self.network, self.inputs, self.labels = network, inputs, labels
        self.loss = loss if callable(loss) else LOSSES[loss]
        self.buffers = networks.buffers(network) if buffers is None else buffers

    @classmethod
    def of(
        cls, network: torch.nn.Module, data: Dataset, loss: str, device: torch.device, dtype: torch.dtype,
        buffers: Buffers | None = None,
    ) -> "SupervisedObjective":  # fmt: skip
        """The loss on a whole data set, held on `device` with inputs in `dtype`; tokens stay integers. On held-out data
        `buffers` are the training objective's. Raises ValueError for a binary loss on other than two classes."""
        if loss in BINARY_LOSSES and data.n_classes != 2:
            raise ValueError(f"the loss {loss} is for two classes; {data.name} has {data.n_classes}")
        inputs, labels = data.inputs, data.labels.to(device)
        if not isinstance(inputs, Tensor):
            return ObjectiveOnDisk(network.to(device, dtype), inputs, labels, loss, buffers)
        # copied to memory of PyTorch's own: NumPy's is aligned by chance, which may decide the last bits
        inputs = inputs.to(device, dtype if inputs.is_floating_point() else inputs.dtype, copy=True)
        return cls(network.to(device, dtype), inputs, labels, loss, buffers)

    def forward(self, theta: Tensor, moves: bool = False, training: bool = True) -> tuple[Tensor, Tensor]:
        """f(θ) and the outputs (n, c); with training=False those that the running statistics give, as for held-out
        examples."""
        buffers = self.buffers if moves else {name: buffer.clone() for name, buffer in self.buffers.items()}
        # without buffers in one piece, since the outputs of an example do not depend on its part
        parts = self.inputs.split(self.chunk) if buffers else (self.inputs,)
        outputs = [networks.apply(self.network, theta, x, buffers=buffers, training=training) for x in parts]
        outputs = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
        return self.loss(outputs, self.labels), outputs

    def evaluate(self, theta: Tensor, moves: bool = False) -> Evaluation:
        """f and ∇f at θ, part by part where there are many examples."""
        if len(self.inputs) <= self.chunk:
            return super().evaluate(theta, moves)
        self.gradients += 1
        weights, parts = zip(*self.parts(), strict=True)
        values, gradients, outputs = zip(*(part.evaluate(theta, moves) for part in parts), strict=True)
        value, gradient = (sum(w * x for w, x in zip(weights, xs, strict=True)) for xs in (values, gradients))
        return Evaluation(value, gradient, torch.cat(outputs))

    @property
    def chunk(self) -> int:
        """Examples whose graph is held at once; those of a text have a label for each token."""
        return max(1, CHUNK * len(self.labels) // self.labels.numel())

    def expand(self, theta: Tensor) -> Expansion:
        return ChunkedExpansion(self, theta) if len(self.inputs) > self.chunk else super().expand(theta)

    def parts(self, size: int | None = None) -> Iterator[tuple[float, "SupervisedObjective"]]:
        """f as a weighted sum: weights and objectives, each of at most `size` examples, by default `chunk`."""
        size = size or self.chunk
        for inputs, labels in zip(self.inputs.split(size), self.labels.split(size), strict=True):  # views, no copies
            part = SupervisedObjective(self.network, inputs, labels, self.loss, self.buffers)
            yield len(labels) / len(self.labels), part

    def batch(self, indices: Tensor) -> "SupervisedObjective":
        """The same loss on the examples `indices` (b,) alone, with counters of its own."""
        # a third of the time that indexing takes
        inputs, labels = self.inputs.index_select(0, indices), self.labels.index_select(0, indices)
        return SupervisedObjective(self.network, inputs, labels, self.loss, self.buffers)

    def batches(self, minibatches: Sequence[Tensor]) -> Iterator["SupervisedObjective"]:
        """`batch` of each of the minibatches (b,), on whichever device their indices are."""
        return (self.batch(indices.to(self.labels.device)) for indices in minibatches)


class ObjectiveOnDisk(SupervisedObjective):
    """The same, the inputs being `Images`: they are read part by part, ahead of use, whenever f is wanted."""

    chunk = property(lambda self: CHUNK_ON_DISK)

    @property
    def unreadable(self) -> list[str]:
        return sorted(self.inputs.unreadable)

    def forward(self, theta: Tensor, moves: bool = False, training: bool = True) -> tuple[Tensor, Tensor]:
        outputs = torch.cat([part.forward(theta, moves, training)[1] for _, part in self.parts()])
        return self.loss(outputs, self.labels), outputs

    def parts(self, size: int | None = None) -> Iterator[tuple[float, SupervisedObjective]]:
        for part in self.batches(torch.arange(len(self.labels)).split(size or self.chunk)):
            yield len(part.labels) / len(self.labels), part

    def batch(self, indices: Tensor) -> SupervisedObjective:
        return self._of(self.inputs.read(indices), indices)

    def batches(self, minibatches: Sequence[Tensor], seed: int | None = None) -> Iterator[SupervisedObjective]:
        """seed: with which each image is a random part of itself, see `Images.batches`."""
        return map(self._of, self.inputs.batches(minibatches, seed), minibatches)

    def _of(self, images: Tensor, indices: Tensor) -> SupervisedObjective:
        device = self.labels.device
        inputs = self.inputs.standardised(images.to(device), next(self.network.parameters()).dtype)
        return SupervisedObjective(self.network, inputs, self.labels[indices.to(device)], self.loss, self.buffers)
