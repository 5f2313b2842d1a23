"""The experiment in plain PyTorch: runs alone, without the library, and agrees with it."""

import contextlib
import io
import re
import time

import pytest

from eoslib.chapter import presets

CHAPTERS = [
    "unstable_convergence", "forward_invariance", "no_stationary_points", "self_stabilization", "large_learning_rates",
]  # fmt: skip


@pytest.fixture(scope="module", params=CHAPTERS)
def ran(request):
    """A chapter's cells, the variables after its plain cell ran in an empty namespace, what it printed, and seconds."""
    notebook = presets.read_chapter(presets.chapter_path(request.param))
    (plain,), (compared,) = (presets.code_cells(notebook, tag) for tag in ("plain", "compared"))
    variables, started = {}, time.process_time()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(plain.source, variables)
    return notebook, plain, compared, variables, printed.getvalue(), time.process_time() - started


def test_it_stands_below_the_head_without_the_library(ran):
    notebook, plain, compared, *_ = ran
    assert [c.cell_type for c in notebook.cells[:2]] == ["markdown", "markdown"]
    assert "chapter-head" in notebook.cells[0].source and notebook.cells[2] is plain
    assert presets.code_cells(notebook)[:2] == [plain, compared]
    assert "eoslib" not in plain.source and "hide-input" not in plain.metadata.tags
    lines = [line for line in plain.source.splitlines() if line.strip() and "import" not in line]
    assert len(lines) <= 29
    # on a screen of 1300 pixels a page is as wide as this
    assert all(len(line) <= 79 for cell in (plain, compared) for line in cell.source.splitlines())


def test_it_takes_seconds_and_says_what_came_out(ran):
    *_, printed, seconds = ran
    assert seconds < 10 and len(printed.splitlines()) >= 5  # five on an idle core


def test_it_agrees_with_the_librarys_run(ran, monkeypatch, tmp_path):
    _, _, compared, variables, *_ = ran
    monkeypatch.setenv("EOSLIB_RUNS", str(tmp_path))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compared.source, variables)
    first, *others = [float(number) for number in re.findall(r": ([\d.e+-]+)", printed.getvalue())]
    assert first == 0  # bit for bit: the losses, the classes of starts
    assert all(difference < 1e-3 for difference in others)  # what a search finds is right to its tolerance
