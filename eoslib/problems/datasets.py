"""Data sets: loading, standardisation, fingerprints.

`load` returns the first n examples of a data set, standardised in one of two ways that peers use, or as tokens. The
*fingerprint* identifies the raw data that the result depends on, so that a run can say what it was run on.
Nothing is ever downloaded unless `download` is called. Each data set is a class at the end of this module: its fields
are its options, `examples` or `rows` read it, and the rest says where it comes from.
"""

import collections
import contextlib
import functools
import hashlib
import itertools
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eoslib.problems.images import Images


class DataError(ValueError):
    """A data set cannot be given as asked for; the message says what was expected and where it failed."""


class DataAbsent(DataError):
    """The files of a data set are not on this machine; the message says where they were looked for."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """n examples: `inputs` (n, d) float32 and standardised, or tokens (n, length) int64, or `Images` on disk; `labels`
    (n,), or of texts (n, length), int64 in 0 … n_classes−1."""

    name: str
    inputs: Tensor | Images
    labels: Tensor
    n_classes: int
    fingerprint: str  # sha256 (hex) of the raw data
    warning: str | None  # why the data may not be what the name promises


def load(name: str, n: int, standardisation: str = "per-pixel", split: str = "train", **options) -> Dataset:
    """The first `n` examples of a split, "train" or "test", of a data set of `SOURCES`.

    Of "sst2", and with the option `classes` of images, they are the first n/2 (n/k of k classes) of each class, class
    after class, as Damian et al. 2023 take them for binary tasks. Of an image folder they are the first of a random
    order, standardised per channel with the statistics of `SAMPLED` images of the training set.

    `standardisation` makes inputs of mean 0 and standard deviation 1,
    - "per-pixel": each input coordinate over the whole training set, before the subset is taken (Cohen et al. 2021);
    - "per-channel": each colour channel over the examples and pixels of the subset (Damian et al. 2023). Data without
      colours are one channel.

    The test split is standardised with the statistics of the whole training set. Coordinates that never vary are only
    centred, tokens stay as they are. `options` are those of the data set's class, such as `Digits`. Raises `DataAbsent`
    if the files are not there and `DataError` if they are damaged or too few.
    """
    _check("standardisation", standardisation, ("per-pixel", "per-channel"))
    source = _source(name, split, options)
    inputs, labels = source.examples(split)
    if source.balanced:
        chosen = _first_of_each_class(name, split, n, labels, source.n_classes)
    elif 1 <= n <= len(inputs):
        chosen = slice(n)
    else:
        raise DataError(f"{name}: n must lie between 1 and the {len(inputs):,} {split} examples there are, not {n}")
    labels = labels[chosen].astype(np.int64)
    if source.on_disk:
        _check(f"standardisation of {name}", standardisation, ("per-channel",))
        tensors = Images(inputs[chosen], source.size, *source.statistics()), torch.from_numpy(labels)
        return Dataset(name, *tensors, source.n_classes, source.fingerprint(split), source.warning(split))
    if source.tokens:
        inputs = inputs[chosen]
    else:
        reference = inputs if split == "train" else source.examples("train")[0]
        if standardisation == "per-pixel":
            mean, std = _per_pixel(reference)
        else:
            mean, std = _per_channel(reference[chosen] if split == "train" else reference, source.channels)
        inputs = ((inputs[chosen] - mean) / np.where(std == 0, 1, std)).astype(np.float32)
    tensors = torch.from_numpy(inputs), torch.from_numpy(labels)
    return Dataset(name, *tensors, source.n_classes, source.fingerprint(split), source.warning(split))


def _first_of_each_class(name: str, split: str, n: int, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Indices (n,) of the first n/n_classes examples of class 0, then of class 1, …"""
    if n < n_classes or n % n_classes:
        raise DataError(f"{name}: n must be a positive multiple of the {n_classes} classes, not {n}")
    each = n // n_classes
    counts = np.bincount(labels, minlength=n_classes)
    if counts.min() < each:
        there_are = ", ".join(f"{count:,} of class {c}" for c, count in enumerate(counts))
        raise DataError(f"{name}: n = {n:,} takes {each:,} {split} examples of each class, but there are {there_are}")
    return np.concatenate([np.flatnonzero(labels == c)[:each] for c in range(n_classes)])


