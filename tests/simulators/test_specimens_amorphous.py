"""Random sequential packing: the distance, the density, the composition, and what is impossible."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from simulators.specimens.amorphous import (
    DENSEST,
    GLASSES,
    amorphous,
    check_packing,
    fraction_filled,
    mixture,
    packed,
)

compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize("glass", GLASSES)
def test_density_distance_and_composition(glass):
    composition, density, distance = GLASSES[glass]
    atoms, labels = jax.tree.map(
        np.asarray,
        compiled(lambda key: amorphous(key, (15.0, 13.0), n_max=260, glass=glass))(
            jax.random.key(2)
        ),
    )
    there = atoms.occupancy > 0
    assert there.sum() == labels.placed == labels.wanted == round(density * 15 * 13 * 12)
    assert labels.density == pytest.approx(density, rel=0.005)
    tree = cKDTree(atoms.positions[there], boxsize=atoms.cell)
    nearest = tree.query(atoms.positions[there], k=2)[0][:, 1]
    assert nearest.min() >= distance * (1 - 1e-6)
    assert nearest.min() < 1.05 * distance, "as near as allowed, in places"
    counts = [int((atoms.numbers[there] == z).sum()) for z in atoms.elements]
    parts = dict(zip(sorted(composition, key=lambda s: mixture({s: 1}, 1)[0]), counts, strict=True))
    for symbol, part in composition.items():
        assert parts[symbol] == pytest.approx(there.sum() * part / sum(composition.values()), abs=1)


def test_packing_is_uniform_and_reaches_the_densest():
    box, distance = (9.0, 8.0, 10.0), 2.0
    count = math.floor(DENSEST / fraction_filled(1.0, distance) * math.prod(box))
    keys = jax.random.split(jax.random.key(0), 12)
    pack = compiled(jax.vmap(lambda k: packed(k, box, count, distance)))
    positions, there = map(np.asarray, pack(keys))
    assert there.all()
    for points in positions:
        assert not cKDTree(points, boxsize=box).query_pairs(distance)
    for axis in range(3):
        share = np.histogram(positions[..., axis], 4, (0, box[axis]))[0] / positions[..., 0].size
        np.testing.assert_allclose(share, 0.25, atol=0.05)


def test_a_layer_is_not_periodic_along_the_beam():
    positions, there = packed(jax.random.key(0), (12.0, 12.0, 30.0), 60, 1.4, depth=5.0)
    assert bool(there.all())
    assert float(positions[:, 2].max()) < 5.0
    assert float(positions[:, 2].min()) < 0.7
    assert float(positions[:, 2].max()) > 4.3


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    parts=st.dictionaries(st.sampled_from(["Si", "O", "N", "C"]), st.floats(0.1, 5), min_size=1),
    count=st.integers(1, 500),
)
def test_mixtures_are_whole_atoms_in_proportion(parts, count):
    numbers = mixture(parts, count)
    assert len(numbers) == count
    for symbol, part in parts.items():
        share = (numbers == mixture({symbol: 1}, 1)[0]).sum()
        assert abs(share - count * part / sum(parts.values())) <= 1 + 1e-9


def test_gradients_do_not_break_on_it():
    """Positions scale with the box: the derivative of a mean position is finite."""
    slope = jax.grad(lambda s: packed(jax.random.key(0), (9.0, 9.0, 9.0), 20, 1.5)[0].mean() * s)
    assert bool(jnp.isfinite(slope(1.0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.2, "distance": 2.0}, r"would fill 84% of the volume.*at most 0\.0788 atoms"),
        ({"density": -1.0}, "must be positive"),
        ({"thickness": 2.0}, "too small for atoms 1.55 Å apart"),
        ({"glass": "SiO"}, "no amorphous material 'SiO'"),
        ({"composition": {}}, "composition needs positive parts"),
        ({"composition": {"Si": -1}}, "composition needs positive parts"),
    ],
)
def test_boxes_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        amorphous(jax.random.key(0), (12.0, 12.0), n_max=400, **options)


def test_too_few_rows():
    with pytest.raises(ValueError, match=r"holds 114 atoms, more than n_max = 50"):
        amorphous(jax.random.key(0), (12.0, 12.0), n_max=50)
    assert check_packing(0.0662, 1.55, (12, 12, 12)) == 114
