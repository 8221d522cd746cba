"""What main.py does once its flags are read: the phases train, classifier, test and predict."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from contextlib import nullcontext
from pathlib import Path

import torch

import memory
from data.store import Store
from engine import (
    check,
    checkpoint,
    config,
    evaluate,
    jobs,
    logs,
    own_data,
    predict_files,
    recipe,
    threads,
)
from engine.build import make_feeder
from engine.distributed import World, choose_devices, free_memory
from engine.jobs import Job
from engine.precision import describe_amp
from engine.predict import Recognizer
from engine.run import BEST, LAST, RunFolder, folder_for_test
from engine.run_data import (
    check_result,
    check_store,
    check_unseen,
    listed_rows,
    open_test_data,
    remembered,
)
from engine.session import Training, build_training, restore
from engine.train import test, train
from errors import InputError
from feeders.source import shared_frames
from files import write_text
from flags import STREAMS
from longtail import shots
from model.fuse_bn import fuse_bn
from model.upstream import Checkpoint


def run(options: argparse.Namespace) -> list[Path]:
    """Carry out the command line that main.parse has read; return the folders of trained runs."""
    with World.from_environment() as world:
        trains = options.phase in ("train", "classifier")
        if not trains:
            used = config.TEST_KEYS if options.phase == "test" else config.PREDICT_KEYS
            config.check_used(options.overrides, used, f"--phase {options.phase}")
        runs = checked_runs(options, world) if trains else []
        devices = choose_devices(options.device, world)
        if devices[0].type == "cuda":
            torch.cuda.set_device(devices[0])
        else:
            memory.keep_freed()
        if options.check:
            check_runs(runs, options, devices, world)
            return []
        if trains:
            train_streams(runs, options, devices, world)
            return [job.place.path for job in runs] if world.is_main else []
        if options.phase == "test":
            test_checkpoint(options, devices, world)
        else:
            predict(options, devices[0])
        return []


def resolve(options: argparse.Namespace, stream: str | None) -> config.Config:
    """Return the configuration that the command line describes.

    With --store the values that follow from the store lie below the files of --config, or below the
    recommended method.
    """
    below = None
    if options.store is not None:
        for file in options.config:
            if other := config.read_file(file).get("store"):
                raise InputError(
                    f"--config {file}: names the store {other}, but --store is {options.store}; "
                    "with it give files of config/methods, or omit it and add --set store="
                    f"{options.store}"
                )
        weights = options.weights[0] if options.weights else None
        below = own_data.values_of(options.store, not options.config, weights)
    return config.resolve(
        options.config, options.overrides, options.tag, below, store=options.store, stream=stream,
        seed=options.seed, val_split=options.val_split, amp=options.amp, compile=options.compile,
        accumulate=options.accumulate,
    )  # fmt: skip


def overrides(options: argparse.Namespace) -> list[str]:
    """Return the words of --set, and --amp as one, which override a checkpoint's configuration."""
    return [*options.overrides, *([f"amp={options.amp}"] if options.amp else [])]


def checked_runs(options: argparse.Namespace, world: World) -> list[Job]:
    """Return the runs that are to be trained; nothing is built yet.

    Raises InputError that names everything that is missing: devices, stores, lists, weights.
    """
    found = check.Findings()
    found.attempt(choose_devices, options.device, world)
    runs = []
    for job in found.attempt(planned_runs, options) or []:
        found.attempt(check.check_data, job.settings)
        if (whole := found.attempt(with_weights, job.settings, options)) is not None:
            found.attempt(job.place.check, whole, options.resume, options.overwrite)
            if options.resume:
                found.attempt(check_finished, whole, job.place)
            runs.append(dataclasses.replace(job, settings=whole))
    found.refuse()
    return runs


def check_finished(settings: config.Config, run: RunFolder) -> None:
    """Raise InputError if a run that needs no resuming is of other data than there are now."""
    if run.is_finished(settings):
        store = Store.open(settings.store)
        listed, _, _ = listed_rows(store, settings, make=True)
        check_result(run, run.result(LAST) or {}, listed.digest, store.fingerprint)


