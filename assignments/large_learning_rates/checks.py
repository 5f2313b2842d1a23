"""The questions of assignment 5 and what a right answer to each is."""

import numpy as np
from grading import Mark, Question, differs, marked, marked_parts, misshapen
from guides import experiment

CASES = 4


def regions(rng) -> dict:
    """Gradients A(x − x⋆) + κ(x − x⋆)³ in three dimensions; in the last case A is indefinite, so that μ is negative."""
    axes = np.linalg.qr(rng.standard_normal((CASES, 3, 3)))[0]
    eigenvalues = rng.uniform(0.5, 5, (CASES, 3))
    eigenvalues[-1, 0] *= -1
    minimiser = rng.uniform(-2, 2, (CASES, 3))
    return {
        "A": np.einsum("cij,cj,ckj->cik", axes, eigenvalues, axes), "kappa": rng.uniform(0, 0.5, CASES),
        "minimiser": minimiser, "points": minimiser[:, None] + rng.uniform(-1, 1, (CASES, 40, 3)),
    }  # fmt: skip


def check_constants(inputs, outputs) -> Mark:
    if fault := misshapen(outputs, "constants", (CASES, 2)):
        return Mark(0.0, (fault,))
    expected = []
    for A, kappa, minimiser, points in zip(*(inputs[n] for n in ("A", "kappa", "minimiser", "points")), strict=True):
        d = points - minimiser
        g = d @ A + kappa * d**3
        ratios = [np.linalg.norm(g[i] - g[j]) / np.linalg.norm(d[i] - d[j]) for i in range(len(d)) for j in range(i)]
        expected.append((min((g[i] @ d[i]) / (d[i] @ d[i]) for i in range(len(d))), max(ratios)))
    right = abs(outputs["constants"] - np.array(expected)) < 1e-6
    return marked(
        None if right[:-1, 0].all() else "a wrong μ", None if right[-1, 0] else "a wrong μ where it is negative",
        None if right[:, 1].all() else "a wrong L",
    )  # fmt: skip


def thresholds(rng) -> dict:
    """Six cases; the last two have no such step size."""
    L = rng.uniform(0.5, 5, 6)
    mu_star = L * rng.uniform(0.2, 1, 6)
    factor = np.concatenate([rng.uniform(1.5, 10, 4), rng.uniform(0.3, 0.9, 2)])
    return {"L": L, "mu_star": mu_star, "mu_dagger": factor * 2 * L**2 / mu_star}


def check_thresholds(inputs, outputs) -> Mark:
    if fault := misshapen(outputs, "ends", (6, 2)):
        return Mark(0.0, (fault,))
    expected = np.column_stack([2 / inputs["mu_dagger"], inputs["mu_star"] / inputs["L"] ** 2])[:4]
    right = abs(outputs["ends"][:4] / expected - 1) < 1e-9
    if not right.any():  # else 'never' would earn a mark
        return Mark(0.0, ("wrong ends",))
    return marked(
        None if right[:, 0].all() else "a wrong lower end", None if right[:, 1].all() else "a wrong upper end",
        None if (outputs["ends"][4:] == 0).all() else "where no step size does both, None was expected",
    )  # fmt: skip


def bowls(rng) -> dict:
    """A sharp bowl in a wide one, in two dimensions, and starts in it."""
    sharp, wide = rng.uniform(50, 150, 3), rng.uniform(0.5, 1.5, 3)
    angles = rng.uniform(0, 2 * np.pi, 3)
    place = 10 * np.column_stack([np.cos(angles), np.sin(angles)])
    low, high = rng.uniform(0.5, 1.5, 3) / sharp, rng.uniform(4, 8, 3) / sharp
    starts = place[:, None] + 0.04 * rng.uniform(-1, 1, (3, 10, 2))
    return {
        "sharp": sharp, "wide": wide, "place": place, "depth": np.full(3, 0.5), "starts": starts, "steps": 500,
        "low": low, "high": high,
    }  # fmt: skip


