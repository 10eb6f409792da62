"""What calls a sampler, and what a sampler calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class ModelPatcher:
    """Gives a model's parts by their names."""

    def __init__(self, model: BaseModel) -> None:
        self.model = model

    def get_model_object(self, name: str) -> Any:
        return getattr(self.model, name)


class BaseModel:
    """The model behind a guider."""

    def __init__(self, model_sampling: Any) -> None:
        self.model_sampling = model_sampling

    def scale_latent_inpaint(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, **others: Any
    ) -> Tensor:
        return self.model_sampling.noise_scaling(sigma, noise, latent_image)


class Guider:
    """A guider around ``denoise(x, sigma)``; it keeps what it was called with."""

    def __init__(self, model_sampling: Any, denoise: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.inner_model = BaseModel(model_sampling)
        self.model_patcher = ModelPatcher(self.inner_model)
        self.denoise = denoise
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        x: Tensor,
        timestep: Tensor,
        model_options: Mapping[str, Any] | None = None,
        seed: Any = None,
    ) -> Tensor:
        self.calls.append({"sigma": timestep, "model_options": model_options, "seed": seed})
        return self.denoise(x, timestep)


class MaskedModel:
    """What a sampler gets as its model: the guider, under a mask of what is to be painted."""

    def __init__(self, guider: Guider, noise: Tensor, latent_image: Tensor) -> None:
        self.inner_model = guider
        self.noise, self.latent_image = noise, latent_image

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        denoise_mask: Tensor | None,
        model_options: Mapping[str, Any] | None = None,
        seed: Any = None,
    ) -> Tensor:
        if denoise_mask is None:
            return self.inner_model(x, sigma, model_options=model_options, seed=seed)
        kept = self.inner_model.inner_model.scale_latent_inpaint(
            x=x,
            sigma=sigma,
            noise=self.noise,
            latent_image=self.latent_image,
            denoise_mask=denoise_mask,
        )
        mixed = torch.where(denoise_mask > 0, x, kept)
        out = self.inner_model(mixed, sigma, model_options=model_options, seed=seed)
        return torch.where(denoise_mask > 0, out, self.latent_image)


class KSAMPLER:
    """The SAMPLER of a workflow: a function and its options."""

    def __init__(
        self,
        sampler_function: Callable[..., Tensor],
        extra_options: Mapping[str, Any] | None = None,
        inpaint_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.sampler_function = sampler_function
        self.extra_options = dict(extra_options or {})

    def sample(
        self,
        model_wrap: Guider,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[[int, Tensor, Tensor, int], None] | None,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        model_sampling = model_wrap.inner_model.model_sampling
        full = float(sigmas[0]) >= model_sampling.sigma_max
        x = model_sampling.noise_scaling(sigmas[0], noise, latent_image, full)

        def tell(state: dict[str, Any]) -> None:
            if callback is not None:
                callback(state["i"], state["denoised"], state["x"], len(sigmas) - 1)

        out = self.sampler_function(
            MaskedModel(model_wrap, noise, latent_image),
            x,
            sigmas,
            extra_args=extra_args | {"denoise_mask": denoise_mask},
            callback=tell,
            disable=disable_pbar,
            **self.extra_options,
        )
        return model_sampling.inverse_noise_scaling(sigmas[-1], out)
