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
# # Assignment 4: self-stabilization
#
# While a network trains, its sharpness $S$ rises to $2/\eta$ and stays there. Damian, Nichani and Lee (2023) explain it by the cubic term of the loss: an oscillation along the top eigenvector $u$ pushes towards flatter places. You find $S$ and $u$ by a warm-started
# Lanczos iteration, the gradient $\nabla S$ by differentiating three times, and follow the predicted dynamics of the toy model. The chapter *Self-stabilization* of the book has definitions and figures; allow two hours.
#
# Replace each `...` by your code; keep the names and arguments of the functions. `grader.check("q1")` runs a few public tests. Your mark comes from other tests, on random inputs, and your text is read. NumPy, except for question 2, which is about PyTorch.

# %%
import otter

grader = otter.Notebook()

# %%
import numpy as np
import torch

# %% [markdown]
# ```otter
# # BEGIN QUESTION
# name: q1
# points: 3
# ```
# **Question 1.** Along a trajectory the top eigenvector changes little from step to step, so that a search should start from the last one. Write a Lanczos iteration for the largest **algebraic** eigenvalue of a symmetric matrix $H$ that is known by products only: from
# $q_1 = $ `start`$/\|$`start`$\|$ build an orthonormal basis $q_1, \dots, q_m$ of the Krylov space, one product each, and take the top eigenpair of the small matrix $Q^\top HQ$. Use at most `products` products: `hvp` refuses further ones. Stop early if the next
# direction vanishes (that of an exact eigenvector does at once). Return $(\lambda, u)$ with $\|u\| = 1$. (Orthogonalise each new direction against all earlier ones, twice: rounding spoils the short recurrence.)
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def lanczos(hvp, start, products):
    """The largest algebraic eigenvalue λ and its unit eigenvector u (p,), from the vector `start` (p,)."""
    # BEGIN SOLUTION
    q = start / np.linalg.norm(start)
    basis, images = [], []
    for _ in range(min(products, len(start))):
        basis.append(q)
        images.append(hvp(q))
        Q = np.array(basis)
        rest = images[-1]
        for _ in range(2):
            rest = rest - Q.T @ (Q @ rest)
        size = np.linalg.norm(rest)
        if size <= 1e-12 * np.linalg.norm(images[-1]):
            break
        q = rest / size
    Q, HQ = np.array(basis), np.array(images)
    small = Q @ HQ.T
    values, vectors = np.linalg.eigh((small + small.T) / 2)
    u = Q.T @ vectors[:, -1]
    return values[-1], u / np.linalg.norm(u)
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_a_diagonal_matrix(lanczos):
    import numpy as np

    diagonal = np.array([4.0, 1.0, 0.5, -6.0])
    found = lanczos(lambda v: diagonal * v, np.ones(4), 4)
    assert found is not None, "your function returns nothing"
    value, vector = found
    assert abs(value - 4) < 1e-8, f"the largest algebraic eigenvalue is 4; you have {value}"
    assert np.allclose(np.abs(vector), [1, 0, 0, 0], atol=1e-6), (
        f"its unit eigenvector is ±(1, 0, 0, 0); you have {vector}"
    )


