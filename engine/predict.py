"""A trained recognizer for your own clips: `Recognizer.load('best.pt')(clip)`.

Clips are processed as in testing: the normalization of the data set, the stream and frame choice of
the feeder, the mean of the probabilities over test clips. Several checkpoints are fused.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import graph
from data import clip_file, measure, names, normalize, quality
from data.measure import Size
from data.store import Store
from engine import checkpoint, evaluate
from engine.build import feeder_of, to_device
from engine.config import Config
from engine.distributed import World, choose_devices
from engine.fusion import fusions_of
from errors import InputError
from graph.shapes import check_shape
from longtail.calibration import tempered
from longtail.ranges import Range
from model.backbone import Network
from model.fuse_bn import fuse_bn

# Class names for checkpoints without them, by layout and number of classes.
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

    source: str  # the file, or the name given by the caller
    names: tuple[str, ...]  # (K,) of the classes
    probabilities: np.ndarray  # (K,) float32, sums to 1: the mean over the windows
    spans: np.ndarray  # (W, 2) int64: first frame of each window, and the one after its last
    windows: np.ndarray  # (W, K) float32, each row sums to 1
    warning: str = ""  # why the clip may be in the wrong units
    threshold: float = 0.0  # the least probability of an answer
    fps: float | None = None  # frames per second, if known

    @property
    def answer(self) -> str:
        """The most probable class, or `unknown` if its probability is below the threshold."""
        return answer(self.names, self.probabilities, self.threshold)

    def top(self, k: int = 3) -> list[tuple[str, float]]:
        """Return the k most probable classes as (name, probability), in descending order."""
        return best(self.names, self.probabilities, k)


def best(names: Sequence[str], probabilities: np.ndarray, k: int) -> list[tuple[str, float]]:
    order = np.argsort(-probabilities, kind="stable")[:k]
    return [(names[row], float(probabilities[row])) for row in order]


def answer(names: Sequence[str], probabilities: np.ndarray, threshold: float) -> str:
    """Return the most probable class, or `unknown` if it is below the threshold."""
    ((name, probability),) = best(names, probabilities, 1)
    return name if probability >= threshold else UNKNOWN


@dataclass(frozen=True)
class InputSpec:
    """The input of a network; fused checkpoints must have the same."""

    skeleton: graph.Skeleton
    persons: int
    channels: int
    normalization: str  # a name of normalize.NORMALIZATIONS
    centre: int
    class_names: tuple[str, ...]
    drops_empty_frames: bool = False  # frames without a body, as the reader of the data set does
    size: Size | None = None  # of the bodies it was trained on; may differ

    @property
    def takes_image_size(self) -> bool:
        """Whether positions are scaled by the size of the image."""
        return self.normalization in normalize.HALF_WIDTHS

    @property
    def planar(self) -> bool:
        """Whether joints are x, y and perhaps a score."""
        return self.skeleton.confidence or self.channels == 2

    @classmethod
    def of(cls, model: Network, facts: Mapping[str, Any]) -> InputSpec:
        """Return the input of a network, from its attributes and the facts about its training data:
        `normalization`, `centre`, `class_names` and `size`, of which any may be missing."""
        skeleton = model.skeleton
        normalization = normalize.name_in(facts) or normalize.USUAL.get(skeleton.name, "none")
        return cls(
            skeleton,
            model.num_person,
            model.in_channels,
            normalization,
            facts.get("centre") or 0,
            names_of(model.num_class, facts.get("class_names"), skeleton.name),
            # NW-UCLA has no such frames; its normalization would make a body of one
            bool(facts.get("drops_empty_frames")) or normalization == "nw-ucla",
            Size(*facts["size"]) if facts.get("size") else None,
        )

    def differences(self, other: InputSpec) -> list[str]:
        """Return the names of the fields that differ from `other`; edges of the skeleton may
        differ."""
        ours, theirs = (
            vars(each) | {"skeleton": dataclasses.replace(each.skeleton, edges=()), "size": None}
            for each in (self, other)
        )
        return [name for name in ours if ours[name] != theirs[name]]


def store_facts(model: Network, config: Config) -> Mapping[str, Any] | None:
    """Return the facts about the training data of a foreign network, None if nothing says them.

    They are those of the store in its configuration, if that is there and has the layout of the
    network.
    """
    try:
        store = Store.open(config.store)
    except InputError:
        return None
    return store.meta if store.reading.layout == model.skeleton.name else None


def names_of(num_class: int, said: Sequence[str] | None, layout: str) -> tuple[str, ...]:
    """Return the K names of a network's classes.

    A checkpoint says those of its store, which may have more classes (a store of NTU RGB+D 120
    serves 60) or fewer; if it says none, they are the data set's of that layout.
    """
    data_set = DATA_SETS.get((layout, num_class))
    if not said and data_set:
        return tuple(names.class_names(data_set, num_class))
    said = said or ()
    return (*said, *names.numbered([num_class - 1])[len(said) :])[:num_class]


def calibration_of(facts: dict[str, Any], path: Path) -> tuple[float, float | None]:
    """Return the temperature and the threshold that tools.calibrate keeps in a checkpoint; (1,
    None) without, InputError if they are damaged."""
    if (said := facts.get("calibration")) is None:
        return 1.0, None
    found = said if isinstance(said, dict) else {}
    temperature, threshold = found.get("temperature", 0), found.get("threshold")
    is_positive = temperature in Range(0, above=True, below=True)
    if not is_positive or (threshold is not None and threshold not in Range(0, 1)):
        raise InputError(f"{path}: its calibration is damaged; run tools.calibrate again")
    return temperature, threshold


@dataclass(frozen=True)
class LoadedNetwork:
    """One checkpoint of a recognizer."""

    path: Path
    config: Config
    model: nn.Module
    takes: InputSpec
    temperature: float = 1.0  # of tools.calibrate
    threshold: float | None = None  # of tools.calibrate
    doubt: str = ""  # what had to be assumed about its training data

    @classmethod
    def load(
        cls,
        path: Path,
        device: torch.device,
        config: Config | None = None,
        overrides: Iterable[str] = (),
    ) -> LoadedNetwork:
        """Load a checkpoint; `config` replaces its configuration (a foreign one has none).

        On the CPU the `amp` in a checkpoint, used in training, is replaced by float32 unless the
        overrides set it; that of `config` is used on every device.
        """
        usual = {"amp": "off"} if device.type == "cpu" else {}
        config, model, facts = checkpoint.load_network(path, config, overrides, **usual)
        checkpoint.check_stream(facts, config, path)
        of_data, doubt = facts or store_facts(model, config), ""
        takes = InputSpec.of(model, of_data or {})
        if of_data is None:
            doubt = (
                f"{path}: does not say how its clips were normalized, and {config.store} is not a "
                f"store of layout {takes.skeleton.name}: taken to be {takes.normalization}, with "
                f"the classes {takes.class_names[0]}, ...; else name the store: --set store=DIR"
            )
        model = to_device(model, device)
        return cls(path, config, model, takes, *calibration_of(facts, path), doubt)

    def feeder(self, clips: Sequence[np.ndarray], device: torch.device) -> Any:
        """Return the feeder of normalized clips (T, M, V, C), as in testing."""
        return feeder_of(
            self.config, store_of(clips, self.takes), self.takes.skeleton, np.arange(len(clips)),
            device, clips=self.config.test_clips,
        )  # fmt: skip

    def score(self, clips: Sequence[np.ndarray], device: torch.device) -> np.ndarray:
        """Return the class probabilities (n, K) of normalized clips, as in testing, calibrated."""
        scores = evaluate.score(self.fused, self.feeder(clips, device), self.config, device)
        return tempered(scores, self.temperature)

    @functools.cached_property
    def fused(self) -> nn.Module:
        """The network with fused batch norms."""
        return fuse_bn(self.model)


@dataclass(frozen=True)
class PreparedClip:
    """A clip cut into windows and normalized."""

    source: str
    spans: np.ndarray  # (W, 2)
    windows: list[np.ndarray]  # each (T, M, V, C) float32
    warning: str = ""
    fps: float | None = None


class Recognizer:
    """One trained network, or several whose probabilities are fused."""

    def __init__(
        self,
        members: Sequence[LoadedNetwork],
        device: torch.device,
        threshold: float | None = None,
    ) -> None:
        """`threshold`: minimum probability of an answer.

        None: that of a single calibrated checkpoint, else 0; thresholds of several checkpoints do
        not apply to their fusion. Raises InputError if the members have different inputs or
        classes.
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
            threshold = first.threshold
        self.threshold = threshold or 0.0
        if self.threshold and UNKNOWN in self.names:
            raise InputError(
                f"--threshold: a class is called {UNKNOWN}, as is the answer below the threshold; "
                "rename the class, or give --threshold 0"
            )

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

        `overrides` change their configuration: ["test_clips=1"] is ten times as fast and slightly
        less accurate. A foreign checkpoint needs a `config` and cannot be fused.
        """
        paths = [Path(weights)] if isinstance(weights, str | Path) else [Path(w) for w in weights]
        if not paths or (config and len(paths) > 1):
            raise InputError("--weights: one checkpoint is needed, or several without --config")
        if threshold is not None and threshold not in Range(0, 1):
            raise InputError(f"--threshold: must be between 0 and 1, not {threshold}")
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
        """Classify a clip (T, V, C) or (T, M, V, C) of any length in the layout's raw coordinates.

        These are meters for Kinect; for 2D poses pixels of an image of `image_size` (height,
        width), or [-1, 1], and a score. With a `window`, in frames, a window begins every `stride`
        frames (default: half a window) and the probabilities are averaged. Raises InputError if the
        clip does not fit the network, has NaN, is in other units, or contains no body.
        """
        joints = clip_file.as_clip(clip, "clip")
        return self.score([self.prepare(joints, "clip", image_size, window, stride)])[0]

    def inputs(self, clip: np.ndarray, image_size: tuple[float, float] | None = None) -> np.ndarray:
        """Return the input of the network for a clip, (test_clips, M, T, V, C) float32.

        An exported network takes the same; the mean over test clips of the softmax of its logits
        are the probabilities, before they are `tempered` by a temperature of tools.calibrate.
        Arguments and errors as of a call; InputError for several networks.
        """
        if len(self.members) > 1:
            raise InputError("inputs: several checkpoints have several inputs; load one")
        (member,) = self.members
        ready = self.prepare(clip_file.as_clip(clip, "clip"), "clip", image_size)
        feeder = member.feeder(ready.windows, torch.device("cpu"))
        ((clips, _, _),) = feeder.batches([torch.arange(1)])
        return np.ascontiguousarray(clips.numpy(), np.float32)

    def prepare(
        self,
        joints: np.ndarray,
        source: str,
        image_size: tuple[float, float] | None = None,
        window: int | None = None,
        stride: int | None = None,
        frames: np.ndarray | None = None,
    ) -> PreparedClip:
        """Cut a raw clip (T, M, V, C) into windows and normalize each like a clip of the data set.

        `frames` (T,) are the numbers of the frames in the recording, ascending (default: from 0);
        see `cut_recording`. Windows without a body are skipped. Raises InputError that names
        `source` if the clip does not fit.
        """
        takes = self.takes
        check_shape(source, joints.shape[1:], takes.skeleton, takes.channels)
        if image_size is not None and not takes.takes_image_size:
            raise InputError(
                f"{source}: --image-size does not apply: positions are not scaled by an image size "
                f"(normalization {takes.normalization})"
            )
        if takes.skeleton.confidence and takes.channels == 3:
            measure.check_scores(joints, source)
        is_scaled = takes.takes_image_size and image_size is None
        terms = normalize.Terms(takes.centre, image_size, takes.persons, source)
        if takes.takes_image_size:  # frame by frame, so that windows do not matter
            joints = normalize.apply(takes.normalization, joints, terms)
        if not joints.any():
            raise InputError(f"{source}: contains no body, all joints are zero")
        frames = np.arange(len(joints)) if frames is None else frames
        spans, parts = cut_recording(joints, frames, window, stride)
        windows = [with_persons(part, takes.persons) for part in parts]
        if takes.drops_empty_frames:
            windows = [clip[clip.any(axis=(1, 2, 3))] for clip in windows]
        if not takes.takes_image_size:
            windows = [normalize.apply(takes.normalization, clip, terms) for clip in windows]
        doubt = self.doubt(windows, source, is_scaled)
        return PreparedClip(source, spans, windows, doubt)

    def doubt(self, windows: Sequence[np.ndarray], source: str, is_scaled: bool) -> str:
        """Return why the normalized windows may be in other units than the training clips, or "".

        `is_scaled`: the caller says that 2D positions are in [-1, 1]. Raises InputError if no body
        can have that size.
        """
        takes = self.takes
        origin = normalize.origin(takes.normalization, takes.skeleton.num_joints, takes.centre)
        sizes = [measure.size(clip, measure.seen(clip, origin), takes.planar) for clip in windows]
        sizes = [size for size in sizes if not np.isnan(size)]
        size = float(np.median(sizes)) if sizes else np.nan
        if is_scaled and all(measure.lowest(window) >= 0 for window in windows):
            return "no x or y is negative; if they are fractions of the image, add --image-size 1 1"
        if takes.size is None:
            in_meters = takes.skeleton.name in quality.IN_METERS
            return measure.compare(size, measure.METERS, "people in meters") if in_meters else ""
        return measure.check_size(size, takes.size, takes.planar, source)

    def score(self, clips: Sequence[PreparedClip]) -> list[Prediction]:
        """Return the predictions of prepared clips; all windows are computed together."""
        windows = [window for clip in clips for window in clip.windows]
        scores = [member.score(windows, self.device) for member in self.members]
        fused = np.average(scores, axis=0, weights=self.weights).astype(np.float32)  # (n, K)
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
                clip.fps,
            )
            for clip, part in zip(clips, np.split(fused, ends[:-1]))
        ]


def fusion_weights(streams: Sequence[str], benchmark: str) -> list[float]:
    """Return the published weights of the fusion of exactly these streams, or else equal
    weights."""
    for fusion in fusions_of(benchmark).values():
        if sorted(fusion) == sorted(streams):
            return [fusion[stream] for stream in streams]
    return [1.0] * len(streams)


def store_of(clips: Sequence[np.ndarray], takes: InputSpec) -> Store:
    """Return clips (T, M, V, C) as a store in memory for a feeder."""
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
    """Return (W, 2), the first frame of each window and the one after its last.

    The windows cover `length` frames; without `window` there is one. The last window is moved back
    so that it ends with the clip.
    """
    if window is None:
        if stride is not None:
            raise InputError("--stride needs --window")
        return np.array([[0, length]])
    stride = max(1, window // 2) if stride is None else stride
    if window < 1 or stride < 1:
        raise InputError("--window and --stride must be at least 1")
    last = max(length - window, 0)
    firsts = np.array([*range(0, last, stride), last])
    return np.stack([firsts, np.minimum(firsts + window, length)], axis=1)


def cut_recording(
    joints: np.ndarray, frames: np.ndarray, window: int | None = None, stride: int | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the windows of a clip (T, M, V, C) in which somebody is seen: their spans (W, 2) in
    the recording, and their joints.

    `frames` (T,) are the numbers of the clip's frames in the recording. Of all its frames, or every
    n-th, those that the clip lacks are zero in a window; without `window` they are left out.
    """
    step = max(1, int(np.gcd.reduce(np.diff(frames))))
    places = (frames - frames[0]) // step
    spans = cut(int(places[-1]) + 1, window, stride)
    rows = np.searchsorted(places, spans)
    is_seen = [joints[first:end].any() for first, end in rows]
    parts = []
    for (start, stop), (first, end) in zip(spans[is_seen], rows[is_seen]):
        part = joints[first:end]
        if window is not None and len(part) < stop - start:
            part = np.zeros((stop - start, *joints.shape[1:]), joints.dtype)
            part[places[first:end] - start] = joints[first:end]
        parts.append(part)
    return frames[0] + np.minimum(spans[is_seen] * step, frames[-1] - frames[0] + 1), parts


def with_persons(joints: np.ndarray, persons: int) -> np.ndarray:
    """Return a clip with `persons` persons: zeros are added, or those visible longest are kept."""
    if joints.shape[1] > persons:
        seen = joints.any(axis=(2, 3)).sum(axis=0)
        longest = np.argsort(-seen, kind="stable")[:persons]
        return joints[:, np.sort(longest)]
    return np.pad(joints, ((0, 0), (0, persons - joints.shape[1]), (0, 0), (0, 0)))
