"""Held-out images by multislice, with exact labels: what a network of atom columns is judged on.

What differs from the training images: the full dynamical image of a thermal snapshot instead of the
linear one, periodic supercells with defects placed by hand (most of kinds that are not trained),
thick crystals, another background. What is the same: lattices of `MATERIALS`, the ring's inner
angle, the models of line distortions and noise. One scattering matrix a specimen serves any number
of images (`simulators.gram`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
import scipy.fft
from ase.data import chemical_symbols

from emjax.data.synthetic import OTHER, UNLABELLED
from simulators import tree
from simulators.atoms import Atoms, wrapped
from simulators.detectors import Annular
from simulators.electron import wavelength
from simulators.gram import Gram, gram, image_series
from simulators.grid import ANTIALIAS_CUTOFF, Grid
from simulators.noise import PoissonReadout
from simulators.optics import Optics
from simulators.phonons import snapshot
from simulators.potential import project
from simulators.scan import ScanDistortion, displaced
from simulators.series import blurred, read_raster
from simulators.specimens import MATERIALS, columns, supercell
from simulators.specimens.defects import remove, stone_wales, substitute, vacancy_line

PIXELS = (0.1, 0.15, 0.2, 0.25, 0.3)
"""Å per pixel of the images, in turn."""
FIELD = 16.0
"""Side of the images [Å]."""


@dataclass(frozen=True)
class Specimen:
    """A periodic specimen with its name and the beam that it is looked at with."""

    family: str
    defect: str
    atoms: Atoms
    energy: float
    semiangle: float
    outer: float
    slice_thickness: float = 2.0
    named: bool = True
    """False: a crystal that the network has not met; all its columns are `OTHER`."""
    shown: Atoms | None = None
    """The thermal snapshot that is imaged (see `frozen`); None: the atoms at rest."""


@dataclass(frozen=True)
class Part:
    """How hard images are; pairs are the ends of a range."""

    name: str
    dose: tuple[float, float]
    jitter: tuple[float, float]
    background: tuple[float, float]
    readout: float
    source_size: tuple[float, float] = (0.5, 0.8)


PARTS = (
    Part("easy", (200.0, 400.0), (0.0, 0.03), (0.0, 0.1), 0.0),
    Part("20 electrons", (20.0, 20.0), (0.0, 0.06), (0.0, 0.1), 0.2),
    Part("hard", (4.0, 9.0), (0.08, 0.15), (0.1, 0.5), 0.4),
)
"""Electrons at the brightest pixel; line displacements in Å; background in units of the brightest
column; read-out noise in electrons."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One image with its truth."""

    image: np.ndarray
    clean: np.ndarray
    sampling: float
    truth: np.ndarray
    """[n, 3] x and y in pixels, class index: where columns appear in the (distorted) image."""
    family: str
    part: str
    detail: str

    @property
    def name(self) -> str:
        """Of its image class: one family under one kind of condition."""
        return f"{self.family}, {self.part}"


def _cell(name: str, repeats: tuple[int, int, int]) -> Atoms:
    return supercell(MATERIALS[name].lattice, repeats)


def _flat(family: str, defect: str, atoms: Atoms) -> Specimen:
    # a slice for each plane of atoms
    slices = 7.0 if family == "graphene" else 2.4
    return Specimen(family, defect, atoms, 80e3, 30.0, 180.0, slices)


def _thick(family: str, defect: str, atoms: Atoms, *, named: bool = True) -> Specimen:
    return Specimen(family, defect, atoms, 200e3, 22.0, 150.0, 2.0, named)


