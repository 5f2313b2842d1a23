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
# # Assignment 3: no stationary points
#
# Training stops making progress, yet its gradient does not vanish. Zhang, Li, Sra and Jadbabaie (2021) say what has converged instead: averages over time. You measure the noise of single examples, take time averages, and find a cycle that gradient descent
# never leaves and on which the gradient does not vanish. The chapter *No stationary points* of the book has definitions and figures; allow two hours.
#
# Replace each `...` by your code; keep the names and arguments of the functions. `grader.check("q1")` runs a few public tests. Your mark comes from other tests, on random inputs, and your text is read. Write with NumPy.

# %%
import otter

grader = otter.Notebook()

# %%
import numpy as np

# %% [markdown]
# ```otter
# # BEGIN QUESTION
# name: q1
# points: 3
# ```
# **Question 1.** The *noise* of a loss $L = \frac1N\sum_i\ell_i$ at $\theta$ is $\sigma = \big(\frac1N\sum_i\|\nabla L-\nabla\ell_i\|^2\big)^{1/2}$ (paper, (2)); the norm is that of the whole gradient. Compute it for softmax regression,
# $\ell_i = -\log p_{i,y_i}$ with $p_i = \mathrm{softmax}(x_iW)$. `W` is $\theta$, of shape `(d, c)`, `X` holds the inputs $x_i$ in its rows, `(N, d)`, and `labels` the classes $y_i$, integers `(N,)`. (The gradient of $\ell_i$ is
# $x_i^\top(p_i - e_{y_i})$, a matrix `(d, c)`.)
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def noise(W, X, labels):
    """σ of softmax regression, a number."""
    # BEGIN SOLUTION
    logits = X @ W
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    residuals = p - np.eye(W.shape[1])[labels]
    gradients = X[:, :, None] * residuals[:, None, :]
    return np.sqrt(((gradients - gradients.mean(0)) ** 2).sum((1, 2)).mean())
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_two_examples(noise):
    import numpy as np

    value = noise(np.zeros((1, 2)), np.array([[1.0], [1.0]]), np.array([0, 1]))
    assert value is not None, "your function returns nothing"
    # the gradients are ∓(1/2, −1/2), so that their mean is 0 and each has the norm 1/√2
    assert abs(value - 0.5**0.5) < 1e-9, f"two opposite gradients of norm 1/√2 have the noise 1/√2; you have {value}"


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
# **Question 2.** Of values `(n,)` or `(n, k)` at the steps $1, \dots, n$ return the *time averages* $\mu_m(\varphi) = \frac1m\sum_{t\le m}\varphi(\theta_t)$ for $m = 1, \dots, n$, in the same shape, in time proportional to $n$.
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def time_averages(values):
    """The averages of the first 1, 2, …, n values, along the first axis."""
    # BEGIN SOLUTION
    counts = np.arange(1, len(values) + 1)
    return np.cumsum(values, axis=0) / counts.reshape(-1, *[1] * (np.ndim(values) - 1))
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_three_values(time_averages):
    import numpy as np

    averages = time_averages(np.array([2.0, 4.0, 0.0]))
    assert averages is not None, "your function returns nothing"
    assert np.allclose(averages, [2, 3, 2]), f"the averages of 2, 4, 0 are 2, 3, 2; you have {averages}"


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
# points: 2
# ```
# **Question 3.** Theorem 1: of a bounded function $\varphi$ the expected change over the empirical measure vanishes, $|\mathbb E_{\theta\sim\mu_m}[\varphi(\theta) - \varphi(F(\theta))]| \to 0$. Here $F$ is deterministic and $F(\theta_t) = \theta_{t+1}$. Of the values
# $\varphi(\theta_1), \dots, \varphi(\theta_{n+1})$, an array `(n+1,)`, return that change for $m = 1, \dots, n$, an array `(n,)`. (What is left of the sum?)
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def expected_changes(values):
    """|E[φ(θ) − φ(F(θ))]| over the first m points, for m = 1, …, n, from n + 1 values."""
    # BEGIN SOLUTION
    return abs(values[0] - values[1:]) / np.arange(1, len(values))
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_four_values(expected_changes):
    import numpy as np

    changes = expected_changes(np.array([1.0, 3.0, 0.0, 1.0]))
    assert changes is not None, "your function returns nothing"
    assert np.shape(changes) == (3,), "n + 1 values give n changes"
    assert np.allclose(changes, [2, 1 / 2, 0]), f"for 1, 3, 0, 1 they are 2, 1/2, 0; you have {changes}"


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
# points: 4
# ```
# **Question 4.** On $f(\theta) = 100\sin\theta_1\sin\theta_2$ (paper, figure 5) gradient descent converges for $\eta < 2/100$. For $\eta$ a little larger it ends on a *cycle* of two points, $F(a) = b$ and $F(b) = a \ne b$, at which the gradient does not vanish. Find one for
# the given $\eta\in(0.021, 0.031)$, to $10^{-6}$, and an *attracting* one: from points near $a$ gradient descent comes back to it. Return an array `(2, 2)` with the rows $a$ and $b$. (By running gradient descent long enough, or by hand: in $u = \theta_1+\theta_2$ and
# $w = \theta_1-\theta_2-\pi$ the two coordinates move alike and on their own, $u\mapsto u - 100\eta\sin u$.)
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def cycle(step_size):
    """Two points, the rows of an array (2, 2), which gradient descent on 100 sin θ₁ sin θ₂ takes to each other."""
    # BEGIN SOLUTION
    theta = np.array([1.0, 2.0])  # the start of figure 5
    for _ in range(20_000):
        before, theta = theta, theta - 100 * step_size * np.cos(theta) * np.sin(theta[::-1])
    return np.array([before, theta])
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_that_it_is_a_cycle(cycle):
    import numpy as np

    a_and_b = cycle(0.025)
    assert a_and_b is not None, "your function returns nothing"
    assert np.shape(a_and_b) == (2, 2), "an array (2, 2) was expected"
    a, b = np.asarray(a_and_b)
    after_a = a - 0.025 * 100 * np.cos(a) * np.sin(a[::-1])
    assert np.abs(after_a - b).max() < 1e-5, f"at η = 0.025 a step from {a} leads to {after_a}, not to your {b}"


