"""eoslib.problems.datasets on files written here; on real CIFAR-10 files too where EOSLIB_DATA names some."""

import hashlib
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from eoslib.problems import datasets
from eoslib.problems.datasets import DataAbsent, DataError, describe, download, fingerprint, load

REAL_DATA = os.environ.get("EOSLIB_DATA")
TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]
ROW = 3073


def write_cifar10(folder: Path, rows_per_file: int = 4) -> np.ndarray:
    """Random images in the official layout; returns their rows (6 × rows_per_file, 3073), the test's last."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (6, rows_per_file, ROW), dtype=np.uint8)
    rows[..., 0] %= 10
    for file, content in zip([*TRAIN, "test_batch.bin"], rows, strict=True):
        content.tofile(folder / file)
    return rows.reshape(-1, ROW)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine with no data: EOSLIB_DATA unset, an empty cache; returns the cache."""
    monkeypatch.delenv("EOSLIB_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache" / "eoslib"


@pytest.fixture
def cifar10(nowhere, tmp_path, monkeypatch):
    """Small CIFAR-10 files under EOSLIB_DATA; returns their folder and their rows."""
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    return folder, write_cifar10(folder)


# --- standardisation -------------------------------------------------------------------------------------


def test_per_pixel_takes_the_statistics_of_the_whole_training_set(cifar10):
    pixels = cifar10[1][:20, 1:].astype(float)
    data = load("cifar10", 7)
    expected = (pixels[:7] - pixels.mean(0)) / pixels.std(0)
    torch.testing.assert_close(data.inputs, torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(load("cifar10", 20).inputs[:7], data.inputs)


def test_per_channel_takes_the_statistics_of_the_subset(cifar10):
    images = cifar10[1][:7, 1:].reshape(7, 3, 32, 32).astype(float)
    mean, std = images.mean((0, 2, 3), keepdims=True), images.std((0, 2, 3), keepdims=True)
    expected = ((images - mean) / std).reshape(7, -1)
    data = load("cifar10", 7, "per-channel")
    torch.testing.assert_close(data.inputs, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize(("standardisation", "axes"), [("per-pixel", 0), ("per-channel", (0, 2))])
def test_the_test_split_is_standardised_with_training_statistics(cifar10, standardisation, axes):
    images = cifar10[1][:, 1:].reshape(24, 3, 1024).astype(float)
    train, test = images[:20], images[20:]
    expected = (test - train.mean(axes, keepdims=True)) / train.std(axes, keepdims=True)
    data = load("cifar10", 4, standardisation, split="test")
    torch.testing.assert_close(data.inputs, torch.tensor(expected.reshape(4, -1), dtype=torch.float32))
    assert data.labels.tolist() == cifar10[1][20:, 0].tolist()


def test_pixels_that_never_vary_become_zero():
    constant = load_digits().data.std(0) == 0
    data = load("digits", 100)
    assert constant.any()
    assert torch.all(data.inputs[:, constant] == 0)
    assert torch.isfinite(data.inputs).all()


def test_digits_whole():
    data = load("digits", 1797)
    varying = data.inputs[:, load_digits().data.std(0) > 0].double()
    torch.testing.assert_close(varying.mean(0), torch.zeros(61).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(varying.std(0, correction=0), torch.ones(61).double(), atol=1e-6, rtol=0)
    assert data.labels.tolist() == load_digits().target.tolist()


@settings(deadline=None)
@given(n=st.integers(2, 1797))
def test_per_channel_without_colours_is_one_mean_and_one_deviation(n):
    inputs = load("digits", n, "per-channel").inputs.double()
    assert abs(inputs.mean()) < 1e-6
    assert abs(inputs.std(correction=0) - 1) < 1e-6


# --- some of the classes ---------------------------------------------------------------------------------


def test_the_first_of_each_class_in_file_order(nowhere, tmp_path, monkeypatch):
    """Cats and dogs, standardised among themselves; the labels are numbered in the order asked for."""
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path))
    rows = write_cifar10(tmp_path / "cifar-10-batches-bin", 40).reshape(6, 40, ROW)
    train, test = rows[:5].reshape(-1, ROW), rows[5]
    cats, dogs = (train[train[:, 0] == label] for label in (3, 5))
    each = min(len(cats), len(dogs)) - 1
    chosen = np.concatenate([cats[:each], dogs[:each]])[:, 1:].astype(float)

    data = load("cifar10", 2 * each, classes=(3, 5))
    assert data.labels.tolist() == [0] * each + [1] * each and data.n_classes == 2
    every = np.concatenate([cats, dogs])[:, 1:].astype(float)
    expected = (chosen - every.mean(0)) / every.std(0)
    torch.testing.assert_close(data.inputs, torch.tensor(expected, dtype=torch.float32))

    data = load("cifar10", 2 * each, "per-channel", classes=[5, 3])  # a list, as from a preset
    planes = chosen.reshape(2, each, 3, 1024)[::-1].reshape(-1, 3, 1024)
    mean, std = planes.mean((0, 2), keepdims=True), planes.std((0, 2), keepdims=True)
    expected = ((planes - mean) / std).reshape(2 * each, -1)
    torch.testing.assert_close(data.inputs, torch.tensor(expected, dtype=torch.float32))

    held_out = load("cifar10", 2, split="test", classes=(3, 5))
    first = np.stack([test[test[:, 0] == label][0, 1:] for label in (3, 5)]).astype(float)
    expected = (first - every.mean(0)) / np.where(every.std(0) == 0, 1, every.std(0))
    torch.testing.assert_close(held_out.inputs, torch.tensor(expected, dtype=torch.float32))


def test_three_classes_of_digits():
    images, labels = load_digits(return_X_y=True)
    data = load("digits", 30, classes=(8, 0, 3))
    assert data.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    chosen = np.concatenate([images[labels == label][:10] for label in (8, 0, 3)])
    kept = images[np.isin(labels, (8, 0, 3))]
    std = np.where(kept.std(0) == 0, 1, kept.std(0))
    expected = (chosen - kept.mean(0)) / std
    torch.testing.assert_close(data.inputs, torch.tensor(expected, dtype=torch.float32))
    assert data.fingerprint == fingerprint("digits")


def test_too_few_of_a_class_says_how_many_there_are(cifar10):
    folder, rows = cifar10
    rows[:20, 0] = [3] * 5 + [5] * 7 + [0] * 8
    for i, file in enumerate(TRAIN):
        rows[4 * i : 4 * i + 4].tofile(folder / file)
    assert load("cifar10", 10, classes=(3, 5)).labels.tolist() == [0] * 5 + [1] * 5
    message = r"cifar10: n = 12 takes 6 train examples of each class, but there are 5 of class 0, 7 of class 1"
    with pytest.raises(DataError, match=message):
        load("cifar10", 12, classes=(3, 5))


@pytest.mark.parametrize("n", [-2, 0, 1, 7])
def test_n_must_be_divisible_by_the_classes(n):
    with pytest.raises(DataError, match=rf"digits: n must be a positive multiple of the 2 classes, not {n}"):
        load("digits", n, classes=(1, 2))


@pytest.mark.parametrize("classes", [(3,), (3, 3), (3, 10), (-1, 3), ("3", "5")])
def test_impossible_classes(classes):
    with pytest.raises(DataError, match="classes must be two or more different labels from 0 to 9"):
        load("digits", 10, classes=classes)


# --- a hundred classes ---------------------------------------------------------------------------------------


@pytest.fixture
def cifar100(nowhere, tmp_path, monkeypatch):
    """Small CIFAR-100 files under EOSLIB_DATA; returns their folder and their rows, training before test."""
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "cifar-100-binary"
    folder.mkdir(parents=True)
    rows = np.random.default_rng(1).integers(0, 256, (12, 2 + 3072), dtype=np.uint8)
    rows[:, 0] %= 20  # coarse
    rows[:, 1] %= 100  # fine
    rows[:8].tofile(folder / "train.bin")
    rows[8:].tofile(folder / "test.bin")
    return folder, rows


def test_the_labels_of_cifar100_are_the_fine_ones(cifar100):
    _, rows = cifar100
    data = load("cifar100", 5)
    assert data.n_classes == 100 and data.labels.tolist() == rows[:5, 1].tolist()
    pixels = rows[:8, 2:].astype(float)
    expected = (pixels[:5] - pixels.mean(0)) / np.where(pixels.std(0) == 0, 1, pixels.std(0))
    torch.testing.assert_close(data.inputs, torch.tensor(expected, dtype=torch.float32))
    assert load("cifar100", 4, split="test").labels.tolist() == rows[8:, 1].tolist()
    assert data.fingerprint == hashlib.sha256(rows[:8].tobytes()).hexdigest()
    assert "cifar100: files not verified" in data.warning and "8 train images" in data.warning


@pytest.mark.parametrize("coarse", [0, 19, 255])  # which no one looks at
def test_a_fine_label_above_99_is_named(cifar100, coarse):
    folder, rows = cifar100
    rows[3, :2] = coarse, 100
    rows[:8].tofile(folder / "train.bin")
    with pytest.raises(DataError, match=r"train\.bin: row 3 has the fine label 100; CIFAR-100 has labels from 0 to 99"):
        load("cifar100", 5)


@pytest.mark.parametrize("size", [0, 3073, 8 * 3074 - 1])
def test_a_truncated_file_of_cifar100_is_named(cifar100, size):
    path = cifar100[0] / "train.bin"
    path.write_bytes(path.read_bytes()[:size])
    message = rf"train\.bin is empty or truncated inside a row: it has {size:,} bytes, expected a multiple of 3,074 "
    with pytest.raises(DataError, match=message + r"\(1 coarse label byte \+ 1 fine label byte \+ 3,072 pixels\)"):
        load("cifar100", 5)


def test_some_classes_of_cifar100(cifar100):
    folder, rows = cifar100
    rows[:8, 1] = [99, 3, 7, 99, 3, 3, 99, 0]
    rows[:8].tofile(folder / "train.bin")
    assert load("cifar100", 4, classes=(99, 3)).labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(DataError, match="different labels from 0 to 99, not"):
        load("cifar100", 4, classes=(99, 100))


def test_absent_cifar100_says_how_to_get_it(nowhere):
    with pytest.raises(DataAbsent, match=r"download\('cifar100'\).*cifar-100-binary"):
        load("cifar100", 5)


# --- sentences -------------------------------------------------------------------------------------------

PHRASES = 'sentence\tlabel\nA good , good film \t1\nbad \t0\na "bad film\t0\nGood plot and a film \t1\n'


@pytest.fixture
def sst2(nowhere, tmp_path, monkeypatch):
    """A small SST-2 under EOSLIB_DATA; returns its folder."""
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "sst2"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text(PHRASES)
    (folder / "dev.tsv").write_text("sentence\tlabel\nclichés and a plot\t0\na clichés film\t1\n", encoding="utf-8")
    return folder


def test_tokens_are_words_by_frequency(sst2):
    data = load("sst2", 4, length=5)
    # a, film, good: 3 times; bad: twice, though not "bad; then those of once: `"`, `,`, and, plot
    a, film, good, quoted_bad, comma, and_, bad, plot = 2, 3, 4, 5, 6, 7, 8, 9
    assert data.inputs.dtype == torch.int64
    assert data.inputs.tolist() == [
        [bad, 0, 0, 0, 0], [a, quoted_bad, film, 0, 0], [a, good, comma, good, film], [good, plot, and_, a, film]
    ]  # fmt: skip
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert (data.name, data.n_classes, data.warning) == ("sst2", 2, None)


def test_rare_words_are_unknown_and_long_phrases_cut(sst2):
    assert load("sst2", 4, vocabulary=5, length=3).inputs.tolist() == [[1, 0, 0], [2, 1, 3], [2, 4, 1], [4, 1, 1]]


def test_words_of_the_training_split_alone_are_known(sst2):
    data = load("sst2", 2, split="test", length=4)
    assert data.inputs.tolist() == [[1, 7, 2, 9], [2, 1, 3, 0]]
    assert data.labels.tolist() == [0, 1]


def test_tokens_are_not_standardised(sst2):
    assert torch.equal(load("sst2", 2).inputs, load("sst2", 2, "per-channel").inputs)


def test_fingerprint_of_sst2(sst2):
    train, dev = (sst2 / "train.tsv").read_bytes(), (sst2 / "dev.tsv").read_bytes()
    assert load("sst2", 2).fingerprint == hashlib.sha256(train).hexdigest()
    assert fingerprint("sst2", split="test", length=7) == hashlib.sha256(train + dev).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must have the header"),
        ("sentence\tlabel\n", "phrases after it"),
        ("good\t1\n", r'header "sentence<tab>label".*begins \'good'),
        ("sentence\tlabel\ngood\t1\nbad\n", "line 3 is 'bad'"),
        ("sentence\tlabel\ngood\t1\nbad", "line 3 is 'bad'"),  # cut inside a line
        ("sentence\tlabel\ngood\t2\n", "line 2 is .*label 0 or 1"),
        ("sentence\tlabel\ngood\t1\t1\n", "line 2"),
        ("sentence\tlabel\n \t1\n", "line 2"),
        ("sentence\tlabel\ngood\t1\n\nbad\t0\n", "line 3 is ''"),
    ],
)
def test_malformed_phrases(sst2, content, message):
    (sst2 / "train.tsv").write_text(content)
    with pytest.raises(DataError, match=rf"(?s)train\.tsv.*{message}"):
        load("sst2", 2)


