"""Restoring images: trained denoisers on your own files, partial scans, finer pixels.

>>> restorer = load_restorer("runs/denoise_stem")                             # doctest: +SKIP
>>> image, sigma = restorer(counts)                                           # doctest: +SKIP
"""

from __future__ import annotations

from emjax.restoration.restorer import (
    OF_ELECTRONS,
    TASK,
    RestorationError,
    Restored,
    Restorer,
    load_restorer,
)

__all__ = ["OF_ELECTRONS", "TASK", "RestorationError", "Restored", "Restorer", "load_restorer"]
