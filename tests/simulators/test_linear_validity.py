"""How far the linear image model agrees with multislice: layers, atoms, and not thick crystals.

``pytest -s tests/simulators/test_linear_validity.py`` prints the tables of simulators/README.md.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from simulators.atoms import Atoms, make_atoms, pad
from simulators.detectors import Annular
from simulators.grid import Grid
from simulators.imaging import diffraction, stem
from simulators.linear import incoherent
from simulators.multislice import multislice
from simulators.optics import Optics, probe
from simulators.potential import project
from simulators.scan import raster
from simulators.tree import replace

OPTICS = Optics(energy=80e3, semiangle=30.0)
SHAPE = (320, 384)
"""0.034 Å in the cells below: at 0.068 Å, which carries the detectors, the signal of a heavy atom
still depends on its place between pixels (`test_a_heavy_atom_needs_a_fine_grid`)."""
DEPTH = 6.4
"""Å of the cell of one layer, cut into 4 slices."""
RINGS = ((60.0, 190.0), (90.0, 200.0))


def tiled(cell: list[float], sites: list, reps: tuple[int, int]) -> Atoms:
    """A crystal of `reps` (x, y) cells; sites are (atomic number, fractional x, y, z)."""
    numbers, places = [s[0] for s in sites], np.array([s[1:] for s in sites]) * cell
    steps = [(i * cell[0], j * cell[1], 0.0) for i in range(reps[0]) for j in range(reps[1])]
    positions = np.concatenate([places + np.array(step) for step in steps])
    return make_atoms(positions, numbers * len(steps), np.array(cell) * [*reps, 1])


def graphene() -> Atoms:
    sites = [(6, 0, 0, 0.5), (6, 0.5, 1 / 6, 0.5), (6, 0.5, 0.5, 0.5), (6, 0, 2 / 3, 0.5)]
    return tiled([2.46, 2.46 * 3**0.5, DEPTH], sites, (4, 2))


def dichalcogenide(metal: int, a: float, height: float) -> Atoms:
    sites = [(metal, 0, 0, 0.5), (metal, 0.5, 0.5, 0.5)]
    for x, y in ((0, 1 / 3), (0.5, 5 / 6)):
        sites += [(16, x, y, 0.5 + s * height / DEPTH) for s in (-1, 1)]
    return tiled([a, a * 3**0.5, DEPTH], sites, (4, 2))


def few_atoms(places: list, numbers: list[int]) -> Atoms:
    """Atoms at fractions (x, y) of a cell as large as those of the layers."""
    cell = np.array([12.6, 10.9, DEPTH])
    return make_atoms(np.insert(np.array(places), 2, 0.5, axis=1) * cell, numbers, cell)


MONOLAYERS = {
    "graphene": graphene(),
    "MoS2": dichalcogenide(42, 3.16, 1.586),
    "WS2": dichalcogenide(74, 3.153, 1.571),
}


@functools.partial(jax.jit, static_argnames="grid")
def models(atoms: Atoms, grid: Grid, lens: dict[str, float]) -> list[list[jax.Array]]:
    """Linear images [phase objects, Born][rings]."""
    optics = replace(OPTICS, **lens)
    return [
        [incoherent(atoms, optics, grid, inner=a, outer=b, born=born) for a, b in RINGS]
        for born in (False, True)
    ]


def compared(atoms: Atoms, index: tuple, **lens: float) -> tuple[np.ndarray, ...]:
    """Multislice and the two linear models [rings, positions] at pixels of a 48 × 64 scan.

    All specimens have the same shapes, so that the slow parts are compiled once.
    """
    (lx, ly), lens = atoms.cell[:2], dict.fromkeys(("C21", "phi21", "C23", "phi23"), 0.0) | lens
    scan = Grid.over((ly, lx), shape=(48, 64))
    where = raster(scan.shape, scan.sampling)[index].reshape(-1, 2)
    potential = project(atoms, Grid.over((ly, lx), shape=SHAPE), DEPTH / 4)
    optics = replace(OPTICS, **lens)
    full = stem(potential, optics, where, [Annular(*ring) for ring in RINGS], batch=32)
    linear = [[i[index].ravel() for i in m] for m in models(pad(atoms, 48), scan, lens)]
    return np.asarray(full), *np.asarray(linear)


@pytest.mark.parametrize(
    ("name", "correlations", "ratios", "born_ratios"),
    [  # rings of 60-190 and 90-200 mrad: least r, and the model's mean intensity / multislice's
        ("graphene", (0.9994, 0.9998), (0.822, 0.911), (0.817, 0.916)),
        ("MoS2", (0.979, 0.9995), (0.745, 0.917), (0.872, 1.082)),
        ("WS2", (0.990, 0.9992), (0.805, 0.923), (1.256, 1.449)),
    ],
)
def test_single_layers(name, correlations, ratios, born_ratios):
    # a cell of 12 × 16 pixels (or twice as many), every second one in both directions
    full, phase, born = compared(MONOLAYERS[name], np.s_[:24:2, :16:2])
    for i, (inner, outer) in enumerate(RINGS):
        r, r_born = (np.corrcoef(full[i], m[i])[0, 1] for m in (phase, born))
        ratio, ratio_born = (m[i].mean() / full[i].mean() for m in (phase, born))
        print(
            f"{name} {inner:.0f}-{outer:.0f} mrad: r {r:.4f}, model / multislice {ratio:.3f}; "
            f"Born r {r_born:.4f}, {ratio_born:.3f}"
        )
        assert r >= correlations[i]
        assert ratio == pytest.approx(ratios[i], abs=0.01)
        assert ratio_born == pytest.approx(born_ratios[i], abs=0.02)


def test_single_atoms():
    numbers = [6, 16, 42, 74]
    atoms = few_atoms([(x, y) for y in (0.25, 0.75) for x in (0.25, 0.75)], numbers)
    # positions under the atoms, each many times: the shapes of the monolayers
    index = np.tile([12, 12, 36, 36], 24), np.tile([16, 48, 16, 48], 24)
    full, phase, born = (values[1, :4] for values in compared(atoms, index))
    for z, a, b in zip(numbers, phase / full, born / full, strict=True):
        print(f"one atom of Z = {z}: model / multislice {a:.3f}, Born {b:.3f}")
    np.testing.assert_allclose(phase / full, [0.946, 0.956, 0.958, 0.993], atol=0.01)
    np.testing.assert_allclose(born / full, [0.954, 0.991, 1.187, 1.665], atol=0.02)


def test_coma_points_the_way_that_multislice_has_it():
    lens = {"C21": 1500.0, "phi21": 0.3, "C23": 800.0, "phi23": 1.0}
    full, linear, _ = compared(few_atoms([(0.5, 0.5)], [42]), np.s_[::4, ::8], **lens)
    assert np.corrcoef(full[1], linear[1])[0, 1] > 0.9999


STO = 3.905
"""Lattice constant of SrTiO3 [Å]."""


def perovskite_layer(sigma: float = 0.0) -> Atoms:
    """3 × 3 unit cells of SrTiO3 seen along [001], one cell thick."""
    sites = [(38, 0, 0, 0.25), (22, 0.5, 0.5, 0.75), (8, 0.5, 0.5, 0.25)]
    sites += [(8, 0.5, 0, 0.75), (8, 0, 0.5, 0.75)]
    layer = tiled([STO] * 3, sites, (3, 3))
    return replace(layer, sigma=np.full(layer.n, sigma))


def vibrating_crystal(cells: int, sigma: float, seed: int) -> Atoms:
    """The layer stacked, one frozen configuration of its vibrations in x and y."""
    layer = perovskite_layer()
    depth = np.repeat(np.arange(cells) * STO, layer.n)
    positions = np.tile(layer.positions, (cells, 1))
    positions[:, 2] += depth
    positions[:, :2] += np.random.default_rng(seed).normal(size=(len(depth), 2)) * sigma
    return make_atoms(positions, np.tile(layer.numbers, cells), layer.cell * [1, 1, cells])


def test_ends_in_a_thick_crystal():
    """SrTiO3 [001] on the zone axis, frozen phonons: multislice over the model, per column."""
    cells, sigma, configurations, depths = 51, 0.08, 2, (2, 10, 51)
    optics, ring = Optics(energy=80e3, semiangle=25.0), Annular(80, 170)
    columns = {"Sr": (8, 8), "Ti/O": (12, 12), "between": (10, 10)}  # pixels of 1/8 cell
    where = np.array(list(columns.values())) * STO / 8
    grid = Grid.over((3 * STO, 3 * STO), sampling=0.08)
    seen = ring.sensitivity(grid, 80e3)
    signals = np.zeros((len(depths), len(columns)))
    for seed in range(configurations):
        potential = project(vibrating_crystal(cells, sigma, seed), grid, STO / 2)
        planes = tuple(2 * n - 1 for n in depths)  # two slices a cell
        waves = multislice(probe(optics, grid, where), potential, 80e3, planes=planes)
        signals += (np.asarray(diffraction(waves)) * seen).sum((-1, -2)) / configurations
    scan = Grid.over((3 * STO, 3 * STO), shape=(24, 24))
    model = jax.jit(lambda a: incoherent(a, optics, scan, inner=80.0, outer=170.0))(
        perovskite_layer(sigma)
    )
    per_cell = np.array([model[place] for place in columns.values()])
    share = {n: signal / (n * per_cell) for n, signal in zip(depths, signals, strict=True)}
    for n, values in share.items():
        line = ", ".join(f"{k} {v:.2f}" for k, v in zip(columns, values, strict=True))
        print(f"SrTiO3 {n * STO / 10:.1f} nm, multislice / model: {line}")
    np.testing.assert_allclose(share[2][:2], [1.13, 1.07], atol=0.06)
    assert share[10][1] > 1.5, "the probe channels: a Ti/O column of 4 nm is far too bright"
    assert share[51][0] < 0.55, "20 nm: the Sr column has lost half"
    assert share[51][2] > 3, "and what it lost lights up the place between the columns"
    contrast = share[51][0] / share[51][1]
    assert contrast < 0.7, "so the ratio of two columns, by which species are told, is wrong too"


def test_a_heavy_atom_needs_a_fine_grid():
    # the same atom and probe at eight places between pixels
    ring, optics = [Annular(90, 200)], Optics(energy=80e3, semiangle=25.0)
    spreads = {}
    for n in (118, 236):
        grid, signal = Grid.over((8.0, 8.0), shape=n), []
        for part in np.arange(8) / 8:
            place = 4.0 + part * grid.sampling[0] * np.array([1.0, 0.5])
            atoms = make_atoms([[*place, 1.0]], [74], [8.0, 8.0, 2.0])
            signal.append(float(stem(project(atoms, grid, 2.0), optics, place[None], ring)[0, 0]))
        spreads[n] = np.ptp(signal) / np.mean(signal)
        print(f"{8 / n:.3f} Å: {100 * spreads[n]:.2f} %")
    assert spreads[118] == pytest.approx(0.24, abs=0.02)
    assert spreads[236] == pytest.approx(0.016, abs=0.002)
