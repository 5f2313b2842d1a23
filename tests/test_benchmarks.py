"""The README shows the benchmarks that were measured."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_table_in_the_readme_is_that_of_the_results():
    spec = importlib.util.spec_from_file_location("benchmarks_run", ROOT / "benchmarks/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = json.loads((ROOT / "benchmarks/results.json").read_text())
    assert f"<!-- benchmarks -->\n{module.table(results)}\n<!--" in (ROOT / "README.md").read_text()
    assert len(results["rows"]) > 10
