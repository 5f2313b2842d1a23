"""Losses of outputs and labels, by the names under which the papers and their codes know them."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over examples of −log softmax(outputs)[label]; outputs (n, c), labels (n,) → scalar. Of a text whose every
    token has a label, (n, length, c) and (n, length), the mean over these, too."""
    return F.cross_entropy(outputs.flatten(0, -2), labels.flatten())


def mse_sum(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over examples of Σ_c (output − one-hot)², without ½ (Damian et al. 2023); shapes as `cross_entropy`."""
    # Written out: F.mse_loss fails under nested forward-mode differentiation.
    return ((outputs - F.one_hot(labels, outputs.shape[-1]).to(outputs)) ** 2).sum(-1).mean()


def mse_half_sum(outputs: Tensor, labels: Tensor) -> Tensor:
    """½ of `mse_sum` (Cohen et al. 2021), hence of half the sharpness."""
    return mse_sum(outputs, labels) / 2


def mse_binary(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over examples of (f − y)², without ½ (Damian et al. 2023), the output f being (n, 1) and y = −1 for label
    0, +1 for label 1."""
    f, y = _binary(outputs, labels)
    return ((f - y) ** 2).mean()


def logistic(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over examples of log(1 + exp(−yf)); f and y as for `mse_binary`."""
    f, y = _binary(outputs, labels)
    return -F.logsigmoid(y * f).mean()


def _binary(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """f and y = ±1, both (n,); raises ValueError unless `outputs` is (n, 1)."""
    if outputs.shape[1] != 1:
        raise ValueError(f"a binary loss takes one output for each example, not {outputs.shape[1]}")
    return outputs[:, 0], 2 * labels - 1


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": cross_entropy,
    "mse-half-sum": mse_half_sum,
    "mse-sum": mse_sum,
    "mse-binary": mse_binary,
    "logistic": logistic,
}
BINARY_LOSSES = ("mse-binary", "logistic")  # of one output and two classes
