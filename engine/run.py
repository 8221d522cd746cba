"""The run folder. Only this module contains the names of its files:

    config.yaml                         every resolved value
    last.pt, best.pt                    the checkpoints (engine/checkpoint.py)
    log.txt, metrics.jsonl, events.*    lines, an object per epoch, TensorBoard (engine/logs.py)
    scores.npz, result.json             the test of best.pt
    scores-last.npz, result-last.json   the test of last.pt
    test-<what differs>/                tests of other weights or with other values
    .lock                               exists while a process works in the folder

Only one process at a time works in a folder. The lock is one of the operating system, which
releases it whenever the process ends.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from engine.config import Config
from engine.distributed import World
from errors import InputError
from files import leftovers, replacing, write_json, write_text

BOTH = BEST, LAST = "best", "last"
ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("main.py", "data", "engine", "feeders", "graph", "longtail", "model")
# Another process holds the lock for an instant when it checks whether it is free.
LOCK_PATIENCE = 1.0  # seconds


class RunFolder:
    """The folder of one run; it need not exist."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.log_file = self.path / "log.txt"
        self.metrics_file = self.path / "metrics.jsonl"
        self._lock_file = self.path / ".lock"

    def __str__(self) -> str:
        return str(self.path)

    # --- its files ---

    def checkpoint(self, which: str) -> Path:
        """Return the path of the best or the last checkpoint."""
        return self.path / f"{which}.pt"

    def scores_file(self, which: str = BEST) -> Path:
        return self.path / ("scores-last.npz" if which == LAST else "scores.npz")

    def result_file(self, which: str = BEST) -> Path:
        return self.path / ("result-last.json" if which == LAST else "result.json")

    def test_files(self) -> list[Path]:
        return [file(which) for file in (self.scores_file, self.result_file) for which in BOTH]

    @property
    def exists(self) -> bool:
        """Whether the folder contains a run, or files of one that can be reported."""
        files = (self.config_file, self.metrics_file, self.scores_file())
        return any(file.is_file() for file in files)

    # --- reading ---

    def config(self) -> dict[str, Any]:
        """Return the values of config.yaml; empty if it is absent, InputError if it is damaged."""
        way_out = "--overwrite discards the run"
        return _read(self.config_file, yaml.safe_load, way_out) or {}

    def result(self, which: str = BEST) -> dict[str, Any] | None:
        """Return the test result of a checkpoint; None if absent, InputError if it is damaged."""
        return _read(self.result_file(which), json.loads, "test again: main.py --phase test")

    def describe(self, which: str = BEST) -> dict[str, Any]:
        """Return the values of config.yaml, overridden by the result, if they exist."""
        return {**self.config(), **(self.result(which) or {})}

    def epochs(self) -> list[dict[str, Any]]:
        """Return the epochs of metrics.jsonl; a line truncated by a kill is skipped."""
        epochs = []
        text = self.metrics_file.read_text(encoding="utf-8") if self.metrics_file.is_file() else ""
        for line in text.splitlines():
            with suppress(json.JSONDecodeError):
                epochs.append(json.loads(line))
        return epochs

    def is_finished(self, settings: Config) -> bool:
        """Return whether a run of `settings` has trained all its epochs and been tested.

        A test of the last checkpoint of an interrupted run does not count.
        """
        result = self.result(LAST)
        return (
            result is not None
            and self.result(BEST) is not None
            and result.get("epochs", settings.num_epoch) == settings.num_epoch
            and not self.changed_keys(settings)
        )

    def changed_keys(self, settings: Config, trained: Config | None = None) -> list[str]:
        """Return the keys, sorted, whose values in config.yaml differ from `settings`.

        A key that is not in the file, because it is new, has its default there. Without the file,
        `trained`, the configuration in the checkpoint, is compared; [] if that is None.
        """
        now, then = (yaml.safe_load(each.to_yaml()) for each in (settings, trained or settings))
        if self.config_file.is_file():
            then = dataclasses.asdict(Config()) | self.config()
            if isinstance(then["store"], str):  # the configuration of an earlier run is as typed
                then["store"] = str(Path(then["store"]))
        return sorted(key for key in {*then, *now} if then.get(key) != now.get(key))

    # --- writing ---

    def check(self, settings: Config, resume: bool, overwrite: bool) -> None:
        """Accept a new folder, the same run with `resume`, or a run to discard with `overwrite`.

        Raises InputError for a run with another configuration, the same run without `resume`, a
        test of foreign weights, or files that are not a run: nothing is overwritten by default.
        """
        ours = {*leftovers(self.path), self._lock_file} if self.path.is_dir() else set()
        if not self.path.is_dir() or not set(self.path.iterdir()) - ours:
            return
        if not self.config_file.is_file():
            raise InputError(
                f"{self} is not empty and does not contain a run; name another --work-dir"
            )
        if overwrite:
            return
        if changed := self.changed_keys(settings):
            raise InputError(
                f"{self} contains a run with other values of {', '.join(changed)}; "
                "--tag NAME keeps both, --overwrite discards it"
            )
        trained = any(self.checkpoint(which).is_file() for which in BOTH)
        if not trained and (tested := self.result() or self.result(LAST)):
            raise InputError(
                f"{self} contains the test of {tested.get('weights')}, which was not trained here; "
                "--tag NAME keeps both, --overwrite discards it"
            )
        if not resume:
            raise InputError(
                f"{self} already contains this run; --resume continues it, --overwrite discards it"
            )

    def begin(self, settings: Config, overwrite: bool = False) -> None:
        """Prepare the folder for a run of `settings`; `overwrite` discards the existing run.

        It removes only files that a run writes, including those of its tests.
        """
        if overwrite:
            for test in map(RunFolder, self.path.glob("test-*")):
                if test.config_file.is_file():
                    test._clear()
                    if not any(test.path.iterdir()):
                        test.path.rmdir()
            self._clear()
        self.path.mkdir(parents=True, exist_ok=True)
        for path in leftovers(self.path):
            path.unlink()
        write_text(self.config_file, settings.to_yaml())

    def _clear(self) -> None:
        """Remove the files that this module names."""
        files = [self.config_file, self.log_file, self.metrics_file, *self.test_files()]
        events = self.path.glob("events.out.tfevents.*")
        for path in (*files, *map(self.checkpoint, BOTH), *events):
            path.unlink(missing_ok=True)

    def check_test(self) -> None:
        """Raise InputError if a test would write over a file of the user's."""
        for path in (*self.test_files(), self.log_file):
            if path.exists() and not self.config_file.is_file():
                raise InputError(
                    f"{path} is in the way of the test, and not of a run; name a --work-dir"
                )

    def write_test(
        self, which: str, names: list[str], labels: np.ndarray, scores: np.ndarray,
        result: dict[str, Any],
    ) -> None:  # fmt: skip
        """Write the scores (N, K) of N samples and the result as the test of checkpoint `which`."""
        with replacing(self.scores_file(which)) as file:
            np.savez(file, names=np.array(names), labels=labels, scores=scores)
        write_json(self.result_file(which), result)

    # --- one process at a time ---

    @contextmanager
    def lock(self, world: World | None = None) -> Iterator[None]:
        """Lock the folder for this process, or for all ranks.

        Raises InputError, on every rank, if another process has locked it.
        """
        world, lock, busy = world or World(), FileLock(self._lock_file), False
        if world.is_main:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=LOCK_PATIENCE)
            except Timeout:
                busy = True
        if world.any(busy):
            raise InputError(
                f"{self}: another process is working in this folder; wait until it ends, or "
                "name another --work-dir or --tag"
            )
        try:
            yield
        finally:
            if world.is_main:
                self._lock_file.unlink(missing_ok=True)  # waiting processes then open a new file
                lock.release()

    @property
    def is_locked(self) -> bool:
        """Whether a process works in the folder."""
        if not self._lock_file.is_file():
            return False
        try:
            with FileLock(self._lock_file, timeout=0):
                return False
        except Timeout:
            return True


