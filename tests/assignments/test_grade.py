"""Grading untrusted notebooks: all kinds of them in one call, so that none of them may disturb another."""

import contextlib
import csv
import json
import select
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import exchange
import grade
import hostile
import numpy as np
import psutil
import pytest
import sandbox
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

HERE = Path(__file__).parent
SECRET = "a secret seed"
LIMITS = {"seconds": 0.5, "total": 10, "memory": 640}

HONEST = {
    "right": hostile.notebook(
        "import otter\ngrader = otter.Notebook('tiny.ipynb')",
        "%matplotlib inline\nimport numpy as np\n!pip install nothing",
        "%%time\ndef square(x):\n    return x**2",
        "from dataclasses import dataclass\n@dataclass\nclass Mean:\n    x: object",
        "grader.check('square')\ndisplay(np)\nfiles = !ls",
        "raise SystemExit",
        "def mean(x):\n    return Mean(x).x.mean()",
    ),
    "partly right": hostile.notebook("def square(x): return x**2\ndef mean(x): return -sum(x) / len(x)"),
    "right but for one": hostile.notebook("def square(x):\n    while True: pass", "def mean(x): return x.mean()"),
    "wrong": hostile.notebook("def square(x): return 2 * x\ndef mean(x): return x.max()"),
    "empty": hostile.notebook(),
    "no notebook": b"square = lambda x: x**2",
    "no text": bytes(range(256)),
    "nan": hostile.notebook("def square(x): return x * float('nan')\ndef mean(x): return float('nan')"),
    "broadcasts": hostile.notebook("def square(x): return (x**2)[:, None] + 0 * x\ndef mean(x): return x[:0].sum()"),
}
EARNED = {"right": (4, 2), "partly right": (4, 1), "right but for one": (0, 2)}


def command(submissions: Path, assignment: Path, output: Path, **options) -> list[str]:
    arguments = {"assignment": assignment, "seed": SECRET, "output": output, "workers": 2} | LIMITS | options
    flags = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    return [sys.executable, str(HERE.parents[1] / "assignments" / "grade.py"), str(submissions), *flags]


def processes(mark: str) -> list[int]:
    """The processes with these words in their command line."""
    return [p.pid for p in psutil.process_iter(["cmdline"]) if mark in " ".join(p.info["cmdline"] or ())]


def test_honest_and_hostile_submissions_in_one_call(tmp_path):
    """In one test, and in this order, since the call is dear."""
    call = called(tmp_path)
    everyone_gets_the_marks_they_earned(call)
    what_stopped_them_is_said(call)
    nothing_is_left_on_the_host(call)
    pages_and_gradescope(call)
    graded_again_is_only_what_changed(call)


def called(place: Path) -> dict:
    """One call over all submissions, and what the host saw of it."""
    assert sandbox.available(), "install bubblewrap (Debian, Ubuntu, Fedora: the package bubblewrap)"
    here, submitted, mark = place / "host", place / "submitted", str(uuid.uuid4().int % 10**9 + 10**6)
    for folder in (here, submitted):
        folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = {"HERE": str(here), "PORT": server.getsockname()[1], "TOTAL": LIMITS["total"], "MARK": mark}
        notebooks = HONEST | hostile.submissions(**names)
        for name, notebook in notebooks.items():
            (submitted / f"{name}.ipynb").write_bytes(notebook)
        (submitted / "linked.ipynb").symlink_to("right.ipynb")
        (submitted / "two").mkdir()
        for name in ("one", "other"):
            (submitted / "two" / f"{name}.ipynb").write_bytes(HONEST["right"])
        assignment = shutil.copytree(HERE / "tiny", place / "tiny", ignore=shutil.ignore_patterns("__pycache__"))
        done = subprocess.run(command(submitted, assignment, place / "grades"), capture_output=True, text=True)
        visited = bool(select.select([server], [], [], 0)[0])
    assert done.returncode == 0, done.stderr
    with open(place / "grades" / "marks.csv") as file:
        marks = {row["student"]: row for row in csv.DictReader(file)}
    return {"place": place, "mark": mark, "marks": marks, "visited": visited}


def known(call, student: str) -> dict:
    return json.loads((call["place"] / "grades" / "graded" / f"{student}.json").read_text())


def everyone_gets_the_marks_they_earned(call):
    given = {student: (float(row["square"]), float(row["mean"])) for student, row in call["marks"].items()}
    assert given == {student: EARNED.get(student, (0, 0)) for student in (*HONEST, *hostile.SOURCES, "linked", "two")}
    assert {row["essay"] for row in call["marks"].values()} == {""}


