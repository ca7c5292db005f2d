"""abTEM and back: potentials, waves, images and diffraction patterns.

abTEM's arrays are [x, y] with its scan axes in front as [x, y] too; ours are [y, x] with scan axes
[y, x]. `_swapped` is the only place where the two orders meet. Spacings follow: abTEM's are (x, y),
those of a `Grid` (y, x). Diffraction patterns have their zero frequency in the centre there and in
the corner here. Lengths, energies and normalisations are the same in both.

abTEM (GPL, some 9 s to import) is imported by these functions only.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from simulators.backend import real_dtype
from simulators.grid import Grid
from simulators.potential import Potential


def _abtem() -> ModuleType:
    """The module, or what to do where there is none."""
    try:
        import abtem
    except ModuleNotFoundError as error:
        if error.name != "abtem":  # abTEM is there, one of its own dependencies is not
            raise
        raise ModuleNotFoundError(
            "exchange with abTEM needs abTEM, which is not installed: pip install abtem",
            name="abtem",
        ) from error
    return abtem


def _swapped(array: Any, scan: int | None = None) -> np.ndarray:
    """[..., a, b] to [..., b, a]; also axes `scan` and `scan + 1`, where a raster lies."""
    array = np.swapaxes(np.asarray(array), -1, -2)
    return np.ascontiguousarray(array if scan is None else np.swapaxes(array, scan, scan + 1))


def _scan_axis(axes: list) -> int | None:
    """Where abTEM's [x, y] raster begins among the axes in front, if there is one."""
    from abtem.core.axes import ScanAxis

    found = [i for i, axis in enumerate(axes) if isinstance(axis, ScanAxis)]
    return found[0] if len(found) == 2 and found[1] == found[0] + 1 else None


def _front_axes(array: Any, scan_sampling: Any) -> tuple[list, int | None]:
    """abTEM's description of the axes in front of [y, x], and where a raster begins."""
    from abtem.core.axes import ScanAxis, UnknownAxis

    count = np.ndim(array) - 2
    axes: list = [UnknownAxis() for _ in range(count)]
    if scan_sampling is None:
        return axes, None
    if count < 2:
        raise ValueError(
            f"scan_sampling describes two scan axes [y, x] in front of the last two, but the array "
            f"has shape {np.shape(array)}"
        )
    step_y, step_x = np.broadcast_to(np.asarray(scan_sampling, float), (2,))
    for i, label, step in ((count - 2, "x", step_x), (count - 1, "y", step_y)):
        axes[i] = ScanAxis(label=label, sampling=float(step), units="Å", endpoint=False)
    return axes, count - 2


def _in_memory(thing: Any, kind: str) -> Any:
    """The object with a NumPy array: computed where it is lazy, off the GPU where it is on one."""
    if not isinstance(thing, getattr(_abtem(), kind)):
        found = type(thing)
        raise TypeError(f"expected abTEM's {kind}, got {found.__module__}.{found.__name__}")
    return thing.compute(progress_bar=False).to_cpu() if thing.is_lazy else thing.to_cpu()


def _check_shape(array: Any, grid: Grid, what: str) -> None:
    if np.ndim(array) < 2 or tuple(np.shape(array)[-2:]) != grid.shape:
        raise ValueError(
            f"{what} of shape {np.shape(array)} do not lie on the grid of {grid.shape} pixels "
            "(y, x): their last two axes must be [y, x]"
        )


def potential_to_abtem(potential: Potential) -> Any:
    """`abtem.PotentialArray` of a potential (V Å in both)."""
    abtem = _abtem()
    _check_shape(potential.slices, potential.grid, "slices")
    return abtem.PotentialArray(
        _swapped(potential.slices),
        slice_thickness=tuple(float(t) for t in np.asarray(potential.thickness, float)),
        sampling=potential.grid.sampling[::-1],
    )


def potential_from_abtem(potential: Any, *, dtype: Any = None) -> Potential:
    """`Potential` of an `abtem.PotentialArray`, or of an `abtem.Potential`, which is built first.

    Parameters
    ----------
    potential : abtem.PotentialArray or anything that builds one
    dtype : optional
        float32 or float64; JAX's default otherwise. abTEM computes in float32 unless told
        ``abtem.config.set({"precision": "float64"})``.

    Raises
    ------
    ValueError
        An ensemble of frozen phonons: choose one configuration.
    """
    abtem = _abtem()
    if not isinstance(potential, abtem.PotentialArray):
        if not hasattr(potential, "build"):
            kind = type(potential)
            raise TypeError(f"expected a potential, got {kind.__module__}.{kind.__name__}")
        potential = potential.build(lazy=False)
    potential = _in_memory(potential, "PotentialArray")
    array = potential.array
    if any(n != 1 for n in array.shape[:-3]):
        raise ValueError(
            f"the potential is an ensemble of shape {array.shape[:-3]}: take one configuration, "
            "for instance potential.build()[0]"
        )
    slices = _swapped(array.reshape(array.shape[-3:]))
    dtype = real_dtype(dtype)
    grid = Grid(slices.shape[-2:], _sampling(potential))
    thickness = np.asarray(potential.slice_thickness, float)
    return Potential(jnp.asarray(slices, dtype), jnp.asarray(thickness, dtype), grid)


