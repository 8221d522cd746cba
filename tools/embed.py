"""Visualize the features of a trained network, and explain single predictions.

python -m tools.embed work_dir/ntu60-xsub-lt/joint/best.pt
python -m tools.embed work_dir/ntu60-xsub-lt/joint/best.pt --explain S001C001P003R001A010

The first command writes the features of a split to features.npz, and PCA and t-SNE plots colored by
shot group and by class. The second writes the relevance of each joint and frame (gradient x input)
as npz, and draws it on the skeleton.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from data.names import file_name
from data.view import pose
from engine import checkpoint, config, evaluate, precision
from engine.build import make_feeder
from engine.distributed import World, choose_devices
from engine.predict import LoadedNetwork
from engine.run_data import Data, check_store, open_test_data, remembered
from errors import InputError, Parser, run_command
from feeders.skeleton import Batch
from files import replacing
from longtail import shots
from model import upstream
from tools.plots import SHOTS, STYLE, save
from tools.relevance import draw, relevance


class FeatureRecorder(nn.Module):
    """A network that keeps the features of the clips it has seen, averaged over each sample's."""

    def __init__(self, model: Any, clips: int) -> None:
        super().__init__()
        self.model, self.clips = model, clips
        self.kept: list[torch.Tensor] = []  # each (N, D)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        found = self.model.features(clips)  # (N S, D)
        self.kept.append(found.float().unflatten(0, (-1, self.clips)).mean(1).cpu())
        return self.model.classify(found)


def features(
    model: Any, feeder: Any, device: torch.device, settings: config.Config
) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, D), averaged over the clips of a sample, and predicted classes (n,)."""
    recorder = FeatureRecorder(model, feeder.clips)
    scores = evaluate.score(recorder, feeder, settings, device, show="features")
    return torch.cat(recorder.kept).numpy(), scores.argmax(1)


def pca(features: np.ndarray) -> np.ndarray:
    """Return the first two principal components (n, 2)."""
    centered = features.astype(np.float64) - features.mean(0)
    left, size, _ = np.linalg.svd(centered, full_matrices=False)
    return left[:, :2] * size[:2]


def tsne(features: np.ndarray) -> np.ndarray:
    """Return a t-SNE embedding (n, 2); InputError if scikit-learn is not installed."""
    try:
        from sklearn.manifold import TSNE
    except ModuleNotFoundError:
        raise InputError(
            "t-SNE requires scikit-learn: pip install scikit-learn, or give --no-tsne"
        ) from None
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features)


def picture(
    points: np.ndarray,
    labels: np.ndarray,
    class_counts: np.ndarray | None,
    limits: Sequence[int],
    class_names: list[str],
    title: str,
) -> Figure:
    """Draw points (n, 2) colored by class and, if the counts are known, by shot group."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    figure.suptitle(title, fontsize=10)
    by_class, *by_shot = figure.subplots(1, 1 if class_counts is None else 2, squeeze=False)[0]
    K = len(class_names)
    colors = matplotlib.colormaps["hsv"](np.arange(K) / K)
    by_class.scatter(*points.T, s=4, c=colors[labels], linewidth=0)
    by_class.set_title("by class (names at the class medians)", fontsize=8)
    for k in np.unique(labels):
        place = np.median(points[labels == k], axis=0)
        by_class.annotate(class_names[k], place, fontsize=4.5 if K > 20 else 6, ha="center")
    for axes in by_shot:
        for name, mask in shots.groups(class_counts, limits).items():
            inside = mask.numpy()[labels]
            axes.scatter(*points[inside].T, s=4, c=SHOTS[name], linewidth=0, label=name)
        axes.set_title("by shot group of the class", fontsize=8)
        axes.legend(markerscale=3, fontsize=8)
    for axes in figure.axes:
        axes.axis("off")
    return figure


def embed(settings: config.Config, data: Data, model: nn.Module, args: argparse.Namespace) -> None:
    """Write features.npz and plots of the split, or of evenly spaced samples of it."""
    rows = data.test_rows if args.split == "test" else data.train_rows
    if rows is None:
        raise InputError(
            f"training_list {settings.training_list}: cannot be read; use --split test"
        )
    if args.samples and args.samples < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, args.samples).round().astype(int)]
    device = next(model.parameters()).device
    feeder = make_feeder(settings, data, rows, device, clips=settings.test_clips)
    found, predicted = features(model, feeder, device, settings)
    counts = None if data.class_counts is None else data.class_counts.numpy()
    pictures: dict[str, Any] = {"pca": pca(found)}
    pictures |= {"tsne": tsne(found)} if args.tsne else {}
    known: dict[str, Any] = {} if counts is None else {"class_counts": counts}
    labels = data.store.labels[rows]
    with replacing(args.out / "features.npz") as file:
        np.savez(
            file, features=found, names=np.array(feeder.names), labels=labels, predicted=predicted,
            **pictures, **known,
        )  # fmt: skip
    print(args.out / "features.npz")
    for name, points in pictures.items():
        title = f"{settings.benchmark} {settings.stream}, {args.split} split, {name}"
        figure = picture(
            points, labels, counts, settings.shot_limits, data.store.class_names, title
        )
        print(*save(figure, args.out / name), sep="\n")


