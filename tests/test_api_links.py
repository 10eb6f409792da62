from __future__ import annotations

from types import ModuleType

import pytest
import scripts


@pytest.fixture(scope="module")
def api_links() -> ModuleType:
    return scripts.load("sphinx_ext/api_links.py")


@pytest.mark.parametrize(
    ("short", "full", "stands"),
    [
        ("PhiloxBridge", "dpmpp_core.noise.bridge.PhiloxBridge", True),
        ("dpmpp_core.PhiloxBridge", "dpmpp_core.noise.bridge.PhiloxBridge", True),
        ("PhiloxBridge.reseed", "dpmpp_core.noise.bridge.PhiloxBridge.reseed", True),
        ("dpmpp_core.symbolic.family", "dpmpp_core.symbolic.derivation.family", True),
        ("dpmpp_core.sample", "dpmpp_core.targets.GaussianMixture.sample", True),
        ("Bridge", "dpmpp_core.noise.bridge.PhiloxBridge", False),
        ("mesh.PhiloxBridge", "dpmpp_core.noise.bridge.PhiloxBridge", False),
        ("PhiloxBridge", "dpmpp_core.noise.bridge.PhiloxBridge.reseed", False),
        ("reseed.PhiloxBridge", "dpmpp_core.noise.bridge.PhiloxBridge.reseed", False),
    ],
)
def test_a_short_name_stands_for_a_full_one_that_has_its_parts_in_order(
    api_links: ModuleType, short: str, full: str, stands: bool
) -> None:
    assert api_links.stands_for(short, full) is stands
