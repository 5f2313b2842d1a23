"""Grade a folder of submitted notebooks, each in a sandbox of its own.

    python assignments/grade.py SUBMISSIONS --assignment assignments/NAME --seed SECRET

A submission is SUBMISSIONS/STUDENT.ipynb, or the one notebook below SUBMISSIONS/STUDENT/. Of each there are two sides:
the student's, in the sandbox, executes the notebook and answers the questions; the grader's, here, compares the answers
with its own. It reads them with bounds, and never imports, evaluates or unpickles what the other side wrote.

In GRADES: marks.csv, a marks-per-question table; feedback/STUDENT.html, a page for each; results/STUDENT.json, which is
Gradescope's results.json; and graded/STUDENT.json, what is known of each submission, from which the others are written.
The command can be interrupted at any instant; given again, it grades what is new or has changed.
"""

import csv
import hashlib
import io
import json
import multiprocessing
import os
import re
import resource
import stat
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated

import exchange
import grading
import jinja2
import numpy as np
import sandbox
import typer
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
LARGEST = 8 * 2**20  # bytes of a notebook
CHECKED_IN = 60  # seconds for one comparison
MEMORY = 4 * 2**30  # bytes for the grader's side


def main(
    submissions: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="the folder of notebooks")],
    assignment: Annotated[Path, typer.Option(exists=True, file_okay=False, help="the assignment's folder")],
    seed: Annotated[str, typer.Option(envvar="EOSLIB_COURSE_SEED", help="your secret, which draws the hidden inputs")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the folder GRADES")] = Path("grades"),
    workers: Annotated[int, typer.Option(min=1, help="submissions at a time")] = os.cpu_count() or 1,
    seconds: Annotated[float, typer.Option(help="of computing, for a code cell or an answer")] = sandbox.Limits.seconds,
    total: Annotated[float, typer.Option(help="seconds by the clock for one submission")] = sandbox.Limits.total,
    memory: Annotated[int, typer.Option(help="megabytes for one submission")] = sandbox.Limits.memory,
    trust: Annotated[bool, typer.Option("--trust", help="no sandbox: the notebooks run with your rights")] = False,
) -> None:
    """Grade a folder of submitted notebooks, each in a sandbox of its own.

    Example: python assignments/grade.py submitted --assignment assignments/no_stationary_points --seed "our secret"
    """
    if trust:
        print("--trust: no sandbox. The notebooks can read and change all that you can.", file=sys.stderr)
    elif not sandbox.available():
        sys.exit("no sandbox: install bubblewrap (Debian, Ubuntu, Fedora: the package bubblewrap), "
                 "or give --trust if you would run every one of these notebooks yourself")  # fmt: skip
    limits = sandbox.Limits(seconds, total, memory)
    code = b"".join(path.read_bytes() for folder in (HERE, assignment) for path in sorted(folder.glob("*.py")))
    circumstances = repr((hashlib.sha256(code).hexdigest(), seed, limits, trust))

    found = find(submissions)
    keys = {student: key_of(path, circumstances) for student, path in found.items()}
    graded = {student: read(output, student) for student in found}
    waiting = [student for student in found if graded[student].get("key") != keys[student]]
    failed = {}
    bar = tqdm(total=len(found), initial=len(found) - len(waiting), unit="submission", disable=None)
    spawn = multiprocessing.get_context("spawn")
    with bar, ProcessPoolExecutor(workers, spawn, begin, (assignment, seed, limits, trust)) as pool:
        try:
            running = {pool.submit(grade, found[student]): student for student in waiting}
            for done in as_completed(running):
                student = running[done]
                bar.update()
                try:
                    graded[student] = {"key": keys[student], "student": student} | done.result()
                except sandbox.Failed as error:
                    failed[student] = str(error)
                    del graded[student]
                    continue
                write(output / "graded" / f"{student}.json", json.dumps(graded[student], indent=1))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    report(output, assignment.resolve().name, [graded[student] for student in sorted(graded)])
    print(f"{len(found)} submissions, {len(waiting) - len(failed)} graded now: {output / 'marks.csv'}")
    if failed:
        sys.exit("\n".join(f"not graded, the sandbox failed: {student}: {why}" for student, why in failed.items()))


# --- submissions


def find(submissions: Path) -> dict[str, Path]:
    """What each student handed in: a notebook, or a folder in which there is not exactly one."""
    found = {}
    for path in sorted(submissions.iterdir()):
        if path.name.startswith(".") or not (path.suffix == ".ipynb" or path.is_dir()):
            continue
        # a plain name: it becomes a file's, and no spreadsheet takes it for a formula
        student = re.sub(r"[^\w .@-]|^\W", "_", path.name.removesuffix(".ipynb"))
        if student in found:
            sys.exit(f"{path} and {found[student]} would both be {student}'s; rename one")
        inside = [] if path.is_symlink() else [n for n in path.rglob("*.ipynb") if ".ipynb_checkpoints" not in n.parts]
        found[student] = inside[0] if len(inside) == 1 else path
    return found