def validation_specimens() -> list[Specimen]:
    """To choose thresholds with: defects as in the training."""
    carbon = _cell("graphene", (8, 5, 1))
    carbon = substitute(carbon, (6.0, 5.0), "Si")
    carbon = remove(substitute(carbon, (13.0, 15.0), "Si"), (15.0, 6.0))
    mos2 = substitute(_cell("mos2", (5, 3, 1)), (6.0, 6.0), "W", symbol="Mo")
    mos2 = remove(mos2, (13.0, 14.0), symbol="S", count=2)
    ws2 = substitute(_cell("ws2", (5, 3, 1)), (6.0, 6.0), "Mo", symbol="W")
    ws2 = remove(ws2, (13.0, 14.0), symbol="S")
    wse2 = remove(_cell("wse2", (5, 3, 1)), (5.0, 12.0), symbol="Se")
    wse2 = substitute(wse2, (12.0, 5.0), "S", symbol="Se", count=2)
    return [
        _flat("graphene", "Si, vacancy", carbon),
        _flat("MoS2", "W, vacancies", mos2),
        _flat("WS2", "Mo, S vacancy", ws2),
        _flat("WSe2", "Se vacancy, S pair", wse2),
        _thick("SrTiO3", "none", _cell("srtio3", (3, 3, 6))),
        _thick("Si [110]", "none", _cell("silicon110", (3, 2, 10))),
        _thick("rutile", "none", _cell("rutile001", (3, 3, 8)), named=False),
    ]


def test_specimens() -> list[Specimen]:
    """To judge with: most of the defects are of kinds that training images do not have."""
    carbon = _cell("graphene", (8, 5, 1))
    wales = stone_wales(carbon, (8.0, 8.0))
    pair = substitute(carbon, (9.0, 9.0), "Si", count=2)
    hole = remove(carbon, (11.0, 8.0), count=4)
    mos2, ws2, wse2 = (_cell(name, (5, 3, 1)) for name in ("mos2", "ws2", "wse2"))
    line = vacancy_line(mos2, (3.2, 9.1), (3.16, 0.0), 4, "S")
    anti = substitute(ws2, (8.0, 9.0), "W", symbol="S", count=2)
    mixed = remove(wse2, (12.0, 4.0), symbol="W", count=2)
    for place in ((4.0, 4.0), (9.0, 12.0), (15.0, 7.0)):
        mixed = substitute(mixed, place, "S", symbol="Se", count=2)
    srtio3 = _cell("srtio3", (3, 3, 10))
    swap = srtio3
    for z in range(10):  # a whole column of Sr where Ti should be
        swap = _swap(swap, (5.86, 5.86, 3.905 * z + 1.95), "Sr")
    missing = srtio3
    for z in range(0, 10, 2):
        missing = _swap(missing, (7.81, 7.81, 3.905 * z), None)
    si = _cell("silicon110", (3, 2, 8))
    rutile, at = _cell("rutile001", (3, 3, 9)), (6.9, 6.9)
    return [
        _flat("graphene", "Stone–Wales, vacancy", remove(wales, (16.0, 16.0))),
        _flat("graphene", "Si pair, tetravacancy", remove(pair, (17.0, 17.0), count=4)),
        _flat("graphene", "tetravacancy", hole),
        _flat("MoS2", "line of vacancies", line),
        _flat("WS2", "antisite", anti),
        _flat("WSe2", "S alloyed, W divacancy", mixed),
        _thick("SrTiO3", "antisite column", swap),
        _thick("SrTiO3", "half a Sr column missing", missing),
        _thick("Si [110]", "none", si),
        _thick("rutile", "none", rutile, named=False),
        _thick("rutile", "Ti missing", remove(rutile, at, symbol="Ti", count=4), named=False),
    ]


def _swap(atoms: Atoms, at: tuple[float, float, float], new: str | None) -> Atoms:
    """Replace (or remove) the metal atom nearest to a point in space."""
    gap = atoms.positions - np.asarray(at)
    gap -= atoms.cell * np.round(gap / atoms.cell)
    distance = np.where(np.asarray(atoms.numbers) > 8, np.linalg.norm(gap, axis=1), np.inf)
    row = int(np.argmin(distance))
    if new is None:
        occupancy = np.array(atoms.occupancy)
        occupancy[row] = 0
        return type(atoms)(
            atoms.positions, atoms.numbers, occupancy, atoms.sigma, atoms.cell, atoms.elements
        )
    numbers = np.array(atoms.numbers)
    numbers[row] = chemical_symbols.index(new)
    return type(atoms)(
        atoms.positions, numbers, atoms.occupancy, atoms.sigma, atoms.cell, atoms.elements
    )


