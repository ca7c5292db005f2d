"""abTEM's reference arrays through the harness that anyone can run on files of their own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.abtem_parity import error_of, main, run_file

OUTPUTS = {
    "dev_constants": 18,
    "dev_potential_srtio3": 6,
    "dev_exit_srtio3": 3,
    "dev_probe_aberrations": 2,
    "dev_cbed_si110": 4,
    "dev_stem_mos2": 10,
    "dev_hrtem_graphene_si": 7,
    "dev_prism_gaas110": 9,
    "dev_tilt_au_particle": 2,
    "dev_phonons_srtio3": 3,
}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_agreement_with_abtem(shared, name, precision, request):
    if precision == "float64":
        request.getfixturevalue("x64")
    path = shared / "data" / "abtem_refs" / f"{name}.npz"
    rows = run_file(path, precision)
    assert [row for row in rows if row[4] != "pass"] == []
    assert len(rows) == OUTPUTS[name]


def test_an_unknown_file_of_the_format_runs_and_a_wrong_number_fails(tmp_path, capsys):
    from simulators.electron import wavelength

    energy = np.array([40e3, 90e3])
    recipe = {"kind": "constant", "quantity": "wavelength [A]", "argument": "energy [eV]"}
    meta = json.dumps({"recipes": {"out": recipe, "odd": {"kind": "magnetic"}}})
    good = wavelength(energy)
    np.savez(tmp_path / "case.npz", meta=meta, energy=energy, out=good, odd=good)
    assert main([str(tmp_path)]) == 0
    assert "2 pass, 0 FAIL, 2 not supported yet" in capsys.readouterr().out
    assert main([str(tmp_path), "--strict"]) == 1
    np.savez(tmp_path / "case.npz", meta=meta, energy=energy, out=good * 1.001, odd=good)
    assert main([str(tmp_path)]) == 1
    assert "2 FAIL" in capsys.readouterr().out


def test_the_error_measure():
    assert error_of(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25
    assert error_of(np.ones(3), np.ones(2)) == np.inf
    assert error_of(np.array([np.nan, 1]), np.ones(2)) == np.inf


def test_an_empty_folder(tmp_path):
    assert main([str(tmp_path)]) == 1
