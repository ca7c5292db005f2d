"""Several devices and several processes train as one does, also after one was killed.

The processes are real and talk over the loopback; each has two virtual devices.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from emjax.distributed import ClusterError, any_process, detect, from_first, initialize, rank

SCRIPT = """
import sys, time
import numpy as np

mode, root = sys.argv[1:]

from emjax.runs import open_run

def opened(name, resume=False):
    return open_run("tiny", {"seed": 0}, name=name, root=root, resume=resume)

first = opened({"alone": "whole", "kill": "pair", "resume": "pair", "back": "pair"}[mode],
               resume=mode in ("resume", "back"))
import jax, jax.numpy as jnp, optax
from emjax.sharding import vmap_over_devices
from emjax.training import fit, init_state, make_step

def make(table, key):  # the table is an argument of the compiled update
    def one(key):
        x = jax.random.normal(key, (8,))
        return x, jnp.abs(jnp.fft.fft(x))[:2] * table
    x, y = vmap_over_devices(one)(jax.random.split(key, 8))
    return {"x": x, "y": y, "scale": jnp.float32(1)}

draw = jax.tree_util.Partial(make, jnp.full(2, 0.25))

def loss(p, batch):
    y = jnp.tanh(batch["x"] @ p["a"]) @ p["b"]
    return batch["scale"] * jnp.mean((y - batch["y"]) ** 2), {"size": jnp.mean(jnp.abs(y))}

tx = optax.adam(1e-2)

def train(run, steps, pause=0, **options):
    a, b = jax.random.split(jax.random.key(0))
    params = {"a": jax.random.normal(a, (8, 16)) / 3, "b": jax.random.normal(b, (16, 2)) / 4}
    def evaluate(ema):
        time.sleep(pause)
        return {"b": jnp.sum(ema["b"])}
    state = fit(run, init_state(params, tx), make_step(loss, draw, tx, **options),
                jax.random.key(1), steps=steps, chunk=2, images_per_step=8, evaluate=evaluate,
                evaluate_every=2, checkpoint_every=4)
    assert all(len(x.sharding.device_set) == 1 for x in jax.tree.leaves(state))
    weights = {k: np.asarray(v) for k, v in state.params.items()}
    np.savez(run.path / "weights.npz", **weights)
    return weights

devices, processes = len(jax.devices()), jax.process_count()
print(f"devices {devices} processes {processes}", flush=True)
assert (devices, processes) == ((4, 1) if mode in ("alone", "back") else (4, 2))
if mode == "alone":
    four = train(first, 20)
    single = train(opened("single"), 20, devices=jax.devices()[:1])
    parts = train(opened("parts"), 20, accumulate=2, remat=True, loop="scan")
    for other in (single, parts):
        for name, value in four.items():
            np.testing.assert_allclose(other[name], value, atol=1e-6)
    train(opened("moved"), 8)
    compiled = make_step(loss, draw, tx)
    state = init_state({"a": jnp.zeros((8, 16)), "b": jnp.zeros((16, 2))}, tx)
    compiled.compile(state, jax.random.key(0), 1)
    text = next(iter(compiled._compiled.values())).as_text()
    assert "all-reduce" in text, "the devices share the work"
    assert "c64[2,8]{1,0} fft(" in text, "each device transforms its own images"
elif mode == "kill":
    train(first, 20, pause=0.1)
elif mode == "resume":
    train(first, 20)
    train(opened("moved", resume=True), 20)
else:
    train(first, 24)
    train(opened("whole", resume=True), 24)
