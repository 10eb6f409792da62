"""Measures of generated digits against the images of :func:`dpmpp_core.digits.load_images`.

Each answers one question. Are they of the class that was asked for? Are they as different from each
other as real ones? Are they copies? What does the law of all of them look like? A measure of
samples means something only beside its value for real images: the held-out ones where the reference
is what the model was trained on, and :func:`real` draws some to compare with.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .digits import CLASSES, PIXELS, Images, check_label, load_images
from .transport import energy_distance, sliced_wasserstein

__all__ = ["Nearest", "Quality", "blank_pixels", "judge", "nearest", "quality", "real"]


class Quality(NamedTuple):
    """What :func:`quality` measures. Distances are Euclidean, in pixels whose range is -1 to 1.

    Attributes:
        accuracy: share of the images that the judge takes for the class that was asked for.
        confidence: mean probability that the judge gives to that class.
        sliced: sliced Wasserstein distance to the held-out images, 64 directions.
        energy: energy distance to the held-out images: 0 on average for independent draws of equal
            laws, a little below where the shares of the classes are fixed.
        nearest_train: median distance to the nearest training image.
        nearest_held_out: median distance to the nearest held-out image.
        copies: share of the images whose nearest real image is a training one. For an image that
            owes nothing to either part it is near 1437 / 1797 = 0.80; for a copy it is 1.
        spread: root mean square distance from the class's mean, over that of the training images of
            the class; the mean of the ten classes.
        nearest_other: median distance to the nearest other image of the same class and batch. It
            falls with the size of the batch: compare batches of one size.
        blank: root mean square of pixels + 1, over the pixels that no training image has ink in.
    """

    accuracy: float
    confidence: float
    sliced: float
    energy: float
    nearest_train: float
    nearest_held_out: float
    copies: float
    spread: float
    nearest_other: float
    blank: float


def quality(x: Tensor, labels: Tensor, images: Images | None = None) -> Quality:
    """All measures of one batch.

    Args:
        x: ``(n, ...)`` with 64 numbers per image, finite.
        labels: ``(n,)``, the classes that were asked for; at least two images of each of the ten.
        images: the real ones; those of :func:`~dpmpp_core.digits.load_images` if None.

    Raises:
        ValueError: for values outside these ranges.
        ImportError: without scikit-learn.
    """
    flat = _flat("x", x)
    asked = check_label(labels, len(flat))
    if int(torch.bincount(asked, minlength=CLASSES).min()) < 2 or int(asked.max()) >= CLASSES:
        raise ValueError("labels must hold each class from 0 to 9 at least twice, and no other")
    images = load_images() if images is None else images
    train, held_out = _flat("train", images.train), _flat("held_out", images.held_out)
    told = judge().predict_proba(flat.numpy())
    to_train, to_held_out = (nearest(flat, part).distance for part in (train, held_out))
    spreads, others = [], []
    for c in range(CLASSES):
        own, theirs = flat[asked == c], train[images.train_labels == c]
        spreads.append((_variance(own) / _variance(theirs)).sqrt())
        others.append(_between(own).fill_diagonal_(torch.inf).amin(1))
    blank = flat[:, blank_pixels(images)]
    return Quality(
        accuracy=float((torch.from_numpy(told).argmax(1) == asked).double().mean()),
        confidence=float(torch.from_numpy(told)[torch.arange(len(flat)), asked].mean()),
        sliced=sliced_wasserstein(flat, held_out).value,
        energy=energy_distance(flat, held_out).value,
        nearest_train=float(to_train.median()),
        nearest_held_out=float(to_held_out.median()),
        copies=float((to_train < to_held_out).double().mean()),
        spread=float(torch.stack(spreads).mean()),
        nearest_other=float(torch.cat(others).median()),
        blank=float((blank + 1).square().mean().sqrt()),
    )


class Nearest(NamedTuple):
    """The distance to the nearest image of a set, and which one it is: ``(n,)`` each."""

    distance: Tensor
    which: Tensor


def nearest(x: Tensor, others: Tensor) -> Nearest:
    """For each image the nearest one of others, in float64.

    Args:
        x, others: ``(n, ...)`` and ``(m, ...)`` with 64 numbers per image.
    """
    return Nearest(*_between(_flat("x", x), _flat("others", others)).min(1))


def real(n: int, seed: int = 0, images: Images | None = None) -> tuple[Tensor, Tensor]:
    """Training images of the classes 0 to 9, n of each, and their labels: to compare samples with.

    Args:
        n: images of each class, at most those that there are.
        seed: of the draw, which is without repetition.

    Raises:
        ValueError: if a class has fewer.
    """
    images = load_images() if images is None else images
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for c in range(CLASSES):
        own = (images.train_labels == c).nonzero()[:, 0]
        if not 1 <= n <= len(own):
            raise ValueError(f"n must be from 1 to {len(own)}, the images of class {c}, got {n!r}")
        chosen.append(own[torch.randperm(len(own), generator=generator)[:n]])
    which = torch.cat(chosen)
    return images.train[which], images.train_labels[which]


@lru_cache(maxsize=1)
def judge() -> Any:
    """A classifier of real digits that has seen the training images and nothing generated.

    Logistic regression on 600 radial basis functions at training images (Nystroem's method), from
    scikit-learn; ``predict_proba`` takes ``(n, 64)``. It does not depend on the denoiser, but it
    has seen the same images, so it does not tell copies from new digits.
    """
    from sklearn.kernel_approximation import Nystroem
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    images = load_images()
    basis = Nystroem(gamma=0.05, n_components=600, random_state=0)
    model = make_pipeline(basis, LogisticRegression(C=100.0, max_iter=2000))
    return model.fit(_flat("train", images.train).numpy(), images.train_labels.numpy())


def blank_pixels(images: Images | None = None) -> Tensor:
    """Which of the 64 pixels no training image has ink in: ``(64,)``, bool."""
    images = load_images() if images is None else images
    return (images.train.reshape(-1, PIXELS) == -1.0).all(0)


def _flat(name: str, x: Tensor) -> Tensor:
    if not x.is_floating_point() or x.ndim < 2 or x[0].numel() != PIXELS:
        raise ValueError(
            f"{name} must be floating, of shape (n, ...) with {PIXELS} numbers per image, "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )
    flat = x.detach().reshape(len(x), PIXELS).double().cpu()
    if not flat.isfinite().all():
        raise ValueError(f"{name} must be finite, got {float(flat[~flat.isfinite()][0])}")
    return flat


def _variance(x: Tensor) -> Tensor:
    return (x - x.mean(0)).square().sum(1).mean()


def _between(x: Tensor, y: Tensor | None = None) -> Tensor:
    # Differences, not products: an image's distance to itself is to be 0.
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(x, x if y is None else y, compute_mode=mode)
