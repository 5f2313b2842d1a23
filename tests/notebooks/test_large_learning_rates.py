"""What the chapter on large learning rates defines for itself, and the parameters that it refuses."""

import cells
import numpy as np
import pytest
from scipy import stats

from eoslib.chapter import presets

CHAPTER = presets.chapter_path("large_learning_rates")
closed_form, interval, noise_variance = cells.functions(CHAPTER.stem, "closed_form", "interval", "noise_variance")


def test_noise_of_small_steps_has_the_variance_of_the_closed_form():
    """Appendix G, on quadratics; with the paper's kσ² and k²σ² where steps are small."""
    for k, repeated in ((1, False), (4, False), (4, True), (10, True)):
        measured = noise_variance(k, 0.1, repeated, 40_000, 1)
        assert measured == pytest.approx(closed_form(k, 0.1, repeated), rel=0.04)
        assert closed_form(k, 1e-6, repeated) == pytest.approx(k ** (1 + repeated), rel=1e-4)
    assert noise_variance(1, 0.1, False, 1000) == noise_variance(1, 0.1, True, 1000)


def test_the_interval_of_a_share_is_the_exact_one():
    for k, n in ((0, 50), (7, 50), (50, 50)):
        wanted = stats.binomtest(k, n).proportion_ci(0.99, "exact")
        np.testing.assert_allclose(interval(k / n, n, 0.99), wanted)


@pytest.mark.parametrize(
    ("name", "value"), [("fig8_largest", 0.05), ("fig2_largest", 2.0), ("fig6_largest", 1.0), ("appg_k", [0, 2])]
)
def test_a_step_size_at_which_a_landscape_has_no_bound_or_no_step_at_all_is_refused(name, value):
    with pytest.raises(presets.ParameterError, match=f"parameter '{name}'"):
        presets.parameters(CHAPTER, overrides={name: value})
    presets.declared_experiments(CHAPTER, presets.parameters(CHAPTER, "standard"))
