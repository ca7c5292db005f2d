"""Is this jax sound? jax 0.10.2 computes wrong numbers and crashes on the CPU (jax#39103, #39257).

The programs are those of `emjax doctor`, each in a process of its own: a bad jax takes down its own
process, not this one. pyproject excludes the versions known to fail; this test is for the next one.
"""

from __future__ import annotations

import jax

from emjax.cli import probes


def test_this_jax_computes_the_right_numbers_and_does_not_crash():
    numbers = probes.Probe(probes.NUMBERS, JAX_PLATFORMS="cpu", JAX_ENABLE_X64="1")
    crash = probes.Probe(probes.CRASH, JAX_PLATFORMS="cpu")
    advice = f"jax {jax.__version__} is not sound: install another version, and exclude this one"
    for probe in (numbers, crash):
        outcome = probe.outcome()
        assert outcome.problem == "", advice
        assert outcome.result == {"wrong": []}, advice
