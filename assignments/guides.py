"""What all assignments ask for, and the lecturer marks by hand."""

from grading import Question


def experiment(seen: str = "") -> Question:
    """The open experiment. seen: what came out of runs that the assignment suggests, at the preset quick."""
    return Question(
        "experiment", 5,
        guide="1 for an expectation with a reason, written before the run; 1 for a command that reproduces what is "
        "shown; 1 for a figure or table whose axes or columns are named; 1 for saying which verdicts changed and which "
        "did not; 1 for a conclusion that the numbers bear out, an expectation that failed included. "
        f"One seed, where seeds matter, without a word about it: at most 4.\n{seen}".strip(),
    )  # fmt: skip
