"""Preparation of data at the size of the real data sets, from synthetic raw files.

python -m benchmarks data raw      # .skeleton files, next to a plain line-by-line reader
python -m benchmarks data pickle   # an annotation pickle, next to a joint-by-joint reader
python -m benchmarks data scale    # as many samples as NTU RGB+D 120 has: prepare to load
python -m benchmarks data damage   # damaged files: a valid clip or one clear error

The synthetic files go to --folder and stay there.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import command
from benchmarks.timing import process_memory
from data import names, normalize
from data.long_tail import make_list
from data.readers import Clip, ntu, nw_ucla
from data.readers.archive import File
from data.readers.skeleton_file import NUM_JOINTS, Bodies
from data.store import Store, StoreWriter
from errors import InputError
from feeders.skeleton import Feeder

VARIANTS = 64  # distinct texts among the synthetic files: writing them costs more than reading
WRITTEN = b'0123456789-.eE+naif \r\n\t[]{},:"\x00\xff'  # bytes that a damage writes
FED_AT_ONCE = 16  # the recipe's batch
ROOT = Path(__file__).parents[1]


def skeleton_text(joints: np.ndarray) -> bytes:
    """Return the text of a .skeleton file of one to several bodies, joints (T, M, 25, 3) meters."""
    random = np.random.RandomState(0)
    rest = random.uniform(0, 1000, (NUM_JOINTS, 8))
    lines = [str(len(joints))]
    for frame in joints:
        lines.append(str(len(frame)))
        for body, person in enumerate(frame):
            lines += [f"{72057594037931101 + body} 0 1 1 1 1 0 0.02764709 0.05745083 2", "25"]
            for position, others in zip(person, rest):
                numbers = *position, *others
                lines.append(" ".join(f"{number:.7g}" for number in numbers) + " 2")
    return ("\r\n".join(lines) + "\r\n").encode()


def synthetic_joints(random: np.random.RandomState, frames: int, persons: int) -> np.ndarray:
    """Return a clip (T, M, 25, 3) of people who stand at three meters and drift."""
    stance = random.uniform([-0.2, -0.9, 2.8], [0.2, 0.9, 3.2], (persons, NUM_JOINTS, 3))
    return stance + random.standard_normal((frames, 1, 1, 3)).cumsum(axis=0) * 0.01


def ntu_names(number: int) -> Iterator[str]:
    """Yield so many names as NTU RGB+D 120 gives them."""
    for i in range(number):
        action, i = i % 120 + 1, i // 120
        camera, i = i % 3 + 1, i // 3
        setup, i = i % 32 + 1, i // 32
        subject, replication = i % 106 + 1, i // 106 + 1
        yield f"S{setup:03d}C{camera:03d}P{subject:03d}R{replication:03d}A{action:03d}"


def write_raw(folder: Path, number: int, frames: int) -> None:
    """Write just so many .skeleton files of about `frames` frames, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    found, wanted = {path.stem for path in folder.glob("*.skeleton")}, set(ntu_names(number))
    if found == wanted:
        return
    for name in found - wanted:
        (folder / f"{name}.skeleton").unlink()
    random = np.random.RandomState(0)
    texts = [
        skeleton_text(
            synthetic_joints(random, random.randint(frames // 2, frames * 3 // 2 + 1), 1 + i % 2)
        )
        for i in range(VARIANTS)
    ]
    for i, name in enumerate(tqdm(ntu_names(number), total=number, desc="writing")):
        (folder / f"{name}.skeleton").write_bytes(texts[i % VARIANTS])


def plain_bodies(path: Path) -> Bodies:
    """Read a .skeleton file line by line, number by number, as most repositories do."""
    frames, ids, joints = [], [], []
    with path.open(encoding="utf-8") as file:
        for frame in range(int(file.readline())):
            for _ in range(int(file.readline())):
                ids.append(file.readline().split()[0].encode())
                frames.append(frame)
                body = []
                for _ in range(int(file.readline())):
                    numbers = [float(word) for word in file.readline().split()]
                    body.append(numbers[:3])
                joints.append(body)
    return Bodies(np.array(frames), ids, np.array(joints, np.float32))


def plain_prepare(files: list[Path], out: Path) -> None:
    """Prepare a store from files read one after the other, line by line."""
    class_names = names.class_names("ntu120")
    with StoreWriter(out, "ntu_rgb_d", class_names, (2, NUM_JOINTS, 3)) as writer:
        for path in files:
            label, columns = names.parse(path.stem)
            joints = normalize.upright(ntu.choose_bodies(plain_bodies(path))[0])
            writer.add(path.stem, label, joints, **columns)


def plain_upright(keypoint: np.ndarray) -> np.ndarray:
    """Turn (M, T, V, 3) upright, frame by frame and joint by joint; returns (T', M, V, 3).

    The same as `normalize.upright`, but for the rounding of two rotations one after the other.
    """
    seen = [
        [t for t in range(keypoint.shape[1]) if (abs(body[t]) > 1e-8).any()] for body in keypoint
    ]
    if len(keypoint) == 2 and len(seen[1]) > len(seen[0]):
        keypoint, seen = keypoint[::-1], seen[::-1]
    frames = [[list(body[t]) for body in keypoint] for t in seen[0]]
    origin = frames[0][0][1]
    for frame in frames:
        for body in frame:
            for v, joint in enumerate(body):
                body[v] = joint - origin if joint.any() else joint
    for (start, end), axis in ((normalize.SPINE, 2), (normalize.SHOULDERS[::-1], 0)):
        turn = normalize.shortest_rotation(frames[0][0][end] - frames[0][0][start], axis)
        for frame in frames:
            for body in frame:
                for v, joint in enumerate(body):
                    body[v] = turn @ joint
    return np.array(frames, np.float32)


def plain_pickle(path: Path, out: Path, number: int) -> float:
    """Prepare a store of some annotations of a pickle, read whole; return seconds per sample."""
    start = time.perf_counter()
    annotations = pickle.loads(path.read_bytes())["annotations"]  # made by this very file
    seconds = (time.perf_counter() - start) / len(annotations)
    start = time.perf_counter()
    class_names = names.class_names("ntu120")
    with StoreWriter(out, "ntu_rgb_d", class_names, (2, NUM_JOINTS, 3)) as writer:
        for annotation in annotations[:number]:
            name = annotation["frame_dir"]
            writer.add(
                name, annotation["label"], plain_upright(annotation["keypoint"]),
                **names.parse(name)[1],
            )  # fmt: skip
    return seconds + (time.perf_counter() - start) / len(annotations[:number])


def compare(ours: Path, plain: Path, tolerance: float = 0) -> None:
    """Print that two stores agree in the samples of `plain`; AssertionError if they do not."""
    store, other = Store.open(ours), Store.open(plain)
    for row, same in enumerate(store.rows_of(other.names.tolist(), plain)):
        np.testing.assert_allclose(
            store.clip(same), other.clip(row), rtol=0, atol=tolerance, err_msg=other.names[row]
        )
    print(f"equal{f' within {tolerance:g}' * (tolerance > 0)} in the {len(other)} samples of both")


class Memory:
    """The largest memory of a process and all below it, looked at 20 times a second, in bytes."""

    def __init__(self, pid: int) -> None:
        self.pid, self.done = pid, threading.Event()
        self.peak = 0  # their own
        self.mapped = 0  # resident pages of files: programs, and a store as far as it was read
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self.done.wait(0.05):
            own, mapped = zip(*map(resident, family(self.pid)))
            self.peak, self.mapped = max(self.peak, sum(own)), max(self.mapped, sum(mapped))

    def __enter__(self) -> Memory:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.thread.join()


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:
        return [pid]
    return [pid] + [member for child in children for member in family(int(child))]


def resident(pid: int) -> tuple[int, int]:
    """Return the bytes of a process in memory: its own, and those of mapped files.

    The latter are copies of what is on the disk, which the system drops when it needs the memory.
    """
    found = process_memory(pid)
    return found.get("RssAnon", 0) + found.get("RssShmem", 0), found.get("RssFile", 0)


class Clock:
    """Seconds that passed, and that this process and the ended ones below it worked."""

    def __init__(self) -> None:
        self.started, self.worked_before = time.perf_counter(), self._work()

    @staticmethod
    def _work() -> float:
        return sum(os.times()[:4])

    def read(self, what: str, samples: int, memory: str = "") -> float:
        """Print the seconds for so many samples; return how many passed."""
        passed = time.perf_counter() - self.started
        print(
            f"{what}: {samples} samples in {passed:.1f} s, {samples / passed:.0f} samples/s "
            f"({self._work() - self.worked_before:.1f} s of work){memory}"
        )
        return passed


def prepare(samples: int, *argv: object) -> float:
    """Run data.prepare, print what it took, and return the seconds."""
    clock = Clock()
    process = subprocess.Popen([sys.executable, "-m", "data.prepare", *map(str, argv)], cwd=ROOT)
    with Memory(process.pid) as memory:
        code = process.wait()
    if code:
        raise InputError(f"data.prepare ended with code {code}")
    at_most = f", {memory.peak / 2**20:.0f} MiB at most"
    return clock.read(f"data.prepare {argv[0]}, {argv[-1]} workers", samples, at_most)


def raw(args: argparse.Namespace) -> None:
    """.skeleton files of about 100 frames, by this project and by a plain reader."""
    folder = args.folder / "raw"
    write_raw(folder, args.samples, args.frames)
    files = sorted(folder.glob("*.skeleton"))[: args.plain]
    clock = Clock()
    plain_prepare(files, args.folder / "plain")
    plain = clock.read("line by line, one process", len(files))
    out = args.folder / "ntu"
    ours = prepare(args.samples, "ntu", folder, "--out", out, "--workers", args.workers)
    print(f"{args.samples / ours / (len(files) / plain):.1f} times as fast")
    compare(out, args.folder / "plain")


def pickled(args: argparse.Namespace) -> None:
    """An annotation pickle of 3D poses, by this project and by a plain reader."""
    path = args.folder / "ntu120_3danno.pkl"
    random = np.random.RandomState(0)
    annotations = []
    for i, name in enumerate(ntu_names(args.samples)):
        frames = random.randint(args.frames // 2, args.frames * 3 // 2 + 1)
        keypoint = synthetic_joints(random, frames, 1 + i % 2).swapaxes(0, 1).astype(np.float16)
        label = int(name[-3:]) - 1
        annotations.append(
            {"frame_dir": name, "label": label, "keypoint": keypoint, "total_frames": frames}
        )
    args.folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"split": {}, "annotations": annotations}, protocol=4))
    del annotations
    print(f"the pickle has {path.stat().st_size / 2**20:.0f} MiB")
    plain = plain_pickle(path, args.folder / "plain-pickle", args.plain)
    print(
        f"joint by joint, one process: {1 / plain:.0f} samples/s (of {args.plain}, and their share "
        "of reading the whole pickle)"
    )
    out = args.folder / "pyskl"
    ours = prepare(args.samples, "pyskl", path, "--out", out, "--workers", args.workers)
    print(f"{args.samples / ours * plain:.1f} times as fast")
    compare(out, args.folder / "plain-pickle", tolerance=1e-6)