def test_phrases_that_are_no_text(sst2):
    (sst2 / "train.tsv").write_bytes(b"sentence\tlabel\ngood \xff\t1\n")
    with pytest.raises(DataError, match=r"train\.tsv is damaged: .*0xff"):
        load("sst2", 2)


def test_a_missing_split_of_sst2(sst2):
    (sst2 / "dev.tsv").unlink()
    load("sst2", 2)
    with pytest.raises(DataError, match=r"dev\.tsv is missing.*test split"):
        load("sst2", 2, split="test")


@pytest.mark.parametrize(("option", "value"), [("vocabulary", 2), ("length", 0)])
def test_sst2_refuses_impossible_options(option, value):
    with pytest.raises(DataError, match=rf"{option} must be .*not {value}"):
        load("sst2", 2, **{option: value})


# --- all of them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "power_law", "cifar10"])
def test_shapes_and_types(name, cifar10):
    data = load(name, 15)
    assert data.name == name
    assert data.inputs.shape[0] == 15
    assert data.inputs.dtype == torch.float32
    assert data.labels.shape == (15,)
    assert data.labels.dtype == torch.int64
    assert data.fingerprint == fingerprint(name)


# --- texts -----------------------------------------------------------------------------------------------

LINES = " \n a b a <unk> \n\n c a b\n"  # 12 words with the ends of the lines


