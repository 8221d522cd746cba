"""How long one clip takes from raw joints to class probabilities, on one CPU core.

python -m tools.benchmark_predict
"""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

from engine.build import make_model
from engine.config import Config
from engine.predict import InputSpec, LoadedNetwork, Recognizer
from errors import Parser, run_command
from files import write_json

CPU = torch.device("cpu")


def recognizer(model: str, clips: int) -> Recognizer:
    """Return an untrained network of full size for NTU RGB+D 60: weights do not change the time."""
    config = Config(model=model, model_args={"graph": "ntu_rgb_d"}, test_clips=clips)
    model = make_model(config)
    network = LoadedNetwork(Path("untrained"), config, model, InputSpec.of(model, {}))
    return Recognizer([network], CPU)


def latencies(network: Recognizer, frames: int, repeats: int) -> np.ndarray:
    """Return (repeats, 2) seconds and CPU seconds of calls on a clip of one person, two before."""
    steps = np.random.default_rng(0).normal(size=(frames, 1, 25, 3))
    clip = (0.01 * steps).cumsum(axis=0).astype(np.float32)
    seconds = []
    for _ in range(2 + repeats):
        started = time.perf_counter(), time.process_time()
        network(clip)
        ended = time.perf_counter(), time.process_time()
        seconds.append(np.subtract(ended, started))
    return np.array(seconds[2:])


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools.benchmark predict", description=__doc__)
    parser.add_argument("--model", default="model.stgcnpp.Model")
    parser.add_argument("--frames", type=int, default=100, help="of the raw clip")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the medians to this file too")
    parser.add_argument("--debug", action="store_true", help="errors with their traceback")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"{options.model}, {platform.machine()}, torch {torch.__version__}, 1 thread")
    results = []
    for clips in (1, 10):
        seconds = latencies(recognizer(options.model, clips), options.frames, options.repeats)
        wall, busy = 1000 * np.median(seconds, axis=0)
        fastest = 1000 * seconds[:, 0].min()
        print(
            f"{clips:2d} test clips: median {wall:.0f} ms (fastest {fastest:.0f}), "
            f"of which the core worked {busy:.0f} ms"
        )
        results.append({"clips": clips, "milliseconds": wall, "core_milliseconds": busy})
    if options.json:
        write_json(options.json, {"model": options.model, "results": results})


if __name__ == "__main__":
    sys.exit(run_command(main))
