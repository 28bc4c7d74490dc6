"""masklake: the command line. Verbs that read tables need neither torch nor ray."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any, Literal

import tyro

from pipeline.errors import ConfigError, ManifestError, MasklakeError, PromptError, WeightsError

JOBS: dict[str, str] = {
    "refer_corpus": "jobs.refer_corpus:ReferCorpus",
    "multimodal_corpus": "jobs.multimodal_corpus:MultimodalCorpus",
    "semantic_corpus": "jobs.semantic_corpus:SemanticCorpus",
    "track_corpus": "jobs.track_corpus:TrackCorpus",
}
"""Job name to `module:config class`; also `python jobs/NAME.py`."""

TRAIN_JOBS: dict[str, str] = {
    "train_multimodal": "jobs.train_multimodal",
    "train_refer": "jobs.train_refer",
    "train_semantic": "jobs.train_semantic",
    "train_track": "jobs.train_track",
}
"""Training job name to the module that reads its options; also `python jobs/NAME.py`."""

EVALUATIONS: dict[str, str] = {
    "tiny": "pipeline.cluster.evaluate_tiny:evaluate_tiny",
    "vspw": "pipeline.evaluate.vspw:evaluate_vspw",
}
"""What `evaluate` can measure, to `module:function`."""

EXIT_CRASH = 1
EXIT_USAGE = 2
EXIT_WEIGHTS = 5
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        sys.exit(0 if arguments else EXIT_USAGE)
    verb, *rest = arguments
    if verb == "--version":
        print(installed_version())
        sys.exit(0)
    if verb not in VERBS:
        print(f"masklake: no verb {verb!r}.\n\n{overview()}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    sys.exit(exit_code_of(lambda: VERBS[verb](rest)))


def exit_code_of(call: Callable[[], int]) -> int:
    """What a call returns, or the documented code of the error it raised, with its message on stderr."""
    try:
        return call()
    except (ConfigError, ManifestError, PromptError) as error:
        print(f"masklake: {error}", file=sys.stderr)
        return EXIT_USAGE
    except WeightsError as error:
        print(f"masklake: {error}", file=sys.stderr)
        return EXIT_WEIGHTS
    except MasklakeError as error:
        print(f"masklake: {type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_CRASH
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"pipeline", "schemas", "jobs"}:
            raise
        print(
            f"masklake: {error.name} is not installed. This verb needs pip install 'masklake[run]'; reading tables "
            "(query, status, gc) does not.",
            file=sys.stderr,
        )
        return EXIT_USAGE
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `| head` does; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("masklake: interrupted; run the same command again to go on.", file=sys.stderr)
        return EXIT_INTERRUPTED


def overview() -> str:
    """The verbs, one line each."""
    lines = [f"  {name:8} {(verb.__doc__ or '').splitlines()[0]}" for name, verb in VERBS.items()]
    return "usage: masklake VERB [OPTIONS]    (masklake VERB --help tells a verb's options)\n\n" + "\n".join(lines)


def installed_version() -> str:
    """Version of the installed package, or of the source tree."""
    from pipeline.code_version import package_version

    return package_version()


def run(arguments: Sequence[str]) -> int:
    """Run a corpus job: masklake run refer_corpus --manifest M --output O."""
    name, rest = _job_name(arguments)
    return _run_job(name, rest)


def plan(arguments: Sequence[str]) -> int:
    """Print what a job would do: units, frames, bytes, what is committed, an estimate of time."""
    name, rest = _job_name(arguments)
    return _run_job(name, [*rest, "--dry-run"])


def demo(arguments: Sequence[str]) -> int:
    """Generate clips, run refer_corpus on them with the tiny model, show the table."""
    from pipeline.cluster.demo import run_demo

    return _call(run_demo, arguments, "demo")


def doctor(arguments: Sequence[str]) -> int:
    """Say what this machine has and what is missing."""
    from pipeline.cluster.doctor import run_doctor

    return _call(run_doctor, arguments, "doctor")


def synth(arguments: Sequence[str]) -> int:
    """Write clips of the procedural world: mp4s, a manifest, the truth."""
    from pipeline.cluster.demo import write_synthetic_corpus

    return _call(write_synthetic_corpus, arguments, "synth")


def train(arguments: Sequence[str]) -> int:
    """Run a training job: masklake train train_refer --data shapesref --output O."""
    if not arguments or arguments[0] not in TRAIN_JOBS:
        raise ConfigError(f"masklake train: name a job: {', '.join(TRAIN_JOBS)}.")
    from pipeline.cluster.train import main as train_main

    read_job = import_module(TRAIN_JOBS[arguments[0]]).read_job
    return train_main(lambda: read_job(list(arguments[1:])))


def evaluate(arguments: Sequence[str]) -> int:
    """Measure a model or its label maps: masklake evaluate tiny --seed 1 --clips 200, or evaluate vspw."""
    if not arguments or arguments[0] not in EVALUATIONS:
        raise ConfigError(f"masklake evaluate: name what to measure: {', '.join(EVALUATIONS)}.")
    module_name, _, function_name = EVALUATIONS[arguments[0]].partition(":")
    return _call(getattr(import_module(module_name), function_name), arguments[1:], f"evaluate {arguments[0]}")


def import_scenes(arguments: Sequence[str]) -> int:
    """Write a manifest of a data set: masklake import deliver --root URI --split val --out manifest.jsonl."""
    return _call(_import, arguments, "import")


def export(arguments: Sequence[str]) -> int:
    """Write a run's masks in a data set's layout: masklake export vspw LAKE --out DIR."""
    return _call(_export, arguments, "export")


def status(arguments: Sequence[str]) -> int:
    """Say how far a run is, from its commits."""
    return _call(_status, arguments, "status")


def query(arguments: Sequence[str]) -> int:
    """Run SQL over the committed tables: masks, tracks, frames, errors, commits, runs."""
    return _call(_query, arguments, "query")


def weights(arguments: Sequence[str]) -> int:
    """List, fetch and verify model weights."""
    return _call(_weights, arguments, "weights")


def gc(arguments: Sequence[str]) -> int:
    """Find, and with --delete remove, staged files that no commit names."""
    return _call(_gc, arguments, "gc")


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    verb.__name__: verb
    for verb in (demo, doctor, plan, run, train, evaluate, status, query, export, weights, synth, gc)
}
VERBS["import"] = import_scenes  # a keyword, which no function can be named by


def _job_name(arguments: Sequence[str]) -> tuple[str, list[str]]:
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] not in JOBS:
            raise ConfigError(f"no job {arguments[0]!r}; known: {', '.join(JOBS)}.")
        return arguments[0], list(arguments[1:])
    return "refer_corpus", list(arguments)


def _run_job(name: str, arguments: Sequence[str]) -> int:
    module_name, _, class_name = JOBS[name].partition(":")
    job_class = getattr(import_module(module_name), class_name)
    from pipeline.cluster.job import main as job_main

    return job_main(job_class, arguments, prog=name)


def _call(function: Callable[..., Any], arguments: Sequence[str], verb: str) -> int:
    return int(tyro.cli(function, prog=f"masklake {verb}", args=list(arguments)) or 0)


def _import(
    dataset: tyro.conf.Positional[Literal["deliver", "mcubes", "nyu", "kitti360", "mfnet"]],
    root: str,
    out: str,
    split: Literal["train", "val", "test"] = "val",
    modalities: tuple[str, ...] = (),
    case: str | None = None,
) -> int:
    """Write a manifest of a data set's scenes: rgb, its other modalities, and where the label lies.

    Args:
        dataset: whose layout the root has.
        root: folder or store URI that holds the data set's own folders: img/ and hha/ of DELIVER, polL_color/ of
            MCubeS, RGB/ of NYU, data_2d_raw/ of KITTI-360, rgb/ of MFNet.
        out: the manifest, a .jsonl file or URI.
        split: MCubeS, NYU and MFNet read their test list for val, as the published numbers do.
        modalities: what a method is to see, in this order, such as rgb depth; by default all.
        case: of DELIVER a weather (cloud, fog, night, rain, sun) or failure (motionblur, overexposure,
            underexposure, lidarjitter, eventlowres).
    """
    from pipeline.io.importers.registry import import_scenes
    from pipeline.io.manifest import write_manifest

    imported = import_scenes(dataset, root, split=split, modalities=modalities, case=case)
    write_manifest(imported.rows, out)
    print(f"{out}: {imported.summary()}")
    return 0


def _export(
    layout: tyro.conf.Positional[Literal["vspw"]],
    lake: tyro.conf.Positional[str],
    out: str,
    run_id: str | None = None,
    form: Literal["predictions", "masks"] = "predictions",
    classes: str | None = None,
    unpainted: int = 255,
    subset: str = "val",
) -> int:
    """Write a run's class regions as label maps, a PNG for each frame.

    Args:
        layout: whose folders and numbers.
        lake: root of the lake, as given to --output.
        out: folder or store URI; files of the same names are replaced.
        run_id: the run, where the lake has several.
        form: predictions writes VIDEO/PICTURE.png with class ids; masks writes data/VIDEO/mask/PICTURE.png with class
            id + 1, the list of videos and the list of classes, as the data set has them.
        classes: a label_num_dic_final.json that the run's classes must agree with.
        unpainted: of predictions, the number of pixels without a class; 255 is void, which VSPW's own evaluator does
            not take.
        subset: of masks, the name of the list of videos.
    """
    from pipeline.export.vspw import export_vspw

    written = export_vspw(lake, out, run_id=run_id, form=form, classes=classes, unpainted=unpainted, subset=subset)
    print(f"{out}: {written.summary()}")
    return EXIT_CRASH if written.without_size else 0


def _status(lake: tyro.conf.Positional[str], run_id: str | None = None) -> int:
    """Say how far a run is, from its commits.

    Args:
        lake: root of the lake, as given to --output.
        run_id: one run of it; by default each.
    """
    from pipeline.query import open_run

    rows = open_run(lake, run_id=run_id).sql(
        """
        SELECT runs.run_id, method, model, n_units AS units_planned,
               (SELECT count(DISTINCT unit_id) FROM commits WHERE commits.run_id = runs.run_id) AS units_committed,
               (SELECT count(*) FROM errors WHERE errors.run_id = runs.run_id) AS inputs_failed,
               (SELECT coalesce(sum(frames), 0) FROM commits WHERE commits.run_id = runs.run_id) AS frames,
               (SELECT coalesce(sum(rows), 0) FROM commits WHERE commits.run_id = runs.run_id) AS mask_rows,
               started, finished
        FROM runs ORDER BY started
        """
    )
    width = max(len(name) for name in rows.columns)
    for row in rows.fetchall():
        print("\n".join(f"{name:<{width}}  {value}" for name, value in zip(rows.columns, row, strict=True)), end="\n\n")
    return 0


def _query(
    lake: tyro.conf.Positional[str],
    sql: tyro.conf.Positional[str] = "",
    run_id: str | None = None,
    format: Literal["table", "csv", "json"] = "table",
    macros: bool = False,
) -> int:
    """Run SQL over the committed tables: masks, tracks, frames, errors, commits, runs.

    Args:
        lake: root of the lake, as given to --output.
        sql: the query; read from standard input when it is left out.
        run_id: one run of the lake; by default all.
        format: how to print the result.
        macros: list the ready macros instead.
    """
    import duckdb

    from pipeline.query import open_run
    from pipeline.query_macros import describe_macros

    if macros:
        print(describe_macros())
        return 0
    opened = open_run(lake, run_id=run_id)
    try:
        relation = opened.sql(_given(sql or sys.stdin.read()))
        if relation is None:
            return 0
        if format == "table":
            relation.show(max_rows=200, max_width=_table_width())
        elif format == "csv":
            print(relation.df().map(_text_of_bytes).to_csv(index=False), end="")
        else:
            rows = relation.df().map(_text_of_bytes)
            print(rows.to_json(orient="records", lines=True, date_format="iso", force_ascii=False), end="")
    except duckdb.Error as error:
        raise ConfigError(f"query: {error}") from error
    return 0


def _given(sql: str) -> str:
    if not sql.strip():
        raise ConfigError('query: no SQL. Give it after the lake or on standard input, as "SELECT * FROM tracks".')
    return sql


def _text_of_bytes(value: Any) -> Any:
    """RLE counts are bytes of printable ASCII; CSV and JSON have text alone."""
    return bytes(value).decode("ascii", "backslashreplace") if isinstance(value, bytes | bytearray) else value


def _table_width() -> int:
    """As wide as the terminal; as wide as it gets into a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000