def fingerprint(name: str, split: str = "train", **options) -> str:
    """The fingerprint that `load` would give. It covers the whole training set, whose statistics standardise every
    subset, and for the test split also the test examples after it."""
    source = _source(name, split, options)
    if isinstance(source, _Files):
        return source.fingerprint(split)
    return _of_constant(name, split, json.dumps(options, sort_keys=True))


@functools.cache  # every identity asks for it, and making the data takes a hundred times as long as the rest of one
def _of_constant(name: str, split: str, options: str) -> str:
    """The fingerprint of data that are embedded or generated."""
    return _source(name, split, json.loads(options)).fingerprint(split)


def describe() -> list[dict]:
    """Of each data set, with default options: name, description, looked_in (list of places), found (the place, or
    None), fingerprint (of the training set, or None), source, licence, how_to_get, warning (or the error, if the files
    are absent or damaged)."""
    entries = []
    for name, source in ((name, cls()) for name, cls in SOURCES.items()):
        entry = {
            "name": name, "description": source.description, "looked_in": [str(place) for place in source.places()],
            "found": None, "fingerprint": None,
            "source": source.source, "licence": source.licence, "how_to_get": source.how_to_get, "warning": None,
        }  # fmt: skip
        try:
            entry["found"] = str(source.found())
            entry["fingerprint"] = source.fingerprint("train")
            entry["warning"] = source.warning("train")
        except DataError as error:
            entry["warning"] = str(error)
        entries.append(entry)
    return entries


def download(name: str) -> Path:
    """Fetch the official files of a data set, checked against their md5; returns the folder they are in. Raises
    `DataError` if there is nothing to download, or if the download fails or is not the official file."""
    return _source(name, "train", {}).download()


def _counted(split: str) -> dict[str, None]:
    """The splits that count in a fingerprint, see `fingerprint`."""
    return dict.fromkeys(("train", split))


def _check(what: str, value: str, valid) -> None:
    if value not in valid:
        raise DataError(f"unknown {what} {value!r}; expected one of: {', '.join(valid)}")


def _source(name: str, split: str, options: dict) -> "_Source":
    _check("data set", name, SOURCES)
    source = SOURCES[name](**options)
    _check(f"split of {name}", split, source.splits)
    return source


