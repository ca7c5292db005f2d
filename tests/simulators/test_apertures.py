"""Apertures and phase plates, rays of the lens, probes that do not fit, any illumination."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from simulators.aberrations import aberration_phase, ray_displacement
from simulators.electron import wavelength
from simulators.grid import Grid
from simulators.optics import (
    ABERRATIONS,
    Optics,
    aperture_function,
    check_probe,
    illumination_coefficients,
    probe,
    probe_reach,
    user_wave,
)
from simulators.tree import replace

GRID = Grid((64, 80), (0.2, 0.15))


def test_annular_apertures():
    lens = Optics(energy=80e3, semiangle=20.0, inner_semiangle=10.0)
    angle = 1e3 * wavelength(80e3) * np.sqrt(GRID.k2())
    for kind in ("soft", "hard"):
        ring = aperture_function(replace(lens, aperture=kind), GRID)
        outer = aperture_function(replace(lens, aperture=kind, inner_semiangle=None), GRID)
        inner = aperture_function(
            replace(lens, aperture=kind, semiangle=10.0, inner_semiangle=None), GRID
        )
        np.testing.assert_array_equal(ring, outer - inner)
        step = 1e3 * wavelength(80e3) / min(GRID.extent)
        assert (ring[(angle > 10 + step) & (angle < 20 - step)] == 1).all()
        assert (ring[(angle < 10 - step) | (angle > 20 + step)] == 0).all()
        total = jnp.abs(jnp.fft.fft2(probe(replace(lens, aperture=kind), GRID))) ** 2
        assert float(total.sum()) == pytest.approx(1, abs=1e-5)
        assert float(total[0, 0]) < 1e-10
    np.testing.assert_array_equal(
        aperture_function(replace(lens, inner_semiangle=0.0), GRID),
        aperture_function(replace(lens, inner_semiangle=None), GRID),
    )
    with pytest.raises(ValueError, match=r"inner_semiangle = 20 mrad must lie between 0 and"):
        Optics(energy=80e3, semiangle=20.0, inner_semiangle=20.0)


def test_a_pupil_of_ones_own_makes_a_vortex(x64):
    ky, kx = GRID.frequencies()
    plate = np.exp(1j * np.arctan2(ky[:, None], kx[None]))
    lens = Optics(energy=80e3, semiangle=20.0, pupil=plate)
    wave = np.asarray(probe(lens, GRID))
    assert (np.abs(np.fft.fft2(wave)) ** 2).sum() == pytest.approx(1)
    peak = np.abs(probe(replace(lens, pupil=None), GRID)).max()
    assert np.abs(wave[0, 0]) < 0.05 * peak, "dark on its axis"
    with pytest.raises(ValueError, match=r"pupil is \(3, 3\) pixels"):
        aperture_function(replace(lens, pupil=np.ones((3, 3))), GRID)


@pytest.mark.parametrize("name", list(ABERRATIONS))
def test_rays_are_the_gradient_of_the_aberrations(name, x64):
    # ∇χ / 2π, against differences of χ along the axis of the lens
    n, m = ABERRATIONS[name]
    size = {1: 100.0, 2: 3e3, 3: 1e5, 4: 3e6, 5: 1e8}[n]
    lens = Optics(energy=80e3, **{name: size}, **({f"phi{n}{m}": 0.3} if m else {}))
    x, y = ray_displacement(lens, GRID)
    step = 1e-3  # mrad
    shift = np.tan(step * 1e-3) / wavelength(80e3)
    for rays, axis in ((x, (step, 0.0)), (y, (0.0, step))):
        minus = tuple(-a for a in axis)
        ahead, behind = (aberration_phase(lens, GRID, off_axis=a) for a in (axis, minus))
        numeric = (ahead - behind) / (2 * shift) / (2 * np.pi)
        assert np.abs(numeric - rays).max() < 1e-6 * np.abs(rays).max()


def test_the_reach_of_a_probe_is_where_its_outermost_rays_go(x64):
    def reach(**values):
        return probe_reach(Optics(energy=80e3, semiangle=20.0, **values))

    alpha = 20e-3
    assert reach() == 0
    assert reach(C10=300.0) == pytest.approx(300 * alpha)
    assert reach(C30=1e6) == pytest.approx(1e6 * alpha**3)
    assert reach(C21=1e4) == pytest.approx(1e4 * alpha**2), "the tip of the comet"


def test_probes_wider_than_the_cell_are_refused_whatever_the_aberration():
    with pytest.raises(ValueError, match=r"C30 = 2e\+06 Å, it is a disc of 32\.0 Å on a cell of"):
        check_probe(Optics(energy=80e3, semiangle=20.0, C30=2e6), GRID)
    with pytest.raises(ValueError, match=r"C12 = 400 Å.*enlarge the cell"):
        check_probe(Optics(energy=80e3, semiangle=20.0, C12=400.0), GRID)
    check_probe(Optics(energy=80e3, semiangle=20.0, C12=200.0), GRID)
    # defocus that compensates the spherical aberration counts for it
    check_probe(Optics(energy=80e3, semiangle=20.0, C30=1.2e6, C10=-400.0), GRID)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"focal_spread": -1.0}, "focal_spread = -1 must be a width"),
        ({"angular_spread": -0.1}, "angular_spread"),
        ({"source_size": float("nan")}, "source_size"),
        ({"tilt": (250.0, 0.0)}, "too large for the tilted propagator"),
        ({"tilt": (1.0,)}, r"pair \(x, y\)"),
        ({"C30": float("inf")}, "C30 = inf is not finite"),
        ({"semiangle": np.float32(0.02)}, "in mrad, not rad"),
        ({"energy": 80.0}, "energies are in eV"),
        ({"aperture": "square"}, "aperture must be one of"),
    ],
)
def test_numbers_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        Optics(**{"energy": 80e3, "semiangle": 20.0, **values})


def test_any_wave_as_illumination(x64):
    lens = Optics(energy=80e3, semiangle=20.0, C10=50.0, C21=1e3)
    places = np.array([[0.0, 0.0], [1.37, 2.11]])
    formed = probe(lens, GRID, places)
    given = user_wave(3.0 * np.asarray(formed[0]), GRID, places)
    np.testing.assert_allclose(given, formed, atol=1e-15)
    kept = user_wave(3.0 * np.asarray(formed[0]), GRID, normalise=False)
    np.testing.assert_allclose(kept, 3.0 * formed[0], atol=1e-14)
    np.testing.assert_allclose(
        illumination_coefficients(lens, GRID), np.fft.fft2(formed[0]), atol=1e-14
    )
    with pytest.raises(ValueError, match=r"the wave is \(64, 79\) pixels"):
        user_wave(np.asarray(formed[0])[:, 1:], GRID)
    with pytest.raises(ValueError, match="not finite"):
        user_wave(np.full(GRID.shape, np.nan), GRID)
