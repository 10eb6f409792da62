r"""A small learned denoiser of handwritten digits, and the images that it learned from.

The images are the 1,797 of scikit-learn's ``load_digits``, 8 by 8 pixels of 17 greys. The denoiser
is a network of about 100,000 numbers inside the preconditioning of Karras et al. 2022 (table 1,
column EDM), for the process :math:`x = x_0 + \sigma\varepsilon`:

.. math::

    D(x, \sigma; c) = c_\text{skip}\, x + c_\text{out}\, F(c_\text{in}\, x;\, c_\text{noise}, c),
    \qquad c_\text{skip} = \frac{s^2}{\sigma^2 + s^2}, \quad
    c_\text{out} = \frac{\sigma s}{\sqrt{\sigma^2 + s^2}}, \quad
    c_\text{in} = \frac{1}{\sqrt{\sigma^2 + s^2}}, \quad
    c_\text{noise} = \tfrac14 \ln \sigma

with s the standard deviation of all pixels of the training images. ``training/digits.py`` in the
repository trains it; the weights lie beside this file in float16 and are computed with in float32.

Sources: Karras et al. 2022, https://arxiv.org/abs/2206.00364; the images are by Alpaydin and
Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .checks import count, not_negative, positive
from .guidance import check_guidance, guide

__all__ = [
    "CLASSES",
    "NO_CLASS",
    "PIXELS",
    "SHA256",
    "SIZES",
    "WEIGHTS",
    "Denoiser",
    "DigitsNet",
    "Images",
    "Preconditioning",
    "Sizes",
    "load",
    "load_images",
    "precondition",
    "rounded",
    "switched",
]

PIXELS = 64
CLASSES = 10
NO_CLASS = 10
"""The label that stands for no class, the last row of the network's table of classes."""

WEIGHTS = Path(__file__).parent / "weights" / "digits.safetensors"
SHA256 = "4840a0490b354504e71e0ea63662d4193f7eaa3d7444c4cda03a2c7f45c5f691"
"""Of the file of weights that comes with the package."""

EPSILON = 1e-5
"""Under the root of the layer norm, as torch has it."""


# --- images -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Images:
    """The images in two parts: what a model may learn from, and what it has never seen.

    Pixels are ``(n, 1, 8, 8)``, float32, from -1 (paper) to 1 (ink) in steps of 1/8; labels are
    ``(n,)``, int64, 0 to 9.
    """

    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor


