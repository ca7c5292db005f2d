"""Denoisers of the image plane: `method(image, **parameters) -> image`, (y, x) to (y, x) float64.

The libraries' algorithms with borders, units and errors made the same. Gaussian, median and local
Wiener filters take the image as it is. The others work on an image whose noise has a standard
deviation of 1, so that their parameters carry over between doses: with ``stabilise=True`` through
Anscombe's transform and its exact unbiased inverse (counts; `gain`, `offset` and `read_out` noise
of the detector in recorded units), with ``stabilise=False`` divided by the estimated noise.

Every function raises ValueError for an image that is not (y, x) or holds NaN, and those with
``stabilise=True`` for negative counts (see `emjax.baselines.images.unit_noise`).
"""

from __future__ import annotations

import importlib
import itertools
import math
from types import ModuleType

import numpy as np

from emjax.baselines.images import checked_image, unit_noise

__all__ = [
    "bilateral",
    "bm3d",
    "bm3d_binned",
    "gaussian",
    "median",
    "noisy",
    "non_local_means",
    "tv_bregman",
    "tv_chambolle",
    "wavelet",
    "wiener_local",
]


def noisy(image: np.ndarray) -> np.ndarray:
    """The image itself: the row that every table begins with."""
    return checked_image(image)


def gaussian(image: np.ndarray, *, sigma: float = 1.0) -> np.ndarray:
    """Gaussian filter of standard deviation `sigma` pixels, mirrored at the border."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(checked_image(image), sigma)


def median(image: np.ndarray, *, size: int = 3) -> np.ndarray:
    """Median over `size` × `size` pixels: removes spikes, biased for skewed (low) counts."""
    from scipy.ndimage import median_filter

    return median_filter(checked_image(image), size)


def bilateral(
    image: np.ndarray,
    *,
    sigma_value: float = 2.0,
    sigma_space: float = 1.0,
    stabilise: bool = True,
    gain: float = 1.0,
    offset: float = 0.0,
    read_out: float = 0.0,
) -> np.ndarray:
    """Mean over pixels that are near in place (`sigma_space` px) and in value (units of the noise).

    Tomasi & Manduchi, ICCV 1998; out to three standard deviations, mirrored at the border. Not
    scikit-image's: the spatial weights of its 0.26 are shifted in their table and do not fall off
    from the centre, which costs 5 dB and more (a test here shows it).
    """
    x, back = _units(image, stabilise, gain, offset, read_out)
    reach = math.ceil(3 * sigma_space)
    padded = np.pad(x, reach, mode="symmetric")
    total, weight = np.zeros_like(x), np.zeros_like(x)
    for dy, dx in itertools.product(range(-reach, reach + 1), repeat=2):
        y0, x0 = reach + dy, reach + dx
        there = padded[y0 : y0 + x.shape[0], x0 : x0 + x.shape[1]]
        near = -0.5 * (dy**2 + dx**2) / sigma_space**2
        share = np.exp(near - 0.5 / sigma_value**2 * (there - x) ** 2)
        total += share * there
        weight += share
    return back(total / weight)


def wiener_local(image: np.ndarray, *, size: int = 3, strength: float = 1.0) -> np.ndarray:
    """Wiener filter with mean and variance of each `size` × `size` neighbourhood; SciPy.

    Lim, Two-Dimensional Signal and Image Processing, 1990. The noise variance is the mean of the
    local variances, times `strength`.
    """
    from scipy.ndimage import uniform_filter

    x = checked_image(image)
    mean = uniform_filter(x, size)
    centre = x - x.mean()  # squares of a large offset would cost the variance its digits
    variance = uniform_filter(centre**2, size) - uniform_filter(centre, size) ** 2
    noise = strength * variance.mean()
    share = np.clip(variance - noise, 0, None) / np.maximum(variance, max(noise, 1e-300))
    return mean + share * (x - mean)


def wavelet(
    image: np.ndarray,
    *,
    sigma: float = 1.0,
    wavelet: str = "db1",
    mode: str = "soft",
    shifts: int = 1,
    stabilise: bool = True,
    gain: float = 1.0,
    offset: float = 0.0,
    read_out: float = 0.0,
) -> np.ndarray:
    """Wavelet coefficients shrunk by BayesShrink for noise of `sigma`; scikit-image, PyWavelets.

    Chang, Yu & Vetterli, IEEE TIP 2000. With `shifts` above 1, the mean over so many shifts of
    the grid along each axis (Coifman & Donoho 1995), which takes away the blocks.

    Raises
    ------
    ModuleNotFoundError : PyWavelets is not installed.
    """
    _optional("pywt", "PyWavelets", "")
    from skimage.restoration import denoise_wavelet

    x, back = _units(image, stabilise, gain, offset, read_out)
    terms = {"wavelet": wavelet, "mode": mode, "method": "BayesShrink", "rescale_sigma": False}
    total = np.zeros_like(x)
    for shift in itertools.product(range(shifts), repeat=2):
        moved = denoise_wavelet(np.roll(x, shift, (0, 1)), sigma=sigma, **terms)
        total += np.roll(moved, [-n for n in shift], (0, 1))
    return back(total / shifts**2)


def tv_chambolle(
    image: np.ndarray,
    *,
    weight: float = 1.0,
    iterations: int = 200,
    tolerance: float = 2e-4,
    stabilise: bool = True,
    gain: float = 1.0,
    offset: float = 0.0,
    read_out: float = 0.0,
) -> np.ndarray:
    """The minimum of ½ ‖y - x‖² + weight · TV(y); Chambolle, J. Math. Imaging Vis. 2004.

    Stops when a step changes the energy by less than `tolerance` of its first value. On atomic
    columns scikit-image's 2e-4, far from the minimum, is 1 dB and more better than the minimum,
    which has stairs: the tolerance is a parameter like the weight.
    """
    from skimage.restoration import denoise_tv_chambolle

    x, back = _units(image, stabilise, gain, offset, read_out)
    return back(denoise_tv_chambolle(x, weight=weight, eps=tolerance, max_num_iter=iterations))


def tv_bregman(
    image: np.ndarray,
    *,
    weight: float = 1.0,
    iterations: int = 100,
    isotropic: bool = True,
    stabilise: bool = True,
    gain: float = 1.0,
    offset: float = 0.0,
    read_out: float = 0.0,
) -> np.ndarray:
    """The same minimum by split Bregman; Goldstein & Osher, SIAM J. Imaging Sci. 2009.

    `weight` is that of `tv_chambolle`; scikit-image's iterations end some 10 % above the minimum,
    so that the result is rougher. ``isotropic=False`` adds |∂y| and |∂x| separately.
    """
    from skimage.restoration import denoise_tv_bregman

    x, back = _units(image, stabilise, gain, offset, read_out)
    # scikit-image's weight is λ/2 of  TV + λ/2 ‖y - x‖²
    y = denoise_tv_bregman(x, weight=0.5 / weight, max_num_iter=iterations, isotropic=isotropic)
    return back(y)


def non_local_means(
    image: np.ndarray,
    *,
    h: float = 0.8,
    patch: int = 7,
    distance: int = 11,
    sigma: float = 1.0,
    stabilise: bool = True,
    gain: float = 1.0,
    offset: float = 0.0,
    read_out: float = 0.0,
) -> np.ndarray:
    """Mean over pixels whose `patch` × `patch` surroundings look alike, up to `distance` px away.

    Buades, Coll & Morel, CVPR 2005; scikit-image's fast form with the noise `sigma` subtracted from
    the patches' distances. `h`: how alike, in units of the noise. (Below some 2 counts Anscombe's
    transform leaves less than 1; then a smaller `sigma` is better.)
    """
    from skimage.restoration import denoise_nl_means

    x, back = _units(image, stabilise, gain, offset, read_out)
    y = denoise_nl_means(
        x, h=h, sigma=sigma, patch_size=patch, patch_distance=distance, fast_mode=True
    )
    return back(y)


def bm3d(
    image: np.ndarray,
    *,
    sigma: float = 1.0,
    stabilise: bool = True,
    gain: float = 1.0,
    offset: float = 0.0,
    read_out: float = 0.0,
) -> np.ndarray:
    """Block matching and collaborative filtering in 3-D; Dabov et al., IEEE TIP 2007.

    The authors' package (Mäkinen, Azzari & Foi, IEEE TIP 2020), whose licence allows
    **non-commercial use only**; with Anscombe's transform as Mäkitalo & Foi (2011) use it.

    Raises
    ------
    ModuleNotFoundError : the package is not installed.
    """
    x, back = _units(image, stabilise, gain, offset, read_out)
    return back(_block_matching(x, sigma))


def bm3d_binned(
    image: np.ndarray,
    *,
    sigma: float = 1.0,
    stabilise: bool = True,
    gain: float = 1.0,
    offset: float = 0.0,
    read_out: float = 0.0,
) -> np.ndarray:
    """`bm3d` on sums of 2 × 2 pixels, brought back to the pixels by a cubic spline.

    Better than `bm3d` wherever the pixels are finer than the detail: blocks are matched at twice
    the signal-to-noise ratio. An odd last row or column is mirrored for the sums.
    """
    from scipy.ndimage import zoom

    x = checked_image(image)
    y, w = x.shape
    even = np.pad(x, ((0, y % 2), (0, w % 2)), mode="symmetric")
    sums = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).sum((1, 3))
    z, back = unit_noise(
        sums, stabilise=stabilise, gain=gain, offset=4 * offset, read_out=2 * read_out
    )
    mean = back(_block_matching(z, sigma)) / 4
    return zoom(mean, 2, order=3, mode="nearest", grid_mode=True)[:y, :w]


def _units(image: np.ndarray, stabilise: bool, gain: float, offset: float, read_out: float):
    x = checked_image(image)
    return unit_noise(x, stabilise=stabilise, gain=gain, offset=offset, read_out=read_out)


def _block_matching(x: np.ndarray, sigma: float) -> np.ndarray:
    package = _optional("bm3d", "bm3d", " (its licence allows non-commercial use only)")
    checked_image(x, least=8)  # one block
    return np.asarray(package.bm3d(x, sigma_psd=sigma), np.float64).reshape(x.shape)


def _optional(module: str, package: str, remark: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this method needs the package {package}{remark}: pip install {package}"
        ) from error
