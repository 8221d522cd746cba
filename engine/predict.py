"""A trained recogniser for clips of one's own: `Recognizer.load('best.pt')(clip)`.

A clip goes the way of testing: the data set's normalization, then the feeder's stream and choice of
frames, and the mean of the probabilities over test clips; several checkpoints are fused.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import graph
from data import clip_file, measure, names, normalize, quality
from data.measure import Size
from data.store import Store
from engine import checkpoint, evaluate, precision
from engine.build import feeder_of
from engine.config import Config
from engine.distributed import World, choose_devices
from engine.fusion import Scores, fuse, fusions_of
from errors import InputError
from longtail.calibration import tempered
from model.fold import fuse_bn

# Class names for a checkpoint that has none, by its layout and number of classes.
DATA_SETS = {
    ("ntu_rgb_d", 60): "ntu120",
    ("ntu_rgb_d", 120): "ntu120",
    ("nw_ucla", 10): "nw-ucla",
    ("coco", 400): "kinetics400",
}
UNKNOWN = "unknown"  # the answer where no class is likely enough


@dataclass(frozen=True)
class Prediction:
    """The class probabilities of one clip."""

    source: str  # the file, or what the caller named the clip
    names: tuple[str, ...]  # (K,) of the classes
    probabilities: np.ndarray  # (K,) float32, sums to 1: the mean over the windows
    spans: np.ndarray  # (W, 2) int64: first frame of each window, and the one after its last
    windows: np.ndarray  # (W, K) float32, each row sums to 1
    warning: str = ""  # why the clip may not be what it is taken for
    threshold: float = 0.0  # the least probability of an answer

    @property
    def answer(self) -> str:
        """The likeliest class, or `unknown` if its probability is below the threshold."""
        return answer(self.names, self.probabilities, self.threshold)

    def top(self, k: int = 3) -> list[tuple[str, float]]:
        """Return the k most probable classes as (name, probability), the first the likeliest."""
        return best(self.names, self.probabilities, k)


def best(names: Sequence[str], probabilities: np.ndarray, k: int) -> list[tuple[str, float]]:
    order = np.argsort(-probabilities, kind="stable")[:k]
    return [(names[row], float(probabilities[row])) for row in order]


def answer(names: Sequence[str], probabilities: np.ndarray, threshold: float) -> str:
    """Return the likeliest of the classes, or `unknown` below the threshold."""
    ((name, probability),) = best(names, probabilities, 1)
    return name if probability >= threshold else UNKNOWN


@dataclass(frozen=True)
class InputSpec:
    """What a network takes; checkpoints that are fused have it in common."""

    skeleton: graph.Skeleton
    persons: int
    channels: int
    normalization: str  # a name of normalize.NORMALIZATIONS
    centre: int
    class_names: tuple[str, ...]
    size: Size | None = field(default=None, compare=False)  # of the bodies it was trained on

    @property
    def planar(self) -> bool:
        """Whether joints are x, y and perhaps a score."""
        return self.skeleton.confidence or self.channels == 2

    @classmethod
    def of(cls, model: nn.Module, state: dict[str, Any]) -> InputSpec:
        """Return what a network takes: its own facts, and what its checkpoint says of the data.

        A foreign checkpoint says nothing of them. InputError for a network without these facts.
        """
        try:
            skeleton, num_class = model.skeleton, model.num_class
            persons, channels = model.num_person, model.in_channels
        except AttributeError as error:
            raise InputError(
                f"{type(model).__module__}.{type(model).__name__} must be a model.backbone.Backbone"
                f", or have its skeleton, num_class, num_person and in_channels: {error}"
            ) from None
        said = state if checkpoint.is_own(state) else {}
        return cls(
            skeleton,
            persons,
            channels,
            normalize.name_in(said) or normalize.USUAL.get(skeleton.name, "none"),
            said.get("centre") or 0,
            names_of(num_class, said.get("class_names"), skeleton.name),
            Size(*said["size"]) if said.get("size") else None,
        )

    def differences(self, other: InputSpec) -> list[str]:
        """Return what another network takes otherwise; how the joints are linked is its own."""
        ours, theirs = (
            dataclasses.replace(each, skeleton=dataclasses.replace(each.skeleton, edges=()))
            for each in (self, other)
        )
        names = [field.name for field in dataclasses.fields(InputSpec) if field.compare]
        return [name for name in names if getattr(ours, name) != getattr(theirs, name)]


def names_of(num_class: int, said: Sequence[str] | None, layout: str) -> tuple[str, ...]:
    """Return the K names of a network's classes.

    A checkpoint says those of its store, which may have more classes (a store of NTU RGB+D 120
    serves 60) or fewer; if it says none, they are the data set's of that layout.
    """
    if not said:
        return tuple(known_names(layout, num_class))
    return (*said, *names.numbered([num_class - 1])[len(said) :])[:num_class]


def known_names(layout: str, num_class: int) -> list[str]:
    """Return class names for a checkpoint that brings none: the data set's, or numbers."""
    data_set = DATA_SETS.get((layout, num_class))
    return names.class_names(data_set, num_class) if data_set else names.numbered([num_class - 1])