def planned_runs(options: argparse.Namespace) -> list[Job]:
    """Return the run of each stream."""
    if not options.config and options.store is None:
        raise InputError(
            "--config is missing: name a file, e.g. config/demo-lt/joint.yaml; or --store FOLDER "
            "for a data set of your own (python -m data.prepare custom)"
        )
    streams = streams_of(options)
    if len(options.weights) > 1 or (options.weights and len(streams) > 1):
        raise InputError("--weights: a run starts from one FILE, of its own --stream")
    if options.jobs is not None and len(streams) == 1:
        raise InputError("--jobs: one stream is one run; --stream joint bone, or all, is several")
    runs = []
    for stream in streams:
        settings = own_data.with_shots(resolve(options, stream))
        folder = config.run_folder(settings)
        if options.work_dir is not None:
            folder = options.work_dir / stream if len(streams) > 1 else options.work_dir
        words = (*options.words, "--stream", settings.stream, "--work-dir", str(folder))
        runs.append(
            Job(settings.stream, words, RunFolder(folder), settings, overwrite=options.overwrite)
        )
    return runs


def streams_of(options: argparse.Namespace) -> tuple[str | None, ...]:
    """Return the streams of the command line in the usual order; (None,) without --stream."""
    named = options.stream or ()
    if "all" in named:
        return STREAMS
    return tuple(stream for stream in STREAMS if stream in named) or (None,)


def stream_of(options: argparse.Namespace) -> str | None:
    """Return the one stream of the command line, or None; InputError if it names several."""
    streams = streams_of(options)
    if len(streams) > 1:
        raise InputError(f"--stream: --phase {options.phase} takes one")
    return streams[0]


def with_weights(settings: config.Config, options: argparse.Namespace) -> config.Config:
    """Return the configuration of a run, completed by the checkpoint that it starts from."""
    classifier, weights = options.phase == "classifier", options.weights
    if classifier and (not weights or settings.classifier is None):
        raise InputError(
            "--phase classifier needs --weights of a trained network and a method with the key "
            "classifier, e.g. config/methods/crt.yaml on top"
        )
    if settings.classifier is not None and not classifier:
        raise InputError(
            f"classifier: {settings.classifier} needs a trained network; add --phase classifier "
            "--weights FILE"
        )
    if options.new_head and not weights:
        raise InputError("--new-head: needs --weights FILE, the trained network")
    if not weights:
        return settings
    return checkpoint.complete(settings, Checkpoint.read(weights[0]), options.new_head)


def check_runs(
    runs: list[Job], options: argparse.Namespace, devices: list[torch.device], world: World
) -> None:
    """Build the first run, take some steps, and print how long the runs take; train nothing."""
    if world.size > 1:
        raise InputError("--check: takes one process; give the command without torchrun")
    training = prepare_run(runs[0], options, devices, world)
    if line := threads.settle(training):
        print(line)
    several = f"{len(runs)} runs like this one: " if len(runs) > 1 else ""
    print(f"nothing is missing; {several}{runs[0].place}: {check.estimate(training)}")


def train_streams(
    runs: list[Job], options: argparse.Namespace, devices: list[torch.device], world: World
) -> None:
    """Train one stream, or several: one after another, or as processes, --jobs at a time."""
    if options.jobs is not None:
        if world.size > 1:
            raise InputError(
                "--jobs: deals whole runs to the devices; torchrun splits one, use either"
            )
        slots = jobs.make_slots(options.jobs, options.device, runs)
        outputs = runs[0].place.path.parent / "jobs"
        instead = " in place of --overwrite" if options.overwrite else ""
        resume = f"the same call with --resume{instead}"
        jobs.check(jobs.run_all(runs, slots, outputs, options.quiet, resume))
        return
    with shared_frames() if len(runs) > 1 else nullcontext():
        for job in runs:
            if len(runs) > 1 and options.resume and job.is_finished:
                continue
            train_one(job, options, devices, world)
            free_memory()


def prepare_run(
    job: Job, options: argparse.Namespace, devices: list[torch.device], world: World
) -> Training:
    weights = Path(options.weights[0]) if options.weights else None
    classifier = options.phase == "classifier"
    return build_training(job.settings, devices, world, weights, classifier, options.new_head)


def train_one(
    job: Job, options: argparse.Namespace, devices: list[torch.device], world: World
) -> None:
    """Train and test one stream. Everything is checked before the folder is changed."""
    training, run = prepare_run(job, options, devices, world), job.place
    with run.lock(world):
        run.check(job.settings, options.resume, options.overwrite)  # again, now that it is locked
        if options.resume and run.checkpoint(LAST).is_file():
            restore(training, run.checkpoint(LAST))
        progress = training.state.progress
        if len(set(world.gather((run.path.name, progress.epoch, progress.step)))) > 1:
            raise InputError(
                f"{run} differs between ranks: all machines must share it at the same path"
            )
        if world.is_main:
            run.begin(job.settings, options.overwrite)
        log = logs.Log(run if world.is_main else None, options.quiet or not world.is_main)
        log.line(f"run folder {run}")
        log.line(threads.settle(training))
        train(training, run, log)
        test(training, run, log)
        log.line(f"next: {next_command(run, is_reported=bool(options.store))}")


