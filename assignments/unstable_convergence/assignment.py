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
# ```otter
# # ASSIGNMENT CONFIG
# init_cell: false
# export_cell: false
# generate: false
# run_tests: false
# show_question_points: true
# tests: {files: true, ok_format: false}
# ```
# # Assignment 1: unstable convergence
#
# Gradient descent $\theta^{t+1} = \theta^t - \eta\nabla f(\theta^t)$ on a network often runs where the sharpness exceeds $2/\eta$, and the loss falls all the same. You write the observables by which
# Ahn, Zhang and Sra (2022) describe this regime, find where it begins on a network, and explain why two of the observables are one. The chapter *Unstable convergence* of the book has the definitions and the
# figures; allow two hours.
#
# Replace each `...` by your code; keep the names and arguments of the functions. `grader.check("q1")` runs a few public tests. Your mark comes from other tests, on random inputs, and your text is read.
# Write with NumPy; what you define may use anything that was defined above it.

# %%
import otter

grader = otter.Notebook()

# %%
import numpy as np

# %% [markdown]
# ```otter
# # BEGIN QUESTION
# name: q1
# points: 2
# ```
# **Question 1.** The *relative progress* of a step compares the change of the loss with what the gradient promises to first order,
#
# $$ \mathrm{RP}(\theta) = \frac{f(\theta-\eta\nabla f(\theta)) - f(\theta)}{\eta\,\|\nabla f(\theta)\|^2}. $$
#
# `f` takes θ, an array of shape `(p,)`, and returns a number; `gradient` takes θ and returns an array `(p,)`. Return a number.
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def relative_progress(f, gradient, theta, step_size):
    """RP(θ), a number."""
    # BEGIN SOLUTION
    g = gradient(theta)
    return (f(theta - step_size * g) - f(theta)) / (step_size * (g @ g))
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_on_a_parabola(relative_progress):
    import numpy as np

    value = relative_progress(lambda t: t @ t / 2, lambda t: t, np.array([3.0]), 0.1)
    assert value is not None, "your function returns nothing"
    assert abs(value - (-0.95)) < 1e-9, f"on f(θ) = θ²/2 with η = 0.1, RP is -0.95 at every θ; you have {value}"


# %% [markdown]
# ```otter
# # END TESTS
# ```
# ```otter
# # END QUESTION
# ```
# ```otter
# # BEGIN QUESTION
# name: q2
# points: 2
# ```
# **Question 2.** The *directional smoothness* is the curvature that is met along a step $v$,
#
# $$ L(\theta; v) = \frac{\langle v,\, \nabla f(\theta) - \nabla f(\theta-v)\rangle}{\|v\|^2}. $$
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def directional_smoothness(gradient, theta, v):
    """L(θ; v), a number."""
    # BEGIN SOLUTION
    return v @ (gradient(theta) - gradient(theta - v)) / (v @ v)
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_on_a_quadratic(directional_smoothness):
    import numpy as np

    theta = np.array([1.0, 1.0])
    for v, curvature in (([0.5, 0.0], 40), ([0.0, 0.5], 2)):
        value = directional_smoothness(lambda t: np.array([40.0, 2.0]) * t, theta, np.array(v))
        assert value is not None, "your function returns nothing"
        assert abs(value - curvature) < 1e-9, f"20θ₁² + θ₂² has the curvature {curvature} along {v}; you have {value}"


# %% [markdown]
# ```otter
# # END TESTS
# ```
# ```otter
# # END QUESTION
# ```
# ```otter
# # BEGIN QUESTION
# name: q3
# points: 3
# ```
# **Question 3.** Follow both along a trajectory. Take `steps` steps from `theta` and return a dictionary of three arrays of length `steps`: `"loss"`, the values $f(\theta^t)$ at $t = 0, 1, \dots$, *before* step $t$; and
# `"relative_progress"` and `"directional_smoothness"` of step $t$, the latter with $v = \eta\nabla f(\theta^t)$. Everything needed is $f$ and $\nabla f$ at the iterates: evaluate each of them once per iterate.
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def descend(f, gradient, theta, step_size, steps):
    """The observables of gradient descent, {"loss", "relative_progress", "directional_smoothness"}, each (steps,)."""
    # BEGIN SOLUTION
    losses, progress, smoothness = [], [], []
    loss, g = f(theta), gradient(theta)
    for _ in range(steps):
        v = step_size * g
        theta = theta - v
        next_loss, next_g = f(theta), gradient(theta)
        losses.append(loss)
        progress.append((next_loss - loss) / (step_size * (g @ g)))
        smoothness.append(v @ (g - next_g) / (v @ v))
        loss, g = next_loss, next_g
    return {
        "loss": np.array(losses),
        "relative_progress": np.array(progress),
        "directional_smoothness": np.array(smoothness),
    }
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_three_steps_on_a_parabola(descend):
    import numpy as np

    run = descend(lambda t: t @ t / 2, lambda t: t, np.array([1.0]), 0.5, 3)
    assert isinstance(run, dict), "a dictionary was expected"
    for name in ("loss", "relative_progress", "directional_smoothness"):
        assert name in run and np.shape(run[name]) == (3,), f"run[{name!r}] should have the shape (3,)"
    assert np.allclose(run["loss"], [1 / 2, 1 / 8, 1 / 32]), f"θ halves at each step; your losses are {run['loss']}"
    assert np.allclose(run["directional_smoothness"], 1), "the curvature of θ²/2 is 1 everywhere"