def _sampling(thing: Any) -> tuple[float, float]:
    """(y, x) spacing of an abTEM object."""
    dx, dy = thing.sampling
    return float(dy), float(dx)


def wave_to_abtem(wave: Any, grid: Grid, energy: float, *, scan_sampling: Any = None) -> Any:
    """`abtem.Waves` of wave functions.

    Parameters
    ----------
    wave : complex [..., ny, nx]
        Real space.
    grid : Grid
    energy : float
        eV.
    scan_sampling : float or (y, x), optional
        Å; the two axes before the last two are then a raster [y, x], as of `scan.raster`.

    Raises
    ------
    ValueError
        A wave that is not on the grid or not complex.
    """
    abtem = _abtem()
    _check_shape(wave, grid, "waves")
    if not np.iscomplexobj(wave):
        raise ValueError(f"a wave is complex, got {np.asarray(wave).dtype}")
    axes, scan = _front_axes(wave, scan_sampling)
    return abtem.Waves(
        _swapped(wave, scan),
        energy=float(energy),
        sampling=grid.sampling[::-1],
        ensemble_axes_metadata=axes,
    )


def wave_from_abtem(waves: Any) -> tuple[np.ndarray, Grid, float]:
    """Waves [..., ny, nx] in real space, their grid and their energy [eV].

    A raster of probes [x, y] becomes [y, x]. The beam tilt that abTEM keeps in the metadata is no
    part of a wave: give it as `Optics.tilt`.
    """
    waves = _in_memory(waves, "Waves").ensure_real_space()
    if waves.energy is None:
        raise ValueError("the waves have no energy: set waves.energy [eV] first")
    wave = _swapped(waves.array, _scan_axis(waves.ensemble_axes_metadata))
    return wave, Grid(wave.shape[-2:], _sampling(waves)), float(waves.energy)


def image_to_abtem(image: Any, grid: Grid, *, metadata: dict | None = None) -> Any:
    """`abtem.Images` of images [..., ny, nx] whose pixels are the grid's."""
    abtem = _abtem()
    _check_shape(image, grid, "images")
    axes, _ = _front_axes(image, None)
    return abtem.Images(
        _swapped(image),
        sampling=(grid.sampling[1], grid.sampling[0]),
        ensemble_axes_metadata=axes,
        metadata=metadata,
    )


def image_from_abtem(images: Any) -> tuple[np.ndarray, Grid]:
    """Images [..., ny, nx] (HRTEM, or a STEM scan) and the grid of their pixels."""
    images = _in_memory(images, "Images")
    image = _swapped(images.array, _scan_axis(images.ensemble_axes_metadata))
    return image, Grid(image.shape[-2:], _sampling(images))


def patterns_to_abtem(
    patterns: Any, grid: Grid, energy: float, *, scan_sampling: Any = None
) -> Any:
    """`abtem.DiffractionPatterns` of patterns in FFT order.

    Parameters
    ----------
    patterns : [..., ny, nx]
        As of `cbed`: zero frequency in the corner.
    grid : Grid
        Of the waves; the patterns' pixels are 1 / extent apart.
    energy : float
        eV, by which abTEM turns frequencies into angles.
    scan_sampling : float or (y, x), optional
        Å; the two axes before the last two are then a raster [y, x] (4D-STEM).
    """
    abtem = _abtem()
    _check_shape(patterns, grid, "patterns")
    axes, scan = _front_axes(patterns, scan_sampling)
    ly, lx = grid.extent
    return abtem.DiffractionPatterns(
        np.fft.fftshift(_swapped(patterns, scan), axes=(-2, -1)),
        sampling=(1 / lx, 1 / ly),
        fftshift=True,
        ensemble_axes_metadata=axes,
        metadata={"energy": float(energy)},
    )


def patterns_from_abtem(patterns: Any) -> tuple[np.ndarray, Grid, float | None]:
    """Patterns [..., ny, nx] in FFT order, their grid, and the energy [eV] where abTEM knows it.

    The grid is the one whose transform has these pixels: that of the waves for full patterns,
    a coarser one of the same extent for patterns that abTEM has cropped (`max_angle`).
    """
    patterns = _in_memory(patterns, "DiffractionPatterns")
    made = _swapped(patterns.array, _scan_axis(patterns.ensemble_axes_metadata))
    if patterns.fftshift:
        made = np.fft.ifftshift(made, axes=(-2, -1))
    steps = _sampling(patterns)
    grid = Grid.over((1 / steps[0], 1 / steps[1]), shape=made.shape[-2:])
    energy = patterns.metadata.get("energy")
    return made, grid, None if energy is None else float(energy)
