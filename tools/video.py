"""Recognize actions in videos, or before a camera, from poses of RTMPose.

python -m tools.video clip.mp4 --weights best.pt --window 60 --annotated seen.mp4
python -m tools.video 0 --weights best.pt          # camera 0; q ends
python -m tools.video videos/ --poses data/poses   # poses only, as clips for data.prepare custom

The network must take 2D poses (layout coco or openpose). Needs rtmlib, onnxruntime and OpenCV
(`pip install rtmlib`); rtmlib downloads its networks when it is first used, or give two ONNX files
with --detector and --pose.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import graph
from data import clip_file, convert
from data.names import natural_order
from data.readers import ClipFile
from data.tracks import Tracks, to_clip
from engine import predict_files
from engine.distributed import World, choose_devices
from engine.predict import Prediction, PreparedClip, Recognizer, cut
from engine.segments import segments
from errors import InputError, Parser, run_command
from files import check_output, check_outputs, files_below

ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
OF_ANSWERS = ("--window", "--stride", "--per-person", "--threshold", "--output", "--annotated")
MODES = ("lightweight", "balanced", "performance")  # rtmlib's choices of networks
FORM, LAYOUT = "coco-17", "coco"  # of RTMPose's body networks
CAMERA_WINDOW = 60  # frames
# Blue, green, red, as OpenCV has them: Okabe and Ito's palette.
COLORS = {"left": (178, 114, 0), "right": (0, 94, 213), "": (160, 160, 160)}
LEAST_DRAWN = 0.3  # score of a joint
ENOUGH = 0.95  # of the images that a video says it has, which can be an estimate
USUAL_FPS = 30.0  # of a camera or a video that gives no frame rate


def imported(name: str) -> Any:
    """Return an optional package; InputError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"tools.video needs rtmlib, onnxruntime and OpenCV ({error}): pip install rtmlib"
        ) from None


class Poses:
    """The poses in an image, (P, 17, 3): x and y in pixels, and a score from 0 to 1."""

    def __init__(
        self, mode: str, detector: Path | None = None, pose: Path | None = None, gpu: bool = False
    ) -> None:
        """`detector` (YOLOX) and `pose` (RTMPose) are ONNX files in place of those of `mode`."""
        rtmlib = imported("rtmlib")
        networks: dict[str, Any] = {}
        for key, file in (("det", detector), ("pose", pose)):
            if file is not None:
                networks |= {key: str(file), f"{key}_input_size": input_size(file, key == "pose")}
        with contextlib.redirect_stdout(io.StringIO()):  # rtmlib prints what it loads
            self.body = rtmlib.Body(
                mode=mode, backend="onnxruntime", device="cuda" if gpu else "cpu", **networks
            )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        boxes = self.body.det_model(image)
        if len(boxes) == 0:  # RTMPose would take the whole image for a person
            return np.zeros((0, 17, 3), np.float32)
        joints, scores = self.body.pose_model(image, bboxes=boxes)
        return np.concatenate([joints, np.clip(scores, 0, 1)[..., None]], -1).astype(np.float32)


def input_size(file: Path, width_first: bool) -> tuple[int, int]:
    """Return the image size of an ONNX network: rtmlib wants (width, height) for poses and (height,
    width) for the detector. InputError if it cannot be read or is not fixed."""
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    runtime = imported("onnxruntime")
    try:
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        height, width = session.get_inputs()[0].shape[-2:]
    except Exception as error:  # onnxruntime has a dozen types, all of them Exception's children
        raise InputError(f"{file}: not an ONNX network ({' '.join(str(error).split())})") from None
    if not isinstance(height, int) or not isinstance(width, int):
        raise InputError(f"{file}: its input has no fixed height and width")
    return (width, height) if width_first else (height, width)


