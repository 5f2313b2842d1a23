"""Networks as functions of one flat parameter vector θ, safe to differentiate four times:

    network = mlp(64, (32, 32), 10, "tanh", seed=0)
    theta = flatten(network)             # (p,)
    outputs = apply(network, theta, x)   # (n, 10), differentiable in theta

The module only gives the architecture and the initial parameters; from then on θ is the state.
"""

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


def _identity(x: Tensor) -> Tensor:
    return x


# PyTorch's own kernels, each tested up to the fourth derivative in every mix of forward and reverse mode.
# At its kink relu'(0) = 0 by convention; softplus is cut to x above 20, where the two differ by at most 2e-9.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": _identity,
    "tanh": torch.tanh,
    "relu": F.relu,
    "elu": F.elu,
    "swish": F.silu,
    "softplus": F.softplus,
    "gelu": F.gelu,
}

BIAS_INITS = ("default", "zero")


class MLP(nn.Module):
    """A fully connected network d_in → hidden[0] → … → d_out with biases; `hidden` may be empty.

    The activation follows every layer but the last. Weights, and biases with `bias_init="default"`, are
    PyTorch's U(±1/√fan_in); `bias_init="zero"` zeroes the biases and leaves the weights as they are.
    Raises ValueError on an unknown activation or bias initialisation.
    """

    def __init__(
        self,
        d_in: int,
        hidden: Sequence[int],
        d_out: int,
        activation: str,
        bias_init: Literal["default", "zero"] = "default",
    ):
        super().__init__()
        _check("activation", activation, ACTIVATIONS)
        _check("bias_init", bias_init, BIAS_INITS)
        self.layers = nn.ModuleList(nn.Linear(*widths) for widths in pairwise([d_in, *hidden, d_out]))
        self.activation = ACTIVATIONS[activation]
        if bias_init == "zero":
            for layer in self.layers:
                nn.init.zeros_(layer.bias)

    @property
    def is_linear(self) -> bool:
        """Whether there is no activation."""
        return self.activation is ACTIVATIONS["linear"]

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """Inputs (n, d_in) to outputs (n, d_out). `offset` (n, hidden[0]) is added to what the first layer gives."""
        if self.is_linear and offset is None:
            # One affine map: with the weights multiplied first, an example costs d_in · d_out, not d_in · hidden.
            *hidden_layers, last = self.layers
            weight, bias = last.weight, last.bias
            for layer in reversed(hidden_layers):
                weight, bias = weight @ layer.weight, weight @ layer.bias + bias
            return F.linear(x, weight, bias)
        first, *others = self.layers
        x = first(x) if offset is None else first(x) + offset
        for layer in others:
            x = layer(self.activation(x))
        return x


def _check(parameter: str, value: str, valid) -> None:
    if value not in valid:
        raise ValueError(f"unknown {parameter} {value!r}; expected one of: {', '.join(valid)}")


def mlp(
    d_in: int,
    hidden: Sequence[int],
    d_out: int,
    activation: str,
    bias_init: Literal["default", "zero"] = "default",
    *,
    seed: int,
) -> MLP:
    """An `MLP` with the numbers that `nn.Sequential` gets under `torch.manual_seed(seed)`.

    The global random generators are left as they were.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # unlike torch.manual_seed, touches no GPU generator
        return MLP(d_in, hidden, d_out, activation, bias_init)


def narrowed(network: MLP, d_in: int) -> MLP:
    """The same network for inputs of another size; its parameters are not meant to be used."""
    narrow = copy.deepcopy(network)
    first = nn.utils.skip_init(nn.Linear, d_in, network.layers[0].out_features)
    narrow.layers[0] = first.to(network.layers[0].weight)
    return narrow


def flatten(module: nn.Module) -> Tensor:
    """A copy of all parameters as one vector θ of shape (p,), in the order of `module.parameters()`."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def apply(module: nn.Module, theta: Tensor, *x: Tensor) -> Tensor:
    """The outputs of `module` at inputs `x`, its parameters being `theta` (p,) laid out as by `flatten`.

    x: the arguments of the module's forward. `theta` is only viewed, never copied; dtype and device are those of
    `theta` and `x`. Raises RuntimeError if `theta` has another length than p.
    """
    names, parameters = zip(*module.named_parameters(), strict=True)
    pieces = theta.split([parameter.numel() for parameter in parameters])
    views = {name: piece.view_as(p) for name, p, piece in zip(names, parameters, pieces, strict=True)}
    return functional_call(module, views, x)
