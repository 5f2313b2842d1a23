"""What chapter 1 publishes as not reproduced on CIFAR-10, a second time: plain PyTorch and NumPy, without the library.

`EOSLIB_DATA=… python tests/notebooks/at_the_papers_scale.py` takes some minutes of one core, and prints whether the
network without activation diverges at η = 2/30, whether the one with tanh does at η = 2/8, and of ReLU at η = 2/30 the
share of the variance of the relative progress that relation (5) leaves from step 225 on, the onset, to 95 % accuracy.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn


def images():
    """The first 5,000 images, standardised per pixel with all training images that are there, and their classes."""
    folder = Path(os.environ["EOSLIB_DATA"]) / "cifar-10-batches-bin"
    files = [np.fromfile(folder / f"data_batch_{i}.bin", np.uint8) for i in range(1, 6)]
    rows = np.concatenate(files).reshape(-1, 3073)
    x = rows[:, 1:] / 255
    x = ((x - x.mean(0)) / x.std(0))[:5000]
    return torch.tensor(x, dtype=torch.float32), torch.tensor(rows[:5000, 0], dtype=torch.long)


def descend(x, y, activation, step_size, steps):
    """Losses, relative progress and directional smoothness of gradient descent, which ends where the loss overflows."""
    torch.manual_seed(0)
    layers = nn.Linear(3072, 200), activation(), nn.Linear(200, 200), activation(), nn.Linear(200, 10)
    network = nn.Sequential(*layers)
    parameters, rows, before = list(network.parameters()), [], None
    for _ in range(steps):
        loss = nn.functional.cross_entropy(network(x), y)
        g = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
        if before:
            f, last = before
            square = step_size * (last @ last)
            rows.append([f.item(), ((loss - f) / square).item(), (last @ (last - g) / square).item()])
        if not torch.isfinite(loss):
            break
        before = loss.detach(), g
        theta = nn.utils.parameters_to_vector(parameters).detach() - step_size * g
        nn.utils.vector_to_parameters(theta, parameters)
    return np.array(rows).T


def main():
    x, y = images()
    loss, *_ = descend(x, y, nn.Tanh, 2 / 8, 500)
    late = loss[-50:].mean() / loss[0]
    sys.stdout.write(f"tanh, 2/8: loss over the first after {len(loss)} steps, a mean of 50: {late:.3f}\n")
    loss, *_ = descend(x, y, nn.Identity, 2 / 30, 750)
    sys.stdout.write(f"linear, 2/30: {len(loss)} steps, last loss {loss[-1]:.3f}, largest {loss.max():.3f}\n")
    _, progress, smoothness = (part[225:] for part in descend(x, y, nn.ReLU, 2 / 30, 695))
    left = ((progress + 1 - smoothness / 30) ** 2).mean() / progress.var()
    sys.stdout.write(f"relu, 2/30: share of the variance that relation (5) leaves {left:.3f}\n")


if __name__ == "__main__":
    main()
