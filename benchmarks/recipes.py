"""One recipe of a reference file -> our simulators' array, in the file's own layout.

A recipe says everything that makes an output; nothing here knows a file by name. Reference arrays
are [x, y], ours [y, x]: the exchange happens in `_xy` alone.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from simulators.atoms import make_atoms
from simulators.ctf import ctf
from simulators.detectors import (
    Annular,
    CentreOfMass,
    Flexible,
    Segmented,
    crop_pattern,
    crop_shape,
    split,
)
from simulators.electron import KAPPA, interaction_constant, mass_correction, wavelength
from simulators.grid import Grid
from simulators.hrtem import hrtem
from simulators.imaging import cbed, diffraction, stem
from simulators.measurements import com_from_moments, integrate_gradient
from simulators.multislice import fresnel_propagator, multislice
from simulators.optics import Optics, plane_wave, probe
from simulators.positions import scan_step
from simulators.potential import PROJECTIONS, Potential, project
from simulators.scattering import (
    projected_scattering_factor,
    radial_potential,
    radial_projected_potential,
    scattering_factor,
)
from simulators.smatrix import SMatrix, build_smatrix, smatrix_cbed, smatrix_stem
from simulators.tree import replace


class NotSupported(Exception):
    """A recipe that the simulators cannot follow yet; the message says what is missing."""


def produce(recipe: dict, name: str, data: dict, meta: dict, precision: str) -> np.ndarray:
    """The array of one output.

    Parameters
    ----------
    recipe : dict
        `meta["recipes"][name]`.
    data : dict of arrays
        The npz file's arrays.
    precision : {"float32", "float64"}

    Raises
    ------
    NotSupported
        The recipe asks for what is not there yet.
    """
    kind = recipe["kind"]
    if kind not in MAKERS:
        raise NotSupported(f"kind {kind}")
    if kind == "constant":
        return _constant(recipe, data, precision)
    configs = data.get("positions_configs")
    runs = [data.get("positions")] if configs is None else list(configs)
    result = [MAKERS[kind](recipe, data, meta, positions, precision) for positions in runs]
    if configs is None:
        made = result[0]
    else:
        made = np.stack(result) if recipe.get("configs") == "each" else np.mean(result, axis=0)
    extra = made.ndim - data[name].ndim
    return made.reshape(made.shape[extra:]) if made.shape[:extra] == (1,) * extra else made


def _xy(array: Any) -> np.ndarray:
    """[..., y, x] to the reference's [..., x, y]."""
    return np.swapaxes(np.asarray(array), -1, -2)


def _grid(recipe: dict, data: dict, meta: dict) -> Grid:
    nx, ny = recipe.get("gpts", meta.get("gpts"))
    extent = recipe.get("extent", meta.get("extent"))
    if extent is None:
        sampling = recipe.get("sampling", meta.get("sampling"))
        extent = data["cell"][:2] if "cell" in data else (nx * sampling[0], ny * sampling[1])
    return Grid.over((float(extent[1]), float(extent[0])), shape=(ny, nx))


def _optics(recipe: dict) -> Optics:
    return Optics(
        energy=float(recipe["energy"]),
        semiangle=recipe.get("semiangle"),
        tilt=tuple(float(t) for t in recipe.get("tilt", (0.0, 0.0))),
        aperture=recipe.get("aperture") or "soft",
        **{name: float(value) for name, value in recipe.get("aberrations", {}).items()},
    )


def _positions(recipe: dict, data: dict) -> np.ndarray:
    which = recipe.get("positions", "scan_positions")
    if isinstance(which, str):
        return np.asarray(data[which.split()[-1]], float)  # "mean of NAME" names an array too
    return np.asarray(data["scan_positions"], float).reshape(-1, 2)[list(which)]


def _potential(recipe: dict, data: dict, meta: dict, positions: Any, precision: str) -> Potential:
    projection = recipe.get("projection", "infinite")
    if projection not in PROJECTIONS:
        raise NotSupported(f"{projection} projection")
    thickness = meta[recipe.get("slice_thickness", "slice_thickness")]
    atoms = make_atoms(positions, data["numbers"], data["cell"])
    return project(
        atoms,
        _grid(recipe, data, meta),
        thickness,
        mode="abtem",
        projection=projection,
        parametrization=recipe.get("parametrization", "lobato"),
        dtype=precision,
    )


def _engine(recipe: dict) -> None:
    if recipe.get("engine", "multislice") != "multislice":
        raise NotSupported(f"engine {recipe['engine']}")


