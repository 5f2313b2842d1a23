"""The presets of a chapter and its strict parameters.

A chapter is one percent-format notebook, ``notebooks/<chapter>.py``. The one cell tagged ``parameters`` names
every parameter with its type and its value at the ``quick`` preset, one annotated assignment a line::

    step_size: PositiveFloat = 2 / 5
    hidden: Annotated[list[PositiveInt], Len(min_length=1)] = [32, 32]
    activation: Literal["tanh", "relu"] = "tanh"

``notebooks/presets/<chapter>.yaml`` holds what the other presets change, and a caller may override values.
All three pass the same check, before anything runs: papermill alone would inject any name and any text.
"""

import ast
import copy
import difflib
import functools
import io
import operator
import tokenize
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import pydantic
import yaml

LIBRARY = Path(__file__).resolve().parents[1]


def _find_notebooks() -> Path:
    """The notebooks of the checkout this library lies in, else of the current directory, which may be that folder."""
    folders = (LIBRARY.parent / "notebooks", Path.cwd() / "notebooks", Path.cwd())
    return next((f for f in folders if f.name == "notebooks" and f.is_dir()), Path("notebooks"))


# Chapters, presets and ledgers: all that is found by a chapter's name is found here.
NOTEBOOKS = _find_notebooks()

# All that an annotation in a parameters cell may use.
TYPES = {t.__name__: t for t in (int, float, str, bool, list, dict, annotated_types.Interval, annotated_types.Len)}
TYPES |= {"Literal": Literal, "Annotated": Annotated}
TYPES |= {name: getattr(pydantic, name) for name in ("PositiveInt", "PositiveFloat", "NonNegativeInt")}
STRICT = pydantic.ConfigDict(strict=True, allow_inf_nan=False)


class ParameterError(ValueError):
    """A name, type, value or preset that a chapter does not accept; the message lists what it does accept."""


def chapters(root: Path | None = None) -> list[str]:
    """Names of all chapters: the stems of ``root/*.py``, where ``root`` is the notebooks folder."""
    return sorted(path.stem for path in Path(root or NOTEBOOKS).glob("*.py"))


def chapter_path(chapter: str, root: Path | None = None) -> Path:
    """Path of a chapter's source; ParameterError lists the chapters there are."""
    path = Path(root or NOTEBOOKS) / f"{chapter}.py"
    if not path.is_file():
        raise ParameterError(f"unknown chapter {chapter!r}{_did_you_mean(chapter, chapters(root))}")
    return path


def read_chapter(path: Path, tag: str | None = None):
    """A chapter's source as a ``nbformat.NotebookNode`` without outputs; with ``tag``, of the code cells with it."""
    path = Path(path)
    notebook = copy.deepcopy(_parsed(path, path.stat().st_mtime_ns, path.stat().st_size))
    if tag:
        notebook.cells = code_cells(notebook, tag)
    return notebook


@functools.lru_cache(maxsize=16)  # parsing takes a hundred times as long as copying, and a sweep asks for each case
def _parsed(path: Path, modified: int, size: int):
    import jupytext

    return jupytext.read(path, fmt="py:percent")


