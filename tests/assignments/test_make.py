"""`make assignments`: the course's notebooks are fit to be handed out, or nothing is. Needs requirements-course.txt."""

import json
import zipfile

import grading
import make
import pytest

pytest.importorskip("otter", reason="requirements-course.txt is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All five assignments, made; what make found wrong ends the test."""
    output = tmp_path_factory.mktemp("assignments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "SEEDS", make.SEEDS[:1])
        make.main(output=output)
    return output


def sources(notebook):
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]


def test_five_assignments_are_fit_to_be_handed_out(made):
    assert len(list(made.glob("student/*.zip"))) == len(list(made.glob("solution/*.ipynb"))) == 5


def test_a_student_gets_a_notebook_without_answers_beside_its_public_tests(made):
    for archive in made.glob("student/*.zip"):
        name = archive.stem
        files = {file for file in zipfile.ZipFile(archive).namelist() if not file.endswith("/")}
        asked = {question.name for question in grading.load(make.HERE / name).questions if question.check}
        assert files == {f"{name}/{name}.ipynb", *(f"{name}/tests/{question}.py" for question in asked)}
        text = "\n".join(sources(made / "student" / name / f"{name}.ipynb"))
        assert "SOLUTION" not in text and "    ...\n" in text and "Type your answer here" in text
        solved = set(sources(made / "solution" / f"{name}.ipynb")) - set(text.split("\n"))
        assert any("def " in source for source in solved) and "otter" not in text.replace("import otter", "").replace(
            "otter.Notebook()", ""
        )


def test_points_are_those_of_the_grader(made):
    for folder in made.glob("autograder/*/"):
        if (folder / "checks.py").exists():
            text = "\n".join(sources(made / "student" / folder.name / f"{folder.name}.ipynb"))
            said = [int(line.removeprefix("_Points:_ ")) for line in text.split("\n") if line.startswith("_Points:_")]
            assert said == [question.points for question in grading.load(folder).questions]


def test_the_grader_is_complete_and_holds_no_solutions(made):
    files = {path.name for path in (made / "autograder").rglob("*.py")}
    assert {"grade.py", "grading.py", "asks.py", "checks.py"} <= files and not {"assignment.py", "make.py"} & files


def altered(tmp_path, old, new, file="assignment.py"):
    """What the trial of the third assignment finds after a change."""
    folder = tmp_path / "no_stationary_points"
    folder.mkdir()
    for path in (make.HERE / folder.name).glob("*.py"):
        text = path.read_text()
        assert path.name != file or old in text
        (folder / path.name).write_text(text.replace(old, new) if path.name == file else text)
    return make.trial(folder, *make.assign(folder / "assignment.py", tmp_path / "made"))


def test_a_wrong_reference_solution_is_not_handed_out(tmp_path):
    faults = altered(tmp_path, "np.cumsum(values, axis=0) / counts", "np.cumsum(values, axis=0) / len(values) * counts")
    assert any("fails a public test" in fault for fault in faults)
    assert any(fault.startswith("q2: the reference solution gets 0") for fault in faults)
    assert not any(fault.startswith(("q1", "q3", "q4")) for fault in faults)


def test_a_hidden_test_that_the_untouched_notebook_passes_is_not_handed_out(tmp_path):
    asked = 'student["expected_changes"](inputs["values"].copy())'
    given = 'abs(inputs["values"][0] - inputs["values"][1:]) / np.arange(1, len(inputs["values"]))'
    assert altered(tmp_path, asked, given, "asks.py") == ["q3: the untouched notebook gets 1"] * len(make.SEEDS)
