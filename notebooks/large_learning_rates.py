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
#     The theorem's threshold is exact for a quadratic bowl ({thm1/threshold-is-tight} times it). On appendix J's function starts stay near the
#     sharp minimum up to {fig3/unstable-is-not-enough} times the step size at which it becomes unstable.
#   - >-
#     With noise of any size a small step comes to stay at the global minimum in a share of {prop3/small-steps-fail} of the runs, a large one in {prop3/large-steps-succeed};
#     it need not be as large as the paper asks: {prop3/already-at-smaller-steps} times $2/\mu^\dagger$ is enough.
#   - >-
#     Two statements do not hold. Theorem 2 fails at large step sizes (the share that meets a set is {thm2/up-to-its-largest-step-size} times its bound), and Theorem 4's
#     promise to remain does not outlive the first steps ({thm4/remains}).
# figure: fig1
# thumbnails:
#   fig6: figure 6
#   fig8: figure 8
#   fig2: figure 2
#   thm1: theorem 1
#   thm2: theorem 2
#   fig9: figure 9
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
    knots = [2, 3, 8.4, 8.40001, 8.59999, 8.6]
    piece = torch.bucketize(x.detach(), x.new_tensor(knots), right=True)
    return torch.stack(pieces).gather(0, piece[None])[0]


etas = [0.032 / 2**k for k in range(6, -1, -1)]

shares = []
print("    η    at 0  at 2.5  plateau")
for t, eta in enumerate(etas):
    torch.manual_seed(t)
    x = 9 + torch.rand(1000, dtype=torch.float64)
    for _ in range(100):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(f(x).sum(), x)
        x = (x - eta * gradient).detach()
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
# book. Two constants describe a region $M$: there $f$ is *$L$-smooth* if its gradient is Lipschitz with the constant $L$ (paper, definition 1), and *$\mu$-one-point-strongly
# convex* towards $x_\star$ if the gradient points away from it, strongly enough (definition 2):
#
# ```{math}
# :label: mohtashami-opsc
# \langle\nabla f(x), x - x_\star\rangle \ge \mu\,\|x - x_\star\|^2 \quad\text{for all } x\in M .
# ```
#
# A minimum $x^\dagger$ whose region has $\mu^\dagger > 2/\gamma$ repels: by {eq}`mohtashami-opsc` a step from $x\in M$ overshoots $x^\dagger$ so far that the distance grows. Where
# $\gamma\le\mu_\star/L^2$, in contrast, each step shortens the distance from $x_\star$ at least by the factor $\sqrt{1-\gamma\mu_\star}$. A step size between the two
# thresholds,
#
# ```{math}
# :label: mohtashami-thresholds
# \frac{2}{\mu^\dagger} < \gamma \le \frac{\mu_\star}{L^2} ,
# ```
#
# leaves the sharp minimum and converges to the flat one. That is the paper's idea, and its landscapes are built for it. They are functions of one or two variables
# (ours of ten, too), so that ten thousand starts take seconds, and that their constants can be proved. A start *ends* where it is after the last step.

# %% tags=["hide-input"]
from typing import Annotated, Literal

from annotated_types import Interval, Len
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

# %% tags=["parameters"]
preset: Literal["quick", "standard", "paper"] = "quick"
seeds: Annotated[list[NonNegativeInt], Len(1)] = [0, 1]
# appendix J's function, where everything diverges from 2/40 on
fig8_largest: Annotated[float, Interval(gt=0.001, lt=0.05)] = 0.045
fig8_starts: Annotated[int, Interval(ge=100)] = 10000
fig8_iterations: Annotated[int, Interval(ge=100)] = 150
# figure 2, where everything diverges from 2/1 on
fig2_largest: Annotated[float, Interval(gt=0.02, lt=2)] = 0.9
# Lemma 1 and Theorem 1; Lemma 2 and Theorem 2
thm1_starts: Annotated[int, Interval(ge=100)] = 100
thm2_starts: Annotated[int, Interval(ge=100)] = 20000
# SGD on f_tm, where everything diverges from 2/2 on
fig6_largest: Annotated[float, Interval(gt=0.4, lt=1)] = 0.5
fig6_side: Annotated[int, Interval(ge=8)] = 24
ours_side: Annotated[int, Interval(ge=8)] = 24
fig6_runs: PositiveInt = 20
fig6_iterations: PositiveInt = 1000
prop3_runs: PositiveInt = 50
prop3_iterations: PositiveInt = 20000
# figure 9
fig9_starts: Annotated[int, Interval(ge=100)] = 500
# appendix G: how many small steps, and how many samples of them
appg_k: Annotated[list[Annotated[int, Interval(ge=1)]], Len(2)] = [1, 2, 5, 10]
appg_samples: Annotated[int, Interval(ge=1000)] = 20000
# networks: figures 5, 10, 11 and 12
net_dataset: Literal["digits", "cifar10", "cifar100"] = "digits"
net_n: Annotated[int, Interval(ge=10, le=50000)] = 192
net_held_out: PositiveInt = 500
net_widths: Annotated[list[PositiveInt], Len(1)] = [8]
net_activation: Literal["relu", "tanh", "elu", "swish"] = "tanh"
net_seeds: Annotated[list[NonNegativeInt], Len(1)] = [0, 1, 2]
net_batch_size: PositiveInt = 16
net_crop: NonNegativeInt = 0
net_flip: bool = False
net_large: PositiveFloat = 0.3
net_k: Annotated[int, Interval(ge=2)] = 2
net_epochs: PositiveInt = 15
net_once: PositiveInt = 1
net_measured: Annotated[int, Interval(ge=2)] = 3
fig10_repeated: list[PositiveInt] = [5, 10]
fig11_dataset: Literal["digits", "cifar10", "cifar100"] = "digits"
fig11_n: Annotated[int, Interval(ge=10, le=50000)] = 96
fig12_large: PositiveFloat = 1.5
fig12_epochs: PositiveInt = 25  # without momentum it learns more slowly
trend_n: list[PositiveInt] = []
trend_k: list[PositiveInt] = []
# figures 7 and 13
gd_n: Annotated[int, Interval(ge=10, le=50000)] = 192
gd_warm_epochs: PositiveInt = 10
gd_small: PositiveFloat = 0.25
gd_large: PositiveFloat = 2.5
gd_steps: PositiveInt = 100
gd_switch: PositiveInt = 50
gd_kept: PositiveInt = 5
gd_sharpness: list[NonNegativeInt] = [0, 5, 10, 20, 40, 80]
gd_lines: list[PositiveInt] = [2, 4, 10, 20, 50, 99]

# %% [markdown]
# The experiments follow, each a list of runs. `python -m eoslib compute large_learning_rates --list` shows what they cost.

# %% tags=["experiments", "hide-input"]
from functools import partial

import numpy as np

from eoslib.chapter.experiments import Descent, ManyStarts, Phases
from eoslib.measure.directions import Position
from eoslib.problems import landscapes
from eoslib.problems.problem import OnLandscape

phases = partial(Phases, chapter="large_learning_rates")

# appendix J: the regions of its three minima, the middle of the sharp one, and where we start
MINIMA = (((0.0,), 1.9), ((2.5,), 0.5), ((8.5,), 0.1), ((2.5,), 1e-6))
SHARP, BESIDE = ((2.2, 2.8),), ((9.0, 10.0),)
# f_tm: M⋆ and M†, and where SGD starts
WELLS, IN_SHARP = (((0.0,), 2.9), ((4.1,), 0.4)), ((3.7, 4.5),)
BOWLS = {d: landscapes.get(f"two_bowls_{d}d") for d in (1, 2, 10)}


def at(x, d):
    """The point (x, 0, …, 0) of d coordinates."""
    return (x,) + (0.0,) * (d - 1)


def around(bowls, size):
    """The cube in the ball of `size` times the radius of M around `size` times its centre."""
    half = 0.999 * size * bowls.radius / bowls.dimension**0.5
    return tuple((c - half, c + half) for c in at(size * bowls.centre, bowls.dimension))


def beyond(d, reach):
    """A box beyond M, as seen from x⋆."""
    half = 1.0 if d == 2 else 0.1
    return ((10.5, reach),) + ((-half, half),) * (d - 1)


def path(experiment, landscape, start, step_size, steps):
    """Gradient descent from one point, every iterate recorded."""
    problem = OnLandscape(landscape=landscape, start=start)
    return Descent(
        chapter="large_learning_rates", experiment=experiment, problem=problem, step_size=step_size, steps=steps,
        measurements=(Position(),),
    )  # fmt: skip


def lemma_1(d, box, **rest):
    """Starts on two bowls in d dimensions; balls: M, around x†, nearer to x⋆ by r than x†, around x⋆."""
    bowls = BOWLS[d]
    balls = (
        (at(bowls.centre, d), bowls.radius), (at(bowls.distance, d), 1e-3), (at(0.0, d), bowls.distance - 2 * bowls.radius),
        (at(0.0, d), 1e-3),
    )  # fmt: skip
    return phases(landscape=bowls.name, box=box, balls=balls, **rest)


def meets(experiment, d, box, **rest):
    """Starts in a box W on two bowls in d dimensions, of which is counted how many meet X = M."""
    bowls = BOWLS[d]
    return phases(
        experiment=experiment, landscape=bowls.name, box=box, balls=((at(bowls.centre, d), bowls.radius),),
        runs=thm2_starts, **rest,
    )  # fmt: skip


noises = {
    "uniform": {"noise": "uniform"}, "normal": {"noise": "normal"}, "momentum": {"noise": "uniform", "momentum": 0.9},
}  # fmt: skip


def of_key(x):
    """x to nine digits: a power's last one depends on the processor, and a run is found by all digits of its values."""
    return float(f"{x:.9g}")


thm4_sizes = (0.99 * 360, 1.5 * 360, 12 * 5400**0.5, 120 * 5400**0.5, 1.001 * (2 * 900 * 0.16 * 1800) ** 0.5)