@pytest.fixture
def wikitext(nowhere, tmp_path, monkeypatch):
    """A small WikiText under EOSLIB_DATA; returns its folder."""
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "wikitext"
    folder.mkdir(parents=True)
    (folder / "wiki.train.tokens").write_text(LINES)
    (folder / "wiki.valid.tokens").write_text("b ü a\nc c\n", encoding="utf-8")
    (folder / "wiki.test.tokens").write_text("x y x y x y\n")
    return folder


def test_each_word_of_a_text_is_followed_by_the_next(wikitext):
    data = load("wikitext", 2, length=4, vocabulary=5)  # unknown, end of line, a, b, c
    # <eos> a b a <unk> | <eos> <eos> c a b | what is left over
    assert data.inputs.tolist() == [[1, 2, 3, 2], [1, 1, 4, 2]]
    assert data.labels.tolist() == [[2, 3, 2, 0], [1, 4, 2, 3]]
    assert (data.inputs.dtype, data.n_classes) == (torch.int64, 5)
    assert load("wikitext", 2, length=4, vocabulary=4).labels.tolist() == [[2, 3, 2, 0], [1, 0, 2, 3]]


def test_words_of_the_training_text_alone_are_known(wikitext):
    assert load("wikitext", 1, split="test", length=5).inputs.tolist() == [[3, 0, 2, 1, 4]]
    assert load("wikitext", 1, length=5, part="test").inputs.tolist() == [[2, 3, 2, 3, 2]]


