"""Networks: one architecture a file, all with one signature.

A network is ``(apply, params)``: ``apply(params, x[b, (z,) y, x, c])`` is a pure function and
`params` a nested dict of arrays. From image to image the result is [b, (z,) y, x, k]; classifiers
give [b, k]. `build` makes one by name:

>>> import jax
>>> apply, params = build("unet", jax.random.key(0), inputs=2, outputs=1, widths=(8, 8))
>>> apply(params, jax.numpy.zeros((1, 30, 21, 2))).shape
(1, 30, 21, 1)

To add one: write ``emjax/networks/NAME.py`` with a class of `flax.nnx.Module` (arguments by name,
`rngs` last), and its line in `NETWORKS`. The contract tests pick it up.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import jax

from emjax.networks.pure import Apply, count, pure

__all__ = ["NETWORKS", "Apply", "build", "count", "network_class", "pure"]

NETWORKS: dict[str, Any] = {
    # from image to image
    "unet": "unet:UNet",
    "fourier_unet": "fourier_unet:FourierUNet",
    "unet_classic": "unet_classic:ClassicUNet",
    "unet_plus_plus": "unet_plus_plus:UNetPlusPlus",
    "unet3d": "unet3d:UNet3D",
    "convnext_unet": "convnext_unet:ConvNeXtUNet",
    "resunet": "resunet:ResUNet",
    "fusionnet": "fusionnet:FusionNet",
    "mcnn": "mcnn:MCNN",
    "fcn": "fcn:FCN",
    "segnet": "segnet:SegNet",
    "fc_densenet": "fc_densenet:FCDenseNet",
    "deeplab": "deeplab:DeepLab",
    "dncnn": "dncnn:DnCNN",
    "rdn": "rdn:RDN",
    "rrdb": "rrdb:RRDB",
    "nafnet": "nafnet:NAFNet",
    "restormer": "restormer:Restormer",
    "blind_spot": "blind_spot:BlindSpotNet",
    "blind_video": "blind_video:BlindVideoNet",
    "partial_conv": "partial_conv:PartialConvNet",
    "two_stage": "two_stage:TwoStage",
    "ptychonn": "ptychonn:PtychoNN",
    "autoencoder": "autoencoder:AutoEncoder",
    "cascade": "autoencoder:Cascade",
    "resnet_generator": "gan_generators:ResnetGenerator",
    "diffusion_unet": "diffusion:DiffusionUNet",
    "vae": "vae:VAE",
    "rvae": "rvae:RVAE",
    # from image to scores, from noise to image
    "patch_critic": "gan_critics:PatchCritic",
    "multi_scale_critic": "gan_critics:MultiScaleCritic",
    "image_critic": "gan_critics:ImageCritic",
    "latent_generator": "gan_generators:LatentGenerator",
    # classifiers
    "mlp": "mlp:MLP",
    "vgg": "vgg:VGG",
    "resnet": "resnet:ResNet",
    "densenet": "densenet:DenseNet",
    "xception": "xception:Xception",
    "vit": "vit:ViT",
}
"""Architectures by name: "module:Class" in this folder, imported when asked for; or the class."""


def network_class(name: str) -> Any:
    """The class of a registered architecture.

    Raises
    ------
    ValueError : an unknown name (suggests some).
    """
    if name not in NETWORKS:
        close = difflib.get_close_matches(name, NETWORKS, n=3, cutoff=0.4)
        known = ", ".join(close or sorted(NETWORKS))
        hint = f"Did you mean {known}?" if close else f"There are: {known}."
        raise ValueError(f"there is no network {name!r}. {hint} Your own is path/to/file.py:Name")
    entry = NETWORKS[name]
    if not isinstance(entry, str):
        return entry
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(f"emjax.networks.{module}"), attribute)


def build(name: str, key: jax.Array, **args: Any) -> tuple[Apply, dict[str, Any]]:
    """``(apply, params)`` of a registered architecture.

    Parameters
    ----------
    name : of `NETWORKS`.
    key : random key of the initial weights.
    **args : of the architecture.

    Raises
    ------
    ValueError : an unknown name (suggests some) or an argument that the architecture does not have.
    """
    factory = network_class(name)
    try:
        return pure(factory, key, **args)
    except TypeError as error:
        raise ValueError(f"the network {name!r} cannot be made with {args}: {error}") from error
