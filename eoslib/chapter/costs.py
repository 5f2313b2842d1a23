"""What an experiment will cost, said before it starts."""

import statistics

from eoslib import store
from eoslib.chapter.experiments import LABELS, Experiment, described

RATE = 2e10  # operations a second of one core, where no run has said how long a step takes
FREE = (*LABELS, "step_size", "steps", "stop_accuracy", "seed")  # what a step's cost does not depend on


def cost(experiment: Experiment) -> tuple[float, float]:
    """Estimated seconds, at most, and bytes of memory: from the seconds per step of finished runs of the same kind on
    the same problem, else from counted work. Nothing is timed and no data are read."""
    operations, memory = experiment.work()
    wanted = {name: value for name, value in described(experiment).items() if name not in FREE}
    alike = [
        m["wall_seconds"] / max(1, m["step"])
        for m in store.manifests()
        if all(m["identity"].get(name) == value for name, value in wanted.items())
    ]
    return experiment.steps * (statistics.median(alike) if alike else operations / RATE), memory
