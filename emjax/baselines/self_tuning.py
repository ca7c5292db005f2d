"""Parameters of a classical filter chosen from noisy images alone (Noise2Self).

Batson & Royer, ICML 2019. A part of the data is hidden from the filter and predicted from the rest.
Where the noise of both parts is independent and has mean zero, the mean square difference of the
prediction from what was hidden is, in expectation, the true error plus the variance of the noise,
which no parameter changes: the parameters with the smallest loss have the smallest error, and no
clean image is needed. Two things can be hidden:

``"pixels"``
    Every fourth pixel along both axes, replaced by the mean of its neighbours (scikit-image's
    `denoise_invariant`). For any noise that is independent from pixel to pixel. The loss is that of
    the filter without the pixel's own value, which is a little worse and smoother than the filter
    itself: filters that decide by the pixels' values (non-local means, total variation at high
    doses) are then tuned too weak or too strong.
``"electrons"``
    A fifth of the electrons of every pixel: parts of a Poisson number are independent Poisson
    numbers. For counts alone; the filter itself is judged, at four fifths of the dose.

>>> import numpy as np
>>> y, x = np.mgrid[:48, :48]
>>> noisy = np.random.default_rng(0).poisson(20 + 15 * np.sin(x / 3) * np.sin(y / 3))
>>> sorted(tune_blind("gaussian", [noisy]))
['sigma']

Noise that is correlated between pixels (of lines, of scintillators) is taken for signal: then every
filter that keeps it looks good.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from emjax.baselines.images import NotApplicable, checked_image
from emjax.baselines.restoration import DENOISERS, fit_affine

__all__ = ["electron_loss", "is_counts", "pixel_loss", "tune_blind"]

STRIDE = 4
"""Hidden pixels are so far apart; so many squared sets of them make up the image."""
FOLDS = 5
"""Parts of the electrons, each hidden once."""
HIDE = ("auto", "pixels", "electrons")
Filter = Callable[..., np.ndarray]


def tune_blind(
    name: str,
    images: Sequence[np.ndarray],
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    fixed: Mapping[str, Any] | None = None,
    hide: str = "auto",
    affine: bool = True,
) -> dict[str, Any]:
    """The parameters with the smallest self-supervised loss; `restoration.tune` without the truth.

    Every combination of the grid is tried, and the defaults. The loss of each image is divided by
    its variance, so that images of several doses count alike.

    Parameters
    ----------
    name : in `restoration.DENOISERS`.
    images : (y, x) each; noisy, with independent noise of mean zero. One is enough.
    grid : instead of the method's own.
    fixed : parameters that are not tuned, such as the detector's ``{"read_out": 0.25}``.
    hide : "pixels", "electrons", or "auto": electrons where all images hold counts (`is_counts`).
    affine : judge after the best gain and offset, as `restoration.affine_psnr` does (for which a
        filter may damp a wave that is alone); False for the least error of the image as it is.

    Returns
    -------
    dict : the grid's parameters and `fixed`, to be passed on as ``**parameters``.

    Raises
    ------
    KeyError : an unknown name.
    ValueError : no image, unknown parameters or `hide`, electrons of images that are no counts, no
        setting works, or what the filter refuses.
    """
    if name not in DENOISERS:
        raise KeyError(f"there is no denoiser {name!r}: choose one of {', '.join(DENOISERS)}")
    if hide not in HIDE:
        raise ValueError(f"hide={hide!r}: choose one of {', '.join(HIDE)}")
    if len(images) == 0:
        raise ValueError("no image was given: at least one noisy image is needed")
    method, fixed = DENOISERS[name], dict(fixed or {})
    grid = dict(method.grid if grid is None else grid)
    unknown = (set(fixed) | set(grid)) - set(method.defaults)
    if unknown:
        raise ValueError(f"{name} has no parameter {sorted(unknown)}: it has {[*method.defaults]}")
    noisy = [checked_image(image, least=STRIDE) for image in images]
    if hide == "auto":
        hide = "electrons" if all(is_counts(image) for image in noisy) else "pixels"
    loss = electron_loss if hide == "electrons" else pixel_loss
    free = {key: values for key, values in grid.items() if key not in fixed}
    settings = [{key: method.defaults[key] for key in free}]
    if free:
        settings += [dict(zip(free, v, strict=True)) for v in itertools.product(*free.values())]
    best, least, reason = None, np.inf, None
    for setting in settings:
        parameters = {**fixed, **setting}
        try:
            found = [
                loss(method, image, parameters, affine=affine) / (image.var() or 1.0)
                for image in noisy
            ]
        except NotApplicable as error:
            reason = error
            continue
        if best is None or np.mean(found) < least:
            best, least = parameters, float(np.mean(found))
    if best is None:
        raise NotApplicable(f"no setting of {name} works on these images: {reason}") from reason
    return best


def pixel_loss(
    method: Filter,
    image: np.ndarray,
    parameters: Mapping[str, Any],
    *,
    affine: bool = False,
    sets: int = STRIDE,
) -> float:
    """Mean square difference of hidden pixels from what the filter makes of the others.

    Its expectation is the mean square error of that prediction plus the variance of the noise.

    Parameters
    ----------
    method : (image, **parameters) -> image, such as those in `restoration.DENOISERS`.
    image : (y, x).
    affine : with the gain and offset that fit the prediction to the hidden pixels best.
    sets : how many of the 16 sets of pixels are hidden in turn; each costs a run of the filter.

    Raises
    ------
    ValueError : a number of sets that is not 1 to 16; what the filter refuses.
    """
    from skimage.restoration import denoise_invariant

    if not 1 <= sets <= STRIDE**2:
        raise ValueError(f"sets={sets}: choose 1 to {STRIDE**2}")
    x = checked_image(image, least=STRIDE)
    # in this order the first four lie in all rows and columns of the cell
    order = [(i, (2 * i + i // 2 + j) % STRIDE) for j in range(STRIDE) for i in range(STRIDE)]
    hidden = [(slice(v, None, STRIDE), slice(u, None, STRIDE)) for v, u in order[:sets]]
    seen = denoise_invariant(x, method, masks=hidden, denoiser_kwargs=dict(parameters))
    both = (np.concatenate([array[m].ravel() for m in hidden]) for array in (seen, x))
    return _distance(*both, affine)


def electron_loss(
    method: Filter,
    image: np.ndarray,
    parameters: Mapping[str, Any],
    *,
    affine: bool = False,
    seed: int = 0,
) -> float:
    """Mean square difference of hidden electrons from what the filter makes of the others.

    The electrons of every pixel are dealt out to `FOLDS` parts at random, each of which is hidden
    once; both sides are scaled to the whole dose. The expectation is the filter's mean square error
    at (1 - 1/FOLDS) of the dose plus FOLDS times the mean count.

    Parameters
    ----------
    method : as in `pixel_loss`.
    image : (y, x) counts.
    affine : as in `pixel_loss`.
    seed : of the dealing; the same for every setting that is compared.

    Raises
    ------
    ValueError : an image that is no counts; what the filter refuses.
    """
    x = checked_image(image)
    if not is_counts(x):
        raise ValueError(
            "electrons can be hidden in counts alone: whole numbers that are not negative. Divide "
            "the image by the detector's gain, or hide pixels"
        )
    share = np.full(FOLDS, 1 / FOLDS)
    parts = np.moveaxis(np.random.default_rng(seed).multinomial(x.astype(int), share), -1, 0)
    scale = 1 / (1 - 1 / FOLDS)
    pairs = ((scale * method(x - part, **parameters), FOLDS * part) for part in parts)
    return float(np.mean([_distance(seen, hidden, affine) for seen, hidden in pairs]))


def is_counts(image: np.ndarray) -> bool:
    """Whether all values are whole numbers of at least 0, and some are above."""
    x = np.asarray(image)
    return bool((x >= 0).all() and x.any() and (x == np.rint(x)).all())


def _distance(prediction: np.ndarray, hidden: np.ndarray, affine: bool) -> float:
    return float(
        np.square((fit_affine(prediction, hidden) if affine else prediction) - hidden).mean()
    )
