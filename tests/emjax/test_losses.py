"""The loss of column maps: its minimum, its closed forms, and gradients that stay finite."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax, logit, xlog1py, xlogy

from emjax.losses import binary_cross_entropy, binary_entropy, column_loss

SHAPE, KINDS = (2, 12, 14), 3


def batch(seed: int = 0) -> dict[str, jax.Array]:
    """Smooth peaks of height 1 (with pixels that are exactly 0 and 1) and shares of species."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    heat = np.stack([np.exp(-((y - a) ** 2 + (x - b) ** 2) / 4) for a, b in ((4, 5), (7, 9))])
    heat[heat < 1e-6] = 0
    species = rng.dirichlet(np.ones(KINDS), SHAPE) * rng.uniform(0.5, 1, (*SHAPE, 1))
    vacant = np.roll(heat, (4, 6), (1, 2)) * (1 - heat)
    arrays = {
        "image": np.zeros((*SHAPE, 2)),
        "heat": heat,
        "vacant": vacant,
        "species": species,
    }
    return {name: jnp.asarray(a, jnp.float32) for name, a in arrays.items()}


def given(params, image):
    """A network whose output is its parameters."""
    return params


def perfect(heat) -> np.ndarray:
    return np.clip(logit(np.asarray(heat, float)), -30, 30)


def logits(place: np.ndarray, seed: int = 1) -> jax.Array:
    kinds = np.random.default_rng(seed).normal(size=(*SHAPE, KINDS))
    return jnp.asarray(np.concatenate([place[..., None], kinds], axis=-1), jnp.float32)


def test_the_place_of_a_perfect_heat_map_costs_nothing():
    data = batch()
    assert data["heat"].min() == 0
    assert data["heat"].max() == 1
    _, metrics = column_loss(given)(logits(perfect(data["heat"])), data)
    assert float(metrics["place"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("change", [-3.0, -0.3, 0.3, 3.0])
def test_every_other_heat_map_costs_something(change):
    data = batch()
    best = np.clip(perfect(data["heat"]), -8, 8)
    _, metrics = column_loss(given)(logits(best + change), data)
    assert float(metrics["place"]) > 1e-4


def test_the_best_answer_to_an_uncertain_place_is_the_expected_heat_map():
    """Of two equally likely truths: the minimum is their mean, by gradient."""
    first, second = batch(), batch()
    second["heat"] = first["heat"][::-1]
    loss = column_loss(given, peak_weight=0.0)
    mean = np.clip(perfect(0.5 * (first["heat"] + second["heat"])), -30, 30)

    def total(params):
        return loss(params, first)[1]["place"] + loss(params, second)[1]["place"]

    np.testing.assert_allclose(jax.grad(total)(logits(mean)), 0, atol=1e-9)
    assert np.abs(jax.grad(total)(logits(perfect(first["heat"])))).max() > 1e-4


def test_place_by_hand():
    data, place = batch(), np.random.default_rng(2).normal(size=SHAPE) * 3
    t, p = np.asarray(data["heat"], float), expit(place)
    divergence = xlogy(t, t) + xlogy(1 - t, 1 - t) - xlogy(t, p) - xlog1py(1 - t, -p)
    for weight in (0.0, 4.0, 11.0):
        _, metrics = column_loss(given, peak_weight=weight)(logits(place), data)
        sites = t + np.asarray(data["vacant"], float)
        expected = (divergence * (1 + weight * sites)).mean()
        assert float(metrics["place"]) == pytest.approx(expected, rel=1e-5)


def test_species_by_hand():
    data, made = batch(), logits(np.zeros(SHAPE))
    near = np.asarray(data["heat"], float) ** 2
    share = np.asarray(data["species"], float)
    cost = -(share * log_softmax(np.asarray(made, float)[..., 1:], axis=-1)).sum(-1)
    right = np.asarray(made)[..., 1:].argmax(-1) == share.argmax(-1)
    value, metrics = column_loss(given, kind_weight=0.3)(made, data)
    expected = (cost * near).sum() / (near.sum() + 1)
    assert float(metrics["kind"]) == pytest.approx(expected, rel=1e-5)
    expected_right = (right * near).sum() / (near.sum() + 1)
    assert float(metrics["kind_right"]) == pytest.approx(expected_right, rel=1e-5)
    total = float(metrics["place"]) + 0.3 * float(metrics["kind"])
    assert float(value) == pytest.approx(total, rel=1e-6)


def test_species_count_on_columns_alone():
    data, made = batch(), logits(np.zeros(SHAPE))
    empty = np.asarray(data["heat"]) == 0
    other = made.at[..., 1:].add(jnp.asarray(5.0 * empty[..., None] * np.arange(KINDS)))
    loss = column_loss(given)
    assert float(loss(other, data)[1]["kind"]) == float(loss(made, data)[1]["kind"])
    data["heat"] = jnp.zeros(SHAPE)
    assert float(loss(made, data)[1]["kind"]) == 0, "no column: nothing to name"


def test_maps_of_another_shape_are_refused():
    made = logits(np.zeros(SHAPE))
    for name in ("heat", "species"):
        wrong = {**batch(), name: batch()[name][..., :1]}
        with pytest.raises(ValueError, match="species, heat and vacant have shapes"):
            column_loss(given)(made, wrong)


@pytest.mark.parametrize("size", [0.0, 1.0, 40.0, 1e4])
def test_gradients_are_finite_wherever_heat_is_0_or_1(size):
    data = batch()
    made = logits(size * np.sign(np.random.default_rng(3).normal(size=SHAPE)))
    (value, metrics), slope = jax.jit(jax.value_and_grad(column_loss(given), has_aux=True))(
        made, data
    )
    assert np.isfinite(float(value))
    assert all(np.isfinite(float(v)) for v in metrics.values())
    assert np.isfinite(slope).all()
    zero = {**data, "heat": jnp.zeros(SHAPE), "species": jnp.zeros((*SHAPE, KINDS))}
    assert np.isfinite(jax.grad(lambda p: column_loss(given)(p, zero)[0])(made)).all()


def test_binary_cross_entropy():
    x, t = np.meshgrid(np.linspace(-12, 12, 25), np.linspace(0, 1, 11))
    expected = -xlogy(t, expit(x)) - xlogy(1 - t, expit(-x))
    made = binary_cross_entropy(jnp.asarray(x, jnp.float32), jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=2e-6)
    far = binary_cross_entropy(jnp.array([-1e4, 1e4, -1e4, 1e4]), jnp.array([0.0, 1.0, 1.0, 0.0]))
    np.testing.assert_allclose(far, [0, 0, 1e4, 1e4], atol=1e-6)


def test_binary_entropy():
    t = jnp.array([0.0, 0.25, 0.5, 0.9, 1.0])
    expected = [0, 0.562335, np.log(2), 0.325083, 0]
    np.testing.assert_allclose(binary_entropy(t), expected, atol=1e-6)
    # the least that the cross-entropy of a target can be, at the logit of the target
    inner = t[1:4]
    at_best = binary_cross_entropy(jnp.log(inner / (1 - inner)), inner)
    np.testing.assert_allclose(at_best, binary_entropy(inner), atol=1e-6)
