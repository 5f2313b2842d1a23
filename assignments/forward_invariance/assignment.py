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
# # Assignment 2: forward invariance
#
# Chen, Peng, Li and Zhao (2024) sort the starting points of gradient descent $F(\theta) = \theta-\eta\nabla f(\theta)$ near a strict local minimum $\theta^*$: *convergent* ones lead to $\theta^*$, and of these the *stable* ones lower
# $f$ at every step. You draw the map of both, build the set $U$ that gradient descent does not leave, prove such a statement by computer, and find a function of your own. The chapter *Forward invariance* of the book has definitions and
# figures; allow two hours.
#
# Replace each `...` by your code; keep the names and arguments of the functions. `grader.check("q1")` runs a few public tests. Your mark comes from other tests, on random inputs, and your text is read. Write with NumPy. Points are
# arrays `(..., 2)`, whose last axis holds the coordinates $x$ and $y$; functions of a point take any number of points at once and keep the other axes.

# %%
import otter

grader = otter.Notebook()

# %%
import numpy as np

# %% [markdown]
# Polynomials, to try things on, as lists of terms: $(c, p, q)$ stands for $c\,x^py^q$. The function of the paper's figure 1 is $f_2 = x^2 + y^2 + x^2y + x^4 + y^4$, with $\theta^* = 0$ and
# $\eta_{\max} = 2/\lambda_{\max}(\nabla^2f_2(0)) = 1$.


# %%
def polynomial(terms):
    """f, its gradient and its Hessian, for points (..., 2): of the shapes (...), (..., 2) and (..., 2, 2)."""
    by_x = [(c * p, p - 1, q) for c, p, q in terms if p]
    by_y = [(c * q, p, q - 1) for c, p, q in terms if q]

    def f(theta):
        x, y = theta[..., 0], theta[..., 1]
        return sum((c * x**p * y**q for c, p, q in terms), start=0 * x)

    def gradient(theta):
        return np.stack([polynomial(by_x)[0](theta), polynomial(by_y)[0](theta)], -1)

    def hessian(theta):
        return np.stack([polynomial(by_x)[1](theta), polynomial(by_y)[1](theta)], -2)

    return f, gradient, hessian


f2_terms = [(1, 2, 0), (1, 0, 2), (1, 2, 1), (1, 4, 0), (1, 0, 4)]
f2, f2_gradient, f2_hessian = polynomial(f2_terms)

# %% [markdown]
# Near $\theta^*$ rounding hides whether $f$ still falls, so trajectories are stopped at a *trap*: a ball $\|\theta-\theta^*\| < \rho$ on which all eigenvalues of $\nabla^2f$ lie in $(0, 2/\eta)$. There $F$ is a contraction and $f$ falls at every step, as you
# show in question 5. This function finds one, from a sample of circles:


# %%
def trap_radius(hessian, minimiser, step_size, radii):
    """The largest of the ascending radii up to which all eigenvalues of the Hessian lie in (0, 2/η); 0.0 if there is none."""
    angles = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    found = 0.0
    for radius in radii:
        eigenvalues = np.linalg.eigvalsh(hessian(minimiser + radius * circle))
        if not ((eigenvalues > 0) & (eigenvalues < 2 / step_size)).all():
            break
        found = radius
    return float(found)


# %% [markdown]
# ```otter
# # BEGIN QUESTION
# name: q1
# points: 3
# ```
# **Question 1.** Classify starts. A start *converges* if one of $\theta_0, \theta_1, \dots, \theta_{\mathrm{steps}}$ lies in the trap $\|\theta-\theta^*\| < \rho$ (`radius`). It is *stable* if $f$ has fallen, $f(\theta_{k+1}) < f(\theta_k)$, at every step
# up to the first iterate in the trap. Return an array of integers `(n,)`: 0 for stable starts, 1 for unstable ones that converge, 2 for all others. Trajectories that run off to infinity must not spoil the others.
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def classify(f, gradient, minimiser, radius, step_size, starts, steps):
    """For each of `starts` (n, 2): 0 stable, 1 unstable but convergent, 2 neither."""
    # BEGIN SOLUTION
    theta = np.array(starts, float)
    arrived = np.linalg.norm(theta - minimiser, axis=-1) < radius
    falling = np.ones(len(theta), bool)
    with np.errstate(all="ignore"):  # what diverges ends as inf or nan, and never arrives
        for _ in range(steps):
            after = theta - step_size * gradient(theta)
            falling &= arrived | (f(after) < f(theta))
            theta = after
            arrived |= np.linalg.norm(theta - minimiser, axis=-1) < radius
    return np.where(arrived, np.where(falling, 0, 1), 2)
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_starts_of_f2(classify, f2, f2_gradient):
    import numpy as np

    starts = np.array([[0.01, 0.0], [0.2, -0.1], [0.2375, 0.2375], [3.0, 3.0]])
    kinds = classify(f2, f2_gradient, np.zeros(2), 0.05, 0.9, starts, 200)
    assert kinds is not None, "your function returns nothing"
    assert np.shape(kinds) == (4,), "one number for each start was expected"
    assert kinds[0] == 0, "the first start lies in the trap: it is stable"
    assert kinds[2] == 1, "the third is that of the paper's figure 1: f rises once, and then it converges"
    assert kinds[3] == 2, "the fourth diverges"