SAID = [
    ("looks for the hidden tests", "found []"),
    ("writes outside", "written in []"),
    ("opens a socket", "reached []"),
    ("allocates without end", "MemoryError"),
    ("allocates without end in many", "more than 640 MB"),
    ("counts its forks", "forked 15 times"),
    ("loops without end", "OutOfTime"),
    ("prints gigabytes", "OutOfTime"),
    ("fills the disk", "No space left"),
    ("answers after the time is up", "stopped after 10 seconds"),
    ("returns 10¹² elements", "too large"),
    ("returns an object", "should be a number"),
    ("right", '"trouble": "code cell 6: SystemExit"'),
    ("nan", "only nan came"),
    ("linked", "regular file"),
    ("two", "one notebook"),
    ("no text", "no notebook of format 4"),
    ("no notebook", "no notebook of format 4"),
]


def what_stopped_them_is_said(call):
    for student, said in SAID:
        assert said in json.dumps(known(call, student), ensure_ascii=False), student


def nothing_is_left_on_the_host(call):
    assert list((call["place"] / "host").iterdir()) == []
    assert not list(call["place"].rglob("escaped")) and not call["visited"]
    assert not processes(call["mark"]) and not processes(str(call["place"]))


def pages_and_gradescope(call):
    grades = call["place"] / "grades"
    page = (grades / "feedback" / "partly right.html").read_text()
    assert "5 of 6 points" in page and "the sign is wrong" in page and "One point for each reason." in page
    assert "<script>" not in (grades / "feedback" / "markup for the page.html").read_text()
    results = json.loads((grades / "results" / "partly right.json").read_text())
    assert results["score"] == 5
    assert [(test["name"], test["score"], test["max_score"]) for test in results["tests"]] == [
        ("square", 4, 4),
        ("mean", 1, 2),
    ]
    assert not [path for path in grades.rglob("*") if path.is_file() and SECRET in path.read_text()]


def graded_again_is_only_what_changed(call):
    place, output = call["place"], call["place"] / "grades"
    (place / "submitted" / "wrong.ipynb").write_bytes(HONEST["right"])
    (output / "graded" / "empty.json").write_text("{")  # as nothing that we write can be
    before = {path.name: path.stat().st_mtime_ns for path in (output / "graded").iterdir()}
    done = subprocess.run(command(place / "submitted", place / "tiny", output), capture_output=True, text=True)
    assert f"{len(before)} submissions, 2 graded now" in done.stdout, done.stderr
    after = {path.name: path.stat().st_mtime_ns for path in (output / "graded").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"wrong.json", "empty.json"}
    assert "wrong,4.0,2.0,,6.0," in (output / "marks.csv").read_text().splitlines()