def test_from_the_eigenvector_itself(lanczos):
    import numpy as np

    value, _ = lanczos(lambda v: np.array([4.0, 1.0]) * v, np.array([2.0, 0.0]), 2)
    assert abs(value - 4) < 1e-8, "from the eigenvector itself the next direction vanishes; stop there"


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
# points: 3
# ```
# **Question 2.** Where the largest eigenvalue is simple, $\nabla S(\theta) = \nabla^3L(\theta)(u, u)$ (paper, Lemma 2). `loss` takes θ, a tensor `(p,)` of `torch.float64`, and returns a tensor without dimensions; `theta` is such a θ, $p\le 20$. Return $\nabla S$, a tensor or array
# `(p,)`, to a relative accuracy of $10^{-4}$. $u$ is a constant when you differentiate the third time.
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def sharpness_gradient(loss, theta):
    """∇S(θ), (p,)."""
    # BEGIN SOLUTION
    hessian = torch.func.hessian(loss)
    u = torch.linalg.eigh(hessian(theta)).eigenvectors[:, -1]
    return torch.func.grad(lambda point: u @ hessian(point) @ u)(theta)
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_where_the_curvature_grows_along_y(sharpness_gradient):
    import numpy as np
    import torch

    def loss(theta):  # near (0, 1) the Hessian is diag(2 + 3y, 1): S = 2 + 3y
        x, y = theta
        return (2 + 3 * y) * x**2 / 2 + y**2 / 2

    found = sharpness_gradient(loss, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert found is not None, "your function returns nothing"
    found = torch.as_tensor(found).detach().numpy()
    assert np.allclose(found, [0, 3], atol=1e-3), f"at (0, 1) S = 2 + 3y, so that ∇S = (0, 3); you have {found}"


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
# **Question 3.** In the toy model (paper, figure 2) the oscillation $x$ along $u$ and the excess $y$ of the sharpness over $2/\eta$ follow
#
# $$ x_{t+1} = -(1+\eta y_t)\,x_t, \qquad y_{t+1} = y_t + \eta\left(\alpha - \tfrac\beta2x_t^2\right). $$
#
# Return two arrays `(steps + 1,)`: $x_0, x_1, \dots$ and $y_0, y_1, \dots$.
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def predicted(x, y, step_size, alpha, beta, steps):
    """The predicted dynamics from (x, y), a pair of arrays (steps + 1,)."""
    # BEGIN SOLUTION
    xs, ys = [x], [y]
    for _ in range(steps):
        x, y = -(1 + step_size * y) * x, y + step_size * (alpha - beta / 2 * x**2)
        xs.append(x)
        ys.append(y)
    return np.array(xs), np.array(ys)
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_two_steps(predicted):
    import numpy as np

    found = predicted(1.0, 0.0, 0.5, 1.0, 1.0, 2)
    assert found is not None, "your function returns nothing"
    x, y = found
    assert np.allclose(x, [1, -1, 1.125]), f"from (1, 0) with η = 1/2, α = β = 1, x is 1, -1, 1.125; you have {x}"
    assert np.allclose(y, [0, 0.25, 0.5]), f"and y is 0, 1/4, 1/2; you have {y}"


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
# **Question 4.** For small $\eta$, $|x|$ and $y$ follow the flow $X' = XY$, $Y' = \alpha-\tfrac\beta2X^2$, which conserves $h(q)+Y^2/\alpha$ with $q = X^2/\delta^2$, $\delta^2 = 2\alpha/\beta$ and $h(q) = q-\log q-1$ (paper, Lemma 3). So its orbits are closed. Return the
# largest $X$ and the largest $|Y|$ on the orbit from $X(0) = x_0\in(0,\delta)$, $Y(0) = 0$, to $10^{-6}$. (At which $q$ is $Y^2$ largest? What holds where $X$ is largest?)
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def extremes(x0, alpha, beta):
    """max X and max |Y| on the orbit from (x0, 0), a pair of numbers."""
    # BEGIN SOLUTION
    from scipy.optimize import brentq

    delta = np.sqrt(2 * alpha / beta)

    def h(q):
        return q - np.log(q) - 1

    c = h((x0 / delta) ** 2)
    q = brentq(lambda q: h(q) - c, 1, (2 + np.sqrt(c)) ** 2, xtol=1e-12)
    return delta * np.sqrt(q), np.sqrt(alpha * c)
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_near_the_fixed_point(extremes):
    found = extremes(1.4, 1.0, 1.0)
    assert found is not None, "your function returns nothing"
    largest_x, largest_y = found
    # close to (δ, 0) = (√2, 0) orbits are circles: X runs about as far beyond δ as it began below, and Y as far
    assert abs(largest_x - (2 * 2**0.5 - 1.4)) < 1e-3, (
        f"near δ = √2, X runs from 1.4 to about 1.428; you have {largest_x}"
    )
    assert abs(largest_y - 0.0142) < 1e-3, f"and the largest |Y| is about 0.014, too; you have {largest_y}"


# %% [markdown]
# ```otter
# # END TESTS
# ```
# ```otter
# # END QUESTION
# ```
# ## Together
#
# The toy loss $L(x, y) = (2/\eta + y)\,x^2/2 - y$ (for $\alpha = \beta = 1$): gradient descent on it *is* the predicted dynamics. Your functions measure it along the way.

# %%
from matplotlib import pyplot as plt

eta, steps = 0.02, 700
x, y = predicted(0.1, -1.5, eta, 1.0, 1.0, steps)
u, measured = np.array([1.0, 0.5]), []
for t in range(0, steps, 10):
    H = np.array([[2 / eta + y[t], x[t]], [x[t], 0.0]])
    value, u = lanczos(lambda v, H=H: H @ v, u, 2)
    measured.append(value)
largest_x, largest_y = extremes(abs(x[np.flatnonzero(y > 0)[0]]), 1.0, 1.0)

figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
axes[0].plot(abs(x))
axes[0].axhline(largest_x, linestyle="--")
axes[0].set(xlabel="step", ylabel="|x|")
axes[1].plot(2 / eta + y)
axes[1].plot(range(0, steps, 10), measured, ".")
axes[1].axhline(2 / eta, linestyle="--")
axes[1].set(xlabel="step", ylabel="sharpness")

# %% [markdown]
# ```otter
# # BEGIN QUESTION
# name: written
# manual: true
# points: 5
# ```
# **Question 5, in words.** (a) Show that the flow of question 4 conserves $h(q)+Y^2/\alpha$. (b) Deduce $\max|Y| \le \sqrt{2\alpha\log(\delta/X(0))}$ for $X(0)\le\delta$. (c) Name the four stages of a cycle and say which term of the dynamics drives each. (d) In a cycle that begins with a smaller
# $X(0)$ the sharpness rises higher. Explain in one sentence, without formulas. (e) In a network with two eigenvalues at $2/\eta$, which step of the derivation fails?
#
# ```otter
# # BEGIN SOLUTION
# ```

# %% [markdown]
# (a) $q' = 2XX'/\delta^2 = 2qY$, so $\tfrac{d}{dt}h(q) = (1-\tfrac1q)\,2qY = 2(q-1)Y$; and $\tfrac{d}{dt}Y^2/\alpha = 2YY'/\alpha = 2Y(1-q)$, because $\tfrac\beta2X^2 = \alpha q$. The sum is 0.
#
# (b) $Y^2/\alpha = c-h(q) \le c$ since $h\ge0$, and $c = h(q_0) = q_0-1-\log q_0 \le -\log q_0 = 2\log(\delta/X(0))$ for $q_0\le1$.
#
# (c) Progressive sharpening ($|x|<\delta$, $y<0$): $\alpha$ raises $y$. Blow-up ($|x|<\delta$, $y>0$): the factor $1+\eta y>1$ makes $|x|$ grow. Self-stabilization ($|x|>\delta$, $y > 0$): $-\tfrac\beta2x^2$, the cubic term, lowers $y$. Return to stability ($y<0$, $|x|>\delta$):
# $1+\eta y<1$ makes $|x|$ shrink.
#
# (d) A smaller oscillation needs longer to grow to the size at which it can push back, and the sharpness rises all that time.
#
# (e) $S$ is not differentiable where the largest eigenvalue is double: $u$, and with it $\nabla S = \nabla^3L(u,u)$, is not defined; the oscillation is a vector in a plane, and one $x$ is not enough.

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
# your expectation held. About half a page. (The chapter takes a few minutes.)
#
# - What changes if the predictions start at the onset, where $x$ is hardly an oscillation yet? `python -m eoslib run self_stabilization -p predict_from=0 -o mine.ipynb`
# - Does another step size change how far the sharpness overshoots? `-p 'step_sizes=[2/35]'`
# - Does it depend on the seed? `-p seed=2`, with which the sharpness of figure 4's second network, the convolutional one, does not reach the book's $2/\eta$, so that it is left out.
#
# ```otter
# # BEGIN SOLUTION
# ```

# %% [markdown]
# For example the first. $\log|x|$ grows at a rate given by $y$, so a wrong $x$ at the start shifts the first blow-up in time and little else: I expect the heights of the cycles to be predicted about as well, and the moments not. A good answer compares the verdicts of
# figure 4 of both runs, quantity by quantity, and names those that measure timing (the errors of $x$, of the sharpness over the whole run) and those that do not (the distance to the constrained trajectory, which needs no prediction).

# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # END QUESTION
# ```
