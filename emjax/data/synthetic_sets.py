"""What can be written as a simulated data set: recipes of one labelled image.

A recipe is a frozen dataclass of settings with ``build() -> draw``, where ``draw(key)`` gives one
image with its labels as a dict of arrays, always of the same shapes. To add one, write the class
and its line in `RECIPES`, or leave it in a file of your own and name it
``emjax dataset path/to/file.py:Mine``.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emjax.config import OpticsConfig, SceneConfig

if TYPE_CHECKING:
    import jax

Draw = Callable[["jax.Array"], dict[str, Any]]


@dataclass(frozen=True)
class Columns:
    """Annular dark-field images of random crystals, labelled with atom columns and species."""

    optics: OpticsConfig = field(default_factory=OpticsConfig)
    """The microscope; images scatter about it."""
    scene: SceneConfig = field(default_factory=SceneConfig)
    """What the images are like."""
    materials: tuple[str, ...] = ("graphene", "mos2", "ws2", "wse2", "srtio3", "silicon110")
    """Crystals (names in simulators.specimens.MATERIALS)."""
    classes: tuple[str, ...] = ("C", "Si", "S", "Se", "Mo", "W", "Ti", "Sr", "other")
    """What a column can be: its heaviest element, or "other" in a crystal that has no name."""
    engine: str = "linear"
    """Image model: linear, or prism (dynamical, from a bank of scattering matrices)."""
    specimens: int = 64
    """Scattering matrices of the engine prism, made at the start of every task."""

    def build(self) -> Draw:
        """One image: ``image`` [y, x, 2], ``heat`` and ``vacant`` [y, x], ``species`` [y, x, k]
        (see `emjax.data.synthetic.make_draw`)."""
        import jax

        from emjax.data.synthetic import make_draw
        from simulators.specimens import find_material

        draw = make_draw(
            self.scene,
            {name: find_material(name) for name in self.materials},
            self.classes,
            1,
            optics=self.optics,
            engine=self.engine,
            specimens=self.specimens,
        )
        # a Partial keeps what the draw holds as an argument of the compiled program
        return jax.tree_util.Partial(_first, draw)


def _first(draw: Draw, key: jax.Array) -> dict[str, Any]:
    return {name: leaf[0] for name, leaf in draw(key).items()}


RECIPES: dict[str, Any] = {"columns": Columns}
"""Recipes by name."""


def find_recipe(name: str) -> Any:
    """The recipe class of a name in `RECIPES`, or of ``path/to/file.py:Name`` (which is executed).

    Raises
    ------
    ValueError
        No such recipe, file or class in it; a class without `build`.
    """
    if name in RECIPES:
        return RECIPES[name]
    file, colon, attribute = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        known = ", ".join(RECIPES)
        raise ValueError(f"there is no recipe {name!r}: choose {known}, or path/to/file.py:Name")
    path = Path(file)
    spec = importlib.util.spec_from_file_location(f"emjax_recipe_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"there is no file {file}; run from the folder that it is in")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    recipe = getattr(module, attribute, None)
    if (
        recipe is None
        or not hasattr(recipe, "build")
        or not hasattr(recipe, "__dataclass_fields__")
    ):
        raise ValueError(
            f"{file} defines no recipe {attribute}: it is a frozen dataclass with a method build() "
            "that returns draw(key) -> dict of arrays of one image"
        )
    return recipe