@dataclass(frozen=True)
class Calibration:
    """What tools.calibrate keeps in a checkpoint."""

    temperature: float = 1.0
    threshold: float | None = None

    @classmethod
    def of(cls, state: dict[str, Any], path: Path) -> Calibration:
        """Read it from the content of a checkpoint; InputError if it is none."""
        said = state.get("calibration") if checkpoint.is_own(state) else None
        if said is None:
            return cls()
        try:
            temperature, threshold = float(said["temperature"]), said["threshold"]
            threshold = None if threshold is None else float(threshold)
        except (TypeError, KeyError, ValueError):
            temperature, threshold = 0.0, None
        if not 0 < temperature < float("inf") or not 0 <= (threshold or 0) <= 1:
            raise InputError(f"{path}: its calibration is damaged; run tools.calibrate again")
        return cls(temperature, threshold)


@dataclass(frozen=True)
class LoadedNetwork:
    """One checkpoint of a recognizer."""

    path: Path
    config: Config
    model: nn.Module
    takes: InputSpec
    calibration: Calibration = Calibration()

    @classmethod
    def load(
        cls,
        path: Path,
        device: torch.device,
        config: Config | None = None,
        overrides: Iterable[str] = (),
    ) -> LoadedNetwork:
        """Load a checkpoint; `config` in place of its own, which a foreign one does not have.

        On the CPU a checkpoint's own `amp`, that of its training, gives way to float32 unless the
        overrides name it; what `config` says holds everywhere.
        """
        usual = {"amp": "off"} if device.type == "cpu" else {}
        config, model, state = checkpoint.load_network(path, config, overrides, **usual)
        takes = InputSpec.of(model, state)
        model = model.to(device, memory_format=torch.channels_last)
        return cls(path, config, model, takes, Calibration.of(state, path))

    def score(self, store: Store, device: torch.device) -> Scores:
        """Return the class probabilities of every clip of a store, as in testing, calibrated."""
        config = self.config
        precision.set_tf32(config.tf32)
        rows = np.arange(len(store))
        feeder = feeder_of(
            config, store, self.takes.skeleton, rows, device, clips=config.test_clips
        )
        scores = evaluate.score(self.fused, feeder, config, device)
        scores = tempered(scores, self.calibration.temperature)
        return Scores(store.names, store.labels, scores)

    @functools.cached_property
    def fused(self) -> nn.Module:
        """The network as it is fastest."""
        return fuse_bn(self.model)


@dataclass(frozen=True)
class PreparedClip:
    """A clip cut into windows and normalized."""

    source: str
    spans: np.ndarray  # (W, 2)
    windows: list[np.ndarray]  # each (T, M, V, C) float32
    warning: str = ""


