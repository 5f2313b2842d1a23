"""Networks as functions of one flat parameter vector θ, safe to differentiate four times:

    network = mlp(64, (32, 32), 10, "tanh", seed=0)
    theta = flatten(network)             # (p,)
    outputs = apply(network, theta, x)   # (n, 10), differentiable in theta

The module only gives the architecture and the initial numbers; from then on θ is the state, and for networks with
running statistics a dict of `buffers` beside it.
"""

import functools
import inspect
import weakref
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# PyTorch's own kernels, each tested up to the fourth derivative in every mix of forward and reverse mode.
# At its kink relu'(0) = 0 by convention; softplus is cut to x above 20, where the two differ by at most 2e-9.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "tanh": torch.tanh,
    "relu": F.relu,
    "elu": F.elu,
    "swish": F.silu,
    "softplus": F.softplus,
    "gelu": F.gelu,
}
BIAS_INITS = ("default", "zero")
NORMS = ("group", "batch", "none")
EPSILON = 1e-6  # added to the variance by group and layer normalisation, as in Damian et al. 2023


class MLP(nn.Module):
    """A fully connected network d_in → hidden[0] → … → d_out with biases; `hidden` may be empty. The activation follows
    every layer but the last. Weights, and biases with `bias_init="default"`, are PyTorch's U(±1/√fan_in);
    `bias_init="zero"` zeroes the biases and leaves the weights as they are. Raises ValueError on an unknown activation
    or bias initialisation."""

    def __init__(self, d_in: int, hidden: Sequence[int], d_out: int, activation: str, bias_init: str = "default"):
        super().__init__()
        self.activation, self.is_linear = _activation(activation), activation == "linear"
        self.layers = nn.ModuleList(nn.Linear(*widths) for widths in pairwise([d_in, *hidden, d_out]))
        _initialise_biases(self, bias_init)

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (n, d_in) to outputs (n, d_out)."""
        if self.is_linear:
            # One affine map: with the weights multiplied first, an example costs d_in · d_out, not d_in · hidden.
            *hidden_layers, last = self.layers
            weight, bias = last.weight, last.bias
            for layer in reversed(hidden_layers):
                weight, bias = weight @ layer.weight, weight @ layer.bias + bias
            return F.linear(x, weight, bias)
        first, *others = self.layers
        x = first(x)
        for layer in others:
            x = layer(self.activation(x))
        return x


class CNN(nn.Module):
    """Two 3×3 convolutions to `width` channels, each with activation and 2×2 average pooling, then a dense layer: the
    3-layer CNN of Damian et al. 2023, appendix D.1, by default of its width and activation. shape: (channels, rows,
    columns) of an image, which comes flat; where rows or columns are not divisible by 4 the pooling drops the
    remainder. Initialisation and errors are those of `MLP`."""

    def __init__(self, shape: Sequence[int], d_out: int, width=32, activation="swish", bias_init="default"):
        super().__init__()
        self.shape, self.activation = tuple(shape), _activation(activation)
        channels, rows, columns = self.shape
        self.convolutions = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1) for c in (channels, width))
        self.head = nn.Linear(width * (rows // 4) * (columns // 4), d_out)
        _initialise_biases(self, bias_init)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels · rows · columns) to outputs (n, d_out)."""
        x = x.unflatten(1, self.shape)
        for convolution in self.convolutions:
            x = F.avg_pool2d(self.activation(convolution(x)), 2)
        return self.head(x.flatten(1))


