"""Make the course's notebooks from their sources, and see that they are fit to be handed out.

    python assignments/make.py [NAME …] [--output FOLDER]

In FOLDER: student/NAME.zip, the notebook without solutions beside its public tests, and the same unpacked;
solution/NAME.ipynb; and autograder/, all that grading needs, to take to the machine that grades. It fails if a
reference solution does not get full marks, from the public tests or the hidden ones, or if the untouched notebook gets
any from the hidden ones.
"""

import contextlib
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import grading
import jupytext
import student_side
import typer

HERE = Path(__file__).resolve().parent
SEEDS = ("one", "another")  # draw the hidden inputs of the trial


def main(
    names: Annotated[list[str] | None, typer.Argument(help="assignments; all of them if none is given")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="the folder")] = Path("_build/assignments"),
) -> None:
    """Make the course's notebooks from their sources, and see that they are fit to be handed out."""
    every = sorted(path.parent.name for path in HERE.glob("*/assignment.py"))
    if unknown := sorted(set(names or ()) - set(every)):
        sys.exit(f"unknown: {', '.join(unknown)}; expected some of: {', '.join(every)}")
    shutil.copytree(
        HERE, output / "autograder", dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("assignment.py", Path(__file__).name, "__pycache__"),
    )  # fmt: skip
    faults = []
    for name in names or every:
        notebook, solution = assign(HERE / name / "assignment.py", output)
        found = trial(HERE / name, notebook, solution)
        print(f"{name}: {notebook.parent}.zip", *found, sep="\n  ")
        faults += found
    if faults:
        sys.exit(f"{len(faults)} faults: not to be handed out")


def assign(source: Path, output: Path) -> tuple[Path, Path]:
    """Convert a source with otter; the paths of the student's notebook and of the solution."""
    from otter.assign import main as otter_assign

    name = source.parent.name
    student, solution = output / "student" / name, output / "solution" / f"{name}.ipynb"
    with tempfile.TemporaryDirectory() as folder:
        master = Path(folder, f"{name}.ipynb")
        jupytext.write(jupytext.read(source), master)
        otter_assign(str(master), folder)
        shutil.rmtree(student, ignore_errors=True)
        shutil.copytree(Path(folder, "student"), student)
        solution.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(folder, "autograder", master.name), solution)
    shutil.make_archive(str(student), "zip", student.parent, name)
    return student / f"{name}.ipynb", solution


def trial(folder: Path, notebook: Path, solution: Path) -> list[str]:
    """What is wrong with an assignment, by its notebook without solutions and the one with them."""
    from otter.test_files import ExceptionTestFile

    assignment = grading.load(folder)
    public = {path.stem: ExceptionTestFile.from_file(str(path)) for path in sorted(notebook.parent.glob("tests/*.py"))}
    asked = {question.name for question in assignment.questions if question.check}
    faults = [f"{name}: public tests and hidden ones were expected" for name in sorted(asked ^ public.keys())]

    solved, trouble = execute(solution)
    faults += [f"the reference solution: {line}" for line in trouble]
    for name, test in public.items():
        test.run(solved)
        faults += [
            f"{name}: the reference solution fails a public test: {r.message}"
            for r in test.test_case_results
            if not r.passed
        ]
    untouched, _ = execute(notebook)
    for seed in SEEDS:
        for name in sorted(asked):
            reference, nothing = mark(folder, name, solved, seed), mark(folder, name, untouched, seed)
            if reference.share != 1:
                faults.append(
                    f"{name}: the reference solution gets {reference.share:g}: {'; '.join(reference.remarks)}"
                )
            if nothing.share:
                faults.append(f"{name}: the untouched notebook gets {nothing.share:g}")
    return faults


def execute(notebook: Path) -> tuple[dict, list[str]]:
    """What a notebook of ours defines, executed in this process, and what it raised."""
    from matplotlib import pyplot

    kept = {name: sys.modules[name] for name in ("__main__", "otter")}  # for which the student's side has others
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what it prints is for its reader
            return student_side.execute(notebook.read_text(), seconds=120)
    finally:
        sys.modules.update(kept)
        pyplot.close("all")  # what it drew


def mark(folder: Path, question: str, namespace: dict, seed: str) -> grading.Mark:
    """The mark of answers of ours, in this process, without a sandbox."""
    assignment = grading.load(folder)
    (asked,) = (each for each in assignment.questions if each.name == question)
    inputs = asked.inputs(grading.generator(seed, assignment.name, question))
    try:
        outputs = getattr(grading.module(folder / "asks.py"), question)(namespace, inputs)
    except Exception as error:
        return grading.Mark(0.0, (f"{type(error).__name__}: {error}",))
    return asked.check(inputs, outputs)


if __name__ == "__main__":
    typer.run(main)
