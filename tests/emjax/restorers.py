"""Restoration networks without their random initial weights, which take longer than the tests."""

from __future__ import annotations

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np

from emjax.networks.pure import pure

NAMES = {
    "convnext_unet": "ConvNeXtUNet",
    "dncnn": "DnCNN",
    "fusionnet": "FusionNet",
    "mcnn": "MCNN",
    "nafnet": "NAFNet",
    "ptychonn": "PtychoNN",
    "rdn": "RDN",
    "restormer": "Restormer",
    "rrdb": "RRDB",
    "unet": "UNet",
    "unet3d": "UNet3D",
    "unet_classic": "ClassicUNet",
    "unet_plus_plus": "UNetPlusPlus",
}


@functools.cache
def abstract(name, **args):
    """(apply, the parameters' shapes): nothing is computed, deep networks cost seconds as it is."""
    kind, kept = getattr(importlib.import_module(f"emjax.networks.{name}"), NAMES[name]), []

    def initial():
        apply, params = pure(kind, jax.random.key(0), **args)
        kept.append(apply)
        return params

    shapes = jax.eval_shape(initial)
    return kept[0], shapes


def shapes(name, **args):
    return abstract(name, **args)[1]


def made(name, **args):
    """(apply, compiled once per shape; some parameters: kernels of variance 1 / fan-in)"""
    apply, shapes = abstract(name, **args)
    return jax.jit(apply), filled(shapes)


def filled(shapes):
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            spread = 1 / np.sqrt(np.prod(leaf.shape[:-1]))
            return jnp.asarray(rng.normal(0, spread, leaf.shape), jnp.float32)
        return jnp.full(leaf.shape, 1.0 if kind in ("scale", "temperature") else 0.0)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def result(name, shape, **args):
    """Shape and type of the output for an input of this shape; nothing is computed."""
    apply, params = abstract(name, **args)
    return jax.eval_shape(apply, params, jax.ShapeDtypeStruct(shape, jnp.float32))


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
