"""The prepared store: a folder with all frames of a data set, memory-mapped for random access.

`joints.npy` contains the frames of all clips, concatenated, (F, M, V, C) float32; `index.npz` the
names, labels, starts and lengths of the clips and one array per additional column; `meta.json` the
layout, the class names and how the clips were prepared.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import graph
from data import measure, normalize
from data.names import Samples
from data.quality import Figures, Quality, Reading, figures
from data.readers import EXAMPLES
from errors import InputError
from files import UNREADABLE, replacing, sync_folder, write_json

FORMAT = 1
LAYOUT_FILE = "layout.yaml"
FILES = ("joints.npy", "index.npz", "meta.json", LAYOUT_FILE)
SAMPLED_FRAMES = 256  # of the fingerprint
INDEX = ("names", "labels", "starts", "lengths")


@dataclass(frozen=True, kw_only=True)
class Store(Samples):
    """An open store; `Store.open(path)` validates it without reading the joints."""

    joints: np.ndarray  # (F, M, V, C) float32, memory-mapped
    starts: np.ndarray  # (N,) int64, first frame of each clip
    lengths: np.ndarray  # (N,) int64, frames of each clip

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open the store in folder `path`; InputError if it is missing, damaged or half-written."""
        path = Path(path)
        if not (path / "meta.json").is_file():
            arguments = EXAMPLES.get(path.name, "NAME SOURCE...")
            raise InputError(
                f"{path}: is not a prepared store; create it with "
                f"`python -m data.prepare {arguments} --out {shlex.quote(str(path))}`"
            )
        try:
            meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
            with np.load(path / "index.npz", allow_pickle=False) as file:
                index = {key: file[key] for key in file.files}
            joints = np.load(path / "joints.npy", mmap_mode="r", allow_pickle=False)
            own = {key: index.pop(key) for key in INDEX}
            store = cls(path=path, joints=joints, **own, columns=index, meta=meta)
            store._check()
        except UNREADABLE as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path}: the store is damaged ({reason}); remove the folder and prepare it again"
            ) from error
        return store

    def _check(self) -> None:
        """Raise ValueError unless the files of the store are consistent."""
        if self.meta["format"] != FORMAT:
            raise ValueError(f"format {self.meta['format']}, this version reads {FORMAT}")
        if self.joints.ndim != 4 or self.joints.dtype != np.float32:
            raise ValueError(f"joints.npy contains {self.joints.dtype} {self.joints.shape}")
        columns = [self.names, self.labels, self.starts, self.lengths, *self.columns.values()]
        if any(column.shape != self.names.shape for column in columns):
            raise ValueError("the columns of index.npz differ in length")
        if self.lengths.sum() != len(self.joints) or self.lengths.min() < 1:
            raise ValueError("index.npz and joints.npy have different numbers of frames")
        if not np.array_equal(self.starts, np.cumsum(self.lengths) - self.lengths):
            raise ValueError("the clips of index.npz are not contiguous")
        if self.labels.min() < 0 or self.labels.max() >= len(self.class_names):
            raise ValueError(f"labels exceed the {len(self.class_names)} classes of meta.json")

    @property
    def layout(self) -> str:
        """The layout as an argument of `graph.load`: a name, or the layout file in the store."""
        layout = self.meta["layout"]
        return str(self.path / layout) if layout == LAYOUT_FILE else layout

    @property
    def normalization(self) -> str | None:
        """The normalization of the clips, a key of normalize.NORMALIZATIONS; None if unknown."""
        return normalize.name_in(self.meta)

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 of the samples and of frames spread over the store: of a store that was prepared
        otherwise it is another one."""
        found = hashlib.sha256(repr(self.joints.shape).encode())
        for column in (self.names, self.labels, self.lengths):
            found.update(np.ascontiguousarray(column).tobytes())
        for row in np.unique(np.linspace(0, len(self.joints) - 1, SAMPLED_FRAMES).astype(int)):
            found.update(self.joints[row].tobytes())
        return found.hexdigest()

    @property
    def reading(self) -> Reading:
        """How the coordinates of the clips are to be interpreted."""
        return Reading.of(self.layout, self.joints.shape[1:], self.meta)

    def quality(self, rows: np.ndarray) -> Quality:
        """Return statistics of the clips of these rows; reads all of their frames."""
        reading = self.reading
        names = self.names[rows].tolist()
        clips = [figures(name, self.clip(row), reading) for name, row in zip(names, rows)]
        return Quality.of(clips, reading)

    @property
    def class_names(self) -> list[str]:
        return self.meta["class_names"]

    def __len__(self) -> int:
        return len(self.names)

    def clip(self, row: int) -> np.ndarray:
        """Return the frames of one clip, (T, M, V, C), as a view."""
        start = self.starts[row]
        return self.joints[start : start + self.lengths[row]]


def is_store(folder: Path) -> bool:
    """Return whether a folder has the files of a prepared store."""
    return all((folder / name).is_file() for name in ("meta.json", "index.npz", "joints.npy"))


class StoreWriter:
    """Write a store clip by clip; memory does not grow with the number of frames.

    A context manager: without an error, the complete store is renamed to `path` at the end, where
    it replaces an older store. On any error nothing remains. A killed process leaves only a hidden
    folder, which the next writer removes.
    """

    def __init__(
        self,
        path: str | Path,
        layout: str,
        class_names: list[str],
        shape: tuple[int, int, int],
        **meta: Any,
    ) -> None:
        """`shape` is (M, V, C) of each frame, `layout` a name or a layout file (which is copied).

        `meta` are additional entries of meta.json.
        """
        self.path = Path(path)
        if self.path.is_symlink():  # write to the file system of the link's target
            self.path = self.path.resolve()
        self.shape = shape
        is_file = Path(layout).suffix in graph.SUFFIXES
        self.meta = {
            "format": FORMAT,
            "layout": LAYOUT_FILE if is_file else layout,
            "class_names": class_names,
            **meta,
        }
        self.reading = Reading.of(layout, shape, meta)
        self.labels: dict[str, int] = {}  # name -> label
        self.lengths: list[int] = []  # frames of each clip
        self.columns: dict[str, list[Any]] = defaultdict(list)
        self.figures: list[Figures] = []  # of each clip
        _refuse_foreign(self.path, self.meta)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(self.path)
        self.partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self.partial.mkdir()
        if is_file:
            shutil.copyfile(layout, self.partial / LAYOUT_FILE)
        self.file = (self.partial / "joints.npy").open("wb")
        self._write_header()

    def _write_header(self) -> None:
        """Write the header of joints.npy for the current number of frames."""
        self.file.seek(0)
        shape = (sum(self.lengths), *self.shape)
        # NumPy pads the header, so its size does not change when the first axis grows.
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)

    def add(self, name: str, label: int, joints: np.ndarray, **columns: int | str) -> None:
        """Append a clip of joints (T, m, V, C), m <= M; absent bodies are filled with zeros.

        All clips must have the same columns. InputError names a clip that does not fit the store.
        """
        frames, persons, *rest = joints.shape
        if persons > self.shape[0] or tuple(rest) != self.shape[1:]:
            raise InputError(
                f"{name}: {joints.shape[1:]} persons, joints, channels; the store has {self.shape}"
            )
        num_class = len(self.meta["class_names"])
        if not 0 <= label < num_class:
            raise InputError(f"{name}: label {label} exceeds the {num_class} classes")
        if name in self.labels:
            raise InputError(f"{name}: duplicate name")
        if frames < 1:
            raise InputError(f"{name}: has no frames")
        if self.labels and columns.keys() != self.columns.keys():
            raise InputError(f"{name}: has columns {sorted(columns)}, not {sorted(self.columns)}")
        measure.check_finite(joints, name)
        block = np.zeros((frames, *self.shape), "<f4")
        block[:, :persons] = joints
        if self.reading.half_width:
            fix = "divide x by the image width and y by the image height first"
            measure.check_scaled(block, name, self.reading.half_width, fix)
        if self.reading.planar and self.shape[-1] == 3:
            measure.check_scores(block, name)
        with _naming(self.path):
            self.file.write(block.data)
        self.labels[name] = int(label)
        self.lengths.append(frames)
        self.figures.append(figures(name, block, self.reading))
        for key, value in columns.items():
            self.columns[key].append(value)

    def quality(self) -> Quality:
        """Return statistics of the clips written so far."""
        return Quality.of(self.figures, self.reading)

    def close(self) -> None:
        """Complete the store and rename it to its path; InputError if it has no clips."""
        if not self.labels:
            raise InputError(f"{self.path}: no usable samples, so no store was written")
        self._write_header()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        lengths = np.array(self.lengths, np.int64)
        index: dict[str, Any] = {
            "names": np.array(list(self.labels)),
            "labels": np.array(list(self.labels.values()), np.int64),
            "starts": np.cumsum(lengths) - lengths,
            "lengths": lengths,
        }
        index |= {key: np.array(column) for key, column in self.columns.items()}
        with replacing(self.partial / "index.npz") as file:
            np.savez(file, **index)
        if bodies := self.quality().size:
            self.meta["size"] = [bodies.low, bodies.median, bodies.high]
        write_json(self.partial / "meta.json", self.meta)
        older = self.path.with_name(f".{self.path.name}.{os.getpid()}.older")
        if self.path.exists():
            self.path.rename(older)
        self.partial.rename(self.path)
        sync_folder(self.path.parent)
        shutil.rmtree(older, ignore_errors=True)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            with _naming(self.path), self.file:
                if kind is None:
                    self.close()
        finally:
            shutil.rmtree(self.partial, ignore_errors=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the path of the store to write errors (full disk), which do not contain it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _refuse_foreign(path: Path, meta: dict[str, Any]) -> None:
    """Raise InputError if `path` contains anything but a store of the same source, because it would
    be replaced."""
    if not path.exists():
        return
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else {path.name}
    if not names:
        return
    if not (is_store(path) and names <= set(FILES)):
        raise InputError(f"--out {path}: contains other files; give a new folder for the store")
    try:
        before = json.loads((path / "meta.json").read_text(encoding="utf-8")).get("source")
    except (ValueError, AttributeError):  # of a damaged store nothing is lost
        return
    then, now = (list(map(Path, said or ())) for said in (before, meta.get("source")))
    known = all(path.is_absolute() for path in then)  # earlier versions wrote them as typed
    if then and now and known and set(then) != set(now):
        raise InputError(
            f"--out {path}: contains a store of {', '.join(before)}, which would be replaced; name "
            "all sources in one command, give a new folder, or remove that one"
        )


def _remove_leftovers(path: Path) -> None:
    """Remove the folders of killed writers of this store, whose process no longer exists.

    If one was killed between its two renames, the older store is put back.
    """
    for kind in ("partial", "older"):
        for leftover in path.parent.glob(f".{path.name}.*.{kind}"):
            pid = leftover.suffixes[-2].lstrip(".")
            if not pid.isdigit() or _is_alive(int(pid)):
                continue
            if kind == "older" and not path.exists():
                leftover.rename(path)
            else:
                shutil.rmtree(leftover, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def keys(store: Store, rows: np.ndarray) -> np.ndarray:
    """Return a number (n,) int64 for each clip that no other clip has, in whichever store it lies:
    64 bits of a sha256 of its name, its length and its middle frame."""

    def key(row: int) -> bytes:
        length, frame = _middle(store, row)
        return hashlib.sha256(f"{store.names[row]}\n{length}\n".encode() + frame).digest()[:8]

    return np.frombuffer(b"".join(map(key, np.asarray(rows).tolist())), "<i8").astype(np.int64)


def _middle(store: Store, row: int) -> tuple[int, bytes]:
    """Return the length of a clip and its middle frame."""
    clip = store.clip(row)
    return len(clip), clip[len(clip) // 2].tobytes()


def copies(store: Store, test_rows: np.ndarray, train_rows: np.ndarray) -> np.ndarray:
    """Return a mask over `test_rows`: True where the clip is identical to a training clip.

    Identical means the same length and bit-identical frames. Only clips with the same length and
    the same middle frame are read completely; without duplicates that is one frame per clip.
    """
    alike = defaultdict(list)
    for row in np.asarray(train_rows).tolist():
        alike[_middle(store, row)].append(row)
    mask = [
        any(
            store.clip(row).tobytes() == store.clip(other).tobytes()
            for other in alike.get(_middle(store, row), ())
        )
        for row in np.asarray(test_rows).tolist()
    ]
    return np.array(mask, bool)
