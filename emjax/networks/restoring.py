"""What networks that restore pictures share: the input is added, and the end of each of them.

A restorer learns the difference between the picture and its input: a small network that has to
repeat the picture first loses to a smoothing filter (Zhang et al., IEEE TIP 2017).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from emjax.networks.layers import crop


def adds_input(residual: bool | None, inputs: int, outputs: int, network: str) -> bool:
    """Whether a network adds its input to its output; None: where the channels are as many.

    Raises
    ------
    ValueError : it should, and the numbers of channels differ.
    """
    if residual and inputs != outputs:
        raise ValueError(
            f"{network} cannot add its {inputs} input channel(s) to {outputs} output channel(s): "
            "give residual=False, or as many outputs as inputs"
        )
    return inputs == outputs if residual is None else residual


def finish(y: jax.Array, x: jax.Array, residual: bool) -> jax.Array:
    """Crop a network's `y` to the size of its input `x`, add `x` if asked for; float32."""
    y = crop(y, x.shape[1:-1]).astype(jnp.float32)
    return y + x.astype(jnp.float32) if residual else y