def _make_potential(recipe, data, meta, positions, precision) -> np.ndarray:
    return _xy(_potential(recipe, data, meta, positions, precision).slices)


def _make_probe(recipe, data, meta, positions, precision) -> np.ndarray:
    where = _positions(recipe, data)
    grid = _grid(recipe, data, meta)
    return _xy(probe(_optics(recipe), grid, where, dtype=precision, validate=False))


def _wave(recipe, data, meta, positions, precision) -> Any:
    _engine(recipe)
    potential, optics = _potential(recipe, data, meta, positions, precision), _optics(recipe)
    if recipe["illumination"].startswith("plane"):
        wave = plane_wave(potential.grid, dtype=precision)
    else:
        where = _positions(recipe, data)
        wave = probe(optics, potential.grid, where, dtype=precision, validate=False)
    planes = recipe.get("planes")
    planes = None if planes is None else tuple(planes)
    return multislice(wave, potential, optics.energy, tilt=optics.tilt, planes=planes)


def _make_exit_wave(recipe, data, meta, positions, precision) -> np.ndarray:
    return _xy(_wave(recipe, data, meta, positions, precision))


def _cropped(patterns: Any, recipe: dict, grid: Grid) -> np.ndarray:
    shape = crop_shape(grid, recipe["energy"], recipe.get("crop", "valid"))
    return _xy(crop_pattern(np.fft.fftshift(np.asarray(patterns), axes=(-2, -1)), shape))


def _make_diffraction(recipe, data, meta, positions, precision) -> np.ndarray:
    wave = _wave(recipe, data, meta, positions, precision)
    norm = wave.shape[-1] * wave.shape[-2] if recipe["illumination"].startswith("plane") else 1
    return _cropped(diffraction(wave / norm), recipe, _grid(recipe, data, meta))


def _smatrix(recipe: dict, potential: Potential) -> SMatrix:
    optics, (fx, fy) = _optics(recipe), recipe["interpolation"]
    return build_smatrix(
        potential, optics.energy, optics.semiangle, interpolation=(fy, fx), tilt=optics.tilt
    )


def _make_cbed(recipe, data, meta, positions, precision) -> np.ndarray:
    potential = _potential(recipe, data, meta, positions, precision)
    where, optics = _positions(recipe, data).reshape(-1, 2), _optics(recipe)
    grid = potential.grid
    if recipe.get("engine") == "prism":
        matrix = _smatrix(recipe, potential)
        grid = matrix.window
        patterns = np.asarray(smatrix_cbed(matrix, optics, where, validate=False))
    else:
        _engine(recipe)
        options = {"method": "multislice", "validate": False}
        patterns = np.asarray(cbed(potential, optics, where, **options))
    if str(recipe.get("positions", "")).startswith("mean"):
        patterns = patterns.mean(axis=0)
    return _cropped(patterns, recipe, grid)


def _detector(recipe: dict) -> Any:
    """The detector of a recipe."""
    said = recipe["detector"]
    kind = said["type"]
    if kind == "annular":
        outer = said.get("outer")
        offset = tuple(float(v) for v in said.get("offset", (0.0, 0.0)))
        return Annular(float(said["inner"]), None if outer is None else float(outer), offset)
    if kind == "segmented":
        return Segmented(
            float(said["inner"]),
            float(said["outer"]),
            radial=int(said["nbins_radial"]),
            azimuthal=int(said["nbins_azimuthal"]),
            rotation=float(said.get("rotation", 0.0)),
            offset=tuple(float(v) for v in said.get("offset", (0.0, 0.0))),
        )
    if kind == "flexible":  # an outer angle in words is the default: below the cutoff angle
        outer = said.get("outer")
        outer = float(outer) if isinstance(outer, (int, float)) else None
        return Flexible(float(said["step_size"]), float(said.get("inner", 0.0)), outer)
    if kind in ("com", "icom"):
        return CentreOfMass(said.get("crop", "valid"))
    raise NotSupported(f"detector {kind}")


def _make_stem(recipe, data, meta, positions, precision) -> np.ndarray:
    detector = _detector(recipe)
    potential = _potential(recipe, data, meta, positions, precision)
    where = _positions(recipe, data)
    optics = _optics(recipe)
    if recipe.get("engine") == "prism":
        signal = smatrix_stem(
            _smatrix(recipe, potential), optics, where, [detector], validate=False
        )
    else:  # the multislice itself, not the scattering matrix that `stem` would take for many probes
        _engine(recipe)
        options = {"method": "multislice", "validate": False}
        signal = stem(potential, optics, where, [detector], **options)
    return _laid_out(split(signal, [detector])[0], recipe["detector"], where)


