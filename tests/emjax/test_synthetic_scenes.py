"""Held-out scenes: the truth is where the image shows it, and every defect is really there."""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import replace

import jax
import numpy as np
import pytest
from ase.data import chemical_symbols
from scipy.ndimage import maximum_filter

from emjax.data import synthetic_scenes as held_out
from simulators import tree
from simulators.atoms import check_coincident, pad
from simulators.specimens import MATERIALS, columns, supercell

CLASSES = ("C", "Si", "S", "Se", "Mo", "W", "Ti", "Sr", "other")
EASY, MIDDLE, HARD = held_out.PARTS
STILL = held_out.Part("still", (1e6, 1e6), (0.0, 0.0), (0.0, 0.0), 0.0, (0.5, 0.5))
PIXEL = 0.2
SPECIMENS = [*held_out.validation_specimens(), *held_out.test_specimens()]
NAMES = [f"{i}: {s.family}, {s.defect}" for i, s in enumerate(SPECIMENS)]


@pytest.fixture(scope="module")
def specimen():
    """Without thermal motion: what is left is exact."""
    quick = held_out.quick_specimens()[0]
    return replace(quick, atoms=tree.replace(quick.atoms, sigma=np.zeros(quick.atoms.n)))


@pytest.fixture(scope="module")
def matrix(specimen):
    return held_out.scattering(specimen)


@pytest.fixture(scope="module")
def render(specimen, matrix):
    """A scene of the quick specimen, or of another one's labels under its image."""
    known = {}

    def one(seed=0, part=EASY, **changes):
        if (seed, part) not in known or changes:
            changed = replace(specimen, **changes)
            scene = held_out.render(jax.random.key(seed), changed, matrix, part, CLASSES, PIXEL)
            if changes:
                return scene
            known[seed, part] = scene
        return known[seed, part]

    return one


def maxima(image: np.ndarray) -> np.ndarray:
    """Maxima (x, y) in pixels, by a parabola through three pixels each way."""
    peak = image == maximum_filter(image, 3)
    peak[[0, -1]] = peak[:, [0, -1]] = False
    found = []
    for y, x in np.argwhere(peak):
        lines = image[y, x - 1 : x + 2], image[y - 1 : y + 2, x]
        steps = [0.5 * (a - c) / (a - 2 * b + c) for a, b, c in lines]
        found.append([x + steps[0], y + steps[1]])
    return np.array(found)


def gaps(scene) -> np.ndarray:
    """From every true column, but those at the border, to the nearest maximum [n, 2], in Å."""
    inner = ((scene.truth[:, :2] > 2) & (scene.truth[:, :2] < len(scene.clean) - 3)).all(1)
    gap = maxima(scene.clean)[None] - scene.truth[inner, None, :2]
    nearest = np.hypot(*gap.transpose(2, 0, 1)).argmin(1)
    return gap[np.arange(len(nearest)), nearest] * PIXEL


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("part", [STILL, EASY], ids=lambda p: p.name)
def test_the_truth_is_where_the_clean_image_has_its_maxima(render, seed, part):
    scene = render(seed, part)
    n = round(held_out.FIELD / PIXEL)
    assert scene.image.shape == scene.clean.shape == (n, n)
    assert scene.image.dtype == np.float32
    assert np.isfinite(scene.image).all()
    assert scene.truth.shape[0] > 80, "0.38 atoms per Å² on 256 Å²"
    assert (scene.truth[:, :2] > -0.5).all()
    assert (scene.truth[:, :2] < n - 0.5).all()
    off = gaps(scene)
    common = np.median(off, axis=0)
    spread = np.quantile(np.hypot(*(off - common).T), [0.5, 0.9])
    print(f"{part.name} {seed}: coma shifts all by {common} Å, spread {spread} Å")
    assert np.hypot(*common) < 0.15
    assert spread[0] < 0.03
    assert spread[1] < 0.1


def test_thermal_motion_leaves_the_truth_within_0_3():
    vibrating = held_out.quick_specimens()[0]
    matrix = held_out.scattering(vibrating)
    scene = held_out.render(jax.random.key(0), vibrating, matrix, EASY, CLASSES, PIXEL)
    off = np.hypot(*gaps(scene).T)
    print(f"with vibrations: median {np.median(off):.3f} Å")
    assert np.median(off) < 0.15
    assert np.quantile(off, 0.9) < 0.3


def test_the_silicon_atom_is_named_and_bright(render):
    for seed in range(3):
        scene = render(seed, STILL)
        x, y, kind = np.rint(scene.truth).astype(int).T
        inside = (np.minimum(x, y) >= 0) & (np.maximum(x, y) < len(scene.clean))
        height = scene.clean[y[inside], x[inside]]
        silicon = kind[inside] == CLASSES.index("Si")
        assert set(kind.tolist()) <= {CLASSES.index("C"), CLASSES.index("Si")}
        if silicon.any():
            assert height[silicon].min() > 2 * np.median(height[~silicon])