experiments = {
    "plain": [
        phases(
            experiment="plain", landscape="flat_and_sharp", box=BESIDE, balls=MINIMA[:3], runs=1000, iterations=100,
            step_size=0.032, steps=7,
        )
    ],
    "fig1": [
        ManyStarts(
            chapter="large_learning_rates", experiment="fig1", landscape="flat_and_sharp", starts=5, box=BESIDE,
            step_size=gamma, steps=61, keep=tuple(range(61)),
        )
        for gamma in (0.0005, 0.0011, 0.0022, 0.01)
    ],
    "fig3": [
        path("fig3", "flat_and_sharp", (2.52,), gamma, 40) for gamma in (0.0009, 0.0012, 0.0026)
    ],
    "fig3_scan": [
        phases(
            experiment="fig3_scan", landscape="flat_and_sharp", box=SHARP, balls=MINIMA, runs=300, iterations=600,
            step_size=0.02, steps=30, ratio=1.2,
        )
    ],
    "fig8": [
        phases(
            experiment="fig8", landscape="flat_and_sharp", box=BESIDE, balls=MINIMA, runs=fig8_starts,
            iterations=fig8_iterations, step_size=fig8_largest, steps=24, ratio=1.25, seed=seed,
        )
        for seed in seeds
    ],
    "fig2": [path("fig2", "returning", (7.0,), gamma, 200) for gamma in (0.015, 0.1)],
    "fig2_scan": [
        phases(
            experiment="fig2_scan", landscape=name, box=box, balls=(((0.0,), 1.0), ((0.0,), 1e-6)), runs=200,
            iterations=2000, step_size=fig2_largest, steps=14, ratio=1.5,
        )
        for name, box in (("returning", ((-8.0, 8.0),)), ("two_bowls_1d", ((-8.0, 8.0),)))
    ],
    "thm1": [
        lemma_1(
            d, around(BOWLS[d], 1), experiment="thm1", runs=thm1_starts, iterations=1000, step_size=1.0, steps=24,
            ratio=1.25,
        )
        for d in BOWLS
    ],
    "thm1_anywhere": [
        lemma_1(
            d, ((-20.0, 20.0),) * d, experiment="thm1_anywhere", runs=thm1_starts, iterations=1000, step_size=1.0,
            steps=18, ratio=1.25,
        )
        for d in BOWLS
    ],
    "lem2": [
        meets("lem2", d, beyond(d, 20.0), iterations=T, step_size=1 / 2, steps=4)
        for d in BOWLS
        for T in (1, 4, 16, 32)
    ],
    "thm2": [
        meets("thm2", d, beyond(d, reach), iterations=40, step_size=1 / 2, steps=4)
        for d in BOWLS
        for reach in (12.0, 20.0, 40.0)
    ],
    "thm2_crawling": [meets("thm2_crawling", 1, beyond(1, 20.0), iterations=500, step_size=1 / 128, steps=3)],
    "thm2_shrinking": [
        meets("thm2_shrinking", d, around(BOWLS[d], 10), iterations=100, step_size=0.9, steps=1) for d in BOWLS
    ],
    "fig6": [
        phases(
            experiment="fig6", landscape="f_tm", box=IN_SHARP, balls=WELLS, runs=fig6_runs, iterations=fig6_iterations,
            step_size=fig6_largest, steps=side, ratio=of_key(5000 ** (1 / (side - 1))),
            noise_sizes=tuple(map(of_key, np.geomspace(1, 1e4, side))), **how,
        )
        for side, how in zip((fig6_side, ours_side, ours_side), noises.values(), strict=True)
    ],
    "prop3_small": [
        phases(
            experiment="prop3_small", landscape="f_tm", box=IN_SHARP, balls=WELLS, runs=prop3_runs, iterations=prop3_iterations,
            step_size=1e-3, steps=1, noise=noise, noise_sizes=(5.15, 5.3, 5.45, *map(of_key, np.geomspace(60, 6000, 21))),
        )
        for noise in ("uniform", "normal")
    ],
    "prop3_large": [
        phases(
            experiment="prop3_large", landscape="f_tm", box=IN_SHARP, balls=WELLS, runs=prop3_runs, iterations=2000,
            step_size=0.5, steps=3, ratio=1.25**0.5, noise=noise, noise_sizes=(1.0, 5.15, 5.3, 5.45),
        )
        for noise in ("uniform", "normal")
    ],
    "thm4": [
        phases(
            experiment="thm4", landscape="f_tm", box=IN_SHARP, balls=WELLS, runs=1000, iterations=T, step_size=1 / 1800,
            steps=1, noise_sizes=thm4_sizes, noise="uniform",
        )
        for T in (1, 1000)
    ],
    "fig9": [
        phases(
            experiment="fig9", landscape="four_wells", box=((3.0, 4.0),) * 2, balls=((landscapes.get("four_wells").minimisers[-1], 0.4), ((0.0, 0.0), 1e-3)),
            runs=fig9_starts, iterations=800, step_size=0.5, steps=32, ratio=1.2,
        )
    ],
}  # fmt: skip

# %% tags=["hide-input"]
import math

import pandas as pd
from IPython.display import HTML, display
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator
from scipy import stats

from eoslib.chapter.claims import Ledger
from eoslib.chapter.experiments import collect
from eoslib.chapter.figures import BLUE, GREEN, ORANGE, PURPLE, RULE, SKY, VERMILION, colours, panels
from eoslib.chapter.provenance import provenance
from eoslib.papers import escape

claims = Ledger("large_learning_rates", preset)

DASHED = {"color": RULE, "linestyle": "--", "linewidth": 0.9}


def interval(share, n, confidence=0.95):
    """The exact binomial (Clopper–Pearson) interval of shares of n."""
    k, rest = np.round(np.asarray(share) * n), (1 - confidence) / 2
    low, high = stats.beta.ppf(rest, k, n - k + 1), stats.beta.ppf(1 - rest, k + 1, n - k)
    return np.where(k > 0, low, 0), np.where(k < n, high, 1)


def shares(run, of="ends_inside", region=0):
    """Of each step size without noise, the share of the starts."""
    return run.trace[of].values[:, 0, region]


def threshold(ax, gamma, text):
    ax.axvline(gamma, **DASHED)
    ax.text(gamma, 1.02, text, transform=ax.get_xaxis_transform(), ha="center", va="bottom")


# %% [markdown]
# ## Escaping and avoiding in one dimension (paper, figures 1, 3 and 8, appendices I and J)
#
# *Paper, appendix I.* A function with three minima: a wide bowl $20x^2$ around the global minimum 0, a sharp bowl of curvature 2040 around 2.5, and between 8.4 and 8.6 a
# plateau, near which gradient descent starts. A small step cannot but land on the plateau, where the gradient vanishes; a larger one may step over it, is then caught
# in the sharp bowl, and a still larger one leaves that, too. As printed the function is not continuous; its plateau's edges need a slope ten times as large ([errata](../book/errata.md)).
# The paper does not say where it starts; we take $[9, 10]$.

# %%
fig1, fig3 = collect(experiments["fig1"]), collect(experiments["fig3"])
(fig3_scan,) = collect(experiments["fig3_scan"])
fig8 = collect(experiments["fig8"])

# %% tags=["hide-input"]
J = landscapes.get("flat_and_sharp")
mu_dagger, L_dagger = escape.one_point_convexity(J, 2.5, *SHARP[0]), escape.smoothness(J, *SHARP[0])
escapes_from, unstable_from, converges_to = 2 / mu_dagger, 2 / J.derivative(2)(2.5), 1 / 40
with panels(
    1, 4, name="fig1", runs=fig1, sharey=True,
    caption="Figure 1. Iterates from five starts at growing step sizes, over the sharp bowl (orange) and the plateau (grey).",
    alt="At the smallest step size all five trajectories end on the plateau, at the next some in the sharp bowl, then some at the "
    "global minimum, at the largest all.",
) as axes:  # fmt: skip
    for ax, run in zip(axes, fig1, strict=False):
        for start, colour in enumerate(colours(run["starts"])):
            ax.plot(run.trace.theta[:, start, 0], ".-", color=colour, linewidth=0.8, markersize=3)
        ax.axhspan(2, 3, color=ORANGE, alpha=0.25, linewidth=0)
        ax.axhspan(8.4, 8.6, color="0.6", alpha=0.5, linewidth=0)
        ax.set(title=rf"$\gamma = {run.step_size:g}$", xlabel="step $t$", ylim=(-0.5, 10.3))
    axes[0].set(ylabel="$x_t$")

# %% tags=["hide-input"]
with panels(
    1, 2, name="fig3", runs=fig3,
    caption=r"Figure 3. The sharp bowl from $x_0 = 2.52$. Left: the function and the first iterates. Right: the distance from its minimum. Just above $2/f''(2.5)$ gradient descent "
    "ends on a cycle; it converges below, and escapes far above.",
    alt="Left, iterates on a narrow parabola: some close in on the minimum, others climb out of it. Right, one curve falls to "
    "rounding, one settles at a fifth, one leaves the bowl.",
) as (left, right):  # fmt: skip
    x = np.linspace(1.9, 3.1, 400)
    left.plot(x, J.f(torch.tensor(x)[:, None]), color="0.6")
    for run, colour in zip(fig3, (BLUE, ORANGE, VERMILION), strict=False):
        theta = run.trace.theta.values[:, 0]
        near = np.flatnonzero(abs(theta - 2.5) > 0.6)[:1]
        shown = theta[: near[0] if near.size else 12]
        left.plot(shown, J.f(torch.tensor(shown)[:, None]), ".-", color=colour, linewidth=0.7)
        right.semilogy(run.trace.step, abs(theta - 2.5), color=colour, label=rf"$\gamma = {run.step_size:g}$")
    right.axhline(0.3, **DASHED)
    left.set(xlabel="$x$", ylabel="$f(x)$", xlim=(1.9, 3.1), ylim=(-10, 200))
    right.set(xlabel="step $t$", ylabel="$|x_t - 2.5|$")
    right.legend()

# %% tags=["hide-input"]
with panels(
    1, 1, name="fig8", runs=fig8, height=2.8,
    caption=rf"Figure 8. Where {fig8_starts:,} starts in $[9, 10]$ end, against the step size, with exact 95 % intervals, one line for each of {len(seeds)} seeds. "
    r"Dashed: where the sharp minimum becomes unstable; $2/\mu^\dagger$, with $\mu^\dagger$ the constant on $(2.2, 2.8)$; and $\mu_\star/L^2 = 1/40$.",
    alt="The share on the plateau falls from one to zero; the share in the sharp bowl rises and drops to zero between the first two "
    "thresholds; the share at the global minimum then rises to one.",
) as (ax,):  # fmt: skip
    for run in fig8:
        for region, (colour, label) in enumerate(((BLUE, "global minimum"), (ORANGE, "sharp minimum"), ("0.5", "plateau"))):
            share = shares(run, region=region)
            ax.semilogx(run.trace.eta, share, ".-", color=colour, label=label if run is fig8[0] else None)
            ax.fill_between(run.trace.eta, *interval(share, run["runs"]), color=colour, alpha=0.3, linewidth=0)
    for gamma, text in ((unstable_from, "$2/f''$"), (escapes_from, r"$2/\mu^\dagger$"), (converges_to, r"$\mu_\star/L^2$")):
        threshold(ax, gamma, text)
    ax.set(xlabel=r"step size $\gamma$", ylabel="share of the starts")
    if fig8:
        ax.legend()

# %% tags=["hide-input"]
few = collect(experiments["plain"])
doubling = shares(few[0], region=2)
at_0 = shares(few[0])


def where(avoiding, stuck):
    """The share that avoids the plateau at one step size, and the share that is stuck there at another."""
    on_plateau = dict(zip((f"{eta:g}" for eta in few[0].trace.eta.values), doubling, strict=True))
    return {f"γ = {avoiding}, avoid it": 1 - on_plateau[avoiding], f"γ = {stuck}, are stuck": on_plateau[stuck]}



claims.measure(
    "fig1/avoids-with-larger-steps", {"plateau": doubling[: np.argmax(doubling == 0) + 1]}, few,
    control={"global minimum": at_0},
)  # fmt: skip
claims.measure("fig1/both-happen", where("0.001", "0.002"), few, control=where("0.0005", "0.004"))

gammas = fig3_scan.trace.eta.values
stays, converges = shares(fig3_scan, region=1), shares(fig3_scan, region=3)
claims.measure(
    "fig3/large-steps-escape", {"": stays[gammas >= escapes_from].max()}, [fig3_scan],
    control={"": stays[gammas < unstable_from].min()},
)  # fmt: skip
claims.measure(
    "fig3/small-steps-converge", {"": converges[gammas < mu_dagger / L_dagger**2].min()}, [fig3_scan],
    control={"": converges[gammas >= escapes_from].max()},
)  # fmt: skip



