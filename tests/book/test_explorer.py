"""The explorer of starting points: its rule is that of papers.basins, and it works in a page, for every reader."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from eoslib.papers import basins
from eoslib.papers.basins import Outcome
from eoslib.problems.landscapes import LANDSCAPES, Polynomial

ROOT = Path(__file__).resolve().parents[2]
POLYNOMIALS = ["f1", "f2", "f3", "f4"]
LARGEST = {"f1": 2 / 2, "f2": 2 / 2, "f3": 2 / 12, "f4": 2 / 3.8}
WIDTH = {"f1": 1.5, "f2": 1.5, "f3": 2.6, "f4": 4.0}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1200, "height": 1000}}

# of pytest-playwright's own fixture base_url
pytestmark = pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods")

CONF = f"""\
import sys
sys.path.insert(0, {str(ROOT / "book/_ext")!r})
extensions = ["myst_parser", "basin_explorer"]
html_theme = "sphinx_book_theme"
html_static_path = [{str(ROOT / "book/_static")!r}]
html_css_files = ["eoslib.css"]
html_context = {{"default_mode": "auto"}}
html_theme_options = {{"navbar_persistent": []}}
language = "en"
numfig = True
"""
INDEX = """\
# Elsewhere

A page without the explorer.

```{toctree}
chapter
```
"""
CHAPTER = """\
# Chapter

```{basin-explorer}
This needs JavaScript; {ref}`A figure <fig-maps>` shows the same at five step sizes.
```

```{figure} page.png
:name: fig-maps
:alt: Maps.

Maps.
```
"""


@pytest.fixture(scope="module")
def small_site(tmp_path_factory) -> Path:
    """A site of two pages in the book's theme, one of them with the explorer."""
    source = tmp_path_factory.mktemp("source")
    for name, text in {"conf.py": CONF, "index.md": INDEX, "chapter.md": CHAPTER}.items():
        (source / name).write_text(text)
    (source / "page.png").write_bytes((ROOT / "book/_static/page.png").read_bytes())
    command = [sys.executable, "-m", "sphinx", "-W", "-q", source, source / "html"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return source / "html"


@pytest.fixture
def visit(small_site, new_context):
    """Open the page with the explorer from the file system; at the end, complain of errors and foreign requests."""
    complaints = []

    def open_page(hash: str = "", before: str = "", **options):
        page = new_context(**DESKTOP | options).new_page()
        page.add_init_script(before)
        page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(f"console: {m.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        own = (small_site.as_uri(), "blob:", "data:")
        page.on("request", lambda r: r.url.startswith(own) or complaints.append(f"asks {r.url}"))
        page.on("requestfailed", lambda r: complaints.append(f"failed: {r.url}"))
        page.goto(f"{small_site.as_uri()}/chapter.html{hash}")
        return page

    yield open_page
    assert complaints == []


def drawn(page) -> np.ndarray:
    """The colours of the finished map, shape (400, 400, 3)."""
    page.wait_for_selector(".bx-map [aria-busy=false]")
    png = page.evaluate("document.querySelector('.bx-map canvas').toDataURL()").partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))


def legend(page) -> np.ndarray:
    """The colours of the outcomes in the order of the legend, shape (7, 3)."""
    swatches = page.locator(".bx-legend span").evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)")
    return np.array([[int(part) for part in re.findall(r"\d+", swatch)] for swatch in swatches])


def status(page) -> str:
    return page.locator(".bx-status").inner_text()


# --- the rule ----------------------------------------------------------------------------------------------------


