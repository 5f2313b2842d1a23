"""The course's tools are scripts beside each other, not a package; the assignments import them by their plain names."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "assignments"))