def _per_pixel(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (d,) of each coordinate of `inputs` (n, d), in float64."""
    # np.std works on a float64 copy, which for all of CIFAR-10 at once would take 1.2 GB
    blocks = np.array_split(inputs, 16, axis=1)
    std = np.concatenate([block.std(axis=0, dtype=np.float64) for block in blocks])
    return inputs.mean(axis=0, dtype=np.float64), std


def _per_channel(inputs: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of `inputs` (n, channels × pixels), repeated to (d,), in float64."""
    planes = inputs.reshape(len(inputs), channels, -1)
    moments = planes.mean(axis=(0, 2), dtype=np.float64), planes.std(axis=(0, 2), dtype=np.float64)
    return tuple(np.repeat(moment, planes.shape[2]) for moment in moments)


class _Source:
    """What the functions above need to know of a data set. As it stands here, of one that needs no files.
    A subclass gives description, source, licence, how_to_get, n_classes, and:
    - d: the numbers, or tokens, in an example;
    - examples(split): all raw inputs (N, d) and labels (N,) of a split;
    - fingerprint(split): sha256 of the training set and, for the test split, of the test examples after it.
    tokens: whether the inputs are tokens; labels: how many an example has; balanced: whether `load` takes equally many
    examples of each class; on_disk: whether the inputs are `Images`, of which examples(split) gives the paths (N,).
    """

    splits = ("train", "test")
    channels, tokens, labels, balanced, on_disk = 1, False, 1, False, False

    def warning(self, split: str) -> str | None:
        """Why the data may not be what the name promises."""
        return None

    def places(self) -> Iterable[str | Path]:
        """Where the files may be."""
        return [self.how_to_get]

    def found(self) -> str | Path:
        """The first place that exists; raises `DataAbsent`."""
        return self.how_to_get

    def download(self) -> Path:
        raise DataError(f"nothing to download: {self.how_to_get}")


@dataclass(frozen=True)
class _Images(_Source):
    """A data set of images of `classes_in_all` classes; rows(split) gives all inputs and labels of these. classes: the
    labels of those to keep, which become 0, 1, … in this order; none stands for all."""

    classes: tuple[int, ...] = ()
    classes_in_all = 10
    n_classes = property(lambda self: len(self.classes) or self.classes_in_all)
    balanced = property(lambda self: bool(self.classes))

    def __post_init__(self):
        there_are = range(self.classes_in_all)
        if self.classes and (len(self.classes) < 2 or len({*self.classes} & {*there_are}) < len(self.classes)):
            most = self.classes_in_all - 1
            raise DataError(f"classes must be two or more different labels from 0 to {most}, not {self.classes}")

    def examples(self, split):
        inputs, labels = self.rows(split)
        if not self.classes:
            return inputs, labels
        kept = np.isin(labels, self.classes)
        number = np.empty(self.classes_in_all, np.int64)
        number[list(self.classes)] = np.arange(len(self.classes))
        return inputs[kept], number[labels[kept]]


@functools.cache  # parsing takes longer than all else that a short run on them asks for
def _embedded_digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels; not to be written to."""
    from sklearn.datasets import load_digits  # here, because a bare GPU box may have no scikit-learn

    arrays = load_digits(return_X_y=True)
    for array in arrays:
        array.flags.writeable = False
    return arrays


@dataclass(frozen=True)
class Digits(_Images):
    """1,797 handwritten digits of 8×8 pixels, grey levels 0 … 16. All of them are the training set."""

    description = "1,797 handwritten digits, 8x8 grey pixels, 10 classes"
    source = "Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI (its test set)"
    licence = "CC BY 4.0"
    how_to_get = "embedded in scikit-learn"
    splits = ("train",)
    d = 64

    def rows(self, split):
        return _embedded_digits()

    def fingerprint(self, split):
        inputs, labels = self.rows(split)
        return hashlib.sha256(np.column_stack([labels, inputs]).astype(np.uint8).tobytes()).hexdigest()


@dataclass(frozen=True)
class NoisyDigits(_Images):
    """Digits drawn at random from `Digits`, each pixel with normal noise of its own: standard deviation `noise`, in
    grey levels. Every example has fresh noise, and noisy classes overlap: more examples than a network has parameters
    cannot be learnt by heart, few can. The test examples are further draws of the same distribution."""

    noise: float = 6.0
    seed: int = 0
    description = "generated: 50,000 digits with fresh noise, 8x8 grey pixels, 10 classes"
    source = "eoslib.problems.datasets.NoisyDigits, of scikit-learn's digits"
    licence = Digits.licence
    how_to_get = "generated when asked for, from scikit-learn's digits"
    d = 64

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.noise < np.inf:
            raise DataError(f"noisy_digits: noise must be finite and not negative, not {self.noise}")

    def rows(self, split):
        return _noisy_digits(self.noise, self.seed)[split]

    def fingerprint(self, split):
        digest = hashlib.sha256()
        for part in _counted(split):
            inputs, labels = self.rows(part)
            digest.update(inputs.astype("<f4").tobytes() + labels.astype(np.uint8).tobytes())
        return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def _noisy_digits(noise: float, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By split, inputs (N, 64) float32 and labels (N,)."""
    digits, labels = Digits().rows("train")
    rng, drawn = np.random.default_rng(seed), {}
    for split, n in (("train", 50_000), ("test", 5_000)):
        chosen = rng.integers(len(digits), size=n)
        drawn[split] = digits[chosen].astype(np.float32), labels[chosen]
        drawn[split][0][:] += np.float32(noise) * rng.standard_normal((n, digits.shape[1]), np.float32)
    return drawn


@dataclass(frozen=True)
class PowerLaw(_Source):
    """Gaussian inputs with covariance eigenvalues k^-1.5, k = 1 … d; labels linear in the whitened inputs. With z ~
    N(0, 1) in R^d the input is H diag(k^-0.75) z and the label argmax_c (Wz)_c, W standard normal. H is the orthogonal
    Hadamard matrix: its entries all have the same size, so all coordinates of the inputs have the same variance, and
    standardising them one by one keeps the power law. d must be a power of two. The labels depend as much on directions
    of small variance as of large: this makes the sharpness rise under cross-entropy as on images."""

    d: int = 128
    n_classes: int = 10
    seed: int = 0
    description = "generated: Gaussian inputs, covariance eigenvalues k^-1.5, labels from a linear teacher"
    source = "eoslib.problems.datasets.PowerLaw"
    licence = "that of eoslib"
    how_to_get = "generated when asked for"

    def __post_init__(self):
        if self.d < 2 or self.d & (self.d - 1):
            raise DataError(f"power_law: d must be a power of two and at least 2, not {self.d}")
        if self.n_classes < 2:
            raise DataError(f"power_law: n_classes must be at least 2, not {self.n_classes}")

    def examples(self, split):
        teacher, z = self._draws()
        hadamard = np.ones((1, 1))
        while len(hadamard) < self.d:
            hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]]) / np.sqrt(2)
        return (z[split] * np.arange(1, self.d + 1) ** -0.75) @ hadamard, np.argmax(z[split] @ teacher.T, axis=1)

    def fingerprint(self, split):
        teacher, z = self._draws()
        draws = [teacher, *(z[part] for part in _counted(split))]
        return hashlib.sha256(np.concatenate(draws).astype("<f8").tobytes()).hexdigest()

    def _draws(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """W (n_classes, d) and, by split, the z (N, d)."""
        rng = np.random.default_rng(self.seed)
        teacher = rng.standard_normal((self.n_classes, self.d))
        return teacher, {split: rng.standard_normal((n, self.d)) for split, n in (("train", 10_000), ("test", 2_000))}


@dataclass(frozen=True)
class Markov(_Source):
    """A text of a Markov chain over `vocabulary` tokens, cut into stretches of `length`; the label of each token is the
    one that follows. Each row of the transition matrix is a draw of Dirichlet's distribution with all parameters
    `spread`; the chain begins with token 0. No network predicts better than the chain itself: the best mean
    cross-entropy is the `entropy` of a token given the one before. The text is long enough not to be learnt by heart
    by a small network."""

    vocabulary: int = 20
    length: int = 8
    spread: float = 0.3
    seed: int = 0
    description = "generated: a text of a Markov chain, to predict its next token"
    source = "eoslib.problems.datasets.Markov"
    licence = "that of eoslib"
    how_to_get = "generated when asked for"
    tokens = True
    n_classes = property(lambda self: self.vocabulary)
    d = labels = property(lambda self: self.length)

    def __post_init__(self):
        for name, least in (("vocabulary", 2), ("length", 1)):
            if getattr(self, name) < least:
                raise DataError(f"markov: {name} must be at least {least}, not {getattr(self, name)}")
        if not self.spread > 0:
            raise DataError(f"markov: spread must be positive, not {self.spread}")

    @property
    def transitions(self) -> np.ndarray:
        """The probabilities (vocabulary, vocabulary) of the next token, a row for each."""
        rng = np.random.default_rng(self.seed)
        return rng.dirichlet(np.full(self.vocabulary, self.spread), self.vocabulary)

    @property
    def entropy(self) -> float:
        """Of a token given the one before, in nats, in the chain's invariant distribution."""
        p = self.transitions
        values, vectors = np.linalg.eig(p.T)
        invariant = np.abs(vectors[:, np.argmax(values.real)].real)
        with np.errstate(divide="ignore", invalid="ignore"):
            each = -np.nansum(p * np.log(p), 1)
        return float(each @ invariant / invariant.sum())

    def examples(self, split):
        text = _markov_text(self)[split]
        return text[:, :-1], text[:, 1:]

    def fingerprint(self, split):
        text = _markov_text(self)
        parts = np.concatenate([text[part] for part in _counted(split)])
        return hashlib.sha256(parts.astype("<i8").tobytes()).hexdigest()


@functools.lru_cache(maxsize=1)
def _markov_text(source: Markov) -> dict[str, np.ndarray]:
    """By split, stretches with the token after each (N, length + 1)."""
    above, draws = np.cumsum(source.transitions, 1), np.random.default_rng(source.seed + 1)
    text = np.zeros(12_000 * (source.length + 1), np.int64)
    for i, draw in enumerate(draws.random(len(text) - 1), start=1):
        text[i] = min(np.searchsorted(above[text[i - 1]], draw, side="right"), source.vocabulary - 1)
    rows = text.reshape(12_000, -1)
    return {"train": rows[:10_000], "test": rows[10_000:]}


class _Files(_Source):
    """A data set in the folder `folder` of EOSLIB_DATA or of the cache; `files` are those of each split."""

    def places(self):
        if root := os.environ.get("EOSLIB_DATA"):
            yield Path(root) / self.folder
        yield _cache() / self.folder

    def found(self):
        for place in self.places():
            if place.is_dir():
                return place
        looked_in = " and ".join(map(str, self.places()))
        unset = "" if os.environ.get("EOSLIB_DATA") else " (EOSLIB_DATA is not set)"
        ways_out = f"{self.how_to_get}; the data sets digits and power_law need no files."
        raise DataAbsent(f"{self.name} is absent: looked for {looked_in}{unset}. Ways out: {ways_out}")

    def paths(self, split: str) -> list[Path]:
        """The files of a split, each checked to be there."""
        paths = [self.found() / file for file in self.files[split]]
        for path in paths:
            if not path.is_file():
                raise DataError(f"{path} is missing; the {split} split is expected in {', '.join(self.files[split])}")
        return paths

    def fingerprint(self, split):
        paths = [path for part in _counted(split) for path in self.paths(part)]
        return _sha256(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths))


