"""One recipe of a reference file -> our simulators' array, in the file's own layout.

A recipe says everything that makes an output; nothing here knows a file by name. Reference arrays
are [x, y], ours [y, x]: the exchange happens in `_xy` alone.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from simulators.atoms import make_atoms
from simulators.detectors import Annular, crop_pattern, crop_shape
from simulators.electron import KAPPA, interaction_constant, mass_correction, wavelength
from simulators.grid import Grid
from simulators.imaging import cbed, diffraction, stem
from simulators.multislice import fresnel_propagator, multislice
from simulators.optics import Optics, plane_wave, probe
from simulators.potential import Potential, project
from simulators.scattering import projected_scattering_factor, scattering_factor


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
    if recipe.get("projection", "infinite") != "infinite":
        raise NotSupported(f"{recipe['projection']} projection")
    thickness = meta[recipe.get("slice_thickness", "slice_thickness")]
    atoms = make_atoms(positions, data["numbers"], data["cell"])
    return project(
        atoms,
        _grid(recipe, data, meta),
        thickness,
        mode="abtem",
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


def _make_cbed(recipe, data, meta, positions, precision) -> np.ndarray:
    _engine(recipe)
    potential = _potential(recipe, data, meta, positions, precision)
    where = _positions(recipe, data).reshape(-1, 2)
    patterns = np.asarray(cbed(potential, _optics(recipe), where, validate=False))
    if str(recipe.get("positions", "")).startswith("mean"):
        patterns = patterns.mean(axis=0)
    return _cropped(patterns, recipe, potential.grid)


def _make_stem(recipe, data, meta, positions, precision) -> np.ndarray:
    _engine(recipe)
    detector = recipe["detector"]
    if detector["type"] != "annular":
        raise NotSupported(f"detector {detector['type']}")
    ring = Annular(
        float(detector["inner"]),
        None if detector.get("outer") is None else float(detector["outer"]),
        tuple(float(v) for v in detector.get("offset", (0.0, 0.0))),
    )
    potential = _potential(recipe, data, meta, positions, precision)
    where = _positions(recipe, data)
    return np.asarray(stem(potential, _optics(recipe), where, [ring], validate=False)[0])


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
        factor = {"f_e(k2)": scattering_factor, "f_e(k2)/kappa": projected_scattering_factor}
        symbol = quantity.split(" [")[0]
        if symbol not in factor:
            raise NotSupported(quantity)
        table = recipe["parametrization"]
        rows = [factor[symbol](int(z), data["k2"], table) for z in data[recipe["elements"]]]
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


MAKERS = {
    "constant": _constant,
    "potential": _make_potential,
    "probe": _make_probe,
    "exit_wave": _make_exit_wave,
    "diffraction": _make_diffraction,
    "cbed": _make_cbed,
    "stem": _make_stem,
}
