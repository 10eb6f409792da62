"""Links in the docstrings: to what the package exports under a shorter name, and to nothing else.

A docstring says ``PhiloxBridge`` or ``dpmpp_core.PhiloxBridge``, as a reader would import it; the
page of the API has it as ``dpmpp_core.noise.bridge.PhiloxBridge``. Types of other packages have no
page here and stay plain text. A link to something of ours that has no page is a warning, as ever.
"""

from __future__ import annotations

from typing import cast

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import ExtensionMetadata

OTHERS = (
    "torch",
    "Tensor",
    "collections",
    "pathlib",
    "numpy",
    "sympy",
    "matplotlib",
    "diffusers",
    "None",
)
"""Where the first part of a name is one of these, it is not ours."""
VARIABLES = ("dpmpp_core.schedule.Scalar",)
"""Stand for a type and are none."""


def stands_for(short: str, full: str) -> bool:
    """Whether all parts of a short name are, in their order, in the full one, the last at its end.

    >>> stands_for("dpmpp_core.PhiloxBridge", "dpmpp_core.noise.bridge.PhiloxBridge")
    True
    """
    rest = iter(full.split("."))
    return full.endswith(short.split(".")[-1]) and all(part in rest for part in short.split("."))


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.Node | None:
    """What Sphinx asks where it found no target of that name."""
    target = node["reftarget"]
    if node.get("refdomain") != "py":
        return None
    if target.split(".")[0] in OTHERS or target in VARIABLES:
        return text
    domain = cast(PythonDomain, env.get_domain("py"))
    found = [name for name in domain.objects if stands_for(target, name)]
    if not found:
        return None
    full = min(found, key=lambda name: name.count("."))  # a function before a method of its name
    entry = domain.objects[full]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text, full)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the hook."""
    app.connect("missing-reference", resolve)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