def proves(stronger):
    """Whether μ† and L on the region of the sharp minimum, made stronger by this factor, are proved."""
    proofs = escape.certify(J, 2.5, *SHARP[0], 0.999 * mu_dagger * stronger, 1.001 * L_dagger / stronger)
    return all(proof.proved for proof in proofs.values())


claims.measure("fig3/constants", {"": proves(1)}, control={"": proves(1.01)})

# The smallest step sizes that escape, over 2/λ_max at the minimum
bisected = {
    "appendix J": escape.smallest_escaping(J, SHARP, MINIMA[1], 1e-3, escapes_from) / unstable_from,
}
for d, bowls in BOWLS.items():
    near = tuple((x - 0.01, x + 0.01) for x in at(bowls.distance, d))
    ball = at(bowls.centre, d), bowls.radius
    bisected[f"bowls, d = {d}"] = escape.smallest_escaping(bowls, near, ball, 0.01, 0.1) * bowls.sharp / 2
claims.measure(
    "fig3/unstable-is-not-enough", {"appendix J": bisected["appendix J"]},
    control={f"bowls, d = {d}": bisected[f"bowls, d = {d}"] for d in BOWLS},
)  # fmt: skip

# %% tags=["hide-input"]


def caught(run, region, up_to=converges_to):
    """The share that ends in a region at each step size of at most μ⋆/L²."""
    return shares(run, region=region)[run.trace.eta.values <= up_to]


def converging(run, low, high, which):
    """Of the starts that avoid the plateau, the share that converges to the sharp minimum: the smallest or the largest
    over the step sizes in between at which one start in a hundred does avoid it."""
    eta, avoid = run.trace.eta.values, 1 - shares(run, region=2)
    chosen = (eta > low) & (eta < high) & (avoid >= 0.01)
    return which(shares(run, region=3)[chosen] / avoid[chosen])


def last_caught(run, scale):
    """The largest step size at which some start ends in the sharp minimum, over `scale`."""
    return run.trace.eta.values[: len(caught(run, 1))][caught(run, 1) > 0].max() / scale


def by_seed(value):
    return {f"seed {run['seed']}": value(run) for run in fig8}


claims.measure(
    "fig8/large-steps-reach-the-global-minimum", by_seed(lambda run: caught(run, 0)[-1]), fig8,
    control=by_seed(lambda run: caught(run, 0)[0]),
)  # fmt: skip
claims.measure(
    "fig8/sharp-in-between", by_seed(lambda run: converging(run, 0, unstable_from, min)), fig8,
    control=by_seed(lambda run: converging(run, unstable_from, escapes_from, max)),
)  # fmt: skip
claims.measure(
    "fig8/escape-by-the-threshold", by_seed(lambda run: last_caught(run, escapes_from)), fig8,
    control=by_seed(lambda run: last_caught(run, unstable_from)),
)  # fmt: skip

# %% [markdown]
# The figure has the paper's shape: plateau, sharp minimum, global minimum, one after the other. Two things are not in the paper. Between
# $2/f''(2.5)$, where the sharp minimum becomes unstable, and a step size some half larger starts do not escape but end on a cycle around it, since the curvature is lower beside the
# minimum than in it; only $2/\mu^\dagger$, with the constant of a whole region, promises escape, and it promises it late. And beyond $\mu_\star/L^2$ iterates swing over 0, and the
# sharp bowl throws some of them back onto the plateau.
#
# ### Explore
#
# Choose a function, drag the step size (in units of $2/f''$ at its sharpest minimum), click a start and see whether it escapes.
#
# ```{basin-explorer} flat_and_sharp f_tm returning two_bowls_1d four_wells two_bowls_2d
# The explorer needs JavaScript. {ref}`Figure 8 <fig-large_learning_rates-fig8>` shows the shares of the starts.
# ```

# %% [markdown]
# ## A sharp region around the global minimum (paper, figure 2 and appendix F)
#
# *Paper, appendix F.* If the sharp region lies around the global minimum itself, escaping from it helps little: gradient descent keeps returning, and never converges. That is
# why Lemma 1 asks for a distance between the minima. We take $50x^2$ for $|x|<1$ and $\tfrac12x^2 + 49.5$ outside.
# A step multiplies $x$ by $1-100\gamma$ in the sharp region and by $1-\gamma$ outside. If gradient descent returns for ever, $\log|x|$ must neither grow nor fall
# in the long run, so that the share $p$ of the iterates in the sharp region balances the two:
#
# ```{math}
# :label: mohtashami-balance
# p\,\log|1-100\gamma| + (1-p)\log(1-\gamma) = 0 .
# ```

# %%
fig2 = collect(experiments["fig2"])
fig2_scan, fig2_plain = collect(experiments["fig2_scan"])

# %% tags=["hide-input"]
with panels(
    1, 2, name="fig2", runs=[*fig2, fig2_scan, fig2_plain],
    caption=r"Figure 2. A sharp bowl around the global minimum. Left: iterates from 7 below and above the threshold 2/100 of the sharp region (orange). "
    "Right: the share of all iterates that lie in it, with it and without.",
    alt="Left, one trajectory settles at zero, the other is thrown out of the orange band again and again. Right, the share is near one "
    "without the sharp region and below a third with it, from the threshold on.",
) as (left, right):  # fmt: skip
    for run, colour in zip(fig2, (BLUE, VERMILION), strict=False):
        left.plot(run.trace.step, run.trace.theta[:, 0], ".-", color=colour, linewidth=0.7, markersize=3, label=rf"$\gamma = {run.step_size:g}$")
    left.axhspan(-1, 1, color=ORANGE, alpha=0.25, linewidth=0)
    left.set(xlabel="step $t$", ylabel="$x_t$", ylim=(-10, 16))
    left.legend(loc="upper right", ncols=2)
    for run, colour, label in ((fig2_scan, VERMILION, "with"), (fig2_plain, BLUE, "without")):
        right.semilogx(run.trace.eta, shares(run, "inside"), ".-", color=colour, label=f"{label} the sharp region")
    threshold(right, 2 / 100, r"$2/\mu^\dagger$")
    right.set(xlabel=r"step size $\gamma$", ylabel="share of the iterates in $(-1, 1)$", ylim=(0, 1.05))
    right.legend()

# %% tags=["hide-input"]
returning = fig2_scan.trace.eta.values > 2 / 100


def at_each(run, values):
    """Cases: a value for each step size above the threshold."""
    return {f"γ = {eta:.3g}": v for eta, v in zip(run.trace.eta.values[returning], values[returning], strict=True)}


def balanced(gamma):
    """The share of the iterates in the sharp region that balances what it gains there with what it loses outside."""
    gamma = gamma.astype(np.float64)
    grows, shrinks = np.log(abs(1 - 100 * gamma)), np.log(1 - gamma)
    return -shrinks / (grows - shrinks)


def over_balanced(run):
    return shares(run, "inside") / balanced(run.trace.eta.values)


claims.measure(
    "fig2/keeps-returning", at_each(fig2_scan, over_balanced(fig2_scan)), [fig2_scan],
    control=at_each(fig2_plain, over_balanced(fig2_plain)),
)  # fmt: skip
claims.measure(
    "fig2/never-converges", at_each(fig2_scan, shares(fig2_scan, region=1)), [fig2_scan],
    control=at_each(fig2_plain, shares(fig2_plain, region=1)),
)  # fmt: skip

# %% [markdown]
# ## The class of functions that gradient descent escapes (paper, Lemma 1, Theorem 1, figure 4)
#
# *Paper, section 4.1.* Around $x^\dagger$ lies a region $M$ of diameter $r$, on which $f$ is $\mu^\dagger$-one-point-strongly convex towards $x^\dagger$; around $M$, and in Theorem 1
# everywhere else, $f$ is $L$-smooth and $\mu_\star$-one-point-strongly convex towards $x_\star$. If $\mu^\dagger > 2L^2/\mu_\star$ and $x^\dagger$ is far enough from $x_\star$,
#
# ```{math}
# :label: mohtashami-far
# \|x^\dagger - x_\star\| \ge r\,\frac{1 + \sqrt{(\gamma^2L_{\mathrm{global}}^2 - 3)(1-\gamma\mu_\star)}}{1 - \sqrt{1-\gamma\mu_\star}} ,
# ```
#
# then gradient descent with {eq}`mohtashami-thresholds` leaves $M$ for a point nearer to $x_\star$ than $\|x^\dagger-x_\star\| - r$, and by Theorem 1 converges to $x_\star$; with $\gamma<\mu^\dagger/L_{\mathrm{global}}^2$
# it converges from $M$ to $x^\dagger$.
#
# As stated no differentiable function is of this class: where the segment from $x^\dagger$ to $x_\star$ leaves $M$, the gradient would have to point away from both
# ([errata](../book/errata.md)). The proof needs smoothness on $M$ and outside of it only, not across its boundary. So we take the smaller of two bowls,
# $\min(\tfrac L2\|x\|^2,\ \tfrac{\mu^\dagger}2\|x-x^\dagger\|^2 + c)$, with $L = 1$, $\mu^\dagger = L_{\mathrm{global}} = 100$ and $\|x^\dagger\| = 10$, in 1, 2 and 10 dimensions. $M$ is the ball in which the sharp one is lower.

# %%
thm1, thm1_anywhere = collect(experiments["thm1"]), collect(experiments["thm1_anywhere"])

# %% tags=["hide-input"]
bowls = BOWLS[1]
with panels(
    1, 2, name="thm1", runs=thm1,
    caption=r"Theorem 1. Left: share of the starts in $M$ that converge to $x_\star$, against the step size; dashed the theorem's thresholds, the last where {eq}`mohtashami-far` begins to hold. "
    r"Right: $\|x^\dagger-x_\star\|$ over the distance of {eq}`mohtashami-far`.",
    alt="Left, three curves rise from zero between 0.01 and 0.02 and are one from 0.02 on. Right, a curve that exceeds one only near "
    "the largest step size.",
) as (left, right):  # fmt: skip
    for run, colour in zip(thm1, (BLUE, ORANGE, GREEN), strict=False):
        left.semilogx(run.trace.eta, shares(run, region=3), ".-", color=colour, label=f"$d = {len(run['box'])}$")
    for gamma, text in ((0.01, r"$\mu^\dagger/L_{\mathrm{global}}^2$"), (0.02, r"    $2/\mu^\dagger$"), (0.93, "")):
        threshold(left, gamma, text)
    left.set(xlabel=r"step size $\gamma$", ylabel=r"share that ends at $x_\star$")
    left.legend()
    gamma = np.geomspace(0.0201, 1, 400)
    right.loglog(gamma, [escape.far_enough(bowls, g) for g in gamma], color=BLUE)
    right.axhline(1, **DASHED)
    right.set(xlabel=r"step size $\gamma$", ylabel="distance over what is asked")

# %% tags=["hide-input"]
display(
    HTML(
        pd.DataFrame(
            {"function": name, "smallest step size that escapes, over 2/λ_max(x†)": f"{ratio:.4f}"}
            for name, ratio in bisected.items()
        ).to_html(index=False)
    )
)

# %% tags=["hide-input"]


