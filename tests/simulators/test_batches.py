"""Batches on one device and on two, forwards and backwards."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.batches import batch_size, count_devices, mapped, summed

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from simulators.atoms import make_atoms
from simulators.batches import count_devices
from simulators.detectors import Annular
from simulators.grid import Grid
from simulators.imaging import cbed, stem
from simulators.optics import Optics
from simulators.potential import project
from simulators.smatrix import build_smatrix, smatrix_stem
from simulators.tree import replace

assert jax.local_device_count() == 2
atoms = make_atoms(np.random.default_rng(6).uniform(0, 6, (6, 3)), [8, 22, 38] * 2, [6, 6, 6])
potential = project(atoms, Grid.over((6, 6), shape=24), 3.0)
lens, rings = Optics(energy=1e5, semiangle=15.0), [Annular(0, 9), Annular(20, 40)]
where = np.random.default_rng(2).uniform(0, 6, (9, 2))

def signals(slices):
    moved = replace(potential, slices=slices)
    yield stem(moved, lens, where, rings, method="multislice", batch=2)
    yield stem(moved, lens, where, rings, method="prism", batch=2)
    yield cbed(moved, lens, where, method="prism")
    yield smatrix_stem(build_smatrix(moved, 1e5, 15.0, interpolation=(2, 1)), lens, where, rings,
                       validate=False)

def everything(slices):
    made = list(signals(slices))
    return sum((x**2).sum() for x in made), made

quick = {'xla_backend_optimization_level': 0}
both = jax.jit(jax.value_and_grad(everything, has_aux=True), compiler_options=quick)
(_, spread), gradient = both(potential.slices)
assert count_devices(jnp.ones(2)) == 2
placed = jax.device_put(potential.slices, jax.local_devices()[0])
assert count_devices(placed) == 1
start = potential.slices
eager = list(signals(start))
potential = replace(potential, thickness=jax.device_put(potential.thickness, jax.devices()[0]))
alone = list(signals(placed))
for a, b, c in zip(spread, alone, eager):
    assert float(abs(c - b).max()) < 1e-12 * float(b.max()), "on one device again"
    assert np.abs(np.asarray(a) - np.asarray(b)).max() < 1e-12 * np.abs(b).max()
step = 1e-3 * np.random.default_rng(1).normal(size=gradient.shape)
numeric = (float(both(start + step)[0][0]) - float(both(start - step)[0][0])) / 2
assert abs(float((gradient * step).sum()) / numeric - 1) < 1e-6, "gradient"
"""


@pytest.mark.parametrize("n", [1, 5, 12])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_batches_of_any_size_give_the_same(n, batch):
    items = (np.arange(n, dtype=np.float32), np.ones((n, 2), np.float32))
    made = jax.jit(lambda items, a: mapped(lambda i, s: s * i[0] * i[1], items, a, batch=batch))(
        items, 3.0
    )
    np.testing.assert_allclose(made, 3 * np.arange(n)[:, None] * np.ones((1, 2)))
    total = jax.jit(
        lambda items, a: summed(
            lambda part, s: s * (part[0][:, None] * part[1]).sum(0), items, a, batch=batch
        )
    )(items, 3.0)
    np.testing.assert_allclose(total, 3 * np.arange(n).sum() * np.ones(2))


def test_forgetting_changes_no_gradient():
    x = jnp.linspace(0.1, 1, 7)

    def loss(x, forget):
        return mapped(lambda i, s: jnp.sin(i * s), x, 2.0, batch=3, forget=forget).sum()

    for forget in (False, True):
        gradient = jax.grad(loss)(x, forget)
        np.testing.assert_allclose(gradient, 2 * np.cos(2 * x), rtol=1e-5)


def test_batches_fit_into_the_cache():
    assert batch_size(7, 10) == 7
    assert batch_size(None, 2**30) == 1
    if jax.default_backend() == "cpu":
        assert [batch_size(None, n**2) for n in (128, 256)] == [16, 4]
        assert batch_size(None, 256**2, real=8) == 2
    with pytest.raises(ValueError, match="at least 1 wave"):
        batch_size(0, 10)


def test_one_device_is_not_split():
    assert count_devices(jnp.ones(2), np.ones(2), None) == jax.local_device_count()


@pytest.mark.slow
def test_two_devices_give_the_numbers_and_gradients_of_one(root):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
