"""Compressive sensing: the sparsest image that agrees with the measured pixels.

The non-network route to few measured pixels (Stevens et al., Microscopy 2014; Binev et al. 2012,
for STEM), here with the cosine transform's coefficients and the total variation as what has to be
small. A crystal is a few cosines: then a fifth of the pixels is enough, and interpolation is not.
"""

from __future__ import annotations

import numpy as np

from emjax.baselines.filling import nearest_measured
from emjax.baselines.images import checked_pair

__all__ = ["dct_tv"]


def dct_tv(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    dct: float = 1.0,
    tv: float = 0.3,
    fidelity: float | None = None,
    iterations: int = 200,
    penalty: float = 1.0,
) -> np.ndarray:
    """Minimise dct · ‖C x‖₁ + tv · TV(x) subject to the measured pixels, by split Bregman (ADMM).

    C is the orthonormal cosine transform of the whole image, its mean not counted. In it the
    differences with mirrored borders are diagonal too, so that every step is solved exactly. The
    image is scaled to its measured standard deviation first: the parameters have no units.

    Parameters
    ----------
    image, mask : (y, x), True where measured.
    dct, tv : weights of the two; ``tv=0`` is the cosine transform alone.
    fidelity : None: measured pixels stay as they are. A number f: the misfit f/2 ‖x - y‖² on them
        is added instead, which denoises; about (standard deviation of the image / of the noise)².
    iterations : 200 for three digits of most images.
    penalty : ADMM's step; the minimum does not depend on it.

    Raises
    ------
    ValueError : negative or no weights; see `emjax.baselines.filling` for masks.
    """
    from scipy.fft import dctn, idctn

    if min(dct, tv) < 0 or dct + tv == 0 or (fidelity is not None and fidelity <= 0):
        raise ValueError(f"weights dct={dct}, tv={tv}, fidelity={fidelity}: positive, please")
    data, measured = checked_pair(image, mask)
    mean, scale = data[measured].mean(), data[measured].std() or 1.0
    y = np.where(measured, (data - mean) / scale, 0)
    x, _ = nearest_measured(y, measured)

    steps = [2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in y.shape]
    inverse = 1 / (2 + steps[0][:, None] + steps[1][None])  # of I + CᵀC + ∇ᵀ∇
    cosines, slopes = dctn(x, norm="ortho"), _gradient(x)
    # scaled multipliers of: pixels, cosines, differences
    u, v, w = np.zeros_like(x), np.zeros_like(x), np.zeros((2, *x.shape))
    for _ in range(iterations):
        pixels = _agree(x + u, y, measured, fidelity, penalty)
        u += x - pixels
        sparse = _shrink(cosines + v, dct / penalty)
        sparse[0, 0] = cosines[0, 0] + v[0, 0]
        v += cosines - sparse
        length = np.maximum(np.sqrt(((slopes + w) ** 2).sum(0)), 1e-12)
        flat = (slopes + w) * np.maximum(1 - tv / penalty / length, 0)
        w += slopes - flat
        right = dctn(pixels - u + _adjoint(flat - w), norm="ortho") + sparse - v
        cosines = right * inverse
        x = idctn(cosines, norm="ortho")
        slopes = _gradient(x)
    result = x * scale + mean
    return np.where(measured, data, result) if fidelity is None else result


def _agree(x, y, measured, fidelity, penalty):
    """The measured pixels put in: as they are, or as far as they are trusted."""
    if fidelity is None:
        return np.where(measured, y, x)
    return np.where(measured, (fidelity * y + penalty * x) / (fidelity + penalty), x)


def _shrink(x: np.ndarray, threshold: float) -> np.ndarray:
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0)


def _gradient(x: np.ndarray) -> np.ndarray:
    """Forward differences (2, y, x), zero past the last pixel."""
    out = np.zeros((2, *x.shape))
    out[0, :-1] = np.diff(x, axis=0)
    out[1, :, :-1] = np.diff(x, axis=1)
    return out


def _adjoint(g: np.ndarray) -> np.ndarray:
    """∇ᵀ of `_gradient`."""
    out = np.zeros(g.shape[1:])
    out[:-1] -= g[0, :-1]
    out[1:] += g[0, :-1]
    out[:, :-1] -= g[1, :, :-1]
    out[:, 1:] += g[1, :, :-1]
    return out