def extreme(runs, of, region, where, which=min):
    """By dimension, the smallest (or largest) share over the step sizes at which `where` holds."""
    found = {}
    for run in runs:
        share = shares(run, of, region)[where(run.trace.eta.values)]
        found[f"d = {len(run['box'])}"] = which(share)
    return found


def above(gamma):
    return gamma > 0.02


def below(gamma):
    return gamma < 0.02


nearer = partial(extreme, thm1, "enter", 2)
claims.measure("lem1/escapes", nearer(lambda gamma: gamma >= 0.95), thm1, control=nearer(below))
claims.measure(
    "lem1/beyond-its-conditions", nearer(lambda gamma: above(gamma) & (gamma <= 0.9)), thm1, control=nearer(below)
)
claims.measure(
    "thm1/large",
    {f"{where}, {d}": share for where, runs in (("in M", thm1), ("anywhere", thm1_anywhere)) for d, share in extreme(runs, "ends_inside", 3, above).items()},
    thm1 + thm1_anywhere, control=extreme(thm1, "ends_inside", 3, below),
)  # fmt: skip
claims.measure(
    "thm1/small", extreme(thm1, "ends_inside", 1, lambda gamma: gamma < 0.01), thm1,
    control=extreme(thm1, "ends_inside", 1, above, max),
)  # fmt: skip
claims.measure(
    "thm1/threshold-is-tight", {name: ratio for name, ratio in bisected.items() if name.startswith("bowls")},
    control={"appendix J": bisected["appendix J"]},
)  # fmt: skip

# %% [markdown]
# Theorem 1 holds, and more widely than it says. Its distance {eq}`mohtashami-far` is met only near the largest step size, but all starts escape and converge from $2/\mu^\dagger$ on: a
# start that leaves $M$ on the far side comes back into it, and leaves it again, until it comes out on the near side. For a quadratic bowl the threshold is exact. Between $\mu^\dagger/L_{\mathrm{global}}^2$ and
# $2/\mu^\dagger$, of which the theorem says nothing, some starts near the edge of $M$ escape, the more the higher the dimension, because $x^\dagger$ is not the centre of $M$.

# %% [markdown]
# ## Avoiding a region (paper, Lemma 2 and Theorem 2)
#
# *Paper, section 4.2.* How likely do starts in a set $W$ meet a set $X$? If $f$ is $L$-smooth outside of $X$ and $\gamma\le 1/(2L)$, a step shrinks volumes at most by the factor $2^d$; so in the first $T$ steps a share of at most
#
# ```{math}
# :label: mohtashami-lemma2
# 2^{(T+1)d}\,\frac{\mathcal L(X)}{\mathcal L(W)}
# ```
#
# meets $X$, with $\mathcal L$ the volume (Lemma 2). Where $f$ is one-point-strongly convex towards $x_\star$, the iterates are soon nearer to $x_\star$ than $X$ is, and a share of at most
#
# ```{math}
# :label: mohtashami-theorem2
# 2^d\Bigl(\frac{r_W}{c_X}\Bigr)^{-d/\log_2(1-\gamma\mu_\star)}\,\frac{\mathcal L(X)}{\mathcal L(W)}
# ```
#
# meets it at all (Theorem 2, for $\gamma\le\mu_\star/L^2$), $r_W$ being the largest distance of $W$ from $x_\star$ and $c_X$ the smallest of $X$. We count, with $X = M$ of the two bowls and $W$ a box beyond it, and give each share its exact binomial interval.

# %%
lem2, thm2 = collect(experiments["lem2"]), collect(experiments["thm2"])
crawling, shrinking = collect(experiments["thm2_crawling"]), collect(experiments["thm2_shrinking"])

# %% tags=["hide-input"]


def volumes(run):
    """𝓛(X)/𝓛(W)."""
    d, ((_, r),) = len(run["box"]), run["balls"]
    return math.pi ** (d / 2) / math.gamma(d / 2 + 1) * r**d / math.prod(high - low for low, high in run["box"])


def lemma_2(run):
    """The bound of Lemma 2, the same at all step sizes."""
    return np.full(len(run.trace.eta), 2.0 ** ((run["iterations"] + 1) * len(run["box"])) * volumes(run))


def theorem_2(run):
    """The bound of Theorem 2 at each step size; L = μ⋆ = 1."""
    d, (((c, *_), r),) = len(run["box"]), run["balls"]
    r_W = math.hypot(*(max(abs(low), abs(high)) for low, high in run["box"]))
    gamma = run.trace.eta.values.astype(np.float64)  # recorded in single precision, which the bound exceeds
    return 2**d * (r_W / (c - r)) ** (-d / np.log2(1 - gamma)) * volumes(run)


def exact_share(run):
    """In one dimension: the share of W that lies in a preimage of X, under x ↦ (1 − γ)x."""
    ((low, high),), (((c,), r),) = run["box"], run["balls"]
    found = []
    for gamma in run.trace.eta.values:
        pieces, end = 0.0, low
        for t in range(run["iterations"] + 1):  # the preimages move outwards; they may overlap
            left, right = ((c + side * r) / (1 - gamma) ** t for side in (-1, 1))
            left, right = max(left, end), min(right, high)
            if right > left:
                pieces, end = pieces + right - left, right
        found.append(pieces / (high - low))
    return np.array(found)


def over(run, bound):
    """The lower end of the 99 % interval of the share, over a bound, at each step size."""
    return interval(shares(run, "enter"), run["runs"], 0.99)[0] / bound(run)


def looseness(run, bound):
    """A bound, or 1 where it is more, over the upper end of the same interval."""
    return np.minimum(bound(run), 1) / interval(shares(run, "enter"), run["runs"], 0.99)[1]


# %% tags=["hide-input"]
with panels(
    1, 3, name="thm2", runs=thm2, sharey=True, height=2.8,
    caption=rf"Theorem 2. Share of {thm2_starts:,} starts that meet $X$ (dots, with 99 % intervals) and the bound {{eq}}`mohtashami-theorem2` (lines; where it exceeds 1 it says nothing), against the step size, "
    r"for boxes $W$ of three lengths. In ten dimensions the lines lie above the picture.",
    alt="Dots fall with the step size and lie below the lines, which are above one at all but the largest step sizes.",
) as axes:  # fmt: skip
    for ax, d in zip(axes, BOWLS, strict=True):
        for run, colour in zip((r for r in thm2 if len(r["box"]) == d), (BLUE, ORANGE, GREEN), strict=False):
            gamma, share = run.trace.eta.values, shares(run, "enter")
            low, high = interval(share, run["runs"], 0.99)
            ax.errorbar(gamma, share, [share - low, high - share], fmt="o", color=colour, markersize=4)
            ax.loglog(gamma, theorem_2(run), color=colour, label=f"to {run['box'][0][1]:g}")
        ax.axhline(1, **DASHED)
        ax.set(title=f"$d = {d}$", xlabel=r"step size $\gamma L$", ylim=(1e-5, 30))
        ax.set_xticks([1 / 16, 1 / 8, 1 / 4, 1 / 2], ["1/16", "1/8", "1/4", "1/2"])
        ax.minorticks_off()
    axes[0].set(ylabel="share that meets $X$")
    if thm2:
        axes[0].legend(title="$W$ from 10.5", loc="lower left")

# %% tags=["hide-input"]


def cases(runs, values):
    """A case for each run and step size."""
    return {
        f"d = {len(run['box'])}, W to {run['box'][0][1]:.3g}, T = {run['iterations']}, γ = {eta:.3g}": value
        for run in runs
        for eta, value in zip(run.trace.eta.values, values(run), strict=True)
    }


def over_telling(runs, bound):
    """`over` in those cases in which the bound says something: where it is below 1, which no share exceeds."""
    below_1 = cases(runs, lambda run: bound(run) < 1)
    return {case: value for case, value in cases(runs, lambda run: over(run, bound)).items() if below_1[case]}


def lemma_2_in_one_step(run):
    return np.full(len(run.trace.eta), 4.0 ** len(run["box"]) * volumes(run))


claims.measure(
    "lem2/bound-holds", over_telling(lem2, lemma_2), lem2,
    control=over_telling(shrinking, lemma_2_in_one_step),  # within one step all of W is in X
)  # fmt: skip
claims.measure(
    "thm2/bound-holds", over_telling(thm2, theorem_2), thm2, control=over_telling(shrinking, theorem_2)
)
claims.measure(
    "thm2/up-to-its-largest-step-size", over_telling(shrinking, theorem_2), shrinking, "A step takes all of W into X."
)
claims.measure(
    "thm2/less-with-larger-steps",
    {f"γ up to {run.step_size:g}": shares(run, "enter") for run in thm2 if len(run["box"]) == 1 and run["box"][0][1] == 20},
    thm2, control={f"γ up to {run.step_size:g}": shares(run, "enter") for run in crawling},
)  # fmt: skip
claims.measure(
    "thm2/loose", cases(thm2, lambda run: looseness(run, theorem_2)), thm2,
    control=cases([r for r in thm2 if len(r["box"]) == 1], lambda run: looseness(run, exact_share)),
)  # fmt: skip

# %% [markdown]
# Up to $\gamma = 1/(2L)$ the bounds hold, and say little. That of Lemma 2 grows like $2^{Td}$ while the share stops growing as soon as all iterates have passed $X$; small step
# sizes and high dimensions make that of Theorem 2 exceed 1. Beyond $1/(2L)$, where its proof still refers to Lemma 2, Theorem 2 is false. Take $\gamma = 0.9/L$: outside of $M$ a step multiplies $x$ by $0.1$, so $W = 10M$ is shrunk into $M$
# and all its starts meet $X$, where {eq}`mohtashami-theorem2` promises less than one half, in ten dimensions a few hundredths. A proof that keeps the factor $(1-\gamma L)^{-d}$ by
# which a step shrinks volumes, in place of $2^d$, has no such gap ([errata](../book/errata.md)).

# %% [markdown]
# ## Noise cannot replace the step size (paper, section 4.3, figure 6, Proposition 3, Theorem 4)
#
# *Paper, section 4.3.* SGD is $x_{t+1} = x_t - \gamma(\nabla f(x_t) + \xi_t)$, $\xi_t$ uniform on $[-\sigma,\sigma]$. The function $f_{tm}$ has the global minimum $x_\star = 0$, of curvature 2, and a sharp one, $x^\dagger = 4.1$, of curvature 900, with a steep
# wall between them. Noise that is strong enough to lead a small step out of $M^\dagger = (3.7, 4.5)$ would lead it out of $M_\star = (-2.9, 2.9)$, too; a large step leaves $M^\dagger$ without noise. Proposition 3: with $\gamma<1/900$ SGD does
# not converge to $x_\star$, whatever $\sigma$; with $0.4\le\gamma\le0.5$ it does, for some $\sigma$ (its proof takes $5.1<\sigma<5.5$). *Converge* means here, as in its proof, to enter $M_\star$ and stay in it; we ask for the whole second half of a run.
#
# With noise that is bounded both can be computed. For $\gamma\le1/900$ a step from $M^\dagger$ ends at most at the distance $(1-900\gamma)\,0.4 + \gamma\sigma$ from 4.1. So SGD never leaves $M^\dagger$ if
#
# ```{math}
# :label: mohtashami-frontiers
# \sigma \le \mu^\dagger r = 900\cdot0.4 = 360 ,
# ```
#
# and never leaves $M_\star$ if $\sigma\le2\cdot2.9 = 5.8$; above, some run of noise of one sign leads out of it. No $\sigma$ lets SGD out of the one and keeps it in the other. That proves the first half of Proposition 3, with frontiers that do not depend on $\gamma$; those of Theorem 4, on
# which its proof relies, do.

