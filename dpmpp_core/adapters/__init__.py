"""The sampler in other people's programs; nothing here is imported unless it is asked for.

:mod:`~dpmpp_core.adapters.comfy` needs ComfyUI, :mod:`~dpmpp_core.adapters.diffusers` diffusers.
"""