# %% [markdown]
# ```otter
# # END TESTS
# ```
# ```otter
# # END QUESTION
# ```
# The map of $f_2$ at 0.9 of its largest step size (the paper's figure 1 shows the same square):

# %%
from matplotlib import pyplot as plt


def draw_map(terms, step_size, half=0.4):
    """The starts of the square [-half, half]² around the minimum at 0, by their kind."""
    f, gradient, hessian = polynomial(terms)
    axis = np.linspace(-half, half, 128)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    radius = trap_radius(hessian, np.zeros(2), step_size, np.linspace(0.005, 0.3, 60))
    kinds = np.reshape(classify(f, gradient, np.zeros(2), radius, step_size, grid, 200), (128, 128))
    figure, ax = plt.subplots(figsize=(3.6, 3), layout="constrained")
    picture = ax.imshow(kinds, origin="lower", extent=(-half, half, -half, half), vmin=0, vmax=2)
    figure.colorbar(picture, ticks=[0, 1, 2], label="stable, unstable, else")


draw_map(f2_terms, 0.9)

# %% [markdown]
# ```otter
# # BEGIN QUESTION
# name: q2
# points: 2
# ```
# **Question 2.** Theorem 2's set is $U = \{\theta : \|\theta-\theta^*\| < r,\ f(\theta) < f^*\}$, with $f^*$ the least value of $f$ on the circle $\|\theta-\theta^*\| = r$. Take the points of an $n\times n$ grid on the square around the ball that lie in
# $U$, and return the share of *these* that one step of gradient descent takes to $U$. Sample the circle at 1,000 points.
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def share_kept(f, gradient, minimiser, radius, step_size, n=200):
    """The share of the grid points of U that a step maps into U, a number in [0, 1]."""
    # BEGIN SOLUTION
    angles = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    level = f(minimiser + radius * np.stack([np.cos(angles), np.sin(angles)], -1)).min()

    def in_u(theta):
        return (np.linalg.norm(theta - minimiser, axis=-1) < radius) & (f(theta) < level)

    axis = np.linspace(-radius, radius, n)
    points = minimiser + np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    points = points[in_u(points)]
    return float(in_u(points - step_size * gradient(points)).mean())
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_small_and_too_large_steps(share_kept, f2, f2_gradient):
    import numpy as np

    kept = share_kept(f2, f2_gradient, np.zeros(2), 0.1, 0.5)
    assert kept is not None, "your function returns nothing"
    assert kept == 1, f"at half of the largest step size no point leaves U; you have the share {kept}"
    assert share_kept(f2, f2_gradient, np.zeros(2), 0.1, 1.2) < 1, "at 1.2 times the largest step size points leave U"


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
# **Question 3.** A sample can refute, and by itself prove nothing. But let $F$ satisfy $\|F(\theta)-F(\theta')\| \le \Lambda\|\theta-\theta'\|$ everywhere. Then a grid that is fine enough does prove that the closed ball $B = \{\|\theta\|\le r\}$ is forward
# invariant, $F(B)\subseteq B$. Return `True` if the $n\times n$ grid on the square $[-r, r]^2$, together with $\Lambda$, proves it, and `False` if it does not (whether the statement is false or the grid too coarse). How far is a point of
# $B$ from the nearest point of the grid, at most? Ask only for what is needed: grid points that are nearest to no point of $B$ need not be mapped into $B$.
#
# ```otter
# # BEGIN SOLUTION
# ```


# %%
def proves_invariance(F, r, lipschitz, n):
    """Whether F on an n × n grid, with its Lipschitz constant, proves that F maps the ball of radius r into itself."""
    # BEGIN SOLUTION
    axis = np.linspace(-r, r, n)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    reach = (axis[1] - axis[0]) / np.sqrt(2)  # half a diagonal of a cell
    points = points[np.linalg.norm(points, axis=-1) <= r + reach]
    return bool((np.linalg.norm(F(points), axis=-1) + lipschitz * reach <= r).all())
    # END SOLUTION


# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_linear_maps(proves_invariance):
    assert proves_invariance(lambda t: t / 2, 1.0, 0.5, 201), "θ/2 maps the ball well into itself"
    assert proves_invariance(lambda t: 1.1 * t, 1.0, 1.1, 201) is not None, "your function returns nothing"
    assert not proves_invariance(lambda t: 1.1 * t, 1.0, 1.1, 201), "1.1 θ leaves the ball"
    assert not proves_invariance(lambda t: 0.9 * t, 1.0, 0.9, 3), "a grid of 3 × 3 proves nothing about 0.9 θ"


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
# **Question 4.** *A function of your own.* Choose a polynomial $f(x, y) = \sum_k c_k\,x^{p_k}y^{q_k}$ of degree 3 or more, with a strict local minimum at 0 (positive definite Hessian); not one of $f_1 = x^2+y^2+x^2y+x^3+y^3$ and $f_2$, nor a multiple.
# Choose a step size below its largest one, $2/\lambda_{\max}(\nabla^2f(0))$, a *stable* start outside of the ball of radius 0.05, and an *unstable* start, that converges to 0 although $f$ rises at one step or more. Give `own_terms` as a list of $(c_k, p_k, q_k)$.
# Not every function has unstable starts. Those of $f_2$ appear close to the largest step size: begin with `f2_terms`, change the coefficients, take 0.9 of the largest step size, and look at the map that `draw_map` draws.
#
# ```otter
# # BEGIN SOLUTION
# ```