def explain(
    settings: config.Config, data: Data, model: nn.Module, args: argparse.Namespace
) -> None:
    """Write the relevance of joints and frames for the predicted class of each named sample."""
    rows = data.store.rows_of(args.explain, "--explain")
    device = next(model.parameters()).device
    batch = torch.arange(len(rows))
    ((clips, _, _),) = make_feeder(settings, data, rows, device).batches([Batch(batch)])
    with torch.no_grad():
        classes = model(clips).argmax(1)
    shares = relevance(model, clips, classes).cpu().numpy()  # (N, M, T, V)
    # The joint stream of the same frames, to draw the body for any stream.
    joints = make_feeder(settings.replace(stream="joint"), data, rows, device)
    ((bodies, _, _),) = joints.batches([Batch(batch)])
    names = data.store.class_names
    for i, name in enumerate(args.explain):
        body = bodies[i].cpu().numpy().swapaxes(0, 1)  # (T, M, V, C)
        points = pose(body, data.skeleton)
        predicted = int(classes[i])
        title = f"{name}: {names[predicted]} (true: {names[data.store.labels[rows[i]]]})"
        path = args.out / f"relevance-{file_name(name)}"
        with replacing(path.with_name(f"{path.name}.npz")) as file:
            np.savez(file, relevance=shares[i], joints=body, predicted=predicted)
        figure = draw(shares[i], points, data.skeleton, title, settings.stream)
        print(*save(figure, path), sep="\n")


def main(argv: list[str]) -> None:
    parser = Parser(prog="python -m tools.embed", description=__doc__)
    add = parser.add_argument
    add("weights", type=Path, help="checkpoint")
    add("--split", choices=("test", "train"), default="test", help="split (default: test)")
    add("--samples", type=int, metavar="N", help="only N evenly spaced samples of the split")
    add("--no-tsne", dest="tsne", action="store_false", help="PCA only")
    add("--explain", nargs="+", metavar="NAME", help="relevance for these samples instead")
    add("--out", type=Path, metavar="DIR", help="output folder (default: next to weights; embed, "
        "or by weights and split, as embed-last-train)")  # fmt: skip
    add("--config", nargs="+", metavar="FILE", help="configuration, for a foreign checkpoint")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="override a key of the test, e.g. store=data/elsewhere")  # fmt: skip
    add("--device", nargs="+", help="GPU index, or cpu")
    args = parser.parse_args(argv)
    if args.explain:
        reason = "does not apply to --explain, which names the samples itself"
        parser.refuse(args, "--split", "--samples", "--no-tsne", reason=reason)
    if args.samples is not None and args.samples < 2:
        raise InputError(f"--samples: must be at least 2, not {args.samples}")
    config.check_used(args.set, config.TEST_KEYS, "an embedding")
    other = [word for word in (args.weights.stem, args.split) if word not in ("best", "test")]
    args.out = args.out or args.weights.parent / "-".join(["embed", *other])
    given = config.resolve(args.config, args.set) if args.config else None
    device = choose_devices(args.device, World())[0]
    network = LoadedNetwork.load(args.weights, device, given, args.set)
    settings = network.config
    model: Any = network.model.eval()
    if not args.explain and not callable(getattr(model, "features", None)):
        raise InputError(
            f"{args.weights}: {settings.model} does not have one feature vector per clip; only "
            "--explain NAME is possible"
        )
    precision.set_tf32(settings.tf32)
    data = open_test_data(settings, model)
    facts = checkpoint.facts_of(upstream.read(args.weights))
    if doubt := check_store(facts, data.store, model.num_class, args.weights):
        print(f"warning: {doubt}", file=sys.stderr)
    data = remembered(facts, data)
    with matplotlib.rc_context(STYLE):
        (explain if args.explain else embed)(settings, data, model, args)


if __name__ == "__main__":
    sys.exit(run_command(main))