def test_fingerprint_of_wikitext(wikitext):
    train, valid, test = ((wikitext / f"wiki.{part}.tokens").read_bytes() for part in ("train", "valid", "test"))
    assert load("wikitext", 1, length=3).fingerprint == hashlib.sha256(train).hexdigest()
    assert fingerprint("wikitext", split="test", part="test") == hashlib.sha256(test + valid).hexdigest()


@pytest.mark.parametrize("text", ["", "\n \n\t\n"])
def test_a_text_without_tokens(wikitext, text):
    (wikitext / "wiki.train.tokens").write_text(text)
    with pytest.raises(DataError, match=r"wiki\.train\.tokens is a text without tokens"):
        load("wikitext", 1)


def test_a_text_that_is_none(wikitext):
    (wikitext / "wiki.train.tokens").write_bytes(b"good \xff\n")
    with pytest.raises(DataError, match=r"wiki\.train\.tokens is damaged"):
        load("wikitext", 1)


def test_a_text_shorter_than_what_is_asked_for(wikitext):
    with pytest.raises(DataError, match="n must lie between 1 and the 0 train examples"):
        load("wikitext", 1, length=12)


@pytest.mark.parametrize(("option", "value"), [("vocabulary", 2), ("length", 0), ("part", "valid")])
def test_wikitext_refuses_impossible_options(wikitext, option, value):
    with pytest.raises(DataError, match=f"wikitext: {option} must be"):
        load("wikitext", 1, **{option: value})