class Video:
    """A video file or a camera, opened; iterating gives its images (H, W, 3), blue first."""

    def __init__(self, source: str) -> None:
        """InputError if it cannot be opened."""
        cv2 = imported("cv2")
        camera = source.isdecimal()
        if not camera and not Path(source).is_file():
            raise InputError(f"{source}: no such video")
        with hushed(cv2):
            capture = cv2.VideoCapture(int(source) if camera else source)
        if not capture.isOpened():
            what = "no such camera" if camera else "cannot be read as a video"
            raise InputError(f"{source}: {what}")
        self.source, self.capture = source, capture
        self.size = (  # height, width
            int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        )  # fmt: skip
        self.frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))  # 0 if unknown
        self.fps = float(capture.get(cv2.CAP_PROP_FPS))
        if not 0 < self.fps < 1000:
            self.fps = USUAL_FPS
            print(f"{source}: gives no frame rate; times count {self.fps:g} frames per second",
                  file=sys.stderr)  # fmt: skip

    def doubt(self, images: int) -> str:
        """Return a warning if it gave clearly fewer images than it says it has, else ""."""
        if images >= ENOUGH * self.frames:
            return ""
        return (
            f"only {images} of its {self.frames} images could be read: it is cut off or damaged, "
            "and times after a gap are too early"
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            while (read := self.capture.read())[0]:
                yield read[1]
        finally:
            self.capture.release()


@contextlib.contextmanager
def hushed(cv2: Any) -> Iterator[None]:
    """Keep OpenCV's own lines from the terminal: ours name the file and the way out."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def track(video: Video, poses: Poses, hush: bool) -> list[dict[int, np.ndarray]]:
    """Return {person: pose (17, 3)} of each frame of a video."""
    tracks = Tracks()
    bar = tqdm(
        video, total=video.frames or None, desc=Path(video.source).name, unit="frame",
        leave=False, disable=hush or None,
    )  # fmt: skip
    for image in bar:
        tracks.add(poses(image))
    return tracks.frames


def for_network(clip: np.ndarray, recognizer: Recognizer) -> np.ndarray:
    """Return a clip (T, M, 17, 3) in pixels with the joints and channels of a network.

    InputError if it does not take 2D poses.
    """
    takes = recognizer.takes
    if takes.skeleton.name not in (LAYOUT, "openpose"):
        raise InputError(
            f"{recognizer.members[0].path}: takes {takes.skeleton.name}, and a video gives 2D "
            "poses; train a network on layout coco or openpose"
        )
    pairs = convert.sources(FORM, takes.skeleton.name)
    return convert.rearrange(clip, pairs)[..., : takes.channels]


def find_videos(sources: Sequence[str]) -> dict[Path, Path]:
    """Return {video: its path below what was named} of files, folders of files, and cameras."""
    found: dict[Path, Path] = {}
    for source in map(Path, sources):
        if not source.is_dir():
            found[source] = Path(source.name)
            continue
        within = [file for file in files_below(source) if file.suffix.lower() in ENDINGS]
        if not within:
            raise InputError(f"{source}: no {', '.join(ENDINGS)} file in it")
        within.sort(key=lambda file: natural_order(file.as_posix()))
        found |= {file: file.relative_to(source) for file in within}
    return found


def annotate(
    image: np.ndarray, people: Iterable[np.ndarray], text: str, skeleton: graph.Skeleton
) -> np.ndarray:
    """Return the image with bones, left and right told apart, and a line of text."""
    cv2 = imported("cv2")
    image = image.copy()
    thick = max(2, image.shape[0] // 240)
    for pose in people:
        for child, parent in skeleton.edges:
            if min(pose[child, 2], pose[parent, 2]) < LEAST_DRAWN:
                continue
            side = skeleton.joints[child].split(" ")[0]
            ends = [tuple(int(value) for value in pose[v, :2]) for v in (child, parent)]
            color = COLORS.get(side, COLORS[""])
            cv2.line(image, ends[0], ends[1], color, thick, cv2.LINE_AA)
    scale = image.shape[0] / 720
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    pad = int(12 * scale) + 2
    cv2.rectangle(image, (0, 0), (width + 2 * pad, height + 2 * pad), (20, 20, 20), -1)
    place, white = (pad, height + pad), (255, 255, 255)
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, white, thick, cv2.LINE_AA)
    return image


def write_annotated(
    path: Path, source: str, frames: Sequence[dict[int, np.ndarray]], prediction: Prediction
) -> None:
    """Write a copy of a video with the skeletons and, in each frame, the class of its segment."""
    cv2 = imported("cv2")
    video, skeleton = Video(source), graph.load(LAYOUT)
    texts = [""] * len(frames)
    for each in segments(prediction):
        for frame in range(each.first, each.end):
            texts[frame] = f"{each.name} {each.probability:.2f}"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.tmp{path.suffix}")  # OpenCV goes by the ending
    height, width = video.size
    writer = cv2.VideoWriter(
        str(unfinished), cv2.VideoWriter_fourcc(*"mp4v"), video.fps, (width, height)
    )
    try:
        for image, people, text in zip(video, frames, texts):
            writer.write(annotate(image, people.values(), text, skeleton))
        writer.release()
        unfinished.replace(path)
    finally:
        writer.release()
        unfinished.unlink(missing_ok=True)


def watch(video: Video, poses: Poses, recognizer: Recognizer, window: int, stride: int) -> None:
    """Show a camera's images with the answer for the last `window` frames, until q is pressed."""
    cv2 = imported("cv2")
    tracks, skeleton, text = Tracks(), graph.load(LAYOUT), ""
    for number, image in enumerate(video):
        people = tracks.add(poses(image))
        del tracks.frames[:-window]
        if number % stride == 0:
            text = answer(recognizer, to_clip(tracks.frames), video.size)
        try:
            cv2.imshow("q ends", annotate(image, people.values(), text, skeleton))
            if cv2.waitKey(1) & 0xFF in (ord("q"), 27):
                break
        except cv2.error as error:
            raise InputError(
                "no window can be shown here; record a video and give its file"
            ) from error
    cv2.destroyAllWindows()


def answer(recognizer: Recognizer, clip: np.ndarray, size: tuple[int, int]) -> str:
    """Return the class of a clip (T, M, 17, 3) in pixels with its probability, or `nobody`."""
    if not clip.any():
        return "nobody"
    used = size if recognizer.takes.takes_image_size else None
    prediction = recognizer(for_network(clip, recognizer), used)
    return f"{prediction.answer} {prediction.probabilities.max():.2f}"


def recognize(options: argparse.Namespace, recognizer: Recognizer | None, poses: Poses) -> None:
    """Track the persons in each video, write what was asked for, and print the answers.

    Raises InputError if a video would be overwritten, or two have one file of poses.
    """
    videos = find_videos(options.source)
    if options.annotated is not None:
        check_output("--annotated", options.annotated, *videos)
    written: dict[Path, Path] = {}
    if options.poses is not None:
        written = {s: options.poses / below.with_suffix(".npz") for s, below in videos.items()}
        check_outputs("--poses", written)
    frames: list[dict[int, np.ndarray]] = []  # of the last video

    def prepared(source: Path) -> list[PreparedClip]:
        video = Video(str(source))
        frames[:] = track(video, poses, options.quiet)
        clip = to_clip(frames)
        if not clip.any():
            raise InputError(f"{source}: nobody is seen in it")
        if source in written:
            clip_file.save(written[source], ClipFile(clip, LAYOUT, video.size, fps=video.fps))
        doubt = video.doubt(len(frames))
        if recognizer is None:
            if doubt:
                print(f"warning: {source}: {doubt}", file=sys.stderr)
            return []
        ready = prepare(recognizer, clip, video, options)
        doubts = ("; ".join(filter(None, (doubt, each.warning))) for each in ready)
        return [dataclasses.replace(each, warning=said) for each, said in zip(ready, doubts)]

    predictions = predict_files.classify(
        recognizer, list(videos), prepared, options.output, options.quiet,
        segmented=options.window is not None,
    )  # fmt: skip
    if options.annotated is not None and predictions:
        write_annotated(options.annotated, str(*videos), frames, predictions[0])


def prepare(
    recognizer: Recognizer, clip: np.ndarray, video: Video, options: argparse.Namespace
) -> list[PreparedClip]:
    """Return the prepared clip of a tracked video, or one per person."""
    joints = clip_file.as_clip(for_network(clip, recognizer), video.source)
    size = video.size if recognizer.takes.takes_image_size else None
    ready = [
        recognizer.prepare(each, name, size, options.window, options.stride)
        for name, each in predict_files.bodies(joints, video.source, options.per_person).items()
    ]
    return [dataclasses.replace(each, fps=video.fps) for each in ready]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m tools.video", description=__doc__)
    add = parser.add_argument
    add("source", nargs="+", metavar="SOURCE", help="video, folder of videos, or camera number")
    add("--weights", nargs="+", type=Path, metavar="FILE", help="checkpoint; several are fused")
    add("--window", type=int, metavar="T", help="classify windows of T frames, merged to segments")
    add("--stride", type=int, metavar="T", help="frames between windows (default: half a window)")
    add("--per-person", action="store_true", help="classify each person by itself")
    add("--threshold", type=float, metavar="P", help="answer `unknown` below this probability")
    add("--output", type=Path, metavar="FILE", help="write a .json, .csv or (with --window) .html")
    add("--annotated", type=Path, metavar="FILE", help="write the video with skeletons, as .mp4")
    add("--poses", type=Path, metavar="DIR", help="write the poses of each video as .npz")
    add("--mode", choices=MODES, default="balanced", help="RTMPose's size (default: balanced)")
    add("--detector", type=Path, metavar="FILE", help="ONNX file of a person detector (YOLOX)")
    add("--pose", type=Path, metavar="FILE", help="ONNX file of a pose network (RTMPose)")
    add("--device", nargs=1, metavar="D", help="GPU index, or cpu")
    add("--quiet", action="store_true", help="errors only")
    options = parser.parse_args(argv)

    def given(flag: str) -> bool:
        return getattr(options, flag.strip("-").replace("-", "_")) not in (None, False)

    camera = any(source.isdecimal() for source in options.source)
    if options.weights is None and options.poses is None:
        raise InputError("--weights FILE says what recognizes, --poses DIR keeps the poses only")
    if options.weights is None and (unused := [flag for flag in OF_ANSWERS if given(flag)]):
        raise InputError(f"{', '.join(unused)}: needs --weights FILE")
    window = CAMERA_WINDOW if camera and options.window is None else options.window
    cut(1, window, options.stride)  # refuses wrong numbers before the poses take time
    if camera and (len(options.source) > 1 or options.weights is None):
        raise InputError("a camera needs --weights, and no other source beside it")
    if camera and (options.annotated or options.output or options.poses or options.per_person):
        raise InputError(
            "a camera shows a window: omit --output, --annotated, --poses, --per-person"
        )
    if options.annotated is not None and options.annotated.suffix != ".mp4":
        raise InputError(f"--annotated {options.annotated}: must end in .mp4")
    if options.annotated is not None and options.per_person:
        raise InputError("--annotated: shows one answer; omit --per-person")
    if options.annotated is not None and len(find_videos(options.source)) > 1:
        raise InputError("--annotated: takes one video")
    return options


def main(argv: list[str]) -> None:
    options = parse(argv)
    device = choose_devices(options.device, World())[0]
    recognizer = None
    if options.weights is not None:
        recognizer = Recognizer.load(options.weights, device, threshold=options.threshold)
        for_network(np.zeros((1, 1, 17, 3)), recognizer)  # fails before the poses take time
    poses = Poses(options.mode, options.detector, options.pose, device.type == "cuda")
    if recognizer is not None and options.source[0].isdecimal():
        window = options.window or CAMERA_WINDOW
        stride = options.stride or max(1, window // 4)
        watch(Video(options.source[0]), poses, recognizer, window, stride)
    else:
        recognize(options, recognizer, poses)


if __name__ == "__main__":
    sys.exit(run_command(main))
