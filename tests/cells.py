"""Functions that a chapter defines for itself, taken from its cells without running these."""

import ast
from collections.abc import Callable

from eoslib.chapter import presets


def functions(chapter: str, *names: str) -> list[Callable]:
    """The functions of these names, beside all that the chapter imports; name those that they call, too."""
    code = presets.code_cells(presets.read_chapter(presets.chapter_path(chapter)))
    statements = ast.parse("\n".join(cell.source for cell in code)).body
    imports = [s for s in statements if isinstance(s, ast.Import | ast.ImportFrom)]
    defined = [s for s in statements if isinstance(s, ast.FunctionDef) and s.name in names]
    assert sorted(s.name for s in defined) == sorted(names), "each is defined once"
    namespace: dict = {}
    exec(compile(ast.Module([*imports, *defined], []), f"notebooks/{chapter}.py", "exec"), namespace)
    return [namespace[name] for name in names]