def code_cells(notebook, *tags: str) -> list:
    """The code cells of a notebook, in order; with ``tags``, only those that carry one of them."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in code if not tags or set(tags) & set(cell.metadata.get("tags", []))]


def presets(path: Path) -> dict[str, dict[str, Any]]:
    """The presets of the chapter at ``path``: name -> the parameters it changes. ``quick`` always exists."""
    file = path.parent / "presets" / f"{path.stem}.yaml"
    found = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}) if file.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(p, dict | NoneType) for p in found.values()):
        raise ParameterError(f"{file}: expected preset names, each with a mapping of parameters")
    return {"quick": {}} | {name: preset or {} for name, preset in found.items()}


def published(root: Path | None = None) -> dict[str, str]:
    """The preset at which each chapter is published (``presets/published.yaml``), ``{}`` without it."""
    file = Path(root or NOTEBOOKS) / "presets" / "published.yaml"
    return (yaml.safe_load(file.read_text(encoding="utf-8")) or {}) if file.is_file() else {}


def parameters(path: Path, preset: str = "quick", overrides: Mapping[str, Any] | None = None) -> dict:
    """All parameters of a chapter at a preset, with ``overrides``, checked.

    Text is read as a value, with exact arithmetic, unless the parameter is itself a text, so a command line can pass
    on what it was given: {"step_size": "2/60", "hidden": "[64, 64]"} gives 0.03333333333333333 and [64, 64].
    Raises ParameterError for an unknown preset or name, and for a value of the wrong type or out of range.
    """
    known = presets(path)
    if preset not in known:
        raise ParameterError(f"{path.stem}: unknown preset {preset!r}{_did_you_mean(preset, known)}")
    types, texts, values = _declared(path)
    problems = []
    for source, given in ((f" (preset {preset})", known[preset]), ("", overrides or {})):
        for name, value in given.items():
            if name == "preset" and "preset" in types:
                problems.append(f"parameter 'preset'{source}: a preset is chosen, not set (use --preset)")
            elif name not in types:
                problems.append(f"unknown parameter {name!r}{source}{_did_you_mean(name, types)}")
            else:
                try:
                    values[name] = _read(value, types[name])
                except ValueError as error:
                    problems.append(f"parameter {name!r}{source}: {error}")
    if "preset" in types:
        values["preset"] = preset
    for name, type_ in types.items():
        try:
            values[name] = pydantic.TypeAdapter(type_, config=STRICT).validate_python(values[name])
        except pydantic.ValidationError as error:
            problems.append(f"parameter {name!r}: {_expected(texts[name], values[name], error)}")
    if problems:
        raise ParameterError(f"{path.stem}: {'; '.join(problems)}. Valid parameters: {', '.join(types)}")
    return values


def _declared(path: Path) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """Types, the same as written, and default values of the parameters cell, without executing it."""
    cells = code_cells(read_chapter(path), "parameters")
    if len(cells) != 1:
        raise ParameterError(f"{path}: expected one cell tagged 'parameters', found {len(cells)}")
    try:
        lines = ast.parse(cells[0].source).body
    except SyntaxError as error:
        raise ParameterError(f"{path}: the parameters cell: {error}") from None
    types, texts, values = {}, {}, {}
    for line in lines:
        try:
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
                raise ValueError("expected 'name: type = value'")
            name = line.target.id
            if name in types:
                raise ValueError("the name is declared twice")
            texts[name] = ast.unparse(line.annotation)
            types[name] = eval(texts[name], {"__builtins__": {}}, TYPES)
            values[name] = _evaluate(line.value)
        except Exception as error:
            cause = f"{ast.unparse(line)!r}: {error}; a type may use {', '.join(TYPES)}"
            raise ParameterError(f"{path}: parameters cell: {cause}") from None
    return types, texts, values


def described(path: Path, preset: str = "quick") -> list[dict[str, str]]:
    """Each parameter of the chapter at ``path``: name, type and range in words, its value at the preset, its meaning,
    which is the comment above, of all parameters until the next one, with that beside it."""
    types, _, declared = _declared(path)
    values = parameters(path, preset)
    above, beside = {}, {}
    (cell,) = code_cells(read_chapter(path), "parameters")
    for token in tokenize.generate_tokens(io.StringIO(cell.source).readline):
        if token.type == tokenize.COMMENT:
            alone = token.line.strip().startswith("#")
            (above if alone else beside)[token.start[0]] = token.string.removeprefix("#").strip()
    found = []
    for line in ast.parse(cell.source).body:
        name, text = line.target.id, beside.get(line.end_lineno, "")
        text = "" if text.startswith("fmt:") else text
        heading = next((above[i] for i in reversed(above) if i < line.lineno), "")
        value = ast.unparse(line.value) if values[name] == declared[name] else repr(values[name])  # 2 / 45, as written
        meaning = "; ".join(filter(None, [heading, text]))
        found.append({"name": name, "type": in_words(types[name]), "value": value, "meaning": meaning})
    return [row for row in found if row["name"] != "preset"]  # which is chosen, not set


def in_words(type_: Any) -> str:
    """A type of a parameters cell, with its range."""
    if type_ is NoneType:
        return "null"
    if get_origin(type_) is Annotated:
        type_, *limits = get_args(type_)
        return " ".join([in_words(type_), *filter(None, map(_range, limits))])
    inside = [repr(x) if get_origin(type_) is Literal else in_words(x) for x in get_args(type_)]
    if get_origin(type_) in (Literal, Union, UnionType):
        return " or ".join(inside)
    named = {int: "integer", float: "number", str: "text", bool: "true or false", list: "list", dict: "dictionary"}
    word = named[get_origin(type_) or type_]
    return f"{word} of {', '.join(inside)}" if inside else word


def _range(limit: Any) -> str:
    """An annotation of a number, or of a list's length."""
    if isinstance(limit, annotated_types.Len):
        most = "or more" if limit.max_length is None else f"to {limit.max_length}"
        fixed = limit.min_length == limit.max_length
        return f"(length {limit.min_length})" if fixed else f"(length {limit.min_length} {most})"
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bounds = {sign: getattr(limit, name, None) for name, sign in signs.items()}
    return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None)


ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
WORDS = {"true": True, "false": False, "null": None}