def classified(page, name: str, step_size: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Outcome, steps, last rise and minimiser of each point by the explorer's code, shape (4, number of points)."""
    found = page.evaluate(
        """([name, stepSize, xs, ys]) => {
          const { LANDSCAPES, traps, follow } = eoslibBasins();
          const balls = traps(LANDSCAPES[name], stepSize);
          return xs.map((x, i) => {
            const { outcome, steps, lastRise, minimiser } = follow(LANDSCAPES[name], stepSize, balls, x, ys[i]);
            return [outcome, steps, lastRise, minimiser];
          });
        }""",
        [name, step_size, x.tolist(), y.tolist()],
    )
    return np.array(found).T


def test_the_rule_is_that_of_the_library(visit):
    page = visit()
    random = np.random.default_rng(0)
    outcomes, equal = [], []
    for name in POLYNOMIALS:
        for fraction in (0.1, 0.3, 0.6, 0.9, 0.99):
            x, y = random.uniform(-WIDTH[name], WIDTH[name], (2, 500))
            ours = classified(page, name, fraction * LARGEST[name], x, y)
            b = basins.classify(LANDSCAPES[name], fraction * LARGEST[name], np.array(x), np.array(y))
            equal.append(ours == [b.outcome, b.steps, b.last_rise, b.minimiser])
            outcomes.append(b.outcome)
    outcomes, equal = np.concatenate(outcomes), np.concatenate(equal, axis=1)
    assert outcomes.size == 10_000 and len(np.unique(outcomes)) >= 4
    print("equal outcomes, steps, last rises, minimisers:", equal.mean(axis=1))
    assert equal.mean(axis=1).min() >= 0.999


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_functions_and_traps_are_those_of_the_library(visit, name):
    page, landscape = visit(), LANDSCAPES[name]
    assert isinstance(landscape, Polynomial)
    points = np.random.default_rng(1).uniform(-3, 3, (100, 2))
    values, sharpness = page.evaluate(
        """([name, points]) => {
          const { value, fx, fy, hessian, sharpness } = eoslibBasins().LANDSCAPES[name];
          return [points.map(([x, y]) => [value(x, y), fx(x, y), fy(x, y), ...hessian(x, y)]), sharpness];
        }""",
        [name, points.tolist()],
    )
    x, y = points.T
    expected = np.array([landscape.value(x, y), *landscape.gradient(x, y), *landscape.hessian(x, y)])
    np.testing.assert_array_equal(np.array(values).T, expected)
    assert 2 / sharpness == LARGEST[name]
    for fraction in (0.1, 0.5, 0.9, 0.99):
        step_size = fraction * LARGEST[name]
        radii2 = [(0.5 * basins.trap_radius(landscape, step_size, m)) ** 2 for m in landscape.minimisers]
        balls = page.evaluate("([n, s]) => eoslibBasins().traps(eoslibBasins().LANDSCAPES[n], s)", [name, step_size])
        assert [tuple(ball[:2]) for ball in balls] == list(landscape.minimisers)
        np.testing.assert_allclose([ball[2] for ball in balls], radii2, rtol=1e-12)


def test_a_step_size_too_large_is_an_error(visit):
    message = visit().evaluate(
        """() => {
          const { traps, LANDSCAPES } = eoslibBasins();
          try { traps(LANDSCAPES.f4, 2 / 3.8); } catch (error) { return error.message; }
        }"""
    )
    assert "less than 2/λ_max" in message


def test_a_cycle_is_told_apart(visit):
    """On x² + y² with η = 1 each iterate is the negative of the one before; f₁ to f₄ have no such points."""
    found = visit().evaluate(
        """() => {
          const bowl = { value: (x, y) => x * x + y * y, fx: (x, y) => 2 * x, fy: (x, y) => 2 * y };
          return eoslibBasins().follow(bowl, 1, [], 0.3, 0.4);
        }"""
    )
    assert (found["outcome"], found["steps"], found["lastRise"]) == (Outcome.CYCLING, 5000, 5000)


@pytest.mark.parametrize(("name", "fraction"), [("f1", 0.95), ("f2", 0.7), ("f3", 0.9), ("f4", 0.4)])
def test_the_map_shows_what_the_library_finds(visit, name, fraction):
    """Each pixel of the picture, through the workers and all passes."""
    half = WIDTH[name]
    page = visit(f"#basin-explorer?f={name}&fraction={fraction}&x=0&y=0.125&half={half}&x0=0&y0=0")
    x = -half + (np.arange(400) + 0.5) * (2 * half / 400)
    y = 0.125 + half - (np.arange(400) + 0.5) * (2 * half / 400)
    points = np.meshgrid(x, y)
    expected = basins.classify(LANDSCAPES[name], fraction * LARGEST[name], *points).outcome
    colours = legend(page)
    assert len(np.unique(colours, axis=0)) == len(Outcome)
    differs = (drawn(page) != colours[expected]).any(axis=-1)
    assert differs.mean() <= 0.001
    shares = page.locator(".bx-legend td:last-child").all_inner_texts()
    for outcome in (Outcome.STABLE, Outcome.UNSTABLE, Outcome.DIVERGED):
        assert float(shares[outcome].removesuffix(" %")) == pytest.approx(100 * (expected == outcome).mean(), abs=0.15)


# --- the page ----------------------------------------------------------------------------------------------------


def test_only_the_page_with_the_directive_loads_the_assets(small_site):
    assert "explorer/explorer.js" in (small_site / "chapter.html").read_text()
    assert "explorer/" not in (small_site / "index.html").read_text()


def test_without_javascript_the_figure_stands_in(small_site, new_context):
    page = new_context(java_script_enabled=False).new_page()
    page.goto(f"{small_site.as_uri()}/chapter.html")
    explorer = page.locator(".basin-explorer")
    assert explorer.inner_text() == "This needs JavaScript; A figure shows the same at five step sizes."
    assert explorer.get_by_role("link").get_attribute("href") == "#fig-maps"
    assert explorer.get_by_role("link").is_visible()


def test_a_click_follows_gradient_descent(visit):
    page = visit()
    before = drawn(page)
    assert len(np.unique(before.reshape(-1, 3), axis=0)) >= 3
    assert status(page).startswith("From (0.100, 2.500): converges to (0.975, 0.975), but not stably")
    overlay, loss = page.locator(".bx-map [role]"), page.locator(".bx-loss")
    picture, curve = overlay.screenshot(), loss.screenshot()
    box = overlay.bounding_box()
    page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 0.4 * box["height"])
    found = re.match(r"From \((.*), (.*)\): converges stably", status(page))
    assert abs(float(found[1]) - 0.8) < 0.05 and abs(float(found[2]) - 0.8) < 0.05
    assert "The loss falls at every step." in status(page)
    assert overlay.screenshot() != picture and loss.screenshot() != curve
    assert "Loss over" in loss.get_attribute("aria-label")
    np.testing.assert_array_equal(drawn(page), before)


