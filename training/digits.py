"""Train the denoiser of :mod:`dpmpp_core.digits`: python training/digits.py

Some minutes on one core. A step's images, classes, levels and noise are drawn from a generator
seeded by the run's seed and the step's number, so a run that was interrupted and resumed
(--checkpoint FILE, the same command again) ends in the same bytes as one that was not. Another kind
of processor may round sums differently, and the file then differs.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from tqdm.auto import trange

from dpmpp_core import digits
from dpmpp_core.digits import NO_CLASS, PIXELS, SIZES, Denoiser, DigitsNet, Images, Sizes


@dataclass(frozen=True)
class Settings:
    """Everything that the result depends on, besides the images."""

    seed: int = 0
    steps: int = 30_000
    batch: int = 256
    rate: float = 3e-3
    """Adam's step size at its highest; it rises over 2 per cent of the steps, then falls to 0 as a
    cosine."""
    decay: float = 0.0
    """AdamW's weight decay."""
    average: float = 0.05
    """The weights kept are an average over about the last steps, this share of those taken."""
    dropout: float = 0.1
    """The share of images whose class is not told."""
    log_level: tuple[float, float] = (-1.0, 1.4)
    """Mean and standard deviation of the levels' logarithm."""
    sizes: Sizes = SIZES


@dataclass
class State:
    """A run after some of its steps."""

    step: int
    net: DigitsNet
    average: DigitsNet
    optimizer: torch.optim.Optimizer


def begin(settings: Settings) -> State:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = DigitsNet(settings.sizes)
    optimizer = torch.optim.AdamW(
        net.parameters(),
        lr=settings.rate,
        betas=(0.9, 0.99),
        weight_decay=settings.decay,
        fused=True,
    )
    return State(0, net, copy.deepcopy(net).requires_grad_(False), optimizer)


