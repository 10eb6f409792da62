from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch

from dpmpp_core import (
    IndependentNoise,
    Transition,
    figures,
    gaussian,
    schedule,
    trajectory,
    triangle,
)

matplotlib.use("agg")


@pytest.fixture
def ax() -> Iterator[Axes]:
    with figures.style():
        fig, ax = plt.subplots()
        yield ax
        plt.close(fig)


@pytest.fixture(scope="module")
def run() -> list[Transition]:
    x = triangle().sample(3, 3.0, generator=torch.Generator().manual_seed(0))
    levels = schedule.karras(5, 0.05, 3.0)
    noise = IndependentNoise(x, seed=1)
    return list(trajectory(triangle().model(), x, levels, noise_sampler=noise))


def arrows(ax: Axes) -> list[FancyArrowPatch]:
    return [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]


def test_the_arrows_of_a_step_lead_from_the_old_state_to_the_new(
    ax: Axes, run: list[Transition]
) -> None:
    figures.draw_step(ax, run[2], 1)
    ends = [patch._posA_posB for patch in arrows(ax)]
    assert ends[0][0] == tuple(run[2].x[1].tolist())
    assert ends[-1][1] == pytest.approx(run[2].x_next[1].tolist(), abs=1e-14)
    assert [a[1] for a in ends[:-1]] == [b[0] for b in ends[1:]]


def test_each_term_has_its_own_colour_and_its_own_line(ax: Axes, run: list[Transition]) -> None:
    figures.draw_step(ax, run[2], 1)
    colours = [to_hex(patch.get_edgecolor()).upper() for patch in arrows(ax)]
    assert colours == ["#0072B2", "#E69F00", "#009E73"]
    assert len({patch.get_linestyle() for patch in arrows(ax)}) == 3
    assert len({term.hatch for term in figures.TERMS.values()}) == 3


@pytest.mark.parametrize(("k", "missing"), [(0, {"history"}), (4, {"history", "noise"})])
def test_a_term_of_length_zero_has_no_arrow(
    ax: Axes, run: list[Transition], k: int, missing: set[str]
) -> None:
    figures.draw_step(ax, run[k], 0, labels=True)
    assert {text.get_text() for text in ax.texts} == set(figures.TERMS) - missing


def test_the_bars_are_as_high_as_the_terms_are_large(ax: Axes, run: list[Transition]) -> None:
    sizes = figures.term_sizes(ax, run)
    heights = [bar.get_height() for bar in ax.containers[2]]
    assert heights == sizes["noise"]
    first = run[0].coefficients.D * run[0].xi
    assert heights[0] == pytest.approx(float((first**2).mean() ** 0.5), rel=1e-12)
    assert heights[-1] == 0.0


def test_a_run_is_drawn_as_as_many_pieces_as_it_has_terms(ax: Axes, run: list[Transition]) -> None:
    figures.term_paths(ax, run)
    assert [len(lines.get_segments()) for lines in ax.collections] == [15, 15, 15]
    last_noise = ax.collections[2].get_segments()[-4:-3][0]
    figures.paths(ax, run, [0, 2])
    assert last_noise.shape == (2, 2)
    assert ax.lines[-1].get_xydata()[0].tolist() == run[-1].x_next[2].tolist()


def test_an_enlarged_step_fits_its_panel(ax: Axes, run: list[Transition]) -> None:
    figures.zoom_on_step(ax, run[1], 0)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for patch in arrows(ax):
        for x, y in patch._posA_posB:
            assert left < x < right
            assert bottom < y < top


def test_the_frame_in_the_whole_picture_is_the_panel_that_enlarges(
    ax: Axes, run: list[Transition]
) -> None:
    figures.mark_step(ax, run[2], 1)
    (frame,) = ax.patches
    figures.zoom_on_step(ax, run[2], 1)
    assert ax.get_xlim() == pytest.approx((frame.get_x(), frame.get_x() + frame.get_width()))
    assert ax.get_ylim() == pytest.approx((frame.get_y(), frame.get_y() + frame.get_height()))


def test_only_a_target_in_the_plane_can_be_drawn(ax: Axes) -> None:
    figures.density(ax, triangle(), 3.0)
    assert ax.get_xlim() == (-3.0, 3.0)
    with pytest.raises(ValueError, match=r"target must be 2-D to be drawn in the plane, got .* 3"):
        figures.density(ax, gaussian(torch.zeros(3)), 3.0)


def test_the_style_leaves_no_trace() -> None:
    before = dict(matplotlib.rcParams)
    with figures.style():
        assert matplotlib.rcParams["axes.spines.top"] is False
    assert dict(matplotlib.rcParams) == before


def test_a_first_figure_drawn_in_the_style_leaves_a_notebook_interactive() -> None:
    was = plt.isinteractive()
    try:
        plt.ioff()
        with figures.style():
            plt.ion()
        assert plt.isinteractive()
    finally:
        matplotlib.interactive(was)


def test_the_cover_starts_all_panels_from_the_same_points() -> None:
    fig = figures.cover(etas=(0.0, 1.0), particles=5)
    starts = [ax.collections[1].get_segments()[:5] for ax in fig.axes]
    for one, other in zip(*starts, strict=True):
        assert one[0].tolist() == other[0].tolist()
    plt.close(fig)


def test_a_grid_of_settings_has_a_panel_for_each_pair() -> None:
    seen = []
    fig = figures.settings_grid(
        lambda ax, row, column: seen.append((row, column)), [0, 1], ["a", "b", "c"], "eta", "solver"
    )
    assert seen == [(r, c) for r in (0, 1) for c in "abc"]
    assert [ax.get_title(loc="left") or ax.get_title() for ax in fig.axes][:3] == [
        "solver = a",
        "solver = b",
        "solver = c",
    ]
    plt.close(fig)