class Recognizer:
    """One trained network, or several whose probabilities are fused."""

    def __init__(
        self,
        members: Sequence[LoadedNetwork],
        device: torch.device,
        threshold: float | None = None,
    ) -> None:
        """Raises InputError if the members are fed other data, or tell other classes apart.

        `threshold` is the least probability of an answer. None: that of a single calibrated
        checkpoint, else none; the thresholds of several say nothing about their fusion.
        """
        first, *others = members
        for other in others:
            for key in first.takes.differences(other.takes):
                raise InputError(
                    f"{first.path} and {other.path} cannot be fused: their {key} differ"
                )
        self.members, self.device, self.takes = members, device, first.takes
        streams = [member.config.stream for member in members]
        self.weights = fusion_weights(streams, first.config.benchmark)  # of the members
        self.names = first.takes.class_names
        if threshold is None and not others:
            threshold = first.calibration.threshold
        self.threshold = threshold or 0.0

    @classmethod
    def load(
        cls,
        weights: str | Path | Iterable[str | Path],
        device: str | torch.device | None = None,
        config: Config | None = None,
        overrides: Iterable[str] = (),
        threshold: float | None = None,
    ) -> Recognizer:
        """Load one or several checkpoints, by default onto GPU 0 if there is one.

        `overrides` change their configuration, e.g. ["test_clips=1"]: ten times as fast, a little
        less accurate. A foreign checkpoint needs a `config` and stands alone.
        """
        paths = [Path(weights)] if isinstance(weights, str | Path) else [Path(w) for w in weights]
        if not paths or (config and len(paths) > 1):
            raise InputError("--weights: one checkpoint is needed, or several without --config")
        device = torch.device(device) if device else choose_devices(None, World())[0]
        members = [LoadedNetwork.load(path, device, config, overrides) for path in paths]
        return cls(members, device, threshold)

    def __call__(
        self,
        clip: np.ndarray,
        image_size: tuple[float, float] | None = None,
        window: int | None = None,
        stride: int | None = None,
    ) -> Prediction:
        """Recognise a clip (T, V, C) or (T, M, V, C) of any length in the layout's raw coordinates.

        These are meters for Kinect; for 2D poses pixels of an image of `image_size` (height,
        width), or [-1, 1], and a score. With a `window`, in frames, one begins every `stride`
        frames (default: half a window) and the probabilities are averaged. Raises InputError if the
        clip does not fit the network, has NaN, is in other units, or nobody is in it.
        """
        joints = clip_file.as_clip(clip, "clip")
        return self.score([self.prepare(joints, "clip", image_size, window, stride)])[0]

    def prepare(
        self,
        joints: np.ndarray,
        source: str,
        image_size: tuple[float, float] | None = None,
        window: int | None = None,
        stride: int | None = None,
    ) -> PreparedClip:
        """Cut a raw clip (T, M, V, C) into windows and normalize each, as the data set's clips are.

        Windows that nobody is in are left out. InputError names `source` if it does not fit.
        """
        takes, how = self.takes, self.takes.normalization
        self.check(joints, source)
        if image_size is not None and how not in normalize.HALF_WIDTHS:
            raise InputError(
                f"{source}: --image-size does not apply: the network takes positions that no image "
                f"scales (normalization {how})"
            )
        is_scaled = how in normalize.HALF_WIDTHS and image_size is None
        if how in normalize.HALF_WIDTHS:  # frame by frame, so that windows do not matter
            joints = self.normalize(joints, source, image_size)
        joints = with_persons(joints, takes.persons)
        spans = cut(len(joints), window, stride)
        windows = [joints[first:end] for first, end in spans]
        if how not in normalize.HALF_WIDTHS:
            windows = [self.normalize(clip, source) for clip in windows]
        inhabited = [row for row, clip in enumerate(windows) if clip.any()]
        if not inhabited:
            raise InputError(f"{source}: there is no body in it, all joints are zero")
        windows = [windows[row] for row in inhabited]
        doubt = self.doubt(windows, source, is_scaled)
        return PreparedClip(source, spans[inhabited], windows, doubt)

    def normalize(
        self, joints: np.ndarray, source: str, image_size: tuple[float, float] | None = None
    ) -> np.ndarray:
        """Return a clip (T, M, V, C) as the clips that the network was trained on."""
        takes = self.takes
        terms = normalize.Terms(takes.centre, image_size, takes.persons, source)
        return normalize.apply(takes.normalization, joints, terms)

    def doubt(self, windows: Sequence[np.ndarray], source: str, is_scaled: bool) -> str:
        """Return why the clip of normalized windows may be in other units than the network's.

        `is_scaled`: its 2D positions are said to be in [-1, 1]. InputError if nobody can be of
        that size.
        """
        takes = self.takes
        origin = normalize.origin(takes.normalization, takes.skeleton.num_joints, takes.centre)
        sizes = [measure.size(clip, measure.seen(clip, origin), takes.planar) for clip in windows]
        sizes = [size for size in sizes if not np.isnan(size)]
        size = float(np.median(sizes)) if sizes else np.nan
        if is_scaled and all(measure.lowest(window) >= 0 for window in windows):
            return "no x or y is negative; if they are shares of the image, give --image-size 1 1"
        if takes.size is not None:
            doubt = measure.compare(size, takes.size, "those of its training clips")
            if doubt and not takes.planar and measure.is_impossible(size, takes.size):
                raise InputError(f"{source}: {doubt}")
        elif takes.skeleton.name in quality.KINECT:
            doubt = measure.compare(size, measure.METERS, "people in meters")
        else:
            doubt = ""
        return doubt

    def check(self, joints: np.ndarray, source: str) -> None:
        """Raise InputError if a clip (T, M, V, C) is not of the network's layout, or empty."""
        wanted, channels = self.takes.skeleton, self.takes.channels
        if joints.shape[2] != wanted.num_joints:
            alike = [
                name for name in graph.LAYOUTS if graph.load(name).num_joints == joints.shape[2]
            ]
            hint = f" (as {alike[0]} has)" if alike else ""
            raise InputError(
                f"{source}: {joints.shape[2]} joints{hint}, but the network takes "
                f"{wanted.num_joints} ({wanted.name}); python -m data.convert may help"
            )
        if joints.shape[3] != channels:
            kinds = {2: "x and y", 3: "x, y and a score" if wanted.confidence else "x, y and z"}
            raise InputError(
                f"{source}: {joints.shape[3]} channels, but the network takes {channels}"
                f" ({kinds.get(channels, 'see model_args.in_channels')})"
            )
        if not joints.any():
            raise InputError(f"{source}: there is no body in it, all joints are zero")

    def score(self, clips: Sequence[PreparedClip]) -> list[Prediction]:
        """Return what becomes of prepared clips; the windows of all go through together."""
        store = store_of([window for clip in clips for window in clip.windows], self.takes)
        scored = {
            str(row): member.score(store, self.device) for row, member in enumerate(self.members)
        }
        fused = fuse(scored, dict(zip(scored, self.weights))).scores  # (all windows, K)
        ends = np.cumsum([len(clip.windows) for clip in clips])
        return [
            Prediction(
                clip.source,
                self.names,
                part.mean(axis=0),
                clip.spans,
                part,
                clip.warning,
                self.threshold,
            )
            for clip, part in zip(clips, np.split(fused, ends[:-1]))
        ]