def test_the_status_says_what_becomes_of_a_start(visit):
    page = visit()
    for name, fraction, start, words in [
        ("f2", 0.5, (0.1, 0.1), "converges stably to (0.000, 0.000), settled after 0 steps. The loss falls at every"),
        ("f4", 0.4, (-0.1, -2.5), "converges to (−0.975, −0.975), but not stably; settled after 64 steps. The loss ri"),
        ("f1", 0.9, (-1, -1), "diverges: further than 1000 from the origin after 3 steps."),
        ("f3", 0.1, (2.4, 0.5), "comes to rest at (2.192, 0.000), where the Hessian is singular, after 81 steps."),
        ("f4", 0.5, (0.5, -0.5), "comes to rest at the saddle ("),
        ("f3", 0.3, (0.001, 0.001), "undecided after 5000 steps"),
    ]:
        x0, y0 = start
        page.evaluate(
            "hash => { location.hash = hash; }",
            f"basin-explorer?f={name}&fraction={fraction}&x=0&y=0&half=3&x0={x0}&y0={y0}",
        )
        page.wait_for_function("words => document.querySelector('.bx-status').textContent.includes(words)", arg=words)


def test_step_size_and_function_change_the_map(visit):
    page = visit()
    seen = [drawn(page)]
    slider = page.get_by_label("Step size")
    slider.focus()
    for key in ("End", "ArrowLeft"):
        page.keyboard.press(key)
    assert float(slider.input_value()) == pytest.approx(0.99)
    assert page.locator(".bx-step-size").inner_text() == "η = 0.5211 = 0.990 · 2/λmax"
    assert slider.get_attribute("aria-valuetext") == "0.5211, 0.990 of the largest"
    seen.append(drawn(page))
    assert "diverges" in status(page)  # from the same starting point
    for name in ("f1", "f2", "f3"):
        page.get_by_label("Function").select_option(name)
        seen.append(drawn(page))
    assert len({picture.tobytes() for picture in seen}) == 5


def test_everything_works_by_keyboard(visit):
    page = visit()
    home = drawn(page)
    order = []
    page.get_by_label("Function").focus()
    for _ in range(6):
        order.append(page.evaluate("document.activeElement.name || document.activeElement.getAttribute('role')"))
        page.keyboard.press("Tab")
    assert order == ["f", "fraction", "application", "in", "out", "reset"]
    page.locator(".bx-map [role]").focus()
    for key in ("Shift+ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    assert status(page).startswith("Cross hair at (0.260, 2.340)")
    page.keyboard.press("Enter")
    assert status(page).startswith("From (0.260, 2.340): ")
    for key in ("+", "ArrowRight"):
        page.keyboard.press(key)
    assert (drawn(page) != home).any()
    page.keyboard.press("0")
    np.testing.assert_array_equal(drawn(page), home)


def test_wheel_and_drag_move_the_map(visit):
    page = visit()
    drawn(page)
    box = page.locator(".bx-map [role]").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, -500)
    page.wait_for_function("location.hash.includes('half=')")
    page.mouse.down()
    page.mouse.move(middle[0] + box["width"] / 4, middle[1], steps=5)
    page.mouse.up()
    drawn(page)
    # the address follows the drag in steps: wait for the last
    page.wait_for_function(
        """() => {
            const view = new URLSearchParams(location.hash.split("?")[1]);
            return Math.abs(view.get("x") / view.get("half") + 0.5) < 0.05;
        }"""
    )
    view = dict(part.split("=") for part in page.evaluate("location.hash").partition("?")[2].split("&"))
    assert 1 < float(view["half"]) < 3.9
    assert float(view["x"]) == pytest.approx(-float(view["half"]) / 2, rel=0.1)
    assert (float(view["x0"]), float(view["y0"])) == (0.1, 2.5), "a drag is no click"


