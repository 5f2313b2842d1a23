"""eoslib.problems.images and the data set that holds them: a small folder of each class, as ImageNet's."""

import dataclasses
import hashlib
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from eoslib import store
from eoslib.chapter.experiments import Descent, carry_on
from eoslib.chapter.provenance import provenance
from eoslib.dynamics.rules import Rule, Schedule
from eoslib.measure.noise import Noise
from eoslib.measure.progress import HeldOut, Loss
from eoslib.measure.stochastic_curvature import PowerIteration
from eoslib.problems import datasets, images, networks
from eoslib.problems.batches import Batches
from eoslib.problems.datasets import DataAbsent, DataError, load
from eoslib.problems.images import Images, UnreadableImages
from eoslib.problems.objective import ObjectiveOnDisk, SupervisedObjective
from eoslib.problems.problem import Data, Network, Training
from eoslib.store import journal

SIDE = 32  # of what is asked for
OPTIONS = {"size": SIDE, "n_classes": 3}
PROBLEM = Training(
    data=Data(dataset="image_folder", n=20, standardisation="per-channel", data_options=OPTIONS),
    network=Network(architecture="resnet101", sizes={"widths": [2, 3], "blocks": [1, 2]}, activation="relu"),
    loss="cross-entropy",
)
DEEP = Descent(
    chapter="test", experiment="deep", step_size=0.1, steps=8, problem=PROBLEM,
    rule=Rule(name="SGD", options={"momentum": 0.9, "weight_decay": 1e-4}),
    schedule=Schedule(name="StepLR", options={"step_size": 2, "gamma": 0.1}, advances="epoch"),
    batches=Batches(batch_size=6, part=True, flip=True),
    measurements=(
        Loss(every="epoch"), HeldOut(every=5, examples=6), Noise(every=3, batch_size=4, examples=12),
        PowerIteration(every=4, batch_size=6, iterations=2),
    ),
)  # fmt: skip