def next_command(run: RunFolder, is_reported: bool) -> str:
    """Return what to do with a finished run, as words for a shell."""
    predict = ["python", "main.py", "--phase", "predict", "--weights", str(run.checkpoint(BEST))]
    report = ["python", "-m", "tools.report", str(run.path.parent)]
    return (
        f"{'' if is_reported else shlex.join(report) + ', or '}{shlex.join(predict)} --input FILE"
    )


def test_checkpoint(options: argparse.Namespace, devices: list[torch.device], world: World) -> None:
    """Test one checkpoint with its own configuration, or with --config.

    The results are written to the run folder of the checkpoint. A test of other weights, or with
    values that differ from the run's, is written to a subfolder (folder_for_test) or to --work-dir.
    """
    if len(options.weights) != 1:
        raise InputError("--phase test needs one --weights FILE")
    path = Path(options.weights[0])
    given, home = None, RunFolder(path.parent)
    if options.config:
        given = own_data.with_shots(resolve(options, stream_of(options)))
        home = RunFolder(config.run_folder(given))
    settings, model, facts = checkpoint.load_network(path, given, overrides(options))
    settings = own_data.with_shots(settings)
    trained = None if options.config else checkpoint.settings(facts, path)
    data = open_test_data(settings, model)
    run = folder_for_test(home, settings, path, data.store.fingerprint, trained, options.work_dir)
    model = model.to(devices[0])
    checkpoint.check_stream(facts, settings, path)
    doubt = check_store(facts, data.store, model.num_class, path)
    check_unseen(facts, data, path)
    data = remembered(facts, data)
    run.check_test()  # on all ranks, before the first writes
    with run.lock(world):
        if world.is_main and not run.config_file.is_file():
            write_text(run.config_file, settings.to_yaml())  # ensemble.py and tools.report read it
        log = logs.Log(run if world.is_main else None, options.quiet)
        log.line(describe_amp(settings.amp, devices[0]) if settings.amp != "off" else None)
        log.line(f"results are written to {run}" if run.path != home.path else None)
        log.line(doubt and f"warning: {doubt}")
        without = "no training list, so many, medium and few are null: "
        log.line((without if data.class_counts is None else "") + data.list_note)
        feeder = make_feeder(settings, data, data.test_rows, devices[0], clips=settings.test_clips)
        result = evaluate.test(
            fuse_bn(model), settings, data, feeder, path, run, world, facts=facts,
            quiet=options.quiet,
        )  # fmt: skip
        row = [path.name, *(logs.percent(result[key]) for key in shots.METRICS)]
        log.line(logs.table(["checkpoint", *logs.shot_headings(settings.shot_limits)], [row]))
        log.line(
            f"{result['samples']} samples, top-5 {logs.percent(result['top5'])}; without the "
            f"{result['samples'] - result['samples_clean']} duplicates of training samples, top-1 "
            f"is {logs.percent(result['top1_clean'])}"
        )
        log.line(recipe.describe(settings, result["departures"], result["started_from"]))


def predict(options: argparse.Namespace, device: torch.device) -> None:
    """Classify clips from files."""
    if not options.weights or not options.input:
        raise InputError("--phase predict needs --weights FILE... and --input FILE_OR_FOLDER...")
    if options.fps is not None and not (options.segments and options.fps > 0):
        raise InputError("--fps: the frames per second, more than 0, of --segments")
    if options.segments and options.window is None:
        raise InputError("--segments: merges windows; add --window FRAMES, e.g. --window 100")
    settings = resolve(options, stream_of(options)) if options.config else None
    recognizer = Recognizer.load(
        options.weights, device, settings, overrides(options), options.threshold
    )
    predict_files.run(
        recognizer, options.input, options.output, options.quiet,
        segmented=options.segments, fps=options.fps, per_person=options.per_person,
        window=options.window, stride=options.stride, image_size=options.image_size,
        nan=options.nan,
    )  # fmt: skip
