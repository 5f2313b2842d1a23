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
# # Assignment 5: large learning rates
#
# Mohtashami, Jaggi and Stich (2023) ask whether noise can do for a small step what a large step does by itself: leave sharp minima and step over small regions. You measure the constants of their theorem, find the step size from which on gradient descent leaves a sharp
# bowl, and compare SGD with repeats, whose noise is that of a large step, with ordinary small steps. The chapter *Large learning rates* of the book has definitions and figures; allow two hours. The paper writes $\gamma$ for the step size.
#
# Replace each `...` by your code; keep the names and arguments of the functions. `grader.check("q1")` runs a few public tests. Your mark comes from other tests, on random inputs, and your text is read. Write with NumPy. Points are arrays `(n, d)`, one in each row, also where $d = 1$;
# `gradient` takes such an array and returns the gradients in the same shape.

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
# **Question 1.** On a region, $f$ is *$\mu$-one-point-strongly convex* towards $x_\star$ if $\langle\nabla f(x), x-x_\star\rangle\ge\mu\|x-x_\star\|^2$, and *$L$-smooth* if $\|\nabla f(x)-\nabla f(x')\|\le L\|x-x'\|$ for all $x, x'$. From a sample of `points` of the region, `(n, d)`, return the
# pair $(\mu, L)$ of the largest $\mu$ and the smallest $L$ that the sample allows (all pairs count for $L$; no two points are equal, and none is $x_\star$, of shape `(d,)`).
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def constants(gradient, minimiser, points):
    """(μ, L) of the sample `points` (n, d)."""
    # BEGIN SOLUTION
    g, away = gradient(points), points - minimiser
    mu = ((g * away).sum(1) / (away**2).sum(1)).min()
    i, j = np.triu_indices(len(points), 1)
    L = (np.linalg.norm(g[i] - g[j], axis=1) / np.linalg.norm(points[i] - points[j], axis=1)).max()
    return mu, L
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_a_quadratic(constants):
    import numpy as np

    axes = np.array([[1.0, 0.0], [0.0, 1.0], [-2.0, 0.0], [0.0, 3.0]])
    found = constants(lambda x: np.array([1.0, 4.0]) * x, np.zeros(2), axes)
    assert found is not None, "your function returns nothing"
    mu, L = found
    assert abs(mu - 1) < 1e-9, f"(x² + 4y²)/2 has the curvatures 1 and 4 along the axes: μ = 1; you have {mu}"
    assert abs(L - 4) < 1e-9, f"(x² + 4y²)/2 has the curvatures 1 and 4 along the axes: L = 4; you have {L}"


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
# **Question 2.** A minimum $x^\dagger$ whose region has the constant $\mu^\dagger$ repels when $\gamma > 2/\mu^\dagger$; a step size $\gamma\le\mu_\star/L^2$ converges to $x_\star$ from everywhere else. Return the pair (lower end, upper end) of the step sizes that do both,
# $2/\mu^\dagger < \gamma\le\mu_\star/L^2$, or `None` if there are none.
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def step_sizes(L, mu_star, mu_dagger):
    """The ends of (2/μ†, μ⋆/L²], or None if it is empty."""
    # BEGIN SOLUTION
    low, high = 2 / mu_dagger, mu_star / L**2
    return (low, high) if low < high else None
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_two_cases(step_sizes):
    import numpy as np

    found = step_sizes(2.0, 1.0, 16.0)
    assert found is not None, "for L = 2, μ⋆ = 1, μ† = 16 there are such step sizes"
    assert np.allclose(found, (1 / 8, 1 / 4)), f"for L = 2, μ⋆ = 1, μ† = 16 the ends are 1/8 and 1/4; you have {found}"
    assert step_sizes(2.0, 1.0, 4.0) is None, "for μ† = 4 there is none"


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
# **Question 3.** Find by experiment from which step size on gradient descent leaves a region $M$: the smallest $\gamma$ for which, after `steps` steps, **none** of the `starts` `(n, d)` is inside. `inside` takes points `(n, d)` and returns `n` truth values. At `low` some stay, at `high` none does;
# in between halve the interval until it is shorter than $10^{-3}$ times `low`, and return its upper end. Points that run off to infinity are outside.
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def escape_step_size(gradient, inside, starts, steps, low, high):
    """The smallest step size that takes all starts out of M, to a relative 1e-3; a number."""

    # BEGIN SOLUTION
    def all_leave(step_size):
        x = starts.copy()
        with np.errstate(all="ignore"):
            for _ in range(steps):
                x = x - step_size * gradient(x)
            return not inside(x).any()

    tolerance = 1e-3 * low
    while high - low >= tolerance:
        middle = (low + high) / 2
        if all_leave(middle):
            high = middle
        else:
            low = middle
    return high
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_a_bowl(escape_step_size):
    import numpy as np

    starts = np.array([[0.5], [-0.3], [0.9]])
    found = escape_step_size(lambda x: 10 * x, lambda x: np.abs(x[:, 0]) < 1, starts, 3000, 0.1, 0.4)
    assert found is not None, "your function returns nothing"
    assert 0.2 <= found < 0.201, f"a bowl of curvature 10 is left from 2/10 on; you have {found}"


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
# points: 2
# ```
# **Question 4.** *SGD with repeats* takes `repeats` steps of size $\gamma$ on the same minibatch before it goes on to the next. `gradient_of(x, batch)` is the minibatch's gradient at `x`, both of shape `(d,)`; `batches` is the sequence of minibatches. Return the points at the
# beginning and after each minibatch, an array `(len(batches) + 1, d)`.
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def sgd_with_repeats(gradient_of, batches, x, step_size, repeats):
    """The points before the first and after each of the minibatches."""
    # BEGIN SOLUTION
    path = [x]
    for batch in batches:
        for _ in range(repeats):
            x = x - step_size * gradient_of(x, batch)
        path.append(x)
    return np.array(path)
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_two_batches(sgd_with_repeats):
    import numpy as np

    path = sgd_with_repeats(lambda x, batch: x - batch, [0.0, 1.0], np.array([1.0]), 0.5, 2)
    assert path is not None, "your function returns nothing"
    assert np.shape(path) == (3, 1), "the points before the first and after each of two batches: (3, 1)"
    assert np.allclose(np.ravel(path), [1, 0.25, 0.8125]), f"1 → ¼ → 13/16 was expected; you have {np.ravel(path)}"


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
# **Question 5.** Let $f = \frac1N\sum_if_i$ with quadratics $f_i$ of one curvature $a$, whose gradients differ by a noise of variance $\sigma^2$. After $k$ steps of size $\gamma$ the noise in $(x_{t+k}-x_t)/\gamma$ has a variance; return it in units of $\sigma^2$, as a pair: with a fresh $f_i$
# in each step, and with the same in all of them (paper, appendix G). Exactly, not to first order: the noise of step $j$ is shrunk by each later step by the factor $1-\gamma a$. `step` is $\gamma a$.
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def variances(k, step):
    """The variance of k small steps over σ², (fresh, repeated)."""
    # BEGIN SOLUTION
    shrunk = (1 - step) ** np.arange(k)
    return (shrunk**2).sum(), shrunk.sum() ** 2
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_tiny_steps(variances):
    import numpy as np

    found = variances(4, 1e-9)
    assert found is not None, "your function returns nothing"
    assert np.allclose(found, (4, 16), rtol=1e-6), f"of four tiny steps the variances are 4 and 16; you have {found}"