# --- the generated data ----------------------------------------------------------------------------------


def test_a_markov_text_follows_its_chain_and_its_entropy_is_the_best_loss():
    source = datasets.Markov(vocabulary=6, length=4, seed=3)
    inputs, labels = source.examples("train")
    p = source.transitions
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_array_equal(inputs[:, 1:], labels[:, :-1])
    pairs = np.zeros((6, 6))
    np.add.at(pairs, (inputs, labels), 1)
    counts = pairs.sum(1, keepdims=True)
    assert (abs(pairs / counts - p) < 5 * np.sqrt(p * (1 - p) / counts) + 1e-12).all()
    loss = -np.log(p[inputs[:, -1], labels[:, -1]])
    assert loss.mean() == pytest.approx(source.entropy, abs=4 * loss.std() / len(loss) ** 0.5)
    assert datasets.Markov(vocabulary=6, spread=1e6).entropy == pytest.approx(np.log(6), abs=1e-5)
    assert (inputs[1:, 0] != labels[:-1, -1]).any()  # the next stretch begins after the last label
    assert len({fingerprint("markov", **o) for o in ({}, {"seed": 1}, {"length": 5}, {"spread": 1.0})}) == 4
    assert torch.equal(load("markov", 50).inputs, torch.from_numpy(datasets.Markov().examples("train")[0][:50]))


@pytest.mark.parametrize(("option", "value"), [("vocabulary", 1), ("length", 0), ("spread", 0.0)])
def test_markov_refuses_impossible_options(option, value):
    with pytest.raises(DataError, match=f"markov: {option} must be"):
        load("markov", 10, **{option: value})


def test_noisy_digits_are_digits_with_fresh_noise_of_the_declared_size():
    """Each example is nearest to a digit of its label, and what is left is normal, of its own."""
    images, labels = load_digits(return_X_y=True)
    for split, n in (("train", 50_000), ("test", 5_000)):
        inputs, drawn = datasets.NoisyDigits(noise=0.5).examples(split)
        assert inputs.shape == (n, 64)
        first = torch.from_numpy(inputs[:2000]).double()
        distance = torch.cdist(first, torch.from_numpy(images))
        nearest = distance.argmin(1).numpy()
        assert (labels[nearest] == drawn[:2000]).all()
        noise = first.numpy() - images[nearest]
        assert noise.std() == pytest.approx(0.5, rel=0.01) and abs(noise.mean()) < 0.01
        assert abs(np.mean(noise[1:] * noise[:-1])) < 0.01 and len(np.unique(nearest)) > 1000
        assert np.bincount(drawn) / n == pytest.approx(np.bincount(labels) / len(labels), abs=0.01)


def test_many_noisy_digits_are_not_learnt_by_heart_and_few_are():
    """The best linear fit to ±1 labels: of few examples it is exact, of many no better than on the test examples."""

    def accuracies(n):
        train, test = load("noisy_digits", n), load("noisy_digits", 5_000, split="test")
        design = [torch.cat([d.inputs, torch.ones(len(d.inputs), 1)], 1).double() for d in (train, test)]
        weight = torch.linalg.lstsq(design[0], torch.nn.functional.one_hot(train.labels, 10).double()).solution
        return [(x @ weight).argmax(1).eq(d.labels).double().mean() for x, d in zip(design, (train, test), strict=True)]

    few, many = accuracies(60), accuracies(50_000)
    assert few[0] == 1 and few[1] < 0.8
    assert many[0] < 0.9 and abs(many[0] - many[1]) < 0.02