SLOW_WORKER = """
    Object.defineProperty(navigator, "hardwareConcurrency", { value: 4 });
    window.Worker = class extends Worker {
        postMessage(work) {
            setTimeout(() => super.postMessage(work), work.row === 80 && work.stride > 1 ? 300 : 0);
        }
    };
"""


def test_a_coarse_pass_that_comes_late_hides_no_finer_one(visit):
    page = visit(before=SLOW_WORKER)
    np.testing.assert_array_equal(drawn(page), drawn(visit()))


def test_the_address_keeps_what_is_seen(visit):
    page = visit()
    assert "#" not in page.url
    page.get_by_label("Function").select_option("f3")
    page.get_by_role("button", name="Zoom in").click()
    page.get_by_label("Step size").press("ArrowLeft")
    page.locator(".bx-map [role]").press("ArrowRight")
    for key in ("Shift+ArrowUp", "Enter"):
        page.keyboard.press(key)
    # the address follows a little later
    page.wait_for_function("/f=f3&fraction=0.895&x=0.33.*half=1.66.*y0=1.16/.test(location.hash)")
    told, seen = status(page), drawn(page)
    again = visit("#" + page.url.partition("#")[2])
    assert status(again) == told
    np.testing.assert_array_equal(drawn(again), seen)


@pytest.mark.parametrize(
    "address", ["#elsewhere", "#basin-explorer?", "#basin-explorer?f=toString&fraction=0.5&x=0&y=0&half=1&x0=0&y0=0"]
)
def test_an_address_that_makes_no_sense_is_ignored(visit, address):
    page = visit(address)
    assert page.get_by_label("Function").input_value() == "f4"
    drawn(page)


@pytest.mark.parametrize("options", [DESKTOP, DESKTOP | {"color_scheme": "dark"}, PHONE], ids=["wide", "dark", "phone"])
def test_the_explorer_is_accessible(visit, options):
    page = visit(**options)
    drawn(page)
    found = Axe().run(page, context=".basin-explorer", options={"preload": False}).response["violations"]
    assert [(v["id"], v["impact"], [n["target"] for n in v["nodes"]]) for v in found] == []


def test_a_phone_shows_all_of_it_and_a_tap_works(visit):
    page = visit(**PHONE)
    drawn(page)
    outside = page.evaluate(
        """() => [...document.querySelectorAll(".basin-explorer, .basin-explorer *")]
          .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth
                    || e.getBoundingClientRect().left < 0).map(e => e.outerHTML.slice(0, 100))"""
    )
    assert outside == []
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    overlay = page.locator(".bx-map [role]")
    box = overlay.bounding_box()
    assert box["width"] == pytest.approx(box["height"]) and box["width"] > 280
    page.touchscreen.tap(box["x"] + 0.6 * box["width"], box["y"] + 0.4 * box["height"])
    tapped = re.match(r"From \((.*), (.*)\): ", status(page))
    assert [float(tapped[1]), float(tapped[2])] == pytest.approx([0.8, 0.8], abs=0.05)


def test_two_fingers_zoom(visit):
    page = visit(**PHONE)
    drawn(page)
    overlay = page.locator(".bx-map [role]")
    box = overlay.bounding_box()
    touch = page.context.new_cdp_session(page)
    for kind, apart in [("touchStart", 0.1), ("touchMove", 0.2), ("touchMove", 0.4), ("touchEnd", None)]:
        sides = (-1, 1) if apart else ()
        places = [(box["x"] + (0.5 + s * apart) * box["width"], box["y"] + 0.5 * box["height"]) for s in sides]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in places]})
    page.wait_for_function("location.hash.includes('half=')")
    assert float(re.search(r"half=([\d.]+)", page.url)[1]) == pytest.approx(4 / 4, rel=0.05)
    assert status(page).startswith("From (0.100, 2.500)"), "a pinch is no tap"
