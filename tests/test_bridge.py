"""PhiloxBridge: its law without sampling, what its path does not depend on, and its twin."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from browser import run_js
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor

from dpmpp_core import VP, Flow, Mesh, PhiloxBridge, sample, schedule, step_table
from dpmpp_core.noise.bridge import DEPTH, increment_row, log_gap, point_row
from dpmpp_core.noise.philox import key_words, unit_normals
from dpmpp_core.schedule import as_process

F64 = torch.float64
CLOCKS = ["tau", "sigma"]
PROCESSES = ["ve", "vp", "flow"]
ETAS = [0.0, 1e-300, 1e-6, 0.5, 1.0, 2.0, 50.0]
LEAF = 2.0**-DEPTH

# Statistics are compared with their exact law at this many standard errors: about 1 in 2 million
# each. Seeds are fixed. A p-value of 1e-6 is as rare.
Z = 5.0
P = 1e-6

TABLE = schedule.discrete_table()
SCHEDULES = {
    "karras": (schedule.karras(1000, 0.029, 14.6), "ve"),
    "exponential": (schedule.exponential(1000, 0.029, 14.6), "ve"),
    "simple": (schedule.simple(1000, TABLE), "ve"),
    "beta": (schedule.beta(1000, TABLE), "ve"),
    "kl_optimal": (schedule.kl_optimal(1000, 0.029, 14.6), "ve"),
    "vp": (schedule.vp(1000), "ve"),
    "laplace": (schedule.laplace(1000, 0.029, 14.6), "ve"),
    "linear_quadratic": (schedule.linear_quadratic(200, 1.0), "flow"),
    "flow, shift 3": (schedule.flow(1000, 3.0), "flow"),
    "flow table, simple": (schedule.simple(1000, schedule.flow_table(3.0)), "flow"),
    "flow table, beta": (schedule.beta(1000, schedule.flow_table(3.0)), "flow"),
}


def blank(*shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.zeros(*shape, dtype=dtype)


def karras_to_the_end(steps: int) -> Tensor:
    """Karras levels from 14.6 to 0.029, without the last step to 0."""
    return schedule.karras(steps + 1, 0.029, 14.6)[:-1]


def normals(bridge: PhiloxBridge, sigmas: Tensor) -> Tensor:
    """xi of every step, stacked."""
    return torch.stack([bridge(s, t) for s, t in itertools.pairwise(sigmas) if t > 0])


def gram_error(table: Tensor) -> float:
    return float((table @ table.T - torch.eye(len(table), dtype=F64)).abs().max())


def zeros(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
    return torch.zeros_like(x)


def response(sigmas: Tensor, clock: Any, eta: float = 1.0, process: Any = "ve") -> Tensor:
    """What the sampler makes of its noise alone: start at 0, model 0."""
    x = blank(1, 64)
    bridge = PhiloxBridge(x, sigmas, 3, eta=eta, clock=clock, process=process)
    return sample(zeros, x, sigmas, eta=eta, noise_sampler=bridge, process=process, disable=True)


# --- the law, without sampling ---


@st.composite
def meshes(draw: st.DrawFn) -> tuple[list[float], str]:
    """Levels at random half log-SNRs, no two of them in one leaf, some of them at its ends."""
    process = draw(st.sampled_from(PROCESSES))
    top = 15 if process == "ve" else 8
    leaves = draw(
        st.lists(st.integers(-8 << DEPTH, top << DEPTH), min_size=2, max_size=12, unique=True)
    )
    close = draw(st.integers(0, 3))
    leaves += [leaves[0] + i for i in range(1, 1 + close)]
    within = draw(st.sampled_from([0.0, 0.001, 0.5, 0.999]))
    lams = [(leaf + within) * LEAF for leaf in sorted(set(leaves))]
    return [as_process(process).sigma(lam) for lam in lams], process


def apart(sigmas: list[float], process: str) -> bool:
    # Rounding to sigma and back may move a point at a leaf's end into the next one.
    lams = Mesh.from_sigmas(sigmas, process).lam
    return len({math.floor(lam / LEAF) for lam in lams}) == len(lams)


@settings(max_examples=60)
@given(meshes(), st.sampled_from(ETAS), st.sampled_from(CLOCKS))
def test_the_steps_are_independent_unit_normals_by_their_weights(
    mesh: tuple[list[float], str], eta: float, clock: Any
) -> None:
    sigmas, process = mesh
    if not apart(sigmas, process):
        return
    bridge = PhiloxBridge(blank(1, 1), sigmas, process=process, eta=eta, clock=clock)
    assert gram_error(bridge.weights.table) < 1e-12


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("process", PROCESSES)
def test_the_steps_are_independent_for_every_clock_process_and_eta(
    process: Any, eta: float, clock: Any
) -> None:
    levels = karras_to_the_end(20)
    sigmas = levels if process == "ve" else levels / (levels + 1)
    bridge = PhiloxBridge(blank(1, 1), sigmas, process=process, eta=eta, clock=clock)
    assert gram_error(bridge.weights.table) < 1e-14


@pytest.mark.parametrize("name", SCHEDULES)
def test_ordinary_schedules_fit_the_tree(name: str) -> None:
    sigmas, process = SCHEDULES[name]
    PhiloxBridge(blank(1, 1), sigmas, process=process)
    # The law on stretches of its mesh: all of it would take long.
    middle = len(sigmas) // 2
    for part in (sigmas[:40], sigmas[middle - 20 : middle + 20], sigmas[-40:]):
        bridge = PhiloxBridge(blank(1, 1), part, process=process)
        assert gram_error(bridge.weights.table) < 2e-14


@settings(max_examples=60)
@given(
    st.floats(-30, 30), st.sampled_from(PROCESSES), st.sampled_from(ETAS), st.sampled_from(CLOCKS)
)
def test_a_point_is_a_unit_normal_of_at_most_13_nodes(
    lam: float, process: str, eta: float, clock: Any
) -> None:
    row = point_row(lam, log_gap(as_process(process), eta, clock))
    assert len(row) <= DEPTH + 2
    assert all(0 <= node < 2**32 for node in row)
    if lam != math.floor(lam):
        assert sum(weight**2 for weight in row.values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("process", ["ve", "vp", "flow"])
def test_the_clock_sigma_is_sigma(process: str) -> None:
    gap = log_gap(as_process(process), 1.0, "sigma")
    for a, b in ((-3.0, -1.5), (-0.25, 0.5), (1.0, 1.0625), (2.0, 9.0)):
        a_sigma, b_sigma = as_process(process).sigma(a), as_process(process).sigma(b)
        assert math.exp(gap(a, b, b)) == pytest.approx(a_sigma - b_sigma, rel=1e-13)
    # Without cancellation: over a short step the gap is the step times the slope.
    a = 1.0
    slope = {"ve": math.exp(-a), "vp": VP().sigma(a) ** 3 * math.exp(2 * a),
             "flow": Flow().sigma(a) ** 2 * math.exp(a)}[process]  # fmt: skip
    assert math.exp(gap(a, a + 2.0**-40, a)) == pytest.approx(slope * 2.0**-40, rel=1e-11)


def test_the_clock_tau_is_the_exponential_and_lambda_in_the_limit() -> None:
    for eta in (0.5, 1.0, 2.0):
        gap = log_gap(VP(), eta, "tau")
        exact = (math.exp(2 * eta * 1.5) - math.exp(2 * eta * 0.25)) / (2 * eta)
        assert math.exp(gap(0.25, 1.5, 0.0)) == pytest.approx(exact, rel=1e-14)
    for eta in (0.0, 1e-320, 1e-18):
        assert math.exp(log_gap(VP(), eta, "tau")(0.25, 1.5, 0.0)) == pytest.approx(1.25, rel=1e-15)


@pytest.mark.parametrize("clock", CLOCKS)
def test_what_is_returned_is_the_weights_times_the_normals(clock: Any) -> None:
    sigmas = karras_to_the_end(9)
    bridge = PhiloxBridge(blank(2, 3, 2), sigmas, 7, clock=clock)
    nodes, table = bridge.weights
    z = unit_normals(key_words([7, 8], torch.device("cpu")), nodes, torch.arange(2))
    z = z.permute(0, 2, 3, 1).flatten(2)[..., :6].reshape(-1, 2, 3, 2)
    expected = torch.tensordot(table, z, dims=1)
    assert float((normals(bridge, sigmas) - expected).abs().max()) < 1e-13


# --- one path ---


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 50.0])
@pytest.mark.parametrize("process", PROCESSES)
def test_fine_increments_add_up_to_coarse_ones(process: Any, eta: float) -> None:
    fine = karras_to_the_end(5 * 64)
    fine = fine if process == "ve" else fine / (1 + fine)
    lam = Mesh.from_sigmas(fine, process).lam
    for clock in CLOCKS:
        gap = log_gap(as_process(process), eta, clock)
        xi = normals(PhiloxBridge(blank(1, 8), fine, process=process, eta=eta, clock=clock), fine)
        coarse = fine[::64]
        whole = normals(
            PhiloxBridge(blank(1, 8), coarse, process=process, eta=eta, clock=clock), coarse
        )
        for k in range(5):
            start, end = lam[64 * k], lam[64 * (k + 1)]
            steps = itertools.pairwise(lam[64 * k : 64 * (k + 1) + 1])
            share = [math.exp(0.5 * (gap(a, b, end) - gap(start, end, end))) for a, b in steps]
            added = (torch.tensor(share, dtype=F64)[:, None] * xi[64 * k : 64 * (k + 1), 0]).sum(0)
            assert float((added - whole[k, 0]).abs().max()) < 1e-12


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("process", PROCESSES)
def test_in_the_clock_tau_the_samplers_noise_is_that_of_64_times_as_many_steps(
    process: Any, eta: float
) -> None:
    fine = karras_to_the_end(5 * 64)
    fine = fine if process == "ve" else fine / (1 + fine)
    few, many = (response(s, "tau", eta, process) for s in (fine[::64], fine))
    assert float((few - many).abs().max() / many.abs().max()) < 1e-12


def test_in_the_clock_sigma_it_is_not() -> None:
    fine = karras_to_the_end(5 * 64)
    few, many = (response(s, "sigma") for s in (fine[::64], fine))
    assert 0.5 < float((few - many).norm() / many.norm()) < 0.9


@pytest.mark.parametrize(("steps", "expected"), [(5, 0.682), (10, 0.385), (20, 0.200)])
def test_the_gap_in_the_clock_sigma_is_the_one_the_book_states(steps: int, expected: float) -> None:
    """Root mean square of the difference over that of the fine response, without sampling."""
    fine = karras_to_the_end(64 * steps)
    coarse = fine[::64]

    def response_to_each_step(sigmas: Tensor) -> Tensor:
        noise = torch.tensor(step_table(Mesh.from_sigmas(sigmas)).D, dtype=F64)
        return noise * (sigmas[-1] / sigmas[1:]) ** 2

    # A coarse step's xi is the sum of the fine ones, weighted by the roots of their lengths.
    share = (-fine.diff()).sqrt() / (-coarse.diff()).sqrt().repeat_interleave(64)
    few = response_to_each_step(coarse).repeat_interleave(64) * share
    many = response_to_each_step(fine)
    assert float((few - many).norm() / many.norm()) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("clock", CLOCKS)
def test_the_path_does_not_depend_on_the_number_of_steps(clock: Any) -> None:
    fine, ends = karras_to_the_end(60), karras_to_the_end(1)
    bridge = PhiloxBridge(blank(2, 3), fine, 5, clock=clock)
    for steps in (1, 2, 5, 20):
        coarse = fine[:: 60 // steps]
        other = PhiloxBridge(blank(2, 3), coarse, 5, clock=clock)
        for s, t in itertools.pairwise(coarse):
            assert torch.equal(other(s, t), bridge(s, t))
    assert torch.equal(bridge(*ends), PhiloxBridge(blank(2, 3), ends, 5, clock=clock)(*ends))


def test_neither_the_order_of_the_queries_nor_their_number_matters() -> None:
    sigmas = karras_to_the_end(6)
    in_order = normals(PhiloxBridge(blank(1, 4), sigmas), sigmas)
    bridge = PhiloxBridge(blank(1, 4), sigmas)
    for k in (5, 0, 0, 3, 2, 4, 1):
        assert torch.equal(bridge(sigmas[k], sigmas[k + 1]), in_order[k])
    assert torch.equal(bridge(sigmas[3], sigmas[2]), -in_order[2])


def test_what_was_returned_stays_as_it_was() -> None:
    sigmas = karras_to_the_end(3)
    bridge = PhiloxBridge(blank(1, 4), sigmas)
    first = bridge(sigmas[0], sigmas[1])
    first.mul_(0)
    assert torch.equal(first, torch.zeros(1, 4, dtype=F64))
    fresh = PhiloxBridge(blank(1, 4), sigmas)
    assert torch.equal(bridge(sigmas[1], sigmas[2]), fresh(sigmas[1], sigmas[2]))


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("cut", [1, 7, 19])
def test_a_run_split_in_two_draws_what_the_whole_run_draws(cut: int, clock: Any) -> None:
    sigmas = schedule.karras(20, 0.029, 14.6)
    whole = normals(PhiloxBridge(blank(2, 3), sigmas, clock=clock), sigmas)
    halves = [
        normals(PhiloxBridge(blank(2, 3), part, clock=clock), part)
        for part in (sigmas[: cut + 1], sigmas[cut:])
        if len(part) > 1 and part[1] > 0
    ]
    assert torch.equal(torch.cat(halves), whole)


def test_a_flow_run_that_starts_at_1_starts_at_the_meshs_first_level() -> None:
    sigmas = schedule.flow(20, 3.0)
    process = Flow(shift=3.0)
    first = Mesh.from_sigmas(sigmas, process).sigma[0]
    bridge = PhiloxBridge(blank(1, 4), sigmas, process=process)
    assert bridge(first, sigmas[1]).shape == (1, 4)
    with pytest.raises(ValueError, match=r"^sigma must be a level of the mesh"):
        bridge(1.0, sigmas[1])


# --- one batch ---


def test_sample_i_of_a_batch_is_sample_0_of_the_seed_plus_i() -> None:
    sigmas = karras_to_the_end(4)
    seed = 2**64 - 2
    batch = normals(PhiloxBridge(blank(4, 3, 5), sigmas, seed), sigmas)
    for i in range(4):
        alone = normals(PhiloxBridge(blank(1, 3, 5), sigmas, (seed + i) % 2**64), sigmas)
        assert torch.equal(batch[:, i], alone[:, 0])


def test_a_list_of_seeds_is_one_per_sample() -> None:
    sigmas = karras_to_the_end(3)
    batch = normals(PhiloxBridge(blank(3, 5), sigmas, [9, 4, 9]), sigmas)
    assert torch.equal(batch[:, 0], batch[:, 2])
    assert torch.equal(batch[:, 1], normals(PhiloxBridge(blank(1, 5), sigmas, 4), sigmas)[:, 0])


def test_no_seed_draws_one_from_torchs_generator() -> None:
    sigmas = karras_to_the_end(2)
    draws = []
    for _ in range(2):
        torch.manual_seed(11)
        draws += [PhiloxBridge(blank(1, 3), sigmas, None)(*sigmas[:2]) for _ in range(2)]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_an_element_does_not_depend_on_the_shape_around_it() -> None:
    sigmas = karras_to_the_end(2)
    flat = PhiloxBridge(blank(1, 24), sigmas)(*sigmas[:2])
    assert torch.equal(PhiloxBridge(blank(1, 2, 3, 4), sigmas)(*sigmas[:2]), flat.view(1, 2, 3, 4))
    assert torch.equal(PhiloxBridge(blank(1, 7), sigmas)(*sigmas[:2]), flat[:, :7])
    assert torch.equal(PhiloxBridge(blank(1), sigmas)(*sigmas[:2]), flat[:, 0])


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = karras_to_the_end(2)[:2]
    whole = PhiloxBridge(blank(3, 18), levels)(*levels)
    for size in (2, 5, 11, 40):
        monkeypatch.setattr("dpmpp_core.noise.philox._TILE_HOST", size)
        assert torch.equal(PhiloxBridge(blank(3, 18), levels)(*levels), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_every_dtype_gets_the_same_normals_rounded(dtype: torch.dtype) -> None:
    sigmas = karras_to_the_end(2)
    exact = PhiloxBridge(blank(2, 9), sigmas)(*sigmas[:2])
    xi = PhiloxBridge(blank(2, 9, dtype=dtype), sigmas)(*sigmas[:2])
    assert xi.dtype == dtype
    assert torch.equal(xi, exact.to(dtype))


def test_levels_may_come_as_floats_tensors_or_rounded_to_float32() -> None:
    sigmas = karras_to_the_end(3)
    bridge = PhiloxBridge(blank(1, 4), sigmas)
    expected = bridge(sigmas[1], sigmas[2])
    assert torch.equal(bridge(float(sigmas[1]), float(sigmas[2])), expected)
    assert torch.equal(bridge(sigmas[1].float(), sigmas[2].float()), expected)


def test_an_empty_batch_and_a_state_that_is_not_contiguous() -> None:
    sigmas = karras_to_the_end(2)
    assert PhiloxBridge(blank(0, 3), sigmas)(*sigmas[:2]).shape == (0, 3)
    assert PhiloxBridge(blank(2, 0), sigmas)(*sigmas[:2]).shape == (2, 0)
    turned = blank(3, 2, 4).permute(1, 2, 0)
    assert not turned.is_contiguous()
    expected = PhiloxBridge(blank(2, 4, 3), sigmas)(*sigmas[:2])
    assert torch.equal(PhiloxBridge(turned, sigmas)(*sigmas[:2]), expected)


def test_a_query_never_waits_for_the_device() -> None:
    """Tensors on the device "meta" have no values: whoever reads one on the host fails."""
    sigmas = karras_to_the_end(3)
    x = torch.empty(2, 3, device="meta", dtype=torch.float16)
    xi = PhiloxBridge(x, sigmas)(sigmas[0], sigmas[1])
    assert (xi.device, xi.dtype, xi.shape) == (x.device, x.dtype, x.shape)


# --- in the sampler ---


def test_it_plugs_into_the_sampler_at_1000_steps() -> None:
    sigmas = schedule.karras(1000, 0.029, 14.6).float()
    x = torch.full((1, 4), 14.6)
    bridge = PhiloxBridge(x, sigmas, 2)
    out = sample(
        lambda x, sigma: x / (1 + sigma.view(-1, 1) ** 2), x, sigmas,
        noise_sampler=bridge, disable=True,
    )  # fmt: skip
    assert torch.isfinite(out).all()
    assert float(out.abs().max()) < 6


@pytest.mark.parametrize("process", PROCESSES)
def test_it_plugs_into_the_sampler_under_every_process(process: str) -> None:
    levels = schedule.karras(6, 0.029, 14.6)
    sigmas = levels if process == "ve" else schedule.flow(6)
    if process == "vp":
        sigmas = levels / (1 + levels.square()).sqrt()
    for eta in (0.0, 1.0):
        bridge = PhiloxBridge(blank(1, 4), sigmas, process=process, eta=eta)
        out = sample(
            zeros, blank(1, 4), sigmas, eta=eta, process=process, noise_sampler=bridge, disable=True
        )
        assert torch.isfinite(out).all()


# --- the law, by drawing ---


@pytest.mark.parametrize("clock", CLOCKS)
def test_what_is_drawn_is_standard_normal_and_uncorrelated_across_steps(clock: Any) -> None:
    sigmas = karras_to_the_end(12)
    xi = normals(PhiloxBridge(blank(50, 200), sigmas, 1, clock=clock), sigmas).flatten(1)
    n = xi.shape[1]
    assert float(xi.mean(1).abs().max()) < Z / math.sqrt(n)
    assert float((xi.square().mean(1) - 1).abs().max()) < Z * math.sqrt(2 / n)
    assert min(kstest(row.numpy(), "norm").pvalue for row in xi) > P
    cross = xi @ xi.T / math.sqrt(n)
    assert float(cross.fill_diagonal_(0).abs().max()) < Z


# --- what is refused ---


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "7", True, [1, -1], [0.5, 1]])
def test_a_seed_that_is_no_64_bit_integer_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"^seed must be an integer from 0 to 2\^64 - 1"):
        PhiloxBridge(blank(2, 3), [2.0, 1.0], seed)


def test_a_list_of_seeds_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^seed must be one integer or a list .* got a list of 1"):
        PhiloxBridge(blank(2, 3), [2.0, 1.0], [1])


def test_two_levels_in_one_leaf_are_refused_by_name() -> None:
    lams = [0.5, 3.25 * LEAF + 1, 3.75 * LEAF + 1]
    with pytest.raises(
        ValueError, match=r"^sigmas must be at least 0.00049 apart .* sigmas\[1\] = .* sigmas\[2\]"
    ):
        PhiloxBridge(blank(1, 3), [math.exp(-lam) for lam in lams])


def test_a_level_off_the_mesh_is_refused() -> None:
    bridge = PhiloxBridge(blank(1, 3), [2.0, 1.5, 1.0, 0.0])
    with pytest.raises(ValueError, match=r"^sigma_next must be a level of the mesh .* got 1.4"):
        bridge(2.0, 1.4)
    with pytest.raises(ValueError, match=r"^sigma must be a level of the mesh .* got nan"):
        bridge(math.nan, 1.0)
    with pytest.raises(ValueError, match=r"^sigma_next must be above 0"):
        bridge(1.0, 0.0)
    with pytest.raises(ValueError, match=r"^sigma and sigma_next must differ, got 1.5 twice"):
        bridge(1.5, 1.5)


def test_other_arguments_are_refused() -> None:
    x = blank(1, 3)
    with pytest.raises(ValueError, match=r"^clock must be 'tau' or 'sigma', got 'time'"):
        PhiloxBridge(x, [2.0, 1.0], clock="time")  # type: ignore[arg-type]
    for eta in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"^eta must be a finite number >= 0"):
            PhiloxBridge(x, [2.0, 1.0], eta=eta)
    with pytest.raises(ValueError, match=r"^x must have a shape"):
        PhiloxBridge(torch.tensor(1.0), [2.0, 1.0])
    with pytest.raises(ValueError, match=r"^sigmas must be strictly decreasing"):
        PhiloxBridge(x, [1.0, 2.0])


# --- the page's JavaScript ---

CASES = [
    (process, eta, clock)
    for process in PROCESSES
    for eta, clock in [(0.0, "tau"), (1e-6, "tau"), (1.0, "tau"), (50.0, "tau"), (1.0, "sigma")]
]


@pytest.mark.browser
def test_javascript_computes_the_same_weights_and_noise() -> None:
    levels = karras_to_the_end(20)
    lams, rows, xis = [], [], []
    for process, eta, clock in CASES:
        sigmas = levels if process == "ve" else levels / (1 + levels)
        lam = Mesh.from_sigmas(sigmas, process).lam
        gap = log_gap(as_process(process), eta, clock)
        lams.append(list(lam))
        rows.append([increment_row(a, b, gap) for a, b in itertools.pairwise(lam)])
        bridge = PhiloxBridge(blank(3, 6), sigmas, 17, process=process, eta=eta, clock=clock)
        xis.append(normals(bridge, sigmas).flatten(1))
    found = run_js(
        """({philox, bridge}, [cases, lams]) => cases.map(([process, eta, clock], i) => {
            const weights = bridge.bridgeWeights(lams[i], {process, eta, clock});
            const normalsOf = bridge.createNormals(philox.batchNormals, 17, 3, 6);
            const xi = bridge.bridgeNoise(weights, normalsOf, 18).map(row => Array.from(row));
            return {points: weights.points, increments: weights.increments, xi};
        })""",
        [CASES, lams],
    )
    for case, js, lam, ours, xi in zip(CASES, found, lams, rows, xis, strict=True):
        gap = log_gap(as_process(case[0]), case[1], case[2])
        for point, row in zip(lam, js["points"], strict=True):
            expected = point_row(point, gap)
            assert [node for node, _ in row] == list(expected)
            assert [weight for _, weight in row] == pytest.approx(
                list(expected.values()), rel=2e-14, abs=1e-300
            )
        for k, row in enumerate(ours):
            assert total(js, k) == pytest.approx(row, rel=1e-11, abs=1e-13)
        assert float((torch.tensor(js["xi"], dtype=F64) - xi).abs().max()) < 1e-12


def total(js: dict[str, Any], k: int) -> dict[int, float]:
    """The weights of step k, put together from the points as the page does it."""
    step = js["increments"][k]
    row = dict(step["blocks"])
    for factor, point in ((-step["start"], k), (step["end"], k + 1)):
        for node, weight in js["points"][point]:
            row[node] = row.get(node, 0.0) + factor * weight
    return row


@pytest.mark.browser
def test_javascript_refuses_two_points_in_one_leaf() -> None:
    message = run_js(
        """({bridge}, lam) => {
            try { bridge.bridgeWeights(lam); } catch (error) { return error.message; }
        }""",
        [0.5, 1 + 3.25 * LEAF, 1 + 3.75 * LEAF],
    )
    assert message.startswith("lam must ascend by at least 2^-11")


@pytest.mark.browser
def test_javascript_draws_no_normal_when_only_eta_moves() -> None:
    drawn = run_js(
        """({philox, bridge}, lam) => {
            let count = 0;
            const counting = (...place) => { count++; return philox.batchNormals(...place); };
            const normalsOf = bridge.createNormals(counting, 1, 20, 2);
            return [0.25, 0.5, 2].map(eta => {
                const before = count;
                bridge.bridgeNoise(bridge.bridgeWeights(lam, {eta}), normalsOf, 40);
                return count - before;
            });
        }""",
        [float(lam) for lam in Mesh.from_sigmas(karras_to_the_end(20)).lam],
    )
    assert drawn[0] > 100
    assert drawn[1:] == [0, 0]
