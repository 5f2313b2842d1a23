"""Images that are read from disk when they are asked for, by PyTorch's DataLoader in processes that work ahead."""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

# of each of the processes that `torchrun` starts on a machine
WORKERS = max(1, min(16, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
UNREADABLE = 0.01  # the share of all images that may be
PIECE = 16  # images that one process reads where there is a single minibatch


class UnreadableImages(RuntimeError):
    """More images than `UNREADABLE` allows cannot be read."""


class Images(Dataset):
    """The images in the files `paths`, each as bytes (3 · size²,) of `size` × `size` pixels in three colours: the
    middle of the image, 224/256 of its shorter side, resized. mean, std: of each colour (3,), 0 … 255. In place of an
    image that cannot be read stands one of the mean colour, with a warning that names it; `unreadable` are those met so
    far, as "class/file"."""

    def __init__(self, paths: Sequence[Path], size: int, mean: Tensor, std: Tensor):
        self.paths, self.size, self.mean, self.std = paths, size, mean, std
        self.unreadable: set[str] = set()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int | None]) -> tuple[np.ndarray, str | None]:
        """The bytes of an image and, where it cannot be read, why. key: its number, and the seed of `batches`."""
        from PIL import Image  # here, because a bare GPU box may do without it

        i, seed = key
        try:
            with Image.open(self.paths[i]) as image:
                box = _middle(*image.size) if seed is None else _part(*image.size, np.random.default_rng((seed, i)))
                image = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR, box)
            return np.asarray(image).transpose(2, 0, 1).reshape(-1), None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return np.repeat(self.mean.round().byte().numpy(), self.size**2), str(error)

    def batches(self, minibatches: Sequence[Tensor], seed: int | None = None) -> Iterator[Tensor]:
        """The bytes (b, 3 · size²) of each minibatch of numbers (b,). With a seed each image is a random part of
        itself, which the seed and its number determine: 8 % to all of its area, with sides as 3 : 4 to 4 : 3 (Szegedy
        et al. 2015). Raises UnreadableImages."""
        keys = [[(i, seed) for i in minibatch.tolist()] for minibatch in minibatches]
        workers = min(WORKERS, len(keys)) if len(keys) > 1 else 0
        # a generator of its own, or it would move the global one
        options = {"num_workers": workers, "collate_fn": _together, "generator": torch.Generator()}
        for minibatch, (images, errors) in zip(keys, DataLoader(self, batch_sampler=keys, **options), strict=True):
            for (i, _), error in zip(minibatch, errors, strict=True):
                if error is not None:
                    self._note(self.paths[i], error)
            yield images

    def read(self, chosen: Tensor) -> Tensor:
        """The bytes of one minibatch (b,)."""
        return torch.cat(list(self.batches(chosen.split(PIECE))))

    def standardised(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Bytes (b, 3 · size²) as numbers of mean 0 and standard deviation 1 in each colour, on their device."""
        mean, std = (x.repeat_interleave(self.size**2).to(images.device, dtype) for x in (self.mean, self.std))
        return (images.to(dtype) - mean) / std

    def _note(self, path: Path, error: str) -> None:
        if (name := f"{path.parent.name}/{path.name}") not in self.unreadable:
            self.unreadable.add(name)
            met, most = len(self.unreadable), int(UNREADABLE * len(self))
            words = f"{path} cannot be read ({error}); of {len(self):,} images {met:,} so far"
            if met > most:
                raise UnreadableImages(f"{words}, which may be {most:,}")
            warnings.warn(f"{words}: the mean colour takes its place", stacklevel=2)


def _together(examples: Sequence[tuple[np.ndarray, str | None]]) -> tuple[Tensor, list[str | None]]:
    images, errors = zip(*examples, strict=True)
    return torch.from_numpy(np.stack(images)), list(errors)


def _middle(width: int, height: int) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the square in the middle."""
    side = min(width, height) * 224 / 256
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def _part(width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """The same of a random part."""
    for _ in range(10):
        area, ratio = rng.uniform(0.08, 1) * width * height, math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    return _middle(width, height)
