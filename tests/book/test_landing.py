"""The figure that plays on the landing page: its scales, from a figure's table."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TABLE = """\
# figure exp3
# panel 1: x: iteration; y: training loss
panel,curve,label,colour,x,y
1,1,$\\eta = 2/60$,blue,0,2
1,1,$\\eta = 2/60$,blue,1000,1
1,2,$\\eta = 0.1$,orange,0,2
1,2,$\\eta = 0.1$,orange,500,nan
2,1,,blue,0,-1
3,1,,blue,0,10
3,1,,blue,1000,60
3,2,,orange,0,10
"""


@pytest.fixture
def landing(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book/_ext"))
    import landing

    return landing


def test_curves_and_thresholds_share_their_scale(landing):
    found = landing.motion(TABLE)
    blue, orange = found["labels"]
    assert list(found["labels"].values()) == ["η = 2/60", "η = 0.1"]
    sharpness, loss = found["panels"]
    assert (sharpness["name"], loss["name"]) == ("sharpness", "training loss")
    assert sharpness["steps"] == loss["steps"] == 1000
    first, last = (point.split(",") for point in sharpness["curves"][blue].split())
    assert float(last[1]) == sharpness["dashed"][blue] < sharpness["dashed"][orange] < float(first[1])  # 60, 20, 10
    assert float(last[0]) == sharpness["x"]["1,000"] == landing.RIGHT and float(first[0]) == landing.LEFT
    assert sharpness["y"]["0"] == landing.BOTTOM and loss["dashed"] == {}
    assert len(loss["curves"][orange].split()) == 1  # not a number is no point


def test_the_threshold_is_read_off_a_label(landing):
    assert [landing.threshold(label) for label in ("η = 2/60", "η = 2/2.5", "η = 0.1")] == [60, 2.5, 20]