def _laid_out(signal: Any, said: dict, where: np.ndarray) -> np.ndarray:
    """A detector's part [...] or [channels, ...] as the reference lays it out."""
    signal = np.asarray(signal)
    kind = said["type"]
    if kind == "segmented":
        shape = int(said["nbins_radial"]), int(said["nbins_azimuthal"])
        return np.moveaxis(signal, 0, -1).reshape(*signal.shape[1:], *shape)
    if kind == "flexible":
        return np.moveaxis(signal, 0, -1)[..., None]
    if kind not in ("com", "icom"):
        return signal
    com = com_from_moments(signal)
    if kind == "com":
        return com[..., 0] + 1j * com[..., 1]
    # the scan is [x, y] like everything in the file
    step = scan_step(np.swapaxes(where, 0, 1))
    return integrate_gradient(np.swapaxes(com, 0, 1), step).T


def _imaging(recipe: dict) -> Optics:
    """The lens of an image: aberrations and coherence stand apart from the illumination."""
    lens = recipe["ctf"]
    named = ("semiangle", "aperture", "aberrations")
    optics = _optics({**recipe, **{name: lens.get(name) for name in named if lens.get(name)}})
    return replace(
        optics,
        semiangle=lens.get("semiangle"),
        focal_spread=lens.get("focal_spread", 0.0),
        angular_spread=lens.get("angular_spread", 0.0),
    )


def _make_ctf(recipe, data, meta, positions, precision) -> np.ndarray:
    return _xy(_at(ctf(_imaging(recipe), _grid(recipe, data, meta)), precision))


def _make_hrtem(recipe, data, meta, positions, precision) -> np.ndarray:
    _engine(recipe)
    potential = _potential(recipe, data, meta, positions, precision)
    planes = recipe.get("planes")
    planes = None if planes is None else tuple(planes)
    return _xy(hrtem(potential, _imaging(recipe), planes=planes))


def _constant(recipe: dict, data: dict, precision: str) -> np.ndarray:
    quantity = recipe["quantity"]
    if "gpts" in recipe:
        (nx, ny), (dx, dy) = recipe["gpts"], recipe["sampling"]
        grid = Grid((ny, nx), (dy, dx))
        if "propagator" in quantity:
            made = fresnel_propagator(grid, recipe["thickness"], recipe["energy"])
        elif "mask" in quantity:
            made = grid.antialias_mask()
        else:
            raise NotSupported(quantity)
        return _xy(_at(made, precision))
    if "elements" in recipe:
        symbol, argument = quantity.split(" [")[0], data[recipe["argument"].split(" [")[0]]
        if symbol not in FUNCTIONS:
            raise NotSupported(quantity)
        table = recipe["parametrization"]
        rows = [FUNCTIONS[symbol](int(z), argument, table) for z in data[recipe["elements"]]]
        return np.asarray(_at(np.stack(rows), precision))
    functions = {
        "wavelength": wavelength,
        "sigma": interaction_constant,
        "mass_correction": mass_correction,
    }
    symbol = quantity.split(" [")[0]
    if symbol == "kappa":
        return np.asarray(_at(np.asarray(KAPPA), precision))
    if symbol not in functions:
        raise NotSupported(quantity)
    return np.asarray(_at(functions[symbol](data["energy"]), precision))


def _at(array: np.ndarray, precision: str) -> Any:
    """The array as JAX holds it at this precision."""
    kind = np.dtype(precision)
    if np.iscomplexobj(array):
        kind = np.dtype(f"c{2 * kind.itemsize}")
    return jnp.asarray(array, kind)


FUNCTIONS = {
    "f_e(k2)": scattering_factor,
    "f_e(k2)/kappa": projected_scattering_factor,
    "V(r)": radial_potential,
    "integral of V over z at radius r": radial_projected_potential,
}
MAKERS = {
    "constant": _constant,
    "potential": _make_potential,
    "probe": _make_probe,
    "exit_wave": _make_exit_wave,
    "diffraction": _make_diffraction,
    "cbed": _make_cbed,
    "stem": _make_stem,
    "ctf": _make_ctf,
    "hrtem": _make_hrtem,
}
