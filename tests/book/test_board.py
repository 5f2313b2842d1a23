"""What shows verdicts: the stacked bar."""

from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def board(monkeypatch):
    """The extension."""
    monkeypatch.syspath_prepend(str(ROOT / "book/_ext"))
    import claims_board

    return claims_board


def verdict(words: str, verdict: str, scale: str | None) -> dict:
    return {"words": words, "verdict": verdict, "scale": scale}


def test_the_bar_counts_verdicts_by_their_words(board):
    found = [
        verdict("not run", "not run", "toy"),
        verdict("seen on a toy", "reproduced", "toy"),
        verdict("reproduced", "reproduced", "paper"),
        verdict("not reproduced", "not reproduced", None),
        verdict("reproduced", "reproduced", "exact"),
    ]
    html = BeautifulSoup(board.bar(found), "html.parser")
    words = [item.get_text(strip=True) for item in html.select("li")]
    assert words == ["2 reproduced", "1 seen on a toy", "1 not reproduced", "1 not run"]
    parts = html.select(".eos-stack > span")
    assert [part["style"] for part in parts] == [f"flex-grow: {n}" for n in (2, 1, 1, 1)]
    kinds = [["eos-reproduced"], ["eos-reproduced", "eos-toy"], ["eos-not-reproduced"], ["eos-not-run"]]
    assert [[name for name in part["class"] if name] for part in parts] == kinds
    assert html.select_one(".eos-stack")["aria-hidden"] == "true"
