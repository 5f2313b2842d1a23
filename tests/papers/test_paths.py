"""eoslib.papers.paths: principal components from inner products."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from eoslib.papers.paths import Displacements, principal_components


def test_principal_components_are_those_of_scikit_learn():
    points = np.random.default_rng(0).standard_normal((12, 40)) * np.geomspace(1, 0.01, 40)
    points -= points[0]
    projections, explained = principal_components(points @ points.T, 3)
    peer = PCA(3, svd_solver="full").fit(points)
    theirs = points @ peer.components_.T  # which, unlike `transform`, leaves the origin where it is
    signs = np.sign(np.take_along_axis(theirs, abs(theirs).argmax(0)[None], 0))
    np.testing.assert_allclose(projections, signs * theirs, atol=1e-12)
    np.testing.assert_allclose(explained, peer.explained_variance_ratio_, rtol=1e-12)
    np.testing.assert_allclose(projections[0], 0, atol=1e-12)


@pytest.mark.parametrize("k", [0, 3])
def test_more_components_than_there_are_is_an_error(k):
    with pytest.raises(ValueError, match=f"of 3 points there are 1 to 2 principal components, not {k}"):
        principal_components(np.eye(3), k)


def test_displacements_are_multiplied_block_by_block(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    paths = [{t: torch.randn(50, generator=generator) for t in steps} for steps in ((0, 10), (0, 5, 10))]
    monkeypatch.setattr("eoslib.papers.paths.BLOCK", 7)
    process = Displacements(paths)
    process.step()
    row = process.observe()["step"]
    points = torch.stack([theta for path in paths for theta in path.values()]).double()
    points = points - points[0]
    np.testing.assert_allclose(row["gram"], points @ points.T, rtol=1e-6)
    assert process.finished and row["path"] == [0, 0, 1, 1, 1] and row["at"] == [0, 10, 0, 5, 10]