def test_noisy_digits_are_reproducible_and_their_fingerprint_follows_the_options():
    assert torch.equal(load("noisy_digits", 50, seed=1).inputs, load("noisy_digits", 50, seed=1).inputs)
    options = ({}, {"seed": 1}, {"noise": 1.0})
    assert len({fingerprint("noisy_digits", **o) for o in options} | {fingerprint("noisy_digits", "test")}) == 4
    assert load("noisy_digits", 20, classes=(3, 8)).labels.tolist() == [0] * 10 + [1] * 10


@pytest.mark.parametrize("noise", [-1.0, float("inf"), float("nan")])
def test_noisy_digits_refuse_impossible_noise(noise):
    with pytest.raises(DataError, match="noisy_digits: noise must be finite and not negative"):
        load("noisy_digits", 10, noise=noise)


@pytest.mark.parametrize("standardisation", ["per-pixel", "per-channel"])
def test_power_law_keeps_its_spectrum_when_standardised(standardisation):
    inputs = load("power_law", 10_000, standardisation, d=32).inputs.double()
    eigenvalues = torch.linalg.eigvalsh(inputs.T @ inputs / len(inputs)).flip(0)
    k = torch.arange(1, 33, dtype=torch.float64)
    torch.testing.assert_close(eigenvalues / eigenvalues.sum(), k**-1.5 / (k**-1.5).sum(), rtol=0.1, atol=0)


def test_power_law_labels_are_linear_in_the_whitened_inputs():
    """Least squares from the inputs to the teacher's scores recovers every label of both splits."""
    source = datasets.PowerLaw(d=16, n_classes=5, seed=3)
    teacher, z = source._draws()
    scores = z["train"] @ teacher.T
    matrix, residual, *_ = np.linalg.lstsq(source.examples("train")[0], scores)
    assert residual.max() < 1e-12
    for split in "train", "test":
        inputs, labels = source.examples(split)
        assert np.array_equal(np.argmax(inputs @ matrix, axis=1), labels)
    assert set(labels) == set(range(5))


def test_power_law_is_reproducible_and_its_fingerprint_follows_the_options():
    assert torch.equal(load("power_law", 50, seed=1).inputs, load("power_law", 50, seed=1).inputs)
    options = [{}, {"seed": 1}, {"d": 32}, {"n_classes": 2}, {"split": "test"}]
    assert len({fingerprint("power_law", **option) for option in options}) == len(options)
    rng = np.random.default_rng(0)
    draws = rng.standard_normal(10 * 128 + 10_000 * 128).astype("<f8")
    assert fingerprint("power_law") == hashlib.sha256(draws.tobytes()).hexdigest()


@pytest.mark.parametrize(("option", "value"), [("d", 48), ("d", 1), ("d", 0), ("n_classes", 1)])
def test_power_law_refuses_impossible_options(option, value):
    with pytest.raises(DataError, match=rf"{option} must be .*not {value}"):
        load("power_law", 10, **{option: value})


# --- fingerprints ----------------------------------------------------------------------------------------


def test_fingerprint_covers_the_whole_training_set_and_the_test_split_when_used(cifar10):
    _, rows = cifar10
    assert load("cifar10", 1).fingerprint == hashlib.sha256(rows[:20].tobytes()).hexdigest()
    assert fingerprint("cifar10", split="test") == hashlib.sha256(rows.tobytes()).hexdigest()


def test_a_changed_file_changes_the_fingerprint(cifar10):
    folder, rows = cifar10
    before = fingerprint("cifar10")
    rows[16:20][::-1].tofile(folder / "data_batch_5.bin")
    os.utime(folder / "data_batch_5.bin", (1, 1))  # the clock may be too coarse to tell the two writes apart
    assert fingerprint("cifar10") != before


def test_a_file_is_hashed_once(cifar10, monkeypatch):
    before = fingerprint("cifar10")
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read again"))
    assert fingerprint("cifar10") == before


def test_fingerprint_of_digits():
    images, labels = load_digits(return_X_y=True)
    rows = b"".join(bytes([label, *image.astype(int)]) for image, label in zip(images, labels, strict=True))
    assert fingerprint("digits") == hashlib.sha256(rows).hexdigest()


# --- where files are, and damaged ones -------------------------------------------------------------------