def frozen(key: jax.Array, specimen: Specimen) -> Specimen:
    """The specimen with one thermal snapshot of its atoms, which is what is imaged.

    (A Debye–Waller factor would do for low angles, but the ring sees mostly what it leaves out.)
    """
    return replace(specimen, shown=snapshot(key, specimen.atoms))


def scattering(specimen: Specimen, inner: float = 65.0) -> Gram:
    """Scattering matrix of a specimen over its annular detector (seconds).

    The grid's band limit lies a third beyond the detector: at the limit itself the brightness of a
    heavy atom would depend on where it lies between pixels (W: by 12 %; so: by 4 %).
    """
    extent = (float(specimen.atoms.cell[1]), float(specimen.atoms.cell[0]))
    limit = 4 / 3 * specimen.outer
    pixel = ANTIALIAS_CUTOFF * wavelength(specimen.energy) * 1e3 / (2 * limit)
    shape = tuple(scipy.fft.next_fast_len(int(np.ceil(length / pixel))) for length in extent)
    grid = Grid.over(extent, shape=shape)
    atoms = specimen.atoms
    still = tree.replace(atoms, sigma=np.zeros_like(atoms.sigma))
    shown = still if specimen.shown is None else specimen.shown
    potential = project(wrapped(shown), grid, specimen.slice_thickness)
    detector = Annular(inner, specimen.outer)
    matrix = gram(potential, specimen.energy, specimen.semiangle, [detector])
    return jax.tree.map(np.asarray, matrix)  # images are then made without compiling


def render(
    key: jax.Array,
    specimen: Specimen,
    matrix: Gram,
    part: Part,
    classes: Sequence[str],
    pixel: float,
) -> Scene:
    """One image of a specimen under the conditions of a part."""
    k_optics, k_scan, k_noise = jax.random.split(key, 3)
    seed = int(jax.random.randint(k_optics, (), 0, 2**31 - 1))
    rng = np.random.default_rng(seed)
    n = round(FIELD / pixel)
    optics = Optics(
        energy=specimen.energy,
        semiangle=specimen.semiangle * rng.uniform(0.9, 1.0),
        C10=rng.normal() * 20,
        C12=rng.normal() * 8,
        phi12=rng.uniform(0, np.pi),
        C21=rng.normal() * 200,
        phi21=rng.uniform(0, 2 * np.pi),
        C23=rng.normal() * 200,
        phi23=rng.uniform(0, 2 * np.pi),
        C30=rng.normal() * 5e3,
    )
    series = blurred(image_series(matrix, optics), rng.uniform(*part.source_size))
    jitter = rng.uniform(*part.jitter)
    scan = ScanDistortion(
        jitter=(jitter, 0.5 * jitter), correlation=rng.uniform(0, 0.8), gain=0.2 * jitter
    )
    shift, gain = (np.asarray(x, float) for x in scan.sample(k_scan, n))
    turn, origin = rng.uniform(0, 2 * np.pi), rng.uniform(0, 10, 2)
    c, s = np.cos(turn), np.sin(turn)
    matrix2 = np.array([[c, s], [-s, c]])  # rows: the scan's axes in the specimen
    image = read_raster(series, (n, n), pixel, origin=origin, rotation=turn, shift=shift @ matrix2)[
        0
    ]
    clean = np.maximum(np.asarray(image, float), 0)
    dose = rng.uniform(*part.dose)
    total = clean / clean.max() + rng.uniform(*part.background) * _unevenness(rng, n)
    rate = dose * total / total.max() * gain[:, None]
    noise = PoissonReadout(sigma=part.readout)
    clean = rate
    noisy = np.asarray(noise.sample(k_noise, np.maximum(rate, 0).astype(np.float32)))
    truth = _truth(specimen, classes, origin, matrix2, pixel, n, shift)
    detail = f"{specimen.defect}; {dose:.0f} e at the brightest pixel; {pixel:g} Å/px"
    return Scene(noisy.astype(np.float32), clean, pixel, truth, specimen.family, part.name, detail)


