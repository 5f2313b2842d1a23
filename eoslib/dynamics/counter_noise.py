"""Noise without a generator's state: a function of seed, starting point, step and coordinate.

SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") turns seed and starting point
into a key, and key, step and coordinate into 64 bits; what is drawn from them compiled loops compute as they go.
"""

import numpy as np

from eoslib.problems.compiled import compiled

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment


def _bits(state, number):
    """The output of this number (from 0) of SplitMix64 begun at `state`; both uint64, at least one of them an array."""
    z = state + GOLDEN * (number + np.uint64(1))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def keys(seed: int, starts: np.ndarray) -> np.ndarray:
    """The key (uint64) of each starting point, by its number."""
    return _bits(_bits(np.array([seed % 2**64], np.uint64), np.uint64(0)), starts.astype(np.uint64))


def _fraction(key, number):
    # an odd multiple of 2⁻⁵³, so that its mean is 1/2 and its logarithm finite
    return (np.int64(_bits(key, number) >> np.uint64(12)) + 0.5) * 2.0**-52


def _uniform(key, number):
    return 2 * _fraction(key, number) - 1


def _normal(key, number):  # Box–Muller
    angle = 2 * np.pi * _fraction(key, number + np.uint64(1))
    return np.sqrt(-2 * np.log(_fraction(key, number))) * np.cos(angle)


NOISES = {"none": None, "uniform": _uniform, "normal": _normal}


def noise_at(noise: str, sigma: float, seed: int, start: int, step: int, dimension: int) -> np.ndarray:
    """The ξ_t (dimension,) that is added to ∇f(θ_t) in the step t = `step` from the starting point number `start`.
    noise: "none", "uniform" on [−σ, σ], or "normal" of standard deviation σ; independent in all coordinates."""
    if NOISES[noise] is None:
        return np.zeros(dimension)
    draw, key = compiled(NOISES[noise]), keys(seed, np.array([start]))[0]
    return np.array([sigma * draw(key, np.uint64(2 * (step * dimension + k))) for k in range(dimension)])