def test_absent_data_says_where_it_was_looked_for_and_the_ways_out(nowhere, tmp_path, monkeypatch):
    for ask in load, fingerprint:
        with pytest.raises(DataAbsent, match="EOSLIB_DATA is not set") as caught:
            ask("cifar10", *([5] if ask is load else []))
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataAbsent) as caught:
        load("cifar10", 5)
    message = str(caught.value)
    assert str(tmp_path / "elsewhere" / "cifar-10-batches-bin") in message
    assert str(nowhere / "cifar-10-batches-bin") in message
    assert "download('cifar10')" in message
    assert "not set" not in message


def test_the_cache_is_the_second_place(nowhere, tmp_path, monkeypatch):
    monkeypatch.setenv("EOSLIB_DATA", str(tmp_path))
    write_cifar10(nowhere / "cifar-10-batches-bin")
    assert load("cifar10", 20).inputs.shape == (20, 3072)


def test_a_file_cut_inside_a_row(cifar10):
    path = cifar10[0] / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-100])
    for ask in (lambda: load("cifar10", 2)), (lambda: fingerprint("cifar10")):
        with pytest.raises(DataError, match=r"data_batch_3\.bin .*truncated.*12,192 bytes.*3,073"):
            ask()


def test_an_empty_file(cifar10):
    (cifar10[0] / "data_batch_1.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"data_batch_1\.bin is empty"):
        load("cifar10", 2)


def test_a_label_above_nine(cifar10):
    folder, rows = cifar10
    rows[4:8][2, 0] = 77
    rows[4:8].tofile(folder / "data_batch_2.bin")
    with pytest.raises(DataError, match=r"data_batch_2\.bin: row 2 has the label 77.*0 to 9"):
        load("cifar10", 2)


def test_a_missing_file(cifar10):
    (cifar10[0] / "test_batch.bin").unlink()
    load("cifar10", 2)
    with pytest.raises(DataError, match=r"test_batch\.bin is missing") as caught:
        load("cifar10", 2, split="test")
    assert not isinstance(caught.value, DataAbsent)


@pytest.mark.parametrize("n", [0, -1, 21])
def test_n_outside_what_there_is(cifar10, n):
    with pytest.raises(DataError, match=rf"cifar10: n must lie between 1 and the 20 train examples.*not {n}"):
        load("cifar10", n)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnist"}, "data set 'mnist'.*digits, noisy_digits, power_law, cifar10, cifar100, sst2"),
        ({"name": "digits", "standardisation": "none"}, "'none'.*per-pixel, per-channel"),
        ({"name": "digits", "split": "test"}, "split of digits 'test'.*one of: train"),
        ({"name": "cifar10", "split": "dev"}, "split of cifar10 'dev'.*train, test"),
    ],
)
def test_unknown_names_list_the_valid_ones(arguments, message):
    with pytest.raises(DataError, match=message):
        load(n=5, **arguments)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="sede"):
        load("power_law", 5, sede=1)


# --- the official archive --------------------------------------------------------------------------------


@pytest.fixture
def archive(nowhere, tmp_path, monkeypatch):
    """A small stand-in for the official archive, at the URL and with the md5 that `download` expects.

    pooch itself runs; only the transfer is a copy. Returns the rows in it.
    """
    rows = write_cifar10(tmp_path / "made" / "cifar-10-batches-bin")
    packed = tmp_path / "cifar-10-binary.tar.gz"
    (tmp_path / "made" / "stranger").write_text("not for us")
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-bin", "cifar-10-batches-bin")
        tar.add(tmp_path / "made" / "stranger", "../stranger")
    asked_for = []

    def transfer(url, output_file, _pooch):
        asked_for.append(url)
        Path(output_file).write_bytes(packed.read_bytes())

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda url, progressbar: transfer)
    monkeypatch.setattr(datasets.Cifar10, "md5", hashlib.md5(packed.read_bytes()).hexdigest())
    yield rows
    assert asked_for == ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]


def test_downloaded_files_are_verified(archive, nowhere):
    folder = download("cifar10")
    assert folder == nowhere / "cifar-10-batches-bin"
    assert not (nowhere.parent / "stranger").exists()
    for split in "train", "test":
        assert load("cifar10", 4, split=split).warning is None
    record = json.loads((folder / "eoslib-verified.json").read_text())
    assert record == {
        "md5": datasets.Cifar10.md5,
        "fingerprints": {split: fingerprint("cifar10", split=split) for split in ("train", "test")},
    }
    assert download("cifar10") == folder  # a second time nothing is transferred


