"""From where several processes go on is decided by the first; each must see the checkpoint.

The processes are real and talk over the loopback. The second one is given a folder of its own
where its file system is not the first one's.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys

import pytest

SCRIPT = """
import shutil, sys
from pathlib import Path

from emjax import distributed

distributed.initialize()
import jax, jax.numpy as jnp, numpy as np, optax
from emjax import checkpoints_global
from emjax.checkpoints import CheckpointError, save_checkpoint
from emjax.runs import Run
from emjax.training import fit, init_state, make_step

root, rank = Path(sys.argv[1]), jax.process_index()
tx, key = optax.sgd(0.1), jax.random.key(1)
step = make_step(lambda p, x: (jnp.mean((x @ p["w"] - 1) ** 2), {}),
                 lambda key: jax.random.normal(key, (4, 2)), tx)

def begin():
    return init_state({"w": jnp.ones(2)}, tx)

def file(folder, updates):
    state = begin()
    state = state.__class__(state.params, state.ema, state.opt_state, jnp.int32(updates))
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"step": updates, "seconds": 0.0}
    save_checkpoint(folder / "checkpoint.h5", {"state": state, "key": key}, meta=meta)

def go_on(name, stop=None):
    mine = root / str(rank) / name
    mine.mkdir(parents=True, exist_ok=True)
    # no checkpoint is written: there is nothing to train but in the second
    options = {"steps": 4, "chunk": 2, "images_per_step": 4, "resume": True, "stop": stop}
    return fit(Run(mine, home=mine), begin(), step, key, **options)

def refused(name):
    try:
        go_on(name)
    except CheckpointError as error:
        return str(error)
    return "went on"

# the first process has a checkpoint, the second has none, or an older one
if rank == 0:
    file(root / "0" / "lacks", 4)
file(root / str(rank) / "older", 4 if rank == 0 else 2)
file(root / str(rank) / "same", 4)
file(root / str(rank) / "broken", 4)
if rank == 1:
    whole = (root / "1" / "broken" / "checkpoint.h5").read_bytes()
    (root / "1" / "broken" / "checkpoint.h5").write_bytes(whole[: len(whole) // 2])
for name in ("lacks", "older", "broken"):
    print(name, "|", refused(name).replace(chr(10), " "), flush=True)
print("same", "|", int(go_on("same").step), flush=True)

# the second has one, the first has not: both begin
checkpoints_global.save_state = lambda *_: None
if rank == 1:
    file(root / "1" / "new", 4)
state = go_on("new")
print("new", "|", int(state.step), np.asarray(state.params["w"]).tolist(), flush=True)

# the first saw a reason to stop, in rows that the second does not have
file(root / str(rank) / "stopped", 2)
if rank == 0:
    (root / "0" / "stopped" / "metrics.csv").write_text("step,loss,val_a\\n2,1.0,1.0\\n")
state = go_on("stopped", stop=lambda history: "enough")
print("stopped", "|", int(state.step), flush=True)
"""


ORBAX = importlib.util.find_spec("orbax") is not None


@pytest.mark.skipif(not ORBAX, reason="pip install orbax-checkpoint")
@pytest.mark.skipif(os.name == "nt", reason="files are replaced while they are read")
def test_the_first_process_decides_and_each_needs_what_it_chose(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = {k: v for k, v in os.environ.items() if not k.startswith(("EMJAX_", "SLURM_"))}
    env |= {"JAX_PLATFORMS": "cpu", "EMJAX_COORDINATOR": f"127.0.0.1:{port}"}
    env |= {"EMJAX_PROCESSES": "2", "TF_CPP_MIN_LOG_LEVEL": "3"}
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    started = []
    for rank, log in enumerate(logs):
        with log.open("w") as file:
            command = [sys.executable, str(script), str(tmp_path)]
            own = env | {"EMJAX_RANK": str(rank)}
            started.append(subprocess.Popen(command, env=own, stdout=file, stderr=file))
    try:
        codes = [process.wait(180) for process in started]
    finally:
        for process in started:
            process.kill()
    texts = [log.read_text() for log in logs]
    assert codes == [0, 0], "\n".join(text[-3000:] for text in texts)
    said: list[dict[str, str]] = [{}, {}]
    for rank, text in enumerate(texts):
        for line in text.splitlines():
            name, bar, rest = line.partition(" | ")
            if bar:
                said[rank][name] = rest
    first, second = said
    for name in ("lacks", "older"):
        for found in said:
            assert "checkpoint.h5 after 4 updates, but" in found[name]
            assert "a file system that all hosts share" in found[name]
        assert "but another process does not see it" in first[name]
        assert f"but process 1 on {socket.gethostname()} does not see it" in second[name]
    assert "another process cannot read its checkpoint" in first["broken"]
    assert "truncated or damaged" in second["broken"]
    assert first["same"] == second["same"] == "4"
    assert first["new"] == second["new"]
    assert first["new"].startswith("4 [")
    assert "[1.0, 1.0]" not in first["new"], "it was trained from the first update"
    assert first["stopped"] == second["stopped"] == "2"
