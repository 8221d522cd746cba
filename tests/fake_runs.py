"""Run folders with the files of a real run and synthetic but plausible numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from data import long_tail
from data.names import class_names, parse
from data.store import StoreWriter
from engine.config import Config
from flags import STREAMS
from longtail import shots

SKILL = dict(zip(STREAMS, (1.0, 0.98, 0.99, 0.9, 0.86, 0.87)))
# A standing person, Kinect's 25 joints, (x, y, z) in meters, z up.
POSE = np.array(
    [
        (0, 0, 0.95), (0, 0, 1.2), (0, 0, 1.5), (0, 0, 1.65),
        (-0.18, 0, 1.42), (-0.25, 0, 1.15), (-0.27, 0.05, 0.92), (-0.27, 0.08, 0.85),
        (0.18, 0, 1.42), (0.25, 0, 1.15), (0.27, 0.05, 0.92), (0.27, 0.08, 0.85),
        (-0.1, 0, 0.92), (-0.12, 0.02, 0.5), (-0.12, 0, 0.1), (-0.12, 0.12, 0.05),
        (0.1, 0, 0.92), (0.12, 0.02, 0.5), (0.12, 0, 0.1), (0.12, 0.12, 0.05),
        (0, 0, 1.42), (-0.27, 0.1, 0.78), (-0.23, 0.1, 0.83), (0.27, 0.1, 0.78), (0.23, 0.1, 0.83),
    ]
)  # fmt: skip
PUBLISHED = next(key for key, name in long_tail.PUBLISHED.items() if name == "ntu60-xsub 100")


def sample_names(samples: int, classes: int) -> np.ndarray:
    """Return NTU's names, S001C001P001R001A001, the class last."""
    rounds = [j // classes for j in range(samples)]
    return np.array(
        [
            f"S001C{r % 3 + 1:03}P{r // 6 + 1:03}R{r // 3 % 2 + 1:03}A{j % classes + 1:03}"
            for j, r in enumerate(rounds)
        ]
    )


def true_labels(samples: int, classes: int) -> np.ndarray:
    return np.arange(samples) % classes


def class_counts(classes: int, most: int = 600, imbalance: int = 100) -> np.ndarray:
    return (most * imbalance ** (-np.arange(classes) / (classes - 1))).astype(int)


def scores(stream: str, samples: int, classes: int, seed: int = 0, tail: float = 1.2) -> np.ndarray:
    """Return probabilities (N, K) that confuse similar classes, and rare with frequent classes."""
    shared, own = np.random.default_rng(7), np.random.default_rng([seed, STREAMS.index(stream)])
    meaning = shared.normal(size=(classes, 6))
    alike = meaning @ meaning.T / 2.2
    labels = true_labels(samples, classes)
    logits = alike[labels] + shared.normal(size=(samples, classes))
    logits += own.normal(size=(samples, classes)) * 0.9
    logits[np.arange(samples), labels] += 3.4 * SKILL[stream]
    logits += tail * np.log(class_counts(classes) / 60) * 0.6
    odds = np.exp(1.4 * (logits - logits.max(1, keepdims=True)))
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32)


def epochs(result: dict, number: int = 24, seed: int = 0) -> list[dict]:
    """Return curves that end at the figures of `result`; the second stage helps the tail."""
    random = np.random.default_rng(seed)
    lines = []
    for epoch in range(number):
        stage = 2 if epoch >= number - 5 else 1
        grown = 1 - np.exp(-(epoch + 1.5) / 4)
        line = {
            "epoch": epoch,
            "stage": stage,
            "loss": 3.6 * np.exp(-epoch / 6) + 0.2 + 0.04 * (seed % 10),
        }
        line |= {"lr": 0.0125 * (1 + np.cos(np.pi * epoch / number)) / 2, "seconds": 312.0}
        line["samples_per_second"] = 314.0
        late = {"few": 0.75, "medium": 0.95}
        for key in ("top1", "mean_class", "many", "medium", "few"):
            value = result[key]
            if value is not None:
                share = grown * (late.get(key, 1) if stage == 1 else 1)
                value = max(0.0, value * share + random.normal())
            line[key] = value
        lines.append(line)
    return lines


