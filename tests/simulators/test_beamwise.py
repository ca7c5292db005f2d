"""`stem` and `cbed` by plane waves: the numbers of multislice, chosen where it costs less."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators import beamwise, imaging
from simulators.atoms import make_atoms
from simulators.detectors import Annular
from simulators.gram import gram_matrices
from simulators.grid import Grid
from simulators.imaging import cbed, mean_cbed, stem
from simulators.optics import Optics, probe_coefficients
from simulators.potential import project
from simulators.scan import raster
from simulators.tree import replace

GRID = Grid.over((7.0, 9.0), shape=(30, 40))
LENS = Optics(energy=100e3, semiangle=14.0, C10=-20.0, C12=8.0, phi12=0.3, tilt=(9.0, -4.0))
RINGS = [Annular(0, 9), Annular(20, 45)]


@functools.cache
def specimen(double=False):
    rng = np.random.default_rng(6)
    cell = [9.0, 7.0, 6.0]
    atoms = make_atoms(rng.uniform(0, 1, (6, 3)) * cell, rng.choice([8, 22, 38], 6), cell)
    return project(atoms, GRID, 2.0, dtype="float64" if double else "float32")


def close(ours, theirs, tolerance):
    """Every detector (or pattern) to `tolerance` of its own maximum."""
    assert ours.shape == theirs.shape
    for one, other in zip(np.asarray(ours), np.asarray(theirs), strict=True):
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


@pytest.fixture
def taken(monkeypatch):
    """Which ways were gone, in order."""
    ways = []
    for module, name in (
        (imaging, "_by_probes"),
        (beamwise, "stem_by_beams"),
        (beamwise, "cbed_by_beams"),
    ):
        original = getattr(module, name)

        def spy(*args, name=name, original=original, **options):
            ways.append(name)
            return original(*args, **options)

        monkeypatch.setattr(module, name, spy)
    return ways


SCANS = {
    "axes": raster((5, 6), 0.4, origin=(-3.0, 6.0)),
    "turned": raster((5, 6), 0.4, rotation=0.4),
    "fast y": np.swapaxes(raster((6, 5), (0.7, 0.3)), 0, 1),
    "points": np.random.default_rng(2).uniform(-30, 30, (30, 2)),
}


def test_stem_by_beams_is_multislice(x64, taken):
    direct = {
        name: stem(specimen(True), LENS, where, RINGS, method="multislice", step="symmetric")
        for name, where in SCANS.items()
    }
    for name, where in SCANS.items():
        where = jnp.asarray(where) if name == "turned" else where
        ours = stem(specimen(True), LENS, where, RINGS, method="prism", step="symmetric")
        close(ours, direct[name], 1e-12)
    assert taken == ["_by_probes"] * 4 + ["stem_by_beams"] * 4


def test_float32_and_many_rings():
    rings = [*RINGS, *(Annular(a, a + 10) for a in range(0, 50, 10))]
    ours = stem(specimen(), LENS, SCANS["axes"], rings, method="prism")
    assert ours.dtype == jnp.float32
    close(ours, stem(specimen(), LENS, SCANS["axes"], rings, method="multislice"), 2e-6)


def test_cbed_by_beams_is_multislice(x64):
    where = SCANS["points"][:7]
    for lens in (LENS, replace(LENS, aperture="hard")):
        patterns = cbed(specimen(True), lens, where, method="prism")
        assert patterns.shape == (7, 30, 40)
        close(patterns, cbed(specimen(True), lens, where, method="multislice"), 1e-12)
    small = cbed(specimen(), LENS, where, method="prism")
    assert small.dtype == jnp.float32
    close(small, cbed(specimen(), LENS, where, method="multislice"), 3e-6)


def test_the_mean_over_the_cell_needs_no_positions(x64):
    where = raster((14, 18), 0.5).reshape(-1, 2)  # finer than twice the aperture's orders
    mean = mean_cbed(specimen(True), LENS)
    close(mean[None], cbed(specimen(True), LENS, where).mean(0)[None], 1e-12)
    close(mean[None], mean_cbed(specimen(True), replace(LENS, C10=50.0))[None], 1e-12)


def test_auto_takes_the_cheaper_way_and_the_numbers_do_not_show_it(taken):
    beams = beamwise.known_beams(LENS, GRID)
    few, many = SCANS["points"][: len(beams) // 3], np.tile(SCANS["points"], (20, 1))
    for where, way in ((few, "_by_probes"), (many, "stem_by_beams")):
        ours = stem(specimen(), LENS, where, RINGS)
        assert taken[-1] == way
        for method in ("multislice", "prism"):
            close(ours, stem(specimen(), LENS, where, RINGS, method=method), 2e-6)
    first = stem(specimen(), LENS, few, RINGS)
    close(stem(specimen(), LENS, many, RINGS)[:, : len(few)], first, 2e-6)
    cbed(specimen(), LENS, many)
    assert taken[-1] == "cbed_by_beams"
    # whatever does not fit, or is not known, goes by probes
    stem(specimen(), LENS, many[:30], RINGS, memory=1000)
    assert taken[-1] == "_by_probes"
    jax.jit(lambda a: cbed(specimen(), replace(LENS, semiangle=a), many[:40]))(14.0)
    assert taken[-1] == "_by_probes"
    jax.jit(lambda d: stem(specimen(), replace(LENS, C10=d), many, RINGS))(-20.0)
    assert taken[-1] == "stem_by_beams"


def test_the_cost_counts_waves_and_products():
    """96 × 96 positions and 1,308 beams at 256² × 40: waves are nearly all of it."""
    grid = Grid.over((25.6, 25.6), shape=(256, 256))
    beams = beamwise.known_beams(Optics(energy=200e3, semiangle=20.0), grid)
    assert len(beams) == 1369  # 1,308 within 20 mrad and the soft rim
    by_beams, by_probes, numbers = beamwise.stem_cost(grid, 40, beams, 96 * 96, 1, 9000)
    assert by_beams / by_probes == pytest.approx(len(beams) / 96**2, rel=0.05)
    assert 4 * numbers < imaging.MEMORY
    assert beamwise.choose("auto", beams, by_beams, by_probes, 4 * numbers, imaging.MEMORY)
    by_beams, by_probes, _ = beamwise.stem_cost(grid, 40, beams, 32 * 32, 1, 9000)
    assert by_beams > by_probes, "fewer positions than beams"
    # one thin slice: the products that follow the waves weigh more
    by_beams, by_probes, _ = beamwise.cbed_cost(grid, 1, beams, 1500)
    assert by_beams > by_probes


def test_a_probe_of_ones_own(x64):
    """A vortex, given as coefficients, goes both ways; those of the lens change nothing."""
    where = SCANS["points"][:5]
    ky, kx = GRID.frequencies()
    vortex = probe_coefficients(LENS, GRID) * np.exp(1j * np.arctan2(ky[:, None], kx[None, :]))
    own = [
        stem(specimen(True), LENS, where, RINGS, coefficients=vortex, method=method)
        for method in ("multislice", "prism")
    ]
    close(own[1], own[0], 1e-12)
    plain = stem(specimen(True), LENS, where, RINGS, method="multislice")
    assert float(jnp.abs(own[0] - plain).max()) > 1e-3 * float(plain.max())
    same = probe_coefficients(LENS, GRID)
    close(stem(specimen(True), LENS, where, RINGS, coefficients=same), plain, 1e-12)


@pytest.mark.parametrize("method", ["multislice", "prism"])
def test_gradients_against_finite_differences(x64, method):
    rng = np.random.default_rng(3)
    potential, where = specimen(True), SCANS["points"][:4]
    direction = jnp.asarray(rng.normal(size=potential.slices.shape))
    weights, shift = jnp.asarray(rng.normal(size=(2, 4))), jnp.asarray(rng.normal(size=(4, 2)))
    pattern_weights = jnp.asarray(rng.normal(size=(4, 30, 40)))

    def objective(step, memory):
        moved = replace(potential, slices=potential.slices + step[0] * direction)
        lens = replace(LENS, C10=-20.0 + 10 * step[1], phi12=0.3 + step[1])
        lens = replace(lens, tilt=(9.0 + 10 * step[3], -4.0))
        at = jnp.asarray(where) + 0.1 * step[2] * shift
        signal = stem(moved, lens, at, RINGS, method=method, memory=memory, validate=False)
        patterns = cbed(moved, lens, at, method=method, memory=memory, validate=False)
        return (weights * signal).sum() + (pattern_weights * patterns).sum()

    quick = {"xla_backend_optimization_level": 0}
    # the second bound keeps no wave for the backward pass
    bounds = (2**31, 100_000 if method == "multislice" else 2_000_000)
    gradients = []
    for memory in bounds:
        both = jax.value_and_grad(functools.partial(objective, memory=memory))
        compiled = jax.jit(both, compiler_options=quick)
        gradients.append(np.asarray(compiled(jnp.zeros(4))[1]))
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-10)
    for i in range(4):
        values = [float(compiled(jnp.zeros(4).at[i].set(1e-4 * h))[0]) for h in (1, -1, 2, -2)]
        numeric = (8 * (values[0] - values[1]) - values[2] + values[3]) / 12e-4
        assert gradients[0][i] == pytest.approx(numeric, rel=1e-6)


def test_gram_matrices_of_any_weights():
    rng = np.random.default_rng(0)
    spectra = jnp.asarray(rng.normal(size=(7, 50)) + 1j * rng.normal(size=(7, 50)), np.complex64)
    weights = rng.normal(size=(4, 50))
    weights[1, 5:] = 0
    weights[2, :40] = 0
    weights[3] = 0
    made = gram_matrices(spectra, weights)
    s = np.asarray(spectra)
    np.testing.assert_allclose(made, np.einsum("dq,bq,cq->dbc", weights, s, s.conj()), atol=2e-5)


def test_errors_say_what_to_do(monkeypatch):
    where = SCANS["points"]
    with pytest.raises(ValueError, match="unknown method 'exact': choose one of auto, multislice"):
        stem(specimen(), LENS, where, RINGS, method="exact")
    with pytest.raises(ValueError, match=r"the scattering matrix takes .* and memory=1 kB"):
        cbed(specimen(), LENS, where, method="prism", memory=1000)
    with pytest.raises(ValueError, match="pass energy and semiangle as numbers"):
        jax.jit(lambda a: cbed(specimen(), replace(LENS, semiangle=a), where, method="prism"))(14.0)
    with pytest.raises(ValueError, match=r"positions must be \[..., 2\]"):
        stem(specimen(), LENS, where[:, :1], RINGS)
    with pytest.raises(ValueError, match=r"coefficients must be \(30, 40\)"):
        cbed(specimen(), LENS, where, coefficients=np.ones((40, 30)))
    import simulators.memory

    monkeypatch.setattr(simulators.memory, "available_memory", lambda: 200_000)
    with pytest.raises(MemoryError, match="30 patterns of 30 × 40 pixels would take"):
        cbed(specimen(), LENS, where)
    with pytest.raises(MemoryError, match="use a smaller batch="):
        stem(specimen(), LENS, where, RINGS)