@lru_cache(maxsize=1)
def load_images() -> Images:
    """The 1,797 images: 1,437 to train on and 360 held out, drawn once and for all by a seed.

    The share of each class is the same in both parts, up to rounding. One writer's digits may be in
    both: the file does not say who wrote which.

    Raises:
        ImportError: without scikit-learn.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    train, held = train_test_split(
        np.arange(len(labels)), test_size=360, stratify=labels, random_state=0
    )
    images = torch.tensor(pixels / 8.0 - 1.0, dtype=torch.float32).view(-1, 1, 8, 8)
    classes = torch.tensor(labels, dtype=torch.int64)
    return Images(images[train], classes[train], images[held], classes[held])


# --- preconditioning ----------------------------------------------------------------------------


class Preconditioning(NamedTuple):
    """The four coefficients at each noise level."""

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor


def precondition(sigma: Tensor, spread: float) -> Preconditioning:
    r""":math:`c_\text{skip}, c_\text{out}, c_\text{in}, c_\text{noise}` in sigma's dtype.

    Args:
        sigma: noise levels above 0, any shape.
        spread: s, the data's standard deviation.

    Source: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1, column EDM.
    """
    variance = sigma**2 + spread**2
    root = variance.sqrt()
    return Preconditioning(spread**2 / variance, sigma * spread / root, 1 / root, sigma.log() / 4)


# --- the network --------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """Width of the stream and of the blocks' middle, number of blocks, length of the embedding of
    class and level, number of frequencies."""

    width: int
    middle: int
    blocks: int
    embedding: int
    frequencies: int


SIZES = Sizes(width=96, middle=80, blocks=3, embedding=64, frequencies=16)
"""Of the weights that come with the package."""


class DigitsNet(nn.ModuleDict):
    r"""F: a residual network on 64 numbers whose layer norms are set by class and level.

    With :math:`y = c_\text{in} x` and LN the layer norm without weights of its own,

    .. math::

        e &= \mathrm{silu}(W_t\, [\cos 2\pi f c_\text{noise}, \sin 2\pi f c_\text{noise}] + b_t +
        E_c) \\
        u &= W_\text{in}\, y + b_\text{in} \\
        u &\leftarrow u + W_\text{down}\, \mathrm{silu}\bigl(W_\text{up}
        (\mathrm{LN}(u) (1 + \mathrm{scale}) + \mathrm{shift}) + b_\text{up}\bigr) + b_\text{down},
        \qquad [\mathrm{scale}, \mathrm{shift}] = W_\text{mod}\, e + b_\text{mod} \\
        F &= W_\text{out}\, \mathrm{LN}(u) + b_\text{out}

    where the third line stands once for each block. The frequencies f are fixed. All of it is
    float32; the names of the weights are ``time.frequencies``, ``time.weight``, ``class.weight``,
    ``in.weight``, ``block.0.modulation.weight``, ``block.0.up.weight``, ``block.0.down.weight``,
    ``out.weight`` and the biases.
    """

    def __init__(self, sizes: Sizes = SIZES) -> None:
        width, middle, blocks, embedding, frequencies = sizes
        super().__init__(
            {
                "time": _Time(frequencies, embedding),
                "class": nn.Embedding(CLASSES + 1, embedding),
                "in": nn.Linear(PIXELS, width),
                "block": nn.ModuleList(_Block(width, middle, embedding) for _ in range(blocks)),
                "out": _zero(nn.Linear(width, PIXELS)),  # the first guess is c_skip x
            }
        )

    def forward(self, y: Tensor, c_noise: Tensor, label: Tensor) -> Tensor:
        """F for states ``(B, 64)``, levels ``(B,)`` and labels ``(B,)`` of 0 to 10."""
        embedding = functional.silu(self["time"](c_noise) + self["class"](label))
        u = self["in"](y)
        for block in cast(nn.ModuleList, self["block"]):
            u = block(u, embedding)
        out: Tensor = self["out"](_norm(u))
        return out


class _Time(nn.Linear):
    frequencies: Tensor

    def __init__(self, frequencies: int, embedding: int) -> None:
        super().__init__(2 * frequencies, embedding)
        # c_noise has a range of about 1.6 between the levels 0.03 and 15: from a sixth of a wave.
        self.register_buffer("frequencies", torch.logspace(-3.0, 1.0, frequencies, base=2.0))

    def forward(self, c_noise: Tensor) -> Tensor:
        angle = 2 * math.pi * c_noise[:, None] * self.frequencies
        return super().forward(torch.cat([angle.cos(), angle.sin()], dim=1))


class _Block(nn.ModuleDict):
    def __init__(self, width: int, middle: int, embedding: int) -> None:
        super().__init__(
            {
                "modulation": _zero(nn.Linear(embedding, 2 * width)),
                "up": nn.Linear(width, middle),
                "down": _zero(nn.Linear(middle, width)),  # at first a block changes nothing
            }
        )

    def forward(self, u: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self["modulation"](embedding).chunk(2, dim=1)
        inside = functional.silu(self["up"](_norm(u) * (1 + scale) + shift))
        out: Tensor = u + self["down"](inside)
        return out


def _zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _norm(u: Tensor) -> Tensor:
    return functional.layer_norm(u, u.shape[-1:], eps=EPSILON)


# --- the denoiser -------------------------------------------------------------------------------


class Denoiser:
    """The learned denoiser as the samplers call it: ``model(x, sigma, label=..., w=...)``.

    Args:
        net: F.
        spread: s, the standard deviation of the training images.
    """

    def __init__(self, net: DigitsNet, spread: float) -> None:
        self.net = net
        self.spread = positive("spread", spread)

    def __call__(
        self,
        x: Tensor,
        sigma: float | Tensor,
        label: int | Tensor | None = None,
        w: float | Tensor = 1.0,
        **extra_args: Any,
    ) -> Tensor:
        r"""The estimate :math:`v_u + w\, (v_c - v_u)` of the clean images; no gradient is recorded.

        The coefficients are float64 whatever x is; the network is float32.

        Args:
            x: states, ``(B, ...)`` with 64 numbers per sample, any floating dtype.
            sigma: levels above 0: a number, or ``(B,)``.
            label: the class, 0 to 9, or 10 or None for no class; or ``(B,)``, one per sample.
            w: the strength of guidance, as :func:`~dpmpp_core.guidance.guide` takes it. With 1 the
                network is called once for each sample, otherwise twice.
            extra_args: ignored, such as the seed that a sampler hands on.

        Returns:
            Shape, dtype and device of x.

        Raises:
            ValueError: for another shape, a class that there is not, or a w that is not finite.
        """
        if not x.is_floating_point() or x.ndim == 0 or math.prod(x.shape[1:]) != PIXELS:
            raise ValueError(
                f"x must be floating, of shape (B, ...) with {PIXELS} numbers per sample, "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        labels = check_label(label, len(x)).to(x.device)
        strength = check_guidance(w, len(x))
        level = torch.as_tensor(sigma, dtype=torch.float64, device=x.device)
        if level.ndim > 1 or (level.ndim == 1 and len(level) not in (1, len(x))):
            raise ValueError(
                f"sigma must be a number or have shape ({len(x)},), got shape {tuple(level.shape)}"
            )
        flat = x.reshape(len(x), PIXELS)
        level = level.expand(len(x))
        with torch.no_grad():
            if not isinstance(strength, Tensor) and strength == 1.0:
                estimate = self.estimate(flat, level, labels)
            else:
                both = self.estimate(
                    torch.cat([flat, flat]),
                    torch.cat([level, level]),
                    torch.cat([torch.full_like(labels, NO_CLASS), labels]),
                )
                estimate = guide(both[: len(x)], both[len(x) :], strength)
        return estimate.view(x.shape).to(x.dtype)

    def estimate(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """D for ``(B, 64)``, ``(B,)``, ``(B,)``: float64, and with gradients if they are asked."""
        c = precondition(sigma.double()[:, None], self.spread)
        inside: Tensor = self.net((c.into * x).float(), c.noise[:, 0].float(), labels)
        return c.skip * x + c.out * inside


def rounded(model: Denoiser, bits: int) -> Denoiser:
    r"""A coarse copy of the denoiser: each matrix has only :math:`2^\text{bits} - 1` values.

    They are the multiples of :math:`\max |W| / (2^{\text{bits} - 1} - 1)`, each weight at the
    nearest. Biases, the table of classes and the frequencies stay as they are.

    Args:
        model: is not changed.
        bits: at least 2.

    Raises:
        ValueError: for fewer.
    """
    if count("bits", bits) < 2:
        raise ValueError(f"bits must be an integer of at least 2, got {bits!r}")
    net = copy.deepcopy(model.net)
    for name, weight in net.state_dict().items():
        if weight.ndim == 2 and name != "class.weight":
            step = weight.abs().max() / (2 ** (bits - 1) - 1)
            weight.copy_((weight / step).round() * step)
    return Denoiser(net, model.spread)


def switched(
    above: Callable[..., Tensor], below: Callable[..., Tensor], border: float
) -> Callable[..., Tensor]:
    """A denoiser that is one of two: the first at levels above the border, else the second.

    Args:
        above, below: called as ``model(x, sigma, **extra_args)`` with sigma of shape ``(B,)``.
        border: the level, finite and >= 0.
    """
    border = not_negative("border", border)

    def model(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        high = sigma > border
        if high.all() or not high.any():
            return (above if high.any() else below)(x, sigma, **extra_args)
        which = high.view(-1, *[1] * (x.ndim - 1))
        return torch.where(which, above(x, sigma, **extra_args), below(x, sigma, **extra_args))

    return model


def check_label(label: Any, samples: int) -> Tensor:
    """Labels ``(samples,)``, int64, 0 to 10; None is 10."""
    allowed = f"None, an integer from 0 to {NO_CLASS}, or {samples} of them in a tensor"
    if label is None:
        label = NO_CLASS
    if isinstance(label, int | np.integer) and not isinstance(label, bool):
        if 0 <= label <= NO_CLASS:
            return torch.full((samples,), int(label))
    elif isinstance(label, Tensor) and label.dtype in (torch.int32, torch.int64):
        wrong = (label < 0) | (label > NO_CLASS)
        if wrong.any():
            raise ValueError(f"label must be {allowed}, got {int(label[wrong][0])}")
        if label.shape in ((), (samples,)):
            return label.long().expand(samples)
        raise ValueError(f"label must be {allowed}, got shape {tuple(label.shape)}")
    raise ValueError(f"label must be {allowed}, got {label!r}")


# --- the file of weights ------------------------------------------------------------------------


def load(path: str | Path | None = None, sha256: str | None = None) -> Denoiser:
    """The trained denoiser, on the host; ``.net.to(device)`` moves it.

    Args:
        path: a file of weights that ``training/digits.py`` wrote; None for the package's own.
        sha256: what the file's bytes must hash to, as 64 hexadecimal digits. None: no other check
            for a path of your own, :data:`SHA256` for the package's.

    Raises:
        ValueError: for a file that is no file of weights, lacks one, has one too many, or has one
            of another shape, dtype or with a number that is not finite, and for another hash.
        ImportError: without safetensors.
    """
    from safetensors import SafetensorError, safe_open

    if path is None:
        path, sha256 = WEIGHTS, SHA256 if sha256 is None else sha256
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"path must be a file of weights, got {str(path)!r}")
    if sha256 is not None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            raise ValueError(
                f"{path.name} must have the SHA-256 {sha256}, got {found}: the file was changed"
            )
    try:
        with safe_open(path, framework="pt") as file:
            told = (file.metadata() or {}).get("spread", "")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"path must be a file of weights, got {path.name!r}: {error}") from error
    try:
        spread = positive("spread", float(told))
    except ValueError as error:
        raise ValueError(
            f"{path.name} must hold the images' spread, a number above 0, in its metadata, "
            f"got {told!r}"
        ) from error
    net = DigitsNet()
    _check_weights(path.name, weights, net.state_dict())
    net.load_state_dict({name: value.float() for name, value in weights.items()})
    return Denoiser(net.eval().requires_grad_(False), spread)


def _check_weights(file: str, weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name in sorted(wanted.keys() | weights.keys()):
        if name not in weights or name not in wanted:
            kind = "lacks" if name in wanted else "has a weight too many,"
            raise ValueError(
                f"{file} must hold {len(wanted)} weights of a network, {kind} {name!r}"
            )
        value, shape = weights[name], tuple(wanted[name].shape)
        if value.dtype != torch.float16 or tuple(value.shape) != shape:
            raise ValueError(
                f"{file} must have {name!r} in torch.float16 of shape {shape}, "
                f"got {value.dtype} of shape {tuple(value.shape)}"
            )
        if not value.isfinite().all():
            raise ValueError(f"{file} must hold finite weights, got {name!r} with one that is not")