def _cache() -> Path:
    import pooch  # here, because a bare GPU box may do without it

    return Path(pooch.os_cache("eoslib"))


@functools.cache
def _sha256(files: tuple[tuple[Path, int, int], ...]) -> str:
    """sha256 of files (path, modification time, size) one after the other; a changed file is hashed anew."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


_RECORD = "eoslib-verified.json"


class _Cifar(_Files, _Images):
    """The official binary layout: rows of label bytes, of which the last is taken, and 3 × 1,024 pixel bytes (R, G, B).
    Files with fewer rows than the official ones are taken too. The data count as official if `download` left its record
    beside them and it names their fingerprint; otherwise they come with a warning. A subclass gives name, title,
    folder, files, url, md5 and label_bytes, what they say."""

    licence = "none stated; the author asks to be cited"
    source = "Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images"
    d, channels = 3072, 3
    row = property(lambda self: len(self.label_bytes) + self.d)  # bytes

    @property
    def how_to_get(self) -> str:
        fetched = f"fetches the official archive ({self.megabytes} MB), or set EOSLIB_DATA to a folder that holds"
        return f"eoslib.problems.datasets.download({self.name!r}) {fetched} {self.folder}"

    def rows(self, split):
        files = {path: np.fromfile(path, np.uint8).reshape(-1, self.row) for path in self.paths(split)}
        label, most = len(self.label_bytes) - 1, self.classes_in_all - 1
        for path, rows in files.items():
            i = np.argmax(rows[:, label] > most)
            if rows[i, label] > most:
                found = f"{path}: row {i} has the {self.label_bytes[label]} {rows[i, label]}"
                raise DataError(f"{found}; {self.title} has labels from 0 to {most}")
        rows = np.concatenate([*files.values()])
        return rows[:, label + 1 :], rows[:, label]

    def paths(self, split):
        paths = super().paths(split)
        for path, size in ((path, path.stat().st_size) for path in paths):
            if size == 0 or size % self.row:
                found = f"{path} is empty or truncated inside a row: it has {size:,} bytes"
                inside = " + ".join(f"1 {name} byte" for name in self.label_bytes)
                raise DataError(f"{found}, expected a multiple of {self.row:,} ({inside} + 3,072 pixels)")
        return paths

    def warning(self, split):
        fingerprint = self.fingerprint(split)
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # no record, or a damaged one
            record = json.loads((self.found() / _RECORD).read_text())
            if record["md5"] == self.md5 and record["fingerprints"][split] == fingerprint:
                return None
        n = sum(path.stat().st_size for path in self.paths(split)) // self.row
        unverified = f"{self.name}: files not verified to come from the official archive"
        return f"{unverified}: fingerprint {fingerprint}, {n:,} {split} images"

    def download(self):
        import pooch

        cache, md5, fname = _cache(), f"md5:{self.md5}", self.url.rpartition("/")[2]
        try:
            archive = pooch.retrieve(self.url, md5, fname, cache, progressbar=sys.stderr.isatty())
        except (OSError, ValueError) as error:  # no network; another md5
            raise DataError(f"{self.name} could not be downloaded from {self.url}: {error}") from error
        digest, fingerprints, folder = hashlib.sha256(), {}, cache / self.folder
        with tempfile.TemporaryDirectory(dir=cache) as temporary, tarfile.open(archive) as tar:
            fresh = Path(temporary)
            for split, files in self.files.items():
                for file in files:
                    content = tar.extractfile(f"{self.folder}/{file}").read()
                    (fresh / file).write_bytes(content)
                    digest.update(content)
                fingerprints[split] = digest.hexdigest()
            (fresh / _RECORD).write_text(json.dumps({"md5": self.md5, "fingerprints": fingerprints}, indent=1))
            folder.mkdir(exist_ok=True)
            for file in [*itertools.chain(*self.files.values()), _RECORD]:  # which comes last, vouching for the others
                os.replace(fresh / file, folder / file)
        return folder


@dataclass(frozen=True)
class Cifar10(_Cifar):
    """CIFAR-10 in its official binary layout, see `_Cifar`. Class 3 are cats and class 5 dogs."""

    name, title, folder = "cifar10", "CIFAR-10", "cifar-10-batches-bin"  # the last as the archive calls it
    files = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}  # noqa: RUF012
    label_bytes = ("label",)
    url, md5 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
    megabytes = 170
    description = "60,000 colour photographs, 32x32 pixels, 10 classes"


@dataclass(frozen=True)
class Cifar100(_Cifar):
    """CIFAR-100 in its official binary layout, see `_Cifar`: the label is the fine one, behind the coarse one."""

    name, title, folder = "cifar100", "CIFAR-100", "cifar-100-binary"
    files = {"train": ["train.bin"], "test": ["test.bin"]}  # noqa: RUF012
    label_bytes = ("coarse label", "fine label")
    url, md5 = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"
    megabytes = 169
    classes_in_all = 100
    description = "60,000 colour photographs, 32x32 pixels, 100 classes"


@dataclass(frozen=True)
class Sst2(_Files):
    """The Stanford Sentiment Treebank with two classes as GLUE gives it: phrases and their sentiment, one a line. A
    phrase, in lower case, is split at spaces; each word is a token. Token 0 pads phrases to `length` (longer ones are
    cut), token 1 stands for unknown words, the others for the most frequent words of the training split, so many that
    there are `vocabulary` tokens. GLUE publishes no labels of its test split: "test" is its development split."""

    vocabulary: int = 4096
    length: int = 52  # words of the longest phrase of the training split
    name, folder = "sst2", "sst2"
    files = {"train": ["train.tsv"], "test": ["dev.tsv"]}  # noqa: RUF012
    description = "67,349 phrases of film reviews, negative (0) or positive (1)"
    source = "Socher et al. (2013), Recursive Deep Models for Semantic Compositionality; GLUE, Wang et al. (2019)"
    licence = "none stated"
    how_to_get = (
        "unpack GLUE's SST-2.zip (https://dl.fbaipublicfiles.com/glue/data/SST-2.zip) and set EOSLIB_DATA to a folder "
        "that holds its train.tsv and dev.tsv in a folder sst2"
    )
    n_classes, tokens, balanced = 2, True, True
    d = property(lambda self: self.length)

    def __post_init__(self):
        if self.vocabulary < 3:
            raise DataError(f"sst2: vocabulary must be at least 3 (padding, unknown, a word), not {self.vocabulary}")
        if self.length < 1:
            raise DataError(f"sst2: length must be at least 1, not {self.length}")

    def examples(self, split):
        frequency = collections.Counter(itertools.chain.from_iterable(_sst2_phrases(*self.paths("train"))[0]))
        words = sorted(frequency, key=lambda word: (-frequency[word], word))[: self.vocabulary - 2]
        token = {word: i for i, word in enumerate(words, start=2)}
        phrases, labels = _sst2_phrases(*self.paths(split))
        inputs = np.zeros((len(phrases), self.length), np.int64)
        for row, phrase in zip(inputs, phrases, strict=True):
            tokens = [token.get(word, 1) for word in phrase[: self.length]]
            row[: len(tokens)] = tokens
        return inputs, labels


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged: {error}") from error


def _sst2_phrases(path: Path) -> tuple[list[list[str]], np.ndarray]:
    """The words of each phrase of a file, and the labels (N,)."""
    header, *lines = _text(path).rstrip("\n").split("\n")
    if header != "sentence\tlabel" or not lines:
        raise DataError(f'{path} must have the header "sentence<tab>label" and phrases after it; it begins {header!r}')
    phrases, labels = [], []
    for number, line in enumerate(lines, start=2):
        phrase, _, label = line.partition("\t")
        if label not in ("0", "1") or not phrase.strip():
            raise DataError(f"{path}: line {number} is {line!r}, expected a phrase, a tab, and the label 0 or 1")
        phrases.append(phrase.lower().split())
        labels.append(int(label))
    return phrases, np.array(labels)


@dataclass(frozen=True)
class WikiText(_Files):
    """WikiText, words of articles of Wikipedia, cut into stretches of `length`; the label of each word is the one that
    follows. Token 0 stands for unknown words, <unk>, token 1 ends a line, <eos>, as in Dai et al. 2019; the others are
    the most frequent words of the training split, so many that there are `vocabulary` tokens at most. WikiText-2 and
    WikiText-103 differ in the training split alone; the shorter text that both share for tests may be trained on
    instead, with the one for validation held out: part = "test"."""

    vocabulary: int = 1000
    length: int = 32
    part: str = "train"
    name, folder = "wikitext", "wikitext"
    description = "articles of Wikipedia as a text, to predict its next word; validation and test text: 460,000 words"
    source = "Merity et al. (2017), Pointer Sentinel Mixture Models"
    licence = "CC BY-SA 3.0"
    how_to_get = (
        "unpack WikiText-103 (or WikiText-2) and set EOSLIB_DATA to a folder that holds its wiki.train.tokens, "
        "wiki.valid.tokens and wiki.test.tokens in a folder wikitext"
    )
    tokens = True
    n_classes = property(lambda self: self.vocabulary)
    d = labels = property(lambda self: self.length)
    files = property(lambda self: {"train": [f"wiki.{self.part}.tokens"], "test": ["wiki.valid.tokens"]})

    def __post_init__(self):
        for name, least in (("vocabulary", 3), ("length", 1)):
            if getattr(self, name) < least:
                raise DataError(f"wikitext: {name} must be at least {least}, not {getattr(self, name)}")
        if self.part not in ("train", "test"):
            raise DataError(f"wikitext: part must be train or test, not {self.part!r}")

    def examples(self, split):
        words = _words(*self.paths("train"))
        frequency = collections.Counter(words)
        named = [word for word in frequency if word not in ("<unk>", "<eos>")]
        known = sorted(named, key=lambda word: (-frequency[word], word))[: self.vocabulary - 2]
        token = {word: i for i, word in enumerate(("<unk>", "<eos>", *known))}
        text = np.array([token.get(word, 0) for word in (words if split == "train" else _words(*self.paths(split)))])
        rows = len(text) // (self.length + 1)
        text = text[: rows * (self.length + 1)].reshape(rows, self.length + 1)
        return text[:, :-1], text[:, 1:]


def _words(path: Path) -> list[str]:
    """The words of a text, each line with its end."""
    lines = [line.split() for line in _text(path).splitlines()]
    if not any(lines):
        raise DataError(f"{path} is a text without tokens")
    return [word for line in lines for word in (*line, "<eos>")]


SAMPLED = 1_000  # images of a folder whose colours stand for all; the content of a tenth counts in the fingerprint
_IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class ImageFolder(_Files):
    """Photographs in a folder for each class, as ImageNet comes: folder/train/CLASS/IMAGE.jpg, and folder/val for the
    test split; classes are numbered in the order of their names. They stay on disk, see `Images`, and come as `size` ×
    `size` pixels. The fingerprint covers the names and sizes of all files and the content of some, since there may be a
    million."""

    folder: str = "imagenet"
    size: int = 224
    n_classes: int = 1000
    name = "image_folder"
    description = "photographs in a folder for each class, as ImageNet's 1,281,167 of 1,000 classes"
    source = "yours; ImageNet: Russakovsky et al. (2015), ImageNet Large Scale Visual Recognition Challenge"
    licence = "that of the photographs; ImageNet's is for research that is not commercial"
    how_to_get = (
        "set EOSLIB_DATA to a folder that holds imagenet/train and imagenet/val, each with a folder of images for each "
        "class (https://image-net.org/download, 150 GB, after registration), or give the option folder"
    )
    channels, on_disk = 3, True
    d = property(lambda self: 3 * self.size**2)

    def __post_init__(self):
        for name, least in (("size", 1), ("n_classes", 2)):
            if getattr(self, name) < least:
                raise DataError(f"image_folder: {name} must be at least {least}, not {getattr(self, name)}")

    def examples(self, split):
        folder = self._folder(split)
        paths, _ = _listed(folder, _changed(folder))
        classes = sorted({path.parent.name for path in paths})
        if len(classes) != self.n_classes:
            found = f"{folder} has {len(classes):,} classes with images, not n_classes = {self.n_classes:,}"
            raise DataError(f"{found}: a folder is expected for each class, with its images inside")
        number = {name: i for i, name in enumerate(classes)}
        order = np.random.default_rng(0).permutation(len(paths))  # or the first would all be of one class
        labels = np.array([number[path.parent.name] for path in paths])
        return np.array(paths)[order], labels[order]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (3,) of each colour, 0 … 255, in a sample of the training set."""
        folder = self._folder("train")
        return _colours(self, folder, _changed(folder))

    def fingerprint(self, split):
        return _names_and_sizes(*((f, _changed(f)) for f in map(self._folder, _counted(split))))

    def _folder(self, split: str) -> Path:
        folder = self.found() / {"train": "train", "test": "val"}[split]
        if not folder.is_dir():
            raise DataError(f"{folder} is missing; the {split} split is expected there, a folder for each class")
        return folder


