"""abTEM and back: potentials, waves, images and diffraction patterns.

abTEM's arrays are [x, y] with its scan axes in front as [x, y] too; ours are [y, x] with scan axes
[y, x]. `_swapped` is the only place where the two orders meet. Spacings follow: abTEM's are (x, y),
those of a `Grid` (y, x). Diffraction patterns have their zero frequency in the centre there and in
the corner here (but in the centre of our `Patterns` too). Lengths, energies and normalisations are
the same in both. What the axes in front of [y, x] are, `ensemble_axes` reads and `axes=` writes.

abTEM (GPL, some 9 s to import) is imported by these functions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from simulators.backend import real_dtype
from simulators.grid import Grid
from simulators.interop_axes import EnsembleAxis, front_axes, our_axis, scan_axis
from simulators.patterns import Patterns
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


def _their_axes() -> ModuleType:
    from abtem.core import axes

    return axes


def _swapped(array: Any, scan: int | None = None) -> np.ndarray:
    """[..., a, b] to [..., b, a]; also axes `scan` and `scan + 1`, where a raster lies."""
    array = np.swapaxes(np.asarray(array), -1, -2)
    return np.ascontiguousarray(array if scan is None else np.swapaxes(array, scan, scan + 1))


def ensemble_axes(thing: Any) -> tuple[EnsembleAxis, ...]:
    """What the axes in front are, of any array object of abTEM, in our order: scans as y, x.

    >>> ensemble_axes(waves)                                             # doctest: +SKIP
    (EnsembleAxis(kind='thickness', label='thickness', values=array([ 0., 10.]), units='Å', ...),)
    """
    axes, sizes = list(thing.ensemble_axes_metadata), list(thing.ensemble_shape)
    scan = scan_axis(axes)
    if scan is not None:
        for both in (axes, sizes):
            both[scan : scan + 2] = both[scan : scan + 2][::-1]
    return tuple(our_axis(axis, n) for axis, n in zip(axes, sizes, strict=True))


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
    """`abtem.PotentialArray` of a potential (V Å in both).

    A potential with `oversample` > 1 becomes one on its finer grid: abTEM then computes its waves
    there too.

    Raises
    ------
    ValueError
        Slices of another shape, or complex ones (abTEM has no absorption).
    """
    abtem = _abtem()
    if np.iscomplexobj(potential.slices):
        raise ValueError("abTEM's potentials are real: pass the real part, without the absorption")
    finer = potential.oversample
    grid = Grid(
        (potential.grid.shape[0] * finer, potential.grid.shape[1] * finer),
        (potential.grid.sampling[0] / finer, potential.grid.sampling[1] / finer),
    )
    _check_shape(potential.slices, grid, "slices")
    return abtem.PotentialArray(
        _swapped(potential.slices),
        slice_thickness=tuple(float(t) for t in np.asarray(potential.thickness, float)),
        sampling=grid.sampling[::-1],
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
    return Potential(jnp.asarray(slices, dtype), jnp.asarray(thickness, dtype), grid, oversample=1)


def _sampling(thing: Any) -> tuple[float, float]:
    """(y, x) spacing of an abTEM object."""
    dx, dy = thing.sampling
    return float(dy), float(dx)


def wave_to_abtem(
    wave: Any,
    grid: Grid,
    energy: float,
    *,
    axes: Sequence[EnsembleAxis] | None = None,
    scan_sampling: Any = None,
    scan_origin: tuple[float, float] = (0.0, 0.0),
    metadata: dict | None = None,
) -> Any:
    """`abtem.Waves` of wave functions.

    Parameters
    ----------
    wave : complex [..., ny, nx]
        Real space.
    grid : Grid
    energy : float
        eV.
    axes : sequence of EnsembleAxis, optional
        What the axes in front are, as `ensemble_axes` gives them.
    scan_sampling : float or (y, x), optional
        Å, instead of `axes`; the two axes before the last two are then a raster [y, x].
    scan_origin : (x, y)
        Its first position in Å, as of `scan.raster`.
    metadata : dict, optional
        For abTEM's own use, such as ``{"semiangle_cutoff": 20.0}``.

    Raises
    ------
    ValueError
        A wave that is not on the grid or not complex; axes that do not fit.
    """
    abtem = _abtem()
    _check_shape(wave, grid, "waves")
    if not np.iscomplexobj(wave):
        raise ValueError(f"a wave is complex, got {np.asarray(wave).dtype}")
    front, scan = front_axes(_their_axes(), wave, axes, scan_sampling, scan_origin)
    return abtem.Waves(
        _swapped(wave, scan),
        energy=float(energy),
        sampling=grid.sampling[::-1],
        ensemble_axes_metadata=front,
        metadata=metadata,
    )


def wave_from_abtem(waves: Any) -> tuple[np.ndarray, Grid, float]:
    """Waves [..., ny, nx] in real space, their grid and their energy [eV].

    A raster of probes [x, y] becomes [y, x]. The beam tilt that abTEM keeps in the metadata is no
    part of a wave: give it as `Optics.tilt`.
    """
    waves = _in_memory(waves, "Waves").ensure_real_space()
    if waves.energy is None:
        raise ValueError("the waves have no energy: set waves.energy [eV] first")
    wave = _swapped(waves.array, scan_axis(waves.ensemble_axes_metadata))
    return wave, Grid(wave.shape[-2:], _sampling(waves)), float(waves.energy)


def image_to_abtem(
    image: Any,
    grid: Grid,
    *,
    axes: Sequence[EnsembleAxis] | None = None,
    metadata: dict | None = None,
) -> Any:
    """`abtem.Images` of images [..., ny, nx] whose pixels are the grid's.

    `axes` and `metadata` (such as ``{"energy": 80e3, "label": "dose", "units": "e/Å²"}``) as of
    `wave_to_abtem`.
    """
    abtem = _abtem()
    _check_shape(image, grid, "images")
    front, scan = front_axes(_their_axes(), image, axes)
    return abtem.Images(
        _swapped(image, scan),
        sampling=(grid.sampling[1], grid.sampling[0]),
        ensemble_axes_metadata=front,
        metadata=metadata,
    )


def image_from_abtem(images: Any) -> tuple[np.ndarray, Grid]:
    """Images [..., ny, nx] (HRTEM, or a STEM scan) and the grid of their pixels."""
    images = _in_memory(images, "Images")
    image = _swapped(images.array, scan_axis(images.ensemble_axes_metadata))
    return image, Grid(image.shape[-2:], _sampling(images))


def patterns_to_abtem(
    patterns: Any,
    grid: Grid | None = None,
    energy: float | None = None,
    *,
    axes: Sequence[EnsembleAxis] | None = None,
    scan_sampling: Any = None,
    scan_origin: tuple[float, float] = (0.0, 0.0),
    metadata: dict | None = None,
) -> Any:
    """`abtem.DiffractionPatterns` of patterns in FFT order, or of our `Patterns`.

    Parameters
    ----------
    patterns : [..., ny, nx] or Patterns
        As of `cbed`: zero frequency in the corner. `Patterns` know their grid and energy.
    grid : Grid
        Of the waves; the patterns' pixels are 1 / extent apart.
    energy : float
        eV, by which abTEM turns frequencies into angles.
    axes, scan_sampling, scan_origin, metadata
        As of `wave_to_abtem`; with a scan this is 4D-STEM.

    Raises
    ------
    ValueError
        Neither `Patterns` nor a grid and an energy; `Patterns` whose zero frequency does not lie at
        pixel [ny // 2, nx // 2], where abTEM has it; axes that do not fit.
    """
    abtem = _abtem()
    if isinstance(patterns, Patterns):
        array, steps, energy = patterns.intensity, patterns.sampling, patterns.energy
        centre = [-(n // 2) * d for n, d in zip(np.shape(array)[-2:], steps, strict=True)]
        if not np.allclose(patterns.first, centre, rtol=0, atol=1e-6 * min(steps)):
            raise ValueError(
                "these patterns have no pixel at zero frequency in the middle, as abTEM needs it "
                f"(they begin at {patterns.first} 1/Å): convert them before binning or resampling"
            )
    elif grid is None or energy is None:
        raise ValueError("give the grid and the energy of the waves: an array knows neither")
    else:
        _check_shape(patterns, grid, "patterns")
        array = np.fft.fftshift(np.asarray(patterns), axes=(-2, -1))
        steps = (1 / grid.extent[0], 1 / grid.extent[1])
    front, scan = front_axes(_their_axes(), array, axes, scan_sampling, scan_origin)
    return abtem.DiffractionPatterns(
        _swapped(array, scan),
        sampling=(steps[1], steps[0]),
        fftshift=True,
        ensemble_axes_metadata=front,
        metadata={**(metadata or {}), "energy": float(energy)},
    )


def patterns_from_abtem(patterns: Any) -> tuple[np.ndarray, Grid, float | None]:
    """Patterns [..., ny, nx] in FFT order, their grid, and the energy [eV] where abTEM knows it.

    The grid is the one whose transform has these pixels: that of the waves for full patterns,
    a coarser one of the same extent for patterns that abTEM has cropped (`max_angle`).
    """
    patterns = _in_memory(patterns, "DiffractionPatterns")
    made = _swapped(patterns.array, scan_axis(patterns.ensemble_axes_metadata))
    if patterns.fftshift:
        made = np.fft.ifftshift(made, axes=(-2, -1))
    steps = _sampling(patterns)
    grid = Grid.over((1 / steps[0], 1 / steps[1]), shape=made.shape[-2:])
    energy = patterns.metadata.get("energy")
    return made, grid, None if energy is None else float(energy)


def centred_patterns_from_abtem(patterns: Any) -> Patterns:
    """Our `Patterns`, zero frequency in the middle, of `abtem.DiffractionPatterns`.

    Raises
    ------
    ValueError
        Patterns without an energy.
    """
    made, grid, energy = patterns_from_abtem(patterns)
    if energy is None:
        raise ValueError('the patterns have no energy: set patterns.metadata["energy"] [eV] first')
    steps = (1 / grid.extent[0], 1 / grid.extent[1])
    first = (-(grid.shape[0] // 2) * steps[0], -(grid.shape[1] // 2) * steps[1])
    return Patterns(np.fft.fftshift(made, axes=(-2, -1)), steps, first, energy)