def fusion_weights(streams: Sequence[str], benchmark: str) -> list[float]:
    """Return the published weights if there is a fusion of just these streams, else equal ones."""
    for fusion in fusions_of(benchmark).values():
        if sorted(fusion) == sorted(streams):
            return [fusion[stream] for stream in streams]
    return [1.0] * len(streams)


def store_of(clips: Sequence[np.ndarray], takes: InputSpec) -> Store:
    """Return clips (T, M, V, C) as a store in memory, for a feeder to read."""
    lengths = np.array([len(clip) for clip in clips], np.int64)
    return Store(
        path=Path("input"),
        joints=np.concatenate(clips),
        names=np.arange(len(clips)).astype(str),
        labels=np.zeros(len(clips), np.int64),
        starts=lengths.cumsum() - lengths,
        lengths=lengths,
        columns={},
        meta={"layout": takes.skeleton.name, "class_names": list(takes.class_names)},
    )


def cut(length: int, window: int | None = None, stride: int | None = None) -> np.ndarray:
    """Return (W, 2) first and end frames of windows that cover `length` frames; None: one of all.

    The last window is moved back so that it ends with the clip.
    """
    if window is None:
        if stride is not None:
            raise InputError("--stride needs --window")
        return np.array([[0, length]])
    stride = max(1, window // 2) if stride is None else stride
    if window < 1 or stride < 1:
        raise InputError("--window and --stride: at least one frame is needed")
    firsts = np.arange(0, max(length - window, 0) + stride, stride)
    firsts = np.unique(np.minimum(firsts, max(length - window, 0)))
    return np.stack([firsts, np.minimum(firsts + window, length)], axis=1)


def with_persons(joints: np.ndarray, persons: int) -> np.ndarray:
    """Return a clip with so many persons: absent ones zero; of more, those seen longest."""
    if joints.shape[1] > persons:
        seen = joints.any(axis=(2, 3)).sum(axis=0)
        longest = np.argsort(-seen, kind="stable")[:persons]
        return joints[:, np.sort(longest)]
    return np.pad(joints, ((0, 0), (0, persons - joints.shape[1]), (0, 0), (0, 0)))
