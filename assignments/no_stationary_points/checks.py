"""The questions of assignment 3 and what a right answer to each is."""

import numpy as np
from grading import Mark, Question, differs, marked, misshapen
from guides import experiment
from scipy.special import softmax

SHIFT = 1000.0  # of all logits of an example: softmax does not change, exp of it overflows


def regressions(rng) -> dict:
    """Four softmax regressions of 30 examples; in the last the logits are large."""
    W, X = rng.standard_normal((4, 5, 3)), rng.standard_normal((4, 30, 5))
    X[3, :, 0] = 1
    W[3, 0] += SHIFT
    return {"W": W, "X": X, "labels": rng.integers(0, 3, (4, 30))}


def check_noise(inputs, outputs) -> Mark:
    expected = []
    for W, X, labels in zip(inputs["W"], inputs["X"], inputs["labels"], strict=True):
        residuals = softmax(X @ W, axis=1)
        residuals[np.arange(len(labels)), labels] -= 1
        squares = (X**2).sum(1) * (residuals**2).sum(1)  # ‖∇ℓᵢ‖² of an outer product
        expected.append(np.sqrt(squares.mean() - ((X.T @ residuals / len(X)) ** 2).sum()))
    if fault := misshapen(outputs, "values", (4,)):
        return Mark(0.0, (fault,))
    right = abs(outputs["values"] / expected - 1) < 1e-6
    if not right[:3].all():
        return Mark(0.0, ("wrong values",))
    return Mark(1.0) if right[3] else Mark(2 / 3, ("wrong where logits are large, because exp overflows",))


def series(rng) -> dict:
    return {"one": rng.standard_normal(57), "several": rng.standard_normal((40, 3)) + 1, "long": rng.random(100_000)}


def check_averages(inputs, outputs) -> Mark:
    faults = []
    for name in ("one", "several", "long"):
        expected = np.empty_like(inputs[name])
        average = np.zeros(inputs[name].shape[1:])
        for m, value in enumerate(inputs[name]):
            average = average + (value - average) / (m + 1)
            expected[m] = average
        faults.append(differs({name: outputs.get(name)}, name, expected))
    kinds = ("of values (n,)", "of values (n, k)", "of many values")
    return marked(*(fault and f"wrong time averages {kind}" for fault, kind in zip(faults, kinds, strict=True)))


def check_changes(inputs, outputs) -> Mark:
    values = inputs["values"]
    expected = [abs(np.mean(values[:m] - values[1 : m + 1])) for m in range(1, len(values))]
    return marked(differs(outputs, "changes", expected))


def step(theta, eta):
    """θ − η∇f on 100 sin θ₁ sin θ₂; theta (…, 2)."""
    return theta - 100 * eta * np.cos(theta) * np.sin(theta[..., ::-1])


def check_cycles(inputs, outputs) -> Mark:
    """Whatever is such a cycle is right: it is found out by stepping."""
    if fault := misshapen(outputs, "cycles", (len(inputs["step_size"]), 2, 2)):
        return Mark(0.0, (fault,))
    marks = []
    for eta, points in zip(inputs["step_size"], np.asarray(outputs["cycles"], float), strict=True):
        if not (abs(points) < 1e6).all():
            marks.append((0.0, "not all coordinates are moderate numbers"))
        elif abs(step(points, eta) - points[::-1]).max() > 3e-6:
            marks.append((0.0, f"at η = {eta:.4f} a step does not take your points to each other"))
        elif abs(step(points, eta) - points).max() < 1e-3:
            marks.append((0.0, f"at η = {eta:.4f} your points are one stationary point"))
        else:
            near = points[0] + 1e-4 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
            for _ in range(2000):
                near = step(near, eta)
            attracts = abs(near - points[0]).max() < 1e-5
            marks.append((1.0, None) if attracts else (0.5, f"at η = {eta:.4f} your cycle does not attract"))
    shares, remarks = zip(*marks, strict=True)
    return Mark(float(np.mean(shares)), tuple(remark for remark in remarks if remark))


QUESTIONS = [
    Question("q1", 3, regressions, check_noise),
    Question("q2", 2, series, check_averages),
    Question("q3", 2, lambda rng: {"values": rng.standard_normal(200)}, check_changes),
    Question("q4", 4, lambda rng: {"step_size": rng.uniform(0.0215, 0.0305, 5)}, check_cycles),
    Question(
        "written", 5,
        guide="(a) 2: both integrals, 1; that E⟨g, ∇L⟩ = E‖∇L‖² because g is unbiased, 1. (b) 1: the stationary "
        "variance ηs²/(a(2 − ηa)) and both sides equal. (c) 1: halves to first order, with the formula. (d) "
        "1: the change of the loss vanishes on the average over the cycle, not at a point; the step is too "
        "long for the curvature.",
    ),
    experiment(
        "What one sees. Figure 5 at 0.025: the last iterates are two points at which f is the same, so that the loss "
        "stands still and 'keeps oscillating' is not reproduced, while the gradient norm stays near 90 for ever. "
        "Averages are judged by the range of the values, which here is rounding: that verdict has to be explained, "
        "not repeated. Few images: with 50, 100 and 200 the gradient norm ends at a fifteenth or less of what it is "
        "with all 2,000, with 400 it is as large; what can be learnt by heart in so many steps lies between. The "
        "figure shows one seed, and no verdict changes. Step sizes 0.4, 0.1 and 0.025: in so few epochs the smallest "
        "has not come as far, and the order of noise, sharpness and gradient norm holds for some seeds only, so that "
        "the verdicts of figure 2 become 'partly'; they are statements about the end of training. Figure 1 takes the "
        "largest step size, which is why a verdict of it changes, too.",
    ),
]  # fmt: skip