# %% [markdown]
# ```otter
# # END TESTS
# ```
# ```otter
# # END QUESTION
# ```
# ```otter
# # BEGIN QUESTION
# name: q4
# points: 3
# ```
# **Question 4.** The *sharpness* is the largest **algebraic** eigenvalue of the Hessian $H$. Of a network one cannot store $H$, but products $Hv$ cost little more than a gradient. `hvp` takes an array $v$ of shape `(p,)` and returns
# $Hv$. Return the sharpness to a relative accuracy of $10^{-3}$. Far from a minimum $H$ has negative eigenvalues, too, and they may be the largest in modulus. (With SciPy or by your own iteration; a few hundred
# products are enough.)
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def sharpness(hvp, p):
    """The largest algebraic eigenvalue of the symmetric operator `hvp` on vectors (p,), a number."""
    # BEGIN SOLUTION
    from scipy.sparse.linalg import LinearOperator, eigsh

    start = np.random.default_rng(0).standard_normal(p)
    operator = LinearOperator((p, p), matvec=hvp, dtype=float)
    return eigsh(operator, k=1, which="LA", v0=start, tol=1e-4, return_eigenvectors=False)[0]
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_a_diagonal_matrix(sharpness):
    import numpy as np

    diagonal = np.array([5.0, 3.0, 1.0, -2.0])
    value = sharpness(lambda v: diagonal * v, 4)
    assert value is not None, "your function returns nothing"
    assert abs(value - 5) < 5e-3, f"the largest eigenvalue of diag(5, 3, 1, -2) is 5; you have {value}"


# %% [markdown]
# ```otter
# # END TESTS
# ```
# ```otter
# # END QUESTION
# ```
# ```otter
# # BEGIN QUESTION
# name: q5
# points: 2
# ```
# **Question 5.** The *onset* of instability is the first step at which the measured sharpness reaches $2/\eta$. It was measured at the steps `steps`, an ascending array of integers `(m,)`, with the values `sharpnesses`, an array `(m,)`; where a
# measurement failed it is `nan`. Return the step, an `int`, or `-1` if $2/\eta$ is never reached.
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def onset(steps, sharpnesses, step_size):
    """The first of `steps` at which the sharpness is at least 2/η, or -1."""
    # BEGIN SOLUTION
    reached = np.flatnonzero(np.asarray(sharpnesses) >= 2 / step_size)
    return int(steps[reached[0]]) if len(reached) else -1
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_a_rising_sharpness(onset):
    import numpy as np

    found = onset(np.array([0, 20, 40, 60]), np.array([3.0, 4.0, 5.5, 5.0]), 0.4)
    assert found == 40, f"2/η is 5, reached first at step 40; you have {found}"


# %% [markdown]
# ```otter
# # END TESTS
# ```
# ```otter
# # END QUESTION
# ```
# ## On a network
#
# Your functions, on a small network on 200 digits, which starts where the sharpness is small. Run the two cells. In the figure the grey line is the onset. From there on an oscillation grows; it is seen some 80 steps later, when relative
# progress jumps from $-1$ to about 0 and directional smoothness from about 0 to about $2/\eta$.

# %%
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

images, digits = load_digits(return_X_y=True)
images = (images - images.mean(0)) / images.std(0).clip(1e-9)
x, y = torch.tensor(images[:200]), nn.functional.one_hot(torch.tensor(digits[:200]), 10)
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()
parameters = list(network.parameters())
start = 0.3 * parameters_to_vector(parameters).detach().numpy()


def loss_of_network(theta):
    vector_to_parameters(torch.tensor(theta), parameters)
    return ((network(x) - y) ** 2).sum(1).mean() / 2


def f(theta):
    return loss_of_network(theta).item()


def gradient(theta):
    return parameters_to_vector(torch.autograd.grad(loss_of_network(theta), parameters)).numpy()


def hvp_at(theta):
    g = parameters_to_vector(torch.autograd.grad(loss_of_network(theta), parameters, create_graph=True))
    return lambda v: parameters_to_vector(
        torch.autograd.grad(g @ torch.tensor(v), parameters, retain_graph=True)
    ).numpy()


# %%
step_size = 2 / 3
run = descend(f, gradient, start, step_size, 300)
theta, measured, values = start, range(0, 300, 10), []
for t in range(300):
    if t in measured:
        values.append(sharpness(hvp_at(theta), len(theta)))
    theta = theta - step_size * gradient(theta)
