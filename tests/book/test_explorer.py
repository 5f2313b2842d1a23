"""The explorer of starting points: its rule is that of papers.basins, and it works in a page, for every reader."""

import base64
import dataclasses
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from wells import WELLS

from eoslib.papers import basins
from eoslib.papers.basins import Outcome
from eoslib.problems.landscapes import LANDSCAPES, Landscape

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book/_ext"))
from as_javascript import as_javascript  # noqa: E402

POLYNOMIALS = ["f1", "f2", "f3", "f4"]
LARGEST = {"f1": 2 / 2, "f2": 2 / 2, "f3": 2 / 12, "f4": 2 / 3.8}
WIDTH = {"f1": 1.5, "f2": 1.5, "f3": 2.6, "f4": 4.0}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1200, "height": 1000}}

# of pytest-playwright's own fixture base_url
pytestmark = pytest.mark.filterwarnings("ignore:Session-scoped fixtures defined as instance methods")

CONF = f"""\
import sys
sys.path[:0] = [{str(ROOT / "book/_ext")!r}, {str(ROOT / "tests/book")!r}]
import basin_explorer
import wells
from eoslib.problems import landscapes

landscapes.LANDSCAPES["wells"] = wells.WELLS
basin_explorer.VIEWS["wells"] = wells.VIEW
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
SCREENS = 4  # above the explorer, so that a reader comes near it only by scrolling
CHAPTER = f"""\
# Chapter

<div style="height: {SCREENS * 1000}px"></div>

```{{basin-explorer}} f4 f1 f2 f3 wells
This needs JavaScript; {{ref}}`A figure <fig-maps>` shows the same at five step sizes.
```

