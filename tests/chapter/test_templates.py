"""chapter.templates: what a value says is text, and a template is found wherever the library is installed."""

import fnmatch
import subprocess
import sys
import tomllib

import jinja2
import pytest

from eoslib.chapter import presets, templates

HOSTILE = '<b title="&">'


def test_values_are_text_and_missing_ones_are_an_error(tmp_path):
    (tmp_path / "page.html").write_text('<p class="{{ x }}">{{ x }}</p>{% include "part.html" %}')
    (tmp_path / "part.html").write_text("{{ x }}")
    page = templates.render(tmp_path / "page.html", x=HOSTILE)
    assert page == '<p class="X">X</p>X'.replace("X", "&lt;b title=&#34;&amp;&#34;&gt;")
    with pytest.raises(jinja2.UndefinedError, match="'x' is undefined"):
        templates.render(tmp_path / "page.html", y=1)
    with pytest.raises(jinja2.TemplateNotFound):
        templates.render("no-such.html")


def test_the_box_in_place_of_runs_that_are_missing():
    box = templates.render("not_run.html", missing=3, experiment="exp3", command="eoslib -p 'a=<1>'", minutes=12.6)
    assert " ".join(box.split()) == (
        '<div class="eos-box eos-not-run"><strong>Not run at this preset:</strong> 3 run(s) of exp3. '
        "<code>eoslib -p &#39;a=&lt;1&gt;&#39;</code> computes them, in at most 13 minutes on this machine's CPU.</div>"
    )


def test_the_list_of_what_runs_were_made_from():
    shown = templates.render("provenance.html", rows={"seeds": "0, 1", "about the data": HOSTILE})
    assert "".join(line.strip() for line in shown.splitlines()) == (
        '<dl class="eos-provenance"><dt>seeds</dt><dd>0, 1</dd>'
        "<dt>about the data</dt><dd>&lt;b title=&#34;&amp;&#34;&gt;</dd></dl>"
    )


def test_a_wheel_has_every_folder_of_the_library_and_all_that_is_not_code():
    root = presets.LIBRARY.parent
    setuptools = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {str(path.parent.relative_to(root)).replace("/", ".") for path in presets.LIBRARY.rglob("__init__.py")}
    assert set(setuptools["packages"]) == packages
    others = [p for p in presets.LIBRARY.rglob("*.*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert others
    for path in others:
        package = str(path.parent.relative_to(root)).replace("/", ".")
        patterns = setuptools["package-data"].get(package, [])
        assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), path


def test_a_machine_that_only_computes_needs_no_jinja():
    code = "import sys; sys.modules['jinja2'] = None; import eoslib.chapter.claims, eoslib.chapter.experiments"
    done = subprocess.run([sys.executable, "-c", code], cwd=presets.LIBRARY.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