def draw(images: Images, settings: Settings, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clean images ``(batch, 64)``, told labels, levels and unit noise of a step."""
    generator = torch.Generator().manual_seed(settings.seed * 2**32 + step)
    n = settings.batch
    which = torch.randint(len(images.train), (n,), generator=generator)
    labels = images.train_labels[which]
    hidden = torch.rand(n, generator=generator) < settings.dropout
    mean, spread = settings.log_level
    # One level in each n-th of the law: the loss varies less from step to step.
    share = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    levels = (mean + spread * torch.special.ndtri(share.double().clamp(1e-7, 1 - 1e-7))).exp()
    noise = torch.randn(n, PIXELS, generator=generator)
    return (
        images.train[which].view(n, PIXELS),
        labels.where(~hidden, torch.tensor(NO_CLASS)),
        levels,
        noise,
    )


def loss_of(
    model: Denoiser, clean: Tensor, labels: Tensor, levels: Tensor, noise: Tensor
) -> Tensor:
    """Squared error of D over c_out squared, for each image: of order 1 at every level.

    Source: Karras et al. 2022, https://arxiv.org/abs/2206.00364, equation 8.
    """
    noisy = clean + levels[:, None] * noise
    weight = 1 / digits.precondition(levels, model.spread).out ** 2
    return weight * (model.estimate(noisy, levels, labels) - clean).square().mean(1)


def rate_at(settings: Settings, step: int) -> float:
    warm = max(1, settings.steps // 50)
    if step < warm:
        return settings.rate * (step + 1) / warm
    return settings.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (settings.steps - warm)))


def take_step(state: State, model: Denoiser, images: Images, settings: Settings) -> float:
    for group in state.optimizer.param_groups:
        group["lr"] = rate_at(settings, state.step)
    state.optimizer.zero_grad()
    loss = loss_of(model, *draw(images, settings, state.step)).mean()
    loss.backward()
    state.optimizer.step()
    state.step += 1
    keep = max(0.0, 1 - 1 / (settings.average * state.step))
    with torch.no_grad():
        for kept, new in zip(state.average.parameters(), state.net.parameters(), strict=True):
            kept.lerp_(new, 1 - keep)
    return float(loss.detach())


def save_checkpoint(state: State, settings: Settings, path: Path) -> None:
    part = path.with_suffix(path.suffix + ".part")
    torch.save(
        {
            "settings": repr(settings),
            "step": state.step,
            "net": state.net.state_dict(),
            "average": state.average.state_dict(),
            "optimizer": state.optimizer.state_dict(),
        },
        part,
    )
    part.replace(path)  # an interruption leaves the old file or the new one


def resume(settings: Settings, path: Path) -> State:
    """The run that was interrupted.

    Raises:
        ValueError: if the checkpoint is of a run with other settings.
    """
    state = begin(settings)
    kept: dict[str, Any] = torch.load(path, weights_only=True)
    if kept["settings"] != repr(settings):
        raise ValueError(
            f"{path.name} must be of a run with {settings!r}, got one with {kept['settings']}"
        )
    state.step = kept["step"]
    state.net.load_state_dict(kept["net"])
    state.average.load_state_dict(kept["average"])
    state.optimizer.load_state_dict(kept["optimizer"])
    return state


def train(
    images: Images,
    settings: Settings,
    checkpoint: Path | None = None,
    every: int = 2000,
    until: int | None = None,
    disable: bool | None = None,
) -> tuple[DigitsNet, float]:
    """The averaged network after the last step, and the images' spread.

    Args:
        images: what to learn from.
        settings: what the result depends on.
        checkpoint: written every so many steps, and read if it is there.
        every: that many.
        until: stop after this step as if interrupted.
        disable: True hides the progress bar.
    """
    spread = float(images.train.double().std(correction=0))
    found = checkpoint is not None and checkpoint.exists()
    state = resume(settings, checkpoint) if found and checkpoint else begin(settings)
    model = Denoiser(state.net, spread)
    last = settings.steps if until is None else until
    shown = 1.0
    with trange(state.step, last, initial=state.step, total=last, disable=disable) as bar:
        for _ in bar:
            shown += 0.01 * (take_step(state, model, images, settings) - shown)
            if state.step % 200 == 0:
                bar.set_postfix(loss=f"{shown:.4f}")
            if checkpoint is not None and (state.step % every == 0 or state.step == last):
                save_checkpoint(state, settings, checkpoint)
    return state.average, spread


def write(net: DigitsNet, spread: float, path: Path, metadata: dict[str, str]) -> str:
    """Write the weights in float16 and return the SHA-256 of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in net.state_dict().items()}
    notes = dict(sorted({"spread": repr(spread), **metadata}.items(), key=_place))
    raw = save(weights, metadata=notes)
    # safetensors puts the notes in an order that changes from run to run; the bytes are to stay.
    length = int.from_bytes(raw[:8], "little")
    header = {**json.loads(raw[8 : 8 + length]), "__metadata__": notes}
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    path.write_bytes(raw[:8] + text + raw[8 + length :])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _place(note: tuple[str, str]) -> tuple[int, str]:
    first = ("settings", "spread", "command")
    return (first.index(note[0]) if note[0] in first else len(first), note[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=digits.WEIGHTS)
    parser.add_argument("--checkpoint", type=Path, help="written on the way; resumed if it exists")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    arguments = parser.parse_args()
    settings = Settings(seed=arguments.seed, steps=arguments.steps)
    torch.set_num_threads(1)  # at this size more do not pay, and would round differently
    begun = time.perf_counter()
    net, spread = train(digits.load_images(), settings, arguments.checkpoint)
    command = f"python training/digits.py --steps {settings.steps} --seed {settings.seed}"
    found = write(net, spread, arguments.out, {"command": command, "settings": repr(settings)})
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes, SHA-256 {found}")
    print(
        f"{sum(p.numel() for p in net.parameters())} weights, {time.perf_counter() - begun:.0f} s"
    )


if __name__ == "__main__":
    main()
