"""`emjax doctor`: what it calls bad, and that it survives what it examines."""

from __future__ import annotations

import pytest

from emjax.cli import doctor, main, probes
from emjax.cli.doctor import judge_canary, judge_devices, judge_versions, machine_findings
from emjax.cli.probes import Outcome, Probe
from emjax.machine import GIB, Memory, cache_folder, memory, processor

GOOD = {"jax": "0.10.1", "jaxlib": "0.10.1", "flax": "0.12.8"}


def states(findings):
    return {finding.what: finding.state for finding in findings}


def test_a_sound_machine(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for what in ("python", "emjax", "jax", "flax", "memory", "disk", "backend"):
        assert f"  {what:<20}" in out
    assert f"ok    {'right numbers':<20}yes" in out
    assert f"ok    {'no crash':<20}yes" in out
    assert "BAD" not in out
    assert "emjax run locate_atoms --preset smoke" in out


def test_one_bad_finding_is_the_exit_status(capsys, monkeypatch):
    class Fake:
        def __init__(self, code, **variables):
            self.code = code

        def outcome(self):
            if self.code is probes.NUMBERS:
                return Outcome({"wrong": ["float32 row 32768: 1 instead of 2"]})
            if self.code is probes.CRASH:
                return Outcome(None, "crashes (SIGSEGV)")
            return Outcome({"backend": "cpu", "devices": [{"kind": "cpu", "memory": None}]})

    monkeypatch.setattr(doctor, "Probe", Fake)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert f"BAD   {'right numbers':<20}float32 row 32768: 1 instead of 2" in out
    assert f"BAD   {'no crash':<20}crashes (SIGSEGV)" in out
    assert "Nothing that this jax computes can be trusted" in out
    assert "2 problems: right numbers, no crash." in out


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashes (SIGSEGV)"),
        ("raise ImportError('no jax')", "ImportError: no jax"),
        ("import sys; sys.exit(7)", "exit status 7"),
        ("print('hello')", "gave no answer"),
        ("pass", "gave no answer"),
    ],
)
def test_probes_may_die(code, problem):
    outcome = Probe(code).outcome(timeout=30)
    assert outcome.result is None
    assert problem in outcome.problem


def test_a_probe_that_hangs_is_ended():
    outcome = Probe("import time; time.sleep(60)").outcome(timeout=0.5)
    assert outcome.problem == "hangs: no answer within 0 s"


