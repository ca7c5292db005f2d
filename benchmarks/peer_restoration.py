"""Another program's restorer in that program's own Python; `benchmarks.restoration` starts it.

    PYTHON peer_restoration.py NAME [MODELS]

Reads lines from stdin, each a JSON list of two paths: an npy of counts [y, x] to read, and an npy
of the restored image in counts to write; answers each with a line "PEER {...}" that holds the
seconds or an error. Needs NumPy and the peer, nothing of emjax.

tk_r_em (Lobato, Friedrich & Van Aert 2024; TensorFlow): the network for high-resolution STEM. topaz
(topaz-em, Bepler et al. 2020; PyTorch, setuptools < 80): its pretrained U-Net for cryo-EM.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable

# the folder of this file has modules whose names a peer may use for its own
sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != os.path.dirname(__file__)]

import numpy as np  # noqa: E402


def tk_r_em(models: str) -> Callable[[np.ndarray], np.ndarray]:
    """Counts scaled to the 16-bit range that the package expects, and back."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not models:
        spec = importlib.util.find_spec("tk_r_em")
        places = list(spec.submodule_search_locations or ()) if spec else []
        if not places:
            raise ModuleNotFoundError("No module named 'tk_r_em'")
        models = os.path.join(places[0], "models")
    folder = os.path.join(models, "sfr_hrstem")
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"no {folder}: unpack the source package of tk_r_em (its models lie there) and name "
            "its folder models with --peer-models"
        )
    import tensorflow as tf

    # the loaded object owns the weights, so the function below must keep it
    loaded = tf.saved_model.load(folder)
    signature = loaded.signatures["serving_default"]
    graph = tf.function(lambda x: next(iter(signature(input_gen=x).values())))

    def restore(counts: np.ndarray, owner: object = loaded) -> np.ndarray:
        scale = 40000.0 / max(float(np.percentile(counts, 99.9)), 1.0)
        scaled = (counts * scale).astype(np.float32)[None, ..., None]
        return graph(tf.constant(scaled)).numpy()[0, ..., 0] / scale

    return restore


def topaz(models: str) -> Callable[[np.ndarray], np.ndarray]:
    """The denoiser scales by the image's own mean and deviation, and back."""
    from topaz.denoise import Denoise

    denoiser = Denoise(models or "unet")
    return lambda counts: np.asarray(denoiser.denoise(counts))


PEERS = {"tk_r_em": tk_r_em, "topaz": topaz}


def answer(**values: object) -> None:
    print("PEER " + json.dumps(values), flush=True)


def main() -> None:
    try:
        restore = PEERS[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else "")
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")
        return
    answer(ready=True)
    for line in sys.stdin:
        try:
            source, target = json.loads(line)
            counts = np.load(source)
            start = time.perf_counter()
            image = restore(counts)
            seconds = time.perf_counter() - start
            np.save(target, np.asarray(image, np.float32))
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}")
        else:
            answer(seconds=seconds)


if __name__ == "__main__":
    main()