def _evaluate(node: ast.expr) -> Any:
    """The value of a parsed expression made of constants, bare words, lists, dictionaries and + - * /."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.Name():
            return WORDS.get(node.id, node.id)
        case ast.List():
            return [_evaluate(item) for item in node.elts]
        case ast.Dict() if None not in node.keys:
            return {_evaluate(k): _evaluate(v) for k, v in zip(node.keys, node.values, strict=True)}
        case ast.UnaryOp(op=ast.USub()):
            return -_number(node.operand)
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            return ARITHMETIC[type(node.op)](_number(node.left), _number(node.right))
    raise ValueError(f"cannot read {ast.unparse(node)!r} as a value")


def _number(node: ast.expr) -> int | float:
    value = _evaluate(node)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{ast.unparse(node)!r} is not a number")
    return value


def number(text: str) -> int | float:
    """A number as on the command line, with exact arithmetic: 2/60. Raises ValueError."""
    try:
        return _number(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ArithmeticError) as error:
        raise ValueError(f"cannot read {text!r} as a number: {error}") from None


def _read(given: Any, type_: Any) -> Any:
    """``given`` with its texts turned into values where ``type_`` expects none. The type is not checked."""
    if get_origin(type_) is Annotated:
        type_ = get_args(type_)[0]
    if isinstance(given, str):
        options = get_args(type_) if get_origin(type_) in (Literal, Union, UnionType) else (type_,)
        if any(option is str or isinstance(option, str) for option in options):
            return None if NoneType in options and given in ("null", "None") else given
        try:
            given = _evaluate(ast.parse(given.strip(), mode="eval").body)
        except (SyntaxError, RecursionError, MemoryError, ArithmeticError) as error:
            raise ValueError(f"cannot read {given!r} as a value: {error}") from None
    if isinstance(given, list) and get_origin(type_) is list:
        return [_read(item, get_args(type_)[0]) for item in given]
    if isinstance(given, dict) and get_origin(type_) is dict:
        return {key: _read(item, get_args(type_)[1]) for key, item in given.items()}
    return given  # a bare word too, where no text fits: the check of the type will say so


def _expected(expected: str, given: Any, error: pydantic.ValidationError) -> str:
    """Say what was expected, from the declared type and pydantic's first complaint."""
    first = error.errors()[0]
    inside = "" if first["input"] == given else f" in {given!r}"
    return f"expected {expected} ({first['msg'].lower()}), given {first['input']!r}{inside}"


def _did_you_mean(name: str, valid) -> str:
    near = difflib.get_close_matches(name, list(valid), n=1)
    return (f", did you mean {near[0]!r}?" if near else "") + f" (valid: {', '.join(sorted(valid))})"


def declared_experiments(path: Path, parameters: Mapping[str, Any]) -> dict[str, list]:
    """What a chapter's cells tagged ``experiments`` declare: name -> experiments, at these parameters. The cells run in
    this process, in order, with the parameters as their only variables."""
    namespace = dict(parameters)
    for cell in code_cells(read_chapter(path), "experiments"):
        exec(compile(cell.source, f"{path} (a cell tagged experiments)", "exec"), namespace)
    experiments = namespace.get("experiments", {})
    if not isinstance(experiments, dict):
        raise TypeError(f"{path}: 'experiments' should be a dictionary, not {type(experiments).__name__}")
    return experiments
