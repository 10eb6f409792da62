"""ComfyUI's entry: a clone of this repository in its folder ``custom_nodes`` is a node pack.

Whatever else imports this file (pytest does) finds no node in it.
"""

from importlib.util import find_spec

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

if find_spec("comfy") is not None:
    from .dpmpp_core.adapters.comfy import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
else:
    NODE_CLASS_MAPPINGS = {}
    NODE_DISPLAY_NAME_MAPPINGS = {}