def check_escape(inputs, outputs) -> Mark:
    """The bowls are quadratic, so that the threshold is 2/μ†, and a little more for the finite number of steps."""
    if fault := misshapen(outputs, "step_sizes", (3,)):
        return Mark(0.0, (fault,))
    ratio = outputs["step_sizes"] * inputs["sharp"] / 2
    return marked(*(
        None if 1 < r < 1.02 else f"{r:.4f} times 2/μ† for μ† = {mu:.4g}"
        for r, mu in zip(ratio, inputs["sharp"], strict=True)
    ))  # fmt: skip


def minibatches(rng) -> dict:
    factor = rng.standard_normal((4, 4))
    return {
        "A": factor @ factor.T / 4, "slopes": rng.standard_normal((6, 4)), "batches": rng.integers(0, 6, 15),
        "x": rng.standard_normal(4), "step_size": float(rng.uniform(0.05, 0.15)), "repeats": int(rng.integers(3, 7)),
    }  # fmt: skip


def check_repeats(inputs, outputs) -> Mark:
    x = inputs["x"]
    path = [x]
    for i in np.repeat(inputs["batches"], inputs["repeats"]):
        x = x - inputs["step_size"] * (inputs["A"] @ x + np.sin(x) - inputs["slopes"][i])
        path.append(x)
    return marked(differs(outputs, "path", np.array(path[:: inputs["repeats"]])))


def steps_of_quadratics(rng) -> dict:
    return {"k": rng.integers(2, 12, 6), "step": rng.uniform(0.02, 0.9, 6)}


def check_variances(inputs, outputs) -> Mark:
    if fault := misshapen(outputs, "variances", (6, 2)):
        return Mark(0.0, (fault,))
    k, factor = inputs["k"], 1 - inputs["step"]
    expected = np.column_stack([(1 - factor ** (2 * k)) / (1 - factor**2), ((1 - factor**k) / (1 - factor)) ** 2])
    right = (abs(outputs["variances"] / expected - 1) < 1e-6).all(0)
    return marked_parts(right, ("for fresh minibatches", "for repeated minibatches"))


QUESTIONS = [
    Question("q1", 3, regions, check_constants),
    Question("q2", 2, thresholds, check_thresholds),
    Question("q3", 3, bowls, check_escape),
    Question("q4", 2, minibatches, check_repeats),
    Question("q5", 2, steps_of_quadratics, check_variances),
    Question(
        "written", 5,
        guide="1 for each of (a) ‖g‖ ≥ μ†‖d‖ and the triangle inequality, in any order; (b) both bounds inserted; "
        "(c) that noise does not tell the minima apart by their curvature; (d) kσ² against k²σ²; (e) that the "
        "minibatch's gradient changes within the k steps. (a) without Cauchy–Schwarz, for quadratics only: "
        "half.",
    ),
    experiment(
        "What one sees. Figure 8 up to 0.049: at that last step size no start ends at the global minimum, about "
        "seven in ten lie on the plateau, and the rest is on its way there. A step turns x into -0.96 x: it shrinks "
        "too little to jump over the sharp bowl, which throws iterates back until the plateau catches them. With "
        "1,000 iterations the plateau has all but a few of them. 1,000 iterations up to 0.045: only at that last step "
        "size do the shares move, by a few in a hundred. No verdict of figure 8 changes in either run, since its "
        "claims ask up to μ⋆/L². Seeds 3 to 5: that large steps lead to a better model is not reproduced with "
        "these either, by three standard errors, and that repeats do not close the gap stays undecided. The other two "
        "of figure 5 change: repeats narrow the gap, which was undecided, and small steps end sharper, which was "
        "partly reproduced, are now not reproduced (the sharpness is 1.2 and 1.4 times as large, where 1.5 is asked). "
        "Three of figures 11 and 12, which take the first seed alone, change too, each from or to undecided. So what "
        "is undecided hangs on the seeds, and three of them decide only what is far from its bound.",
    ),
]  # fmt: skip