# %% [markdown]
# ```otter
# # END TESTS
# ```
# ```otter
# # END QUESTION
# ```
# ## Two bowls
#
# The smaller of two bowls, a wide one around 0 and a sharp one around 10: $\min(\tfrac12x^2,\ 50(x-10)^2+49.5)$. Your functions say where its threshold should be, and where it is.


# %%
from matplotlib import pyplot as plt


def sharp(x):
    return 50 * (x - 10) ** 2 + 49.5 < x**2 / 2


def two_bowls(x):
    return np.where(sharp(x), 100 * (x - 10), x)


near, far = np.linspace(9.97, 10.05, 20)[:, None], np.linspace(-9, 9, 19)[[*range(9), *range(10, 19)], None]
mu_dagger, _ = constants(two_bowls, np.array([10.0]), near)
mu_star, L = constants(two_bowls, np.array([0.0]), far)
low, high = step_sizes(L, mu_star, mu_dagger)
print(f"step sizes that leave 10 and converge to 0: beyond {low:.5g}, up to {high:.5g}")
found = escape_step_size(two_bowls, lambda x: sharp(x)[:, 0], near, 1000, 0.5 / mu_dagger, 5 / mu_dagger)
print(f"left by experiment from {found:.5g}")

figure, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
k = np.arange(1, 11)
for step in (0.001, 0.1):
    ax.loglog(k, [variances(i, step) for i in k], ".-", label=[f"fresh, γa = {step}", f"repeated, γa = {step}"])
