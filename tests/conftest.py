"""What every test shares: where the packages and the reference data lie, and JAX's strictness.

- ``pytest`` runs the quick tests, ``pytest -m slow`` the slow ones, ``-m "slow or not slow"`` all.
  A test named on the command line (``pytest file.py::name``) runs in any case.
- A test that takes the `shared` fixture skips where there is no reference data.
- Rank promotion raises; float64 is off (`x64` switches it on for one test).
- Array annotations (``Float[Array, "n 3"]``) are checked at run time where beartype is installed;
  ``EMJAX_TYPECHECK=0`` switches that off.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# tests/emjax and tests/simulators mirror the packages. Without the root on the path, Python takes
# these folders for the packages themselves (an editable install is looked up after the path).
sys.path.insert(0, str(ROOT))

# By environment, so that the subprocesses of tests obey them too; before JAX is imported.
os.environ["JAX_ENABLE_X64"] = "0"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# most of the time of these tests is compilation of programs that run once
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=1"
if "jax" in sys.modules:  # some plug-in was faster
    import jax

    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_numpy_rank_promotion", "raise")

if os.environ.get("EMJAX_TYPECHECK", "1") != "0" and importlib.util.find_spec("beartype"):
    from jaxtyping import install_import_hook

    install_import_hook(["simulators", "emjax"], "array_checks.check_arrays")


def pytest_configure(config: pytest.Config) -> None:
    named = any("::" in argument for argument in config.args)
    if not config.option.markexpr and not named:
        config.option.markexpr = "not slow"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")


MAPS = 20000
"""Memory maps of a process from which compiled programs are dropped; Linux allows 65530."""


@pytest.fixture(scope="module", autouse=True)
def _programs_do_not_pile_up() -> Iterator[None]:
    """Every program that XLA compiles keeps a dozen maps: thousands of tests end in a crash."""
    yield
    maps = Path("/proc/self/maps")
    if "jax" in sys.modules and maps.exists():
        with maps.open() as lines:
            many = sum(1 for _ in lines) > MAPS
        if many:
            sys.modules["jax"].clear_caches()
            gc.collect()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data; the test skips where there is none."""
    named = os.environ.get("EMJAX_SHARED")
    folder = Path(named).expanduser() if named else ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(
            f"no reference data at {folder / 'data'}: set EMJAX_SHARED to the folder that holds "
            "data/, or put that folder beside the checkout as ../shared"
        )
    return folder


@pytest.fixture
def x64() -> Iterator[None]:
    """float64 for one test: everything it computes has twice the digits."""
    import jax

    with jax.enable_x64(True):
        yield
