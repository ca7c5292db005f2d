"""The linear image model: its cross-sections against closed forms, and its exact properties.

test_linear_validity.py measures how far it agrees with multislice.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import j0, k0

from simulators.atoms import Atoms, as_jax, make_atoms, pad
from simulators.electron import interaction_constant, mass_correction, wavelength
from simulators.grid import Grid
from simulators.linear import (
    blur,
    cross_section,
    cross_section_table,
    cross_sections,
    incoherent,
    phase_cross_section,
    sample_lines,
    transfer,
)
from simulators.optics import Optics, probe
from simulators.scan import raster
from simulators.scattering import atomic_number, coefficients, scattering_factor
from simulators.tree import replace

OPTICS = Optics(energy=80e3, semiangle=30.0)
RING = {"inner": 90.0, "outer": 200.0}
CELL = [9.0, 7.0, 4.0]
GRID = Grid.over((7.0, 9.0), shape=(56, 81))
"""Pixels that are not square, an even by an odd number."""
ROWS = 8

LENS = dict.fromkeys(
    ("C10", "C12", "phi12", "C21", "phi21", "C23", "phi23", "C30", "source_size"), 0.0
)


@functools.partial(jax.jit, static_argnames="born")
def _image(atoms: Atoms, lens: dict, shift: jax.Array, born: bool) -> jax.Array:
    return incoherent(atoms, replace(OPTICS, **lens), GRID, **RING, shift=shift, born=born)


def image(
    atoms: Atoms, *, shift: np.ndarray | None = None, born: bool = False, **lens: float
) -> np.ndarray:
    """`incoherent` on GRID, through one compilation for all that has ROWS atoms at most."""
    shift = np.zeros((GRID.shape[0], 2)) if shift is None else shift
    return np.asarray(_image(pad(atoms, ROWS), LENS | lens, shift, born))


def some_atoms(n: int = 6) -> Atoms:
    rng = np.random.default_rng(0)
    return make_atoms(
        rng.uniform(0, 1, (n, 3)) * CELL,
        rng.choice([6, 16, 42], n),
        CELL,
        occupancy=rng.uniform(0.3, 1.0, n),
        sigma=rng.uniform(0.03, 0.12, n),
        elements=("C", "S", "Mo"),
    )


def one_atom(number: int, place: tuple[float, float] = (3.3, 2.7), **more) -> Atoms:
    return make_atoms([[*place, 1.0]], [number], CELL, elements=("C", "S", "Mo"), **more)


_transfer = jax.jit(
    lambda lens, grid: transfer(replace(OPTICS, **lens), grid), static_argnames="grid"
)


@pytest.mark.parametrize("shape", [(56, 81), (57, 80), (1, 64)])
@pytest.mark.parametrize("lens", [{}, {"source_size": 0.8}, {"C10": 40.0, "C21": 900.0}])
def test_the_transfer_function_keeps_the_dose(shape, lens):
    made = _transfer(LENS | lens, Grid.over((7.0, 9.0), shape=shape))
    assert made.shape == (shape[0], shape[1] // 2 + 1)
    assert complex(made[0, 0]) == pytest.approx(1.0, abs=2e-6)
    assert float(jnp.abs(made).max()) <= 1 + 2e-6


@pytest.mark.parametrize("element", ["C", "Mo", "W"])
@pytest.mark.parametrize(("inner", "outer"), [(0.0, 30.0), (60.0, 190.0), (90.0, 200.0)])
def test_borns_cross_section_is_the_integral_over_the_ring(element, inner, outer):
    energy, table = 80e3, "kirkland"
    lam = wavelength(energy)

    def rate(theta):  # dσ/dΩ = γ²|f|², dΩ = 2πθ dθ for small angles, theta in mrad
        f = scattering_factor(element, (theta * 1e-3 / lam) ** 2, table)
        return mass_correction(energy) ** 2 * f**2 * 2 * np.pi * theta * 1e-6

    expected, error = quad(rate, inner, outer, epsrel=1e-10)
    assert error < 1e-8 * expected
    made = cross_section(atomic_number(element), energy, inner, outer, table)
    assert made == pytest.approx(expected, rel=3e-4 if inner == 0 else 2e-5)


@pytest.mark.parametrize(
    ("element", "share"), [("C", 0.995), ("S", 0.966), ("Mo", 0.807), ("W", 0.596)]
)
def test_the_cross_section_of_a_phase_object_is_glaubers_integral(element, share):
    """exp(iσV) - 1 of Kirkland's potential in closed form, transformed radially."""
    z, energy, table = atomic_number(element), 80e3, "kirkland"
    r = np.geomspace(1e-6, 8.0, 8000)  # Å
    e_a0 = 14.3996 * 0.529177  # V Å²
    v = np.zeros_like(r)
    for a, b, c, d in zip(*coefficients(element, table), strict=True):
        v += 4 * np.pi**2 * e_a0 * a * k0(2 * np.pi * r * b**0.5)
        v += 2 * np.pi**2 * e_a0 * c / d * np.exp(-((np.pi * r) ** 2) / d)
    wave = np.exp(1j * interaction_constant(energy) * v) - 1
    k = np.linspace(90e-3, 200e-3, 120) / wavelength(energy)
    far = np.trapezoid(wave * j0(2 * np.pi * k[:, None] * r) * 2 * np.pi * r, r)
    expected = np.trapezoid(np.abs(far) ** 2 * 2 * np.pi * k, k)
    assert phase_cross_section(z, energy, 90.0, 200.0, table) == pytest.approx(expected, rel=0.01)
    made = phase_cross_section(z, energy, 90.0, 200.0) / cross_section(z, energy, 90.0, 200.0)
    assert made == pytest.approx(share, abs=6e-4), "the ratio that its docstring states"