# %% [markdown]
# ```otter
# # END TESTS
# ```
# ```otter
# # END QUESTION
# ```
# The figure shows what your functions find at $\eta = 0.025$, on the cycle, and at $\eta = 0.04$, where no cycle of two points attracts: the loss wanders, in the end within a few narrow bands, and its average comes to rest all the same.

# %%
from matplotlib import pyplot as plt


def orbit(theta, step_size, n):
    points = [np.array(theta, float)]
    for _ in range(n):
        theta = points[-1]
        points.append(theta - 100 * step_size * np.cos(theta) * np.sin(theta[::-1]))
    return np.array(points)


figure, axes = plt.subplots(2, 2, figsize=(8, 4), layout="constrained")
for row, step_size in zip(axes, (0.025, 0.04), strict=True):
    points = orbit(cycle(0.025)[0] + 0.1, step_size, 1000)
    losses = 100 * np.sin(points).prod(1)
    row[0].plot(losses, ".", markersize=2)
    row[0].plot(time_averages(losses))
    row[1].loglog(np.arange(1, 1001), expected_changes(losses), ".", markersize=2)
    row[0].set(ylabel=f"loss, η = {step_size}", xlabel="step")
    row[1].set(ylabel="expected change", xlabel="n")

# %% [markdown]
# ```otter
# # BEGIN QUESTION
# name: written
# manual: true
# points: 5
# ```
# **Question 5, in words.** Let $\theta\sim\mu$ be distributed such that a step $\theta-\eta g$, with $\mathbb E[g\,|\,\theta] = \nabla L(\theta)$, does not change the expected loss. (a) From the Taylor formula along the step derive
# $\mathbb E\|\nabla L\|^2 = \eta\,\mathbb E\int_0^1\!\int_0^1 t\,\langle g, \nabla^2L(\theta-t\tau\eta g)\,g\rangle\,d\tau\,dt$. (b) Check it for $L = \tfrac a2\theta^2$ and $g = a\theta+\xi$ with noise of variance $s^2$, whose stationary variance you compute. (c) What happens to
# $\mathbb E\|\nabla L\|^2$ there if $\eta$ is halved? (d) On your cycle there is no noise. Why can the gradient norm stay away from 0 all the same?
#
# ```otter
# # BEGIN SOLUTION
# ```

# %% [markdown]
# (a) $L(\theta-\eta g) - L(\theta) = -\eta\int_0^1\langle g,\nabla L(\theta-t\eta g)\rangle dt$ and $\nabla L(\theta-t\eta g) = \nabla L(\theta) - t\eta\int_0^1\nabla^2L(\theta-t\tau\eta g)\,g\,d\tau$. Insert, take expectations: the left side vanishes, and
# $\mathbb E\langle g,\nabla L\rangle = \mathbb E\|\nabla L\|^2$.
#
# (b) $\theta' = (1-\eta a)\theta-\eta\xi$: the variance $V = (1-\eta a)^2V+\eta^2s^2$ gives $V = \eta s^2/(a(2-\eta a))$ and $\mathbb E\|\nabla L\|^2 = a^2V = a\eta s^2/(2-\eta a)$. Right: $\eta\cdot\tfrac12a\,\mathbb Eg^2 = \tfrac{\eta a}2(a^2V+s^2)$; with
# $a^2V = a\eta s^2/(2-\eta a)$ this is $\tfrac{\eta a s^2}2\cdot\tfrac{2}{2-\eta a}$, the same.
#
# (c) It halves, to first order: $a\eta s^2/2$ for small $\eta$.
#
# (d) Over the cycle the changes of the loss add up to 0 (here each of them is 0: $f(a) = f(b)$, since $f = 50(\cos(\theta_1-\theta_2)-\cos(\theta_1+\theta_2))$). By (a), $\|\nabla L\|^2$ is balanced by the curvature met along the step: a step that is too long for the
# curvature jumps across the valley to a point of equal height.

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
# **Question 6, an experiment of your own.** Choose one question, say what you expect and why *before* you run anything, run the chapter with other parameters, and report what came out: the command, one figure or table, the verdicts that changed, and whether
# your expectation held. About half a page.
#
# - Does the picture of figure 5 depend on the step size? `python -m eoslib run no_stationary_points -p 'step_sizes=[0.01, 0.025]' -o mine.ipynb`
# - With how few images does the gradient norm vanish, the number of steps being the same? The last figure of the chapter's section *A small data set* shows it. `-p 'trend_n=[50, 100, 200, 400]'`
# - How do noise and gradient norm at the end depend on the step size of figure 2? `-p 'image_step_sizes=[0.4, 0.1, 0.025]'`
#
# ```otter
# # BEGIN SOLUTION
# ```

# %% [markdown]
# For example the first. At 0.025 question 4 found an attracting cycle of two points. I expect the last 500 iterates of the second row to be two points, the loss to settle, since $f(a) = f(b)$, and its average to converge like $1/n$.
# `python -m eoslib run no_stationary_points -p 'step_sizes=[0.01, 0.025]' -o mine.ipynb`. Whether it holds is seen in the second row of figure 5 and in its verdicts: those that ask for a loss which goes on changing cannot hold on a cycle.

# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # END QUESTION
# ```