def write_folder(root, counts=(9, 8, 7), split="train", seed=0):
    """Photographs of several shapes, formats and colours: smooth, with a little noise, so that they compress well."""
    rng = np.random.default_rng(seed)
    for c, count in enumerate(counts):
        folder = root / split / f"n{c:08d}"
        folder.mkdir(parents=True)
        for i in range(count):
            rows, columns = rng.integers(40, 90, 2)
            slopes = np.add.outer(np.linspace(0, 60 + 20 * c, rows), np.linspace(0, 90, columns))
            colour = slopes[..., None] * rng.uniform(0.3, 1, 3) + 20 * c + rng.normal(0, 5, (rows, columns, 3))
            image = Image.fromarray(colour.clip(0, 255).astype(np.uint8))
            mode, ending = (("RGB", "JPEG"), ("L", "jpg"), ("RGBA", "png"))[i % 3]
            image.convert(mode).save(folder / f"{i}.{ending}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """imagenet/train of 24 images and imagenet/val of 9, under EOSLIB_DATA."""
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("EOSLIB_RUNS", str(tmp_path / "runs"))
    root = tmp_path / "data" / "imagenet"
    write_folder(root)
    write_folder(root, (3, 3, 3), "val", seed=1)
    return root


def given(split="train", n=24, **options):
    return load("image_folder", n, "per-channel", split, **OPTIONS | options)


def in_memory(data, loss="cross-entropy"):
    """The objective on disk, and the same on inputs held in memory."""
    network = networks.mlp(3 * SIDE**2, (4,), 3, "tanh", seed=0)
    on_disk = SupervisedObjective.of(network, data, loss, torch.device("cpu"), torch.float32)
    inputs = data.inputs.standardised(data.inputs.read(torch.arange(len(data.labels))), torch.float32)
    return on_disk, SupervisedObjective(network, inputs, data.labels, loss), networks.flatten(network)


# --- what is read ----------------------------------------------------------------------------------------


def test_classes_are_numbered_by_name_and_come_in_one_random_order(folder):
    data = given()
    assert data.labels.bincount().tolist() == [9, 8, 7] and data.n_classes == 3 and len(data.inputs) == 24
    assert data.labels[:9].unique().tolist() == [0, 1, 2]
    assert all(path.parent.name == f"n{label:08d}" for path, label in zip(data.inputs.paths, data.labels, strict=True))
    fewer = given(n=10)
    assert list(fewer.inputs.paths) == list(data.inputs.paths[:10]) and torch.equal(fewer.labels, data.labels[:10])
    assert given("test", 9).inputs.paths[0].parts[-3] == "val"


def test_pixels_are_those_of_the_middle_standardised_by_colour(folder):
    data = given()
    pixels = data.inputs.read(torch.arange(24))
    assert pixels.dtype == torch.uint8 and pixels.shape == (24, 3 * SIDE**2)
    for path, found in zip(data.inputs.paths, pixels, strict=True):
        image = Image.open(path).convert("RGB")
        side = min(image.size) * 7 / 8
        left, top = ((length - side) / 2 for length in image.size)
        middle = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        assert np.array_equal(found.view(3, SIDE, SIDE).movedim(0, 2), np.asarray(middle))
    planes = data.inputs.standardised(pixels, torch.float64).view(24, 3, -1)
    torch.testing.assert_close(planes.mean((0, 2)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(planes.std((0, 2), correction=0), torch.ones(3).double())


@pytest.mark.parametrize("workers", [0, 1, images.WORKERS])
def test_it_does_not_matter_how_many_processes_read(folder, workers, monkeypatch):
    data, minibatches = given(), torch.randperm(24, generator=torch.Generator().manual_seed(1)).split(7)
    monkeypatch.setattr(images, "WORKERS", workers)
    before = torch.get_rng_state()
    read = list(data.inputs.batches(minibatches, seed=5))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, next(data.inputs.batches([m], seed=5))) for x, m in zip(read, minibatches, strict=True))
    assert torch.equal(data.inputs.read(minibatches[0]), next(data.inputs.batches(minibatches[:1])))


def test_a_random_part_lies_within_the_image_and_has_the_declared_area_and_shape():
    rng, areas, ratios = np.random.default_rng(0), [], []
    for _ in range(2000):
        left, top, right, bottom = images._part(300, 200, rng)
        assert 0 <= left < right <= 300 and 0 <= top < bottom <= 200
        areas.append((right - left) * (bottom - top) / 60_000)
        ratios.append(np.log((right - left) / (bottom - top)))
    assert 0.08 <= min(areas) < 0.1 and 0.8 < max(areas) <= 8 / 9 + 1e-9  # which at 4 : 3 is as high
    assert np.log(3 / 4) <= min(ratios) < -0.27 and 0.27 < max(ratios) <= np.log(4 / 3) + 1e-9
    assert images._part(1000, 2, rng) == images._middle(1000, 2)  # of which no such part is found


def test_each_seed_and_image_has_its_own_part(folder):
    data, chosen = given(), [torch.tensor([3, 3, 4])]
    (first,), (again,), (other,) = (list(data.inputs.batches(chosen, seed=s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[0], data.inputs.read(chosen[0])[0])


def test_the_fingerprint_follows_names_sizes_and_content(folder):
    seen = {datasets.fingerprint("image_folder", **OPTIONS)}
    seen.add(datasets.fingerprint("image_folder", "test", **OPTIONS))
    path = folder / "train" / "n00000001" / "2.png"
    os.rename(path, path.with_name("02.png"))
    seen.add(datasets.fingerprint("image_folder", **OPTIONS))
    path.with_name("02.png").unlink()
    seen.add(datasets.fingerprint("image_folder", **OPTIONS))
    assert len(seen) == 4
    train = datasets.fingerprint("image_folder", **OPTIONS)
    (folder / "val" / "n00000001" / "0.JPEG").unlink()
    assert datasets.fingerprint("image_folder", **OPTIONS) == train  # which does not hang on the test split


def test_the_fingerprint_is_a_hash_of_the_sorted_list_and_the_sample(folder):
    digest = hashlib.sha256()
    paths = sorted(folder.glob("train/*/*"))
    for path in paths:
        digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
    for path in paths:  # all of so few
        digest.update(path.read_bytes())
    assert datasets.fingerprint("image_folder", **OPTIONS) == digest.hexdigest()


# --- what is refused -------------------------------------------------------------------------------------


def test_a_folder_without_classes_and_one_with_others(folder):
    (folder / "train" / "n00000002").rename(folder / "elsewhere")
    message = r"train has 2 classes with images, not n_classes = 3: a folder is expected for each class"
    with pytest.raises(DataError, match=message):
        given()
    (folder / "train" / "n00000003").mkdir()  # empty
    with pytest.raises(DataError, match=message):
        given()
    for path in sorted(folder.glob("train/*")):
        path.rename(folder / path.name)
    with pytest.raises(DataError, match="train has 0 classes with images"):
        given()
    (folder / "train").rmdir()
    with pytest.raises(DataError, match="train is missing; the train split is expected there"):
        given()


def test_absent_and_too_few_and_standardised_otherwise(folder, monkeypatch, tmp_path):
    with pytest.raises(DataError, match="n must lie between 1 and the 24 train examples there are, not 25"):
        given(n=25)
    with pytest.raises(DataError, match="unknown standardisation of image_folder 'per-pixel'"):
        load("image_folder", 5, **OPTIONS)
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataAbsent, match=r"image-net\.org"):
        given()
    assert PROBLEM.data.fingerprint is None
    full = dataclasses.replace(PROBLEM, data=dataclasses.replace(PROBLEM.data, n=1_000_000))
    costs = [problem.work("float32") for problem in (PROBLEM, full)]  # known without the data
    assert costs[1][0] > 1e4 * costs[0][0] and costs[1][1] < 6 * costs[0][1]  # of 20 and of 100 images at once


@pytest.mark.parametrize(("option", "value"), [("size", 0), ("n_classes", 1)])
def test_impossible_options(option, value):
    with pytest.raises(DataError, match=f"image_folder: {option} must be at least"):
        load("image_folder", 5, **{option: value})


def test_random_parts_are_of_images_on_disk():
    objective = SupervisedObjective(networks.cnn((1, 4, 4), 2, 2, seed=0), torch.ones(4, 16), torch.zeros(4), "mse-sum")
    with pytest.raises(ValueError, match="random parts are of images on disk"):
        Batches(batch_size=2, part=True).begin(objective, 0)


def damage(path, how):
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"<html>not found</html>", "cut": content[: len(content) // 2]}[how])


@pytest.mark.parametrize("how", ["empty", "text", "cut"])
@pytest.mark.parametrize("ending", ["JPEG", "png"])
def test_an_unreadable_image_is_named_and_counted_and_the_mean_colour_takes_its_place(folder, how, ending, monkeypatch):
    monkeypatch.setattr(images, "UNREADABLE", 0.05)  # of 24 images, one
    data = given()
    i = next(i for i, path in enumerate(data.inputs.paths) if path.suffix == f".{ending}")
    damage(data.inputs.paths[i], how)
    name = data.inputs.paths[i].name
    with pytest.warns(UserWarning, match=rf"{name} cannot be read \(.*\); of 24 images 1 so far") as warned:
        pixels = data.inputs.read(torch.arange(24))
        again = data.inputs.read(torch.tensor([i]))
    assert len(warned) == 1 and data.inputs.unreadable == {f"{data.inputs.paths[i].parent.name}/{name}"}
    assert torch.equal(pixels[i], again[0])
    assert data.inputs.standardised(again, torch.float32).abs().max() < 0.05
    other = next(j for j in range(24) if j != i)
    damage(data.inputs.paths[other], "text")
    message = rf"{data.inputs.paths[other].name} cannot be read .*24 images 2 so far, which may be 1"
    with pytest.raises(UnreadableImages, match=message):
        data.inputs.read(torch.arange(24))


def test_the_statistics_leave_out_what_cannot_be_read(folder, monkeypatch):
    monkeypatch.setattr(images, "UNREADABLE", 0.05)
    path = given().inputs.paths[3]
    damage(path, "text")
    with pytest.warns(UserWarning, match="cannot be read"):
        mean, std = datasets.ImageFolder(**OPTIONS | {"size": 31}).statistics()  # not those of before
        paths = [other for other in given().inputs.paths if other != path]
    pixels = Images(paths, 31, mean, std).read(torch.arange(23)).view(23, 3, -1).double()
    torch.testing.assert_close(mean, pixels.mean((0, 2)))
    torch.testing.assert_close(std, pixels.std((0, 2), correction=0))


# --- the objective ---------------------------------------------------------------------------------------


def test_value_gradient_and_products_are_those_of_the_same_inputs_in_memory(folder, monkeypatch):
    monkeypatch.setattr("eoslib.problems.objective.CHUNK_ON_DISK", 7)
    on_disk, other, theta = in_memory(given())
    assert isinstance(on_disk, ObjectiveOnDisk)
    there, here = on_disk.evaluate(theta), other.evaluate(theta)
    for a, b in zip(there, here, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(on_disk.value(theta), here.value, rtol=1e-5, atol=1e-6)
    v = torch.randn(len(theta), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(on_disk.expand(theta).hvp(v), other.expand(theta).hvp(v), rtol=1e-4, atol=1e-4)
    chosen = torch.tensor([5, 2, 11])
    assert torch.equal(on_disk.batch(chosen).gradient(theta), other.batch(chosen).gradient(theta))
    assert [len(part.labels) for _, part in on_disk.parts()] == [7, 7, 7, 3]
    assert on_disk.gradients == 2 and on_disk.products == 1


def test_steps_see_the_same_minibatches_as_in_memory(folder):
    on_disk, other, theta = in_memory(given(n=20))
    live = [Batches(batch_size=6, repeats=2).begin(objective, 3) for objective in (on_disk, other)]
    for _ in range(14):  # past the end of the first epoch, whose last minibatch is smaller
        (gradient, loss), (expected, expected_loss) = (batches.see(theta, None) for batches in live)
        assert torch.equal(gradient, expected) and torch.equal(loss, expected_loss)
        assert live[0].epoch_begins == live[1].epoch_begins


@pytest.mark.parametrize("k", [0, 1, 3, 7, 8])
def test_what_is_restored_within_an_epoch_goes_on_with_the_same_parts(folder, k):
    on_disk, _, theta = in_memory(given(n=20))
    on_disk.network.shape = (3, SIDE, SIDE)
    declared = Batches(batch_size=6, repeats=2, part=True, flip=True)
    live, restored = declared.begin(on_disk, 5), declared.begin(on_disk, 6)
    for _ in range(k):
        live.see(theta, None)
    restored.load(live.state())
    gradients = []
    for _ in range(9):
        (gradient, loss), (again, loss_again) = live.see(theta, None), restored.see(theta, None)
        assert torch.equal(gradient, again) and torch.equal(loss, loss_again)
        gradients.append(gradient)
    assert not torch.equal(gradients[0], gradients[-1])


def test_epochs_have_parts_of_their_own(folder):
    on_disk, _, theta = in_memory(given(n=4))
    seen = [Batches(batch_size=4, part=True).begin(on_disk, 0).see(theta, None)[1]]
    live = Batches(batch_size=4, part=True).begin(on_disk, 0)
    seen += [live.see(theta, None)[1] for _ in range(3)]
    assert seen[0] == seen[1] and len({x.item() for x in seen}) == 3


# --- the whole way ---------------------------------------------------------------------------------------


def test_a_deep_network_is_trained_measured_recorded_and_resumed_within_an_epoch(folder, monkeypatch):
    """The code path of ImageNet and ResNet-101, on a small folder."""
    plain = carry_on(DEEP)
    seen = {name: plain.trace[name].values[np.isfinite(plain.trace[name].values)] for name in plain.trace}
    counts = {"batch_loss": 8, "logged_noise": 3, "power_sharpness": 2, "test_loss": 2, "loss": 2}
    assert {name: len(seen[name]) for name in counts} == counts and seen["logged_noise"].min() > 0
    monkeypatch.setenv("EOSLIB_RUNS", str(folder / "others"))
    process = DEEP.process(torch.device("cpu"))
    monkeypatch.setattr(journal, "time", SimpleNamespace(monotonic=lambda: float(process.t)))  # a second a step
    assert store.carry_on(process, DEEP.identity, budget=6) is None  # the second epoch has begun
    process = DEEP.process(torch.device("cpu"))
    again = store.carry_on(process, DEEP.identity)
    assert again.manifest["resumes"] == 1 and again.manifest["values_sha256"] == plain.manifest["values_sha256"]


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_what_a_run_could_not_read_stands_in_its_manifest_and_on_the_page(folder, monkeypatch, shown):
    monkeypatch.setattr(images, "UNREADABLE", 0.05)
    path = given(n=20).inputs.paths[3]
    damage(path, "cut")
    run = dataclasses.replace(DEEP, steps=4, measurements=(Loss(every=(0,)),))  # all images are seen at the first step
    process = run.process(torch.device("cpu"))
    process.step()
    state = process.state()
    assert state["unreadable"] == [f"{path.parent.name}/{path.name}"]
    process = dataclasses.replace(run, measurements=(Loss(every="end"),)).process(torch.device("cpu"))
    process.load(state)
    assert process.state()["unreadable"] == state["unreadable"]
    finished = carry_on(run)
    assert finished.manifest["unreadable"] == state["unreadable"]
    provenance([finished])
    row = shown[0]["data"]["application/vnd.eoslib.provenance+json"]["images that could not be read"]
    assert row == f"1: {path.parent.name}/{path.name}"
