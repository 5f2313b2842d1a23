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
# # No stationary points
#
# ```{chapter-head}
# paper: zhang2021
# question: >-
#   Training stops making progress, yet its gradient does not vanish. What has converged then?
# answer: >-
#   Averages over time have, not the weights: the loss keeps changing from step to step by as much up as down. A distribution that the step leaves
#   as it is takes the place of the stationary point, and gradient, noise and curvature balance on it.
# findings:
#   - >-
#     The picture holds where data cannot be learnt by heart: at constant step sizes the gradient norm ends at {fig2/gradient-stays} times that in the middle of the run, on few examples at {fig7/gradient-vanishes} times,
#     and the noise grows by a factor of {fig1/noise-grows}. On $100\sin\theta_1\sin\theta_2$ time averages settle to {fig5/averages-settle} of the range of the values, which never settle.
#   - >-
#     Three statements do not. Lemma 2's example gives {lem2/as-constructed} where at least 0.5 is claimed; theorem 4's limit need not be ergodic ({thm4/ergodic-limit} where 0 is claimed);
#     the right side of the identity before (10) is {eq10/identity-as-printed} times the left one. Corrected, it is {eq10/identity-corrected} times, and becomes Ahn et al.'s relation (6).
#   - >-
#     An open question has an answer: gradient descent with a fixed step size, too, can have time averages without a limit ({thm3/by-gradient-descent} apart for ever).
# figure: fig5
# thumbnails:
#   fig2: figure 2
#   fig4: figure 4
#   fig7: figure 7
#   fig8: figure 8
#   lem2: lemma 2
#   thm3: theorem 3
# ```

# %% [markdown]
# ## The experiment in plain PyTorch
#
# Gradient descent on $100\sin\theta_1\sin\theta_2$ with a step twice as large as the classical theory allows: neither loss nor gradient norm converges, their averages
# over time do. Copy the cell into an empty notebook.

# %% tags=["plain"]
import torch


def f(theta):
    x, y = theta
    return 100 * torch.sin(x) * torch.sin(y)


theta, eta = torch.tensor([1.0, 2.0]).double(), 0.04  # 2/L is 0.02
losses, norms = [], []
for _ in range(2000):
    theta.requires_grad_()
    loss = f(theta)
    (gradient,) = torch.autograd.grad(loss, theta)
    losses.append(loss.item())
    norms.append(gradient.norm().item())
    theta = theta.detach() - eta * gradient

losses, norms = torch.tensor(losses), torch.tensor(norms)
for t in (10, 100, 500, 1000, 1999):
    averages = losses[: t + 1].mean(), norms[: t + 1].mean()
    print(
        f"step {t:4}: loss {losses[t]:7.2f}, its average {averages[0]:7.2f};"
        f" gradient norm {norms[t]:6.2f}, average {averages[1]:6.2f}"
    )

# %% [markdown]
# The library's run of the same (paper, figure 5, second row), perhaps on another processor. The orbit is chaotic: a last digit that is rounded otherwise grows until the two have nothing in common but their averages. Over
# the first hundred steps:

# %% tags=["compared"]
from eoslib.chapter.experiments import at_quick

run = at_quick("no_stationary_points", "fig5", 1)
library = torch.tensor(run.trace.loss.values, dtype=losses.dtype)
difference = (losses - library)[:100].abs().max().item()
print("largest difference of a loss:", difference)

# %% [markdown]
# ## Setting
#
# A step of (stochastic) gradient descent is a map, $\theta_{t+1} = F(\theta_t) = \theta_t - \eta\,g(\theta_t)$, where $g$ is an unbiased estimate of $\nabla L$. The paper {cite}`zhang2021`
# looks at its trajectory through the *empirical measure* and time averages,
#
# ```{math}
# :label: zhang-average
# \begin{aligned}
# \mu_n &= \frac1n\sum_{t=1}^n \delta_{\theta_t},\\
# \mu_n(\varphi) &= \frac1n\sum_{t=1}^n\varphi(\theta_t),
# \end{aligned}
# ```
#
# and at four quantities (paper, (2)): the loss $L$, the gradient norm $\|\nabla L\|$, the *noise* $\sigma = \big(\tfrac1N\sum_i\|\nabla L - \nabla\ell_i\|^2\big)^{1/2}$ of single examples, and the
# *sharpness* $\|\nabla^2L\|$, an operator norm. A measure $\mu$ is *invariant* if a step leaves it as it is, $\mu(F^{-1}(A)) = \mu(A)$.
#
# Where the paper leaves something open we chose: the start of figure 5 is $(1, 2)$. At `quick` its networks and data are replaced by small ones that show the same, at `standard` by a narrow ResNet on a part of CIFAR-10
# and a small Transformer-XL on a part of WikiText.

# %% tags=["hide-input"]
from typing import Annotated, Literal

from annotated_types import Interval, Len
from pydantic import PositiveFloat, PositiveInt

# %% tags=["parameters"]
preset: Literal["quick", "standard", "paper"] = "quick"
seeds: Annotated[list[int], Len(1, 10)] = [0, 1, 2]
fig1_seeds: Annotated[list[int], Len(1, 10)] = [0]
# images: figures 1 to 3, and 7, where there are few of them; step sizes from large to small, as in figure 2; noise and sharpness are measured so many times in a run, the noise on a sample of so many minibatches of so many examples
images: Literal["noisy_digits", "cifar10", "image_folder"] = "noisy_digits"
image_options: dict = {}
image_n: PositiveInt = 2000
image_network: dict = {"architecture": "cnn", "sizes": {"width": 8}, "activation": "swish"}
image_batch_size: PositiveInt = 50
image_augmentation: dict = {}
image_step_sizes: Annotated[list[PositiveFloat], Len(2, 5)] = [0.2, 0.1, 0.05]
image_epochs: Annotated[int, Interval(ge=3)] = 6
image_measured: Annotated[int, Interval(ge=6)] = 6
longer_epochs: PositiveInt = 20
image_sample: Annotated[list[PositiveInt], Len(2, 2)] = [4, 125]
few: Literal["noisy_digits", "cifar10"] = "noisy_digits"
few_n: PositiveInt = 100
few_network: dict = {"architecture": "cnn", "sizes": {"width": 8}, "activation": "swish"}
few_augmentation: dict = {}
few_step_size: PositiveFloat = 0.1
few_epochs: PositiveInt = 150
# between the two: as many steps on so many of the images
trend_n: Annotated[list[PositiveInt], Len(1, 4)] = [100, 400]
# texts: figures 4 and 9; stretches of tokens, of which the short text has few
text: Literal["markov", "wikitext"] = "markov"
text_options: dict = {"length": 8}
text_n: PositiveInt = 640
text_network: dict = {"segment": 4, "memory": 4, "width": 8, "heads": 2, "layers": 1, "inner": 16}
text_batch_size: PositiveInt = 16
text_step_sizes: Annotated[list[PositiveFloat], Len(2, 5)] = [0.1, 0.03, 0.01]
text_epochs: PositiveInt = 4
text_sample: Annotated[list[PositiveInt], Len(2, 2)] = [4, 100]
text_iterations: PositiveInt = 5  # of the power method
short_n: PositiveInt = 8
short_epochs: PositiveInt = 200
# figure 6: so many of the last steps, and whether the loss of all data is taken there
last: Annotated[int, Interval(ge=2)] = 50
last_whole: bool = True
# the loss and its gradient norm are taken so many times as often as noise and sharpness
finer: PositiveInt = 3
# figure 5, on 100 sin θ₁ sin θ₂
start: Annotated[list[float], Len(2, 2)] = [1.0, 2.0]
step_sizes: Annotated[list[PositiveFloat], Len(2, 2)] = [0.01, 0.04]
# figures 8 and 9: the sizes of samples, the last one all of the data; how many are drawn of each
sample_sizes: Annotated[list[PositiveInt], Len(2, 8)] = [10, 40, 160, 640]
text_sizes: Annotated[list[PositiveInt], Len(2, 8)] = [20, 80, 320]
repeats: Annotated[int, Interval(ge=2)] = 6
# figure 8 and the measures of sharpness: a network whose examples have gradients of their own
sampled: Literal["digits", "cifar10"] = "digits"
sampled_n: PositiveInt = 640
sampled_network: dict = {"architecture": "mlp", "sizes": {"hidden": [32, 32]}, "activation": "tanh"}
# theorem 8 and (10), on digits
digits: Annotated[int, Interval(ge=64, le=1797)] = 640
batch_size: PositiveInt = 16
balance_step_size: PositiveFloat = 0.2
balance_steps: Annotated[int, Interval(ge=1000)] = 4000

# %% tags=["experiments", "hide-input"]
import math

from eoslib.chapter.experiments import Descent
from eoslib.dynamics.rules import Rule, Schedule
from eoslib.measure.curvature import Sharpness
from eoslib.measure.directions import Position
from eoslib.measure.noise import Noise
from eoslib.measure.progress import Loss, Progress
from eoslib.measure.stochastic_curvature import BatchSharpness, CriticalSharpness, PowerIteration
from eoslib.papers.stationarity import Balance, SampleSizes
from eoslib.problems.batches import Batches
from eoslib.problems.problem import Data, Network, OnLandscape, Training


def on_images(dataset, n, network, options=None):
    data = Data(dataset=dataset, n=n, standardisation="per-channel", data_options=options or {})
    return Training(data=data, network=Network(**network), loss="cross-entropy")


def on_text(n):
    network = Network(architecture="transformer_xl", sizes=text_network, activation="relu")
    return Training(data=Data(dataset=text, n=n, data_options=text_options), network=network, loss="cross-entropy")


def on_all(dataset, n, network):
    return Training(data=Data(dataset=dataset, n=n), network=Network(**network), loss="cross-entropy")


