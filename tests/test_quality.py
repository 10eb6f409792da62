"""Measures of digits: each against images for which the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from dpmpp_core import digits, quality

IMAGES = digits.load_images()


def few(n: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    return quality.real(n, seed)


def test_training_images_are_copies_and_held_out_ones_are_not() -> None:
    x, labels = few()
    found = quality.quality(x, labels)
    assert (found.nearest_train, found.copies, found.blank) == (0.0, 1.0, 0.0)
    assert found.nearest_held_out > 1
    found = quality.quality(IMAGES.held_out, IMAGES.held_out_labels)
    assert (found.nearest_held_out, found.copies, found.sliced) == (0.0, 0.0, 0.0)
    assert found.nearest_train > 1


def test_distances_are_those_of_every_pair() -> None:
    x, labels = few(3)
    x = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    table = cdist(x.flatten(1).double(), IMAGES.train.flatten(1).double())
    found = quality.nearest(x, IMAGES.train)
    assert torch.allclose(found.distance, torch.tensor(table.min(1)), atol=1e-12)
    assert torch.equal(found.which, torch.tensor(table.argmin(1)))
    result = quality.quality(x, labels)
    assert result.nearest_train == float(found.distance.median())
    held_out = cdist(x.flatten(1).double(), IMAGES.held_out.flatten(1).double()).min(1)
    assert result.copies == pytest.approx((table.min(1) < held_out).mean())
    own = cdist(x.flatten(1).double(), x.flatten(1).double())
    other = [
        min(own[i, j] for j in range(30) if j != i and labels[j] == labels[i]) for i in range(30)
    ]
    assert result.nearest_other == pytest.approx(float(torch.tensor(other).median()), abs=1e-12)


def test_the_spread_follows_a_scale_and_does_not_see_the_mean() -> None:
    whole, labels = IMAGES.train, IMAGES.train_labels
    assert quality.quality(whole, labels).spread == pytest.approx(1, abs=1e-12)
    means = torch.stack([whole[labels == c].mean(0) for c in range(10)])[labels]
    narrow = quality.quality(0.3 + means + 0.5 * (whole - means), labels)
    assert narrow.spread == pytest.approx(0.5, abs=1e-6)


def test_equal_images_have_no_spread_and_no_distance() -> None:
    x, labels = few(1)
    found = quality.quality(x.repeat(3, 1, 1, 1), labels.repeat(3))
    assert found.nearest_other == 0.0
    assert found.spread == pytest.approx(0, abs=1e-7)


def test_grain_is_seen_on_the_blank_pixels() -> None:
    blank = quality.blank_pixels()
    assert blank.shape == (64,)
    assert (IMAGES.train.flatten(1)[:, blank] == -1).all()
    assert (IMAGES.train.flatten(1)[:, ~blank] > -1).any(0).all()
    x, labels = few(30)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert quality.quality(x + 0.05 * noise, labels).blank == pytest.approx(0.05, rel=0.1)


def test_the_judge_knows_digits_that_it_has_not_seen() -> None:
    found = quality.quality(IMAGES.held_out, IMAGES.held_out_labels)
    assert found.accuracy > 0.97
    assert 0.9 < found.confidence <= 1
    # The class asked for is what is judged: shifted by one, nearly all are wrong.
    assert quality.quality(IMAGES.held_out, (IMAGES.held_out_labels + 1) % 10).accuracy < 0.02


def test_real_images_come_from_the_training_part_without_repetition() -> None:
    x, labels = few(36, seed=5)
    assert torch.equal(torch.bincount(labels), torch.full((10,), 36))
    found = quality.nearest(x, IMAGES.train)
    assert (found.distance == 0).all()
    assert len(found.which.unique()) == 360
    assert torch.equal(IMAGES.train_labels[found.which], labels)
    assert not torch.equal(x, few(36, seed=6)[0])


def test_bad_images_and_labels_are_refused() -> None:
    x, labels = few(2)
    with pytest.raises(ValueError, match=r"^x must be .*got torch.float32 of shape \(20, 63\)$"):
        quality.quality(x.flatten(1)[:, 1:], labels)
    with pytest.raises(ValueError, match=r"^x must be finite, got nan$"):
        quality.quality(x * math.nan, labels)
    with pytest.raises(
        ValueError, match=r"^labels must hold each class from 0 to 9 at least twice"
    ):
        quality.quality(x, torch.zeros(20, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^label must be"):
        quality.quality(x, labels[:3])
    for n in (0, 1000):
        with pytest.raises(ValueError, match=rf"^n must be from 1 to \d+, .*got {n}$"):
            quality.real(n)