```{{figure}} page.png
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

    def open_page(hash: str = "", before: str = "", near: bool = True, **options):
        page = new_context(**DESKTOP | options).new_page()
        page.add_init_script(before)
        page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(f"console: {m.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        own = (small_site.as_uri(), "blob:", "data:")
        page.on("request", lambda r: r.url.startswith(own) or complaints.append(f"asks {r.url}"))
        page.on("requestfailed", lambda r: complaints.append(f"failed: {r.url}"))
        page.goto(f"{small_site.as_uri()}/chapter.html{hash}")
        if near:
            page.locator(".basin-explorer").evaluate("e => e.scrollIntoView()")
            page.wait_for_selector(".bx-status:not(:empty)")
        return page

    yield open_page
    assert complaints == []


def drawn(page) -> np.ndarray:
    """The colours of the finished map, shape (rows, columns, 3)."""
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


def explored(landscape: Landscape) -> dict:
    """What the page knows of it."""
    return {landscape.name: as_javascript(landscape) | {"view": {}}}


def classified(page, landscape: Landscape, step_size: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Outcome, steps, last rise and minimiser of each point by the explorer's code, shape (4, number of points)."""
    found = page.evaluate(
        """([given, name, stepSize, xs, ys]) => {
          const { LANDSCAPES, traps, follow } = eoslibBasins(given);
          const balls = traps(LANDSCAPES[name], stepSize);
          return xs.map((x, i) => {
            const { outcome, steps, lastRise, minimiser } = follow(LANDSCAPES[name], stepSize, balls, x, ys[i]);
            return [outcome, steps, lastRise, minimiser];
          });
        }""",
        [explored(landscape), landscape.name, step_size, x.tolist(), y.tolist()],
    )
    return np.array(found).T


def test_the_rule_is_that_of_the_library(visit):
    page = visit()
    random = np.random.default_rng(0)
    outcomes, equal = [], []
    for name in POLYNOMIALS:
        for fraction in (0.1, 0.3, 0.6, 0.9, 0.99):
            x, y = random.uniform(-WIDTH[name], WIDTH[name], (2, 500))
            ours = classified(page, LANDSCAPES[name], fraction * LARGEST[name], x, y)
            b = basins.classify(LANDSCAPES[name], fraction * LARGEST[name], np.array(x), np.array(y))
            equal.append(ours == [b.outcome, b.steps, b.last_rise, b.minimiser])
            outcomes.append(b.outcome)
    outcomes, equal = np.concatenate(outcomes), np.concatenate(equal, axis=1)
    assert outcomes.size == 10_000 and len(np.unique(outcomes)) >= 4
    print("equal outcomes, steps, last rises, minimisers:", equal.mean(axis=1))
    assert equal.mean(axis=1).min() >= 0.999


def test_more_than_two_dimensions_are_refused():
    with pytest.raises(ValueError, match="two_bowls_10d has 10 dimensions; the explorer shows one or two"):
        as_javascript(LANDSCAPES["two_bowls_10d"])


SHOWN = [landscape for landscape in [*LANDSCAPES.values(), WELLS] if landscape.dimension <= 2]


@pytest.mark.parametrize("landscape", SHOWN, ids=lambda landscape: landscape.name)
def test_functions_are_those_of_the_library(visit, landscape):
    """Value and gradient are the same doubles, save for tanh, sine and cosine, which libraries round as they like."""
    points = np.random.default_rng(1).uniform(-3, 3, (100, landscape.dimension))
    values, sharpness = visit().evaluate(
        """([given, name, points]) => {
          const { value, fx, fy, sharpness } = eoslibBasins(given).LANDSCAPES[name];
          return [points.map(p => [value(...p), fx(...p), fy(...p)]), sharpness];
        }""",
        [explored(landscape), landscape.name, points.tolist()],
    )
    value = landscape.f(torch.from_numpy(points)).numpy()
    gradient = np.empty_like(points.T)
    landscape.gradient_at(points.T, gradient)
    found = np.array(values).T[: 1 + landscape.dimension]
    if landscape.name.startswith(("tanh", "sines")):
        np.testing.assert_allclose(found, [value, *gradient], rtol=1e-13, atol=1e-13)
    else:
        np.testing.assert_array_equal(found, [value, *gradient])
    if landscape.name in LARGEST:
        assert 2 / sharpness == LARGEST[landscape.name]


def traps(page, landscape: Landscape, step_size: float) -> list[list[float]]:
    """x, y and squared radius of each minimiser's trap."""
    return page.evaluate(
        """([given, name, stepSize]) => {
          const { LANDSCAPES, traps } = eoslibBasins(given);
          return traps(LANDSCAPES[name], stepSize);
        }""",
        [explored(landscape), landscape.name, step_size],
    )


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_traps_are_those_of_the_library(visit, name):
    page, landscape = visit(), LANDSCAPES[name]
    for fraction in (0.1, 0.5, 0.9, 0.99):
        step_size = fraction * LARGEST[name]
        balls = traps(page, landscape, step_size)
        radii2 = [(0.5 * basins.trap_radius(landscape, step_size, m)) ** 2 for m in landscape.minimisers]
        assert [tuple(ball[:2]) for ball in balls] == list(landscape.minimisers)
        np.testing.assert_allclose([ball[2] for ball in balls], radii2, rtol=1e-12)
    assert {ball[2] for ball in traps(page, landscape, LARGEST[name])} == {0}, "a minimiser at its limit traps nothing"


def test_one_dimension(visit):
    """A sharp and a flat well: below 2/λ of the sharp one each start stays; above, all go to the flat one."""
    page, x = visit(), np.array([-1.2, -0.9, 0.3, 2.0, 5.0])
    (sharp, _, _), (flat, _, _) = traps(page, WELLS, 0.2)
    assert (sharp, flat) == (-1, 3)
    outcome, _, last_rise, minimiser = classified(page, WELLS, 0.2, x, 0 * x)
    assert outcome.tolist() == [Outcome.STABLE] * 5 and minimiser.tolist() == [0, 0, 0, 1, 1] and not last_rise.any()
    outcome, _, last_rise, minimiser = classified(page, WELLS, 0.7, x, 0 * x)
    assert minimiser.tolist() == [1] * 5
    assert outcome[:2].tolist() == [Outcome.UNSTABLE] * 2 and outcome[3:].tolist() == [Outcome.STABLE] * 2
    assert last_rise[:2].min() > 0
    assert (classified(page, WELLS, 2.1, x, 0 * x)[0] > Outcome.UNSTABLE).all()


def test_a_minimum_that_is_not_listed_is_found(visit):
    """The traps then are those of the list that names it."""
    page, half = visit(), dataclasses.replace(WELLS, minimisers=((3.0,),))
    x = np.linspace(-1.2, 5, 20)
    whole, part = (classified(page, landscape, 0.2, x, 0 * x) for landscape in (WELLS, half))
    np.testing.assert_array_equal(whole[:3], part[:3])


def test_what_cannot_become_javascript_says_so():
    def branches(theta, out):
        out[0] = 1.0 if theta[0] < 0 else 2.0

    def strange(theta, out):
        out[0] = np.arctan2(theta[0], 1.0)

    with pytest.raises(TypeError, match="write where"):
        as_javascript(dataclasses.replace(WELLS, gradient_at=branches))
    with pytest.raises(NotImplementedError, match="arctan2"):
        as_javascript(dataclasses.replace(WELLS, gradient_at=strange))


def test_a_cycle_is_told_apart(visit):
    """On x² + y² with η = 1 each iterate is the negative of the one before; f₁ to f₄ have no such points."""
    found = visit().evaluate(
        """() => {
          const bowl = { dimension: 2, value: (x, y) => x * x + y * y, fx: (x, y) => 2 * x, fy: (x, y) => 2 * y };
          return eoslibBasins({}).follow(bowl, 1, [], 0.3, 0.4);
        }"""
    )
    assert (found["outcome"], found["steps"], found["lastRise"]) == (Outcome.CYCLING, 5000, 5000)
    assert found["period"] == 2


@pytest.mark.parametrize(("name", "fraction"), [("f1", 0.95), ("f2", 0.7), ("f3", 0.9), ("f4", 0.4)])
def test_the_map_shows_what_the_library_finds(visit, name, fraction):
    """Each pixel of the picture, through the workers and all passes."""
    half = WIDTH[name]
    page = visit(f"#explorer?f={name}&fraction={fraction}&x=0&y=0.125&half={half}&x0=0&y0=0")
    n = len(drawn(page))
    x = -half + (np.arange(n) + 0.5) * (2 * half / n)
    y = 0.125 + half - (np.arange(n) + 0.5) * (2 * half / n)
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


def test_nothing_is_loaded_before_a_reader_comes_near(visit, small_site):
    assert "explorer/" not in (small_site / "index.html").read_text()
    page = visit(near=False)
    asked = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    page.reload(wait_until="networkidle")
    assert "lazy.js" in {name.partition("?")[0] for name in asked}
    assert not {"basins.js", "explorer.js"} & set(asked)
    page.locator(".basin-explorer").scroll_into_view_if_needed()
    page.wait_for_selector(".bx-status:not(:empty)")
    assert {"basins.js", "explorer.js"} <= set(asked)


def test_a_link_opens_the_explorer(visit):
    """With the function and the step size alone; from elsewhere in the page, and from another page."""
    page = visit("#explorer?f=f2&fraction=0.8", near=False)
    page.wait_for_selector(".bx-status:not(:empty)")
    assert page.get_by_label("Function").input_value() == "f2"
    assert page.locator(".bx-step-size").inner_text().startswith("η = 0.8000")
    assert status(page).startswith("From (−0.350, 0.420)")
    page.evaluate("scrollTo(0, 0)")
    page.evaluate("location.hash = '#explorer?f=f3&fraction=0.2'")
    page.wait_for_function("document.querySelector('[name=f]').value === 'f3'")
    assert page.locator(".basin-explorer").evaluate("e => Math.abs(e.getBoundingClientRect().top)") < 100
    assert page.evaluate("document.activeElement.name") == "f"


def test_without_javascript_the_figure_stands_in(small_site, new_context):
    page = new_context(java_script_enabled=False).new_page()
    page.goto(f"{small_site.as_uri()}/chapter.html")
    assert not page.locator(".basin-explorer").is_visible()
    instead = page.locator("noscript p")
    assert instead.inner_text() == "This needs JavaScript; A figure shows the same at five step sizes."
    assert instead.get_by_role("link").get_attribute("href") == "#fig-maps"
    assert instead.get_by_role("link").is_visible()


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
            f"explorer?f={name}&fraction={fraction}&x=0&y=0&half=3&x0={x0}&y0={y0}",
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
    for name in ("f1", "f2", "f3", "wells"):
        page.get_by_label("Function").select_option(name)
        seen.append(drawn(page))
    assert len({picture.tobytes() for picture in seen}) == 6


def test_a_function_of_one_variable_is_a_graph_above_a_strip(visit):
    page = visit("#explorer?f=wells&fraction=0.4")
    colours, strip = legend(page), drawn(page)
    assert strip.shape[0] == 1 and strip.shape[1] > 300
    x = -4 + (np.arange(strip.shape[1]) + 0.5) * (8 / strip.shape[1])
    outcome = classified(page, WELLS, 0.2, x, 0 * x)[0]
    np.testing.assert_array_equal(strip[0], colours[outcome])
    assert page.locator(".bx-map [role]").get_attribute("aria-label") == "Graph of the function"
    assert status(page).startswith("From −0.900: converges stably to −1.000")
    box = page.locator(".bx-map [role]").bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.3 * box["height"])
    assert float(re.match(r"From (.*): converges stably to 3.000", status(page))[1]) == pytest.approx(2, abs=0.05)
    page.evaluate("location.hash = 'explorer?f=wells&fraction=1.4&x0=-0.9'")  # the sharp well holds it no longer
    page.wait_for_function("document.querySelector('.bx-status').textContent.includes('to 3.000, but not stably')")
    assert page.locator(".bx-step-size").inner_text() == "η = 0.7000 = 1.400 · 2/λmax"


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
    top = page.evaluate("scrollY")
    page.mouse.wheel(0, -100)
    page.wait_for_function("top => scrollY < top", arg=top)  # the wheel alone scrolls the page
    assert "#" not in page.url
    box = page.locator(".bx-map [role]").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -500)
    page.keyboard.up("Control")
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
    "address", ["#elsewhere", "#explorer?", "#explorer?f=toString&fraction=0.5&x=0&y=0&half=1&x0=0&y0=0"]
)
def test_an_address_that_makes_no_sense_is_ignored(visit, address):
    page = visit(address)
    assert page.get_by_label("Function").input_value() == "f4"
    drawn(page)


@pytest.mark.parametrize("options", [DESKTOP, DESKTOP | {"color_scheme": "dark"}, PHONE], ids=["wide", "dark", "phone"])
@pytest.mark.parametrize("name", ["f4", "wells"])
def test_the_explorer_is_accessible(visit, options, name):
    page = visit(f"#explorer?f={name}", **options)
    drawn(page)
    small = page.locator(".basin-explorer :is(button, select, input)").evaluate_all(
        "all => all.filter(e => Math.min(e.offsetWidth, e.offsetHeight) < 44).map(e => e.outerHTML)"
    )
    assert small == []
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


def fingers(page, *kinds_and_places) -> None:
    """Touch the screen; each event is a kind and the places of the fingers."""
    touch = page.context.new_cdp_session(page)
    for kind, places in kinds_and_places:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in places]})


def test_two_fingers_zoom(visit):
    page = visit(**PHONE)
    drawn(page)
    overlay = page.locator(".bx-map [role]")
    box = overlay.bounding_box()
    places = [
        [(box["x"] + (0.5 + s * apart) * box["width"], box["y"] + box["height"] / 2) for s in (-1, 1)]
        for apart in (0.1, 0.2, 0.4)
    ]
    fingers(page, ("touchStart", places[0]), *(("touchMove", p) for p in places[1:]), ("touchEnd", []))
    # a quarter of 4; the address lags behind
    page.wait_for_function("Math.abs(location.hash.match(/half=([\\d.]+)/)?.[1] - 1) < 0.05")
    assert status(page).startswith("From (0.100, 2.500)"), "a pinch is no tap"


def test_one_finger_scrolls_the_page(visit):
    page = visit(**PHONE)
    drawn(page)
    told, top = status(page), page.evaluate("scrollY")
    box = page.locator(".bx-map [role]").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + 0.9 * box["height"]
    moves = [("touchMove", [(x, y - 10 * i)]) for i in range(1, 15)]
    fingers(page, ("touchStart", [(x, y)]), *moves, ("touchEnd", []))
    page.wait_for_function("top => scrollY > top + 50", arg=top)
    assert status(page) == told and "#" not in page.url, "neither a tap nor a drag of the map"


def test_a_dense_screen_is_used(visit):
    page = visit(**DESKTOP | {"device_scale_factor": 2})
    width = page.locator(".bx-map").evaluate("e => e.clientWidth")
    assert drawn(page).shape[:2] == (min(2 * width, 1024),) * 2


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["wide", "phone"])
def test_a_panel_of_figure_2_opens_it_in_the_explorer(served, new_context, screen):
    """In the book itself."""
    page = new_context(**screen).new_page()
    page.goto(f"{served}/notebooks/forward_invariance.html")
    page.locator("#fig-forward-invariance-fig2").scroll_into_view_if_needed()
    panels = page.locator("#fig-forward-invariance-fig2 .eos-panel:visible")
    assert panels.count() == 20
    boxes = [panel.bounding_box() for panel in panels.all()]
    assert all(min(box["width"], box["height"]) >= 44 for box in boxes)
    panels.nth(7).click()
    page.wait_for_selector(".bx-status:not(:empty)")
    assert page.get_by_label("Function").input_value() == "f2"
    assert page.locator(".bx-step-size").inner_text().startswith("η = 0.6000 = 0.600")
