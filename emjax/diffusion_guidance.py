"""What a measurement says about a picture that is still hidden in noise.

The likelihood is known for clean pictures only. For a noisy one it is the mean over all clean
pictures that it may hide, N(x̂, C): x̂ is the denoiser's estimate, and by Tweedie's second formula
C = (σ² / α) ∂x̂/∂x_t. With a likelihood that is nearly normal around x̂, of gradient g and curvature
-H, the mean of what may be hidden and agrees with the measurement is x̂ + C (1 + HC)⁻¹ g.
That is exact for normal priors and linear measurements with normal noise (Rozet et al., NeurIPS
2024); leaving HC out gives diffusion posterior sampling (Chung et al., ICLR 2023), which follows
the measurement too closely while noise is strong.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def posterior_step(
    denoise: Callable[[jax.Array], jax.Array],
    log_likelihood: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    alpha: jax.Array,
    sigma: jax.Array,
    *,
    covariance: str = "tweedie",
    solves: int = 3,
) -> jax.Array:
    """The clean estimate given a noisy picture and the measurement.

    Parameters
    ----------
    denoise : noisy pictures [b, …] -> clean estimates.
    log_likelihood : clean pictures [b, …] -> sum of their log-likelihoods; pictures of a batch do
        not depend on each other.
    x : noisy pictures [b, …] = alpha clean + sigma noise.
    alpha, sigma : scalars.
    covariance : "tweedie": C from the denoiser's derivative; "isotropic": σ² (that of a picture
        with independent pixels of unit variance; Song et al., ICLR 2023): no derivative of the
        network, which costs a third of the time and memory.
    solves : iterations of conjugate gradients for (1 + HC)⁻¹, each with one product with H and one
        with C. 0 leaves it out: diffusion posterior sampling.
    """
    if covariance == "tweedie":
        estimate, pull = jax.vjp(denoise, x)
        # the derivative of a mean of pictures is symmetric: pulling back is pushing forward

        def spread(v: jax.Array) -> jax.Array:
            return sigma**2 / alpha * pull(v)[0]
    else:
        estimate = denoise(x)

        def spread(v: jax.Array) -> jax.Array:
            return sigma**2 * v

    # reverse over reverse: custom gradients of forward models have no other derivative
    gradient, pull_gradient = jax.vjp(jax.grad(log_likelihood), estimate)
    if not solves:
        return estimate + spread(gradient)
    return estimate + _spread_of_solution(gradient, spread, lambda v: -pull_gradient(v)[0], solves)


def _spread_of_solution(
    g: jax.Array,
    spread: Callable[[jax.Array], jax.Array],
    curve: Callable[[jax.Array], jax.Array],
    iterations: int,
) -> jax.Array:
    """C (1 + HC)⁻¹ g for each picture of a batch, by conjugate gradients.

    1 + HC is symmetric in the scalar product uᵀCv. Products with C are carried along instead of
    being computed twice. Pictures that are solved, or along whose direction the likelihood curves
    upwards more than the prior curves down, stop.
    """

    def dot(u: jax.Array, v: jax.Array) -> jax.Array:
        return (u * v).sum(axis=tuple(range(1, u.ndim)), keepdims=True)

    def ratio(a: jax.Array, b: jax.Array, go: jax.Array) -> jax.Array:
        return jnp.where(go, a / jnp.where(go, b, 1.0), 0.0)

    residual, spread_residual = g, spread(g)
    rho = dot(residual, spread_residual)
    first = rho
    direction, spread_direction = residual, spread_residual
    result = jnp.zeros_like(g)
    for k in range(iterations):
        pushed = direction + curve(spread_direction)
        bend = dot(spread_direction, pushed)
        step = ratio(rho, bend, (bend > 0) & (rho > 1e-12 * first))
        result = result + step * spread_direction
        if k == iterations - 1:
            break
        residual = residual - step * pushed
        spread_residual = spread(residual)
        new = dot(residual, spread_residual)
        again = ratio(new, rho, (step > 0) & (new > 0))
        direction = residual + again * direction
        spread_direction = spread_residual + again * spread_direction
        rho = jnp.where(step > 0, new, 0.0)
    return result
