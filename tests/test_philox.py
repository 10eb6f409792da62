"""Philox4x32-10 and the unit normals made of it, here and in the page's JavaScript."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from browser import run_js
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from dpmpp_core.noise.philox import box_muller, key_words, philox4x32, unit_normals

HOST = torch.device("cpu")

# Counter, key and output, from Random123's kat_vectors.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip
words = st.integers(0, 2**32 - 1)

# Statistics are compared with their exact law at this many standard errors: about 1 in 2 million
# each. Seeds are fixed. A p-value of 1e-6 is as rare.
Z = 5.0
P = 1e-6


def numbers(line: str) -> list[int]:
    return [int(word, 16) for word in line.split()]


def tensors(values: list[int]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([value]) for value in values)


def plain_philox(counter: list[int], key: list[int]) -> list[int]:
    """Salmon et al.'s definition in Python's integers of any size."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        left, right = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            (right >> 32) ^ c1 ^ k0, right % 2**32, (left >> 32) ^ c3 ^ k1, left % 2**32
        )  # fmt: skip
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def draw(seeds: list[int], nodes: list[int], elements: int) -> torch.Tensor:
    """Shape (nodes, samples, elements)."""
    quads = torch.arange(-(-elements // 4))
    z = unit_normals(key_words(seeds, HOST), torch.tensor(nodes), quads)
    return z.permute(0, 2, 3, 1).flatten(2)[..., :elements]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_the_known_answers_come_out(counter: str, key: str, output: str) -> None:
    words = philox4x32(tensors(numbers(counter)), tensors(numbers(key)))
    assert [int(word) for word in words] == numbers(output)


@given(st.lists(words, min_size=4, max_size=4), st.lists(words, min_size=2, max_size=2))
def test_wrapping_int64_is_exact_integer_arithmetic(counter: list[int], key: list[int]) -> None:
    words = philox4x32(tensors(counter), tensors(key))
    assert [int(word) for word in words] == plain_philox(counter, key)


def test_the_normals_are_those_of_the_documented_counter() -> None:
    seed, node, quad = 2**63 + 12345, 2**31 + 7, 2**33 + 5
    z = unit_normals(key_words([seed], HOST), torch.tensor([node]), torch.tensor([quad]))
    w = plain_philox([5, node, 0, 2], [seed % 2**32, seed >> 32])
    u = [(word + 0.5) / 2**32 for word in w]
    expected = []
    for r, v in ((u[0], u[1]), (u[2], u[3])):
        length = math.sqrt(-2 * math.log(r))
        expected += [length * math.cos(math.tau * v), length * math.sin(math.tau * v)]
    assert z.flatten().tolist() == pytest.approx(expected, rel=1e-14, abs=1e-15)


def test_the_extreme_words_give_finite_normals() -> None:
    ends = torch.tensor([0, 2**32 - 1])
    radius, angle = torch.meshgrid(ends, ends, indexing="ij")
    first, second = box_muller(radius, angle)
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()
    assert float(first.abs().max()) == pytest.approx(6.7637, abs=1e-4)


def test_seeds_use_all_64_bits() -> None:
    z = draw([0, 1, 2**32, 2**63, 2**64 - 1], [1], 4)
    assert len({tuple(row) for row in z[0].tolist()}) == 5


def test_no_normal_depends_on_what_else_is_drawn() -> None:
    z = draw([3, 4, 5], [1, 2, 77], 10)
    assert torch.equal(draw([4], [77], 10)[0, 0], z[2, 1])
    assert torch.equal(draw([3, 4, 5], [1, 2, 77], 7), z[..., :7])


def test_the_normals_are_normal_and_nodes_seeds_and_elements_are_uncorrelated() -> None:
    z = draw(list(range(40)), list(range(25)), 100)
    n = z.numel()
    assert abs(float(z.mean())) < Z / math.sqrt(n)
    assert abs(float(z.square().mean()) - 1) < Z * math.sqrt(2 / n)
    assert abs(float(z.pow(4).mean()) - 3) < Z * math.sqrt(96 / n)
    assert kstest(z.flatten().numpy(), "norm").pvalue > P
    for dim in range(3):
        rows = z.movedim(dim, 0).flatten(1)
        pairs = rows @ rows.T / math.sqrt(rows.shape[1])
        assert float(pairs.fill_diagonal_(0).abs().max()) < Z + 1


@pytest.mark.browser
def test_javascript_draws_the_same_words_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    cases = [numbers(f"{counter} {key}") for counter, key, _ in KNOWN]
    cases += rng.integers(0, 2**32, (1000, 6)).tolist()
    ours = torch.stack(
        philox4x32(tuple(torch.tensor(cases).T[:4]), tuple(torch.tensor(cases).T[4:])), dim=1
    )
    theirs = run_js(
        """({philox}, cases) => cases.map(case_ => {
            const words = new Uint32Array(4);
            philox.philox4x32(words, ...case_);
            return Array.from(words);
        })""",
        cases,
    )
    assert theirs == ours.tolist()


@pytest.mark.browser
def test_javascript_draws_the_same_normals() -> None:
    seeds, nodes, count = [0, 42, 2**32 - 1, 2**64 - 1], [0, 5, 2**31 + 3, 2**32 - 1], 1003
    theirs = run_js(
        """({philox}, [seeds, nodes, count]) => seeds.map(seed => nodes.map(
            node => Array.from(philox.normals(BigInt(seed), node, count))))""",
        [[str(seed) for seed in seeds], nodes, count],
    )
    ours = draw(seeds, nodes, count).transpose(0, 1)
    theirs = torch.tensor(theirs, dtype=torch.float64)
    # Two libraries' log and cos may differ by an ulp of float64; float32 hides nearly all of it.
    assert float(((ours - theirs).abs() / ours.abs()).max()) < 4 * 2.0**-52
    single = torch.tensor([z.float().view(torch.int32).tolist() for z in (ours, theirs)])
    assert int((single[0] - single[1]).abs().max()) <= 1


@pytest.mark.browser
def test_javascript_gives_sample_i_the_seed_plus_i() -> None:
    seed, samples, elements = 2**64 - 2, 4, 6
    theirs = run_js(
        """({philox}, [seed, node, samples, elements]) =>
            Array.from(philox.batchNormals(BigInt(seed), node, samples, elements))""",
        [str(seed), 9, samples, elements],
    )
    ours = draw([(seed + i) % 2**64 for i in range(samples)], [9], elements)
    assert theirs == pytest.approx(ours.flatten().tolist(), rel=1e-14)
