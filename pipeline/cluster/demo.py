"""masklake demo: six generated clips, three sentences each, through the main job to a table and a picture."""

import shutil
import sys
from importlib import import_module
from pathlib import Path

from pipeline.cluster.job import main as job_main
from pipeline.query import Run, open_run
from pipeline.report.contact_sheet import masklet_rows, write_contact_sheet
from pipeline.synth.clip import Clip, sample_clip
from pipeline.synth.corpus import write_corpus
from pipeline.synth.presets import clip_config
from pipeline.synth.world import Split

NUM_CLIPS = 6
SEED = 2026

TABLE = """
SELECT video_id, label AS sentence, count(*) AS frames, sum(present::INT) AS present,
       round(avg(confidence), 3) AS confidence, round(avg(area) FILTER (present)) AS area_px
FROM masks GROUP BY ALL ORDER BY video_id, sentence
"""


def run_demo(out: Path = Path(".demo"), clips: int = NUM_CLIPS, actors: int = 2, runner: str = "ray") -> int:
    """Generate clips, run refer_corpus on them with the tiny model, show the table.

    Args:
        out: folder for clips, lake and picture; what an earlier demo left there is replaced.
        clips: how many clips.
        actors: actors of the pool.
        runner: "ray" or "local".
    """
    lake, corpus = out / "lake", out / "corpus"
    for folder in (lake, corpus):
        shutil.rmtree(folder, ignore_errors=True)
    manifest = write_corpus(_clips(clips), corpus)
    job_class = getattr(import_module("jobs.refer_corpus"), "ReferCorpus")  # noqa: B009 - jobs lie above this layer
    arguments = ["--manifest", str(manifest), "--output", str(lake), "--runner", runner, "--device", "cpu"]
    # Half a CPU an actor: two actors and Ray Data's own tasks share two cores.
    arguments += ["--num-actors", str(actors), "--cpus-per-actor", "0.5", "--videos-per-actor", "2"]
    code = job_main(job_class, arguments, prog="refer_corpus")
    if code:
        return code
    with open_run(lake) as run:
        print(f'\nmasklake query {lake} "{" ".join(TABLE.split())}"')
        run.sql(TABLE).show(max_rows=100, max_width=160)
        _draw(run, corpus, out / "contact_sheet.png")
    for what, path in (("clips", corpus / "videos"), ("lake", lake), ("picture", out / "contact_sheet.png")):
        print(f"{what:8} {path}")
    return 0


def write_synthetic_corpus(
    out: Path, clips: int = 8, preset: str = "demo", seed: int = 0, split: Split = "test"
) -> int:
    """Write clips of the procedural world: mp4s, a manifest, the truth.

    Args:
        out: folder; must not hold a corpus yet.
        clips: how many.
        preset: what they are sampled from: train, demo, long, or an evaluation suite.
        seed: other seeds, other clips.
        split: splits draw from disjoint streams; "heldout" shows combinations that "train" never does.
    """
    try:
        config = clip_config(preset)
        manifest = write_corpus((sample_clip(config, seed, split, index) for index in range(clips)), out)
    except (ValueError, FileExistsError) as error:
        print(f"masklake: {error}", file=sys.stderr)
        return 2
    print(manifest)
    return 0


def _clips(count: int) -> list[Clip]:
    config = clip_config("demo")
    return [sample_clip(config, SEED, "test", index) for index in range(count)]


def _draw(run: Run, corpus: Path, path: Path) -> None:
    videos = {file.stem: str(file) for file in sorted((corpus / "videos").glob("*.mp4"))}
    models = run.sql("SELECT DISTINCT model, weights_sha256 IS NULL FROM runs").fetchall()
    untrained = ", ".join(model for model, is_untrained in models if is_untrained)
    note = f"weights of {untrained}: untrained, seeded random; these masks mean nothing" if untrained else ""
    write_contact_sheet(list(masklet_rows(run, videos)), path, note=note)