def test_a_grader_that_is_killed_leaves_no_process(tmp_path):
    (tmp_path / "submitted").mkdir()
    shutil.copytree(HERE / "tiny", tmp_path / "tiny", ignore=shutil.ignore_patterns("__pycache__"))
    late = hostile.submissions(TOTAL=60, MARK="", HERE="", PORT=0)["answers after the time is up"]
    for name, notebook in {"late": late, "right": HONEST["right"]}.items():
        (tmp_path / "submitted" / f"{name}.ipynb").write_bytes(notebook)
    graded = tmp_path / "grades" / "graded" / "right.json"
    arguments = command(tmp_path / "submitted", tmp_path / "tiny", tmp_path / "grades", total=60)
    grader = subprocess.Popen(arguments)
    end = time.monotonic() + 60
    while not graded.exists() and time.monotonic() < end:
        time.sleep(0.1)
    asks = str(tmp_path / "tiny" / "asks.py")
    assert graded.exists() and processes(asks)
    grader.kill()
    grader.wait()
    while processes(str(tmp_path)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not processes(str(tmp_path))


def test_notebooks_are_found_under_plain_names(tmp_path):
    for name in (
        *("ada.ipynb", "=1+1.ipynb", "bo/work/hand in.ipynb", "bo/.ipynb_checkpoints/old.ipynb"),
        *("cy/notes.txt", "notes.md"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "di").symlink_to("bo")
    found = {student: str(path.relative_to(tmp_path)) for student, path in grade.find(tmp_path).items()}
    assert found == {"_1_1": "=1+1.ipynb", "ada": "ada.ipynb", "bo": "bo/work/hand in.ipynb", "cy": "cy", "di": "di"}
    (tmp_path / "-1+1.ipynb").touch()
    with pytest.raises(SystemExit, match="rename one"):
        grade.find(tmp_path)


# --- the runner, in this process

QUESTIONS = {"square": {"x": np.arange(3.0)}, "mean": {"x": np.arange(4.0)}}
SMALL = sandbox.Limits(**LIMITS)


@pytest.mark.parametrize("trust", [False, True])
def test_with_trust_the_same_runs_without_a_sandbox(trust):
    source = f"import os\ndef square(x): return x**2\ndef mean(x): return float(os.path.exists({__file__!r}))"
    outcome = sandbox.run(hostile.notebook(source), HERE / "tiny" / "asks.py", QUESTIONS, SMALL, trust=trust)
    square, mean = outcome.answers
    np.testing.assert_array_equal(square["squares"], [0, 1, 4])
    assert mean == {"mean": float(trust)}


def test_answers_sent_in_time_count_however_they_are_sent():
    """The control of the forgeries: what is sent is read, and what the grader makes of it depends on it being right."""
    names = hostile.WRONG, "send(right())\nos._exit(0)"
    outcome = sandbox.run(hostile.notebook(*names), HERE / "tiny" / "asks.py", QUESTIONS, SMALL)
    assert outcome.answers[1] == {"mean": 1.5}


def test_without_bubblewrap_it_refuses(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    app = grade.typer.Typer()
    app.command()(grade.main)
    refused = CliRunner().invoke(app, [str(tmp_path), "--assignment", str(HERE / "tiny"), "--seed", SECRET])
    assert refused.exit_code == 1
    assert not Path("grades").exists()


def test_a_sandbox_that_fails_is_no_students_fault(tmp_path):
    (tmp_path / "submitted").mkdir()
    (tmp_path / "submitted" / "right.ipynb").write_bytes(HONEST["right"])
    shutil.copy(HERE / "tiny" / "checks.py", tmp_path)  # and no asks.py
    arguments = command(tmp_path / "submitted", tmp_path, tmp_path / "grades")
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 1 and "not graded, the sandbox failed: right" in done.stderr and "asks.py" in done.stderr
    assert "right" not in (tmp_path / "grades" / "marks.csv").read_text()


# --- what the two sides say to each other

numbers = st.floats() | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.text()
shapes = st.lists(st.integers(0, 3), min_size=1, max_size=3)
arrays = st.builds(np.zeros, shapes, st.sampled_from(["<f8", "<f4", ">i4", "?", "<c16"]))


@settings(max_examples=30)
@given(st.lists(st.dictionaries(st.text(max_size=5), numbers | arrays, max_size=4), max_size=3))
def test_what_is_packed_comes_back(messages):
    content = b"".join(map(exchange.pack, messages))
    for sent, got in zip(messages, exchange.unpack(content), strict=True):
        assert list(sent) == list(got)
        for name in sent:
            np.testing.assert_array_equal(got[name], sent[name], strict=isinstance(sent[name], np.ndarray))


@given(st.binary() | st.binary().map(lambda head: len(head).to_bytes(8) + bytes(8) + head))
def test_anything_else_is_refused_or_cut_short(content):
    with contextlib.suppress(ValueError):
        assert all(isinstance(message, dict) for message in exchange.unpack(content))


@pytest.mark.parametrize(
    "head",
    [
        b'{"x": {"dtype": "<f8", "shape": [1000000, 1000000]}}',
        b'{"x": {"dtype": "|O", "shape": [1]}}',
        b'{"x": {"dtype": "|V8", "shape": [1]}}',
        b'{"x": {"dtype": "<f8", "shape": [-1]}}',
        b'{"x": {"dtype": "<f8", "shape": [2]}}',
        b'{"x": [1, 2]}',
        b'{"x": ' + b"9" * 5000 + b"}",
        b"[" * 10**5,
        b"[]",
    ],
)
def test_a_forged_head_is_refused_before_anything_is_allocated(head):
    with pytest.raises(ValueError):
        list(exchange.unpack(len(head).to_bytes(8) + (8).to_bytes(8) + head + bytes(8)))


@pytest.mark.parametrize("value", [None, [1, "a"], {"a": 1}, np.array([object()]), np.broadcast_to(0.0, 10**12)])
def test_what_cannot_be_sent_is_named(value):
    with pytest.raises((TypeError, ValueError)):
        exchange.pack({"x": value})