def content_of(path: Path) -> bytes:
    """A submitted notebook; a ValueError if it is no regular file (a link, a folder, a pipe) or too large."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError
    except OSError:
        raise ValueError("a submission is one notebook, as a regular file") from None
    with open(descriptor, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError("the notebook is too large; clear its outputs")
    return content


def key_of(path: Path, circumstances: str) -> str:
    """Changes with all that a submission's marks depend on."""
    try:
        content = content_of(path)
    except ValueError as error:
        content = str(error).encode()
    return hashlib.sha256(content + circumstances.encode()).hexdigest()


# --- one submission, in a process of its own


def begin(folder: Path, seed: str, limits: sandbox.Limits, trust: bool) -> None:
    """Make this process ready to grade."""
    global _assignment, _seed, _limits, _trust
    _assignment, _seed, _limits, _trust = grading.load(folder), seed, limits, trust
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def grade(path: Path) -> dict:
    asked = [question for question in _assignment.questions if question.check]
    inputs = {q.name: q.inputs(grading.generator(_seed, _assignment.name, q.name)) for q in asked}
    try:
        notebook = content_of(path)
    except ValueError as error:
        outcome = sandbox.Outcome("", (), str(error))
    else:
        outcome = sandbox.run(notebook, _assignment.folder / "asks.py", inputs, _limits, trust=_trust)
    answers = dict(zip(inputs, outcome.answers, strict=False))
    marks = []
    for question in _assignment.questions:
        entry = {"name": question.name, "points": question.points, "guide": question.guide}
        if question.check:
            mark = compare(question, inputs[question.name], answers.get(question.name))
            entry |= {"earned": round(float(question.points * mark.share), 2), "remarks": mark.remarks}
        marks.append(entry)
    return {"questions": marks, "trouble": outcome.trouble, "ending": outcome.ending}


def compare(question: grading.Question, inputs: dict, outputs: dict | None) -> grading.Mark:
    if outputs is None:
        return grading.Mark(0, ("no answer came",))
    if "error" in outputs:
        return grading.Mark(0, (f"{outputs['error']}"[:500],))
    try:
        with exchange.deadline(CHECKED_IN):
            mark = question.check(inputs, outputs)
            if not mark.share and all(np.isnan(value).all() for value in outputs.values()):
                return grading.Mark(0, ("only nan came: your function returns nothing, or what is no number",))
            return grading.Mark(mark.share if 0 <= mark.share <= 1 else 0, tuple(mark.remarks))
    except (Exception, exchange.OutOfTime) as error:
        return grading.Mark(0, (f"the answer is none that could be compared: {type(error).__name__}: {error}"[:500],))


# --- what is handed out


def read(output: Path, student: str) -> dict:
    """What an earlier call found; empty if there was none."""
    try:
        return json.loads((output / "graded" / f"{student}.json").read_text())
    except (OSError, ValueError):
        return {}


def write(path: Path, text: str) -> None:
    """The file is the old one or the new one, whole. (Importing eoslib's own writer would take seconds.)"""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(text.encode(errors="replace"))  # a notebook may say what is no text
    os.replace(temporary, path)


def report(output: Path, assignment: str, graded: list[dict]) -> None:
    """The table, and a page and Gradescope's results.json for each student, all from what is known of each."""
    folder = jinja2.FileSystemLoader(HERE / "templates")
    page = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = page.get_template("feedback.html")
    table = io.StringIO()
    rows = csv.writer(table)
    for one in graded:
        marked = [question for question in one["questions"] if "earned" in question]
        earned, possible = (round(sum(question[of] for question in marked), 2) for of in ("earned", "points"))
        if one is graded[0]:
            rows.writerow(["student", *(q["name"] for q in one["questions"]), f"total of {possible}", "note"])
        rows.writerow([one["student"], *(q.get("earned", "") for q in one["questions"]), earned, one["ending"]])
        html = page.render(assignment=assignment, one=one, earned=earned, possible=possible)
        write(output / "feedback" / f"{one['student']}.html", html)
        write(output / "results" / f"{one['student']}.json", json.dumps(gradescope(one, earned), indent=1))
    write(output / "marks.csv", table.getvalue())


def gradescope(one: dict, earned: float) -> dict:
    """The content of a results.json; questions marked by hand are not Gradescope's autograder's business."""
    tests = [
        {
            "name": question["name"],
            "score": question["earned"],
            "max_score": question["points"],
            "output": "\n".join(question["remarks"]),
            "output_format": "text",
        }
        for question in one["questions"]
        if "earned" in question
    ]
    said = "\n".join(filter(None, (one["ending"], one["trouble"])))
    return {"score": earned, "output": said, "output_format": "text", "visibility": "visible", "tests": tests}


if __name__ == "__main__":
    typer.run(main)