"""

ORBAX = importlib.util.find_spec("orbax") is not None


class Launcher:
    def __init__(self, folder: Path) -> None:
        self.folder, self.script = folder, folder / "tiny.py"
        self.script.write_text(SCRIPT)

    def start(self, mode: str, processes: int = 1) -> list[subprocess.Popen]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("EMJAX_", "SLURM_"))}
        env |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "TMPDIR": str(self.folder)}
        flags = env.get("XLA_FLAGS", "")
        env["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={4 // processes}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        started = []
        for number in range(processes):
            if mode == "resume":  # what srun sets
                env |= {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost"}
                env |= {"SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": str(processes)}
                env |= {"SLURM_STEP_NUM_TASKS": str(processes), "SLURM_PROCID": str(number)}
                env |= {"SLURM_LOCALID": str(number), "JAX_COORDINATOR_PORT": port}
            elif processes > 1:
                env |= {"EMJAX_COORDINATOR": f"127.0.0.1:{port}", "EMJAX_RANK": str(number)}
                env["EMJAX_PROCESSES"] = str(processes)
            with self.log(mode, number).open("w") as log:
                command = [sys.executable, str(self.script), mode, str(self.folder)]
                started.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        return started

    def log(self, mode: str, number: int) -> Path:
        return self.folder / f"{mode}-{number}.log"

    def finish(self, mode: str, started: list[subprocess.Popen]) -> None:
        try:
            codes = [process.wait(300) for process in started]
        finally:
            for process in started:
                process.kill()
        texts = [self.log(mode, i).read_text()[-3000:] for i in range(len(started))]
        assert codes == [0] * len(started), "\n".join(texts)

    def weights(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / name / "weights.npz") as file:
            return dict(file)

    def rows(self, name: str) -> np.ndarray:
        """Of the metrics, without the times."""
        with (self.folder / name / "metrics.csv").open() as file:
            table = list(csv.DictReader(file))
        return np.array(
            [
                [float(v) for k, v in r.items() if k not in ("images_per_s", "seconds")]
                for r in table
            ]
        )


def assert_close(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, atol=1e-6)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.skipif(not ORBAX, reason="pip install orbax-checkpoint")
def test_devices_and_processes_train_as_one_also_after_a_kill(tmp_path):
    launcher = Launcher(tmp_path)
    pair = launcher.start("kill", 2)
    metrics, deadline = tmp_path / "pair" / "metrics.csv", time.monotonic() + 240
    while all(p.poll() is None for p in pair) and time.monotonic() < deadline:
        if metrics.is_file() and "\n10," in metrics.read_text():
            break
        time.sleep(0.02)
    pair[1].send_signal(signal.SIGKILL)
    alone = launcher.start("alone")
    try:  # the other finds out by itself or has to be ended
        pair[0].wait(5)
    except subprocess.TimeoutExpired:
        pair[0].kill()
    assert pair[1].wait() == -signal.SIGKILL, launcher.log("kill", 1).read_text()[-3000:]
    assert pair[0].wait() != 0
    assert not (tmp_path / "pair" / "weights.npz").exists()
    launcher.finish("alone", alone)  # 4 devices equal 1 to 1e-6, whole or in parts
    whole = launcher.weights("whole")
    expected = launcher.rows("whole")

    launcher.finish("resume", launcher.start("resume", 2))
    log = launcher.log("resume", 0).read_text()
    assert "resumed after 8 updates" in log or "resumed after 12 updates" in log
    second = launcher.log("resume", 1).read_text()
    assert "devices 4 processes 2" in second
    assert "update" not in second, "the first process speaks for all"
    assert_close(whole, launcher.weights("pair"))
    np.testing.assert_allclose(launcher.rows("pair"), expected, atol=2e-6)
    assert (tmp_path / "moved" / "checkpoint" / "20").is_dir()
    assert not (tmp_path / "moved" / "checkpoint.h5").exists()
    assert_close(whole, launcher.weights("moved"))  # written by one process, read by two
    np.testing.assert_allclose(launcher.rows("moved"), expected, atol=2e-6)

    launcher.finish("back", launcher.start("back"))
    assert "resumed after 20 updates" in launcher.log("back", 0).read_text()
    assert_close(launcher.weights("whole"), launcher.weights("pair"))  # by two, read by one
    assert (tmp_path / "pair" / "checkpoint.h5").is_file()
    assert not (tmp_path / "pair" / "checkpoint").exists()


# ---------------------------------------------------------------- who is there


def test_on_one_device_it_is_vmap():
    import jax

    from emjax.sharding import batch_size, data_mesh, on_one_device, vmap_over_devices

    assert data_mesh() is None
    keys = jax.random.split(jax.random.key(0), 3)
    one = vmap_over_devices(lambda key: jax.random.normal(key, (2,)))
    np.testing.assert_array_equal(one(keys), jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys))
    np.testing.assert_array_equal(jax.jit(one)(keys), one(keys))
    assert on_one_device(keys) is keys
    assert batch_size({"x": np.zeros((4, 2)), "y": np.zeros(4), "kinds": np.zeros(9)}) == 4
    with pytest.raises(ValueError, match="must be different ones"):
        data_mesh([jax.devices()[0]] * 2)


def test_a_process_by_itself():
    assert initialize() is False
    assert rank() == 0
    assert any_process(True, False) == (True, False)
    assert from_first("runs/a") == "runs/a"


SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, None),
        (SLURM, None),  # a batch script outside of srun
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "4"}, {}),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "4", "EMJAX_DISTRIBUTED": "0"}, None),
        ({"EMJAX_DISTRIBUTED": "1"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, {}),
    ],
)
def test_what_the_environment_says(env, found):
    assert detect(env) == found


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"EMJAX_RANK": "0"}, "EMJAX_COORDINATOR and EMJAX_PROCESSES must be set too"),
        (("a:1", "2", "2"), r"EMJAX_RANK=2 must lie in 0 … 1"),
        (("a:1", "two", "0"), "must be whole numbers"),
        (("a", "2", "0"), "must be host:port"),
        ({"EMJAX_DISTRIBUTED": "maybe"}, "choose 0, 1 or auto"),
    ],
)
def test_what_cannot_work(env, message):
    if isinstance(env, tuple):
        names = ("EMJAX_COORDINATOR", "EMJAX_PROCESSES", "EMJAX_RANK")
        env = dict(zip(names, env, strict=True))
    with pytest.raises(ClusterError, match=message):
        detect(env)


def test_too_late_to_join():
    import jax

    jax.devices()
    with pytest.raises(ClusterError, match="jax was used before"):
        initialize("127.0.0.1:1", 2, 0, timeout=1)


LOCK = """
import sys, time
from emjax.run_lock import lock_folder
lock = lock_folder(sys.argv[1])
print("locked", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX locks")
def test_two_processes_do_not_write_one_folder(tmp_path):
    from emjax.runs import RunError, open_run

    def open_(**options):
        return open_run("tiny", {"seed": 0}, root=tmp_path, name="tiny", **options)

    run = open_()
    del run
    command = [sys.executable, "-c", LOCK, str(tmp_path / "tiny")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "locked"
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(RunError, match=rf"being written by .*process {other.pid} on"):
                open_(**options)
        assert (tmp_path / "tiny" / "config.json").is_file()
        other.kill()  # a lock does not outlive its process
    first = open_(resume=True)
    again = open_(resume=True)
    assert first.path == again.path, "the process itself may open it twice"

    def elsewhere():
        code = LOCK.replace("time.sleep(60)", "")
        command = [sys.executable, "-c", code, str(tmp_path / "tiny")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    del first
    assert f"being written by another process (process {os.getpid()} on" in elsewhere().stderr
    del again
    assert elsewhere().stdout.strip() == "locked", "the last user gave it back"