class ResNet(nn.Module):
    """A residual network: a 3×3 convolution to widths[0] channels, for each of `widths` a stage of two blocks
    (`ResidualBlock`), every stage but the first halving the image, global mean, dense layer. By default the ResNet-18
    of Damian et al. 2023, appendix D.1; the usual one has widths 64, 128, 256, 512 and relu. shape: as for `CNN`. norm:
    what follows each convolution, "group" (normalisation in `groups` of channels, which must divide every width, else
    ValueError), "batch" (`BatchNorm`; `groups` is not used, nor is it with "none") or "none": the convolutions alone,
    as in Mohtashami et al. 2023. These then have the biases that a normalisation makes superfluous; weights and biases
    are PyTorch's U(±1/√fan_in). The last layer starts at zero."""

    def __init__(
        self, shape: Sequence[int], d_out: int, widths=(16, 32, 64, 128), groups=16, activation="swish", norm="group"
    ):
        super().__init__()
        _check("norm", norm, NORMS)
        group_norm = functools.partial(nn.GroupNorm, groups, eps=EPSILON)
        normalisation = {"group": group_norm, "batch": BatchNorm, "none": None}[norm]
        self.shape, self.activation = tuple(shape), _activation(activation)
        # in this layout convolutions take up to half the time; with a normalisation its own kernels decide, and the
        # recorded runs have their bits
        self.layout = torch.channels_last if norm == "none" else torch.contiguous_format
        self.stem = _convolution(self.shape[0], widths[0], 3, 1, normalisation)
        self.blocks = nn.ModuleList()
        for i, (before, width) in enumerate(pairwise([widths[0], *widths])):
            self.blocks.append(ResidualBlock(before, width, 1 if i == 0 else 2, normalisation, self.activation))
            self.blocks.append(ResidualBlock(width, width, 1, normalisation, self.activation))
        self.head = _zero_linear(widths[-1], d_out)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels · rows · columns) to outputs (n, d_out)."""
        x = self.activation(self.stem(x.unflatten(1, self.shape).contiguous(memory_format=self.layout)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class ResidualBlock(nn.Module):
    """x ↦ φ(N(C φ(N(C x))) + x), C a 3×3 convolution, N the normalisation, if any; the first C has the `stride`.
    Where the shape changes, x is added after a 1×1 convolution, normalised too."""

    def __init__(self, c_in: int, c_out: int, stride: int, normalisation, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.activation = activation
        self.first = _convolution(c_in, c_out, 3, stride, normalisation)
        self.second = _convolution(c_out, c_out, 3, 1, normalisation)
        same_shape = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same_shape else _convolution(c_in, c_out, 1, stride, normalisation)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, rows, columns) to (n, c_out, ⌈rows/stride⌉, ⌈columns/stride⌉)."""
        return self.activation(self.second(self.activation(self.first(x))) + self.shortcut(x))


class DeepResNet(nn.Module):
    """By default the ResNet-101 of He et al. 2016, table 1: a 7×7 convolution to widths[0] channels and a 3×3 maximum,
    each halving the image; for each of `widths` a stage of so many `blocks` (`Bottleneck`), every stage but the first
    halving it; global mean, dense layer. `BatchNorm` follows each convolution. shape: as for `CNN`. The weights of
    convolutions are normal with variance 2/fan_out (He et al. 2015), the last layer is PyTorch's. With blocks 3, 4, 6,
    3 it is the ResNet-50."""

    def __init__(
        self, shape: Sequence[int], d_out: int, widths=(64, 128, 256, 512), blocks=(3, 4, 23, 3), activation="relu"
    ):
        super().__init__()
        self.shape, self.activation = tuple(shape), _activation(activation)
        self.stem = _convolution(self.shape[0], widths[0], 7, 2, BatchNorm)
        before, found = widths[0], []
        for i, (width, n) in enumerate(zip(widths, blocks, strict=True)):
            for k in range(n):
                found.append(Bottleneck(before, width, 2 if i > 0 and k == 0 else 1, self.activation))
                before = 4 * width
        self.blocks, self.head = nn.ModuleList(found), nn.Linear(before, d_out)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels · rows · columns) to outputs (n, d_out)."""
        x = self.activation(self.stem(x.unflatten(1, self.shape)))
        x = F.max_pool2d(x, 3, 2, padding=1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Bottleneck(nn.Module):
    """x ↦ φ(N(C₁ φ(N(C₃ φ(N(C₁ x))))) + x), C₁ 1×1 convolutions, to `width` channels and from them to 4 · width, C₃ a
    3×3 convolution of the `stride`, N `BatchNorm`; where the shape changes, x is added as in `ResidualBlock`."""

    def __init__(self, c_in: int, width: int, stride: int, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.activation = activation
        self.narrow = _convolution(c_in, width, 1, 1, BatchNorm)
        self.middle = _convolution(width, width, 3, stride, BatchNorm)
        self.widen = _convolution(width, 4 * width, 1, 1, BatchNorm)
        same_shape = stride == 1 and c_in == 4 * width
        self.shortcut = nn.Identity() if same_shape else _convolution(c_in, 4 * width, 1, stride, BatchNorm)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, rows, columns) to (n, 4 · width, ⌈rows/stride⌉, ⌈columns/stride⌉)."""
        inside = self.activation(self.middle(self.activation(self.narrow(x))))
        return self.activation(self.widen(inside) + self.shortcut(x))