ax.set(xlabel="small steps", ylabel="variance / σ²")
ax.legend()

# %% [markdown]
# ```otter
# # BEGIN QUESTION
# name: written
# manual: true
# points: 5
# ```
# **Question 6, in words.** (a) Let $f$ be $\mu^\dagger$-one-point-strongly convex towards $x^\dagger$ on $M$, $\gamma > 2/\mu^\dagger$ and $x\in M\setminus\{x^\dagger\}$. Prove that a step increases the distance from $x^\dagger$. (b) Let $f$ be $L$-smooth, $\mu_\star$-one-point-strongly convex towards its stationary
# point $x_\star$, and $\gamma\le\mu_\star/L^2$. Prove $\|x_{t+1}-x_\star\|^2\le(1-\gamma\mu_\star)\|x_t-x_\star\|^2$. (c) A small step with strong noise leaves a sharp minimum, too. Why can it not do what a large step does? (d) Why have $k$ small steps with fresh minibatches less
# noise than one step of size $k\gamma$, and why do repeats restore it? (e) When do they not?
#
# ```otter
# # BEGIN SOLUTION
# ```

# %% [markdown]
# (a) With $d = x-x^\dagger$ and $g = \nabla f(x)$, $\|d-\gamma g\|^2 = \|d\|^2-2\gamma\langle g,d\rangle+\gamma^2\|g\|^2$. By Cauchy and Schwarz $\langle g,d\rangle\le\|g\|\|d\|$ and by convexity $\langle g,d\rangle\ge\mu^\dagger\|d\|^2$, so $\|g\|\ge\mu^\dagger\|d\|$, and
# $\gamma\|g\|\ge\gamma\mu^\dagger\|d\|>2\|d\|$. Then $\|d-\gamma g\|\ge\gamma\|g\|-\|d\|>\|d\|$.
#
# (b) $\|d-\gamma g\|^2\le\|d\|^2-2\gamma\mu_\star\|d\|^2+\gamma^2L^2\|d\|^2$, since $\|g\| = \|g-\nabla f(x_\star)\|\le L\|d\|$; and $\gamma L^2\le\mu_\star$.
#
# (c) The large step leaves the sharp minimum because of its curvature, and stays at the flat one because of its. Noise does not look at the curvature but at the depth and width of the basin: what is strong enough to leave the one leaves the other as well.
#
# (d) Independent noises add in their variances, $k\sigma^2$; the same noise $k$ times adds in itself, $(k\sigma)^2 = k^2\sigma^2$, as in one step of size $k\gamma$ (in units of $\gamma^2$).
#
# (e) When the minibatch's gradient changes within the $k$ steps: for $\gamma a$ not small the earlier noise has shrunk, and the sums of question 5 stay bounded, by $1/(\gamma a)^2$ for repeats: they converge to the minibatch's own minimum.

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
# - Where do starts of figure 8 end close to the largest stable step size? `python -m eoslib run large_learning_rates -p fig8_largest=0.049 -o mine.ipynb`
# - Do the verdicts of figure 8 hang on the number of iterations? `-p fig8_iterations=1000`
# - Do those of the networks of figure 5 hang on the seed? `-p 'net_seeds=[3, 4, 5]'`
#
# ```otter
# # BEGIN SOLUTION
# ```

# %% [markdown]
# For example the second. The bowls are left or not within a few tens of steps, since away from the thresholds distances change by a factor at every step. So I expect the shares to move only beside the thresholds, where that factor is close to 1, and the verdicts not to change. A good
# answer runs two values that differ by a factor of several, shows the shares of both against the step size, and says at which step sizes they differ.

# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # END QUESTION
# ```