def _unevenness(rng: np.random.Generator, n: int) -> np.ndarray:
    """A ramp and a bump of contamination, 0 to 1."""
    y, x = np.meshgrid(*[np.linspace(-1, 1, n)] * 2, indexing="ij")
    a, b, cx, cy = rng.uniform(-1, 1, 4)
    field = 0.5 + 0.5 * (a * x + b * y) / 2
    field = field + np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / rng.uniform(0.1, 0.8))
    return field / field.max()


def _truth(
    specimen: Specimen,
    classes: Sequence[str],
    origin: np.ndarray,
    axes: np.ndarray,
    pixel: float,
    n: int,
    shift: np.ndarray,
) -> np.ndarray:
    found = columns(specimen.atoms, periodic=True, shown=specimen.shown)
    present = np.asarray(found.present)
    numbers = np.asarray(found.numbers)[present]
    symbols = [chemical_symbols[z] for z in numbers]
    kind = np.array([_class(s, specimen.named, classes) for s in symbols])
    xy = np.asarray(found.xy, float)[present]
    side = np.asarray(specimen.atoms.cell)[:2]
    reach = int(np.ceil((np.hypot(FIELD, FIELD) + 10) / side.min())) + 1
    steps = np.array(list(itertools.product(range(-reach, reach + 1), repeat=2)))
    every = (xy[None] + (steps * side)[:, None]).reshape(-1, 2)
    kind = np.tile(kind, len(steps))
    scan = (every - origin) @ axes.T
    near = (kind >= 0) & (scan > -1.5).all(1) & (scan < n * pixel + 1.5).all(1)
    seen = displaced(scan[near], shift, pixel)
    points = np.concatenate([seen / pixel, kind[near, None]], axis=1)
    inside = (points[:, :2] > -0.5).all(1) & (points[:, :2] < n - 0.5).all(1)
    return points[inside]


def _class(symbol: str, named: bool, classes: Sequence[str]) -> int:
    if symbol in UNLABELLED:
        return -1
    return list(classes).index(symbol if named else OTHER)


def nameable(specimen: Specimen, classes: Sequence[str]) -> bool:
    """Whether every column of a specimen has a class."""
    symbols = {chemical_symbols[z] for z in np.unique(specimen.atoms.numbers)} - set(UNLABELLED)
    return symbols <= set(classes) if specimen.named else OTHER in classes


def scenes(
    key: jax.Array,
    specimens: Sequence[Specimen],
    classes: Sequence[str],
    *,
    each: int,
    parts: Iterable[Part] = PARTS,
    progress: Callable[[int, int], None] | None = None,
) -> list[Scene]:
    """`each` images of every specimen for every part.

    Parameters
    ----------
    key : random key of positions, optics, distortions and noise.
    specimens : of `validation_specimens` or `test_specimens`.
    classes : names of the species, as for `synthetic.make_draw`.
    each : images for each specimen and part.
    parts : kinds of conditions.
    progress : called with (specimens done, specimens).
    """
    result = []
    for number, specimen in enumerate(specimens):
        specimen = frozen(jax.random.fold_in(key, number), specimen)
        matrix = scattering(specimen)
        for index, part in enumerate(parts):
            for image in range(each):
                one = jax.random.fold_in(jax.random.fold_in(key, number), 1000 * index + image)
                # pixel sizes alike in every family and part: methods may be tuned for them
                pixel = PIXELS[(2 * image + index) % len(PIXELS)]
                result.append(render(one, specimen, matrix, part, classes, pixel))
        if progress is not None:
            progress(number + 1, len(specimens))
    return result


def quick_specimens() -> list[Specimen]:
    """One small specimen, for tests."""
    carbon = substitute(_cell("graphene", (5, 3, 1)), (5.0, 5.0), "Si")
    return [_flat("graphene", "Si", carbon)]