# %%
fig6, small, large = (
    {name: run for name, one in zip(noises, experiments[which], strict=False) for run in collect([one])}
    for which in ("fig6", "prop3_small", "prop3_large")
)  # fmt: skip
one_step, many_steps = collect(experiments["thm4"])

# %% tags=["hide-input"]
titles = {"uniform": "uniform noise", "normal": "normal noise", "momentum": "uniform, momentum 0.9"}
with panels(
    2, 3, name="fig6", runs=list(fig6.values()), height=2.4, sharex=True, sharey=True,
    caption=rf"Figure 6. SGD on $f_{{tm}}$ from $M^\dagger$ over step size and noise: share of {fig6_runs} runs of {fig6_iterations:,} steps that lie in $M_\star$ throughout the second half (top), and that never leave $M^\dagger$ (bottom); blue none, yellow all. "
    r"Dashed: $\gamma = 1/900$ and $0.4$, the bounds of Proposition 3, and $\sigma = 5.8$ and $360$ of {eq}`mohtashami-frontiers`; dotted the frontier of Theorem 4 for $M^\dagger$.",
    alt="Top, a block of ones at step sizes above 0.003 and noise below a frontier that falls with the step size; else zeros. Bottom, a block of ones at step "
    "sizes below 0.002 and noise below 360.",
) as axes:  # fmt: skip
    for column, (name, run) in enumerate(fig6.items()):
        gamma, sigma = np.log10(run.trace.eta.values), np.log10(run["noise_sizes"])
        for ax, region, of in ((axes[column], 0, "stay"), (axes[3 + column], 1, "never_leave")):
            ax.imshow(
                run.trace[of].values[:, :, region].T, origin="lower", extent=(gamma[0], gamma[-1], sigma[0], sigma[-1]),
                aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest",
            )  # fmt: skip
            for bound in (1 / 900, 0.4):
                ax.axvline(math.log10(bound), color="white", linestyle="--", linewidth=0.9)
            ax.axhline(math.log10((5.8, 360)[region]), color="white", linestyle="--", linewidth=0.9)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(MultipleLocator(1))
                axis.set_major_formatter(lambda x, _: f"$10^{{{x:.0f}}}$")
        by_theorem_4 = np.array([1e-4, 1 / 1800])
        axes[3 + column].plot(np.log10(by_theorem_4), np.log10(12 * (3 / by_theorem_4) ** 0.5), color="white", linestyle=":")
        axes[column].set(title=titles[name])
        axes[3 + column].set(xlabel=r"step size $\gamma$")
    axes[0].set(ylabel=r"$\sigma$; stays in $M_\star$")
    axes[3].set(ylabel=r"$\sigma$; never left $M^\dagger$")

# %% tags=["hide-input"]
with panels(
    1, 2, name="exit", runs=[*fig6.values(), *small.values()],
    caption=rf"At $\gamma = 1/1000$, against the noise. Left: mean number of steps in $M^\dagger$ before SGD leaves it ({fig6_iterations:,} where it never does), at the step size of the diagram next to it. Right: share "
    r"of all iterates in $M_\star$. Dashed: $\sigma = 360$.",
    alt="Left, curves that fall from the largest number to one at noise of some hundreds. Right, a curve that rises at 360 to a half "
    "and falls again.",
) as (left, right):  # fmt: skip
    for (name, run), colour in zip(fig6.items(), (BLUE, GREEN, ORANGE), strict=False):
        column = int(np.argmin(abs(np.log(run.trace.eta.values * 1000))))
        left.loglog(run["noise_sizes"], run.trace.first_stay.values[column, :, 1], ".-", color=colour, label=titles[name])
    for run, colour in zip(small.values(), (BLUE, GREEN), strict=True):
        right.semilogx(run["noise_sizes"][3:], run.trace.inside.values[0, 3:, 0], ".-", color=colour)
    for ax in (left, right):
        ax.axvline(360, **DASHED)
        ax.set(xlabel=r"size of the noise $\sigma$")
    left.set(ylabel=r"steps in $M^\dagger$")
    right.set(ylabel=r"share of the iterates in $M_\star$", ylim=(0, 1))
    if fig6:
        left.legend(loc="lower left")

# %% tags=["hide-input"]
f_tm = landscapes.get("f_tm")


def proved(stronger):
    """Whether each of the paper's constants of f_tm is proved, made stronger by this factor."""
    stated = {
        "x < 2.9": (0.0, -50.0, 2.9, 0.99, 2.0), "x > 3.7": (4.1, 3.7, 50.0, 900.0, 900.0), "x > 3.108": (4.1, 3.108, 50.0, 4.5, 900.0),
    }  # fmt: skip
    found = {}
    for name, (towards, low, high, mu, L) in stated.items():
        proofs = escape.certify(f_tm, towards, low, high, mu * stronger * (1 - 1e-9), L / stronger * (1 + 1e-9))
        found[name] = all(proof.proved for proof in proofs.values())
    return found


def settles(run, step=slice(None)):
    """The share of the runs that lie in M⋆ throughout the second half, (step sizes, sizes of the noise)."""
    return run.trace.stay.values[step, :, 0]


claims.measure("prop3/constants", proved(1), control=proved(1.1))
claims.measure(
    "prop3/small-steps-fail", {"uniform": settles(small["uniform"]).max()}, [small["uniform"]],
    control={"γ = 0.45": settles(large["uniform"], step=1).max()},
)  # fmt: skip
claims.measure(
    "prop3/large-steps-succeed",
    {f"γ = {g:.3g}, σ = {s:g}": settles(large["uniform"])[i, j] for i, g in enumerate(large["uniform"].trace.eta.values) for j, s in enumerate(large["uniform"]["noise_sizes"]) if s > 5},
    [large["uniform"]], control={f"σ = {s:g}": settles(small["uniform"])[0, j] for j, s in enumerate(small["uniform"]["noise_sizes"][:3])},
)  # fmt: skip


def smallest_success(run, noise):
    """The smallest step size from which on all runs, with all of these sizes of the noise, come to stay in M⋆, over
    2/μ†."""
    all_stay = (settles(run)[:, noise(np.array(run["noise_sizes"]))] == 1).all(1)
    first = len(all_stay) - np.argmin(all_stay[::-1]) if not all_stay.all() else 0
    return run.trace.eta.values[first] * 900 / 2 if first < len(all_stay) else math.inf


plainly = {name: run for name, run in fig6.items() if name == "uniform"}
claims.measure(
    "prop3/already-at-smaller-steps",
    {name: smallest_success(run, lambda sigma: sigma <= 5.8) for name, run in plainly.items()}, list(plainly.values()),
    control={name: smallest_success(run, lambda sigma: sigma >= 30) for name, run in plainly.items()},
)  # fmt: skip
left_by = {T: 1 - run.trace.never_leave.values[0, :, 1] for T, run in ((1, one_step), (1000, many_steps))}
claims.measure("prop3/frontier", {"": left_by[1000][0]}, [many_steps], control={"": left_by[1000][1]})
claims.measure("thm4/one-step", {"": 1 - left_by[1][2]}, [one_step], control={"": 1 - left_by[1][3]})
claims.measure("thm4/remains", {"": 1 - left_by[1000][2]}, [many_steps], "Every run has left.")
claims.measure("thm4/escapes", {"": left_by[1000][4]}, [many_steps], control={"": left_by[1000][0]})
claims.measure(
    "fig6/normal-noise", {"normal": settles(small["normal"]).max()}, [small["normal"]],
    control={"γ = 0.45": settles(large["normal"], step=1).max()},
)  # fmt: skip


def at_large_steps(run):
    """The largest share of a cell's runs that come to stay in M⋆, at step sizes of at least 0.02."""
    return settles(run, step=run.trace.eta.values >= 0.02).max()


heavy = {name: run for name, run in fig6.items() if name == "momentum"}
claims.measure(
    "fig6/momentum", {name: at_large_steps(run) for name, run in heavy.items()}, list(heavy.values()),
    control={name: at_large_steps(run) for name, run in plainly.items()},
)  # fmt: skip

# %% [markdown]
# Proposition 3 holds. The diagram shows more. What separates success from failure is not 0.4 but some 0.003, a third above $2/900$, where gradient descent without any noise begins to leave $M^\dagger$; and the larger the step size, the less noise it
# bears. Small steps with strong noise do spend up to half of their time in $M_\star$ (right), for the wall between the minima keeps them on its side of it; they do not stay. (The faint cloud at the smallest step sizes is a matter of patience: a thousand steps are few there.) With normal noise the picture is the same, its edges blurred: it has no frontier that it could not cross some day.
# With momentum 0.9 only a strip of moderate step sizes is left. A larger step leaves $M^\dagger$ as before, but the velocity it gains carries the iterate through $M_\star$ and back against the wall, which throws it out again, at last beyond all bounds.
#
# Theorem 4 fares worse. Its first half gives a probability above 1; corrected to what Markov's inequality gives, $\gamma\mu^\dagger/2$, it is a statement on one step, and within a thousand steps every run has left.

# %% [markdown]
# ## Two dimensions (paper, figure 9, appendix K)
#
# *Paper, appendix K.* $f(x,y) = x^2+y^2 - 200\,b(|x|)\,b(|y|)$ with $b(u) = \max(u-1,0)\max(2-u,0)$ has four sharp wells around $(\pm1.5, \pm1.5)$ in a bowl. From $[3,4]^2$ small steps end in a well, larger ones escape from it, and still larger ones jump
# over it, to the global minimum $(0,0)$.

# %%
fig9 = collect(experiments["fig9"])

# %% tags=["hide-input"]
wells = landscapes.get("four_wells")
well = torch.tensor(wells.minimisers[-1], dtype=torch.float64)
with panels(
    1, 2, name="fig9", runs=fig9, height=3,
    caption=rf"Figure 9. Left: the function (dark is low), the box of the starts, the minima. Right: share of {fig9_starts:,} starts that ends in a well and at $(0,0)$, and that ever "
    r"enters the well; dashed $2/\lambda_{\max}$ at its bottom.",
    alt="Left, a bowl with four dark wells. Right, the share in the well is one up to the threshold and then zero; the share that enters "
    "it falls later.",
) as (left, right):  # fmt: skip
    axis = np.linspace(-4.2, 4.2, 300)
    x, y = np.meshgrid(axis, axis)
    left.contourf(x, y, wells.f(torch.tensor(np.stack([x, y], -1))), levels=24, cmap="Greys_r")
    left.add_patch(Rectangle((3, 3), 1, 1, fill=False, color=VERMILION))
    left.plot(*zip(*wells.minimisers, strict=True), "*", color="white", markeredgecolor="black", markersize=8)
    left.set(xlabel="$x$", ylabel="$y$", aspect="equal")
    for run in fig9:
        for of, region, colour, label in (
            ("ends_inside", 0, ORANGE, "ends in the well"), ("enter", 0, SKY, "ever enters it"), ("ends_inside", 1, BLUE, "ends at (0, 0)"),
        ):  # fmt: skip
            right.semilogx(run.trace.eta, shares(run, of, region), ".-", color=colour, label=label)
    threshold(right, 2 / wells.sharpness(well).item(), r"$2/\lambda_{\max}$")
    right.set(xlabel=r"step size $\gamma$", ylabel="share of the starts")
    if fig9:
        right.legend(loc="center left")