def _read(path: Path, parse: Callable[[str], Any], way_out: str) -> dict[str, Any] | None:
    """Return the values in a file; None if it is absent, InputError if it is damaged."""
    if not path.is_file():
        return None
    try:
        return dict(parse(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError, TypeError):
        raise InputError(f"{path}: is damaged; {way_out}") from None


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_version() -> str:
    """Return a digest of the source code that a run depends on."""
    found = hashlib.sha256()
    for source in SOURCES:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return found.hexdigest()[:16]


# --- where a test goes ---


def folder_for_test(
    home: RunFolder, settings: Config, weights: Path, fingerprint: str | None = None,
    trained: Config | None = None, work_dir: Path | None = None,
) -> RunFolder:  # fmt: skip
    """Return the folder for a test: `work_dir`, the run's own, or its subfolder test-<what
    differs>.

    `home` is the folder of the run that the weights belong to, `fingerprint` that of the store,
    `trained` the configuration in the checkpoint. Raises InputError if the folder contains a run or
    a test of other weights or values.
    """
    if work_dir is not None:
        run = RunFolder(work_dir)
        if others := differences(run, settings, weights, fingerprint):
            raise InputError(
                f"--work-dir {run} contains another run or test (it differs in "
                f"{', '.join(others)}); name a new folder"
            )
        return run
    parts = differences(home, settings, weights, fingerprint, trained)
    if not parts:
        return home
    beside = RunFolder(home.path / f"test-{'-'.join(parts)}"[:200])
    known = holds(home, weights) or holds(beside, weights)  # weights of a running run may change
    if beside.changed_keys(settings) or not known:
        raise InputError(
            f"{beside} contains the test of other weights or values; name a --work-dir"
        )
    return beside


def differences(
    run: RunFolder, settings: Config, weights: Path, fingerprint: str | None = None,
    trained: Config | None = None,
) -> list[str]:  # fmt: skip
    """Return the differences between a test and a run as parts of a file name."""
    values = vars(settings)
    changed = [f"{key}-{_short(values[key])}" for key in run.changed_keys(settings, trained)]
    results = (run.result(which) or {} for which in BOTH)
    tested = {result.get("store_fingerprint") for result in results} - {None}
    if fingerprint is not None and tested and fingerprint not in tested:
        changed.append(f"clips-{fingerprint[:8]}")
    return ([] if holds(run, weights) else [_short(weights.stem)]) + changed


def holds(run: RunFolder, weights: Path) -> bool:
    """Return whether a checkpoint, by content, is the run's own or was tested in the folder.

    True for a folder without checkpoints and results.
    """
    own = [path for path in map(run.checkpoint, BOTH) if path.is_file()]
    if own:
        return any(weights.samefile(path) or digest(weights) == digest(path) for path in own)
    results = [result for result in map(run.result, BOTH) if result is not None]
    return not results or digest(weights) in [r.get("weights_digest") for r in results]


def _short(value: Any) -> str:
    """Return a value as a part of a file name, with a digest if characters had to be removed."""
    text = "null" if value is None else str(value)
    if re.fullmatch(r"[\w.-]{1,40}", text):
        return text
    name = re.sub(r"[^\w.]+", "_", Path(text).name if isinstance(value, str) else "")[:40]
    return f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("_")
