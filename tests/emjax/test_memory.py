"""Where memory runs out, the message says which batch would fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax import memory
from emjax.memory import OutOfMemoryError, batch_that_fits
from emjax.training import init_state, make_step

TX = optax.sgd(0.1)
PARAMS = {"w": jnp.ones(4)}


def step_of(batch, pixels):
    """The intermediate results of a batch take 4 bytes · batch · pixels at the least."""

    def draw(key):
        return {"scale": jax.random.normal(key, (batch,))}

    def loss(p, batch):
        line = jnp.arange(pixels, dtype=jnp.float32)
        images = jnp.sort(jnp.sin(batch["scale"][:, None] * p["w"].sum() * line[None]), axis=1)
        return jnp.mean(images * jnp.square(line[None] / float(pixels))), {}

    return make_step(loss, draw, TX)


def test_a_real_allocation_that_fails(monkeypatch):
    """More bytes than any machine has: XLA itself gives up."""
    monkeypatch.setattr(memory, "device_memory", lambda device: 2**40)
    step, state = step_of(64, 2**31), init_state(PARAMS, TX)
    step.compile(state, jax.random.key(0), 1)
    sizes = next(iter(step._compiled.values())).memory_analysis()
    assert sizes.temp_size_in_bytes > 64 * 2**33
    with pytest.raises(OutOfMemoryError) as caught:
        step(state, jax.random.key(0), 1)
    message = str(caught.value)
    fits = int(64 * 0.9 * 2**40 / sizes.temp_size_in_bytes)
    assert f"a batch of 64 needs {sizes.temp_size_in_bytes / 2**30:.3g} GiB" in message
    assert "has 1.02e+03 GiB" in message
    assert f"a batch of {fits} would fit" in message
    parts = next(n for n in range(2, 65) if 64 % n == 0 and 64 // n <= fits)
    assert f"make_step(..., accumulate={parts}) keeps 64" in message
    assert "remat=True" in message


class Compiled:
    """Stands for the account that a compiled update gives of itself."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes

    def memory_analysis(self):
        zeros = dict.fromkeys(("argument", "output", "alias", "temp"), 0) | self.sizes
        return type("Sizes", (), {f"{k}_size_in_bytes": v for k, v in zeros.items()})


def message(limit, compiled, monkeypatch, batch=32, weights=2**30, **more):
    monkeypatch.setattr(memory, "device_memory", lambda device: limit)
    error = RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.\nmore")
    device = jax.devices()[0]
    sizes = {"batch": batch, "weights": weights}
    return str(memory.explained(error, compiled, device=device, **sizes, **more))


def test_what_the_message_says(monkeypatch):
    gib = 2**30
    # state 3 GiB in, the same out (aliased); gradients 1 GiB; 32 GiB for a batch of 32
    sizes = Compiled(argument=3 * gib, output=3 * gib, alias=3 * gib, temp=33 * gib)
    text = message(20 * gib, sizes, monkeypatch)
    assert "a batch of 32 needs 36 GiB and cpu (device 0) has 20 GiB: a batch of 14 would" in text
    assert "accumulate=4) keeps 32, in 4 parts" in text
    assert text.endswith("(RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.)")
    assert "another program holds some of it" in message(80 * gib, sizes, monkeypatch)
    assert "optimiser take 4 GiB: no batch fits" in message(4 * gib, sizes, monkeypatch)
    assert "Halve it, or keep it with make_step(..., accumulate=2)" in message(
        20 * gib, None, monkeypatch
    )


def test_a_batch_that_was_cut_already(monkeypatch):
    gib = 2**30  # 32 GiB for a part of 16
    sizes = Compiled(argument=3 * gib, output=3 * gib, alias=3 * gib, temp=33 * gib)
    text = message(20 * gib, sizes, monkeypatch, accumulate=2)
    assert "a batch of 32 in 2 parts needs 36 GiB" in text
    assert "a batch of 14 would fit. make_step(..., accumulate=8) keeps 32, in 8 parts" in text
    assert "parts. make_step(..., remat=True)" in text, "code is not capitalised"
    text = message(20 * gib, None, monkeypatch, accumulate=2)
    assert "make_step(..., accumulate=4), which does it in 4 parts" in text
    text = message(80 * gib, sizes, monkeypatch, accumulate=2)
    assert "another program holds some of it" in text


def test_a_step_tells_its_parts():
    def loss(p, batch):
        return p["w"].sum() * batch.mean(), {}

    step = make_step(loss, lambda key: jnp.ones(8), TX, accumulate=4)
    with (
        pytest.raises(OutOfMemoryError, match="accumulate=8"),
        step.explaining(init_state(PARAMS, TX), jax.random.key(0), 1),
    ):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")


def test_a_batch_that_fits():
    assert batch_that_fits(10, fixed=0, growing=100, limit=100) == 9
    assert batch_that_fits(10, fixed=95, growing=100, limit=100) == 0
    assert batch_that_fits(10, fixed=0, growing=0, limit=100) == 0


def test_other_errors_pass():
    step, state = step_of(2, 8), init_state(PARAMS, TX)
    with (
        pytest.raises(RuntimeError, match="something else"),
        step.explaining(state, jax.random.key(0), 1),
    ):
        raise RuntimeError("something else")
    state, history = step(state, jax.random.key(0), 1)
    assert np.isfinite(history["loss"]).all()
    total = memory.device_memory(jax.devices()[0])
    assert total is None or total > 2**28