def _changed(folder: Path) -> tuple[int, ...]:
    """When the folders of the classes were last changed: a file came or went."""
    return tuple(sorted(entry.stat().st_mtime_ns for entry in os.scandir(folder) if entry.is_dir()))


@functools.lru_cache(maxsize=2)
def _listed(folder: Path, changed: tuple[int, ...]) -> tuple[list[Path], list[int]]:
    """The images of all classes in the order of their names, and their sizes in bytes."""
    paths = [path for path in sorted(folder.glob("*/*")) if path.suffix.lower() in _IMAGES]
    return paths, [path.stat().st_size for path in paths]


@functools.lru_cache(maxsize=4)
def _names_and_sizes(*folders: tuple[Path, tuple[int, ...]]) -> str:
    digest = hashlib.sha256()
    for paths, sizes in itertools.starmap(_listed, folders):
        for path, size in zip(paths, sizes, strict=True):
            digest.update(f"{path.parent.name}/{path.name} {size}\n".encode())
        for path in paths[:: -(-len(paths) // (SAMPLED // 10))] if paths else []:
            digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.lru_cache(maxsize=2)
def _colours(source: ImageFolder, folder: Path, changed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    paths, _ = source.examples("train")
    sample, moments = Images(paths[:SAMPLED], source.size, torch.zeros(3), torch.ones(3)), torch.zeros(2, 3).double()
    for images in sample.batches(torch.arange(len(sample)).split(20)):
        x = images.unflatten(1, (3, -1)).double()
        moments += torch.stack([x.mean(2).sum(0), x.square().mean(2).sum(0)])
    mean, square = moments / max(1, len(sample) - len(sample.unreadable))  # which are black: they add nothing
    return mean, (square - mean**2).sqrt().clamp(min=1)


SOURCES: dict[str, type[_Source]] = {
    "digits": Digits, "noisy_digits": NoisyDigits, "power_law": PowerLaw, "cifar10": Cifar10, "cifar100": Cifar100,
    "sst2": Sst2, "markov": Markov, "wikitext": WikiText, "image_folder": ImageFolder,
}  # fmt: skip