# %% tags=["hide-input"]


def at_end(region, end):
    """The share that ends in the well (0) or at (0, 0) (1), at the smallest (0) or the largest (−1) step size."""
    return {f"γ = {run.trace.eta.values[end]:.3g}": shares(run, region=region)[end] for run in fig9}


claims.measure("fig9/small-steps", at_end(0, 0), fig9, control=at_end(0, -1))
claims.measure("fig9/large-steps", at_end(1, -1), fig9, control=at_end(1, 0))
claims.measure(
    "fig9/global-minimum", {"": (wells.f(0 * well) - wells.f(well)).item()}, note="The wells are deeper."
)

# %% [markdown]
# All as the paper says, but one: the bottom of a well lies below $(0,0)$, where $f = 0$; at $(1.5,1.5)$ already $f = 4.5 - 12.5 = -8$. The "global minimum" of this appendix is the flat one, not the lowest (the paper's footnote 1 allows for that use of the word).

# %% [markdown]
# ## The noise of many small steps (paper, appendix G)
#
# *Paper, appendix G.* Let $f = \frac1N\sum_i f_i$ and $\sigma^2$ be the variance of $\nabla f_i$. One step of size $k\gamma$ has noise of variance $k^2\sigma^2$ (in units of $\gamma^2$); $k$ steps of size $\gamma$ with a fresh $f_i$ each have $k\sigma^2$ only; with the same
# $f_i$ in all of them, *SGD with repeats*, the noise is that of the large step again. This holds as long as the gradients hardly change within $k$ steps. On quadratics $f_i$ of one curvature $a$ it can be said exactly: a noise $\xi$ of step $j$ has shrunk to $(1-\gamma a)^{k-1-j}\xi$ at the last step, so that the variances are
#
# ```{math}
# :label: mohtashami-repeats
# \sigma^2\sum_{j<k}(1-\gamma a)^{2j} \quad\text{(fresh)},\qquad \sigma^2\Bigl(\sum_{j<k}(1-\gamma a)^j\Bigr)^2 \quad\text{(repeated)} .
# ```

# %% tags=["hide-input"]


def noise_variance(k, step, repeated, samples, seed=0, functions=64):
    """The variance of (x_{t+k} − x_t)/γ over σ², of k steps on quadratics f_i of curvature a with γa = `step`, each with
    a fresh one or all with the same; sampled with replacement, a = 1."""
    generator = np.random.default_rng(seed)
    slopes = generator.standard_normal(functions)  # ∇f_i(x) = x + slope
    slopes -= slopes.mean()
    x = np.zeros(samples)
    chosen = generator.integers(functions, size=samples)
    for j in range(k):
        if j and not repeated:
            chosen = generator.integers(functions, size=samples)
        x = x - step * (x + slopes[chosen])
    return (x / step).var() / slopes.var()


def closed_form(k, step, repeated):
    shrunk = (1 - step) ** np.arange(k)
    return shrunk.sum() ** 2 if repeated else (shrunk**2).sum()


# %% tags=["hide-input"]
with panels(
    1, 2, name="appg", sharey=True,
    caption=r"Appendix G. Variance of the noise of $k$ small steps, in units of $\sigma^2$: sampled (dots) and {eq}`mohtashami-repeats` (lines); dashed $k$ and $k^2$.",
    alt="Dots on two lines, which grow like k and like its square while the step is small, and less when it is larger.",
) as axes:  # fmt: skip
    for ax, step in zip(axes, (0.001, 0.1), strict=True):
        k = np.arange(1, max(appg_k) + 1)
        for repeated, colour, label in ((True, VERMILION, "the same sample"), (False, BLUE, "fresh samples")):
            ax.loglog(k, [closed_form(i, step, repeated) for i in k], color=colour, label=label)
            ax.loglog(appg_k, [noise_variance(i, step, repeated, appg_samples) for i in appg_k], "o", color=colour)
            ax.loglog(k, k.astype(float) ** (1 + repeated), **DASHED)
        ax.set(title=rf"$\gamma a = {step:g}$", xlabel="small steps $k$")
    axes[0].set(ylabel=r"variance / $\sigma^2$")
    axes[0].legend()

# %% tags=["hide-input"]
several = [k for k in appg_k if k > 1]
claims.measure(
    "appg/fresh", {f"k = {k}": noise_variance(k, 0.001, False, appg_samples) / k for k in several},
    control={f"k = {k}": noise_variance(k, 0.001, True, appg_samples) / k for k in several},
)  # fmt: skip
one_large = {k: k**2 * noise_variance(1, k * 0.001, False, appg_samples, seed=1) for k in several}  # other draws
claims.measure(
    "appg/repeats", {f"k = {k}": noise_variance(k, 0.001, True, appg_samples) / one_large[k] for k in several},
    control={f"k = {k}": noise_variance(k, 0.001, False, appg_samples) / one_large[k] for k in several},
)  # fmt: skip
of_both = {f"k = {k}, {'repeated' if r else 'fresh'}": (k, r) for k in several for r in (False, True)}
claims.measure(
    "appg/closed-form", {case: noise_variance(k, 0.1, r, appg_samples) / closed_form(k, 0.1, r) for case, (k, r) in of_both.items()},
    control={case: noise_variance(k, 0.1, r, appg_samples) / k ** (1 + r) for case, (k, r) in of_both.items()},
)  # fmt: skip

# %% [markdown]
# ## Networks
#
# *Paper, section 5.* A ResNet-18 without normalisation layers learns to classify images. SGD with step size $\gamma$ adds $\gamma\xi_t$ to each step, $\xi_t$ the
# error of the minibatch's gradient, so a smaller step has less noise, too. *SGD with repeats* tells the two apart: at $\gamma/k$ each minibatch serves for $k$ steps in a row,
# whose errors add up to that of one large step. Three regimes are compared from the same initialisation, those with repeats in the same order of the minibatches:
#
# - *large*: the step size $\gamma$;
# - *small*: $\gamma/k$, in $k$ times as many epochs;
# - *repeats*: $\gamma/k$ with $k$ repeats, then a few epochs in which each minibatch is seen once.
#
# Momentum is 0.9, weight decay $5\cdot10^{-4}$, and the step size falls to a tenth after 40, 60 and 80 % of the epochs. The paper trains a network of 64 to 512 channels
# on all of CIFAR-10 in 200 epochs, with $\gamma = 0.01$ and $k = 10$; batch size and augmentation are in no text. Our `standard` has a narrow network (8 to 64 channels), 2,000
# images, 40 epochs, $k = 4$, minibatches of 32, no augmentation, and $\gamma = 0.05$: at twice that the network died in a trial. At `quick` a network of one stage and
# tanh learns digits, in so few steps that the regime with fewest of them, the large step size, has learnt least: a toy that shows the code, not the gap. A gap is a difference of test accuracies at the end of training; its error is that of the mean over seeds or, of a single seed, that of counting right answers.

# %% tags=["experiments", "hide-input"]
from eoslib.chapter.experiments import Together
from eoslib.dynamics.rules import Rule, Schedule
from eoslib.measure.curvature import Sharpness
from eoslib.measure.directions import Line
from eoslib.measure.progress import HeldOut, Loss, Progress
from eoslib.problems.batches import Batches
from eoslib.problems.problem import Data, Network, Training

DECAY = 5e-4  # of the weights


def network(n=net_n, dataset=net_dataset):
    """The loss of a residual network without normalisation on the first n images."""
    data = Data(dataset=dataset, n=n, standardisation="per-channel")
    resnet = Network(architecture="resnet18", sizes={"widths": list(net_widths), "norm": "none"}, activation=net_activation)
    return Training(data=data, network=resnet, loss="cross-entropy")


def rule(momentum, weight_decay):
    """SGD of PyTorch."""
    return Rule(name="SGD", options={"momentum": momentum, "weight_decay": weight_decay})


images, fewer, usual = network(), network(fig11_n, fig11_dataset), rule(0.9, DECAY)


def batches(repeats, repeat_epochs=None):
    """Each minibatch in so many steps."""
    return Batches(batch_size=net_batch_size, repeats=repeats, repeat_epochs=repeat_epochs, crop=net_crop, flip=net_flip)