def test_columns_of_an_unnamed_crystal_are_other(render):
    named, unnamed = render(), render(named=False)
    np.testing.assert_array_equal(unnamed.truth[:, :2], named.truth[:, :2])
    assert set(unnamed.truth[:, 2]) == {CLASSES.index("other")}
    np.testing.assert_array_equal(unnamed.image, named.image)


def test_columns_of_oxygen_are_not_asked_for(render):
    crystal = supercell(MATERIALS["srtio3"].lattice, (3, 3, 2))
    scene = render(atoms=crystal)  # the labels need no image
    kinds = Counter(CLASSES[int(k)] for k in scene.truth[:, 2])
    assert set(kinds) == {"Sr", "Ti"}
    per_kind = held_out.FIELD**2 / 3.905**2
    assert all(abs(count - per_kind) < 5 for count in kinds.values())


def test_a_pristine_crystal_repeats_through_the_whole_field(render):
    """The truth covers the field, whatever the size of the cell, the rotation and the origin."""
    for seed in range(4):
        truth = render(seed, STILL).truth[:, :2] * PIXEL
        cells = np.histogram2d(*truth.T, bins=4, range=[[0, 16], [0, 16]])[0]
        assert cells.min() >= 3, "of 6 on average in 4 × 4 Å"


def dose_of(scene) -> float:
    return float(re.search(r"; (\d+) e at the brightest pixel; ", scene.detail)[1])


def test_the_dose_is_that_of_the_brightest_pixel(render):
    scene = render(part=STILL)
    assert dose_of(scene) == 1e6
    rate = 1e6 * scene.clean / scene.clean.max()
    assert scene.image.max() == pytest.approx(1e6, rel=0.01)
    z2 = np.square(scene.image - rate) / rate
    assert z2.mean() == pytest.approx(1, abs=4 * np.sqrt(2 / z2.size)), "Poisson, nothing else"


@pytest.mark.parametrize("part", held_out.PARTS, ids=lambda p: p.name)
def test_conditions_are_those_of_the_part(render, part):
    scenes = [render(seed, part) for seed in range(3)]
    for scene in scenes:
        low, high = part.dose
        dose = dose_of(scene)
        assert low - 0.5 <= dose <= high + 0.5
        # the largest of 6400 noisy pixels lies some standard deviations above the largest rate
        spread = np.sqrt(dose + part.readout**2)
        assert dose - spread < scene.image.max() < 1.2 * dose + 5 * spread
        assert scene.name == f"graphene, {part.name}"
        assert scene.part == part.name
        assert scene.detail.startswith("Si; ")
        assert f"{PIXEL:g} Å/px" in scene.detail
    assert len({s.image.tobytes() for s in scenes}) == 3


def test_the_key_decides(specimen, matrix, render):
    again = held_out.render(jax.random.key(0), specimen, matrix, EASY, CLASSES, PIXEL)
    np.testing.assert_array_equal(again.image, render().image)
    np.testing.assert_array_equal(again.truth, render().truth)
    assert not np.array_equal(again.image, render(1).image)


def test_scenes_of_all_conditions(specimen):
    calls = []
    made = held_out.scenes(
        jax.random.key(7),
        [specimen],
        CLASSES,
        each=1,
        parts=(MIDDLE, HARD),
        progress=lambda *of: calls.append(of),
    )
    assert calls == [(1, 1)]
    assert [s.part for s in made] == ["20 electrons", "hard"]
    assert [s.sampling for s in made] == list(held_out.PIXELS[:2]), "pixel sizes in turn"
    for scene in made:
        assert scene.image.shape == (round(held_out.FIELD / scene.sampling),) * 2


@functools.cache
def _columns(size: int):
    return jax.jit(functools.partial(columns, periodic=True))


def seen(atoms) -> tuple[Counter, np.ndarray]:
    """Columns by their heaviest element; how many atoms each has, for the elements in turn."""
    found = _columns(900)(pad(atoms, 900))
    present = np.asarray(found.present)
    numbers, count = np.asarray(found.numbers)[present], np.asarray(found.atoms)[present]
    return Counter(chemical_symbols[z] for z in numbers), np.stack([numbers, count], axis=1)


def elements(atoms) -> Counter:
    return Counter(chemical_symbols[z] for z in atoms.numbers[np.asarray(atoms.occupancy) > 0])


