"""The scattering matrix and its Fourier series against one multislice a probe."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.atoms import make_atoms
from simulators.detectors import Annular
from simulators.gram import beams_in, gram, image_series
from simulators.grid import Grid
from simulators.imaging import stem
from simulators.linear import blur
from simulators.optics import Optics
from simulators.potential import project
from simulators.scan import raster
from simulators.series import Series, blurred, read_at, read_raster
from simulators.tree import replace

GRID = Grid.over((9.0, 8.0), shape=(54, 50))  # neither square nor with square pixels
ENERGY, SEMIANGLE = 80e3, 24.0
DETECTORS = [Annular(0, 15), Annular(35, 75, offset=(6.0, -4.0))]
LENS = Optics(energy=ENERGY, semiangle=SEMIANGLE)
ABERRATED = replace(
    LENS,
    **{"C10": -35.0, "C12": 12.0, "phi12": 0.7, "C21": 300.0, "phi21": -1.1, "C23": 250.0},
    **{"phi23": 0.4, "C30": 2e4, "C32": 5e3, "phi32": 2.0, "C34": 4e3, "phi34": 0.9, "C41": 2e5},
    **{"C43": 1e5, "phi43": 0.2, "C45": 1e5, "C50": 1e7, "C52": 3e6, "C54": 2e6, "C56": 4e6},
)
RASTER = {"origin": (0.7, -0.4), "rotation": 0.35}


def specimen():
    """Four slices: a random crystallite that no symmetry makes easy."""
    rng = np.random.default_rng(5)
    xyz = rng.uniform(0, 1, (9, 3)) * [8.0, 9.0, 8.0]
    atoms = make_atoms(xyz, rng.choice([6, 14, 42, 79], 9), [8.0, 9.0, 8.0], sigma=0.08)
    return project(atoms, GRID, 2.0)


@functools.cache
def single():
    """(potential, gram) in float32, shared."""
    potential = specimen()
    return potential, gram(potential, ENERGY, SEMIANGLE, DETECTORS)


def close(series_image, direct, tolerance):
    for ours, theirs in zip(np.asarray(series_image), np.asarray(direct), strict=True):
        assert np.abs(ours - theirs).max() < tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("optics", [LENS, ABERRATED], ids=["focused", "aberrated"])
def test_images_are_those_of_multislice_in_float32(optics):
    potential, matrices = single()
    image = read_raster(image_series(matrices, optics), (7, 9), 0.31, **RASTER)
    assert image.shape == (2, 7, 9)
    assert image.dtype == jnp.float32
    direct = stem(potential, optics, raster((7, 9), 0.31, **RASTER), DETECTORS)
    close(image, direct, 2e-6)


def test_images_are_those_of_multislice_in_float64(x64):
    potential = specimen()
    for tilt in ((0.0, 0.0), (18.0, -11.0)):
        optics = replace(ABERRATED, tilt=tilt)
        matrices = gram(potential, ENERGY, SEMIANGLE, DETECTORS, tilt=tilt)
        image = read_raster(image_series(matrices, optics), (7, 9), 0.31, **RASTER)
        direct = stem(potential, optics, raster((7, 9), 0.31, **RASTER), DETECTORS)
        close(image, direct, 1e-12)
    # a hard aperture, and a smaller one from the matrix of the larger
    for optics in (replace(LENS, aperture="hard"), replace(ABERRATED, semiangle=15.0, tilt=tilt)):
        matrices = gram(potential, ENERGY, SEMIANGLE, DETECTORS, tilt=optics.tilt)
        positions = np.random.default_rng(1).uniform(-20, 20, (7, 9, 2))
        direct = stem(potential, optics, positions, DETECTORS)
        image = read_at(image_series(matrices, optics), positions.reshape(-1, 2))
        close(image.reshape(2, 7, 9), direct, 1e-12)


def test_the_matrices_are_hermitian_and_hold_the_beams_of_the_aperture():
    _, matrices = single()
    g = np.asarray(matrices.matrices)
    assert g.shape == (2, len(matrices.beams), len(matrices.beams))
    np.testing.assert_allclose(g, g.conj().transpose(0, 2, 1), atol=1e-6 * np.abs(g).max())
    assert (np.linalg.eigvalsh(g) > -1e-5 * np.abs(g).max()).all(), "no detector counts less than 0"
    orders = {tuple(beam) for beam in matrices.beams.tolist()}
    assert len(orders) == len(matrices.beams)
    assert (0, 0) in orders
    assert orders == {(-y, -x) for y, x in orders}
    step = [1e3 * 0.04175714 / length for length in GRID.extent]
    angles = [np.hypot(y * step[0], x * step[1]) for y, x in orders]
    assert max(angles) < SEMIANGLE + max(step)
    assert len(beams_in(GRID, ENERGY, 10.0)) < len(beams_in(GRID, ENERGY, 20.0))


def test_images_are_real_series_without_the_source_size():
    _, matrices = single()
    series = image_series(matrices, ABERRATED)
    f = np.asarray(series.coefficients)
    assert all(n % 2 == 1 for n in f.shape[1:])
    np.testing.assert_allclose(f, f[:, ::-1, ::-1].conj(), atol=1e-6 * np.abs(f).max())
    with_source = image_series(matrices, replace(ABERRATED, source_size=1.0))
    np.testing.assert_array_equal(f, with_source.coefficients)


def full_image(series, shape=(45, 40)):
    """All of a period, [detectors, 45, 40]; and its grid."""
    grid = Grid.over(GRID.extent, shape=shape)
    assert grid.sampling[0] == pytest.approx(grid.sampling[1])
    return read_raster(series, shape, grid.sampling[0]), grid


def test_images_repeat_with_the_cell():
    series = image_series(single()[1], ABERRATED)
    first, grid = full_image(series)
    again = read_raster(series, (45, 40), grid.sampling[0], origin=(-3 * 8.0, 2 * 9.0))
    np.testing.assert_allclose(again, first, atol=1e-6 * float(first.max()))


def test_blurring_is_that_of_whole_images():
    series = image_series(single()[1], ABERRATED)
    sharp, grid = full_image(series)
    soft, _ = full_image(blurred(series, 0.9))
    for ours, image in zip(soft, sharp, strict=True):
        np.testing.assert_allclose(ours, blur(image, grid, 0.9), atol=2e-6 * float(image.max()))
    assert float(soft[1].std()) < 0.8 * float(sharp[1].std())
    np.testing.assert_allclose(soft.mean((1, 2)), sharp.mean((1, 2)), rtol=1e-5)


def test_displaced_lines_are_read_where_the_probe_was():
    series = image_series(single()[1], ABERRATED)
    shift = np.random.default_rng(3).normal(0, 0.4, (6, 2)).astype(np.float32)
    where = raster((6, 8), 0.27, **RASTER) + shift[:, None]
    expected = read_at(series, where.reshape(-1, 2)).reshape(2, 6, 8)
    for given in (shift, jnp.asarray(shift)):
        image = read_raster(series, (6, 8), 0.27, shift=given, **RASTER)
        np.testing.assert_allclose(image, expected, atol=4e-6 * float(expected.max()))
    compiled = jax.jit(
        lambda s, turn: read_raster(
            series, (6, 8), 0.27, shift=s, origin=RASTER["origin"], rotation=turn
        )
    )(shift, RASTER["rotation"])
    np.testing.assert_allclose(compiled, expected, atol=1e-5 * float(expected.max()))


def test_a_known_series():
    # I = 3 + 2 cos(2π x / 4) - sin(2π y / 5), by hand
    f = np.zeros((3, 5), complex)
    f[1, 2], f[1, 3], f[1, 1], f[2, 2], f[0, 2] = 3, 1, 1, 0.5j, -0.5j
    series = Series(jnp.asarray(f), (5.0, 4.0))
    ky, kx = series.frequencies()
    np.testing.assert_allclose(ky, [-0.2, 0, 0.2])
    np.testing.assert_allclose(kx, [-0.5, -0.25, 0, 0.25, 0.5])
    x, y = np.array([0.3, 2.1, -7.7]), np.array([1.1, 40.2, 3.0])
    expected = 3 + 2 * np.cos(2 * np.pi * x / 4) - np.sin(2 * np.pi * y / 5)
    np.testing.assert_allclose(read_at(series, np.stack([x, y], 1)), expected, rtol=1e-5)
    image = read_raster(series, (2, 3), 0.7, origin=(0.2, 0.1))
    row = 3 + 2 * np.cos(2 * np.pi * (0.2 + 0.7 * np.arange(3)) / 4)
    column = -np.sin(2 * np.pi * (0.1 + 0.7 * np.arange(2)) / 5)
    np.testing.assert_allclose(image, row[None] + column[:, None], rtol=1e-5)


def test_probes_that_the_matrices_do_not_hold():
    _, matrices = single()
    with pytest.raises(
        ValueError, match=r"% of it lies outside. Call gram with a larger semiangle"
    ):
        image_series(matrices, replace(LENS, semiangle=SEMIANGLE + 6))
    with pytest.raises(ValueError, match=r"computed for energy = 80000.0 but the probe has 60000"):
        image_series(matrices, replace(LENS, energy=60e3))
    with pytest.raises(ValueError, match=r"computed for tilt = \(0.0, 0.0\) but the probe has"):
        image_series(matrices, replace(LENS, tilt=(5.0, 0.0)))
    with pytest.raises(ValueError, match="at least one detector"):
        gram(single()[0], ENERGY, SEMIANGLE, [])


def test_gradients_to_the_lens_and_the_positions(x64):
    matrices = gram(specimen(), ENERGY, SEMIANGLE, DETECTORS)
    rng = np.random.default_rng(2)
    positions, weights = rng.uniform(0, 8, (5, 2)), jnp.asarray(rng.normal(size=(2, 5)))
    direction = jnp.asarray(rng.normal(size=(5, 2)))

    def objective(step):
        defocus, shift, source = step
        series = image_series(matrices, replace(LENS, C10=-30.0 - 10 * defocus, C12=5.0))
        where = jnp.asarray(positions) + shift * direction
        return (weights * read_at(blurred(series, 0.8 + source), where)).sum()

    quick = {"xla_backend_optimization_level": 0}
    compiled = jax.jit(jax.value_and_grad(objective), compiler_options=quick)
    gradient = compiled(jnp.zeros(3))[1]
    for i in range(3):
        step = jnp.zeros(3).at[i].set(1e-5)
        numeric = (compiled(step)[0] - compiled(-step)[0]) / 2e-5
        assert float(gradient[i]) == pytest.approx(float(numeric), rel=1e-6)


def test_a_batch_of_lenses_equals_a_loop():
    _, matrices = single()
    defocus = jnp.array([-40.0, 0.0, 25.0])

    def image(value):
        return read_raster(image_series(matrices, replace(LENS, C10=-value)), (5, 6), 0.4)

    batch = jax.jit(jax.vmap(image))(defocus)
    for one, value in zip(batch, defocus, strict=True):
        np.testing.assert_allclose(one, image(float(value)), atol=1e-5 * float(one.max()))