begins = onset(np.array(measured), np.array(values), step_size)

figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), layout="constrained")
axes[0].semilogy(run["loss"])
axes[1].plot(run["relative_progress"])
axes[1].plot(step_size / 2 * run["directional_smoothness"] - 1, "--")
axes[2].plot(measured, values, ".-")
axes[2].axhline(2 / step_size, linestyle="--")
for ax, label in zip(axes, ("loss", "RP, and −1 + (η/2) L dashed", "sharpness"), strict=True):
    ax.axvline(begins, color="0.7")
    ax.set(xlabel="step", ylabel=label)

# %% [markdown]
# ```otter
# # BEGIN QUESTION
# name: written
# manual: true
# points: 5
# ```
# **Question 6, in words.** (a) Derive $\mathrm{RP}(\theta) = -1 + \eta\int_0^1 \tau\,L(\theta; \eta\tau\nabla f(\theta))\,d\tau$. (b) Which assumption turns it into $\mathrm{RP} \approx -1 + \tfrac\eta2 L(\theta; \eta\nabla f(\theta))$, and for which functions does
# it hold exactly? (c) A loss falls on average over many steps while RP is close to 0. What follows for the directional smoothness? (d) In the second half of your figure the sharpness lies above $2/\eta$ although $L$ is close to $2/\eta$. Explain.
#
# ```otter
# # BEGIN SOLUTION
# ```

# %% [markdown]
# (a) With $g = \nabla f(\theta)$, $f(\theta-\eta g) - f(\theta) = -\eta\int_0^1\langle g, \nabla f(\theta-\eta\tau g)\rangle d\tau = -\eta\|g\|^2 + \eta\int_0^1\langle g, \nabla f(\theta) - \nabla f(\theta-\eta\tau g)\rangle d\tau$. By definition
# $\langle \eta\tau g, \nabla f(\theta) - \nabla f(\theta-\eta\tau g)\rangle = \eta^2\tau^2\|g\|^2L(\theta;\eta\tau g)$, so that the last integrand is $\eta\tau\|g\|^2L(\theta;\eta\tau g)$. Divide by $\eta\|g\|^2$.
#
# (b) That $L(\theta;\eta\tau g)$ hardly depends on $\tau\in[0,1]$: the curvature along the step is nearly constant; then $\int\tau\,d\tau = \tfrac12$. Exact for quadratics.
#
# (c) $L\approx 2/\eta$ on average: (η/2) L ≈ 1.
#
# (d) $L$ is an average of the curvature in the direction of the gradient, $\sum_i\lambda_ic_i^2/\sum_ic_i^2$ for a quadratic. It is at most the largest eigenvalue, and less as soon as the gradient has components along flatter directions. So
# $L\approx2/\eta$ forces the largest sharpness met on the step to be at least $2/\eta$, and in general above it.

# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # END QUESTION
# ```
# ```otter
# # BEGIN QUESTION
# name: experiment
# manual: true
# points: 5
# ```
# **Question 7, an experiment of your own.** Choose one question, say what you expect and why *before* you run anything, run the chapter with other parameters, and report what came out: the command, one figure or table, the verdicts that changed, and whether
# your expectation held. About half a page.
#
# - Does the activation matter? For example `python -m eoslib sweep unstable_convergence --only exp3 -g activation=tanh,swish,elu -g 'seeds=[0],[1]' -o sweep`, whose table is `sweep/results.csv`: a row for each number; those of tanh are the book's own.
# - At which step size does experiment 3 stop converging? `python -m eoslib run unstable_convergence -p 'unstable_step_sizes=[2/2, 2/1.5, 2/1]' -o mine.ipynb`
# - With `-p loss=mse-sum` the loss of experiments 2 to 5 doubles, and every curvature with it. Which step sizes give the same trajectories? Change all that belong to these experiments; `--help` lists them.
#
# ```otter
# # BEGIN SOLUTION
# ```

# %% [markdown]
# For example the third. `mse-sum` is twice `mse-half-sum`, so gradient and Hessian double. $\theta - \eta\nabla f$ is the same for half of $\eta$: I expect identical trajectories at $2/8, 2/10, 2/12$, with twice the loss, and with RP the same, since it is a ratio:
# `python -m eoslib run unstable_convergence -p loss=mse-sum -p 'unstable_step_sizes=[2/8, 2/10, 2/12]' -p 'stable_step_sizes=[2/80, 2/100, 2/120]' -p exp5_step_size=2/10 -p 'diverging_bracket=[2/2, 2/4]' -p diverging_step_size=2/0.5 -o mine.ipynb`.
# The figure of experiment 3 is the same up to the axis of the loss, and $2/\eta$ doubles with the sharpness. With the first two alone the bracket of divergence and experiment 5 are at other points of the landscape than the book's.

# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # END QUESTION
# ```
