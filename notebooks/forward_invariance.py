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
# # Forward invariance
#
# ```{chapter-head}
# paper: chen2024
# question: >-
#   Gradient descent can converge although its loss rises at first. From which starting points does it, and what do they have in common?
# answer: >-
#   Around a minimum that is flat enough lies an open set that gradient descent does not leave and in which the loss falls at every step; whatever
#   converges must enter it, so that unstable convergence is nothing but a start outside.
# findings:
#   - >-
#     The theorems hold. We build the ball of Lemma 1 and the invariant set $U$ of Theorem 2 for four functions and five step sizes, and interval arithmetic
#     proves them in {lem1/certified} and {thm2/certified-directly} cases.
#   - >-
#     The set of the proof is small: near the largest step size its area falls like the power {thm2/shrinks} of $1-\eta/\eta_{\max}$, that of all
#     stable starts more slowly. These in turn are then a share of {ours-area/stable-share-collapses} of those that converge.
#   - >-
#     Two sentences of the text do not hold. Of the points on the axes of $f_3$ a share of {fig2/axes-are-no-minima} only are no minima; at the others starts come to
#     rest. And beside the convergent set the unstable one does not always grow with the step size: it falls back by {fig2/unstable-set-expands} of it.
# figure: fig1
# thumbnails:
#   fig2: figure 2
#   fig3: figure 3
#   thm2-u: theorem 2
#   thm3: theorem 3
#   ext-hyperbola: conclusion
# ```

# %% [markdown]
# ## The experiment in plain PyTorch
#
# Gradient descent on a polynomial of two variables from every pixel of a square. A start is *convergent* if it leads to the minimum at 0, and *stable* if
# the loss falls at every step. Copy the cell into an empty notebook.

# %% tags=["plain"]
import torch


def f(theta):
    x, y = theta
    return x**2 + y**2 + x**2 * y + x**4 + y**4


def gradient(theta):
    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(f(theta).sum(), theta)[0]


eta = 0.9  # of the largest, 2/λ_max(∇²f(0)) = 1
centres = -0.4 + 0.8 * (torch.arange(256, dtype=torch.float64) + 0.5) / 256
theta = torch.stack(torch.meshgrid(centres, centres, indexing="xy"))  # starts

stable = torch.ones(256, 256, dtype=torch.bool)
for _ in range(50):
    after = theta - eta * gradient(theta)
    near = theta.norm(dim=0) < 0.05  # here ∇²f < 2/η: every step descends
    stable &= near | (f(after) < f(theta))
    theta = after
convergent = theta.norm(dim=0) < 0.05

# 0 does not converge, 1 unstable, 2 stable
kind = convergent.int() + (convergent & stable).int()
for row in kind[30:204:12, 3::6].flip(0):
    print("".join(" #·"[k] for k in row))

# %% [markdown]
# The library's map of the same starts (paper, figure 1):

# %% tags=["compared"]
from eoslib.chapter.experiments import at_quick

run = at_quick("forward_invariance", "fig1_map")
# 0 stable, 1 unstable
library = torch.tensor(run.trace.outcome.values).clamp(max=2)
differ = library.reshape(256, 256) != 2 - kind
print("starts that differ:", differ.sum().item(), "of", kind.numel())

# %% [markdown]
# ## Setting
#
# Gradient descent repeats $F(\theta) = \theta - \eta\nabla f(\theta)$. Let $\theta^*$ be a strict local minimum with
# $0 < \lambda_{\max}(\nabla^2 f(\theta^*)) < 2/\eta$ (paper, (6)). The paper {cite}`chen2024` sorts the starting points into
#
# ```{math}
# :label: chen-sets
# \begin{aligned}
# V_\eta &= \{\theta_0 : \theta_k \to \theta^*\},\\
# U_\eta &= \{\theta_0 \in V_\eta : f(\theta_{k+1}) < f(\theta_k)\\
# &\qquad \text{as long as } \theta_k \ne \theta^*\},
# \end{aligned}
# ```
#
# the *convergent* and the *stable* starts; $V_\eta\setminus U_\eta$ are the *unstable* ones. (In paper, (30), the inequality is
# printed the wrong way round.) If $f$ has several such minima, any of them will do. It takes four polynomials of two variables as examples:
#
# $$
# \begin{aligned}
# f_1 &= x^2 + y^2 + x^2y + x^3 + y^3,\\
# f_2 &= x^2 + y^2 + x^2y + x^4 + y^4,\\
# f_3 &= x^4y^2 + x^2y^4 - 3x^2y^2 + 1,\\
# f_4 &= (1-xy)^2 + \tfrac{1}{20}(x^2+y^2),
# \end{aligned}
# $$
#
# with largest step sizes $\eta_{\max} = 2/\lambda_{\max}(\theta^*) = 1,\ 1,\ \tfrac16,\ \tfrac{10}{19}$.
#
# **How a start is classified.** No finite number of iterates shows that a sequence converges, and near the minimum rounding hides whether
# $f$ still falls. Both difficulties vanish with a *trap*: the largest ball around $\theta^*$ on which all eigenvalues
# of $\nabla^2 f$ lie in $(0, 2/\eta)$. On it $F$ is a contraction and $f$ falls at each step. We stop at the first iterate in a ball of half
# that radius: the start converges, and it is stable exactly if $f$ has fallen at every step so far. Other starts diverge, come to rest at a point
# that is no strict minimum, cycle, or remain undecided after 5,000 steps; `eoslib.papers.basins` tells these apart. Halving the trap once more, or computing
# in extended precision, changes the outcome of less than one start in a thousand, always beside a boundary.

# %% tags=["hide-input"]
from typing import Annotated, Literal

from annotated_types import Interval, Len
from pydantic import PositiveFloat

# %% tags=["parameters"]
preset: Literal["quick", "standard", "paper"] = "quick"
# the maps: half the width of the box around the origin for f1 to f4, and step sizes as fractions of the largest
boxes: Annotated[list[PositiveFloat], Len(4, 4)] = [0.75, 0.75, 2.5, 2.5]
step_fractions: Annotated[list[Annotated[float, Interval(gt=0, lt=1)]], Len(2, 5)] = [0.2, 0.4, 0.6, 0.8, 0.99]
grid: Annotated[int, Interval(ge=64)] = 256
# figure 1, on f2
fig1_fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.9
fig1_start: Annotated[list[float], Len(2, 2)] = [0.2375, 0.2375]
# figure 3, on f4
fig3_step_size: PositiveFloat = 0.3
# the extension, as a fraction of the largest step size
extension_fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.25
# areas and dimensions
sizes_grid: Annotated[int, Interval(ge=64)] = 512
sizes_steps: Annotated[int, Interval(ge=4)] = 11

# %% [markdown]
# The experiments follow, each a list of runs. `python -m eoslib compute forward_invariance --list` shows what they cost.

# %% tags=["experiments", "hide-input"]
from functools import cache, partial
from math import gcd

from eoslib.chapter.experiments import Descent, Map, Pieces, Shares, Sizes, Uncertain
from eoslib.measure.directions import Position
from eoslib.problems.problem import OnLandscape

