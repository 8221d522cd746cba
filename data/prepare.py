"""Convert the raw files of a data set to a prepared store.

    python -m data.prepare NAME SOURCE... --out data/<name>

Several processes read the files; memory does not grow with their number. Unreadable files are
skipped and reported with the reason. The store is written completely or not at all.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import memory
from data.names import numbered
from data.quality import Quality
from data.readers import READERS, Clip, Raw
from data.store import Store, StoreWriter
from errors import InputError, Parser, run_command
from flags import cores

BATCH = 16  # items per task of a worker
AHEAD = 4  # batches in progress per worker, which bounds the memory
# Keys of `left_out` in meta.json -> the line printed at the end.
LEFT_OUT = {
    "missing": "skipped samples listed in --missing",
    "unlabeled": "skipped samples that are not in a label file",
    "other_files": "skipped files that are not clips",
    "nobody": "skipped samples without a body",
    "unmatched": "names in the split without a sample",
    "no_part": "samples outside the split (neither training nor test)",
}


def prepare(raw: Raw, out: Path, workers: int, **meta: Any) -> tuple[Quality, list[str]]:
    """Write a store of all readable samples; InputError if there are none.

    Returns its statistics, and warnings about files that were read.
    """
    nobody: list[str] = []  # names of samples without a body
    unreadable: list[str] = []  # one message per file, with its name
    doubts: list[str] = []
    with StoreWriter(out, raw.layout, raw.class_names, raw.shape, **raw.meta, **meta) as writer:
        for clip in tqdm(_read_all(raw, workers), total=raw.total, unit="clip", disable=None):
            if isinstance(clip, str):
                unreadable.append(clip)
            elif not len(clip.joints):
                nobody.append(clip.name)
            else:
                try:
                    writer.add(clip.name, clip.label, clip.joints, **clip.columns)
                    doubts += filter(None, [clip.doubt])
                except InputError as error:
                    unreadable.append(str(error))
        if not writer.labels:
            if len(unreadable) == 1 and not nobody:
                raise InputError(unreadable[0])
            first = f", the first: {unreadable[0]}" if unreadable else ""
            raise InputError(
                f"{out}: no usable samples ({len(nobody)} without a body, "
                f"{len(unreadable)} unreadable{first})"
            )
        parts = writer.columns.get("split", [])
        writer.meta["left_out"] = {
            "missing": [],
            **raw.left_out,
            "nobody": nobody,
            "no_part": [name for name, part in zip(writer.labels, parts) if part == ""],
            "unreadable": unreadable,
        }
        return writer.quality(), doubts


def _read_all(raw: Raw, workers: int) -> Iterator[Clip | str]:
    """Yield each clip, or the reason why it cannot be read, in the order of the items.

    The number of batches in progress is limited, which bounds the memory.
    """
    items = iter(raw.items)
    batches = iter(lambda: list(islice(items, BATCH)), [])
    if workers <= 1:
        for batch in batches:
            yield from _read(raw.read, batch)
        return
    # Spawn: a forked process would inherit the threads and the memory of the caller.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker) as pool:
        reading = (pool.submit(_read, raw.read, batch) for batch in batches)
        pending = deque(islice(reading, workers * AHEAD))
        try:
            while pending:
                results = pending.popleft().result()
                pending.extend(islice(reading, 1))
                yield from results
        except BrokenProcessPool:
            raise InputError(
                "a worker process was killed (out of memory?); try --workers 1"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _read(read: Callable[[Any], Clip], batch: list[Any]) -> list[Clip | str]:
    clips: list[Clip | str] = []
    for item in batch:
        try:
            clips.append(read(item))
        except InputError as error:
            clips.append(str(error))
    return clips


def _start_worker() -> None:
    """Prepare a reading process, which ends when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    memory.keep_freed()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)


def main(argv: list[str]) -> None:
    args = _arguments(argv)
    if args.workers < 1:
        raise InputError(f"--workers: must be at least 1, not {args.workers}")
    raw = importlib.import_module(READERS[args.name]).reader(args)
    out = args.out or Path("data") / args.name
    sources = getattr(args, "source", [])
    sources = sources if isinstance(sources, list) else [sources]
    sources = [str(Path(source).resolve()) for source in sources]
    quality, doubts = prepare(raw, out, args.workers, data_set=args.name, source=sources)
    store = Store.open(out)
    classes, left_out = np.unique(store.labels), store.meta["left_out"]
    print(
        f"{out}: {len(store)} samples, {len(store.joints)} frames, "
        f"{len(classes)} of {len(raw.class_names)} classes, layout {raw.layout}"
    )
    if 0 not in classes and [raw.class_names[0]] == numbered([0]):
        doubts.append(
            f"the labels start at {min(classes)}: class 0 has no samples; classes count from 0"
        )
    print("\n".join(quality.lines()))
    for doubt in (*quality.doubts, *doubts):
        print(f"warning: {doubt}")
    for reason, line in LEFT_OUT.items():
        if names := left_out.get(reason):
            print(f"{line}: {len(names)}, e.g. {names[0]} (listed in {out}/meta.json)")
    parts = Counter(store.columns["split"].tolist() if "split" in store.columns else [])
    if parts:
        print(f"split: {parts['train']} train, {parts['test']} test")
        for kind, part in (("training", "train"), ("test", "test")):
            present = store.labels[store.columns["split"] == part]
            missing = [raw.class_names[label] for label in np.setdiff1d(classes, present)]
            if missing:
                first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
                print(f"classes without {kind} samples: {len(missing)} ({first})")
    if args.name == "custom" and not (parts["train"] and parts["test"]):
        print(
            "warning: without training and test samples only --phase predict can use the store; "
            "give a column `split`, or --split 0.3"
        )
    for reason in left_out["unreadable"]:
        print(f"unreadable: {reason}", file=sys.stderr)
    if left_out["unreadable"]:
        raise InputError(
            f"{len(left_out['unreadable'])} of {raw.total} samples are unreadable (listed above); "
            f"{out} contains the others"
        )


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m data.prepare", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, module in READERS.items():
        reader = importlib.import_module(module)
        about = reader.__doc__ or ""
        options = names.add_parser(name, help=about.splitlines()[0], description=about)
        if hasattr(reader, "SOURCE"):
            options.add_argument("source", type=Path, help=reader.SOURCE)
        else:
            reader.arguments(options)
        options.add_argument("--out", type=Path, help=f"folder to write (default: data/{name})")
        options.add_argument("--workers", type=int, default=cores(),
            help="number of reading processes (default: one per core)")  # fmt: skip
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_command(main))