def test_verified_files_that_were_changed_are_no_longer_official(archive):
    folder = download("cifar10")
    archive[:3].tofile(folder / "data_batch_1.bin")
    assert "not verified" in load("cifar10", 4).warning


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"md5": "0", "fingerprints": {}}'])
def test_a_damaged_record_verifies_nothing(archive, record):
    folder = download("cifar10")
    (folder / "eoslib-verified.json").write_text(record)
    assert "not verified" in load("cifar10", 4).warning


def test_another_archive_is_refused(archive, nowhere, monkeypatch):
    monkeypatch.setattr(datasets.Cifar10, "md5", "0" * 32)
    with pytest.raises(DataError, match=r"(?s)could not be downloaded.*hash"):
        download("cifar10")
    assert not (nowhere / "cifar-10-batches-bin").exists()


def test_the_official_md5():
    assert datasets.Cifar10.md5 == "c32a1d4ab5d03f1284b67883e8d87530"


def test_files_without_a_record_carry_a_warning(cifar10):
    data = load("cifar10", 2)
    assert data.warning == (
        "cifar10: files not verified to come from the official archive: "
        f"fingerprint {data.fingerprint}, 20 train images"
    )
    assert load("digits", 2).warning is None


@pytest.mark.parametrize("name", ["digits", "power_law", "sst2"])
def test_nothing_to_download(name):
    with pytest.raises(DataError, match="nothing to download"):
        download(name)


# --- describe --------------------------------------------------------------------------------------------


def test_describe_where_data_are(cifar10, sst2):
    folder, _ = cifar10
    entries = {entry["name"]: entry for entry in describe()}
    assert list(entries) == list(datasets.SOURCES)
    assert all(entries.pop(name)["found"] is None for name in ("cifar100", "wikitext", "image_folder"))
    for name, entry in entries.items():
        assert entry["fingerprint"] == fingerprint(name)
        assert all(entry[key] for key in ("description", "source", "licence", "how_to_get", "looked_in"))
    assert entries["cifar10"]["found"] == str(folder) == entries["cifar10"]["looked_in"][0]
    assert "not verified" in entries["cifar10"]["warning"]
    assert entries["sst2"]["found"] == str(sst2)
    assert entries["digits"]["warning"] is None
    json.dumps(describe())


def test_describe_absent_and_damaged_data(nowhere):
    absent = {entry["name"]: entry for entry in describe()}["cifar10"]
    assert absent["found"] is absent["fingerprint"] is None
    assert "absent" in absent["warning"]
    write_cifar10(nowhere / "cifar-10-batches-bin")
    (nowhere / "cifar-10-batches-bin" / "data_batch_4.bin").write_bytes(b"short")
    damaged = {entry["name"]: entry for entry in describe()}["cifar10"]
    assert damaged["found"] == str(nowhere / "cifar-10-batches-bin")
    assert damaged["fingerprint"] is None
    assert "truncated" in damaged["warning"]


# --- real data -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL_DATA, reason="EOSLIB_DATA is not set")
def test_real_cifar10():
    try:
        data = load("cifar10", 5000)
    except DataAbsent as absent:
        pytest.skip(str(absent))
    # the first training images of CIFAR-10: frog, truck, truck, deer, automobile
    assert data.labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert (data.labels.bincount() / 5000 - 0.1).abs().max() < 0.015
    assert abs(data.inputs.mean()) < 0.02
    assert abs(data.inputs.std() - 1) < 0.02
    binary = load("cifar10", 800, "per-channel", classes=(3, 5))
    assert binary.labels.bincount().tolist() == [400, 400]
    assert abs(binary.inputs.mean()) < 1e-5


@pytest.mark.skipif(not REAL_DATA, reason="EOSLIB_DATA is not set")
def test_real_sst2():
    try:
        data = load("sst2", 100)
    except DataAbsent as absent:
        pytest.skip(str(absent))
    assert data.inputs.shape == (100, 52) and data.inputs.max() < 4096
    assert data.labels.tolist() == [0] * 50 + [1] * 50
    # the first phrase, "hide new secretions from the parental units", is negative and of seven words
    assert (data.inputs[0] > 0).sum() == 7
    assert (data.inputs == 1).sum() < 0.2 * (data.inputs > 0).sum()
