"""Controls: one condition is broken, and nothing else."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.evaluation.controls import (
    CONTROLS,
    biased_targets,
    independent,
    loss_of_psnr,
    row_correlated,
)
from emjax.objectives import needs

RATE = np.linspace(2.0, 20.0, 48)[None, None, :, None] * np.ones((200, 8, 1, 1), np.float32)


def draw(key, step=None):
    rate = jnp.asarray(RATE)
    counts = jax.random.poisson(key, jnp.repeat(rate, 2, -1)).astype(jnp.float32)
    return {"counts": counts, "rate": rate, "readout": jnp.full(200, 1.5)}


def test_biased_targets_leave_the_inputs_alone():
    key = jax.random.key(1)
    plain = draw(key)
    for how, exact in {
        "clipped": np.maximum(plain["counts"] - 6.0, 0),
        "saturated": np.minimum(plain["counts"], 6.0),
        "offset": plain["counts"] + 6.0,
    }.items():
        batch = biased_targets(draw, how=how, level=0.3)(key)
        np.testing.assert_array_equal(batch["counts"], plain["counts"])
        np.testing.assert_allclose(batch["targets"], exact, rtol=1e-5)
    with pytest.raises(ValueError, match="choose one of clipped"):
        biased_targets(draw, how="gamma")


@pytest.mark.parametrize("length", [0.0, 3.0])
def test_row_noise_has_the_size_of_counting_and_its_correlation(length):
    batch = jax.jit(lambda key: row_correlated(draw, length=length)(key))(jax.random.key(2))
    np.testing.assert_allclose(batch["rate"], RATE, rtol=1e-6)
    z = (np.asarray(batch["counts"]) - RATE) / np.sqrt(RATE + 1.5**2)
    assert z.mean() == pytest.approx(0, abs=0.02)
    assert z.var() == pytest.approx(1, abs=0.03)
    assert z.var((0, 1, 3)) == pytest.approx(np.ones(48), abs=0.15), "up to the edge"
    for d in (1, 2, 5):
        expected = np.exp(-d / length) if length else 0.0
        assert (z[:, :, d:] * z[:, :, :-d]).mean() == pytest.approx(expected, abs=0.03)
    assert (z[:, 1:] * z[:, :-1]).mean() == pytest.approx(0, abs=0.02), "rows are independent"
    assert (z[..., 0] * z[..., 1]).mean() == pytest.approx(0, abs=0.02), "so are recordings"
    with pytest.raises(ValueError, match="0 pixels or more"):
        row_correlated(draw, length=-1.0)


def test_controls_name_objectives_and_pass_on_the_step():
    for control in CONTROLS.values():
        assert needs(control.objective, **control.options).name == control.objective
        assert control.reference(draw)(jax.random.key(0))["counts"].shape == (200, 8, 48, 2)
    assert "step" in inspect.signature(independent(draw)).parameters


def test_cost_of_a_control_is_paired():
    easy = np.linspace(20.0, 40.0, 30)
    cost, low, high = loss_of_psnr(easy, easy - 2.0)
    assert (cost, low, high) == pytest.approx((2.0, 2.0, 2.0))
    with pytest.raises(ValueError, match="same images"):
        loss_of_psnr(easy, easy[:5])
