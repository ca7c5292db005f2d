"""Classes of pixels or of pictures: ``(logits, labels, weight=None) -> scalar``.

`logits` are [..., k] as a network gives them (no softmax). `labels` are whole numbers [...] below
k, or shares of the classes [..., k] (soft labels). A label outside of the classes makes the loss
NaN, which the training step reports with the update; `check_labels` finds it before.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from emjax.losses.basics import alike, average, spread, wide


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    weight: jax.Array | None = None,
    *,
    class_weight: Sequence[float] | None = None,
    smoothing: float = 0.0,
    ignore: int | None = None,
) -> jax.Array:
    """Mean of -Σ t_c ln p_c with p = softmax(logits): classes that exclude one another.

    Parameters
    ----------
    logits : [..., k], k at least 2: the softmax of one class is 1, and there is nothing to learn.
    labels : whole numbers [...], or shares [..., k].
    weight : of the pixels [...], or of the first axes.
    class_weight : k factors for rare classes (Σ t_c w_c becomes part of the pixel's weight, so
        that the result stays a mean).
    smoothing : this share of each label is spread evenly over all classes (Szegedy et al. 2016).
    ignore : pixels with this label do not count.
    """
    logits = _several(logits, "sigmoid_cross_entropy")
    shares, weight = _shares(logits, labels, weight, ignore)
    if class_weight is not None:
        weight = weight * (shares * _per_class(class_weight, logits)).sum(-1)
    shares = (1 - smoothing) * shares + smoothing / logits.shape[-1]
    return _poisoned(average(-(shares * jax.nn.log_softmax(logits)).sum(-1), weight), weight)


def sigmoid_cross_entropy(
    logits: jax.Array, labels: jax.Array, weight: jax.Array | None = None
) -> jax.Array:
    """Mean of -t ln σ(x) - (1 - t) ln(1 - σ(x)): several classes, or none, may be there at once.

    `labels` are 0 to 1, of the shape of `logits`.
    """
    logits, labels = alike(logits, labels, weight)
    return average(jax.nn.softplus(logits) - labels * logits, weight)


def focal(
    logits: jax.Array,
    labels: jax.Array,
    weight: jax.Array | None = None,
    *,
    gamma: float = 2.0,
    class_weight: Sequence[float] | None = None,
    ignore: int | None = None,
) -> jax.Array:
    """Mean of -Σ t_c w_c (1 - p_c)^γ ln p_c (Lin et al., ICCV 2017): what is easy counts little.

    With γ = 0 and no `class_weight` it is `cross_entropy`. Unlike there, the weights of the
    classes (the paper's α) are factors of the terms and no part of the mean's weight.
    """
    logits = _several(logits, "binary_focal")
    shares, weight = _shares(logits, labels, weight, ignore)
    log = jax.nn.log_softmax(logits)
    terms = -shares * _faint(log, gamma) * log
    if class_weight is not None:
        terms = terms * _per_class(class_weight, logits)
    return _poisoned(average(terms.sum(-1), weight), weight)


def binary_focal(
    logits: jax.Array,
    labels: jax.Array,
    weight: jax.Array | None = None,
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
) -> jax.Array:
    """`focal` with a sigmoid, as in RetinaNet: α for what is there and 1 - α for what is not.

    `labels` are 0 to 1, of the shape of `logits`. The mean is over all entries; the paper divides
    the sum by the number of objects. `alpha` None: no weights.
    """
    logits, labels = alike(logits, labels, weight)
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    a, b = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    present, absent = labels * _faint(yes, gamma) * yes, (1 - labels) * _faint(no, gamma) * no
    return average(-a * present - b * absent, weight)


def tversky(
    logits: jax.Array,
    labels: jax.Array,
    weight: jax.Array | None = None,
    *,
    false_positive: float = 0.3,
    false_negative: float = 0.7,
    power: float = 1.0,
    smooth: float = 0.5,
    background: bool = True,
    ignore: int | None = None,
) -> jax.Array:
    """Mean over pictures and classes of (1 - T)^power, T = (TP + s) / (TP + α FP + β FN + s).

    Salehi, Erdogmus & Gholipour 2017; power 3/4: focal Tversky loss, Abraham & Khan 2019.

    Parameters
    ----------
    logits : [b, ..., k]; k = 1 is one class by a sigmoid, and labels are then 0 and 1.
    labels : whole numbers [b, ...], or shares [b, ..., k].
    weight : of the pixels [b, ...] or of the pictures [b].
    false_positive, false_negative : α and β; a larger β finds more. Both 1/2: `dice`.
    power : below 1, what is nearly right counts less.
    smooth : s in pixels. A class that is neither there nor predicted costs nothing.
    background : class 0 counts too.
    ignore : pixels with this label do not count.
    """
    logits = wide(logits)
    shares, weight = _shares(logits, labels, weight, ignore)
    if logits.shape[-1] == 1:
        p = jax.nn.sigmoid(logits)
    else:
        first = 0 if background else 1
        p, shares = jax.nn.softmax(logits)[..., first:], shares[..., first:]
    inside = tuple(range(1, p.ndim - 1))
    each = weight[..., None]
    hit = (each * p * shares).sum(inside)
    index = (hit + smooth) / (
        hit
        + false_positive * (each * p * (1 - shares)).sum(inside)
        + false_negative * (each * (1 - p) * shares).sum(inside)
        + smooth
    )
    if power != 1:  # a floor, because the root of 0 has no slope
        return jnp.power(jnp.maximum(1 - index, 1e-6), power).mean()
    return (1 - index).mean()


def dice(
    logits: jax.Array,
    labels: jax.Array,
    weight: jax.Array | None = None,
    *,
    smooth: float = 1.0,
    background: bool = True,
    ignore: int | None = None,
) -> jax.Array:
    """1 - (2 TP + s) / (2 TP + FP + FN + s), mean over pictures and classes.

    Milletari, Navab & Ahmadi 2016, with the denominator Σ p + Σ t (theirs has squares). The
    parameters are those of `tversky`.
    """
    return tversky(
        logits,
        labels,
        weight,
        false_positive=0.5,
        false_negative=0.5,
        smooth=0.5 * smooth,
        background=background,
        ignore=ignore,
    )


def check_labels(labels: np.ndarray, classes: int, *, ignore: int | None = None) -> None:
    """Refuse labels outside of 0 … classes - 1 (and `ignore`), on the host, before training.

    Raises
    ------
    ValueError : says which labels there are, and how many pixels have them.
    """
    found, counts = np.unique(np.asarray(labels), return_counts=True)
    wrong = [
        f"{label} ({count} pixels)"
        for label, count in zip(found.tolist(), counts.tolist(), strict=True)
        if not (label == ignore or (0 <= label < classes and label == int(label)))
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"labels outside of the {classes} classes 0 to {classes - 1}: "
            f"{', '.join(wrong[:5])}{more}. 255 often stands for 1 in a mask, or for pixels to be "
            "left out (ignore=255)"
        )


def _shares(
    logits: jax.Array, labels: jax.Array, weight: jax.Array | None, ignore: int | None
) -> tuple[jax.Array, jax.Array]:
    """Shares of the classes [..., k] and the pixels' weight [...]; NaN where a label is none."""
    labels, classes = jnp.asarray(labels), logits.shape[-1]
    pixels = logits.shape[:-1]
    used = (
        jnp.ones(pixels, logits.dtype) if weight is None else spread(weight, pixels, logits.dtype)
    )
    if labels.shape == logits.shape and jnp.issubdtype(labels.dtype, jnp.floating):
        return jnp.where((used != 0)[..., None], labels, 0).astype(logits.dtype), used
    if labels.shape != pixels:
        raise ValueError(
            f"logits of shape {logits.shape} need whole labels of shape {pixels} or shares of "
            f"shape {logits.shape}, not {labels.shape} {labels.dtype}"
        )
    labels = labels.astype(int) if labels.dtype == bool else labels
    known = (labels >= 0) & (labels < max(classes, 2))
    if ignore is not None:
        used = jnp.where(labels == ignore, 0, used)
        known = known | (labels == ignore)
    if classes == 1:
        shares = labels[..., None].astype(logits.dtype)
    else:
        shares = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    if ignore is not None:
        shares = jnp.where((labels == ignore)[..., None], 0, shares)
    return jnp.where(known[..., None], shares, jnp.nan), used


def _several(logits: jax.Array, instead: str) -> jax.Array:
    if logits.shape[-1] < 2:
        raise ValueError(
            f"logits of shape {logits.shape} have one class, whose softmax is 1 whatever the "
            f"network says: use {instead}, or a network with two outputs"
        )
    return wide(logits)


def _poisoned(value: jax.Array, weight: jax.Array) -> jax.Array:
    """NaN in the weights (class weights of a label that is none) must not vanish."""
    return jnp.where(jnp.isnan(weight.sum()), jnp.nan, value)


def _per_class(class_weight: Sequence[float], logits: jax.Array) -> jax.Array:
    factors = jnp.asarray(class_weight, logits.dtype)
    if factors.shape != logits.shape[-1:]:
        raise ValueError(
            f"{factors.size} class weights for {logits.shape[-1]} classes: give one for each"
        )
    return jnp.broadcast_to(factors, logits.shape)


def _faint(log_p: jax.Array, gamma: float) -> jax.Array:
    """(1 - p)^γ without cancellation; no slope at p = 1 that is infinite for γ < 1."""
    if gamma == 0:
        return jnp.ones_like(log_p)
    return jnp.power(jnp.maximum(-jnp.expm1(log_p), 1e-7), gamma)
