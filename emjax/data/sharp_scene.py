"""What the training images of `sharpen_stem` are like: plain numbers, no jax."""

from __future__ import annotations

from emjax.data.column_scene import ColumnScene


def linear_scene(patch: int) -> ColumnScene:
    """Bright columns on much background, exactly linear: what deconvolution is made for."""
    return ColumnScene(
        patch=patch,
        pixel=(0.12, 0.2),
        dose=(4.0, 250.0),
        energy=(0.75, 2.5),
        source_size=(0.7, 1.7),
        background=1.2,
        lattice=0.9,
        dark=0.0,
        curve=(1.0, 1.0),
        readout=0.0,
        jitter=0.0,
        line_gain=0.0,
    )
