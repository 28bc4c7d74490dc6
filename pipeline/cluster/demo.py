"""masklake demo: six generated clips, three sentences each, through the main job to a table and a picture."""

import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Literal

from pipeline.cluster.job import main as job_main
from pipeline.cluster.synth_streets import StreetLayout, write_streets
from pipeline.io.weights import resolve_model
from pipeline.query import Run, open_run
from pipeline.report.contact_sheet import video_rows, write_contact_sheet
from pipeline.synth.clip import Clip, sample_clip
from pipeline.synth.corpus import write_corpus
from pipeline.synth.presets import DEMO_SCENES, clip_config
from pipeline.synth.world import Split

NUM_CLIPS = 6
SEED = 11

TABLE = """
SELECT video_id, label AS sentence, count(*) AS frames, sum(present::INT) AS present,
       round(avg(confidence), 3) AS confidence, round(avg(area) FILTER (present)) AS area_px
FROM masks GROUP BY ALL ORDER BY video_id, sentence
"""


def run_demo(
    out: Path = Path(".demo"), clips: int = NUM_CLIPS, actors: int = 2, runner: str = "ray", model: str = "tiny"
) -> int:
    """Generate clips, run refer_corpus on them with the tiny model, show the table.

    Args:
        out: folder for clips, lake and picture; what an earlier demo left there is replaced.
        clips: how many clips.
        actors: actors of the pool.
        runner: "ray" or "local".
        model: a model's name, path or URI.
    """
    lake, corpus = out / "lake", out / "corpus"
    for folder in (lake, corpus):
        shutil.rmtree(folder, ignore_errors=True)
    manifest = write_corpus(demo_clips(clips), corpus)
    job_class = getattr(import_module("jobs.refer_corpus"), "ReferCorpus")  # noqa: B009 - jobs lie above this layer
    arguments = ["--manifest", str(manifest), "--output", str(lake), "--runner", runner, "--device", "cpu"]
    arguments += ["--model", model]
    # Half a CPU an actor: two actors and Ray Data's own tasks share two cores.
    arguments += ["--num-actors", str(actors), "--cpus-per-actor", "0.5", "--videos-per-actor", "2"]
    code = job_main(job_class, arguments, prog="refer_corpus")
    if code:
        return code
    with open_run(lake) as run:
        print(f'\nmasklake query {lake} "{" ".join(TABLE.split())}"')
        run.sql(TABLE).show(max_rows=100, max_width=160)
        _draw(run, corpus, out / "contact_sheet.png", note=_note_on(model))
    for what, path in (("clips", corpus / "videos"), ("lake", lake), ("picture", out / "contact_sheet.png")):
        print(f"{what:8} {path}")
    return 0


def demo_clips(count: int) -> list[Clip]:
    """The scenes of the demo in turn, each time another clip."""
    return [sample_clip(DEMO_SCENES[index % len(DEMO_SCENES)], SEED, "test", index) for index in range(count)]


def write_synthetic_corpus(
    out: Path,
    clips: int = 8,
    format: Literal["corpus", StreetLayout] = "corpus",
    preset: str | None = None,
    seed: int = 0,
    split: Split = "test",
) -> int:
    """Write clips of the procedural world: mp4s, a manifest, the truth; or streets in the layout of a dataset.

    Args:
        out: folder; must not hold a corpus yet. Of streets, it may hold other splits.
        clips: how many clips or streets.
        format: "corpus" is for text-referring and tracking, "deliver" holds streets in all modalities with labels,
            "vspw" videos of streets with labels.
        preset: what they are sampled from, "demo" when left out: train, demo, long, or an evaluation suite. Of
            streets: street_train, street_eval (for vspw when left out), street_modal (for deliver).
        seed: other seeds, other clips.
        split: splits draw from disjoint streams; "heldout" shows combinations that "train" never does.
    """
    try:
        if format == "corpus":
            config = clip_config(preset or "demo")
            manifest = write_corpus((sample_clip(config, seed, split, index) for index in range(clips)), out)
        else:
            manifest = write_streets(out, format, num_streets=clips, preset=preset, seed=seed, split=split)
    except (ValueError, FileExistsError) as error:
        print(f"masklake: {error}", file=sys.stderr)
        return 2
    print(manifest)
    return 0


def _draw(run: Run, corpus: Path, path: Path, *, note: str) -> None:
    videos = {file.stem: str(file) for file in sorted((corpus / "videos").glob("*.mp4"))}
    write_contact_sheet(list(video_rows(run, videos)), path, note=note)


def _note_on(model: str) -> str:
    """What the picture says below of weights that nobody trained."""
    resolved = resolve_model(model)
    return "" if resolved.trained else f"weights of {resolved.name}: untrained; these masks mean nothing"