# %%
own_terms = [(1.0, 2, 0), (1.5, 0, 2), (1.2, 2, 1), (0.8, 4, 0), (1.0, 0, 4)]  # SOLUTION
own_step_size = 0.6  # SOLUTION
own_stable_start = (0.1, 0.1)  # SOLUTION
own_unstable_start = (0.6, 0.15)  # SOLUTION

# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # BEGIN TESTS
# ```


# %%
def test_of_their_form(own_terms, own_step_size, own_stable_start, own_unstable_start):
    import numpy as np

    assert own_terms is not ..., "own_terms is still missing"
    assert np.shape(own_terms)[1:] == (3,), "own_terms is a list of (coefficient, power of x, power of y)"
    assert max(p + q for _, p, q in own_terms) >= 3, "a degree of 3 or more was asked for"
    assert np.shape(own_stable_start) == np.shape(own_unstable_start) == (2,), "a start is a point (x, y)"
    assert own_step_size > 0, "the step size is positive"


# %% [markdown]
# ```otter
# # END TESTS
# ```
# ```otter
# # END QUESTION
# ```
# ```otter
# # BEGIN QUESTION
# name: written
# manual: true
# points: 5
# ```
# **Question 5, in words.** Let all eigenvalues of $\nabla^2f$ on the ball $B$ of radius $\rho$ around $\theta^*$ lie in $[\mu, M]$ with $\mu > 0$ and $M < 2/\eta$, and $\nabla f(\theta^*) = 0$. (a) Prove that $F(B)\subseteq B$, and that every start in
# $B$ converges to $\theta^*$. (b) Prove that $f$ falls at every step in $B\setminus\{\theta^*\}$, by at least $\eta(1-\eta M/2)\|\nabla f\|^2$. (c) Where does your proof of (a) break down if the eigenvalues may be negative? (d) Why does (a) say that unstable
# convergence is nothing but a start outside?
#
# ```otter
# # BEGIN SOLUTION
# ```

# %% [markdown]
# (a) For $\theta\in B$, $\nabla f(\theta) = A(\theta-\theta^*)$ with $A = \int_0^1\nabla^2f(\theta^*+t(\theta-\theta^*))\,dt$, symmetric, and because $B$ is convex its eigenvalues lie in $[\mu, M]$. So $F(\theta)-\theta^* = (I-\eta A)(\theta-\theta^*)$, and
# the eigenvalues of $I-\eta A$ lie in $[1-\eta M, 1-\eta\mu]$, which is in $(-1, 1)$. With $q = \max(|1-\eta M|, |1-\eta\mu|) < 1$, $\|F(\theta)-\theta^*\|\le q\|\theta-\theta^*\|$; by induction $\|\theta_k-\theta^*\|\le q^k\rho\to0$.
#
# (b) The segment from $\theta$ to $F(\theta)$ lies in $B$, so by Taylor's formula $f(\theta-\eta g)-f(\theta) \le -\eta\|g\|^2 + \tfrac{\eta^2M}2\|g\|^2 = -\eta(1-\tfrac{\eta M}2)\|g\|^2$, and $g = A(\theta-\theta^*)\neq0$.
#
# (c) $1-\eta\mu > 1$: $I-\eta A$ expands along that direction, and $F(\theta)$ may leave $B$.
#
# (d) Whatever converges to $\theta^*$ enters $B$ at some step, and from then on $f$ falls at every step. It can rise only before, that is while the iterate is outside.

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
# - At which fraction of $\eta_{\max}$ do the first unstable starts of $f_1$ appear? `python -m eoslib run forward_invariance -p 'step_fractions=[0.5, 0.7, 0.9]' -o mine.ipynb`
# - Which step sizes make both starts of figure 3 stable? Change `fig3_step_size`.
# - Which verdicts hang on the grid? `-p grid=128`
#
# ```otter
# # BEGIN SOLUTION
# ```

# %% [markdown]
# For example the second. The minimisers of $f_4$ have $\lambda_{\max} = 3.8$, so that $\eta_{\max} = 10/19 \approx 0.526$; figure 3 has 0.3 and one unstable start. At a small step size every start follows the gradient flow, along which $f$ falls, so I expect both to be
# stable below some step size. At $(0.1, 2.5)$ the largest eigenvalue is about $2y^2 + 0.1 = 12.6$; a step along it lowers $f$ surely if $\eta < 2/12.6 = 0.16$. `python -m eoslib run forward_invariance -p fig3_step_size=0.15 -o mine.ipynb` shows both falling, 0.2 does not.

# %% [markdown]
# ```otter
# # END SOLUTION
# ```
# ```otter
# # END QUESTION
# ```