# defect: (material, atoms more or fewer than in the perfect crystal, columns likewise)
DEFECTS = {
    "Si, vacancy": ("graphene", {"C": -3, "Si": 2}, {"C": -3, "Si": 2}),
    "W, vacancies": ("mos2", {"Mo": -1, "W": 1, "S": -2}, {"Mo": -1, "W": 1, "S": -1}),
    "Se vacancy, S pair": ("wse2", {"Se": -3, "S": 2}, {"Se": -1, "S": 1}),
    "Mo, S vacancy": ("ws2", {"W": -1, "Mo": 1, "S": -1}, {"W": -1, "Mo": 1}),
    "Stone–Wales, vacancy": ("graphene", {"C": -1}, {"C": -1}),
    "Si pair, tetravacancy": ("graphene", {"C": -6, "Si": 2}, {"C": -6, "Si": 2}),
    "tetravacancy": ("graphene", {"C": -4}, {"C": -4}),
    "line of vacancies": ("mos2", {"S": -8}, {"S": -4}),
    "antisite": ("ws2", {"S": -2, "W": 2}, {"S": -1, "W": 1}),
    "S alloyed, W divacancy": ("wse2", {"Se": -6, "S": 6, "W": -2}, {"Se": -3, "S": 3, "W": -2}),
    "antisite column": ("srtio3", {"Ti": -10, "Sr": 10}, {"Ti": -1, "Sr": 1}),
    "half a Sr column missing": ("srtio3", {"Sr": -5}, {}),
    "Ti missing": ("rutile001", {"Ti": -4}, {}),
}
PERFECT = {"SrTiO3": "srtio3", "Si [110]": "silicon110", "rutile": "rutile001"}


@pytest.mark.parametrize("index", range(len(SPECIMENS)), ids=NAMES)
def test_every_specimen_has_the_defects_that_it_is_named_for(index):
    specimen = SPECIMENS[index]
    atoms = specimen.atoms
    check_coincident(atoms)
    if specimen.defect == "none":
        material, change, change_columns = PERFECT[specimen.family], {}, {}
    else:
        material, change, change_columns = DEFECTS[specimen.defect]
    lattice = MATERIALS[material].lattice
    period = np.array([*np.diag(lattice.cell), lattice.height])
    repeats = np.rint(atoms.cell / period).astype(int)
    np.testing.assert_allclose(repeats * period, atoms.cell, rtol=1e-9)
    perfect = supercell(lattice, tuple(repeats.tolist()))
    difference = elements(atoms)
    difference.subtract(elements(perfect))
    assert {k: v for k, v in difference.items() if v} == change
    here, there = seen(atoms)[0], seen(perfect)[0]
    here.subtract(there)
    assert {k: v for k, v in here.items() if v} == change_columns
    assert min(atoms.cell[:2]) > (10 if specimen.defect == "none" else 11), (
        "defects keep away from their own images"
    )


@pytest.mark.parametrize(
    ("defect", "element", "left", "of"),
    [
        ("half a Sr column missing", 38, 5, 10),
        ("Ti missing", 22, 5, 9),
        ("Se vacancy, S pair", 34, 1, 2),
    ],
)
def test_what_is_missing_is_missing_from_one_column(defect, element, left, of):
    (specimen,) = (s for s in SPECIMENS if s.defect == defect)
    kinds = seen(specimen.atoms)[1]
    count = kinds[kinds[:, 0] == element, 1]
    assert (count == left).sum() == 1
    assert (count == of).sum() == len(count) - 1


def test_a_turned_bond_leaves_its_atoms_but_not_their_neighbours():
    """Stone–Wales: as many atoms at other places, none closer than a bond."""
    (specimen,) = (s for s in SPECIMENS if s.defect.startswith("Stone"))
    perfect = supercell(MATERIALS["graphene"].lattice, (8, 5, 1))
    there = np.asarray(specimen.atoms.occupancy) > 0
    moved = np.abs(specimen.atoms.positions - perfect.positions).max(1) > 1e-6
    assert moved.sum() == 2
    assert there[moved].all()
    xy = specimen.atoms.positions[there, :2]
    gap = xy[None] - xy[:, None]
    gap -= specimen.atoms.cell[:2] * np.round(gap / specimen.atoms.cell[:2])
    distance = np.hypot(*gap.transpose(2, 0, 1)) + 10 * np.eye(len(xy))
    assert distance.min() > 1.0


def test_specimens_are_told_apart():
    names = [(s.family, s.defect) for s in SPECIMENS if s.defect != "none"]
    assert len(set(names)) == len(names)
    validation = {s.defect for s in held_out.validation_specimens()} - {"none"}
    tested = {s.defect for s in held_out.test_specimens()} - {"none"}
    assert not validation & tested, "judged on other defects than those of the validation"
    assert {s.family for s in held_out.test_specimens()} == {
        s.family for s in held_out.validation_specimens()
    }, "the classical detector is tuned for every family that it is judged on"