def test_which_cross_sections_are_used():
    atoms, ring = some_atoms(), (80e3, 90.0, 200.0)
    for born, one in ((False, phase_cross_section), (True, cross_section)):
        table = cross_section_table(*ring, highest=42, **({"born": True} if born else {}))
        assert len(table) == 43
        assert table[0] == 0
        assert table[42] == one(42, *ring)
        expected = table[atoms.numbers] * atoms.occupancy
        made = cross_sections(pad(atoms, 11), *ring, born=born)
        np.testing.assert_allclose(made[:6], expected, rtol=1e-6)
        assert not np.asarray(made[6:]).any(), "padding scatters nothing"
        total = image(atoms, born=born).mean() * 7.0 * 9.0
        assert total == pytest.approx(expected.sum(), rel=1e-5)
    default = cross_sections(atoms, *ring)
    np.testing.assert_array_equal(default, cross_sections(atoms, *ring, born=False))


def test_high_angle_cross_sections_grow_nearly_as_z_squared():
    light, heavy = (cross_section(z, 200e3, 90.0, 200.0) for z in (6, 79))
    assert 1.5 < np.log(heavy / light) / np.log(79 / 6) < 2.0


@pytest.mark.parametrize("one", [cross_section, phase_cross_section])
@pytest.mark.parametrize(
    ("inner", "outer"), [(200.0, 90.0), (90.0, 90.0), (-1.0, 90.0), (90, None)]
)
def test_a_ring_without_pixels(one, inner, outer):
    with pytest.raises(ValueError, match="0 <= inner < outer"):
        one(6, 80e3, inner, outer)


@pytest.mark.parametrize("element", ["C", "Mo"])
def test_the_integrated_intensity_of_an_atom_is_its_cross_section(element, x64):
    number = atomic_number(element)
    for occupancy, sigma in ((1.0, 0.0), (0.4, 0.1)):
        atoms = one_atom(number, occupancy=occupancy, sigma=sigma)
        total = image(atoms, C10=-25.0, source_size=0.7).mean() * 7.0 * 9.0
        expected = occupancy * phase_cross_section(number, 80e3, 90.0, 200.0)
        assert total == pytest.approx(expected, rel=1e-12)


def test_an_atom_shows_the_point_reflected_probe(x64):
    place = np.array([3.3, 2.7])
    lens = {"C10": -30.0, "C12": 15.0, "phi12": 0.4, "C21": 900.0, "C23": 400.0}
    made = image(one_atom(42, tuple(place)), **lens)
    # the probe stands at some scan positions in turn; what of it falls on the atom scatters
    where = raster(GRID.shape, GRID.sampling)[::4, ::5]
    wave = probe(replace(OPTICS, **lens), GRID, where - place)[..., 0, 0]
    pixels = GRID.shape[0] * GRID.shape[1]
    density = np.abs(np.asarray(wave)) ** 2 * pixels * pixels / (7.0 * 9.0)
    expected = phase_cross_section(42, 80e3, 90.0, 200.0) * density
    np.testing.assert_allclose(made[::4, ::5], expected, atol=1e-9 * expected.max())


def test_the_image_follows_a_sub_pixel_shift(x64):
    atoms, move = some_atoms(), np.array([0.0371, -0.0453, 0.0])
    still = image(atoms)
    moved = image(replace(atoms, positions=atoms.positions + move))
    ky, kx = GRID.frequencies()
    ramp = np.exp(-2j * np.pi * (ky[:, None] * move[1] + kx[None] * move[0]))
    expected = np.fft.ifft2(np.fft.fft2(still) * ramp).real
    np.testing.assert_allclose(moved, expected, atol=1e-12 * still.max())


def test_the_cell_is_periodic(x64):
    atoms, still = some_atoms(), image(some_atoms())
    wrapped = replace(atoms, positions=atoms.positions + np.array([CELL[0], -2 * CELL[1], 0.0]))
    np.testing.assert_allclose(image(wrapped), still, rtol=1e-10)