def scale(args: argparse.Namespace) -> None:
    """As many short samples as NTU RGB+D 120 has: prepare, open, list, load and feed."""
    folder = args.folder / "short"
    write_raw(folder, args.samples, args.frames)
    out = args.folder / "ntu120"
    prepare(args.samples, "ntu", folder, "--out", out, "--workers", args.workers)
    with Memory(os.getpid()) as memory:
        start = time.perf_counter()
        store = Store.open(out)
        print(f"opened in {time.perf_counter() - start:.3f} s")
        start = time.perf_counter()
        drawn = make_list(store, "ntu120-xset", args.imbalance, n_max=args.n_max)
        print(f"listed {len(drawn.rows)} samples in {time.perf_counter() - start:.2f} s")
        clock = Clock()
        frames = sum(len(np.array(store.clip(row))) for row in range(len(store)))
        clock.read(f"read {frames} frames of the store", len(store))
        clock = Clock()
        feeder = Feeder(store, np.arange(len(store)), train=True, resident=True)
        clock.read(f"loaded {feeder.where}", len(store))
        clock = Clock()
        batches = torch.arange(len(store)).split(FED_AT_ONCE)
        fed = sum(len(clips) for clips, _, _ in feeder.batches(batches))
        clock.read("fed one epoch", fed)
    print(
        f"{memory.peak / 2**20:.0f} MiB at most in opening, listing, loading and feeding, "
        f"not counting up to {memory.mapped / 2**20:.0f} MiB of mapped files (programs, the store)"
    )


