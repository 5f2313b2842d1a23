# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Large learning rates
#
# ```{chapter-head}
# paper: mohtashami2023
# question: >-
#   A large step size leaves sharp minima and steps over small regions. Can noise do the same for a small one?
# answer: >-
#   Not on the functions of this paper: a large step leaves the sharp minimum and then stays at the flat one, while noise that is strong enough to leave the
#   first leaves the second, too.
# findings:
#   - >-
#     Of ten thousand starts, the share that comes to rest in the sharp minimum or on the plateau falls from all to {fig8/large-steps-reach-the-global-minimum}.
#   - >-
#     Of ten thousand starts, the share that comes to rest in the sharp minimum or on the plateau falls from all to {fig8/large-steps-reach-the-global-minimum}.
#   - >-
#     Of ten thousand starts, the share that comes to rest in the sharp minimum or on the plateau falls from all to {fig8/large-steps-reach-the-global-minimum}.
# figure: fig8
# thumbnails:
#   fig8: figure 8
# ```

# %% [markdown]
# ## The experiment in plain PyTorch
#
# Gradient descent on the one-dimensional function of the paper's appendix J, from 1,000 starts beside its plateau, at growing step sizes. It has three
# minima: a wide bowl at 0, a sharp bowl at 2.5, a plateau between 8.4 and 8.6. In which does a start end? Copy the cell into an empty notebook.

# %% tags=["plain"]
import torch


def f(x):  # a polynomial between each two knots
    y = x - 2.5
    sharp = 1020 * y**2 + 800 * y**3 - 2000 * y**4 - 1600 * y**5
    left = 1411.2 * (1 - 1e5 * (x - 8.4))  # the edges of the plateau
    right = 1479.2 * (1 + 1e5 * (x - 8.6))
    pieces = [20 * x**2, sharp, 20 * x**2, left, 0 * x, right, 20 * x**2]
    knots = torch.tensor([2, 3, 8.4, 8.40001, 8.59999, 8.6], dtype=torch.float64)
    piece = torch.bucketize(x.detach(), knots, right=True)
    return torch.stack(pieces).gather(0, piece[None])[0]


gradient = torch.func.grad(lambda x: f(x).sum())
etas = [0.032 / 2**k for k in range(6, -1, -1)]

shares = []
print("    η    at 0  at 2.5  plateau")
for t, eta in enumerate(etas):
    torch.manual_seed(t)
    x = 9 + torch.rand(1000, dtype=torch.float64)
    for _ in range(1000):
        x = x - eta * gradient(x)
    ends = [abs(x) < 1.9, abs(x - 2.5) < 0.5, abs(x - 8.5) < 0.1]
    shares.append([end.double().mean().item() for end in ends])
    print(f"{eta:7.4f}", *(f"{share:6.3f}" for share in shares[-1]))

# %% [markdown]
# The library's runs of the same starts:

# %% tags=["compared"]
import numpy as np

from eoslib.chapter.experiments import at_quick

run = at_quick("large_learning_rates", "plain")
differ = abs(run.trace.ends_inside.values[:, 0] - np.array(shares))
print("largest difference of the shares:", differ.max())

# %% [markdown]
# ## Setting
#
# Gradient descent repeats $x_{t+1} = x_t - \gamma\nabla f(x_t)$; the paper {cite}`mohtashami2023` writes $\gamma$ for the step size, which is $\eta$ elsewhere in this
# book. Two constants describe a region $M$. There $f$ is *$L$-smooth* if its gradient is Lipschitz with the constant $L$, and *$\mu$-one-point-strongly convex*
# towards $x_\star$ if
#
# ```{math}
# :label: mohtashami-opsc
# \langle\nabla f(x), x - x_\star\rangle \ge \mu\,\|x - x_\star\|^2, \qquad x\in M .
# ```

# %% tags=["hide-input"]
from typing import Annotated, Literal

from annotated_types import Interval, Len
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

# %% tags=["parameters"]
preset: Literal["quick", "standard", "paper"] = "quick"
# figure 8: step sizes up to the largest, beyond which all starts of appendix J's function diverge
fig8_largest: Annotated[float, Interval(gt=0.001, lt=0.05)] = 0.045
fig8_steps: PositiveInt = 36
fig8_starts: PositiveInt = 10000
seeds: Annotated[list[NonNegativeInt], Len(1)] = [0, 1, 2]

# %% [markdown]
# The experiments follow, each a list of runs. `python -m eoslib compute large_learning_rates --list` shows what they cost.

# %% tags=["experiments", "hide-input"]
from functools import partial

from eoslib.chapter.experiments import Phases

# appendix J: the regions of its three minima, and where we start
MINIMA = (((0.0,), 1.9), ((2.5,), 0.5), ((8.5,), 0.1))
BESIDE = ((9.0, 10.0),)
phases = partial(Phases, chapter="large_learning_rates")

experiments = {
    "plain": [
        phases(
            experiment="plain", landscape="flat_and_sharp", box=BESIDE, balls=MINIMA, runs=1000, iterations=1000,
            step_size=0.032, steps=7,
        )
    ],
    "fig8": [
        phases(
            experiment="fig8", landscape="flat_and_sharp", box=BESIDE, balls=MINIMA, runs=fig8_starts,
            iterations=3000, step_size=fig8_largest, steps=fig8_steps, ratio=1.15, seed=seed,
        )
        for seed in seeds
    ],
}  # fmt: skip

# %% tags=["hide-input"]
import numpy as np

from eoslib.chapter.claims import Ledger
from eoslib.chapter.experiments import collect
from eoslib.chapter.figures import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, colours, panels
from eoslib.chapter.provenance import provenance

claims = Ledger("large_learning_rates", preset)

# %% [markdown]
# ## Escaping and avoiding (paper, figures 1, 3 and 8, appendices I and J)

# %%
fig8 = collect(experiments["fig8"])

# %% tags=["hide-input"]
with panels(
    1, 1, name="fig8",
    caption="Figure 8. Where gradient descent ends.",
    alt="Three curves.",
) as (ax,):  # fmt: skip
    for run in fig8:
        ax.semilogx(run.trace.eta, run.trace.ends_inside[:, 0])

# %% tags=["hide-input"]
claims.measure(
    "fig8/large-steps-reach-the-global-minimum",
    {f"seed {run['seed']}": run.trace.ends_inside.values[-1, 0, 1:].sum() for run in fig8}, fig8,
    control={f"seed {run['seed']}": run.trace.ends_inside.values[0, 0, 1:].sum() for run in fig8},
)  # fmt: skip

# %% [markdown]
# ## Networks
#
# (The networks begin here: figures 5, 7, 10 to 13.)

# %% [markdown]
# (The networks end here.)
#
# ## Where we differ
#
# ## Try it
#
# ## Provenance

# %%
provenance(fig8)