def _gc(lake: tyro.conf.Positional[str], delete: bool = False, grace_hours: float = 24.0) -> int:
    """Find, and with --delete remove, staged files that no commit names.

    Args:
        lake: root of the lake, as given to --output.
        delete: remove them; otherwise they are only listed.
        grace_hours: leave files younger than this alone: a running attempt may still commit them.
    """
    from pipeline.io.commit_log import find_run_ids
    from pipeline.io.gc import collect_garbage
    from pipeline.io.storage import open_store

    store = open_store(lake)
    report = collect_garbage(store, grace_seconds=grace_hours * 3600, dry_run=not delete)
    if not (report.garbage or report.num_kept or report.num_young or find_run_ids(store)):
        raise ConfigError(f"{store.root_uri}: no lake. Expected the root of one, as it was given to --output.")
    print(report.render())
    return 0


def _weights(
    action: tyro.conf.Positional[Literal["list", "info", "pull", "verify", "path"]],
    name: tyro.conf.Positional[str] = "",
    offline: bool = False,
    trust_unpinned: Annotated[bool, tyro.conf.arg(help="Accept and pin a hash that nobody has pinned yet.")] = False,
) -> int:
    """List, fetch and verify model weights.

    Args:
        action: list every model; info, pull (fetch), verify (hash again) or path of one.
        name: a model's name, path or URI; not for list.
        offline: look at this machine and mirrors only.
    """
    from pipeline.io.weights_report import weights_report

    print(weights_report(action, name, offline=offline, trust_unpinned=trust_unpinned))
    return 0


if __name__ == "__main__":
    main()