def damaged(content: bytes, random: np.random.RandomState) -> bytes:
    """Return a file's bytes with one to three of them, or of their stretches, spoilt."""
    for _ in range(random.randint(1, 4)):
        start = random.randint(len(content) + 1)
        end = start + random.randint(1, 40)
        written = bytes(random.choice(list(WRITTEN), 3).tolist())
        stop, instead = [
            (len(content), b""),  # cut off
            (end, b""),  # a gap
            (start + 1, written[:1]),  # another byte
            (start, written),  # bytes too many
            (start, content[start:end]),  # a repeat
        ][random.choice(5, p=[0.1, 0.2, 0.4, 0.2, 0.1])]
        content = content[:start] + instead + content[stop:]
    return content


def is_sound(clip: Clip, shape: tuple[int, int, int]) -> bool:
    """Whether a clip fits a store of `shape` (M, V, C), which has room for M persons at most."""
    _, persons, *rest = clip.joints.shape
    return (
        1 <= persons <= shape[0]
        and tuple(rest) == shape[1:]
        and bool(np.isfinite(clip.joints).all())
    )


def damage(args: argparse.Namespace) -> None:
    """Damaged .skeleton and json files: each gives a sound clip or one error with file and line."""
    random = np.random.RandomState(args.seed)
    joints = synthetic_joints(random, 4, 2)
    label, name = 1, "a02_s01_e00_v01"
    skeletons = joints[:, 0, :20].round(4).tolist()
    text = f'{{"file_name": "{name}",\n"skeletons": [' + ",\n".join(map(str, skeletons))
    forms = {
        "S001C001P001R001A002.skeleton": (
            skeleton_text(joints),
            lambda path: ntu.read(File(str(path))),
            (2, NUM_JOINTS, 3),
        ),
        f"{name}.json": (
            (text + f'],\n"label": {label + 1}}}').encode(),
            nw_ucla.read_json,
            (1, 20, 3),
        ),
    }
    args.folder.mkdir(parents=True, exist_ok=True)
    for file, (content, read, shape) in forms.items():
        path, sound, refused = args.folder / file, 0, 0
        for _ in tqdm(range(args.samples), desc=file):
            path.write_bytes(damaged(content, random))
            try:
                clip = read(path)
            except InputError as error:
                if not re.fullmatch(rf"{re.escape(str(path))}: [^\n]+", str(error)):
                    raise AssertionError(f"an unclear error: {error!r}") from error
                refused += 1
            else:
                if not is_sound(clip, shape) or clip.label != label:
                    raise AssertionError(f"a wrong clip from {path}")
                sound += 1
        print(f"{file}: {args.samples} damaged, {sound} sound clips, {refused} clear errors")


def main(argv: list[str]) -> None:
    parts = {
        "raw": (raw, 5_000, 100), "pickle": (pickled, 20_000, 100), "scale": (scale, 114_000, 6),
        "damage": (damage, 2_000, 4),
    }  # fmt: skip
    parser = command.make_parser("data", __doc__)
    parser.add_argument("part", choices=parts)
    for flag, kind, default, text in (
        ("--samples", command.positive, None, "number of samples"),
        ("--frames", command.positive, None, "frames per sample, approximately"),
        ("--folder", Path, Path("work_dir/benchmark_data"), "of the synthetic files"),
        ("--workers", command.positive, 2, "processes of data.prepare"),
        ("--plain", command.positive, 500, "samples for the plain reader"),
        ("--imbalance", float, 100, "imbalance factor of the list in scale"),
        ("--n-max", command.positive, None, "largest class of the list in scale"),
        ("--seed", int, 0, "random seed of the damage"),
    ):
        parser.add_argument(flag, type=kind, default=default, help=text)
    options = parser.parse_args(argv)
    measure, samples, frames = parts[options.part]
    options.samples, options.frames = options.samples or samples, options.frames or frames
    measure(options)