def test_the_source_size_is_a_blur_of_the_image(x64):
    sharp, soft = image(some_atoms()), image(some_atoms(), source_size=0.9)
    np.testing.assert_allclose(blur(sharp, GRID, 0.9), soft, atol=1e-12 * sharp.max())
    line = np.zeros((64, 64))
    line[:, 32] = 1.0
    profile = np.asarray(blur(line, Grid((64, 64), (0.1, 0.1)), 1.0))[0]
    assert profile[32 + 5] / profile[32] == pytest.approx(0.5, abs=1e-6), "FWHM 1 Å: half at 0.5 Å"


def test_a_constant_displacement_of_all_lines_is_a_moved_specimen(x64):
    atoms, shift = some_atoms(), np.array([0.31, -0.17])
    made = image(atoms, shift=np.tile(shift, (GRID.shape[0], 1)))
    # the scan stands further along by `shift`, so the atoms appear moved back
    moved = replace(atoms, positions=atoms.positions - np.append(shift, 0.0))
    np.testing.assert_allclose(made, image(moved), rtol=1e-8)


def test_no_displacement_is_the_plain_transform(x64):
    rng = np.random.default_rng(3)
    parts = jnp.fft.rfft2(jnp.asarray(rng.normal(size=GRID.shape)))
    made = jax.jit(lambda f: sample_lines(f, GRID, jnp.zeros((GRID.shape[0], 2))))(parts)
    np.testing.assert_allclose(made, np.fft.irfft2(parts, GRID.shape), atol=1e-12)


def test_displaced_lines_show_what_lies_under_the_displaced_scan(x64):
    atoms, (ny, nx) = some_atoms(), GRID.shape
    shift = np.random.default_rng(5).normal(size=(ny, 2)) * [0.4, 0.15]
    made = image(atoms, shift=shift)
    # the image's trigonometric series, summed at every position
    series = np.fft.fft2(image(atoms)) / (ny * nx)
    where = raster(GRID.shape, GRID.sampling) + shift[:, None, :]
    ky, kx = GRID.frequencies()
    wave_y = np.exp(2j * np.pi * where[..., 1, None] * ky)
    wave_x = np.exp(2j * np.pi * where[..., 0, None] * kx)
    expected = np.einsum("yxk,kl,yxl->yx", wave_y, series, wave_x, optimize=True).real
    np.testing.assert_allclose(made, expected, atol=1e-10 * expected.max())


def test_gradients(x64):
    atoms, grid = as_jax(some_atoms()), GRID
    rng = np.random.default_rng(1)
    weights = jnp.asarray(rng.normal(size=grid.shape))
    start = {name: getattr(atoms, name) for name in ("positions", "occupancy", "sigma")}
    start["shift"] = jnp.asarray(rng.normal(size=(grid.shape[0], 2)) * 0.1)
    start |= {"C10": jnp.asarray(20.0), "C21": jnp.asarray(300.0), "source_size": jnp.asarray(0.6)}

    @jax.jit
    @jax.value_and_grad
    def objective(values):
        here = replace(atoms, **{n: values[n] for n in ("positions", "occupancy", "sigma")})
        lens = replace(OPTICS, **{n: values[n] for n in ("C10", "C21", "source_size")})
        return (weights * incoherent(here, lens, grid, **RING, shift=values["shift"])).sum()

    gradient = objective(start)[1]
    for name, value in start.items():
        direction = jnp.asarray(rng.normal(size=value.shape))
        h = 1e-5 * max(1.0, float(jnp.abs(value).max()))
        ahead, behind = ({**start, name: value + s * h * direction} for s in (1, -1))
        numeric = float(objective(ahead)[0] - objective(behind)[0]) / (2 * h)
        assert abs(numeric) > 1e-8, name
        exact = float((gradient[name] * direction).sum())
        assert exact == pytest.approx(numeric, rel=1e-6), name


def test_many_specimens_at_once(x64):
    atoms, grid = as_jax(some_atoms()), GRID
    moves = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (3, atoms.n, 3)))
    shifts = jnp.asarray(np.random.default_rng(3).normal(size=(3, grid.shape[0], 2)) * 0.1)

    def one(move, shift):
        moved = replace(atoms, positions=atoms.positions + move)
        return incoherent(moved, OPTICS, grid, **RING, shift=shift)

    batch = jax.jit(jax.vmap(one))(moves, shifts)
    for made, move, shift in zip(batch, moves, shifts, strict=True):
        moved = replace(atoms, positions=atoms.positions + move)
        np.testing.assert_allclose(made, image(moved, shift=shift), rtol=1e-9)


def test_single_precision(x64):
    atoms, shift = some_atoms(), np.random.default_rng(4).normal(size=(56, 2)) * 0.2
    lens = {"C10": 40.0, "C21": 900.0, "source_size": 0.6}
    double = image(atoms, shift=shift, **lens)
    with jax.enable_x64(False):
        single = image(atoms, shift=shift, **lens)
    assert single.dtype == np.float32
    assert np.abs(single - double).max() < 3e-6 * double.max()