def run_folder(
    path: Path,
    stream: str = "joint",
    samples: int = 1200,
    classes: int = 60,
    seed: int = 0,
    tail: float = 1.2,
    store: str = "data/ntu60",
    class_names: list[str] | None = None,
    **config,
) -> Path:
    """Write a run folder with all files of training and testing except the checkpoints."""
    path.mkdir(parents=True)
    names, labels = sample_names(samples, classes), true_labels(samples, classes)
    probabilities, counts = scores(stream, samples, classes, seed, tail), class_counts(classes)
    result = shots.accuracy(probabilities, labels, counts)
    settings = {"benchmark": "ntu60-xsub-lt", "method": "brl", **config}
    settings["model_args"] = {"num_class": classes}
    (path / "config.yaml").write_text(
        Config(stream=stream, seed=seed, store=store, **settings).to_yaml()
    )
    lines = epochs(result, seed=10 * seed + STREAMS.index(stream))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shuffled = np.random.default_rng(STREAMS.index(stream)).permutation(samples)
    np.savez(
        path / "scores.npz",
        names=names[shuffled],
        labels=labels[shuffled],
        scores=probabilities[shuffled],
    )
    result |= {
        "class_counts": counts.tolist(), "samples": samples, "samples_clean": samples,
        "top1_clean": result["top1"], "weights": "best.pt", "benchmark": settings["benchmark"],
        "stream": stream, "tag": "", "seed": seed, "method": settings["method"],
        "departures": [], "published_list": PUBLISHED, "list_digest": PUBLISHED, "code": "0c0de",
        "made_with": {"date": "2026-11-26", "torch": "2.13.0", "device": "cpu (AVX2)"},
    }  # fmt: skip
    if class_names is not None:
        result["class_names"] = class_names
    (path / "result.json").write_text(json.dumps(result))
    last = result | {"weights": "last.pt", "top1": result["top1"] - 0.4}
    (path / "result-last.json").write_text(json.dumps(last))
    return path


def benchmark_folder(path: Path, streams: tuple[str, ...] = STREAMS, **options) -> Path:
    for stream in streams:
        run_folder(path / stream, stream, **options)
    return path


def store(path: Path, samples: int, classes: int, titles: list[str] | None = None) -> Path:
    """Write a store of persons who wave and step, two of them in every third class."""
    titles = titles or [f"class {k}" for k in range(classes)]
    with StoreWriter(path, "ntu_rgb_d", titles, (2, 25, 3), source="synthetic") as writer:
        for name, label in zip(sample_names(samples, classes), true_labels(samples, classes)):
            clip = person(label, length=40 + label % 50)
            writer.add(str(name), int(label), clip, **parse(str(name))[1])
    return path


def person(label: int, length: int) -> np.ndarray:
    """Return (T, M, V, C) of a person whose limb motion depends on the class."""
    t = np.linspace(0, 2 * np.pi * (1 + label % 3), length)[:, None]
    clip = np.zeros((length, 2, 25, 3), np.float32)
    clip[:, 0] = POSE
    arm, leg = [9, 10, 11, 23, 24], [13, 14, 15]
    lift = np.array([0.15, 0.45, 0.55, 0.6, 0.58]) * (0.4 + 0.15 * (label % 5))
    clip[:, 0, arm, 2] += lift * (1 + np.sin(t))
    clip[:, 0, arm, 0] += lift * 0.4 * np.cos(t)
    clip[:, 0, leg, 1] += 0.12 * np.sin(t + label)
    if label % 3 == 0:
        clip[:, 1] = clip[:, 0] * (-1, -1, 1) + (0.9, 0.1, 0)
    return clip


if __name__ == "__main__":  # python -m tests.fake_runs FOLDER: an example benchmark
    root = Path(sys.argv[1])
    folder = store(root / "store", 16_000, 60, class_names("ntu120", 60))
    benchmark_folder(root / "ntu60-xsub-lt", samples=16_000, store=str(folder))