def sgd(experiment, divisor=1, repeats=1, repeated=None, problem=images, seed=net_seeds[0], large=net_large, rule=usual, of_all=net_epochs):
    """SGD with the step size large/divisor: in divisor times as many epochs as `of_all` or, with repeats, in as many, of which the
    first, by default all, are `repeated`, and some more without. It falls to a tenth after 40, 60 and 80 % of the epochs. The run takes a step more, so that
    the end of the last epoch is measured."""
    once = -(-problem.examples // net_batch_size)  # minibatches
    epochs, repeated = of_all if repeats > 1 else divisor * of_all, repeated or of_all
    steps = once * (epochs if repeats == 1 else repeats * repeated + epochs - repeated + net_once)
    measured = (*(round(steps * i / net_measured) for i in range(net_measured)), steps)
    return Descent(
        chapter="large_learning_rates", experiment=experiment, problem=problem, seed=seed, step_size=large / divisor, steps=steps + 1, rule=rule,
        schedule=Schedule(name="MultiStepLR", options={"milestones": [epochs * i // 10 for i in (4, 6, 8)]}, advances="epoch"),
        batches=batches(repeats, repeated if repeats > 1 else None), keep=("last",),
        measurements=(Loss(every=measured), HeldOut(every=measured, examples=net_held_out)),
    )  # fmt: skip


def regimes(experiment, k=net_k, **rest):
    """The large step size; the small one; the small one with repeats."""
    return [sgd(experiment, **rest), sgd(experiment, k, **rest), sgd(experiment, k, repeats=k, **rest)]


def gd(step_size, start, start_at, steps, kept, measurements=()):
    """Gradient descent on all images of `warm`."""
    return Descent(
        chapter="large_learning_rates", experiment="fig7", problem=warm.problem, seed=warm.seed, step_size=step_size, steps=steps, start=start,
        start_at=start_at, rule=rule(0.0, DECAY), keep=kept, measurements=(Progress(), *measurements),
    )  # fmt: skip


def sharpness(at):
    """The largest eigenvalue of the Hessian at some steps."""
    return Sharpness(every=tuple(at), tolerance=0.01)


warm = Descent(
    chapter="large_learning_rates", experiment="warm", problem=network(gd_n), seed=net_seeds[0], step_size=net_large / net_k,
    steps=gd_warm_epochs * net_k * -(-gd_n // net_batch_size), rule=usual, batches=batches(net_k), keep=("last",),
    measurements=(Loss(every="end"),),
)  # fmt: skip
kept = tuple(range(0, gd_steps + 1, gd_kept))
remaining = gd_steps - gd_switch
fast = gd(gd_large, warm, "last", gd_steps, kept, (sharpness(gd_sharpness), Line(every=tuple(gd_lines))))
slow = gd(gd_small, warm, "last", gd_steps, kept, (sharpness(gd_sharpness[::3]),))
reduced = gd(gd_small, fast, gd_switch, remaining, tuple(range(0, remaining + 1, gd_kept)), (sharpness(t for t in gd_sharpness[::3] if t < remaining),))

fig5 = [run for seed in net_seeds for run in regimes("fig5", seed=seed)]
experiments |= {
    "fig5": fig5,
    "warm": [warm],
    "fig7": [slow, fast, reduced],
    "together": [Together(chapter="large_learning_rates", experiment="together", runs=(slow, fast, reduced), step_size=gd_large, steps=1)],
    "ends": [
        Descent(
            chapter="large_learning_rates", experiment="ends", problem=run.problem, seed=run.seed, step_size=run.step_size, steps=1, start=run,
            measurements=(Progress(), sharpness([0])),
        )
        for run in fig5[:3]
    ],
    "fig10": [sgd("fig10", net_k, repeats=net_k, repeated=epochs) for epochs in fig10_repeated],
    "fig12": regimes("fig12", large=fig12_large, rule=rule(0.0, 0.0), of_all=fig12_epochs),
    "fig11": regimes("fig11", problem=fewer),
    "trend": [
        *(run for k in trend_k for run in regimes("trend", k, problem=fewer)),
        *(run for n in trend_n for run in regimes("trend", problem=network(n))),
    ],
}  # fmt: skip

# %% tags=["hide-input"]
from eoslib.papers.paths import principal_components

REGIMES = {"large": BLUE, "small": ORANGE, "repeats": GREEN}


def by_regime(runs):
    """Regime → its runs, one for each seed."""
    found = {name: [] for name in REGIMES}
    for run in runs:
        largest = run.step_size == max(r.step_size for r in runs)
        found["repeats" if run["repeats"] > 1 else "large" if largest else "small"].append(run)
    return found


def final(run, name="test_accuracy"):
    """What was measured last."""
    return float(run.trace[name].dropna("step")[-1])


def counting(*accuracies):
    """Standard error of the difference of two accuracies on the held-out images."""
    return (sum(p * (1 - p) for p in accuracies) / net_held_out) ** 0.5


def gap(runs, first, second):
    """By how much one regime's final test accuracy exceeds another's: {label: mean}, {label: standard error}."""
    of = by_regime(runs)
    pairs = [(final(a), final(b)) for a, b in zip(of[first], of[second], strict=False)]
    if not pairs:
        return {}, {}
    label, gaps = f"mean of {len(pairs)} seeds" if len(pairs) > 1 else "one seed", [a - b for a, b in pairs]
    return {label: np.mean(gaps)}, {label: np.std(gaps, ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else counting(*pairs[0])}


def too_early(runs, first, second):
    """The gap, the first regime being taken where it was measured first after its start: {label: mean}."""
    of = by_regime(runs)
    gaps = [float(a.trace.test_accuracy.dropna("step")[1]) - final(b) for a, b in zip(of[first], of[second], strict=False)]
    return {f"mean of {len(gaps)} seeds" if len(gaps) > 1 else "one seed": np.mean(gaps)} if gaps else {}


def judge_gap(name, runs, first, second, control=None):
    """Measure a claim on the gap between two regimes; control: by default `too_early`."""
    cases, errors = gap(runs, first, second)
    claims.measure(name, cases, runs, errors=errors, control=control or too_early(runs, first, second))


def learnt(run):
    """By how much training itself raised the test accuracy: the control of claims that something does not."""
    return final(run) - float(run.trace.test_accuracy[0])


def epochs_seen(run, of_all=net_epochs):
    """Epochs before each measurement; at the small step size without repeats k of them count as one. of_all: epochs of the
    large one."""
    t = run.trace.test_accuracy.dropna("step").step.values
    once, repeated = -(-run["n"] // run["batch_size"]), run["repeat_epochs"] or 0
    if not repeated:
        return of_all * t / t[-1]
    return np.minimum(t / (once * run["repeats"]), repeated) + np.maximum(t / once - repeated * run["repeats"], 0)


def show_accuracies(name, runs, caption, alt, of_all=net_epochs):
    """Training and test accuracy of the three regimes: means over seeds, and bands from the least to the largest."""
    with panels(1, 2, name=name, caption=caption, alt=alt, runs=runs) as axes:
        for regime, of in by_regime(runs).items():
            for ax, which in zip(axes, ("training", "test"), strict=True):
                curves = [run.trace["test_accuracy" if which == "test" else "accuracy"].dropna("step") for run in of]
                if curves:
                    epochs = epochs_seen(of[0], of_all)
                    ax.plot(epochs, np.mean(curves, 0), color=REGIMES[regime], marker=".", label=rf"{regime}, $\gamma = {of[0].step_size:g}$")
                    ax.fill_between(epochs, np.min(curves, 0), np.max(curves, 0), color=REGIMES[regime], alpha=0.2, linewidth=0)
                ax.set(xlabel="epochs", ylabel=f"{which} accuracy")
        axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center")


# %% [markdown]
# ### SGD with repeats (paper, 5.1)

# %%
fig5, ends = collect(experiments["fig5"]), collect(experiments["ends"])

# %% tags=["hide-input"]
show_accuracies(
    "fig5", fig5,
    caption="Figure 5. Accuracy of a residual network without normalisation in three regimes of SGD: lines are means over seeds, bands reach from the least to the "
    "largest. Epochs of the small step size without repeats are divided by k; what the curve with repeats has beyond the others' end are epochs without.",
    alt="Two panels of accuracy against epochs, one curve with a band for each of the large step size, the small one, and the small one with repeats.",
)  # fmt: skip

# %% tags=["hide-input"]
judge_gap("fig5/large-beats-small", fig5, "large", "small")
judge_gap("fig5/repeats-narrow-the-gap", fig5, "repeats", "small")
judge_gap("fig5/repeats-do-not-close-it", fig5, "large", "repeats")
end_sharpness = {name: run.trace.sharpness.values[0] for name, run in zip(REGIMES, ends, strict=False)}
claims.measure(
    "fig5/small-steps-end-sharper", {name: s / end_sharpness["large"] for name, s in end_sharpness.items() if name != "large"}, ends,
    control={"repeats over small": end_sharpness["repeats"] / end_sharpness["small"]} if len(ends) == len(REGIMES) else {},
)  # fmt: skip

# %% [markdown]
# ### Stopping the repeats earlier (paper, appendix L)
#
# Many steps on one minibatch might fit it too closely. The paper therefore ends with epochs without repeats, and asks if it helps to stop them earlier.

# %%
fig10 = collect(experiments["fig10"])

# %% tags=["hide-input"]
stopped = [*fig10, *by_regime(fig5)["repeats"][:1]]
with panels(
    1, 1, name="fig10", runs=stopped,
    caption="Figure 10. Test accuracy of SGD with repeats that stop after so many epochs, beside the large step size without repeats (seed of the first run).",
    alt="Curves of test accuracy against epochs: one for each epoch at which repeats stop, and one of the large step size.",
) as (ax,):  # fmt: skip
    for run, colour in zip(stopped, (PURPLE, VERMILION, GREEN, SKY), strict=False):
        ax.plot(epochs_seen(run), run.trace.test_accuracy.dropna("step"), color=colour, marker=".", label=f"repeats stop after epoch {run['repeat_epochs']}")
    for run in by_regime(fig5)["large"][:1]:
        ax.plot(epochs_seen(run), run.trace.test_accuracy.dropna("step"), color=BLUE, marker=".", label="large step size")
    ax.set(xlabel="epochs", ylabel="test accuracy")
    ax.legend()

# %% tags=["hide-input"]
whole = by_regime(fig5)["repeats"][:1]
pairs = {f"after epoch {run['repeat_epochs']}": (final(run), final(other)) for other in whole for run in fig10}
claims.measure(
    "fig10/stopping-earlier-does-not-help", {case: a - b for case, (a, b) in pairs.items()}, [*fig10, *whole],
    errors={case: counting(*pair) for case, pair in pairs.items()}, control={f"after epoch {run['repeat_epochs']}": learnt(run) for run in whole},
)  # fmt: skip

# %% [markdown]
# ### A harder task (paper, appendix M)
#
# The paper repeats the comparison on CIFAR-100, with fewer images of each class. Those data are not on the machine that made our runs at `standard`; there fewer images of CIFAR-10 take
# their place, a toy in this respect. At `paper` it is CIFAR-100.

# %%
fig11 = collect(experiments["fig11"])

# %% tags=["hide-input"]
show_accuracies(
    "fig11", fig11,
    caption="Figure 11. The three regimes of figure 5 with few images of each class; one seed.",
    alt="Two panels of accuracy against epochs for the three regimes; training accuracy is high, test accuracy low.",
)  # fmt: skip
judge_gap("fig11/large-beats-small", fig11, "large", "small")
judge_gap("fig11/repeats-do-not-close-the-gap", fig11, "large", "repeats")

# %% [markdown]
# ### Without momentum and weight decay (paper, appendix N)
#
# Step sizes are five times as large here, as in the paper, which sees the same gap, and no improvement by repeats.

# %%
fig12 = collect(experiments["fig12"])

# %% tags=["hide-input"]
show_accuracies(
    "fig12", fig12,
    caption="Figure 12. The three regimes of figure 5 without momentum and weight decay, at larger step sizes; one seed.",
    alt="Two panels of accuracy against epochs for the three regimes.", of_all=fig12_epochs,
)  # fmt: skip
judge_gap("fig12/large-beats-small", fig12, "large", "small")
judge_gap("fig12/repeats-do-not-help", fig12, "repeats", "small", {f"γ = {run.step_size:g}": learnt(run) for run in by_regime(fig12)["small"]})

# %% [markdown]
# ### Which way does the gap go?
#
# Beside the paper, whose experiments have one size: the gap over the number $n$ of images, and over $k$, one seed each. A single run errs by some percent, so only a trend over all sizes would tell.

# %%
trend = collect(experiments["trend"])

# %% tags=["hide-input"]
first = [run for run in [*fig5, *fig11, *trend] if run["seed"] == net_seeds[0]]


def on(dataset, n, *step_sizes):
    return [r for r in first if (r["dataset"], r["n"]) == (dataset, n) and r.step_size in step_sizes]


over_n = {n: on(net_dataset, n, net_large, net_large / net_k) for n in sorted({fig11_n, *trend_n, net_n})}
over_k = {k: on(fig11_dataset, fig11_n, net_large, net_large / k) for k in sorted({net_k, *trend_k})}

with panels(
    1, 2, name="trend", runs=first, sharey=True,
    caption="By how much the final test accuracy of the large step size exceeds that of the small one, without and with repeats, against the number of images (left, "
    "at one k) and against k (right, with the fewest images). One seed; bars are one standard error of counting.",
    alt="Two panels of gaps with error bars, against the number of images and against k.",
) as axes:  # fmt: skip
    for ax, groups, xlabel in zip(axes, (over_n, over_k), ("images $n$", "$k$"), strict=True):
        for second in ("small", "repeats"):
            gaps = {x: gap(runs, "large", second) for x, runs in groups.items()}
            points = [(x, *mean.values(), *error.values()) for x, (mean, error) in gaps.items() if mean]
            if points:
                x, mean, error = zip(*points, strict=True)
                ax.errorbar(x, mean, error, color=REGIMES[second], marker="o", capsize=3, label=f"large against {second}")
        ax.axhline(0, color=RULE, linewidth=0.9, linestyle="--")
        ax.set(xlabel=xlabel, ylabel="gap in test accuracy", xscale="log", xticks=[*groups], xticklabels=[*groups])
        ax.minorticks_off()
    axes[0].legend()

# %% [markdown]
# ### Gradient descent from a warm start (paper, 5.2)
#
# After some epochs of SGD with the small step size and repeats, full-batch gradient descent goes on at a small and at a large step size, without momentum, with weight decay $5\cdot10^{-4}$; later
# the large one is reduced to the small one. If the warm start lies in a sharp region that only a small step size can stay in, the large one must leave it, and the loss must rise first. Beside the paper,
# we follow the sharpness: the region is sharp for $\gamma$ where it exceeds $2/\gamma$. Step sizes are in the paper's ratio of 10, and so large that the warm start's sharpness is near $2/\gamma$ of the
# large one; the paper takes those of its SGD, which had thirty times as many steps to find sharper regions. Both were chosen in short trials that had a peak.

# %%
warmed = collect(experiments["warm"])  # on which the next build
fig7 = collect(experiments["fig7"])
together = collect(experiments["together"])

# %% tags=["hide-input"]
descents = dict(zip(("small", "large", "reduced"), fig7, strict=True)) if len(fig7) == 3 else {}
SHOWN = {"small": (ORANGE, 0), "large": (BLUE, 0), "reduced": (PURPLE, gd_switch)}  # colour, and when it begins
ways = {}
for found in together:
    table = found.trace.isel(step=0)
    gram = table.gram.values
    projections, explained = principal_components(gram)
    ways = {name: table.path.values == i for i, name in enumerate(SHOWN)}

with panels(
    1, 2, name="fig7", runs=fig7,
    caption=r"Figure 7. Gradient descent from a warm start at a small and at a large step size, and at the small one again after the large one. Left: "
    r"$\theta_t - \theta_0$ along the first two principal components of all three paths, with their shares of the variance. Right: the training loss.",
    alt="Left, two paths leave one point in different directions, and a third goes on from the second. Right, the loss of the large step size rises steeply "
    "at the beginning and falls below that of the small one later.",
) as (plane, losses):  # fmt: skip
    for name, run in descents.items():
        colour, begins = SHOWN[name]
        losses.semilogy(begins + run.trace.step, run.trace.loss, color=colour, label=rf"{name}, $\gamma = {run.step_size:g}$")
    for name, of in ways.items():
        plane.plot(*projections[of].T, color=SHOWN[name][0], marker=".", markersize=3)
        plane.set(xlabel=f"first component ({explained[0]:.0%})", ylabel=f"second component ({explained[1]:.0%})")
    if descents:  # beside the panels, of which both hold these three
        losses.figure.legend(loc="outside lower center")
    losses.set(xlabel="iteration $t$", ylabel="training loss")

# %% tags=["hide-input"]
with panels(
    1, 3, name="fig7_beside", runs=fig7, height=2.6,
    caption=r"Beside figure 7, along the same runs: sharpness over $2/\gamma$ of each step size, where 1 is the threshold of stability; relative progress; directional smoothness over $2/\gamma$.",
    alt="The sharpness of the large step size crosses its threshold before the loss rises and falls below it after; relative progress and directional smoothness jump there.",
) as axes:  # fmt: skip
    observables = ("sharpness", r"sharpness over $2/\gamma$"), ("relative_progress", "relative progress"), ("directional_smoothness", r"smoothness over $2/\gamma$")
    for ax, (variable, ylabel) in zip(axes, observables, strict=True):
        for name, run in descents.items():
            colour, begins = SHOWN[name]
            values = run.trace[variable].dropna("step")
            ax.plot(
                begins + values.step, values * (1 if variable == "relative_progress" else run.step_size / 2), color=colour, label=name,
                marker="." if variable == "sharpness" else "",
            )  # fmt: skip
        ax.axhline(0 if variable == "relative_progress" else 1, color=RULE, linewidth=0.9, linestyle="--")
        ax.set(xlabel="iteration $t$", ylabel=ylabel)
    if descents:
        axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center")

# %% tags=["hide-input"]
def loss_peak(run):
    """The iteration of the largest loss."""
    return int(run.trace.loss.idxmax())


def rise(run):
    """The largest loss over the first."""
    return float(run.trace.loss.max() / run.trace.loss[0])


def instability(run):
    """The largest sharpness measured up to the peak, over 2/γ; of a run without a peak, the largest of all."""
    until = loss_peak(run) or run.trace.step[-1]
    return float(run.trace.sharpness.sel(step=slice(None, until)).max() * run.step_size / 2)


def cosine(to, other):
    """Of the angle between the displacements from θ₀ to two points."""
    return gram[to, other] / (gram[to, to] * gram[other, other]) ** 0.5


of_large, of_small = ({"large": descents["large"]}, {"small": descents["small"]}) if descents else ({}, {})
for name, quantity in (("fig7/loss-peaks", rise), ("fig7/peak-where-sharpness-exceeds", instability)):
    claims.measure(name, {x: quantity(r) for x, r in of_large.items()}, fig7, control={x: quantity(r) for x, r in of_small.items()})
ends_at = {name: np.flatnonzero(of)[-1] for name, of in ways.items()}
halfway = {"the small step size halfway": cosine(np.flatnonzero(ways["small"])[sum(ways["small"]) // 2], ends_at["small"])} if ways else {}
for name, which in (("fig7/changes-direction", "large"), ("fig7/goes-on-elsewhere", "reduced")):
    claims.measure(name, {which: cosine(ends_at[which], ends_at["small"])} if ways else {}, together, control=halfway)

# %% [markdown]
# ### The loss along lines (paper, appendix O)
#
# Points of the large step size's path are joined to the warm start by straight lines. Towards the first points the loss should rise, since the path leaves a region by its wall; towards later ones it falls,
# although the path went over the wall.

# %% tags=["hide-input"]
lines = [line for run in of_large.values() for line in run.trace.line_loss.dropna("step")]

with panels(
    1, 1, name="fig13", runs=list(of_large.values()),
    caption="Figure 13. The training loss on the straight line from the warm start to points of the large step size's path, against the distance from the warm start.",
    alt="Curves of loss against distance, one for each of several iterations; the first rise, the last fall.",
) as (ax,):  # fmt: skip
    for line, colour in zip(lines, colours(len(lines)), strict=True):
        length = descents["large"].trace.distance.sel(step=line.step).item()
        ax.semilogy(np.linspace(0, length, line.size), line, color=colour, label=f"to $t = {line.step.item()}$")
        ax.set(xlabel="distance from the warm start", ylabel="training loss")
    if lines:
        ax.legend(ncols=2)

# %% tags=["hide-input"]
def climb(line):
    """The largest rise along a line, from any of its points to a later one, over the loss at its begin."""
    return float((line - np.minimum.accumulate(line)).max() / line[0])


early = {f"to t = {line.step.item()}": climb(line.values) for line in lines if line.step <= loss_peak(descents["large"])}
last = {f"to t = {line.step.item()}": climb(line.values) for line in lines[-1:]}
claims.measure("fig13/rises-towards-early-points", early, [*of_large.values()], control=last)
claims.measure("fig13/falls-towards-late-points", last, [*of_large.values()], control=early)

# %% [markdown]
# ## Where we differ
#
# The paper says neither where the starts of its one-dimensional examples lie nor at which step sizes it draws them; these, the numbers of figure 2 and of the class $\mathcal C_l$ are our choice. $f_{tm}$'s first branch is lost in our copy of the text; $x^2$
# follows from the others. All deviations of the book stand on [one page](../book/deviations.md), slips of the paper [on another](../book/errata.md).
#
# ## Try it
#
# Rerun the chapter with other parameters, for example
# `python -m eoslib run large_learning_rates -p fig8_largest=0.049 -p fig6_side=48 -o mine.ipynb`.
#
# 1. Which step size leaves the sharp minimum of the four wells? Find it in the explorer, and compare it with $2/\lambda_{\max}$ there.
# 2. In figure 8 some starts end on the plateau again beyond $\mu_\star/L^2$. Follow one of them in the explorer.
# 3. Prove {eq}`mohtashami-frontiers`. Which $\sigma$ separate the two cases if $\xi_t$ is $\pm\sigma$ with probability one half each?
#
# ## Exercises
#
# ```{exercise} How long does it take to leave?
# :label: exercise-steps-to-leave
# :nonumber:
#
# A start at the distance $d$ from the minimum of a bowl $\tfrac{\mu}2x^2$ of radius $r$, with $\gamma > 2/\mu$: after how many steps is it outside? How close to $2/\mu$ may $\gamma$ be if 1,000 steps have to suffice?
# ```
#
# ```{solution-start} exercise-steps-to-leave
# :class: dropdown
# ```
#
# $|x|$ grows by the factor $\gamma\mu-1$ at each step, so that $\lceil\log(r/d)/\log(\gamma\mu-1)\rceil$ steps lead outside. With $\gamma\mu = 2(1+\epsilon)$, $\log(\gamma\mu-1)\approx2\epsilon$, and 1,000 steps suffice from $\epsilon\approx\log(r/d)/2000$ on: thresholds measured
# with finitely many steps lie slightly too high.

# %%
mu, d, r = 100.0, 1e-3, 0.1
for epsilon in (0.1, 0.01, np.log(r / d) / 2000):
    gamma, x, steps = 2 * (1 + epsilon) / mu, d, 0
    while abs(x) < r:
        x, steps = x - gamma * mu * x, steps + 1
    computed = np.ceil(np.log(r / d) / np.log(gamma * mu - 1))
    print(f"γ = {1 + epsilon:.4f} · 2/μ: {steps} steps, computed {computed:.0f}")

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Very many repeats
# :label: exercise-many-repeats
# :nonumber:
#
# By {eq}`mohtashami-repeats`, what do the two variances tend to as $k\to\infty$? From which $k$ on do repeats add little, and where has $x$ gone by then?
# ```
#
# ```{solution-start} exercise-many-repeats
# :class: dropdown
# ```
#
# To $1/(\gamma a(2-\gamma a))$ with fresh samples, the stationary variance of small steps, and to $1/(\gamma a)^2$ with repeats. These have come to the share $(1-e^{-1})^2\approx0.4$ of it after $k = 1/(\gamma a)$ steps, and all but reach it after a few times as many: then $x$ is near the minimum of the
# one $f_i$ that was repeated, and more repeats change nothing.

# %%
for k in (1, 10, 100):
    fresh, repeated = (noise_variance(k, 0.1, r, 20_000) for r in (False, True))
    print(f"k = {k:3}: fresh {fresh:5.2f}, repeated {repeated:5.1f}")
print(f"limits:  fresh {1 / 0.1 / 1.9:5.2f}, repeated {1 / 0.1**2:5.1f}")

# %% [markdown]
# ```{solution-end}
# ```
#
# ## Provenance

# %%
noisy = [*fig6.values(), *small.values(), *large.values(), one_step, many_steps]
in_one_dimension = [*few, *fig1, *fig3, fig3_scan, *fig8, *fig2, fig2_scan, fig2_plain]
provenance(in_one_dimension, thm1, thm1_anywhere, lem2, thm2, crawling, shrinking, noisy, fig9, fig5, ends, fig10, fig11, fig12, trend, warmed, fig7)