class Transformer(nn.Module):
    """An encoder with learned embeddings and positions, `layers` of `TransformerLayer`, the mean over all positions and
    a dense layer; by default that of Damian et al. 2023, appendix D.1. A token is an integer below d_in, which picks a
    row of the embedding matrix, or d_in features, which that matrix multiplies. No position is masked. Embeddings and
    positions are U(±1/√width), other weights and the biases as in `MLP`; the last layer starts at zero. Raises
    ValueError if `heads` does not divide `width`."""

    def __init__(
        self, d_in: int, length: int, d_out: int, width=64, heads=2, layers=2, activation="swish", bias_init="default"
    ):
        super().__init__()
        bound = width**-0.5
        self.embedding = nn.Parameter(torch.empty(d_in, width).uniform_(-bound, bound))
        self.positions = nn.Parameter(torch.empty(length, width).uniform_(-bound, bound))
        self.layers = nn.ModuleList(TransformerLayer(width, heads, _activation(activation)) for _ in range(layers))
        self.head = _zero_linear(width, d_out)
        _initialise_biases(self, bias_init)

    def forward(self, x: Tensor) -> Tensor:
        """Integer tokens (n, length), or continuous ones (n, length · d_in), to outputs (n, d_out)."""
        if x.is_floating_point():
            x = x.unflatten(1, (-1, len(self.embedding))) @ self.embedding
        else:
            x = F.embedding(x, self.embedding)
        x = x + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class TransformerXL(nn.Module):
    """The language model of Dai et al. 2019 (arXiv:1901.02860): at each token an output for the one that follows. A
    text is read in segments of `segment` tokens. Every layer attends to the tokens of its segment up to each, and to
    the last `memory` states before the segment, by their distance (`RelativeAttention`). These are held fixed: no
    gradient reaches back into an earlier segment. Every text begins without a past, so that the loss is a function of θ
    alone, where in training Dai et al. carry the past on from step to step. inner: the width between the two dense
    layers. A token is an integer below d_in. Initialisation as for `Transformer`. Raises ValueError as `Attention`, and
    on an odd width."""

    def __init__(
        self, d_in: int, d_out: int, segment=16, memory=16, width=32, heads=2, layers=2, inner=64, activation="relu",
        bias_init="default",
    ):  # fmt: skip
        super().__init__()
        self.segment, self.memory = segment, memory
        bound = width**-0.5
        self.embedding = nn.Parameter(torch.empty(d_in, width).uniform_(-bound, bound))
        self.layers = nn.ModuleList(
            TransformerLayer(width, heads, _activation(activation), inner, RelativeAttention) for _ in range(layers)
        )
        self.head = _zero_linear(width, d_out)
        _initialise_biases(self, bias_init)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (n, length) to outputs (n, length, d_out)."""
        segments = list(F.embedding(x, self.embedding).split(self.segment, 1))
        for layer in self.layers:
            past = segments[0][:, :0]
            for i, states in enumerate(segments):
                segments[i] = layer(states, past)
                past = torch.cat([past, states.detach()], 1)
                past = past[:, max(past.shape[1] - self.memory, 0) :]
        return self.head(torch.cat(segments, 1))


class TransformerLayer(nn.Module):
    """x ↦ N(y + W φ(W′y)) with y = N(x + attention(x)): normalised after the addition ("post-LN"). inner: the width of
    W′y, by default that of x. attention: its class, which may ask for more than x."""

    def __init__(
        self, width: int, heads: int, activation: Callable[[Tensor], Tensor], inner: int | None = None, attention=None
    ):
        super().__init__()
        self.activation, inner = activation, inner or width
        self.attention, self.attention_norm = (attention or Attention)(width, heads), LayerNorm(width)
        self.first, self.second, self.norm = nn.Linear(width, inner), nn.Linear(inner, width), LayerNorm(width)

    def forward(self, x: Tensor, *past: Tensor) -> Tensor:
        """(n, length, width) to the same shape."""
        x = self.attention_norm(x + self.attention(x, *past))
        return self.norm(x + self.second(self.activation(self.first(x))))


class Attention(nn.Module):
    """Multi-head self-attention, softmax(QKᵀ/√d)V in each head of width d = width/heads. Written out: PyTorch's
    scaled_dot_product_attention has no second derivative on the CPU."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"the number of heads must divide the width {width}, not be {heads}")
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, length, width) to the same shape; q, k and v are (n, heads, length, d)."""
        q, k, v = self.queries_keys_values(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class RelativeAttention(Attention):
    """Attention of each token of a segment to itself, to those before it and to a past: in each head softmax(((q + u)ᵀk
    + (q + v)ᵀr) / √d), r = W R(distance), R(j) the sines and cosines of j/10,000^{2i/width} (Dai et al. 2019, 3.3)."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads)
        if width % 2:
            raise ValueError(f"sines and cosines of distances need an even width, not {width}")
        self.distances = nn.Linear(width, width, bias=False)
        self.u, self.v = (nn.Parameter(torch.empty(heads, width // heads).uniform_(-1, 1) / width**0.5) for _ in "uv")

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """(n, t, width), after (n, m, width), to the shape of the first."""
        (n, t, width), s = x.shape, past.shape[1] + x.shape[1]
        q, k, v = self.queries_keys_values(torch.cat([past, x], 1)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k, v = q[:, -t:], k.permute(0, 2, 3, 1), v.transpose(1, 2)
        like = {"dtype": x.dtype, "device": x.device}
        distance, exponent = torch.arange(s - 1, -1, -1, **like), torch.arange(0, width, 2, **like) / width
        angles = distance[:, None] / 1e4**exponent
        waves = torch.cat([angles.sin(), angles.cos()], 1)
        # one for each example, whose own gradients `measure.noise` finds
        r = self.distances(waves.expand(n, s, width)).unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1)
        by_distance = F.pad((q + self.v).transpose(1, 2) @ r, (1, 0))  # (n, heads, t, 1 + s), from far to near
        # row i is to begin t − 1 − i later, which dropping the first t numbers of the whole does
        by_distance = by_distance.reshape(n, self.heads, s + 1, t)[:, :, 1:].reshape(n, self.heads, t, s)
        scores = ((q + self.u).transpose(1, 2) @ k + by_distance) / k.shape[2] ** 0.5
        later = torch.ones(t, s, dtype=torch.bool, device=x.device).triu(s - t + 1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class LayerNorm(nn.GroupNorm):
    """Layer normalisation of the last axis, as a group normalisation of one group: F.group_norm is right to the fourth
    derivative in every mix of forward and reverse mode, F.layer_norm silently is not, from the second on."""

    def __init__(self, width: int):
        super().__init__(1, width, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) to the same shape."""
        return super().forward(x.flatten(0, -2)).view_as(x)


class BatchNorm(nn.BatchNorm2d):
    """Normalisation of each channel over examples and pixels, with the parameters, buffers and numbers of PyTorch's.
    Written out: F.batch_norm of training mode silently has wrong third derivatives. In evaluation mode the running
    statistics take the place of the batch's. Raises ValueError in training where a channel has a single value."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, rows, columns) to the same shape; in training mode moves the running statistics in place."""
        mean = x.mean((0, 2, 3)) if self.training else self.running_mean
        centred = x - mean[:, None, None]
        variance = centred.square().mean((0, 2, 3)) if self.training else self.running_var
        if self.training:
            n = x.numel() // x.shape[1]
            if n == 1:
                raise ValueError(f"batch normalisation needs more than one value per channel, got {tuple(x.shape)}")
            # detached: what the statistics were is no part of f's graph
            self.running_mean.mul_(1 - self.momentum).add_(mean.detach(), alpha=self.momentum)
            self.running_var.mul_(1 - self.momentum).add_(variance.detach(), alpha=self.momentum * n / (n - 1))
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None])


def _convolution(c_in: int, c_out: int, size: int, stride: int, normalisation) -> nn.Sequential:
    convolution = nn.Conv2d(c_in, c_out, size, stride, padding=size // 2, bias=normalisation is None)
    return nn.Sequential(convolution) if normalisation is None else nn.Sequential(convolution, normalisation(c_out))


def _zero_linear(d_in: int, d_out: int) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, d_in, d_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    _check("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def _initialise_biases(network: nn.Module, bias_init: str) -> None:
    _check("bias_init", bias_init, BIAS_INITS)
    for name, parameter in network.named_parameters():
        if bias_init == "zero" and name.endswith("bias"):
            nn.init.zeros_(parameter)


def _check(parameter: str, value: str, valid) -> None:
    if value not in valid:
        raise ValueError(f"unknown {parameter} {value!r}; expected one of: {', '.join(valid)}")


def seeded(network: type[nn.Module]) -> Callable[..., nn.Module]:
    """`network` with a keyword `seed`: the numbers that PyTorch draws after `torch.manual_seed(seed)`, so that for an
    `MLP` they are those of `nn.Sequential`. The global random generators are left as they were."""

    def seeded(*arguments, seed: int, **options):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # unlike torch.manual_seed, touches no GPU generator
            return network(*arguments, **options)

    own, seed = inspect.signature(network), inspect.signature(seeded).parameters["seed"]
    seeded.__signature__ = own.replace(parameters=[*own.parameters.values(), seed], return_annotation=network)
    seeded.__doc__ = network.__doc__
    return seeded


mlp, cnn, resnet18, resnet101, transformer, transformer_xl = map(
    seeded, (MLP, CNN, ResNet, DeepResNet, Transformer, TransformerXL)
)


def flatten(module: nn.Module) -> Tensor:
    """A copy of all parameters as one vector θ of shape (p,), in the order of `module.parameters()`."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def buffers(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the module's buffers, by name: running statistics; {} for most networks."""
    return {name: buffer.detach().clone() for name, buffer in module.named_buffers()}


_PLACES = weakref.WeakKeyDictionary()  # module → where its parameters and buffers stand, their shapes and names


def apply(
    module: nn.Module, theta: Tensor, *x: Tensor, buffers: dict[str, Tensor] | None = None, training: bool = True
) -> Tensor:
    """The outputs of `module` at inputs `x`, its parameters being `theta` (p,) laid out as by `flatten`. x: the
    arguments of the module's forward. `theta` is only viewed, never copied; dtype and device are those of `theta` and
    `x`. buffers: all of the module's ({} only if it has none), which its layers move in place in training mode; by
    default copies that are thrown away, so that the module's own never move. training: the mode of this call, whichever
    the module is in. Raises RuntimeError if `theta` has another length than p, or if some but not all buffers are
    given."""
    if module not in _PLACES:  # found once: for a small network it takes as long as a layer
        numbers = {id(p): i for i, p in enumerate(module.parameters())}  # each once, though two layers may share it
        names = {id(buffer): name for name, buffer in module.named_buffers()}
        held = [(d, k, t) for m in module.modules() for d in (m._parameters, m._buffers) for k, t in d.items()]
        held = [(d, k, numbers.get(id(t), names.get(id(t)))) for d, k, t in held if id(t) in numbers | names]
        _PLACES[module] = held, [p.shape for p in module.parameters()], set(names.values())
    places, shapes, names = _PLACES[module]
    given = dict(enumerate(map(Tensor.view, theta.split([shape.numel() for shape in shapes]), shapes)))
    if buffers is None:
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    elif odd := buffers and names ^ buffers.keys():
        raise RuntimeError(f"buffers must be all of the module's or none; not so: {', '.join(sorted(odd))}")
    given |= buffers
    own = [tensors[name] for tensors, name, _ in places]
    before = module.training
    if training != before:
        module.train(training)
    try:  # what `torch.func.functional_call` does, which for a small network takes as long as a forward pass
        for tensors, name, which in places:
            tensors[name] = given.get(which, tensors[name])
        return module(*x)
    finally:
        for (tensors, name, _), tensor in zip(places, own, strict=True):
            tensors[name] = tensor
        if training != before:
            module.train(before)