largest = {"f1": 1.0, "f2": 1.0, "f3": 1 / 6, "f4": 10 / 19}  # 2/λ_max at the minimisers
box = {name: (-half, half, -half, half) for name, half in zip(largest, boxes, strict=True)}
basin_map = partial(Map, chapter="forward_invariance", grid=grid, steps=grid // gcd(grid, 64))  # bands of 64 rows


def trajectory(experiment, landscape, start, **rest):
    """Gradient descent from one point, every θ recorded."""
    problem = OnLandscape(landscape=landscape, start=start)
    return Descent(chapter="forward_invariance", experiment=experiment, problem=problem, measurements=(Position(),), **rest)


experiments = {
    "fig1": [
        trajectory(
            experiment="fig1", landscape="f2", start=tuple(fig1_start), step_size=fig1_fraction * largest["f2"], steps=60
        )
    ],
    "fig1_map": [
        basin_map(experiment="fig1_map", landscape="f2", box=(-0.4, 0.4, -0.4, 0.4), step_size=fig1_fraction * largest["f2"])
    ],
    "fig2": [
        basin_map(experiment="fig2", landscape=name, box=box[name], step_size=fraction * largest[name])
        for name in largest
        for fraction in step_fractions
    ],
    "fig3": [
        trajectory(experiment="fig3", landscape="f4", start=start, step_size=fig3_step_size, steps=100)
        for start in ((0.1, 2.5), (1.5, 2.0))
    ],
    "fig3_map": [
        basin_map(experiment="fig3_map", landscape="f4", box=(-3.0, 3.0, -3.0, 3.0), step_size=fig3_step_size)
    ],
    "sizes": [
        Sizes(
            chapter="forward_invariance", experiment="sizes", landscape=name, box=box[name],
            step_size=0.99 * largest[name], steps=sizes_steps, grid=sizes_grid,
        )
        for name in largest
    ],
    "shares": [  # of starts in a box that just holds V_η
        Shares(
            chapter="forward_invariance", experiment="shares", landscape=name, box=(-8.0, 8.0, -8.0, 8.0),
            smallest=0.05 * largest[name], step_size=0.99 * largest[name], steps=95, grid=128,
        )
        for name in largest
    ],
    "pieces": [
        Pieces(
            chapter="forward_invariance", experiment="pieces", landscape=name, box=box[name],
            step_size=fraction * largest[name], steps=2, grid=min(grid, 1024),
        )
        for fraction in (step_fractions[0], step_fractions[-1])
        for name in largest
    ],
    "uncertain": [
        Uncertain(
            chapter="forward_invariance", experiment="uncertain", landscape=name, box=box[name],
            step_size=fraction * largest[name], steps=7, grid=min(sizes_grid, 1024),
        )
        for fraction, names in ((0.25, ("f1", "f3")), (0.99, ("f1", "f3", "f4")))  # V_η of the others fills the box
        for name in names
    ],
}  # fmt: skip

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.patches import Patch
from PIL import Image

from eoslib.chapter.claims import Ledger
from eoslib.chapter.experiments import collect
from eoslib.chapter.figures import BLUE, GREEN, ORANGE, PURPLE, RULE, SKY, VERMILION, colours, panels
from eoslib.chapter.provenance import provenance
from eoslib.measure import certificates
from eoslib.papers.basins import Outcome, classify, pixel_centres
from eoslib.problems import landscapes

claims = Ledger("forward_invariance", preset)

# The paper's cyan and blue, in shades that colour-blind readers tell apart; the other outcomes are not in the paper.
COLOURS = {
    Outcome.STABLE: (SKY, r"stable, $U_\eta$"),
    Outcome.UNSTABLE: (BLUE, r"unstable, $V_\eta\setminus U_\eta$"),
    Outcome.DIVERGED: ("#F2F2F2", "diverges"),
    Outcome.DEGENERATE: (ORANGE, "rests where the Hessian is singular"),
    Outcome.SADDLE: (VERMILION, "rests at a saddle"),
    Outcome.CYCLING: (PURPLE, "cycles"),
    Outcome.WANDERING: ("#6E6E6E", "undecided"),
}
PALETTE = [round(255 * part) for colour, _ in COLOURS.values() for part in to_rgb(colour)]


def codes_of(run):
    """The map of a Map, (grid, grid), row 0 at the bottom."""
    return run.trace.outcome.values.reshape(run["grid"], -1)


def share(run, *kinds):
    """The share of the box that has one of these outcomes; an exact count of pixels."""
    counts = run.trace.points.sum("step")
    return float(counts[list(kinds)].sum() / counts.sum())


def draw_map(ax, run):
    """Draw a map, its colours averaged over blocks of pixels where there are more than the page can show."""
    image = Image.fromarray(codes_of(run))
    image.putpalette(PALETTE)
    pixels = image.convert("RGB").reduce(max(1, run["grid"] // 512))
    ax.imshow(pixels, origin="lower", extent=run["box"], interpolation="nearest")


def legend(figure, runs):
    """Name the outcomes that occur in some of the maps."""
    present = [kind for kind in Outcome if any(share(run, kind) > 0 for run in runs)]
    handles = [Patch(facecolor=COLOURS[k][0], edgecolor="0.5", linewidth=0.5, label=COLOURS[k][1]) for k in present]
    figure.legend(handles=handles, loc="outside lower center")


def draw_minimisers(ax, name):
    ax.plot(
        *zip(*landscapes.get(name).minimisers, strict=True), "*", color="white", markeredgecolor="black", markersize=9
    )


def symbol(name):
    """f₁ for f1, in a figure."""
    return f"$f_{name[1]}$"


def fraction_of(run):
    """η / η_max."""
    return run.step_size / largest[run["landscape"]]


def membership(run):
    """What `classify` says of each iterate of a trajectory, and of the whole."""
    x, y = run.trace.theta.values.T
    return classify(landscapes.get(run["landscape"]), run.step_size, x.copy(), y.copy())


def descend(name, step_size, x, y, steps):
    """Iterates of gradient descent from arrays of starts: x and y, each (steps + 1, starts)."""
    landscape, path = landscapes.get(name), [(x, y)]
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            gx, gy = landscape.gradient(x, y)
            x, y = x - step_size * gx, y - step_size * gy
            path.append((x, y))
    return np.moveaxis(np.array(path), 1, 0)


# %% [markdown]
# ## A trajectory that jumps into the stable set (paper, figure 1)
#
# *Paper, introduction.* The picture shows the idea: a start outside the stable set, iterates that jump about, the loss up and down with them, until one of them
# lands in the stable set; from there on the loss falls. The paper does not say which function it drew. We take $f_2$ at 0.9 of its
# largest step size. Each iterate is classified as a start of its own, which shows when the trajectory enters $U_\eta$.

# %%
(fig1_path,) = collect(experiments["fig1"])
fig1_map = collect(experiments["fig1_map"])

# %% tags=["hide-input"]
before = membership(fig1_path).outcome != Outcome.STABLE
entered = int(before.sum())  # the iterates before the first in U_η, see the claim below
with panels(
    1, 2, name="fig1", height=2.8, runs=[fig1_path, *fig1_map],
    caption=rf"Figure 1. Gradient descent on $f_2$ at $\eta = {fig1_path.step_size:.3g}$. Left: its iterates over the map of starts, the line vermilion up to the "
    r"first iterate in $U_\eta$ and black from there. Right: the loss, which rises only before that; blue from there.",
    alt="Left, iterates zigzag across the minimum through the dark unstable region and end in the light stable region. "
    "Right, the loss goes up and down for some steps and then falls steadily.",
) as (left, right):  # fmt: skip
    for run in fig1_map:
        draw_map(left, run)
    draw_minimisers(left, "f2")
    for part, *two in ((slice(0, entered + 1), VERMILION, VERMILION), (slice(entered, None), "black", BLUE)):
        left.plot(*fig1_path.trace.theta.values[part].T, ".-", color=two[0], linewidth=0.7, markersize=4)
        right.semilogy(fig1_path.trace.step[part], fig1_path.trace.loss[part], ".-", color=two[1])
    left.set(xlabel="$x$", ylabel="$y$", title=f"{symbol('f2')}, first {entered} iterates outside")
    right.set(xlabel="step $k$", ylabel=r"$f(\theta_k)$", xlim=(0, 40), ylim=(1e-8, 1))
    legend(left.figure, fig1_map)

# %% tags=["hide-input"]
starts = np.array(pixel_centres((-0.4, 0.4, -0.4, 0.4), 256))
around = classify(landscapes.get("f2"), fig1_path.step_size, *starts)
unstable = around.outcome == Outcome.UNSTABLE


def rising_twice(these, steps=60):
    """The share of some of the starts from which f₂ rises in two steps or more."""
    f = landscapes.get("f2").value(*descend("f2", fig1_path.step_size, *starts[:, these], steps))
    return ((f[1:] > f[:-1] * (1 + 1e-12)).sum(0) >= 2).mean()


claims.measure(
    "fig1/oscillates-first", {"": rising_twice(unstable)}, control={"": rising_twice(around.outcome == Outcome.STABLE)}
)
claims.measure(
    "fig1/jumps-in", {"": np.quantile(around.last_rise[unstable], 0.95)},
    control={"": np.quantile(around.steps[unstable], 0.95)},
)  # fmt: skip

# %% [markdown]
# The trajectory was chosen: from most of the unstable starts in this box $f$ rises in one step only, and falls from there. "Several" is what some do.
#
# ## The maps of starting points (paper, figure 2)
#
# *Paper, numerical experiments.* For each function a landscape and five maps at step sizes that rise to the largest. The paper gives neither the
# boxes nor the step sizes. We choose fractions of $\eta_{\max}$ that end at 0.99 (at 1 nothing converges fast enough to be seen, see
# below), and boxes that show the sets at all five.

# %%
fig2 = collect(experiments["fig2"])
by_name = {name: [run for run in fig2 if run["landscape"] == name] for name in largest}

# %% tags=["hide-input"]
with panels(
    4, 1 + len(step_fractions), name="fig2", height=1.75, runs=fig2,
    caption=r"Figure 2. Landscapes (contours, minimisers marked by stars) and maps of the starting points at growing step sizes, titles in units of $\eta_{\max}$. "
    "Each pixel is a start, coloured by what gradient descent does from its centre. Click a map to explore it below.",
    alt="Four rows of maps. At small step sizes the light stable set fills most of each box; as the step size grows "
    "it shrinks and a dark unstable set with lobes, islands and stripes appears. At 0.99 of the largest step size little of the stable set "
    "is left: for f1 rings, for f3 stripes, for f4 thin threads.",
) as axes:  # fmt: skip
    rows = np.reshape(axes, (4, -1))
    for row, (name, runs) in zip(rows, by_name.items(), strict=True):
        x, y = pixel_centres(box[name], 200)
        f = landscapes.get(name).value(x, y)
        lowest = min(landscapes.get(name).value(*m) for m in landscapes.get(name).minimisers)
        row[0].contourf(x, y, np.log10(np.clip(f - lowest, 1e-3, None)), levels=16, cmap="Greys_r")
        draw_minimisers(row[0], name)
        row[0].set(title=symbol(name), ylabel="$y$", aspect="equal")
        for ax, run in zip(row[1:], runs, strict=False):
            draw_map(ax, run)
            at = f"{fraction_of(run):.3g}"
            ax.set(title=rf"$\eta = {at}\,\eta_{{\max}}$", yticks=[])
            ax.set(url=f"#explorer?f={name}&fraction={at}", label=f"Explore {name} at {at} of the largest step size")
    for row, half in zip(rows, boxes, strict=True):
        tick = float(f"{2 / 3 * half:.0g}")
        for ax in row:
            ax.set(xticks=(-tick, tick))
    for ax in rows[-1]:
        ax.set(xlabel="$x$")
    legend(axes[0].figure, fig2)

# %% [markdown]
# What to see. The unstable set does grow with the step size, but only as long as there is room: that of $f_1$ is empty up to 0.8, and that of $f_2$ shrinks at last, with all of $V_\eta$;
# as a share of $V_\eta$, in boxes that hold all of it, that of $f_3$ falls before it grows.
# At the smallest step size the paper's "all points" is true of the neighbourhood of the minimum; farther out $f_1$ has
# other basins, it has no lower bound. $f_2$ has its unstable starts in the corners of the stable set, $f_4$ in lobes along the edge, which repeat at smaller
# and smaller scales. At 0.99 most of what converges does so unstably. $f_3$ has more: the orange starts come to rest on an axis, at
# $|x| > \sqrt3$ or $|y| > \sqrt3$. The paper says that the points on the axes are "not a minimum", but beyond $\sqrt3$ they are minima, though not
# strict ones, and draw an open set of starts. Starts around the origin of $f_3$, where the gradient all but vanishes, are undecided after 5,000 steps. Pieces that all but touch are a matter of resolution; we count those of one
# minimiser (several minimisers are disconnected in any case) that two grids agree on. The thin
# line across the maps of $f_4$ is exact: on $x = -y$ gradient descent leads to the saddle at the origin, and our pixels' centres lie on it.
#
# How much of $U_\eta$ remains near $\eta_{\max}$ follows from an expansion, with $s$ along the eigenvector of $\lambda = \lambda_{\max}(\theta^*)$:
#
# $$
# \begin{aligned}
# f(F(s)) - f(s) = &-2\bigl(1-\tfrac{\eta}{\eta_{\max}}\bigr)\lambda s^2\\
# &+ \tfrac23 f^{(3)} s^3 + \dots,
# \end{aligned}
# $$
#
# or $+\frac13 f^{(4)} s^4$ where $f^{(3)} = 0$. It is negative up to the $s$ of the claim: three times, or $\sqrt3$ times, as far as the curvature is below $2/\eta$.

# %% tags=["hide-input"]


def case(run):
    return f"{run['landscape']}, {fraction_of(run):.3g} η_max"


def minima_proved(name, sharpness):
    """Whether the points of the paper are proved to be strict minima with this λ_max."""
    return all(certificates.certify_minimum(landscapes.get(name), *m, sharpness).proved for m in landscapes.get(name).minimisers)


def stable_share_near(run):
    """The share of the starts near the minimum, |x|, |y| ≤ 0.4, that are stable."""
    x, y = pixel_centres(run["box"], run["grid"])
    return (codes_of(run)[np.ix_(abs(y[:, 0]) <= 0.4, abs(x[0]) <= 0.4)] == Outcome.STABLE).mean()


def values_and_errors(measured):
    """label → (value, standard error) as two dictionaries."""
    return ({label: pair[i] for label, pair in measured.items()} for i in (0, 1))


def largest_fall(shares):
    """The largest fall from a mean over grids to a later one, and its standard error. shares: (step sizes, grids)."""
    mean = shares.mean(1)
    late = (np.maximum.accumulate(mean) - mean).argmax()
    fall = shares[mean[: late + 1].argmax()] - shares[late]
    return fall.mean(), fall.std(ddof=1) / len(fall) ** 0.5


def reach(name, holds):
    """How far from the minimiser, along the eigenvector of λ_max, `holds` is true on either side, over what the expansion of f predicts for
    the stable starts, at 0.999 of the largest step size."""
    f, (x, y) = landscapes.get(name), landscapes.get(name).minimisers[0]
    u, third, fourth, sharpness = along_top[name]
    gap = 1e-3
    predicted = 3 * gap * sharpness / third if third else np.sqrt(6 * gap * sharpness / fourth)
    s = predicted * np.linspace(0, 4, 1601)[1:]
    both = [holds(f, (1 - gap) * largest[name], x + side * s * u[0], y + side * s * u[1]) for side in (-1, 1)]
    return s[np.logical_and.accumulate(both[0] & both[1])].max(initial=0) / predicted


def starts_stably(f, step_size, x, y):
    return classify(f, step_size, x, y).outcome == Outcome.STABLE


def flat_enough(f, step_size, x, y):
    return f.eigenvalues(x, y)[1] < 2 / step_size


def no_minima(x, y):
    """The share of these points of f₃ beside which f is lower, 1e-3 away."""
    angle, f = np.linspace(0, 2 * np.pi, 360), landscapes.get("f3").value
    ring = f(x[:, None] + 1e-3 * np.cos(angle), y[:, None] + 1e-3 * np.sin(angle))
    return (ring.min(1) < f(x, y) - 1e-12).mean()


complete = {name: runs for name, runs in by_name.items() if len(runs) == len(step_fractions)}
claims.measure(
    "fig2/small-steps-are-stable",
    {case(runs[0]): stable_share_near(runs[0]) for name, runs in complete.items() if name in ("f1", "f2")},
    fig2,
    control={case(runs[-1]): stable_share_near(runs[-1]) for name, runs in complete.items() if name in ("f1", "f2")},
)
# λ_max at the minimisers; u, f''', f'''' and λ along the eigenvector
sharpness_of = {"f1": 2, "f2": 2, "f3": 12, "f4": 19 / 5}
diagonal = np.array([1, 1]) / np.sqrt(2)
along_top = {
    "f1": ((0, 1), 6, 0, 2), "f2": ((0, 1), 0, 24, 2),
    "f3": (diagonal, 42 * np.sqrt(2), 162, 12), "f4": (diagonal, 6 * np.sqrt(1.9), 6, 3.8),
}  # fmt: skip
half_box = max(boxes)
claims.measure(
    "fig2/minimisers", {n: minima_proved(n, value) for n, value in sharpness_of.items()},
    control={n: minima_proved(n, 1.01 * value) for n, value in sharpness_of.items()},
)  # fmt: skip
claims.measure(
    "fig2/global", {n: certificates.certify_lowest(landscapes.get(n), half_box).proved for n in ("f2", "f3", "f4")},
    control={"f1": certificates.certify_lowest(landscapes.get("f1"), half_box).proved},
)  # fmt: skip
unstable_shares = collect(experiments["shares"])
unstable_part = {run["landscape"]: run.trace.unstable_share.values.astype(float) for run in unstable_shares}
falls, fall_errors = values_and_errors({n: largest_fall(part) for n, part in unstable_part.items()})
claims.measure(
    "fig2/unstable-set-expands", falls, unstable_shares, errors=fall_errors,
    control={n: largest_fall(1 - part)[0] for n, part in unstable_part.items()},
)  # fmt: skip
pieces = collect(experiments["pieces"])
components = {case(run): int(run.trace.pieces.min()) for run in pieces}  # the smaller of the counts on two grids
at_last = [case(run) for run in pieces if run.step_size == step_fractions[-1] * largest[run["landscape"]]]
claims.measure(
    "fig2/disconnected", {label: components[label] for label in at_last}, pieces,
    control={label: count for label, count in components.items() if label not in at_last},
)  # fmt: skip
claims.measure(
    "fig2/stable-set-remains", {n: reach(n, starts_stably) for n in largest},
    control={n: reach(n, flat_enough) for n in largest},
)  # fmt: skip
axis = np.linspace(-half_box, half_box, 1000)
claims.measure(
    "fig2/axes-are-no-minima", {"x axis": no_minima(axis, 0 * axis), "y axis": no_minima(0 * axis, axis)},
    control={"minimisers": no_minima(*np.array(landscapes.get("f3").minimisers).T)},
)  # fmt: skip

# %% [markdown]
# ### Explore
#
# The same classification runs in your browser: choose a function, drag the step size, zoom into a boundary, click a start.
#
# ```{basin-explorer} f4 f1 f2 f3
# The explorer needs JavaScript. {ref}`Figure 2 <fig-forward_invariance-fig2>` above shows the maps at five step sizes.
# ```

# %% [markdown]
# ### At the largest step size itself
#
# The condition (paper, (6)) excludes $\eta = \eta_{\max}$, and calls itself "a necessary condition for the GD trajectory convergence". We start from $32\times 32$ points
# of the boxes of $f_3$ and $f_4$ and take 30,000 steps at $\eta_{\max}$ itself. Does any ever arrive? Let $u$ be the direction of the largest eigenvalue $\lambda$, and let $f$ be symmetric about it, as $f_3$ and $f_4$ are on $x = y$. Along $u$,
# $F(s) = -s + as^2 + bs^3 + \dots$ with $a = -\eta f'''/2$ and $b = -\eta f''''/6$, and two steps give
#
# ```{math}
# :label: chen-limit
# \begin{aligned}
# F(F(s)) &= s - 2c\,s^3 + \dots,\\
# c = a^2 + b &= \frac{f'''^2}{\lambda^2} - \frac{f''''}{3\lambda} .
# \end{aligned}
# ```
#
# If $c > 0$ the iterates do approach, ever more slowly: $s_t \approx 1/\sqrt{2ct}$, which reaches $10^{-6}$ after some $10^{10}$ steps. For $f_3$
# we find $f''' = 42\sqrt2$, $f'''' = 162$ and $\lambda = 12$, so $c = 20$; for $f_4$, $f''' = 6\sqrt{1.9}$, $f'''' = 6$ and $\lambda = 3.8$, so $c = 80/19$. The strict inequality
# is therefore *not* necessary for convergence; it is necessary for convergence at a geometric rate. (The next order of $F$ makes
# $f$ rise at every other step where $f'''\ne 0$, so none of these starts is stable.)


# %% tags=["hide-input"]
def at_the_largest(name, steps, starts=32):
    """The distances from a minimiser at the end, of those of starts × starts points that stay bounded."""
    landscape, eta = landscapes.get(name), largest[name]
    x, y = (v.ravel() for v in pixel_centres(box[name], starts))
    for t in range(steps):
        g, h = landscape.gradient(x, y)
        x, y = x - eta * g, y - eta * h
        if t % 10 == 0:
            bounded = np.hypot(x, y) < 1e3
            x, y = x[bounded], y[bounded]
    return np.min([np.hypot(x - mx, y - my) for mx, my in landscape.minimisers], 0)


limit_steps = 30_000
rate = {"f3": 20, "f4": 80 / 19}  # c
with np.errstate(over="ignore", invalid="ignore"):
    at_largest = {name: at_the_largest(name, limit_steps) for name in rate}


def scaled_distance(name, c):
    """The median distance after the last step times √(2ct)."""
    return np.median(at_largest[name]) * np.sqrt(2 * c * limit_steps)


claims.measure(
    "fig2/slowly-all-the-same", {n: scaled_distance(n, c) for n, c in rate.items()},
    control={n: scaled_distance(n, c) for n, c in zip(rate, reversed(rate.values()), strict=True)},
)  # fmt: skip

# %% [markdown]
# ## Two trajectories of $f_4$ (paper, figure 3)
#
# *Paper, figure 3.* From $(0.1, 2.5)$ the loss oscillates irregularly, then the trajectory becomes stable; from $(1.5, 2)$ it is stable throughout. The
# step size is not given. The claim below looks for those at which both descriptions hold; we draw $\eta = 0.3$.

# %%
unstable_path, stable_path = collect(experiments["fig3"])
fig3_map = collect(experiments["fig3_map"])

# %% tags=["hide-input"]
with panels(
    1, 3, name="fig3", height=2.6, runs=[unstable_path, stable_path, *fig3_map],
    caption=rf"Figure 3. $f_4$ at $\eta = {fig3_step_size:g}$ from $(0.1, 2.5)$ and from $(1.5, 2)$. Left: both trajectories over the map of starts, vermilion up to the first "
    "iterate in $U_\\eta$ and black from there. Middle and right: their losses, blue from there.",
    alt="Left, one trajectory jumps across the map before it settles, the other walks to the minimum. Middle, the first loss rises to "
    "seven, falls, rises again and then falls for good. Right, the second loss only falls.",
) as (left, *others):  # fmt: skip
    for run in fig3_map:
        draw_map(left, run)
    legend(left.figure, fig3_map)
    draw_minimisers(left, "f4")
    for ax, run in zip(others, (unstable_path, stable_path), strict=True):
        theta, f = run.trace.theta.values, run.trace.loss
        entered = int((membership(run).outcome != Outcome.STABLE).sum())
        for part, *two in ((slice(0, entered + 1), VERMILION, VERMILION), (slice(entered, None), "black", BLUE)):
            left.plot(*theta[part].T, ".-", color=two[0], linewidth=0.8, markersize=4)
            ax.semilogy(run.trace.step[part], f[part] - 0.0975, ".-", color=two[1])
        left.annotate(rf"$({theta[0, 0]:g}, {theta[0, 1]:g})$", theta[0], xytext=(4, 4), textcoords="offset points")
        ax.set(ylabel=r"$f_4(\theta_k) - \min f_4$", xlabel="step $k$", title=rf"from $({theta[0, 0]:g}, {theta[0, 1]:g})$", ylim=(1e-6, 20), xlim=(-2, 62))
    left.set(xlabel="$x$", ylabel="$y$", xlim=(-3, 3), ylim=(-3, 3))

# %% tags=["hide-input"]


def share_fitting(unstable_start, stable_start):
    """The share of 199 step sizes below the largest at which f₄ rises at least twice from the one start, which converges, and
    never from the other."""
    step_sizes, (x, y) = np.linspace(0.005, 0.995, 199) * largest["f4"], np.array([unstable_start, stable_start]).T
    kinds = np.array([classify(landscapes.get("f4"), step_size, x, y).outcome for step_size in step_sizes])
    with np.errstate(over="ignore", invalid="ignore"):
        f = landscapes.get("f4").value(*descend("f4", step_sizes, np.full(199, x[0]), np.full(199, y[0]), 100))
        rises = (np.diff(f, axis=0) > 1e-12).sum(0)
    return ((kinds == (Outcome.UNSTABLE, Outcome.STABLE)).all(1) & (rises >= 2)).mean()


claims.measure(
    "fig3/both", {"": share_fitting((0.1, 2.5), (1.5, 2.0))}, control={"exchanged": share_fitting((1.5, 2.0), (0.1, 2.5))}
)

# %% [markdown]
# ## The theorems, constructed and certified
#
# ### Lemma 1: a ball on which every step descends
#
# *Paper, section "Forward-Invariance of GD".* The classical descent lemma needs a bound on the curvature everywhere. Lemma 1
# needs it near the minimiser only. Choose $M$ with $\lambda_{\max}(\theta^*) < M < 2/\eta$. By continuity the Hessian's
# eigenvalues stay at most $M$ on some ball $B(\theta^*, t_1)$, and a step from a smaller ball $B(\theta^*, t')$ stays in the
# first. Taylor's formula along the step then gives, for every $\alpha\in[0,\eta]$,
#
# ```{math}
# :label: chen-descent
# \begin{gathered}
# f(\theta - \alpha\nabla f(\theta)) - f(\theta) \le -C\alpha\,\|\nabla f(\theta)\|^2,\\
# C = 1 - \tfrac{\eta M}{2} > 0 .
# \end{gathered}
# ```
#
# The proof says that such radii exist. We compute them. For $M$ we take the middle of $(\lambda_{\max}(\theta^*), 2/\eta)$:
# towards the left end of that interval the ball shrinks to nothing, towards the right end $C$ does. With $s = \eta\lambda_{\max}(\theta^*)/2$,
# the fraction of the largest step size, this choice gives $C = (1-s)/2$. The paper also assumes that
# $\theta^*$ is the only stationary point near; we make sure of it by keeping to a ball on which $f$ rises along every ray
# from $\theta^*$.
#
# Each construction is then examined three times.
#
# 1. *On a dense sample*, which can find a mistake but cannot exclude one.
# 2. *By interval arithmetic*, which proves an inequality for all points of a box at once: each operation returns an interval
#    that holds every possible result, rounding included. A box on which the enclosure is too wide to decide is halved. In this way we prove
#    that $\lambda_{\max}\le M$ on $B(\theta^*, t_1)$ ($M I - \nabla^2 f$ is positive definite if and only if its first entry and its determinant are positive)
#    and that no step leads out of it.
# 3. *With a false bound*: a proof that could not fail would prove nothing. So we lower $M$ to 2 % below the largest curvature on the ball,
#    and the proof must break down.
#
# Where a function has several minimisers they are mirror images of each other, and we treat the first.

# %% tags=["hide-input"]
import dataclasses

from eoslib.papers import basins

minimisers = {name: landscapes.get(name).minimisers[0] for name in largest}


constructions = {
    (name, s): certificates.construct(
        landscapes.get(name), certificates.single(*minimisers[name]), s * largest[name]
    )
    for name in largest
    for s in step_fractions
}
certified = {key: certificates.certify(c) for key, c in constructions.items()}
certified_directly = {key: certificates.certify_directly(c) for key, c in constructions.items()}


def descent(c):
    """C = 1 − ηM/2: a step of size α ≤ η from N_{t′} lowers f by at least Cα‖∇f‖²."""
    return 1 - c.step_size * c.bound / 2


def theorem_case(key):
    return f"{key[0]}, η = {key[1]:g} η_max"


# %% tags=["hide-input"]
display(
    HTML(
        pd.DataFrame(
            {
                "function": key[0],
                "η / η_max": f"{key[1]:g}",
                "M": f"{c.bound:.4g}",
                "C": f"{descent(c):.3g}",
                "t₁": f"{c.outer:.3g}",
                "t′": f"{c.radius:.3g}",
                "f* − f(θ*)": f"{c.level - c.landscape.value(*minimisers[key[0]]):.3g}",
                "boxes, by the lemmas": f"{sum(p.boxes for p in certified[key].values()):,}",
                "boxes, directly": f"{sum(p.boxes for p in certified_directly[key].values()):,}",
            }
            for key, c in constructions.items()
        ).to_html(index=False)
    )
)

# %% tags=["hide-input"]


def smallest_descent(c, grid=64):
    """The smallest (f(θ) − f(θ − α∇f)) / (α‖∇f‖²) on a sample of θ ∈ N_{t′} and α ∈ (0, η]."""
    f, r = c.landscape, c.radius * np.arange(1, grid + 1)[:, None] / grid
    x, y = c.minima.at(np.concatenate([-r, r]), np.linspace(0, 2 * np.pi, 2 * grid))
    gx, gy = f.gradient(x, y)
    return min(
        ((f.value(x, y) - f.value(x - a * gx, y - a * gy)) / (a * (gx * gx + gy * gy))).min()
        for a in c.step_size * np.arange(1, 9) / 8
    )


def false_bound(c):
    """The same construction with M below the largest curvature on the ball."""
    return dataclasses.replace(c, bound=0.98 * certificates.largest_curvature(c.landscape, c.minima, c.outer))


certified_falsely = {  # what does not depend on M stands
    key: certified[key] | certificates.certify(false_bound(c), ["curvature"]) for key, c in constructions.items()
}


def bound_and_step_proved(proofs):
    return proofs["curvature"].proved and proofs["step"].proved


claims.measure(
    "lem1/descent", {theorem_case(k): smallest_descent(c) / descent(c) for k, c in constructions.items()},
    control={theorem_case(k): smallest_descent(c) for k, c in constructions.items()},
)  # fmt: skip
claims.measure(
    "lem1/certified", {theorem_case(k): bound_and_step_proved(p) for k, p in certified.items()},
    control={theorem_case(k): bound_and_step_proved(p) for k, p in certified_falsely.items()},
)  # fmt: skip

# %% [markdown]
# ### Theorem 2: a forward-invariant set
#
# *Paper, Theorem 2.* A ball need not be forward-invariant: a step across a narrow valley can lead out of it. The proof therefore cuts
# the ball off at a level: with $f^*$ the least value on the sphere $\|\theta-\theta^*\| = t'$,
#
# ```{math}
# :label: chen-u
# \begin{gathered}
# U = \{\theta : \|\theta-\theta^*\| < t',\ f(\theta) < f^*\},\\
# F(U)\subseteq U .
# \end{gathered}
# ```
#
# Let $\alpha$ grow from 0 to $\eta$. To leave $U$, the point $\theta-\alpha\nabla f(\theta)$ would have to cross the sphere,
# where $f\ge f^*$; but by {eq}`chen-descent` $f$ never rises above its value at the start, which is below $f^*$.
#
# This argument needs three facts, and interval arithmetic proves them: the two of Lemma 1, and $f > f^*$ on the sphere (for a value $f^*$ slightly below
# the least one that a sample finds). A second proof uses none of them. It encloses the image of every box
# that meets $U$ and sees that it lies in $U$. Beside the minimiser no box can be decided in this way, because $U$ and its image both come down to
# that point; there, on a small ball $K\subset U$, all eigenvalues of the Hessian are proved to lie in $[\mu, 2/\eta-\mu]$
# for some $\mu>0$, so that $F$ contracts $K$ into itself. Outside $K$, $\langle\nabla f(\theta), \theta-\theta^*\rangle > 0$ is proved up to $t_1$:
# there is no other stationary point, as Lemma 2 requires.

# %% tags=["hide-input"]


def share_kept(c, grid=256):
    """The share of the points of U on a grid that one step of gradient descent maps into U."""
    reach = c.minima.size + c.radius
    x, y = (centre + np.linspace(-reach, reach, grid) for centre in c.minima.centre)
    x, y = np.meshgrid(x, y)
    inside = c.contains(x, y)
    x, y = x[inside], y[inside]
    gx, gy = c.landscape.gradient(x, y)
    return c.contains(x - c.step_size * gx, y - c.step_size * gy).mean()


def enlarged(c):
    """The same construction with f* above the least value on the sphere."""
    lowest = c.landscape.value(*c.minima.centre)
    return dataclasses.replace(c, level=lowest + 1.1 * (c.level - lowest))


def with_too_large_a_step(key):
    """The same U under steps of 1.1 times the largest size."""
    return dataclasses.replace(constructions[key], step_size=1.1 * largest[key[0]])


def all_proved(proofs):
    return all(p.proved for p in proofs.values())


certified_enlarged = {  # what does not depend on f* stands
    key: certified[key] | certificates.certify(enlarged(c), ["level"]) for key, c in constructions.items()
}
claims.measure(
    "thm2/invariant", {theorem_case(k): share_kept(c) for k, c in constructions.items()},
    control={theorem_case(k): share_kept(with_too_large_a_step(k)) for k in constructions},
)  # fmt: skip
claims.measure(
    "thm2/certified", {theorem_case(k): all_proved(proofs) for k, proofs in certified.items()},
    control={theorem_case(k): all_proved(proofs) for k, proofs in certified_enlarged.items()},
)  # fmt: skip
claims.measure(
    "thm2/certified-directly", {theorem_case(k): all_proved(proofs) for k, proofs in certified_directly.items()},
    control={theorem_case(k): all_proved(certificates.certify_directly(with_too_large_a_step(k))) for k in constructions},
)  # fmt: skip

# %% [markdown]
# #### How large is $U$?
#
# By Lemma 2 the set $U$ lies in $U_\eta$, the set of all stable starts. How much of it does the proof find? The boundary of $U$ is drawn
# below on the map of $U_\eta$ and $V_\eta$, those of the starts that reach the same minimiser.

# %% tags=["hide-input"]


def outcomes(c, x, y):
    """x, y and what becomes of these starts; −1 where the minimiser of the construction is not reached."""
    found = basins.classify(c.landscape, c.step_size, x, y)
    return x, y, np.where(found.minimiser == 0, found.outcome.astype(int), -1)


@cache
def stable_map(c, grid=256):
    """The same on a grid (grid, grid) that is just large enough to show all the stable starts."""
    (cx, cy), r = c.minima.centre, c.radius
    left, right, bottom, top = -8.0, 8.0, -8.0, 8.0
    for _ in range(3):  # each time zooms in on what was found
        x, y, outcome = outcomes(c, *np.meshgrid(np.linspace(left, right, grid), np.linspace(bottom, top, grid)))
        stable = outcome == basins.Outcome.STABLE
        dx, dy = 2 * (right - left) / grid, 2 * (top - bottom) / grid
        left, right = x[stable].min(initial=cx - r) - dx, x[stable].max(initial=cx + r) + dx
        bottom, top = y[stable].min(initial=cy - r) - dy, y[stable].max(initial=cy + r) + dy
    return x, y, outcome


def stable_share_of_u(c, step_size=None):
    """The share of the points of U on a grid that are classified as stable, at another step size if one is given."""
    x, y = np.meshgrid(*(centre + np.linspace(-c.radius, c.radius, 128) for centre in c.minima.centre))
    inside = c.contains(x, y)
    at = dataclasses.replace(c, step_size=step_size or c.step_size)
    return (outcomes(at, x[inside], y[inside])[2] == basins.Outcome.STABLE).mean()


def area_of_u(c):
    u, v = (centre + np.linspace(-c.radius, c.radius, 256) for centre in c.minima.centre)
    return c.contains(*np.meshgrid(u, v)).mean() * (2 * c.radius) ** 2


def area_of_stable(c):
    x, y, outcome = stable_map(c)
    return (outcome == basins.Outcome.STABLE).sum() * (x[0, 1] - x[0, 0]) * (y[1, 0] - y[0, 0])


def power_of_gap(name, area):
    """The power of 1 − η/η_max in an area, between 0.96 and 0.99 of the largest step size."""
    f, m = landscapes.get(name), certificates.single(*minimisers[name])
    far, near = (area(certificates.construct(f, m, s * largest[name])) for s in (0.96, 0.99))
    return np.log(far / near) / np.log(4)


shares = {key: area_of_u(c) / area_of_stable(c) for key, c in constructions.items()}

# %% tags=["hide-input"]
shown = min(step_fractions, key=lambda s: abs(s - 0.3))
with panels(
    2, 4, name="thm2-u", height=1.8,
    caption=rf"The set $U$ of Theorem 2 (black outline) in the set $U_\eta$ of the stable starts (light) at {shown:g} of the largest step "
    r"size; unstable starts that converge to the same minimiser are blue. The dashed circle has the radius $t'$. The lower row is magnified.",
    alt="Four maps of the starts that reach a minimiser, each with a small closed outline inside. Magnified, the "
    "outline fills a dashed circle where the valley is round and is a thin crescent where it is narrow.",
) as axes:  # fmt: skip
    for column, name in enumerate(largest):
        c = constructions[name, shown]
        near = np.meshgrid(*(centre + 1.3 * np.linspace(-c.radius, c.radius, 256) for centre in c.minima.centre))
        for ax, (x, y, outcome) in zip(
            (axes[column], axes[4 + column]), (stable_map(c), outcomes(c, *near)), strict=True
        ):
            ax.imshow(
                outcome, cmap=ListedColormap(["white", SKY, BLUE]), vmin=-1, vmax=1, origin="lower",
                extent=(x[0, 0], x[0, -1], y[0, 0], y[-1, 0]), aspect="auto",
            )  # fmt: skip
            ax.contour(*near, c.contains(*near), levels=[0.5], colors="black", linewidths=1)
            ax.plot(
                *c.minima.at(c.radius, np.linspace(0, 2 * np.pi, 100)), color="black", linestyle="--", linewidth=0.7
            )
        axes[column].set(title=rf"$f_{name[1]}$")
        axes[4 + column].set(xlabel="$x$")
    axes[0].set(ylabel="$y$")
    axes[4].set(ylabel="$y$")

# %% tags=["hide-input"]
with panels(
    1, 1, name="thm2-share",
    caption=r"The share of $U_\eta$, the set of all stable starts, that the set $U$ of the proof covers, against the step size.",
    alt="Four falling curves on a logarithmic scale, one for each function.",
) as (ax,):  # fmt: skip
    for name, colour in zip(largest, colours(4), strict=True):
        ax.semilogy(
            step_fractions, [shares[name, s] for s in step_fractions], "o-", color=colour, label=rf"$f_{name[1]}$"
        )
    ax.set(xlabel=r"$\eta\,/\,\eta_{\max}$", ylabel=r"area of $U$ / area of $U_\eta$")
    ax.legend()

# %% tags=["hide-input"]
small, *_, large = sorted(step_fractions)
claims.measure(
    "thm2/stable", {theorem_case(k): stable_share_of_u(c) for k, c in constructions.items()},
    control={
        f"{name}, U of {small:g} η_max at {large:g} η_max": stable_share_of_u(constructions[name, small], large * largest[name])
        for name in largest
    },
)  # fmt: skip
claims.measure(
    "thm2/shrinks", {name: power_of_gap(name, area_of_u) for name in largest},
    control={name: power_of_gap(name, area_of_stable) for name in largest},
)  # fmt: skip

# %% [markdown]
# The proof finds a small part of $U_\eta$ only, and ever less of it as $\eta$ approaches the largest step size: there $M$ has to stay
# below a $2/\eta$ that is hardly larger than $\lambda_{\max}(\theta^*)$, and the ball on which the curvature does shrinks in proportion to
# the gap. At small step sizes something else limits it, namely the nearest other stationary point, which must lie outside the ball,
# while $U_\eta$ goes on growing: for $f_1$ the share is 9 % at a fifth of the largest step size, but 3 % at a tenth. The claim that the share
# shrinks with $\eta$ is true of the step sizes shown, not of all.

# %% [markdown]
# ### Theorem 3: the stable starts form an open set
#
# *Paper, Theorem 3.* Let $\theta_0$ be a stable start and $\theta_K$ its first iterate in $U$. A start within $\varepsilon$ of $\theta_0$
# is within $\varepsilon(1+\eta M_2)^i$ of $\theta_i$ after $i$ steps, where $M_2$ bounds the curvature near the first $K$ iterates. If
# this is less than the distance $\varepsilon'$ from $\theta_K$ to the boundary of $U$, the other trajectory enters $U$ too; and if
# $2\varepsilon M_1(1+\eta M_2)^K$ is less than the smallest decrease $M$ of $f$ in the first $K$ steps, with $M_1$ a bound of
# $\|\nabla f\|$ there, its loss falls at each of them. These are the conditions (42).
#
# We draw starts at random outside $U$, compute $\varepsilon$ from (42), and measure how large the ball really is: rings of starts
# around $\theta_0$ are classified, and the radius is that of the last ring before the first one that holds a start of another kind. (Between its points a
# ring sees nothing, so this is an estimate, rather too large than too small.) The same is done for $V_\eta$, where only the first condition is needed. The claims ask where it is hard:
# halving the line from such a start to one outside leads to $10^{-9}$ beside the boundary.

# %% tags=["hide-input"]
ring_radii = np.logspace(-9, 0.5, 96)
KINDS = {
    "stable": [basins.Outcome.STABLE],
    "convergent": [basins.Outcome.STABLE, basins.Outcome.UNSTABLE],
    "ends at the saddle": [basins.Outcome.SADDLE],
}


def belongs(of, found):
    """Whether starts that were classified are of a kind; those that converge do so to the minimiser of the construction."""
    return np.isin(found.outcome, KINDS[of]) & (found.minimiser == (-1 if of == "ends at the saddle" else 0))


@cache
def way_into_u(c, x, y):
    """Of the way from (x, y) to the first iterate in U: its number K, M₁, M₂ and ε′, which are taken over samples, and M.

    ValueError if U is not reached in 10,000 steps.
    """
    f, eta, path = c.landscape, c.step_size, [(x, y)]
    while not c.contains(x, y):
        gx, gy = f.gradient(x, y)
        x, y = x - eta * gx, y - eta * gy
        path.append((x, y))
        if len(path) > 10_000:
            raise ValueError(f"gradient descent from {path[0]} does not reach U in 10,000 steps")
    rho, angle = np.meshgrid(np.linspace(0, 1, 17), np.linspace(0, 2 * np.pi, 65))
    disc_x, disc_y = rho * np.cos(angle), rho * np.sin(angle)
    xs, ys = np.array(path).T
    around = xs[:, None, None] + disc_x, ys[:, None, None] + disc_y
    M1 = np.hypot(*f.gradient(*around)).max()  # of ‖∇f‖, where (36) prints ‖f‖
    M2 = np.abs(f.eigenvalues(*around)).max()
    to_boundary = certificates.largest_radius(lambda r: c.contains(x + r * disc_x, y + r * disc_y).all(), 2.0)
    return len(path) - 1, M1, M2, to_boundary, -np.diff(f.value(xs, ys)).max(initial=-np.inf)


def openness_radius(c, x, y, stable, growing=True):
    """K and log₁₀ ε of the ball B(θ₀, ε) by (42), θ₀ = (x, y), see `way_into_u`.

    Of a start that is not `stable`, the condition that keeps f falling drops out. growing: whether differences grow by
    1 + ηM₂ a step, as the proof says.
    """
    K, M1, M2, to_boundary, decrease = way_into_u(c, x, y)
    slack = min(1.0, to_boundary, decrease / (2 * M1) if stable else np.inf)
    return K, np.log10(slack) - K * np.log10(1 + c.step_size * M2) * growing


def ball_radii(c, of, x, y, radii):
    """The radius, for each start (x, y), of the largest ball seen in which all starts are of the same kind; radii: of the rings looked at,
    (rings,) or (starts, rings)."""
    angle, radii = np.linspace(0, 2 * np.pi, 32, endpoint=False), np.broadcast_to(radii, (len(x), np.shape(radii)[-1]))
    u = x[:, None, None] + radii[..., None] * np.cos(angle)
    v = y[:, None, None] + radii[..., None] * np.sin(angle)
    count = np.logical_and.accumulate(belongs(of, basins.classify(c.landscape, c.step_size, u, v)).all(-1), axis=1).sum(1)
    return np.where(count > 0, radii[np.arange(len(x)), count - 1], 0)


def random_starts(c, of, count):
    """Starts of a kind outside U, and starts of no such kind, that are decided within 200 steps; (2, starts) each."""
    x, y, _ = stable_map(c)
    found = basins.classify(c.landscape, c.step_size, x, y)
    kind, decided = belongs(of, found), found.steps < 200
    g = np.random.default_rng(0)
    for mask in (kind & ~c.contains(x, y), ~kind):
        candidates = np.flatnonzero(mask & decided)
        chosen = g.choice(candidates, min(count, len(candidates)), replace=False)
        yield np.stack([x.flat[chosen], y.flat[chosen]])


def at_the_boundary(c, of, count=12, halvings=30):
    """Starts of a kind (2, starts), each with the distance to one of no such kind, found by halving the line between two random starts."""
    inside, outside = random_starts(c, of, count)
    for _ in range(halvings):
        middle = (inside + outside) / 2
        belonging = belongs(of, basins.classify(c.landscape, c.step_size, *middle))
        inside, outside = np.where(belonging, middle, inside), np.where(belonging, outside, middle)
    return inside, np.hypot(*(inside - outside))


def sampled_balls(name, of, count=12):
    """Measured radius, and K and log₁₀ ε by (42), at random starts of a kind outside U."""
    c = constructions[name, sorted(step_fractions)[-2]]
    starts, _ = random_starts(c, of, count)
    by_proof = np.array([openness_radius(c, *start, of == "stable") for start in starts.T])
    return ball_radii(c, of, *starts, ring_radii), by_proof.reshape(-1, 2)


balls = {of: {name: sampled_balls(name, of) for name in largest} for of in ("stable", "convergent")}

# %% tags=["hide-input"]
with panels(
    1, 2, name="thm3", sharex=True, sharey=True,
    caption=r"Theorem 3. For random starts: the radius of the ball that the proof constructs, by (42), against the measured radius; "
    r"starts in $U_\eta$ (left) and in $V_\eta$ (right). On the dashed line they would agree.",
    alt="Scatter of points far below the diagonal: the radius of the proof is smaller by many orders of magnitude.",
) as axes:  # fmt: skip
    for ax, by_name, title in zip(axes, balls.values(), ("stable starts", "convergent starts"), strict=True):
        for (name, (measured, by_proof)), colour in zip(by_name.items(), colours(4), strict=True):
            ax.plot(np.log10(measured), by_proof[:, 1], "o", color=colour, markersize=4, label=rf"$f_{name[1]}$")
        ax.axline((-1, -1), slope=1, color=RULE, linestyle="--", linewidth=0.9)
        ax.set(title=title, xlabel=r"$\log_{10}$ of the measured radius")
    axes[0].set(ylabel=r"$\log_{10}\varepsilon$ by (42)")
    axes[0].legend()

# %% tags=["hide-input"]
relative = np.geomspace(1e-3, 1, 64)  # radii over the distance to a start outside
at_saddle = np.linspace(0.1, 1, 12)  # on x = −y, from where f₄ is descended to the saddle at 0
for of in balls:
    smallest, covered, without_growth = {}, {}, {}
    for name in largest:
        c = constructions[name, sorted(step_fractions)[-2]]
        starts, distance = at_the_boundary(c, of)
        radius = ball_radii(c, of, *starts, distance[:, None] * relative)
        smallest[name] = (radius / distance).min()
        for shares, conditions in ((covered, {"stable": of == "stable"}), (without_growth, {"stable": False, "growing": False})):
            by_proof = np.array([openness_radius(c, *start, **conditions)[1] for start in starts.T])
            shares[name] = (by_proof <= np.log10(radius)).mean()
    c = constructions["f4", sorted(step_fractions)[-2]]
    of_saddle = ball_radii(c, "ends at the saddle", at_saddle, -at_saddle, 1e-9 * relative) / 1e-9
    claims.measure(f"thm3/{of}-ball", smallest, control={"f4, ends at the saddle": of_saddle.min()})
    claims.measure(f"thm3/{of}-bound", covered, control=without_growth)

# %% [markdown]
# ### The extension: a curve of minimisers
#
# *Paper, section "Extension".* The results are said to extend to a compact set $S$ of global minimisers, with the proof in a supplement that we do not
# have. The construction carries over. Let $d\ge 0$ be continuous and zero on $S$ only, with compact neighbourhoods
# $N_r = \{d\le r^2\}$ (above, $d$ was the squared distance). If $\eta < 2/\lambda_{\max}(\theta)$ for **every** $\theta\in S$, choose $M$
# between the largest of these curvatures and $2/\eta$, then $t_1$ with curvature at most $M$ on $N_{t_1}$, then $t'$ such that no step
# of size $\alpha\le\eta$ leads from $N_{t'}$ out of $N_{t_1}$, then $f^*$ as the least value on the boundary of $N_{t'}$. Word for word as before, $f$
# descends on $N_{t'}$, and $U = \{d < t'^2, f < f^*\}$ is forward-invariant. What is lost is the limit: if $N_{t_1}$ holds no
# stationary points but those of $S$, the iterates approach $S$; that they approach a point of it does not follow from the argument.
#
# We choose two functions $f = (p-1)^2$: with $p = x^2+y^2$ the minimisers form a circle and all have curvature 8; with $p = x^4+y^4$ they form
# a square with rounded corners, where the curvature goes from $16\sqrt 2$ on the diagonals to 32 on the axes. For $d$ we take $f$
# itself. The same intervals as above prove both cases.

# %% tags=["hide-input"]
def closed_curve(landscape, degree):
    """The minimisers of (p − 1)², where p(x, y) = |x|ᵏ + |y|ᵏ with k = `degree`, and where f itself serves as d."""

    def at(r, angle):
        c, s = np.cos(angle), np.sin(angle)
        scale = (np.maximum(1 + r, 0) / (abs(c) ** degree + abs(s) ** degree)) ** (1 / degree)
        return scale * c, scale * s

    return certificates.Minima(gap=landscape.value, at=at, centre=(0, 0), size=1)


curves = {
    name: certificates.construct(
        landscapes.get(name),
        closed_curve(landscapes.get(name), degree),
        extension_fraction * largest_on_curve,
    )
    for name, degree, largest_on_curve in (("circle", 2, 2 / 8), ("rounded_square", 4, 2 / 32))
}
claims.measure(
    "ext/compact-descent", {name: smallest_descent(c) / descent(c) for name, c in curves.items()},
    control={name: smallest_descent(c) for name, c in curves.items()},
)  # fmt: skip
curves_certified = {name: certificates.certify(c) for name, c in curves.items()}
curves_enlarged = {  # f is 0 on the curve
    name: curves_certified[name] | certificates.certify(dataclasses.replace(c, level=1.1 * c.level), ["level"])
    for name, c in curves.items()
}
claims.measure(
    "ext/compact-certified", {name: all_proved(proofs) for name, proofs in curves_certified.items()},
    control={name: all_proved(proofs) for name, proofs in curves_enlarged.items()},
)  # fmt: skip

# %% [markdown]
# The condition must hold on all of $S$. At a step size 10 % above $2/32$ the rounded square has flat corners, which attract, and sharp sides, which
# repel: there is no invariant neighbourhood of the whole curve close to it.


# %% tags=["hide-input"]
def excursion_from_square(fraction):
    """The largest |x⁴ + y⁴ − 1| from beside the sharpest minimiser, at a fraction of the largest step size."""
    x, y = descend("rounded_square", fraction * 2 / 32, np.array([1 + 1e-6]), np.array([0.0]), 500)
    return abs(x**4 + y**4 - 1).max()


claims.measure(
    "ext/maximum-is-needed", {"": excursion_from_square(1.1)}, control={"10 % below": excursion_from_square(0.9)}
)

# %% [markdown]
# ### The limit of the method: $(1-xy)^2$
#
# *Paper, conclusion.* The authors name $f(x,y) = (1-xy)^2$ as a function their theorems do not cover: its minimisers, the
# hyperbola $xy=1$, are not compact. The largest curvature at a minimiser is $2(x^2+y^2)$, which has no upper bound. So at
# *every* step size some minimisers are sharper than $2/\eta$. Gradient descent from close beside them first moves away, so that no thin neighbourhood of the
# whole hyperbola is forward-invariant, and $f$ rises. What then? Where the sharpness is only moderately above $2/\eta$, it
# settles at a flatter minimiser; the sharper the start, the farther it jumps, and beyond about twice $2/\eta$ it diverges.
# The minimisers themselves are fixed points, so every neighbourhood of the whole hyperbola holds starts of both kinds.

# %% tags=["hide-input"]
hyperbola_step_size = 0.1


def beside_hyperbola(ratio):
    """Starts 1e-6 beside the minimisers whose sharpness is `ratio` times 2/η."""
    total = ratio / hyperbola_step_size  # x² + y², half the sharpness; xy = 1
    x = np.sqrt((total + np.sqrt(total**2 - 4)) / 2)
    return x + 1e-6 / x / np.sqrt(total), 1 / x + 1e-6 * x / np.sqrt(total)


ratios = np.concatenate([[1.1, 1.5, 1.9, 4.0, 0.5, 0.9], np.linspace(0.3, 3, 109)])
x, y = descend("hyperbola", hyperbola_step_size, *beside_hyperbola(ratios), 5000)
with np.errstate(over="ignore", invalid="ignore"):  # some diverge
    overflows = ~np.isfinite(x[-1] + y[-1])
    excursion = np.where(np.isfinite(x + y), abs(1 - x * y), np.inf).max(0)
    arrived = abs(1 - x[-1] * y[-1]) < 1e-6
    limit_ratio = np.where(arrived, (x[-1] ** 2 + y[-1] ** 2) * hyperbola_step_size, np.inf)

# %% tags=["hide-input"]
with panels(
    1, 2, name="ext-hyperbola",
    caption=r"Gradient descent on $(1-xy)^2$ at $\eta = 0.1$ from $10^{-6}$ beside minimisers. Left: iterates from two minimisers sharper than "
    r"$2/\eta$; the hyperbola is green where its curvature is at most $2/\eta$, grey where it is larger. Right: sharpness of the limit "
    r"against the sharpness at the start, over $2/\eta$; nothing is drawn where it diverges. The dashed line is $2/\eta$.",
    alt="Left, iterates leave the sharp part of the hyperbola, jump across it and settle on its flat part. Right, limits equal "
    "the start up to a ratio of one, beyond which they fall below one, until the points end.",
) as (left, right):  # fmt: skip
    along = np.linspace(0.2, 6, 400)
    flat = along**2 + along**-2.0 <= 1 / hyperbola_step_size
    left.plot(along, 1 / along, color="0.6")
    left.plot(np.where(flat, along, np.nan), 1 / along, color=GREEN)
    for i, colour in ((0, BLUE), (1, VERMILION)):
        left.plot(x[:400, i], y[:400, i], ".-", color=colour, linewidth=0.4, markersize=3, label=f"{ratios[i]:g} · 2/η")
    left.set(xlabel="$x$", ylabel="$y$", xlim=(0, 6), ylim=(-4, 3))
    left.legend(title="sharpness at the start")
    right.plot(ratios, np.where(arrived, limit_ratio, np.nan), ".", color=BLUE)
    right.axhline(1, color=RULE, linestyle="--", linewidth=0.9)
    right.set(
        xlabel=r"sharpness at the start / $(2/\eta)$", ylabel=r"sharpness of the limit / $(2/\eta)$", xlim=(0.2, 3)
    )

# %% tags=["hide-input"]
beside = {f"{ratio:g} · 2/η": i for i, ratio in enumerate(ratios[:6])}
sharper, sharpest, flatter = (dict(list(beside.items())[part]) for part in (slice(3), slice(3, 4), slice(4, 6)))
claims.measure(
    "ext/hyperbola-repels", {case: excursion[i] for case, i in sharper.items()},
    control={case: excursion[i] for case, i in flatter.items()},
)  # fmt: skip
claims.measure(
    "ext/hyperbola-flatter", {case: limit_ratio[i] for case, i in sharper.items()},
    control={case: limit_ratio[i] for case, i in sharpest.items()},
)  # fmt: skip
claims.measure(
    "ext/hyperbola-diverges", {case: overflows[i] for case, i in sharpest.items()},
    control={case: overflows[i] for case, i in sharper.items()},
)  # fmt: skip

# %% [markdown]
# ## Beyond the paper: how large, and how rough?
#
# *Ours.* The pictures suggest two questions that the paper leaves to the eye. How do the two sets shrink as $\eta$ grows? And is
# their boundary a curve or a fractal, and from which step size on?
#
# **Area.** The share of pixels, times the area of the box. A pixel that the boundary crosses is counted or not by where its centre lies; as if by the toss of a coin for
# each of the $N$ of them, the standard error is $\sqrt N/2$ pixels. The box limits the areas at small step sizes.
#
# **Dimension.** Cover the boundary by boxes of side $s$ and count those that it meets, $N(s)\propto s^{-D}$. For a smooth curve $D = 1$. We count boxes of
# 4 to 64 pixels, in four positions each, and fit the slope; the standard error is a jackknife over the sizes. On a circle and a
# straight line the same procedure gives their dimension to a few hundredths, on Koch's curve, too. What it cannot see is finer than
# a pixel: "fractal" means rough from 64 pixels down to 4. Where the boundary is shorter than ten of the largest boxes no dimension is given.

# %% tags=["hide-input"]
sizes = collect(experiments["sizes"])
size_of = {run["landscape"]: run for run in sizes}


def fractions(run):
    """The measured step sizes over η_max."""
    return run.trace.eta.values / largest[run["landscape"]]


def area(run, of):
    """The area of a set ("stable" or "convergent") at each step size, and its standard error."""
    left, right, bottom, top = run["box"]
    pixel = (right - left) * (top - bottom) / run["grid"] ** 2
    return run.trace[f"{of}_area"].values, pixel * np.sqrt(run.trace[f"{of}_boxes"].values[:, 0]) / 2


def box_dimension(counts):
    """The box-counting dimension and its standard error, from `box_counts` (number of sizes,).

    The slope of log₂ N against −log₂ size, by least squares; its error by the jackknife over sizes. Boxes of one
    and two cells are left out: where the set is thinner than a pixel, its boundary crosses cells unseen. Two nan
    where the boundary meets fewer than ten of the largest boxes: there it is too short to have a slope.
    """
    counts = np.asarray(counts, dtype=float)[2:]
    if counts[-1] < 10:
        return float("nan"), float("nan")
    size, n = np.arange(len(counts)), len(counts)
    slopes = [-np.polyfit(np.delete(size, i), np.log2(np.delete(counts, i)), 1)[0] for i in range(n)]
    error = np.sqrt((n - 1) / n * np.sum((slopes - np.mean(slopes)) ** 2))
    return float(-np.polyfit(size, np.log2(counts), 1)[0]), float(error)


def dimension(run, of):
    """The dimension of the boundary of a set at each step size, and its standard error: (steps, 2)."""
    return np.array([box_dimension(counts) for counts in run.trace[f"{of}_boxes"].values])


# %% tags=["hide-input"]
with panels(
    2, 4, name="sizes", height=1.7, sharex=True, runs=sizes,
    caption=r"Ours: area in the box (top) and box-counting dimension of the boundary (bottom) of $U_\eta$ and $V_\eta$ against the step size, with two "
    "standard errors.",
    alt="The areas fall as the step size grows. The dimensions are near one at small step sizes and rise towards the largest.",
) as axes:  # fmt: skip
    for i, (name, run) in enumerate(size_of.items()):
        for of, colour, label in (("stable", SKY, r"$U_\eta$"), ("convergent", BLUE, r"$V_\eta$")):
            mean, error = area(run, of)
            axes[i].errorbar(fractions(run), mean, 2 * error, color=colour, fmt=".-", label=label)
            slope, slope_error = dimension(run, of).T
            axes[4 + i].errorbar(fractions(run), slope, 2 * slope_error, color=colour, fmt=".-")
        axes[i].set(title=symbol(name), ylim=(0, None))
        axes[4 + i].axhline(1, color=RULE, linestyle="--", linewidth=0.9)
        axes[4 + i].set(xlabel=r"$\eta\,/\,\eta_{\max}$", ylim=(0.8, 2))
    axes[0].set(ylabel="area")
    axes[4].set(ylabel="dimension")
    if sizes:
        axes[0].legend()

# %% tags=["hide-input"]


def growth(run, of):
    """The largest growth of the area of a set between successive step sizes, less two standard errors, per box; of: "stable", or "unstable"
    for the rest of V_η."""
    mean, error = area(run, "stable")
    if of == "unstable":
        mean = area(run, "convergent")[0] - mean
    left, right, bottom, top = run["box"]
    return np.max(np.diff(mean) - 2 * np.hypot(error[1:], error[:-1])) / ((right - left) * (top - bottom))


def stable_share(run, at):
    """The area of U_η over that of V_η at one of the step sizes."""
    return area(run, "stable")[0][at] / area(run, "convergent")[0][at]


claims.measure(
    "ours-area/shrinks", {n: growth(r, "stable") for n, r in size_of.items()}, sizes,
    control={n: growth(r, "unstable") for n, r in size_of.items()},
)  # fmt: skip
claims.measure(
    "ours-area/stable-share-collapses",
    {n: stable_share(r, -1) for n, r in size_of.items()},
    sizes,
    control={n: stable_share(r, 0) for n, r in size_of.items()},
)


# %% [markdown]
# Finer than a pixel sees the *uncertainty exponent* {cite}`mcdonald1985fractal`: the share of random starts that a shift by $\varepsilon$ in a random direction moves into the set
# or out of it is proportional to $\varepsilon^{2-D}$. We let $\varepsilon$ fall from $10^{-1.5}$ to $10^{-4.5}$ of half the box.

# %% tags=["hide-input"]
uncertain = collect(experiments["uncertain"])


def uncertainty_dimension(run, of, scales=slice(2, None)):
    """D of the boundary of a set and its standard error, by least squares with the weights of counts; from a shift by 10^-2.5 down by default."""
    counts, shifts = (run.trace[name].values[scales].astype(float) for name in (f"{of}_moved", "shift"))
    log = np.log(shifts)
    log -= np.average(log, weights=counts)
    slope = np.average(log * np.log(np.maximum(counts, 1)), weights=counts) / np.average(log**2, weights=counts)
    return 2 - slope, (counts * log**2).sum() ** -0.5


def fading(run, of):
    """By how much D falls from the three coarsest shifts to the others, and its standard error."""
    (coarse, coarse_error), (fine, fine_error) = (uncertainty_dimension(run, of, part) for part in (slice(3), slice(3, None)))
    return coarse - fine, np.hypot(coarse_error, fine_error)


near_largest = {run["landscape"]: run for run in uncertain if fraction_of(run) > 0.5}
at_quarter = {run["landscape"]: run for run in uncertain if fraction_of(run) < 0.5}
rough = {name: uncertainty_dimension(run, "convergent") for name, run in near_largest.items()}
smooth, smooth_errors = values_and_errors({n: uncertainty_dimension(r, "convergent") for n, r in at_quarter.items()})
fractal, fractal_errors = values_and_errors({n: dimension for n, dimension in rough.items() if n != "f1"})
faded, faded_errors = values_and_errors({n: fading(run, "stable") for n, run in near_largest.items()})
claims.measure(
    "ours-dimension/smooth-at-small-steps", smooth, uncertain, errors=smooth_errors,
    control={f"{n}, 0.99 η_max": value for n, value in fractal.items()},
)  # fmt: skip
claims.measure(
    "ours-dimension/convergent-is-fractal", fractal, uncertain, errors=fractal_errors,
    control={n: rough[n][0] for n in rough if n == "f1"},
)  # fmt: skip
claims.measure(
    "ours-dimension/stable-is-not", faded, uncertain, errors=faded_errors,
    control={n: fading(run, "convergent")[0] for n, run in near_largest.items()},
)  # fmt: skip

# %% [markdown]
# **What comes out.** $U_\eta$ shrinks steadily up to about $0.9\,\eta_{\max}$ and then collapses, while $V_\eta$, except for that of $f_2$, keeps most of its area:
# close to $\eta_{\max}$ nearly everything that converges does so unstably. $f_2$ is the function whose $c$ has no positive sign along $y$
# ($f''' = 0$, $f'''' = 24$: $c = -4$); its sets shrink to the minimum. The one
# growth of $U_\eta$, that of $f_3$ at the smallest step sizes, too small for the figure, is one of our patience: there starts near the flat centre
# are undecided after 5,000 steps, and a larger step decides more of them. From $512^2$ to $2048^2$ starts the areas change by less than their uncertainty allows to see in the figure.
#
# Is the boundary a fractal? That of $V_\eta$, for $f_3$ and $f_4$ near the largest step size, yes: its dimension is above 1 over three decades of $\varepsilon$. For $f_1$ it is a smooth
# curve there. That of $f_3$ has a dimension slightly above 1 at $\eta_{\max}/4$, too, which box counting sees only as the pixels shrink.
#
# For $U_\eta$ box counting gives far more. But this is not a fractal. On a compact part of $V_\eta$ all starts enter a trap within some number
# $N$ of steps, so that there $U_\eta$ is cut out by the $N$ polynomial inequalities $f(F^{k+1}(\theta)) < f(F^k(\theta))$; its boundary inside $V_\eta$ consists of
# finitely many pieces of algebraic curves, of dimension 1. What the fit sees is how densely they lie: $N$ grows like $1/(1-\eta/\eta_{\max})$; so $D$ falls at smaller scales.
#
# ## Where we differ
#
# The paper gives no boxes, step sizes or resolutions for its maps, no function for figure 1 and no step size for figure 3; all of them are our choice and parameters of
# this page. Its condition for a stable start, (30), is taken with the inequality that its text describes. Iterates beyond a distance of
# 1,000 count as diverged. The presets differ in resolution only: $256^2$, $1024^2$ and $4096^2$ starts in a map. All deviations of
# the book stand on [one page](../book/deviations.md), slips of the paper [on another](../book/errata.md).
#
# ## Try it
#
# Rerun the chapter with other parameters, for example
# `python -m eoslib run forward_invariance -p 'step_fractions=[0.9, 0.95, 0.99]' -p grid=512 -o mine.ipynb`.
#
# 1. Which step sizes make both starts of figure 3 stable? Change `fig3_step_size` and look at the map.
# 2. At which fraction of $\eta_{\max}$ do the first unstable starts of $f_1$ appear? Bracket it with `step_fractions`.
# 3. For $f(x) = \lambda x^2/2 + \kappa x^3$ find the sign of $c$ in {eq}`chen-limit`. What does it say about the cubic term?
#
# ## Exercises
#
# ```{exercise} A function without unstable starts
# :label: exercise-no-unstable
# :nonumber:
#
# For $f = \tfrac12x^2+\tfrac14x^4$ in one dimension and $\eta < 2$ find $U_\eta$ and $V_\eta$, and show that they are equal.
# ```
#
# ```{solution-start} exercise-no-unstable
# :class: dropdown
# ```
#
# $F(x) = (1-\eta(1+x^2))\,x$, and $f$ is even and grows with $|x|$. So $f(F(x)) < f(x)$ if and only if $|1-\eta(1+x^2)| < 1$, that is $x^2 < 2/\eta-1$. There $|x|$ falls at every step, and $x\to0$; beyond, $|x|$ grows at every step. Hence
# $U_\eta = V_\eta = \{|x| < \sqrt{2/\eta-1}\}$: by symmetry no start can jump over the bound and land inside.

# %%
eta, x = 1.5, np.linspace(-1, 1, 2001)
start = x.copy()
for _ in range(200):
    x = np.clip(x - eta * (x + x**3), -10, 10)
converge = abs(start[abs(x) < 1e-6])
print(f"the largest start that converges {converge.max():.3f}")
print(f"computed {np.sqrt(2 / eta - 1):.5f}")

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} The largest step size of $f_4$
# :label: exercise-largest-step
# :nonumber:
#
# The minimisers of $f_4$ are $\pm(m, m)$. Find $m$, both eigenvalues of the Hessian there, and $\eta_{\max}$.
# ```
#
# ```{solution-start} exercise-largest-step
# :class: dropdown
# ```
#
# On the diagonal $\nabla f_4 = 0$ reads $-2(1-m^2)m+m/10 = 0$, so $m^2 = 19/20$. The Hessian has $2m^2+\tfrac1{10} = 2$ on the diagonal and $4m^2-2 = \tfrac95$ beside it: eigenvalues $2\pm\tfrac95$, and $\eta_{\max} = 2/\tfrac{19}5 = 10/19$.

# %%
m, f4 = np.sqrt(19 / 20), landscapes.get("f4")
print("gradient:", np.array(f4.gradient(m, m)))
print("eigenvalues:", np.array(f4.eigenvalues(m, m)))

# %% [markdown]
# ```{solution-end}
# ```
#
# ## Provenance

# %%
provenance([fig1_path], fig1_map, fig2, [unstable_path, stable_path], fig3_map, sizes, unstable_shares, pieces, uncertain)
