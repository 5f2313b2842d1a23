"""How far minibatch gradients scatter around the gradient."""

from torch import Tensor


def minibatch_gradient_noise(gradients: Tensor, full: Tensor) -> float:
    """Mean over minibatches of ‖g_B − ∇f‖², from minibatch gradients (b, p) and the full gradient (p,):
    the `per-minibatch` convention (what the code of Zhang et al. 2021 logs, squared)."""
    return ((gradients - full) ** 2).sum(1).mean().item()