def test_a_probe_answers_in_its_last_line_and_sees_its_variables(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    code = (
        "import os\nprint('noise')\n"
        "print(json.dumps([os.environ['COLOUR'], 'JAX_COMPILATION_CACHE_DIR' in os.environ]))"
    )
    assert Probe(code, COLOUR="red").outcome(30).result == ["red", False]


@pytest.mark.parametrize("version", ["0.10.2", "0.11.0", "0.11.1", "0.9.2", "0.10.0"])
def test_versions_of_jax_that_are_refused(version):
    findings = judge_versions({**GOOD, "jax": version, "jaxlib": version})
    assert states(findings)["jax"] == "bad"
    assert states(findings)["jaxlib"] == "bad"
    advice = next(f.advice for f in findings if f.what == "jax")
    assert "constraints.txt" in advice


@pytest.mark.parametrize("version", ["0.10.1", "0.11.2", "0.12.0.1", "0.12.1.dev3"])
def test_versions_of_jax_that_are_taken(version):
    findings = judge_versions({**GOOD, "jax": version, "jaxlib": version})
    assert set(states(findings).values()) == {"ok"}


def test_refused_versions_are_those_of_the_project(root):
    import tomllib

    needs = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    spec = next(need for need in needs if need.startswith("jaxlib"))
    assert ">=" + ".".join(map(str, doctor.OLDEST_JAX)) in spec
    excluded = {part.strip()[2:] for part in spec.split(",") if part.strip().startswith("!=")}
    assert excluded == {".".join(map(str, version)) for version in doctor.BAD_JAX}


def test_missing_and_unlike_packages():
    findings = judge_versions({**GOOD, "jaxlib": "0.12.0", "flax": "", "optax": ""})
    found = {finding.what: finding for finding in findings}
    assert found["not installed"].value == "flax, optax"
    assert found["not installed"].state == "bad"
    assert found["jax and jaxlib"].state == "bad"


def test_what_is_said_of_devices(monkeypatch):
    from emjax import environment

    monkeypatch.setattr(environment, "nvidia_driver", lambda: "580.65.06")
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    cpu = Outcome({"backend": "cpu", "devices": [{"kind": "cpu", "memory": None}]})
    [finding] = judge_devices(cpu)
    assert finding.state == "note"
    assert "An NVIDIA GPU is not used" in finding.advice
    device = {"kind": "NVIDIA H100", "memory": 60 * GIB}
    [finding] = judge_devices(Outcome({"backend": "gpu", "devices": [device]}))
    assert finding.value == "gpu: NVIDIA H100, 60 GiB for jax"
    assert "XLA_PYTHON_CLIENT_PREALLOCATE=false" in finding.advice
    broken = {**cpu.result, "broken": "ImportError: cannot import name 'x' from 'jax'"}
    assert states(judge_devices(Outcome(broken)))["import of flax"] == "bad"
    [finding] = judge_devices(Outcome(None, "crashes (SIGABRT)"))
    assert (finding.state, finding.value) == ("bad", "crashes (SIGABRT)")


def test_a_canary_that_sings():
    assert judge_canary("right numbers", Outcome({"wrong": []})).state == "ok"


def test_little_memory_and_disk_are_noted(tmp_path, monkeypatch):
    found = {f.what: f for f in machine_findings(Memory(8 * GIB, 1 * GIB), tmp_path)}
    assert found["memory"].value == "8.0 GiB, 1.0 GiB free"
    assert found["memory"].state == "note"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    found = {f.what: f for f in machine_findings(Memory(None, None), tmp_path)}
    assert found["disk"].state == "bad"
    assert "memory" not in found


def test_the_limit_of_a_container_counts(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 64000000 kB\nMemAvailable: 32000000 kB\n")
    assert memory(tmp_path) == Memory(64000000 * 1024, 32000000 * 1024)
    group = tmp_path / "sys/fs/cgroup/job_7"
    group.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/job_7\n")
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("3000000000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 500000000\n")
    assert memory(tmp_path).total == 64000000 * 1024
    (group / "memory.max").write_text("4000000000\n")
    assert memory(tmp_path) == Memory(4000000000, 1500000000)


def test_this_machine_has_memory():
    found = memory()
    assert found.total is None or found.total > 2**28
    assert found.available is None or 0 < found.available <= found.total


def test_the_cache_is_one_folder_per_processor(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "proc").mkdir()
    names = set()
    for flags in ("avx avx2", "avx avx2 avx512f"):
        (tmp_path / "proc/cpuinfo").write_text(f"processor: 0\nflags: {flags}\n" * 2)
        folder = cache_folder(tmp_path)
        assert folder == cache_folder(tmp_path)
        assert folder.parent == tmp_path / "cache/emjax"
        names.add(folder.name)
    assert len(names) == 2


def test_the_processor_is_told_by_its_model_and_arithmetic(tmp_path):
    (tmp_path / "proc").mkdir()

    def told(model, flags):
        text = f"model name\t: {model}\ncpu MHz\t: 1\nflags\t: {flags}\n"
        (tmp_path / "proc/cpuinfo").write_text(text * 2)
        return processor(tmp_path)

    first = told("Xeon 1", "fpu avx2 fma")
    assert first.startswith("Xeon 1 (")
    assert told("Xeon 1", "fma fpu avx2 md_clear") == first, "nothing that arithmetic knows"
    assert len({first, told("Xeon 2", "fpu avx2 fma"), told("Xeon 1", "avx2 avx512f fma")}) == 3
