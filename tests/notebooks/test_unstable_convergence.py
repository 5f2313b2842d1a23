"""What the chapter on unstable convergence says of a run that never becomes unstable, as other parameters make some."""

import cells
import numpy as np
import pytest
import xarray as xr

NAMES = (
    "onset", "after_onset", "second_half", "settled", "sharpness_ratio", "mismatched", "mean_smoothness",
    "relation5_error", "unexplained", "variation", "along_the_step", "change_of_curvature", "lipschitz_exponent",
    "above_share", "unstable_eigenvalues", "share_in_span", "curvature_from",
)  # fmt: skip
of = dict(zip(NAMES, cells.functions("unstable_convergence", *NAMES), strict=True))


class Run:
    """A finished run of 40 steps, whose sharpness, measured at every tenth, is this one."""

    step_size = 0.5

    def __init__(self, sharpness):
        rng = np.random.default_rng(0)
        measured = np.where(np.arange(40) % 10 == 0, sharpness, np.nan)
        names = ("relative_progress", "directional_smoothness", "alignment", "unstable_alignment")
        self.trace = xr.Dataset({name: ("step", rng.uniform(size=40)) for name in names}, {"step": np.arange(40)})
        self.trace["sharpness"] = "step", measured
        self.trace["eigenvalues"] = ("step", "eigenvalue"), np.stack([measured, measured], axis=1)
        tau = xr.DataArray([0.25, 0.5, 0.75, 1.0], dims="tau", coords={"tau": range(4)})  # counted, as in a trace
        self.trace["segment_smoothness"] = tau / 2 + 0 * self.trace.alignment  # the mean up to τ of a curvature τ


@pytest.mark.parametrize(
    "measured",
    [
        lambda run: of["settled"](run).relative_progress.mean(),
        lambda run: of["after_onset"](run).relative_progress.median(),
        lambda run: of["sharpness_ratio"](run, of["settled"](run)),
        lambda run: of["mean_smoothness"](run, of["settled"](run)),
        lambda run: of["unexplained"](run, of["mismatched"](of["after_onset"](run), "directional_smoothness")),
        lambda run: of["variation"](of["along_the_step"](of["settled"](run))),
        lambda run: of["lipschitz_exponent"](run),
        lambda run: of["above_share"](run, of["after_onset"](run)),
        lambda run: of["unstable_eigenvalues"](run, of["after_onset"](run)),
        lambda run: of["share_in_span"](of["after_onset"](run)),
        lambda run: of["curvature_from"](run, of["after_onset"](run)),
    ],
)
def test_of_a_run_without_an_onset_nothing_is_known_from_there_on_and_nothing_is_warned_of(measured):
    assert np.isfinite(measured(Run(sharpness=5.0)))
    assert np.isnan(measured(Run(sharpness=3.0)))  # below 2/η


def test_where_the_curvature_is_linear_along_the_step_the_exponent_is_1():
    assert of["lipschitz_exponent"](Run(sharpness=5.0)) == pytest.approx(1)