def training(experiment, problem, step_size, epochs, batches, rule, sample, iterations, measured=0, last=0, **rest):
    """So many epochs, in which noise and sharpness are measured so often, by default once each; the loss of all data more often, and in the last steps."""
    n, (minibatches, size) = problem.data.n, sample
    size = min(size, n // minibatches)
    steps = epochs * batches.epoch(n)
    every = steps // (measured or epochs)
    often = max(1, every // finer)
    often = tuple(sorted({*range(0, steps, often), *range(steps - last, steps)})) if last else often
    quantities = (
        Loss(every=often), Noise(every=every, batch_size=size, examples=minibatches * size),
        PowerIteration(every=every, batch_size=min(4 * batches.batch_size, n), iterations=iterations),
    )  # fmt: skip
    return Descent(
        chapter="no_stationary_points", experiment=experiment, problem=problem, step_size=step_size, steps=steps,
        batches=batches, rule=rule, measurements=quantities, **rest,
    )  # fmt: skip


def image_run(
    experiment, step_size, epochs=image_epochs, problem=None, augmentation=image_augmentation, measured=image_measured, **rest
):  # fmt: skip
    problem = problem or on_images(images, image_n, image_network, image_options)
    batches = Batches(batch_size=min(image_batch_size, problem.data.n), **augmentation)
    rule = Rule(name="SGD", options={"momentum": 0.9, "weight_decay": 1e-4})
    return training(experiment, problem, step_size, epochs, batches, rule, image_sample, 5, measured, **rest)


def text_run(experiment, step_size, epochs=text_epochs, n=text_n, **rest):
    batches = Batches(batch_size=min(text_batch_size, n), clip=0.25)
    return training(experiment, on_text(n), step_size, epochs, batches, Rule(name="Adam"), text_sample, text_iterations, **rest)


def divided(*epochs):
    """The step size divided by 10 at these epochs."""
    return Schedule(name="MultiStepLR", options={"milestones": list(epochs), "gamma": 0.1}, advances="epoch")


cosine = Schedule(name="CosineAnnealingLR", options={"T_max": text_epochs * math.ceil(text_n / text_batch_size)})
two_units = {"architecture": "mlp", "sizes": {"hidden": [2]}, "activation": "tanh"}  # too small to fit the digits
FRACTIONS = (0.05, 0.2, 0.5, 1.0, 2.0)  # of the step size, theorem 8


def by_size(sizes):
    return SampleSizes(sizes=tuple(sizes), repeats=repeats, batch_size=40, every="end")


def stochastic(experiment, problem, step_size, steps, *measurements):
    """Stochastic gradient descent on a network."""
    return Descent(
        chapter="no_stationary_points", experiment=experiment, problem=problem, step_size=step_size, steps=steps,
        batches=Batches(batch_size=batch_size), measurements=measurements,
    )  # fmt: skip


experiments = {
    "fig1": [
        image_run("fig1", image_step_sizes[0], schedule=divided(image_epochs // 3, 2 * image_epochs // 3), seed=seed)
        for seed in fig1_seeds
    ],
    "fig2": [image_run("fig2", step_size, seed=seed) for step_size in image_step_sizes for seed in seeds],
    "fig3": [image_run("fig3", image_step_sizes[1], longer_epochs, measured=max(12, longer_epochs // 2), last=last * last_whole)],
    "fig4": [
        text_run("fig4", text_step_sizes[0], schedule=cosine),
        *(
            text_run("fig4", step_size, seed=seed, last=last * last_whole * ((step_size, seed) == (text_step_sizes[1], seeds[0])))
            for step_size in text_step_sizes
            for seed in seeds
        ),
    ],
    "fig4-short": [text_run("fig4-short", text_step_sizes[1], short_epochs, short_n, measured=6)],
    "fig5": [
        Descent(
            chapter="no_stationary_points", experiment="fig5", step_size=step_size, steps=2000, measurements=(Position(),),
            problem=OnLandscape(landscape="sines", start=tuple(start)),
        )
        for step_size in step_sizes
    ],
    "fig7": [
        image_run(
            "fig7", few_step_size, few_epochs, on_images(few, few_n, few_network), few_augmentation, measured=12,
            schedule=divided(few_epochs // 2, 3 * few_epochs // 4),
        )
    ],
    "trend": [
        image_run("trend", image_step_sizes[0], image_epochs * image_n // n, on_images(images, n, image_network, image_options))
        for n in trend_n
    ],
    "fig8": [stochastic("fig8", on_all(sampled, sampled_n, sampled_network), 0.1, 200, by_size(sample_sizes))],
    "fig9": [stochastic("fig9", on_text(text_sizes[-1]), 0.5, 400, by_size(text_sizes))],
    "sharpnesses": [
        stochastic(
            "sharpnesses", on_all(sampled, sampled_n, sampled_network), 0.05, 1000, Progress(every=50), Sharpness(every=50),
            PowerIteration(batch_size=4 * batch_size, every=50),
            BatchSharpness(batch_size=batch_size, minibatches=20, every=50), CriticalSharpness(every=50),
        )
    ],
    "balance": [
        stochastic(
            "balance", on_all("digits", digits, two_units), balance_step_size, balance_steps, Progress(every=100), Sharpness(every=100),
            Balance(batch_size=batch_size, minibatches=4, fractions=FRACTIONS, nodes=2, every=20),
        )
    ],
}  # fmt: skip

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from scipy import stats

from eoslib.chapter.claims import Ledger
from eoslib.chapter.experiments import collect
from eoslib.chapter.figures import BLUE, GREEN, INK, ORANGE, RULE, SKY, VERMILION, colours, panels
from eoslib.chapter.provenance import provenance
from eoslib.papers import stationarity
from eoslib.papers.stationarity import time_averages, window_change
from eoslib.problems import landscapes

claims = Ledger("no_stationary_points", preset)
sines, tent = landscapes.get("sines"), landscapes.get("tent")


def orbit(landscape, theta, step_size, steps):
    """θ_t (steps, d) of gradient descent."""
    theta, g, rows = np.array(theta, float), np.empty(len(theta)), np.empty((steps, len(theta)))
    for t in range(steps):
        rows[t] = theta
        landscape.gradient_at(theta, g)
        theta = theta - step_size * g
    return rows


def swing(values, after):
    """The largest less the smallest value from some index on."""
    return values[after:].max() - values[after:].min()


# %% [markdown]
# ## Motivating examples (paper, section 2, figures 1 to 4)
#
# *Paper, section 2.* ResNet-101 on ImageNet and Transformer-XL on WikiText-103 are followed by the four quantities of (2), measured once an epoch. While the step size stays the same, the change of the loss goes to zero; the gradient norm
# does not, and is "not significantly smaller than that at the start"; the noise grows (figure 1). No step size changes that, and a smaller one means *larger* gradient norm, noise and sharpness (figures 2 and 4), nor does longer training (figure 3).
#
# What matters is that the network cannot learn its data by heart. Ours are small for their data: at `quick` a convolutional network of some 1,000 parameters on digits with noise of their own, and a
# Transformer-XL of as many on a text of a Markov chain, of which no model predicts the next token better than by the chain's entropy. The control is the same network on few examples, which it does learn by heart.
#
# At constant step sizes the paper's picture comes out, though at `quick` the gradient norm does fall somewhat with three times as many epochs (figure 3). Where the step size decays, the gradient norm falls with it here, at `quick` to near our bound, of which a single seed says nothing: what is left of the gradient is set by a balance with the noise of the step, {eq}`zhang-corrected` below, and that shrinks with the step size.
# In the paper's figure 1 it stays, at a size of network and data that we did not run.

# %% tags=["hide-input"]
QUANTITIES = {"loss": "loss", "gradient_norm": "gradient norm", "noise": "noise", "power_sharpness": "sharpness"}


def quantity(run, name):
    """A quantity of (2) along a run, where it was measured. Of examples that share batch statistics the noise is that of minibatches."""
    if name == "noise":
        name = "sample_noise" if "sample_noise" in run.trace else "logged_noise"
    of = run.trace[name].dropna("step")
    of = of[of.step % of.step[1] == 0]  # without the last steps, which figure 6 alone wants
    return np.sqrt(of) if name == "logged_noise" else of


def epoch(run):
    """Steps in an epoch."""
    return -(-run["n"] // run["batches"]["batch_size"])


def over(run, name, start, end):
    """Its mean over a part of the run."""
    of = quantity(run, name)
    return float(of[(of.step >= start * run["steps"]) & (of.step < end * run["steps"])].mean())


def in_the_end(run, name):
    """That over the last third."""
    return over(run, name, 2 / 3, 1)


def grown(run, name):
    """The same, over its value at the start."""
    return in_the_end(run, name) / float(quantity(run, name)[0])


def kept(run, name):
    """The same, over that in the second third."""
    return in_the_end(run, name) / over(run, name, 1 / 3, 2 / 3)


def soon(run, name):
    """The same after the first epoch."""
    return float(quantity(run, name).sel(step=epoch(run), method="nearest"))


def draw(axes, groups):
    """The four quantities against epochs: means over the runs of each group, label → (colour, runs), and their range."""
    for label, (colour, runs) in groups.items():
        for ax, (name, title) in zip(axes, QUANTITIES.items(), strict=True):
            if runs:
                epochs = quantity(runs[0], name).step / epoch(runs[0])
                curves = np.array([quantity(run, name) for run in runs])
                ax.plot(epochs, curves.mean(0), ".-", color=colour, label=label, markersize=4)
                ax.fill_between(epochs, curves.min(0), curves.max(0), color=colour, alpha=0.2, linewidth=0)
            ax.set(title=title, xlabel="epoch")
    if len(groups) > 1 and any(runs for _, runs in groups.values()):
        axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center")


def by_step_size(runs):
    """Label → (colour, runs) of constant step sizes."""
    of = {}
    for run in runs:
        of.setdefault(run.step_size, []).append(run)
    return {rf"$\eta = {eta:g}$": (colour, of[eta]) for eta, colour in zip(of, colours(len(of)), strict=True)}


def rising(runs, value):
    """Seed → a value of its runs, from the largest to the smallest step size; for seeds whose runs are all there."""
    found = {seed: [value(run) for run in runs if run["seed"] == seed] for seed in seeds}
    return {f"seed {seed}": values for seed, values in found.items() if len(values) == len(by_step_size(runs)) > 1}


# %%
fig1, fig2, fig3, fig7 = (collect(experiments[f"fig{i}"]) for i in (1, 2, 3, 7))

# %% tags=["hide-input"]
for name, groups, caption, alt in (
    (
        "fig1", {"divided by 10": (INK, fig1)},
        f"with momentum on images, whose step size is divided by 10 after each third of the epochs; mean and range over the seeds ({len(fig1_seeds)})",
        "The loss falls and becomes flat in each third. The gradient norm rises at first and stays high; noise and sharpness grow.",
    ),
    (
        "fig2", by_step_size(fig2), f"at constant step sizes; means and ranges over {len(seeds)} seeds",
        "The loss is the lower, the larger the step size. Noise and sharpness are the larger, the smaller it is; gradient norms lie near each other.",
    ),
    (
        "fig3", by_step_size(fig3), f"at a constant step size for {longer_epochs} epochs",
        "The loss goes on falling slowly. The gradient norm goes up and down far from zero.",
    ),
):  # fmt: skip
    with panels(
        1, 4, name=name, height=2.2, runs=[run for _, runs in groups.values() for run in runs],
        caption=f"Figure {name[3]}. The quantities (2) along stochastic gradient descent {caption}.", alt=alt,
    ) as axes:  # fmt: skip
        draw(axes, groups)


# %% tags=["hide-input"]
def settling(run, parts=3):
    """Of each part of the run: the change of the loss in its second half over that in its first."""
    loss = quantity(run, "loss")
    at = [float(loss.sel(step=run["steps"] * k / (2 * parts), method="nearest")) for k in range(2 * parts)] + [float(loss[-1])]
    return {f"period {k + 1}": abs(at[2 * k + 2] - at[2 * k + 1]) / abs(at[2 * k + 1] - at[2 * k]) for k in range(parts)}


def by_run(runs, value):
    """Step size and seed → a value."""
    return {f"η = {run.step_size:g}, seed {run['seed']}": value(run) for run in runs}


by_heart = {f"{run['n']} examples": kept(run, "gradient_norm") for run in fig7}
if fig1 and fig2:
    claims.measure(
        "fig1/loss-settles", {f"seed {run['seed']}, {period}": value for run in fig1 for period, value in settling(run).items()}, fig1,
        control={f"η = {fig2[-1].step_size:g}": settling(fig2[-1], 1)["period 1"]},
    )  # fmt: skip
claims.measure("fig1/gradient-stays", by_run(fig1, lambda run: kept(run, "gradient_norm")), fig1, control=by_heart)
claims.measure(
    "fig1/noise-grows", by_run(fig1, lambda run: grown(run, "noise")), fig1,
    control={f"{run['n']} examples": grown(run, "noise") for run in fig7},
)  # fmt: skip
claims.measure("fig2/gradient-stays", by_run(fig2, lambda run: kept(run, "gradient_norm")), fig2, control=by_heart)
for name in ("gradient_norm", "noise", "power_sharpness"):
    claims.measure(
        f"fig2/smaller-step-larger-{QUANTITIES[name].split()[0]}", rising(fig2, lambda run: in_the_end(run, name)), fig2,  # noqa: B023
        control=rising(fig2, lambda run: soon(run, name)),  # noqa: B023
    )  # fmt: skip


def after_longer(run, name, before):
    """A quantity in the last third of a long run, over what it was after so many epochs of it (the mean of the third before)."""
    until = before * epoch(run) / run["steps"]
    return in_the_end(run, name) / over(run, name, 2 / 3 * until, until)


claims.measure(
    "fig3/loss-falls", by_run(fig3, lambda run: after_longer(run, "loss", image_epochs)), fig3,
    control={f"seed {run['seed']}": over(run, "loss", 5 / 6, 1) / over(run, "loss", 2 / 3, 5 / 6) for run in fig1},
)  # fmt: skip
claims.measure(
    "fig3/gradient-does-not", by_run(fig3, lambda run: after_longer(run, "gradient_norm", image_epochs)), fig3,
    control={f"{run['n']} examples": after_longer(run, "gradient_norm", few_epochs * image_epochs // longer_epochs) for run in fig7},
)  # fmt: skip

# %% [markdown]
# ### A text (paper, section 2.2, figure 4)
#
# *Paper, section 2.2.* Transformer-XL reads a text in segments, with the states of what came before as a memory; it is trained by Adam with clipped gradients, with a cosine or a constant step size. The gradient norm "is not going to 0, and even not decreasing", and is
# larger for a smaller step size.

# %%
fig4, short = (collect(experiments[name]) for name in ("fig4", "fig4-short"))
decaying, constant = fig4[:1], fig4[1:]

# %% tags=["hide-input"]
with panels(
    1, 4, name="fig4", height=2.3, runs=fig4,
    caption=f"Figure 4. The quantities (2) for Transformer-XL on a text: Adam with a cosine, and with constant step sizes; means and ranges over {len(seeds)} seeds."
    + (" Dashed: the entropy of the chain, the best loss there is." if text == "markov" else ""),
    alt="The losses fall towards the dashed line. With constant step sizes the gradient norm stays at its initial size, the larger the smaller the step size, and so are noise and sharpness. With the cosine the gradient norm falls in the end.",
) as axes:  # fmt: skip
    draw(axes, {"cosine": (INK, decaying)} | by_step_size(constant))
    if text == "markov" and fig4:
        axes[0].axhline(on_text(text_n).data.source.entropy, color=RULE, linestyle="--", linewidth=0.8)

# %% tags=["hide-input"]
short_kept = {f"{run['n']} stretches": kept(run, "gradient_norm") for run in short}
claims.measure("fig4/gradient-stays", by_run(constant, lambda run: kept(run, "gradient_norm")), constant, control=short_kept)
claims.measure("fig4/gradient-stays-with-cosine", by_run(decaying, lambda run: kept(run, "gradient_norm")), decaying, control=short_kept)
claims.measure(
    "fig4/smaller-step-larger-gradient", rising(constant, lambda run: in_the_end(run, "gradient_norm")), constant,
    control=rising(constant, lambda run: soon(run, "gradient_norm")),
)  # fmt: skip

# %% [markdown]
# ## An explanatory experiment (paper, section 3 and figure 5)
#
# *Paper, section 3.* $f = 100\sin\theta_1\sin\theta_2$ has $L = 100$. With $\eta = 0.01 < 2/L$ gradient descent converges to a minimum. With $\eta = 0.04$ it keeps
# oscillating; but the averages of loss and gradient norm over time converge, that of the gradient norm not to zero.

# %%
fig5 = collect(experiments["fig5"])

# %% tags=["hide-input"]
with panels(
    2, 4, name="fig5", height=2.1, runs=fig5,
    caption=r"Figure 5. Gradient descent on $100\sin\theta_1\sin\theta_2$, with "
    + " (top) and ".join(rf"$\eta = {run.step_size:g}$" for run in fig5)
    + " (bottom): all iterates, coloured by their number from dark to light; the last 500; loss and gradient norm (blue) with their time averages (vermilion).",
    alt="In the upper row the iterates go to one point, and loss and gradient norm fall to constants at once. In the lower row the iterates jump about, in the end "
    "among narrow bands; loss and gradient norm fill broad bands, and their averages become flat lines inside of these.",
) as axes:  # fmt: skip
    for row, run in zip((axes[:4], axes[4:]), fig5, strict=True):
        theta = run.trace.theta.values
        for ax, part in zip(row, (slice(None), slice(-500, None)), strict=False):
            ax.scatter(*theta[part].T, c=run.trace.step[part], s=3, cmap="viridis", linewidths=0)
            ax.set(title=rf"$\eta = {run.step_size:g}$" + ("" if part.start is None else ", last 500"))
        for ax, values, label in zip(row[2:], (run.trace.loss, run.trace.gradient_norm), ("loss", "gradient norm"), strict=True):
            ax.plot(run.trace.step, values, color=BLUE, linewidth=0.6)
            ax.plot(run.trace.step, time_averages(values.values), color=VERMILION)
            ax.set(ylabel=label)
    for i, ax in enumerate(axes[4:]):
        ax.set(xlabel=(r"$\theta_1$", r"$\theta_1$", "step", "step")[i])
    for ax in (axes[0], axes[4]):
        ax.set(ylabel=r"$\theta_2$")

# %% [markdown]
# **Why it is a few points, and why they are none.** In $u = \theta_1+\theta_2$ and $v = \theta_1-\theta_2$ the function is $50(\cos v - \cos u)$, and the two coordinates move on their own:
#
# ```{math}
# :label: zhang-circle
# \begin{aligned}
# u &\mapsto u - 100\eta\sin u,\\
# v &\mapsto v + 100\eta\sin v .
# \end{aligned}
# ```
#
# Each is one and the same map of the circle, with $100\eta = 4$ here. In the end it runs through twelve narrow bands in a fixed order, so that to the eye the orbit is periodic, with period twelve. But
# inside of the bands it stretches: the derivatives along an orbit have a positive mean logarithm, its *Lyapunov exponent*, and two orbits that begin $10^{-11}$ apart part at the same rate. So it is
# not periodic, and the empirical measure does not converge to a discrete one.
#
# And the bands are an accident of the round number. At step sizes one part in ten thousand smaller or larger the orbit visits most of the circle for ever; $\eta = 0.04$ lies at the very end of a window of step sizes, less than
# a millionth wide, in which it is caught. What the picture is to show, averages that converge though nothing else does, does not hang on that.

# %% tags=["hide-input"]
with panels(
    1, 2, name="fig5-bands", height=2.3,
    caption=r"Where $u = \theta_1 + \theta_2$ lies on the circle after 30,000 steps, at step sizes around $\eta = 0.04$ (dashed), and the Lyapunov exponent of its map. Where the exponent is "
    "negative a cycle attracts, where it is positive nearby orbits part.",
    alt="Left, the circle is filled but for a narrow window of step sizes up to 0.04, in which there are twelve thin bands. "
    "Right, the exponent is well above zero outside of the window and falls below zero inside; at 0.04 it is small but positive.",
) as (left, right):  # fmt: skip
    offset = np.linspace(-1.2, 0.6, 180)  # of η from 0.04, in millionths
    etas, u = 0.04 + 1e-6 * offset, np.full(180, 2.9)
    exponent, late = np.zeros(180), []
    for t in range(34_000):
        if t >= 30_000:
            exponent += np.log(np.maximum(abs(1 - 100 * etas * np.cos(u)), 1e-12)) / 4000
        u = u - 100 * etas * np.sin(u)
        if t >= 33_880:
            late.append((u + np.pi) % (2 * np.pi) - np.pi)
    left.scatter(np.tile(offset, 120), np.concatenate(late), s=0.3, color=BLUE, linewidths=0)
    left.set(ylabel=r"$\theta_1+\theta_2$ (mod $2\pi$)")
    right.plot(offset, exponent, color=BLUE)
    right.axhline(0, color=RULE, linewidth=0.8)
    right.set(ylabel="Lyapunov exponent")
    for ax in (left, right):
        ax.axvline(0, color=RULE, linestyle="--", linewidth=0.9)
        ax.set(xlabel=r"$(\eta - 0.04)\cdot 10^6$", xticks=(-1, -0.5, 0, 0.5))

# %% tags=["hide-input"]


def unsettled(values):
    """By how much the averages of a series still change after step 1,000, over the range of its values there."""
    return swing(time_averages(values), 1000) / swing(values, 1000)


def visited(step_size):
    """The share of 1,000 parts of a period that θ₁ + θ₂ meets."""
    u = orbit(sines, start, step_size, 24_000)[4000:].sum(1)
    return np.histogram(u % (2 * np.pi), bins=1000, range=(0, 2 * np.pi))[0].astype(bool).mean()


def parting(step_size, near=1e-11, steps=60):
    """The mean rate at which orbits of θ₁ + θ₂ part that begin near each other; a second way to the exponent."""
    one = orbit(sines, start, step_size, 3000)[1000:].sum(1)
    other = one + near
    for _ in range(steps):
        one, other = (x - 100 * step_size * np.sin(x) for x in (one, other))
    return np.log(np.maximum(abs(one - other), 1e-300) / near).mean() / steps


def exponents(step_size):
    """Both ways: from the Jacobians of the whole map, and from neighbours of the first coordinate."""
    jacobians = stationarity.lyapunov_exponent(sines, orbit(sines, start, step_size, 6000)[2000:], step_size)
    return {"Jacobians": jacobians, "neighbours": parting(step_size, steps=60 if step_size <= 0.04 else 25)}


if len(fig5) == 2:
    small, large = fig5
    claims.measure(
        "fig5/small-step-converges", {"": small.trace.gradient_norm.values[-1]}, [small],
        control={"": large.trace.gradient_norm.values[-1]},
    )  # fmt: skip
    claims.measure(
        "fig5/large-step-oscillates", {"": swing(large.trace.loss.values, -500)}, [large],
        control={"": swing(small.trace.loss.values, -500)},
    )  # fmt: skip
    series = {"loss": large.trace.loss, "gradient norm": large.trace.gradient_norm}
    without_limit = stationarity.tent_orbit(stationarity.doubling_blocks(len(large.trace.step) + 53))
    claims.measure(
        "fig5/averages-settle", {name: unsettled(of.values) for name, of in series.items()}, [large],
        control={"loss": unsettled(tent.derivative(0)(without_limit))},
    )  # fmt: skip
    claims.measure(
        "fig5/average-gradient-stays", {"": large.trace.gradient_norm.values[-500:].mean()}, [large],
        control={"": small.trace.gradient_norm.values[-500:].mean()},
    )  # fmt: skip
claims.measure("fig5/few-places", {"": visited(0.04)}, control={"": visited(0.041)})
claims.measure(
    "fig5/few-places-by-accident", {f"η = {eta:g}": visited(eta) for eta in (0.039996, 0.040004)},
    control={"η = 0.04": visited(0.04)},
)  # fmt: skip
claims.measure("fig5/periodic", exponents(0.04), control=exponents(0.041))

# %% [markdown]
# ### Explore
#
# Choose a step size, 1 being $2/L$ and 2 the figure's $\eta = 0.04$, and click a start: where does gradient descent go from there, and what does its loss do?
#
# ```{basin-explorer} sines
# The explorer needs JavaScript. {ref}`Figure 5 <fig-no_stationary_points-fig5>` above shows two step sizes.
# ```

# %% [markdown]
# ### Iteration by iteration (paper, figure 6)
#
# *Paper, section 3.* The loss that is plotted is an average over iterations. Iteration by iteration it varies, and much, "considering that the learning rate is 0.01 and the gradient norm is about 0.6": convergence happens in the time average only.
#
# What varies there is the loss of a minibatch, and a minibatch is another one at every iteration, even if the weights rest. So we take the loss of all data in the same iterations beside it.

# %% tags=["hide-input"]
oscillating = {"images": fig3[:1], "text": [run for run in constant if run.step_size == text_step_sizes[1] and run["seed"] == seeds[0]]}


def ending(run):
    """The loss of each minibatch in the last iterations, and of all data there."""
    end = run.trace.sel(step=slice(run["steps"] - last, None))
    return end.batch_loss, end.loss


with panels(
    1, 2, name="fig6", height=2.3, runs=[run for runs in oscillating.values() for run in runs],
    caption=f"Figure 6. The last {last} iterations on images and on a text: the loss of each minibatch (pale), its time average since then (vermilion), and the loss of all data (blue).",
    alt="The losses of minibatches jump up and down by a fifth of themselves or more. Their averages become flat, and so nearly is the loss of all data.",
) as axes:  # fmt: skip
    for ax, (what, runs) in zip(axes, oscillating.items(), strict=True):
        for run in runs:
            here, whole = ending(run)
            ax.plot(here.step, here, color=SKY)
            ax.plot(here.step, time_averages(here.values), color=VERMILION)
            ax.plot(whole.step, whole, color=BLUE)  # nothing, where it was not taken
            ax.set(xlabel="iteration", ylabel="loss", title=what)

ends = {what: ending(run) for what, runs in oscillating.items() for run in runs}
shown = [run for runs in oscillating.values() for run in runs]


def oscillation(values):
    """The standard deviation of a series over that of its means over half of its length."""
    means = np.convolve(values, np.ones(len(values) // 2) / (len(values) // 2), "valid")
    return float(values.std() / means.std())


def moving(run):
    """The standard deviation of the loss of all data over that of minibatches, in the first third of a run."""
    part = run.trace.sel(step=slice(0, run["steps"] // 3))
    return float(part.loss.std() / part.batch_loss.std())


claims.measure(
    "fig6/oscillates", {what: oscillation(here.values) for what, (here, _) in ends.items()}, shown,
    control={what: oscillation(np.sort(here.values)) for what, (here, _) in ends.items()},
)  # fmt: skip
if last_whole:
    claims.measure(
        "fig6/minibatches-not-weights", {what: float(whole.std() / here.std()) for what, (here, whole) in ends.items()}, shown,
        control={what: moving(run) for what, runs in oscillating.items() for run in runs},
    )  # fmt: skip

# %% [markdown]
# ## Convergence beyond stationary points (paper, section 4)
#
# ### Theorem 1: the change of a function vanishes on average
#
# *Paper, theorem 1.* For a bounded $\varphi$, the expected change $|\mathbb E_{\theta\sim\mu_n}[\varphi(\theta)-\varphi(F(\theta))]|$ falls like $1/\sqrt n$. The sum of
# $\varphi(\theta_t) - \mathbb E\varphi(F(\theta_{t-1}))$ is a martingale; what is left telescopes. For a deterministic $F$ nothing but the telescope is left, and the rate is $1/n$.
#
# We take the loss of figure 5 for $\varphi$, with normal noise in the gradient. There the expectation after a step is known: $\mathbb E f(\theta-\eta(\nabla f+\xi)) = e^{-\eta^2\sigma^2}f(\theta-\eta\nabla f)$.

# %% tags=["hide-input"]
lengths = 2 ** np.arange(4, 13)


def gaps(noise, trajectories=200):
    """The expected change squared (lengths, trajectories)."""
    values, expected = stationarity.noisy_sines(0.04, noise, int(lengths[-1]), trajectories)
    return stationarity.invariance_gaps(values, expected)[lengths - 1] ** 2


def slope(squares):
    """That of the root mean square over trajectories."""
    return np.polyfit(np.log(lengths), np.log(squares.mean(1)) / 2, 1)[0]


def slope_error(squares, groups=20):
    """The jackknife's standard error, a group of trajectories being left out at a time."""
    slopes = np.array([slope(np.delete(squares, np.s_[group::groups], 1)) for group in range(groups)])
    return ((groups - 1) * slopes.var()) ** 0.5


thm1 = {noise: gaps(noise) for noise in (0.0, 5.0, 10.0, 20.0)}
with panels(
    1, 1, name="thm1", height=2.6,
    caption=r"Theorem 1: the expected change of $f$ over $\mu_n$ against $n$ (root mean square over 200 trajectories), at $\eta = 0.04$ without and with noise of standard deviation $s$. "
    r"Dashed: $n^{-1}$ and $n^{-1/2}$.",
    alt="On logarithmic axes the curve without noise falls with slope minus one, those with noise with slope minus one half.",
) as (ax,):  # fmt: skip
    roots = {noise: np.sqrt(of.mean(1)) for noise, of in thm1.items()}
    for (noise, of), colour in zip(roots.items(), colours(4), strict=True):
        ax.loglog(lengths, of, ".-", color=colour, label=f"$s = {noise:g}$")
    ax.loglog(lengths, roots[0.0][0] * lengths[0] / lengths, "--", color=RULE, linewidth=0.8)
    ax.loglog(lengths, roots[20.0][0] * np.sqrt(lengths[0] / lengths), "--", color=RULE, linewidth=0.8)
    ax.set(xlabel="$n$", ylabel="expected change")
    ax.legend()
noisy = {f"s = {noise:g}": of for noise, of in thm1.items() if noise}
claims.measure(
    "thm1/stochastic", {label: slope(of) for label, of in noisy.items()},
    errors={label: slope_error(of) for label, of in noisy.items()}, control={"s = 0": slope(thm1[0.0])},
)  # fmt: skip

# %% [markdown]
# ### Lemma 2: how long a window must be
#
# *Paper, lemma 2.* For every $n$ there is a 1-Lipschitz $f$ on which $F(\theta) = \theta-\nabla f(\theta)$ keeps the average $M_t$ over windows of length $n$ changing, $\limsup|M_t-M_{t-1}| \ge \mathcal O(1/n)$.
# The proof takes $n$ small steps from $-1$ to $0$, and back in one. But $f$ itself hardly changes on that way: its slope there is $1/(n+1)$. The proof says that $|f(\theta_0)-f(\theta_1)| \ge 0.5$, and it
# is about $0.8/n$, so the construction gives $0.8/n^2$. (Its $\theta_k$ is that of $k-1$, too: it should be $-1+(k+0.2)/(n+1)$.)
#
# The lemma is true all the same, and one function serves all $n$. On the *tent*
#
# ```{math}
# :label: zhang-tent
# \begin{aligned}
# f(\theta) &= \begin{cases} -\tfrac12\theta^2 & \theta < \tfrac12\\ \tfrac32(\theta-\tfrac23)^2 - \tfrac16 & \theta\ge\tfrac12\end{cases}\\
# \theta - f'(\theta) &= \begin{cases} 2\theta\\ 2-2\theta\end{cases}
# \end{aligned}
# ```
#
# $|f'|\le1$ on $[0,1]$, $f'$ is continuous, and gradient descent with $\eta=1$ is the tent map, which takes $[0,1]$ to itself. $M_t - M_{t-1} = (f(\theta_{t+n-1})-f(\theta_{t-1}))/n$, and from
# $\theta = \tfrac23 2^{-n}$, where $|f|\le\tfrac1{18}$, $n$ steps lead to $\tfrac23$, where $f = -\tfrac16$: a change of at least $\tfrac19$. Almost every orbit comes arbitrarily near that point again and again, so that
# $\limsup|M_t-M_{t-1}|\ge\tfrac1{9n}$.

# %% tags=["hide-input"]
random_symbols = np.random.default_rng(0).integers(0, 2, 50_053)
tent_values = tent.derivative(0)(stationarity.tent_orbit(random_symbols))
windows = np.unique(np.geomspace(1, 200, 24).astype(int))


def zigzag_change(n, window=None):
    """The largest change of an average over windows, by default of length n, along the paper's orbit."""
    period = np.array([float(value) for value in stationarity.zigzag(n)[1]])
    return window_change(np.tile(period, 3), window or n)


with panels(
    1, 1, name="lem2", height=2.5,
    caption=r"Lemma 2: the largest change of an average over windows of length $n$ between steps, on the paper's construction and on the tent. Dashed: the lower bounds $1/(2n)$ of the "
    r"proof, $1/(9n)$ of ours.",
    alt="On logarithmic axes the tent's points lie above the line of slope minus one, those of the construction fall with slope minus two below it.",
) as (ax,):  # fmt: skip
    ax.loglog(windows, [zigzag_change(n) for n in windows], ".", color=VERMILION, label="construction (11)")
    ax.loglog(windows, [window_change(tent_values, n) for n in windows], ".", color=BLUE, label="tent")
    ax.loglog(windows, 1 / (2 * windows), "--", color=VERMILION, linewidth=0.8)
    ax.loglog(windows, 1 / (9 * windows), "--", color=BLUE, linewidth=0.8)
    ax.set(xlabel="length $n$ of the window", ylabel=r"$\max|M_t - M_{t-1}|$")
    ax.legend()
claims.measure(
    "lem2/as-constructed", {f"n = {n}": n * zigzag_change(n) for n in (10, 30, 100)},
    control={f"n = {n}": n * zigzag_change(n, n + 1) for n in (10, 30, 100)},
)  # fmt: skip
claims.measure(
    "lem2/one-function-for-all", {"": min(n * window_change(tent_values, n) for n in range(1, 65))},
    control={"": min(n * zigzag_change(n) for n in range(1, 65))},
)  # fmt: skip

# %% [markdown]
# ### Theorem 3: averages without a limit
#
# *Paper, theorem 3, after Yoccoz.* That the change vanishes does not mean that averages converge: there are a continuous map on a compact set and a smooth function whose time averages have no limit. We build
# two. The *lingering map* of a cylinder,
#
# ```{math}
# :label: zhang-lingering
# \begin{aligned}
# \alpha &\mapsto \alpha + \tfrac12(\sin^2\alpha+\delta^2),\\
# \delta &\mapsto \delta\,e^{-a\sin^4\alpha},
# \end{aligned}
# ```
#
# passes $\alpha = 0$ and $\alpha = \pi$ in turn, and is slow there: each passage takes about $2\pi/\delta$ steps. On the way $\delta$ falls by a factor, here 3. So each stay is three times as long as the one before, and the average of
# $\cos\alpha$ swings between $\pm\tfrac12$ for ever, from every start with $\delta>0$ that does not lie on a fixed line.
#
# The second is gradient descent. The paper leaves open whether it can have this property with a fixed step size (sections 4.1 and 7). It can, on the tent {eq}`zhang-tent`, from a suitable start: one whose orbit stays near the
# fixed point 0 for $2^k$ steps, then near $\tfrac23$ for $2^{k+1}$, and so on. Averages of $f$ then swing between $-\tfrac1{18}$ and $-\tfrac19$. Such starts are rare: from almost every start the averages do converge.

# %% tags=["hide-input"]
starts = ((1.0, 0.5), (2.0, 0.9), (4.0, 0.2))
lingering = {s: time_averages(np.cos(stationarity.lingering(200_000, s))) for s in starts}
circling = {s: time_averages(np.cos(stationarity.lingering(200_000, s, ratio=1.0))) for s in starts}
blocks = stationarity.tent_orbit(stationarity.doubling_blocks(2**17 + 53))
block_averages = time_averages(tent.derivative(0)(blocks))
random_averages = time_averages(tent_values)
with panels(
    1, 2, name="thm3", height=2.3,
    caption="Theorem 3: time averages that do not converge. Left: of cos α on the lingering map (blue; pale: the same without contraction). Right: of f along gradient descent on the tent, from a "
    r"start made of doubling blocks (blue; pale: from a random start). Dashed: the limits of the swing.",
    alt="On a logarithmic axis of time, both averages go up and down like waves of constant height, while the pale curves become flat.",
) as (left, right):  # fmt: skip
    for ax, averages, quiet, ends in (
        (left, lingering[starts[0]], circling[starts[0]], (-0.5, 0.5)),
        (right, block_averages, random_averages, (-1 / 9, -1 / 18)),
    ):
        for values, colour in ((quiet, SKY), (averages, BLUE)):
            n = np.unique(np.geomspace(100, len(values), 800).astype(int))
            ax.semilogx(n, values[n - 1], color=colour)
        for end in ends:
            ax.axhline(end, color=RULE, linestyle="--", linewidth=0.8)
        ax.set(xlabel="steps $n$")
    left.set(ylabel=r"average of $\cos\alpha$")
    right.set(ylabel="average of $f$")
claims.measure(
    "thm3/lingering", {f"from {s}": swing(a, 20_000) for s, a in lingering.items()},
    control={f"from {s}": swing(a, 20_000) for s, a in circling.items()},
)  # fmt: skip
claims.measure(
    "thm3/by-gradient-descent", {"": swing(block_averages, len(blocks) // 10)},
    control={"": swing(random_averages, len(random_averages) // 10)},
)  # fmt: skip

# %% [markdown]
# ### Theorem 4: what the empirical measures come near
#
# *Paper, theorem 4.* If $F$ takes a compact set to itself, a subsequence of the $\mu_n$ converges weakly to an invariant, ergodic distribution. That $\mu_n$ is nearly invariant is arithmetic: its image differs from it in two
# points of $n$, whatever $F$ is, so that no claim hangs on it (distances are printed below). But two words of the theorem do not hold.
#
# *Ergodic.* In the second example above, $\mu_n$ goes back and forth between mixtures of the point masses in 0 and $\tfrac23$, with shares from $\tfrac13$ to $\tfrac23$. All limits of subsequences are such mixtures. They are invariant, and none is
# ergodic: an ergodic measure is no mixture of others.
#
# *Continuous* is missing. $F(x) = x/2$ for $x>0$, $F(0) = 1$, takes $[0,1]$ to itself. From $x = 1$, $\mu_n$ converges to the point mass in 0, which $F$ moves to 1: it is not invariant, and no measure is. The proof uses that
# $\varphi\circ F$ is continuous; a step on a network with ReLU is not.

# %% tags=["hide-input"]


def moved(theta, image):
    """The Wasserstein distance of an empirical measure to its image."""
    return stats.wasserstein_distance(theta, image)


n = 20_000
on_sines = orbit(sines, start, 0.04, n + 1)[:, 0]
on_cylinder = np.cos(stationarity.lingering(n + 1))
shorter = orbit(sines, start, 0.04, n)
quarter = shorter[:, 0] - 0.01 * 100 * np.cos(shorter[:, 0]) * np.sin(shorter[:, 1])
for name, distance in {
    "sines": moved(on_sines[:-1], on_sines[1:]),
    "lingering map": moved(on_cylinder[:-1], on_cylinder[1:]),
    "tent, in doubling blocks": moved(blocks[:n], blocks[1 : n + 1]),
    "sines, image under a step a quarter as large": moved(shorter[:, 0], quarter),
}.items():
    print(f"distance of the empirical measure to its image after {n:,} steps, {name}: {distance:.1e}")


def smaller_share(theta):
    """The smallest share of the smaller of the two parts, near 0 and near 2/3, in the empirical measures."""
    near = np.stack([theta < 1 / 3, abs(theta - 2 / 3) < 1 / 6], 1).astype(float)
    return time_averages(near)[1000:].min()


even = stationarity.tent_orbit(np.arange(n + 53) // 100 % 2)
claims.measure("thm4/ergodic-limit", {"": smaller_share(blocks)}, control={"": smaller_share(even)})

# %% [markdown]
# ### Lemma 5 and theorems 6 and 7: networks
#
# *Paper, section 4.2.* For the change of the loss to vanish it suffices that it is bounded along the trajectory. Lemma 5: cross-entropy is at most $c+\log d$ where outputs differ by at most $c$, and
# $\sqrt2$-Lipschitz. (As printed, (9) is a log-likelihood, with the other sign.) Theorem 6: from weights in $C_w = \{\|W_l\|\le w\}$, $w\le(\gamma/c_\ell c_\sigma^L)^{1/(L-2)}$, SGD with weight decay $\gamma$ and $\eta\le1/\gamma$
# stays in $C_w$, since the pull $\gamma w$ of the decay is at least the gradient's bound $c_\ell c_\sigma^Lw^{L-1}$. Theorem 7: with batch normalisation in the last layer $|a_L|\le2\sqrt m/\gamma$ is kept.
#
# They hold. But look at the numbers: in $C_w$ outputs are at most $(c_\sigma w)^L$ long, so that the loss differs from $\log d$ by at most $c_\ell(\gamma/c_\ell c_\sigma^2)^{L/(L-2)}$ (the proof forgets the first $c_\ell$).
# With $\gamma = 10^{-4}$ this is less than a thousandth for any depth: a network that theorem 6 covers cannot have learnt anything. And the bound of the loss in theorem 7's proof, $4m/\gamma+\log d$, forgets the shift $b_L$, which may be
# of any size at the start (it falls below $1/\gamma$ in time, so the theorem stands).

# %% tags=["hide-input"]
from eoslib.dynamics.trajectory import Trajectory
from eoslib.papers.stationarity import SOFTMAX_LIPSCHITZ, WeightNorms, largest_norm, loss_range, seeded_layers
from eoslib.problems import networks
from eoslib.problems.objective import SupervisedObjective

data = Data(dataset="digits", n=200).load()
inputs = (data.inputs / data.inputs.norm(dim=1, keepdim=True)).double()  # of length 1, as the theorems have it


def trained(network, theta, weight_decay, step_size, steps=300, also=()):
    """The rows of a run of SGD with weight decay, at each step the norms of its weights and what is measured besides."""
    objective = SupervisedObjective(network.double(), inputs, data.labels, "cross-entropy")
    rule = Rule(name="SGD", options={"weight_decay": weight_decay})
    batches, measured = Batches(batch_size=8), [WeightNorms(), *also]
    process = Trajectory(objective, theta.double(), step_size, steps, measured, rule=rule, batches=batches)
    rows = []
    while not process.finished:
        process.step()
        rows.append(process.observe()["step"])
    return rows


def largest(rows):
    return max(max(row["weight_norms"]) for row in rows)


layers = seeded_layers((64, 32, 32, 10), "tanh", seed=0)
inside = {}
for decay in (1.0, 0.3, 0.1):
    w = largest_norm(decay, 3)
    inside[f"γ = {decay:g}"] = largest(trained(layers, layers.scaled(w), decay, 1 / decay, steps=150)) / w
outside = trained(layers, layers.scaled(1.0), 1e-3, 0.5)
logits = torch.randn(2000, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
logits *= torch.logspace(-3, 1, 2000, dtype=torch.float64)[:, None]  # from nearly equal to far apart
logits.requires_grad_()
each = torch.nn.functional.cross_entropy(logits, torch.arange(2000) % 10, reduction="none")
(slopes,) = torch.autograd.grad(each.sum(), logits)
spread = logits.amax(1) - logits.amin(1)
steepest = slopes.norm(dim=1).max().item()
claims.measure(
    "lem5/bound", {"": ((each - spread) / math.log(10)).max().item()},
    control={"": torch.nn.functional.cross_entropy(torch.zeros(1, 10), torch.tensor([3])).item() / (0.99 * math.log(10))},
)  # fmt: skip
claims.measure("lem5/lipschitz", {"": steepest / SOFTMAX_LIPSCHITZ}, control={"": steepest})
claims.measure("thm6/stays", inside, control={"γ = 0.001": largest(outside)})

usual = 1e-4
still = trained(layers, layers.scaled(largest_norm(usual, 3)), usual, 0.5, 100, [Loss()])
claims.measure(
    "thm6/learns-nothing",
    {f"{L} layers, bound": loss_range(usual, L) for L in (3, 5, 10, 20)}
    | {"3 layers, run": max(abs(row["loss"] - math.log(10)) for row in still)},
    control={"3 layers, run": math.log(10) - trained(layers, layers.scaled(1.0), usual, 0.5, 100, [Loss()])[-1]["loss"]},
)  # fmt: skip

normalised, m = seeded_layers((64, 32, 10), "relu", batch_norm=True, seed=0), 8
bound = 2 * m**0.5
on_boundary = networks.flatten(normalised)
on_boundary[-20:-10] = bound
claims.measure(
    "thm7/stays", {"γ = 1": max(row["scale"] for row in trained(normalised, on_boundary, 1.0, 1.0)) / bound},
    control={"γ = 1": max(row["scale"] for row in trained(normalised, on_boundary, 1.0, 2.5, steps=30)) / bound},
)  # fmt: skip

# %% [markdown]
# ## Implications (paper, section 5)
#
# *Paper, theorem 8 and (10).* Suppose that the change of the loss has vanished, $\mathbb E L(F(\theta)) = \mathbb E L(\theta)$ for $\theta\sim\mu$. Then a smaller step $c\eta$, with the same $\mu$, lowers the loss. And an identity holds, from which the paper
# "boldly" extracts $\mathrm{Grad}^2 = \eta\,\Sigma\,\mathcal L\,G$, with $\Sigma$ the noise, $\mathcal L$ the sharpness, $G^2$ the second moment of the gradient. The identity has a wrong sign and a wrong split. Along a step,
#
# ```{math}
# :label: zhang-balance
# \begin{aligned}
# L(\theta)-L(\theta-\eta g) &= \eta\int_0^1\langle g,\nabla L(\theta-t\eta g)\rangle\,dt\\
# &= \eta\,\langle g,\nabla L(\theta)\rangle - \eta^2\int_0^1\!\!\int_0^1 t\,\langle g, \nabla^2L(\theta-t\tau\eta g)\,g\rangle\,d\tau\,dt ,
# \end{aligned}
# ```
#
# where the paper has $\langle g-\nabla L, \cdot\,\rangle$ for $t\,\langle g, \cdot\,\rangle$. In the mean the left side vanishes, and
#
# ```{math}
# :label: zhang-corrected
# \mathbb E\|\nabla L\|^2 = \eta\,\mathbb E\int_0^1\!\!\int_0^1 t\,\langle g, \nabla^2L(\theta-t\tau\eta g)\,g\rangle\,d\tau\,dt .
# ```
#
# For $L = a\theta^2/2$ with noise of variance $s^2$, $\mathbb E\|\nabla L\|^2 = a\eta s^2/(2-\eta a)$, which is 0.0526 at $a = s = 1$, $\eta = 0.1$. The right side of {eq}`zhang-corrected` gives the same, the printed one $-\eta as^2 = -0.1$.
#
# **The link to the first chapter.** With $v = \eta g$ and the directional smoothness $L(\theta;v)$ of [Ahn et al.](unstable_convergence), the double integral is $\|g\|^2\int_0^1 t\,L(\theta;t\eta g)\,dt$. Their relation (6) replaces it by
# $\tfrac12\|g\|^2L(\theta;\eta g)$: {eq}`zhang-corrected` is (6) where the expected relative progress is 0. Edge of stability and the balance of gradient and noise are one identity, without noise and with it.
#
# We train a network of two hidden units, too small to fit the digits, and estimate both sides at every 20th step, over four minibatches. (One of four units fits them in the end: its gradient vanishes, and
# there is no balance to see.)

# %%
(balance,) = collect(experiments["balance"])

# %% tags=["hide-input"]
rows = balance.trace.isel(step=np.flatnonzero(np.isfinite(balance.trace.balance_square.values)))
late = rows.isel(step=slice(len(rows.step) // 2, None))
early = rows.isel(step=slice(0, max(2, len(rows.step) // 10)))
eta = balance.step_size


def corrected(of):
    """The right side, less the deviation of ⟨g, ∇L⟩ from its known mean ‖∇L‖²: the same expectation, with less noise."""
    return of.balance_square.values + of.balance_change.values[:, FRACTIONS.index(1.0)] / eta


def ratio(of, right):
    """A right side over the left one, means over the steps, and the standard error from the spread over the steps."""
    left = of.balance_square.values
    value = right.mean() / left.mean()
    return value, (right - value * left).std(ddof=1) / len(left) ** 0.5 / left.mean()


def changes(of, i):
    """The mean change by steps cη, over η times the mean ‖∇L‖², and its standard error."""
    change, scale = of.balance_change.values[:, i], eta * of.balance_square.values.mean()
    return change.mean() / scale, change.std(ddof=1) / len(change) ** 0.5 / scale


def bold(of, examples=1):
    """Grad² over ηΣ𝓛G; examples: of a minibatch, whose noise is taken for that of single ones."""
    noise, grad = of.balance_noise.values * examples, of.balance_square.values
    return np.nanmedian(grad / (eta * np.sqrt(noise * (grad + noise)) * of.sharpness.values))


with panels(
    1, 2, name="eq10", height=2.4,
    caption=r"Left: time averages, over the second half of the run, of $\|\nabla L\|^2$ and of the right sides of the identity: corrected, by Ahn et al.'s (6), and as printed. Right: mean change of the loss by steps "
    r"$c\eta$, over $\eta\|\nabla L\|^2$, in the same half, with two standard errors.",
    alt="Left, the averages of the squared gradient norm, of the corrected right side and of relation 6 come near each other; that of the printed one is negative. Right, the change is negative for small c, near zero at one and positive at two.",
) as (left, right):  # fmt: skip
    for values, label, colour in (
        (late.balance_square.values, r"$\|\nabla L\|^2$", INK), (corrected(late), "corrected", BLUE),
        (late.balance_relation.values, "by (6)", GREEN), (late.balance_printed.values, "as printed", VERMILION),
    ):  # fmt: skip
        left.plot(late.step, time_averages(values), color=colour, label=label)
    left.axhline(0, color=RULE, linewidth=0.8)
    left.set(xlabel="step", ylabel="average since half of the run")
    left.legend(ncols=2)
    found = np.array([changes(late, i) for i in range(len(FRACTIONS))])
    right.errorbar(FRACTIONS, found[:, 0], 2 * found[:, 1], fmt="o", color=BLUE)
    right.axhline(0, color=RULE, linewidth=0.8)
    right.set(xlabel="$c$", ylabel=r"change / $\eta\,\|\nabla L\|^2$")

smaller = {f"c = {c:g}": changes(late, i) for i, c in enumerate(FRACTIONS) if c < 1}
claims.measure(
    "thm8/smaller-step-descends", {c: value for c, (value, _) in smaller.items()}, [balance],
    errors={c: error for c, (_, error) in smaller.items()}, control={"c = 2": changes(late, -1)[0]},
)  # fmt: skip
value, error = ratio(late, late.balance_printed.values)
claims.measure("eq10/identity-as-printed", {"": value}, [balance], errors={"": error})
for claim, side in (("identity-corrected", corrected), ("relation-6", lambda of: of.balance_relation.values)):
    value, error = ratio(late, side(late))
    claims.measure(
        f"eq10/{claim}", {"": value}, [balance], errors={"": error},
        control={"first tenth": ratio(early, side(early))[0]},
    )  # fmt: skip
claims.measure(
    "eq10/grad-against-the-rest", {"": bold(late)}, [balance], control={"of examples": bold(late, batch_size)}
)

# %% [markdown]
# ## A small data set (paper, section 6.1, figure 7)
#
# *Paper, section 6.1.* ResNet on CIFAR-10, which it learns by heart: there the gradient norm goes to zero, as cross-entropy lets it where all examples are fitted. What decides is whether the data can be fitted, not the kind of network: ours is that of
# figures 1 to 3, on fewer examples of the same data.

# %% tags=["hide-input"]
with panels(
    1, 4, name="fig7", height=2.2, runs=fig7,
    caption="Figure 7. The quantities (2) for "
    + ("the network of figure 1" if few_network == image_network else "a smaller network")
    + " on "
    + "".join(f"{run['n']:,} examples" for run in fig7)
    + ", its step size divided by 10 at half and three quarters of the epochs.",
    alt="Gradient norm, noise and sharpness rise at first, and then fall with the loss.",
) as axes:  # fmt: skip
    draw(axes, {"few examples": (INK, fig7)})
learnt = [f"in the end accuracy {run.trace.accuracy.dropna('step')[-1]:.1%} and loss {run.trace.loss.dropna('step')[-1]:.2g}" for run in fig7]
claims.measure("fig7/gradient-vanishes", by_heart, fig7, "; ".join(learnt), control=by_run(fig1, lambda run: kept(run, "gradient_norm")))

# %% [markdown]
# How far training has come decides: the gradient norm vanishes where the loss does. Crops and flips make many images of few, and it then takes much longer than the first time at which all are classified rightly.
#
# **Between few and many.** *Ours.* The paper has one data set that is learnt by heart and one that is not. We take the network of figure 2 at its largest step size, and as many steps, on more and more of the same images. The loss that is left rises with their number. The gradient
# norm vanishes only where training has fitted all of them, as at `quick` the fewest, and need not be the larger, the more there are: just before the data can be learnt by heart, as the fewest of `standard`, it may be largest. What looks like a property of training at large scale is one of the ratio of data to parameters, and of how long one trains.

# %%
trend = collect(experiments["trend"])

# %% tags=["hide-input"]
largest_step = [run for run in fig2 if run.step_size == image_step_sizes[0] and run["seed"] == seeds[0]]
sizes = sorted([*trend, *largest_step], key=lambda run: run["n"])
with panels(
    1, 2, name="trend", height=2.3, runs=sizes,
    caption=f"Loss and gradient norm in the end (means over the last third) after as many steps on more and more images, at $\\eta = {image_step_sizes[0]:g}$. The last one is a run of figure 2.",
    alt="On logarithmic axes the loss rises with the number of images. The gradient norm does not rise in the same way.",
) as axes:  # fmt: skip
    for ax, name in zip(axes, ("loss", "gradient_norm"), strict=True):
        ax.loglog([run["n"] for run in sizes], [in_the_end(run, name) for run in sizes], ".-", color=BLUE)
        ax.set(xlabel="images", ylabel=QUANTITIES[name])

# %% [markdown]
# ## Estimating the statistics (paper, section 6.2, figures 8 and 9)
#
# *Paper, section 6.2.* The quantities (2) are estimated on a random sample of $m$ examples. "By Jensen's inequality, the estimated norms would be larger than the true value", and figures 8 and 9 show how they converge with $m$. For the gradient norm and the
# sharpness this is so. For squares the bias is known, and can be taken out:
#
# ```{math}
# :label: zhang-bias
# \begin{aligned}
# \mathbb E\|\hat g\|^2 &= \|\nabla L\|^2 + \frac{\sigma^2}{m}\cdot\frac{N-m}{N-1},\\
# \mathbb E\,\hat\sigma^2 &= \sigma^2\,\frac{m-1}{m}\cdot\frac N{N-1} .
# \end{aligned}
# ```
#
# The second formula says that the noise is *under*estimated, and the square root adds to it: for the noise the sentence has the wrong sign. Of the sharpness no unbiased estimate exists, but a bracket does: the sample's top eigenvector on fresh
# examples has a curvature that is too small on average.
#
# Every example's gradient norm comes from one forward and one backward pass, by the identities of the layers, rather than from a gradient each.

# %%
fig8 = collect(experiments["fig8"])
fig9 = collect(experiments["fig9"])

# %% tags=["hide-input"]


def of_size(run, name):
    """An estimate (sizes, repeats)."""
    return run.stored[f"by_size_{name}"].values[-1]


def relative(run, name, truth=None):
    """Means over samples of an estimate over its value on all data, at each size."""
    return of_size(run, name).mean(1) / of_size(run, truth or name)[-1].mean()


def error_of(run, name):
    """Their standard errors."""
    values = of_size(run, name)
    return stats.sem(values, axis=1) / values[-1].mean()


def corrected_norm(run):
    """The root of the mean corrected square over the true norm, nan where that mean is negative."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(relative(run, "gradient_square"))


def draw_estimates(axes, run):
    """Loss, gradient norm, noise and sharpness against the size of the sample, each over its value on all data."""
    sizes = np.array(run["sizes"])
    panels_ = (
        ("loss", [("sample_loss", "sample_loss", BLUE, "printed")]),
        ("gradient norm", [("sample_gradient_norm", "sample_gradient_norm", BLUE, "printed"), ("gradient_square", None, GREEN, "corrected")]),
        ("noise", [("sample_noise", "sample_noise", BLUE, "printed"), ("noise_square", None, GREEN, "corrected")]),
        ("sharpness", [("sample_sharpness", "sample_sharpness", BLUE, "of the sample"), ("fresh_sharpness", "sample_sharpness", ORANGE, "fresh")]),
    )  # fmt: skip
    for ax, (title, curves) in zip(axes, panels_, strict=True):
        for name, truth, colour, label in curves:
            values = of_size(run, name) / of_size(run, truth or name)[-1].mean()
            mean, error = values.mean(1), values.std(1, ddof=1) / values.shape[1] ** 0.5
            if truth is None:  # squares: the root of the mean, where it has one
                low, high = np.sqrt(np.maximum(mean - 2 * error, 0)), np.sqrt(np.maximum(mean + 2 * error, 0))
                ax.fill_between(sizes, low, high, color=colour, alpha=0.3, linewidth=0)
                mean, error = np.sqrt(np.where(mean > 0, mean, np.nan)), 0 * error
            ax.errorbar(sizes, mean, 2 * error, fmt=".-", color=colour, label=label)
        ax.axhline(1, color=RULE, linestyle="--", linewidth=0.8)
        shown = sizes[[0, len(sizes) // 2, -1]]
        ax.set(title=title, xscale="log", xlabel="examples $m$", xticks=shown, xticklabels=shown)
        ax.minorticks_off()


kinds = {"digits": "digits", "cifar10": "CIFAR-10", "markov": "a Markov text", "wikitext": "WikiText"}
for name, runs, what in (("fig8", fig8, f"a network on {kinds[sampled]}"), ("fig9", fig9, f"Transformer-XL on {kinds[text]}")):
    with panels(
        1, 4, name=name, height=2.3, runs=runs,
        caption=f"Figure {name[3]}. The estimates of loss, gradient norm, noise and sharpness from samples of $m$ examples, for {what}, over their values on all data: means over samples with two standard errors. "
        "Green: from the corrected squares. Orange: the curvature of fresh examples along the sample's eigenvector.",
        alt="The printed gradient norm begins far above one and falls to it, the corrected one lies around one. The noise begins below one. The sharpness of the sample falls to one from above, that of fresh examples rises to it from below.",
    ) as axes:  # fmt: skip
        for run in runs:
            draw_estimates(axes, run)
            axes[0].set(ylabel="over that of all data")
            axes[1].legend()
            axes[3].legend()

# %% tags=["hide-input"]
for name, runs in (("fig8", fig8), ("fig9", fig9)):
    for run in runs:
        claims.measure(
            f"{name}/gradient-too-large", {"": relative(run, "sample_gradient_norm")}, [run],
            errors={"": error_of(run, "sample_gradient_norm")}, control={"": np.nan_to_num(corrected_norm(run))},
        )  # fmt: skip
        claims.measure(
            f"{name}/noise-too-large", {"": relative(run, "sample_noise")[0]}, [run], errors={"": error_of(run, "sample_noise")[0]}
        )
        claims.measure(
            f"{name}/sharpness-too-large", {"": relative(run, "sample_sharpness")}, [run],
            errors={"": error_of(run, "sample_sharpness")}, control={"": relative(run, "fresh_sharpness", "sample_sharpness")[:-1]},
        )  # fmt: skip

# %% [markdown]
# ## One trajectory, every sharpness
#
# *Ours.* What is called sharpness differs from paper to paper, and where the largest eigenvalue costs too much, something else takes its place. On one run of SGD: $\lambda_{\max}$ of all data; power iteration with a fresh minibatch for each product, as the authors'
# code has it; *batch sharpness*, the curvature of a minibatch along its own gradient; *critical sharpness*, from a line search of a few forward passes along that of all data; and the directional smoothness of the step.
# The first two estimate one number, the others are curvatures along directions. Batch sharpness can end above $\lambda_{\max}$, which no curvature of the whole loss exceeds: a minibatch is steep where its own gradient points. Whether it does here, the verdict says.

# %%
(sharpnesses,) = collect(experiments["sharpnesses"])

# %% tags=["hide-input"]
measured = sharpnesses.trace.isel(step=np.flatnonzero(np.isfinite(sharpnesses.trace.sharpness.values)))
KINDS = {
    "sharpness": (r"$\lambda_{\max}$", INK), "power_sharpness": ("power iteration", ORANGE),
    "batch_sharpness": ("batch sharpness", VERMILION), "critical_sharpness": ("critical sharpness", BLUE),
    "directional_smoothness": ("directional smoothness", GREEN),
}  # fmt: skip
with panels(
    1, 1, name="sharpnesses", height=2.9, runs=[sharpnesses],
    caption=rf"Five measures of curvature on one run of SGD on {kinds[sampled]} at $\eta = {sharpnesses.step_size:g}$, $2/\eta = {2 / sharpnesses.step_size:g}$ being far above. Bars: two standard errors of the batch sharpness.",
    alt="Five curves: the largest eigenvalue; power iteration, which scatters about it; batch sharpness with its bars; critical sharpness and directional smoothness, which lie below the largest eigenvalue.",
) as (ax,):  # fmt: skip
    for name, (label, colour) in KINDS.items():
        ax.plot(measured.step, measured[name], ".-", color=colour, label=label, linewidth=0.9, markersize=3)
    ax.errorbar(measured.step, measured.batch_sharpness, 2 * measured.batch_sharpness_se, fmt="none", color=VERMILION, linewidth=0.6)
    ax.set(xlabel="step", ylabel="curvature")
    ax.legend(ncols=2)

costs = {
    "λ_max": (f"residual {measured.sharpness_residual.median():.1g}", f"{measured.products.mean():.0f} products of all data"),
    "power iteration": (f"residual {measured.power_sharpness_residual.median():.1g}", f"10 products of {4 * batch_size} examples"),
    "batch sharpness": (
        f"relative standard error {(measured.batch_sharpness_se / measured.batch_sharpness).median():.1g}",
        f"20 products of {batch_size} examples",
    ),
    "critical sharpness": (
        f"relative error {(measured.critical_sharpness_error / measured.critical_sharpness).median():.1g}",
        f"{measured.forward_passes.mean():.1f} forward passes of all data",
    ),
    "directional smoothness": ("exact", "two gradients of all data"),
}  # fmt: skip
taken = [{"measure": name, "precision": precision, "cost": cost} for name, (precision, cost) in costs.items()]
display(HTML(pd.DataFrame(taken).to_html(index=False)))

second_half = measured.isel(step=slice(len(measured.step) // 2, None))
above = {name: float((second_half[name] / second_half.sharpness).median()) for name in KINDS}
claims.measure(
    "ours-sharpness/batch-sharpness-is-above", {"": above["batch_sharpness"]}, [sharpnesses],
    control={"": above["power_sharpness"]},
)  # fmt: skip

# %% [markdown]
# ## Where we differ
#
# Figure 5's start is ours. Networks and data are small: what decides is whether the data can be learnt by heart, and what the estimators do depends on $m/N$ and on the ratio of noise to gradient, not on the size of the network. But orderings over step sizes ask for runs that have
# converged at the smallest one, for which few epochs are not enough. The preset `paper` is the paper's data and networks: ImageNet (150 GB, after registration), CIFAR-10, WikiText-103 (0.5 GB), and, by the counted operations at 30 TFLOP/s, more than
# a thousand GPU hours. Our last layers start at zero, where the gradient is small, so that we compare it with that in the middle of a run and not with the first.
# Theorems 6 and 7 are run with the network of (8), which has no biases. Slips of the paper stand [on a page of their own](../book/errata.md).
#
# ## Try it
#
# `python -m eoslib run no_stationary_points -p 'step_sizes=[0.01, 0.041]' -o mine.ipynb`
#
# 1. With how few images does the gradient norm vanish, the number of steps being the same? Try `trend_n=[50, 100, 200, 400]`.
# 1. Which step size in the window of the second figure has an orbit of period twelve? What does `step_sizes=[0.01, ...]` show there?
# 1. What does {eq}`zhang-corrected` say about $\eta$ if the gradient norm is to be halved? Does it hold on the digits?
#
# ## Exercises
#
# ```{exercise} Blocks that triple
# :label: exercise-tripling
# :nonumber:
#
# The start of theorem 3's second example makes the orbit stay $2^k$ steps near 0, then $2^{k+1}$ near $\tfrac23$, and so on. Let the blocks triple instead. Between which two numbers do the averages of $f$ swing?
# ```
#
# ```{solution-start} exercise-tripling
# :class: dropdown
# ```
#
# With blocks $1, r, r^2, \dots$, at the end of a block its own fixed point has had the share $(1+r^{-2}+r^{-4}+\cdots)/(1+r^{-1}+r^{-2}+\cdots) = r/(r+1)$ of the past. For $r = 3$ that is $\tfrac34$, and $f(\tfrac23) = -\tfrac16$: the averages swing between
# $-\tfrac16\cdot\tfrac14 = -\tfrac1{24}$ and $-\tfrac16\cdot\tfrac34 = -\tfrac18$.

# %%
tripling = np.concatenate([np.full(3**k, k % 2) for k in range(11)])
values = tent.derivative(0)(stationarity.tent_orbit(tripling))
late = time_averages(values)[-(3**10 + 3**9) :]  # of the last two blocks
print(f"from {late.min():.4f} to {late.max():.4f}")
print(f"computed {-1 / 8:.4f} and {-1 / 24:.4f}")

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Half the step size
# :label: exercise-halved
# :nonumber:
#
# What does {eq}`zhang-corrected` say about $\mathbb E\|\nabla L\|^2$ on $L = \tfrac a2\theta^2$ with noise of variance $s^2$, if $\eta$ is halved? Simulate it.
# ```
#
# ```{solution-start} exercise-halved
# :class: dropdown
# ```
#
# There $\mathbb E\|\nabla L\|^2 = a\eta s^2/(2-\eta a)$: it halves, and a little more. So a step size that is ten times smaller makes the gradient norm about $\sqrt{10}$ times smaller, not zero.

# %%
generator = np.random.default_rng(0)
for eta in (0.1, 0.05):
    theta = np.zeros(4000)
    for _ in range(400):
        theta = theta - eta * (theta + generator.standard_normal(4000))
    computed = eta / (2 - eta)
    print(f"η = {eta}: {(theta**2).mean():.4f}, computed {computed:.4f}")

# %% [markdown]
# ```{solution-end}
# ```
#
# ## Provenance

# %%
provenance(fig1, fig2, fig3, fig4, short, fig5, [balance], fig7, trend, fig8, fig9, [sharpnesses])
