"""An assignment of two small questions and one that is marked by hand, for the grader's tests."""

import numpy as np
from grading import Mark, Question, differs


def numbers(rng):
    return {"x": rng.normal(size=20)}


def check_square(inputs, outputs):
    wrong = differs(outputs, "squares", inputs["x"] ** 2)
    return Mark(0, (wrong,)) if wrong else Mark(1)


def check_mean(inputs, outputs):
    wrong = differs(outputs, "mean", np.mean(inputs["x"]))
    if wrong and not differs(outputs, "mean", -np.mean(inputs["x"])):
        return Mark(0.5, ("the sign is wrong",))
    return Mark(0, (wrong,)) if wrong else Mark(1)


QUESTIONS = [
    Question("square", 4, numbers, check_square),
    Question("mean", 2, numbers, check_mean),
    Question("essay", 3, guide="One point for each reason."),
]
