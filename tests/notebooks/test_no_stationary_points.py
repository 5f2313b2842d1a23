"""What the chapter on stationary points defines for itself, and the parameters that it refuses."""

import cells
import numpy as np
import pytest
import torch
import xarray as xr

from eoslib.chapter import presets
from eoslib.chapter.experiments import carry_on
from eoslib.measure.noise import Noise, draw
from eoslib.measure.progress import Loss

CHAPTER = presets.chapter_path("no_stationary_points")
NAMES = ("quantity", "in_the_end", "kept", "grown", "settling", "epoch", "after_longer", "oscillation", "over", "soon")
(
    quantity, in_the_end, kept, grown, settling, epoch, after_longer, oscillation, _, soon,
) = cells.functions(CHAPTER.stem, *NAMES)  # fmt: skip


class Run(dict):
    """What a finished run says of itself."""

    def __init__(self, steps, n=40, batch_size=10, **series):
        super().__init__(steps=steps, n=n, batches={"batch_size": batch_size})
        self.trace = xr.Dataset({name: ("step", values) for name, values in series.items()}, {"step": np.arange(steps)})


def every(third, of):
    """The values at every third step only."""
    return np.where(np.arange(len(of)) % third == 0, of, np.nan)


def test_what_a_run_has_in_the_end_is_over_its_start_or_its_middle():
    run = Run(9, gradient_norm=every(3, [2.0, 9, 9, 8, 9, 9, 4, 9, 9]), logged_noise=np.full(9, 4.0))
    assert quantity(run, "gradient_norm").step.values.tolist() == [0, 3, 6]
    assert (in_the_end(run, "gradient_norm"), kept(run, "gradient_norm"), grown(run, "gradient_norm")) == (4, 0.5, 2)
    assert soon(Run(9, n=30, gradient_norm=np.arange(9.0) ** 2), "gradient_norm") == 9  # an epoch of three steps
    assert in_the_end(run, "noise") == 2  # squared where examples share batch statistics


def test_a_loss_settles_where_the_second_half_of_a_period_changes_less():
    slopes = np.repeat([4.0, 1, 2, 1, 1, 1], 10)
    found = settling(Run(60, loss=-np.cumsum(slopes)))
    assert list(found.values()) == pytest.approx([0.25, 0.5, 1], rel=0.2)


def test_longer_training_is_compared_with_the_third_before():
    run = Run(40, gradient_norm=np.arange(40.0))  # ten epochs of four steps
    assert epoch(run) == 4
    assert after_longer(run, "gradient_norm", 3) == pytest.approx(np.mean(range(27, 40)) / np.mean(range(8, 12)))


def test_what_oscillates_has_quiet_averages_and_what_falls_has_none():
    assert oscillation(np.tile([1.0, -1.0], 20) + 0.001 * np.arange(40)) > 100
    assert oscillation(np.arange(40.0)) == pytest.approx(2, rel=0.1)
    noise = np.random.default_rng(0).normal(size=50)
    assert oscillation(noise) > 3 > oscillation(np.sort(noise))


@pytest.mark.parametrize("preset", ["quick", "standard", "paper"])
def test_every_sample_is_of_whole_minibatches_and_the_last_steps_are_measured(preset):
    parameters = presets.parameters(CHAPTER, preset)
    found = presets.declared_experiments(CHAPTER, parameters)
    trained = [run for name in ("fig1", "fig2", "fig3", "fig4", "fig4-short", "fig7", "trend") for run in found[name]]
    for run in (*found["fig8"], *found["fig9"]):
        (sizes,) = run.measurements
        for size in sizes.sizes:
            drawn = draw(run.problem.data.n, size, sizes._samples(size).batch_size, torch.Generator())
            assert len(drawn) >= 2  # which asks for whole minibatches
        assert sizes.sizes[-1] == run.problem.data.n
    for run in trained:
        (noise,) = (m for m in run.measurements if isinstance(m, Noise))
        assert noise.examples % noise.batch_size == 0 and 2 * noise.batch_size <= noise.examples <= run.problem.data.n
    losses = [m.every for run in trained for m in run.measurements if isinstance(m, Loss)]
    ends = [every for every in losses if not isinstance(every, int)]
    assert len(ends) == 2 * parameters["last_whole"]  # figure 6
    (cosine, *_), (longest,) = found["fig4"], found["fig3"]
    assert cosine.schedule.options == {"T_max": cosine.steps}
    assert all(set(range(longest.steps - parameters["last"], longest.steps)) <= set(every) for every in ends[:1])


def test_the_paper_preset_runs_on_a_small_text_of_wikitexts_form(tmp_path, monkeypatch):
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path))
    monkeypatch.setenv("EOSLIB_RUNS", str(tmp_path / "runs"))
    (tmp_path / "wikitext").mkdir()
    words = np.random.default_rng(0).choice(["the", "of", "<unk>", "@-@", ",", "."], (40, 10))
    text = "\n".join(f" {' '.join(line)} " for line in [["=", "Title", "="], *words.tolist()])
    (tmp_path / "wikitext" / "wiki.train.tokens").write_text(text)
    small = {
        "text_n": 24, "text_options": {"vocabulary": 9, "length": 12}, "text_epochs": 2, "text_batch_size": 6,
        "seeds": [0],
        "text_network": {"segment": 6, "memory": 6, "width": 10, "heads": 5, "layers": 4, "inner": 20},
        "text_sample": [2, 6],
    }  # fmt: skip
    found = presets.declared_experiments(CHAPTER, presets.parameters(CHAPTER, "paper", overrides=small))
    for experiment in found["fig4"]:
        run = carry_on(experiment)
        assert run.diverged_at is None and run["dataset"] == "wikitext" and run["clip"] == 0.25
        assert np.isfinite(quantity(run, "noise")).all() and len(quantity(run, "loss")) == 2
        assert quantity(run, "loss")[0] == pytest.approx(np.log(9), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("image_step_sizes", [0.1]), ("image_epochs", 2), ("images", "mnist"), ("text_n", 0), ("last", 1)],
)
def test_what_the_chapter_cannot_compare_is_refused(name, value):
    with pytest.raises(presets.ParameterError, match=f"parameter '{name}'"):
        presets.parameters(CHAPTER, overrides={name: value})
