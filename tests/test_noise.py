"""Sources of noise: torchsde and diffusers live, and the laws of Brownian motion."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
import torchsde
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from dpmpp_core import BrownianTree, IndependentNoise, schedule

F64 = torch.float64

# Every statistic below is compared with its exact law at this many standard errors: about 1 in 2
# million for each number compared. Seeds are fixed. A p-value of 1e-6 is as rare.
Z = 5.0
P = 1e-6


def at(time, dtype=F64):
    return torch.tensor(time, dtype=dtype)


def pairs(sigmas):
    """The steps between positive levels: the ones that draw noise."""
    levels = sigmas[sigmas > 0]
    return list(itertools.pairwise(levels))


def ends(sigmas):
    return sigmas[sigmas > 0].min(), sigmas.max()


def torchsde_as_comfyui_calls_it(x, sigma_min, sigma_max, seed, steps, cpu=False):
    """The increments over the steps of trees grown between the two ends; torchsde does the work."""
    several = isinstance(seed, list | tuple)
    origin = torch.zeros_like(x[0] if several else x)
    trees = [
        torchsde.BrownianTree(sigma_min, origin, sigma_max, entropy=s)
        for s in (seed if several else [seed])
    ]
    noise = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of times beyond an end by less than its rounding
        for start, end in steps:
            low, high = (end.float(), start.float()) if cpu else (end, start)
            increment = -torch.stack([tree(low, high) for tree in trees])
            increment = increment if several else increment[0]
            noise.append(increment / (end - start).abs().sqrt())
    return noise


SCHEDULES = {
    "karras": schedule.karras(6, 0.0291675, 14.614642),
    "exponential": schedule.exponential(5, 0.03, 14.6),
    "normal": schedule.normal(6, schedule.discrete_table()),
    "laplace": schedule.laplace(6, 0.03, 14.6),
    "kl_optimal": schedule.kl_optimal(5, 0.002, 80.0),
    "flow": schedule.flow(5, 3.0),
}


# --- the Brownian tree: the same numbers as ComfyUI ---------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1, [3, 4], (3, 4)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_tree_is_torchsdes_bit_for_bit(name, seed, dtype):
    sigmas = SCHEDULES[name].to(dtype)
    x = torch.zeros(2, 3, 4, dtype=dtype)
    low, high = ends(sigmas)
    tree = BrownianTree(x, low, high, seed)
    expected = torchsde_as_comfyui_calls_it(x, low, high, seed, pairs(sigmas))
    for (start, end), oracle in zip(pairs(sigmas), expected, strict=True):
        xi = tree(start, end)
        assert xi.shape == x.shape
        assert xi.dtype == dtype
        assert torch.equal(xi, oracle)


@pytest.mark.parametrize("seed", [5, [5, 6]])
def test_the_tree_is_that_of_diffusers_bit_for_bit(seed):
    sigmas = SCHEDULES["karras"].float()
    x = torch.zeros(2, 3, 4)
    low, high = ends(sigmas)
    tree = BrownianTree(x, low, high, seed)
    oracle = BrownianTreeNoiseSampler(x, low, high, seed)
    # The first step starts at an end whose sixth decimal rounds down: diffusers warns there.
    for start, end in pairs(sigmas)[1:-1]:
        assert torch.equal(tree(start, end), oracle(start, end))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_host_tree_is_asked_in_float32_as_in_comfyui(name):
    sigmas = SCHEDULES[name]
    x = torch.zeros(2, 3, dtype=F64)
    low, high = ends(sigmas)
    tree = BrownianTree(x, low, high, 9, cpu=True)
    expected = torchsde_as_comfyui_calls_it(x, low, high, 9, pairs(sigmas), cpu=True)
    for (start, end), oracle in zip(pairs(sigmas), expected, strict=True):
        assert torch.equal(tree(start, end), oracle)


def test_a_host_tree_and_a_device_tree_differ_where_float32_moves_the_sixth_decimal():
    x = torch.zeros(2, 3, dtype=F64)
    low, high = at(0.03), at(80.0)
    step = (at(57.1234567), at(33.7654321))
    drawn = {}
    for cpu in (True, False):
        drawn[cpu] = BrownianTree(x, low, high, 9, cpu=cpu)(*step)
        (oracle,) = torchsde_as_comfyui_calls_it(x, low, high, 9, [step], cpu=cpu)
        assert torch.equal(drawn[cpu], oracle)
    assert not torch.equal(drawn[True], drawn[False])


def test_without_a_seed_the_tree_follows_torchs_generator_as_in_diffusers():
    x = torch.zeros(2, 3)
    start, end = at(4.0, torch.float32), at(1.0, torch.float32)
    for seed in range(21, 27):
        torch.manual_seed(seed)
        first, second = (BrownianTree(x, 0.5, 8.0)(start, end) for _ in range(2))
        torch.manual_seed(seed)
        assert torch.equal(BrownianTree(x, 0.5, 8.0)(start, end), first)
        assert not torch.equal(first, second)
        torch.manual_seed(seed)
        assert torch.equal(BrownianTreeNoiseSampler(x, 0.5, 8.0)(start, end), first)


@pytest.mark.parametrize("steps", [2, 5, 20, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ordinary_schedules_give_no_warning(steps, dtype):
    x = torch.zeros(1, 2, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for low, high in [(0.0291675, 14.614642), (0.03, 14.6), (0.002, 80.0), (1 / 3, 2 / 3)]:
            sigmas = schedule.karras(steps, low, high).to(dtype)
            for seed in (1, [1]):
                tree = BrownianTree(x, *ends(sigmas), seed)
                for start, end in [*pairs(sigmas)[:2], *pairs(sigmas)[-2:]]:
                    assert tree(start, end).isfinite().all()


def test_the_whole_interval_gives_no_warning_at_any_rounding_of_the_ends():
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(2, dtype=F64)
    for low, width in torch.rand(40, 2, generator=generator, dtype=F64).tolist():
        low, high = at(0.01 + low), at(0.02 + low + width)
        assert BrownianTree(x, low, high, 1)(high, low).isfinite().all()


# --- one path ----------------------------------------------------------------------------------


def increment(tree, start, end):
    """W(end) - W(start), by undoing the scaling to unit variance."""
    return tree(at(start), at(end)) * math.sqrt(abs(end - start))


@pytest.mark.parametrize("seed", [1, [1, 2]])
def test_increments_over_neighbouring_steps_add_up(seed):
    tree = BrownianTree(torch.zeros(2, 5, dtype=F64), 0.1, 10.0, seed)
    times = [9.5, 7.25, 7.0, 3.125, 0.5, 0.125]
    total = sum(increment(tree, s, t) for s, t in itertools.pairwise(times))
    torch.testing.assert_close(total, increment(tree, times[0], times[-1]), rtol=0, atol=1e-13)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(millis=st.lists(st.integers(100, 10_000), min_size=3, max_size=5, unique=True))
def test_any_route_between_two_times_has_the_same_increment(millis):
    # Times of three decimals, which torchsde does not round; in any order, so forth and back.
    tree = BrownianTree(torch.zeros(3, dtype=F64), 0.1, 10.0, 4)
    times = [m / 1e3 for m in millis]
    route = sum(increment(tree, s, t) for s, t in itertools.pairwise(times))
    torch.testing.assert_close(route, increment(tree, times[0], times[-1]), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("end", [0.5, 3.9999999, 1.0])
@pytest.mark.parametrize("seed", [1, [1, 2]])
def test_an_increment_the_other_way_is_its_negative(end, seed):
    tree = BrownianTree(torch.zeros(2, 5, dtype=F64), 0.1, 10.0, seed)
    assert torch.equal(tree(at(4.0), at(end)), -tree(at(end), at(4.0)))


def test_meshes_between_the_same_ends_follow_one_path():
    x = torch.zeros(4, dtype=F64)
    coarse, fine = (BrownianTree(x, 0.25, 8.0, 3) for _ in range(2))
    times = torch.linspace(8.0, 0.25, 32, dtype=F64).tolist()
    # The fine one is asked first for all its steps, the coarse one for two.
    small = [increment(fine, s, t) for s, t in itertools.pairwise(times)]
    middle = times[13]
    torch.testing.assert_close(sum(small[:13]), increment(coarse, 8.0, middle))
    torch.testing.assert_close(sum(small[13:]), increment(coarse, middle, 0.25))


def test_the_order_of_the_questions_does_not_matter():
    x = torch.zeros(4, dtype=F64)
    steps = [(at(s), at(t)) for s, t in itertools.pairwise([8.0, 5.0, 2.5, 1.0, 0.25])]
    forth = BrownianTree(x, 0.25, 8.0, 3)
    back = BrownianTree(x, 0.25, 8.0, 3)
    asked = [forth(*step) for step in steps]
    again = [back(*step) for step in reversed(steps)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(asked, again, strict=True))
    assert torch.equal(forth(*steps[0]), asked[0])


def test_another_seed_is_another_path():
    x = torch.zeros(4, dtype=F64)
    draws = [BrownianTree(x, 0.25, 8.0, seed)(at(4.0), at(1.0)) for seed in (0, 1, 2**63)]
    for one, two in itertools.combinations(draws, 2):
        assert (one != two).all()


@pytest.mark.parametrize("times", [(4.0, 1.0), (1.0000001, 1.0)])
def test_sample_i_of_a_list_of_seeds_is_the_sample_of_its_own_seed(times):
    seeds = [11, 5, 11]
    start, end = map(at, times)
    batch = BrownianTree(torch.zeros(3, 2, 4, dtype=F64), 0.25, 8.0, seeds)(start, end)
    for i, seed in enumerate(seeds):
        alone = BrownianTree(torch.zeros(1, 2, 4, dtype=F64), 0.25, 8.0, [seed])(start, end)
        assert torch.equal(batch[i], alone[0])
        whole = BrownianTree(torch.zeros(2, 4, dtype=F64), 0.25, 8.0, seed)(start, end)
        assert torch.equal(batch[i], whole)
    assert torch.equal(batch[0], batch[2])
    assert not torch.equal(batch[0], batch[1])


# --- the law -----------------------------------------------------------------------------------

N = 20_000


def assert_unit_normal(xi):
    """Mean, variance and distribution of many normals, at Z standard errors."""
    xi = xi.double().flatten()
    n = len(xi)
    assert abs(xi.mean()) < Z / math.sqrt(n)
    assert abs((xi**2).mean() - 1.0) < Z * math.sqrt(2.0 / n)
    assert kstest(xi.numpy(), "norm").pvalue > P


def correlation_error(one, two, expected=0.0):
    """The mean of a product of unit normals, from what it should be, in standard errors."""
    products = (one * two).flatten()
    return float(
        (products.mean() - expected).abs() / (products.std() / math.sqrt(products.numel()))
    )


@pytest.mark.parametrize(
    ("start", "end"), [(8.0, 0.25), (4.0, 1.0), (0.5, 7.75), (1.0, 0.99), (1.0, 0.999999)]
)
def test_every_increment_is_a_unit_normal(start, end):
    tree = BrownianTree(torch.zeros(N, dtype=F64), 0.25, 8.0, 6)
    assert_unit_normal(tree(at(start), at(end)))


def test_overlapping_increments_are_correlated_by_their_overlap_and_others_are_not():
    tree = BrownianTree(torch.zeros(N, dtype=F64), 0.25, 8.0, 7)
    spans = [(1.0, 2.0), (2.0, 4.0), (1.5, 3.0), (0.25, 8.0), (5.0, 5.001)]
    drawn = [tree(at(a), at(b)) for a, b in spans]
    for ((a, b), one), ((c, d), two) in itertools.combinations(zip(spans, drawn, strict=True), 2):
        overlap = max(0.0, min(b, d) - max(a, c))
        expected = overlap / math.sqrt((b - a) * (d - c))
        assert correlation_error(one, two, expected) < Z


def test_elements_samples_and_seeds_are_independent():
    size = 4000
    single = BrownianTree(torch.zeros(2, size, dtype=F64), 0.25, 8.0, 8)(at(4.0), at(1.0))
    several = BrownianTree(torch.zeros(2, size, dtype=F64), 0.25, 8.0, [8, 9])(at(4.0), at(1.0))
    assert correlation_error(single[0], single[1]) < Z
    assert correlation_error(several[0], several[1]) < Z
    assert correlation_error(single[0, :-1], single[0, 1:]) < Z


# --- steps too short for torchsde's rounding ------------------------------------------------------

SAME = (0.5000003, 0.5000001)


def test_two_times_that_agree_to_six_decimals_draw_a_unit_normal():
    tree = BrownianTree(torch.zeros(N, dtype=F64), 0.25, 8.0, 1)
    for start, end in (SAME, SAME[::-1], (0.5, 0.5 - 1e-12), (7.9999999, 8.0)):
        assert_unit_normal(tree(at(start), at(end)))


@pytest.mark.parametrize("length", [1e-5, 3e-6, 1e-6, 1e-7, 1e-9, 1e-12])
@pytest.mark.parametrize("cpu", [False, True])
def test_a_short_step_across_a_rounding_boundary_is_a_unit_normal(length, cpu):
    # torchsde would see two times 1e-6 apart, however close they are.
    tree = BrownianTree(torch.zeros(N, dtype=F64), 0.1, 8.0, 1, cpu=cpu)
    end = 0.1234565 - length / 2
    assert_unit_normal(tree(at(end + 0.999 * length), at(end)))


@pytest.mark.parametrize("length", [1.02e-5, 1.55e-5, 1e-4])
def test_a_step_that_is_asked_of_the_tree_has_its_variance_to_a_tenth(length):
    tree = BrownianTree(torch.zeros(N, dtype=F64), 0.1, 8.0, 1)
    xi = tree(at(0.7654321 + length), at(0.7654321))
    # Each end moves by at most half of torchsde's 1e-6.
    assert abs(xi.var() - 1.0) < 1e-6 / length + Z * 1.1 * math.sqrt(2.0 / N)


def test_a_host_tree_takes_times_that_float32_cannot_tell_apart():
    tree = BrownianTree(torch.zeros(N, dtype=F64), 0.1, 100.0, 1, cpu=True)
    for start, length in [(1.0, 1e-9), (50.0, 1e-7), (50.0, 4e-6), (99.0, 1e-4)]:
        assert_unit_normal(tree(at(start), at(start - length)))


def test_a_tiny_step_is_a_function_of_the_seed_and_its_times():
    x = torch.zeros(50, dtype=F64)

    def draw(seed, start, end):
        return BrownianTree(x, 0.25, 8.0, seed)(at(start), at(end))

    start, end = SAME
    base = draw(1, start, end)
    assert torch.equal(draw(1, start, end), base)
    tree = BrownianTree(x, 0.25, 8.0, 1)
    tree(at(4.0), at(1.0))
    assert torch.equal(tree(at(start), at(end)), base)
    for other in (
        draw(2, start, end),
        draw(1, start, math.nextafter(end, 0.0)),
        draw(1, math.nextafter(start, 1.0), end),
    ):
        assert (other != base).all()


def test_tiny_steps_are_independent_of_each_other_and_of_the_path_around_them():
    tree = BrownianTree(torch.zeros(N, dtype=F64), 0.25, 8.0, 2)
    a, b = SAME
    drawn = [tree(at(s), at(t)) for s, t in [(a, b), (b, 0.4999999), (0.75, a), (0.4999999, 0.3)]]
    for one, two in itertools.combinations(drawn, 2):
        assert correlation_error(one, two) < Z


def test_a_tree_narrower_than_torchsdes_rounding_works():
    x = torch.zeros(N, dtype=F64)
    low, middle, high = 0.1234561, 0.1234562, 0.1234564
    tree = BrownianTree(x, low, high, 3)
    drawn = [tree(at(high), at(middle)), tree(at(middle), at(low))]
    for xi in drawn:
        assert_unit_normal(xi)
    assert correlation_error(*drawn) < Z


def test_a_tree_of_equal_ends_can_be_made_but_has_no_interval():
    tree = BrownianTree(torch.zeros(2, dtype=F64), 0.5, 0.5, 3)
    with pytest.raises(ValueError, match=r"sigma and sigma_next must differ, got 0\.5 twice"):
        tree(at(0.5), at(0.5))


# --- states of every kind ----------------------------------------------------------------------


@pytest.mark.parametrize("times", [(4.0, 1.0), SAME])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", [1, [1, 2]])
def test_noise_in_half_precision_is_that_in_float32_rounded(times, dtype, seed):
    start, end = map(at, times)
    x = torch.zeros(2, 50)
    half = BrownianTree(x.to(dtype), 0.25, 8.0, seed)(start, end)
    assert half.dtype == dtype
    assert torch.equal(half, BrownianTree(x, 0.25, 8.0, seed)(start, end).to(dtype))
    half = IndependentNoise(x.to(dtype), seed)(start, end)
    assert half.dtype == dtype
    assert torch.equal(half, IndependentNoise(x, seed)(start, end).to(dtype))


@pytest.mark.parametrize("times", [(4.0, 1.0), SAME])
@pytest.mark.parametrize(
    ("shape", "seed"),
    [((0, 3, 4), 1), ((0, 3, 4), []), ((2, 0), 1), ((2, 0), [1, 2]), ((0,), None)],
)
def test_an_empty_state_gets_empty_noise(shape, seed, times):
    x = torch.zeros(shape, dtype=torch.float16)
    for noise in (BrownianTree(x, 0.25, 8.0, seed), IndependentNoise(x, seed)):
        xi = noise(*map(at, times))
        assert xi.shape == x.shape
        assert xi.dtype == x.dtype


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3), (1, 2, 3, 4), (2, 1, 2, 2, 2)])
@pytest.mark.parametrize("per_sample", [False, True])
def test_noise_has_the_shape_of_any_state(shape, per_sample):
    x = torch.zeros(shape)
    seed = list(range(shape[0])) if per_sample else 3
    for noise in (BrownianTree(x, 0.25, 8.0, seed), IndependentNoise(x, seed)):
        assert noise(at(4.0), at(1.0)).shape == shape
        assert noise(at(0.5000003), at(0.5000001)).shape == shape


def test_the_values_of_the_state_do_not_matter_and_are_not_touched():
    x = torch.full((2, 3), math.nan)
    zero = torch.zeros(2, 3)
    for times in ((4.0, 1.0), SAME):
        start, end = map(at, times)
        one = BrownianTree(x, 0.25, 8.0, 1)(start, end)
        assert torch.equal(one, BrownianTree(zero, 0.25, 8.0, 1)(start, end))
        assert torch.equal(
            IndependentNoise(x, 1)(start, end), IndependentNoise(zero, 1)(start, end)
        )
    assert x.isnan().all()
    assert (zero == 0.0).all()


def test_numbers_are_times_as_well_as_tensors():
    tree = BrownianTree(torch.zeros(2, 3), 0.25, 8.0, 1)
    assert torch.equal(tree(4.0, 1.0), tree(at(4.0), at(1.0)))


def test_a_schedule_that_was_rounded_to_float32_stays_within_its_tree():
    # 0.1 and 14.6 in float32 lie above and below the tree that was grown in float64.
    tree = BrownianTree(torch.zeros(3), 0.1, 14.6, 1)
    single = torch.float32
    assert tree(at(14.6, single), at(1.0, single)).isfinite().all()
    assert tree(at(1.0, single), at(0.1, single)).isfinite().all()


def test_a_seed_leaves_the_global_generator_alone():
    x = torch.zeros(2, 3)
    before = torch.get_rng_state()
    for seed in (1, [1, 2]):
        for times in ((4.0, 1.0), SAME):
            BrownianTree(x, 0.25, 8.0, seed)(*map(at, times))
            IndependentNoise(x, seed)(*map(at, times))
    assert torch.equal(torch.get_rng_state(), before)


# --- independent noise -------------------------------------------------------------------------


def test_independent_noise_is_torchs_stream_of_that_seed():
    noise = IndependentNoise(torch.zeros(2, 3, dtype=F64), 5)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        expected = torch.randn(2, 3, generator=generator, dtype=F64)
        assert torch.equal(noise(at(4.0), at(1.0)), expected)


def test_independent_noise_with_a_seed_per_sample_has_a_stream_per_sample():
    seeds = [7, 2**64 - 1, 0]
    batch = IndependentNoise(torch.zeros(3, 4, dtype=F64), seeds)
    alone = [IndependentNoise(torch.zeros(1, 4, dtype=F64), [seed]) for seed in seeds]
    for _ in range(3):
        xi = batch(at(4.0), at(1.0))
        for i, noise in enumerate(alone):
            assert torch.equal(xi[i], noise(at(4.0), at(1.0))[0])
        assert (xi[0] != xi[1]).all()


def test_independent_noise_does_not_look_at_the_levels():
    one, two = (IndependentNoise(torch.zeros(4), 3) for _ in range(2))
    assert torch.equal(one(at(4.0), at(1.0)), two(at(0.5), at(0.0)))


def test_independent_noise_without_a_seed_follows_torchs_generator():
    x = torch.zeros(4)
    torch.manual_seed(31)
    first, second = (IndependentNoise(x)(at(4.0), at(1.0)) for _ in range(2))
    torch.manual_seed(31)
    assert torch.equal(IndependentNoise(x)(at(4.0), at(1.0)), first)
    assert (first != second).all()


def test_independent_draws_are_unit_normals_and_independent():
    noise = IndependentNoise(torch.zeros(2, N // 2, dtype=F64), [8, 9])
    drawn = [noise(at(4.0), at(1.0)) for _ in range(3)]
    for xi in drawn:
        assert_unit_normal(xi)
        assert correlation_error(xi[0], xi[1]) < Z
    for one, two in itertools.combinations(drawn, 2):
        assert correlation_error(one, two) < Z


# --- bad input ---------------------------------------------------------------------------------

BAD_SEEDS = [-1, 2**64, 1.0, 1.5, "1", b"1", True, math.nan, {1}, object(), torch.tensor([1, 2])]


def makers(x):
    return [lambda seed: BrownianTree(x, 0.25, 8.0, seed), lambda seed: IndependentNoise(x, seed)]


@pytest.mark.parametrize("bad", BAD_SEEDS)
def test_a_seed_that_is_no_64_bit_integer_is_refused(bad):
    for make in makers(torch.zeros(2, 3)):
        for seed in (bad, [1, bad]):
            with pytest.raises(
                ValueError, match=r"seed must be an integer from 0 to 2\^64 - 1"
            ) as caught:
                make(seed)
            assert repr(bad) in str(caught.value)


@pytest.mark.parametrize("seeds", [[], [1], (1,), [1, 2, 3], range(3)])
def test_a_list_of_seeds_of_another_length_is_refused(seeds):
    for make in makers(torch.zeros(2, 3)):
        with pytest.raises(ValueError, match=r"seed must be .* with one per sample") as caught:
            make(seeds)
        assert "batch of 2" in str(caught.value)
        assert f"a list of {len(seeds)}" in str(caught.value)


@pytest.mark.parametrize("seed", [np.int64(5), np.uint64(5), torch.tensor(5)])
def test_an_integer_of_another_library_is_a_seed(seed):
    x = torch.zeros(2, 3)
    for make in makers(x):
        assert torch.equal(make(seed)(at(4.0), at(1.0)), make(5)(at(4.0), at(1.0)))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("kind", [float, at])
def test_an_end_that_is_no_time_is_refused(bad, kind):
    for name, ends in (("sigma_min", (bad, 1.0)), ("sigma_max", (1.0, bad))):
        with pytest.raises(ValueError, match=rf"{name} must be a finite number above 0") as caught:
            BrownianTree(torch.zeros(2), *map(kind, ends), 1)
        assert repr(kind(bad)) in str(caught.value)


def test_ends_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"sigma_min must be at most sigma_max = 1\.0, got 2\.0"):
        BrownianTree(torch.zeros(2), 2.0, 1.0, 1)


@pytest.mark.parametrize("time", [0.0, 0.2, -1.0, 8.1, 100.0, math.inf, math.nan])
def test_a_time_outside_the_tree_is_refused(time):
    tree = BrownianTree(torch.zeros(2), 0.25, 8.0, 1)
    for name, times in (("sigma", (time, 1.0)), ("sigma_next", (1.0, time))):
        with pytest.raises(ValueError, match=rf"^{name} must lie within the tree") as caught:
            tree(*map(at, times))
        assert str(time) in str(caught.value)
        assert "from 0.25 to 8.0" in str(caught.value)


@pytest.mark.parametrize("time", [0.25, 1.0, 8.0])
def test_a_step_of_no_length_is_refused(time):
    tree = BrownianTree(torch.zeros(2), 0.25, 8.0, 1)
    with pytest.raises(ValueError, match="sigma and sigma_next must differ") as caught:
        tree(at(time), at(time))
    assert f"got {time} twice" in str(caught.value)


def test_an_empty_state_is_checked_too():
    tree = BrownianTree(torch.zeros(0, 3), 0.25, 8.0, 1)
    with pytest.raises(ValueError, match="must lie within the tree"):
        tree(at(9.0), at(1.0))
