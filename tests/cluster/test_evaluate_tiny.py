"""`masklake evaluate tiny`: the engine is what runs, masks are those of the clips alone, and reports are whole."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main as masklake
from pipeline.cluster import ablate_tiny, clip_runs, evaluate_tiny
from pipeline.cluster.ablate_tiny import run_ablations
from pipeline.cluster.calibrate_tiny import Claim, claims_of, fit_calibration
from pipeline.cluster.clip_runs import masks_by_object, run_cases
from pipeline.cluster.evaluate_tiny import MeasuredModel, measure_set, read_settings
from pipeline.engine.engine import Engine
from pipeline.engine.load_model import build_segmenter
from pipeline.errors import ConfigError, SessionError
from pipeline.evaluate.tiny_clips import CALIBRATION_SEEDS, SETS, ClipCase, Task, held_out_seed, iter_cases
from pipeline.evaluate.tiny_slices import measure_tracks
from pipeline.io.weights import ResolvedModel
from pipeline.methods.mosam import MosamSegmenter
from pipeline.methods.samwise import mini
from pipeline.models.confidence import read_calibration
from pipeline.segmenter import State, Work, finish, step
from pipeline.ticks import Mask, ObjectMask, Prompt, Tick, TickMasks

SEED = held_out_seed(2)


class Oracle:
    """A method that looks each frame up among the cases it was given, and answers with the truth; keeps a log."""

    method = "oracle"

    def __init__(self, cases: Sequence[ClipCase]) -> None:
        self.truth: dict[bytes, dict[str, Mask]] = {}
        self.opened: list[int] = []
        for case in cases:
            for said in case.clip.expressions:
                for frame, mask in zip(case.clip.frames, case.clip.expression_mask(said), strict=True):
                    self.truth.setdefault(key_of(frame), {})[said.text] = mask

    @property
    def buckets(self) -> Mapping[str, int]:
        return {"look": 1}

    def open(self, prompts: Sequence[Prompt], frame_size: tuple[int, int]) -> "OracleSession":
        self.opened.append(len(prompts))
        return OracleSession(self, prompts)

    def restore(self, state: State) -> "OracleSession":
        raise SessionError("not asked for here")

    def run(self, stage: str, sessions: Sequence[object]) -> None:
        for session in sessions:
            assert isinstance(session, OracleSession)
            session.look()


class OracleSession:
    def __init__(self, oracle: Oracle, prompts: Sequence[Prompt]) -> None:
        self.oracle, self.prompts = oracle, prompts
        self.ticks: list[Tick] = []
        self.out: list[TickMasks] = []

    def push(self, tick: Tick) -> None:
        self.ticks.append(tick)

    def end(self) -> None: ...

    def next_work(self) -> Work | None:
        return Work(stage="look", group=None, size=1) if self.ticks else None

    def look(self) -> None:
        tick = self.ticks.pop(0)
        found = self.oracle.truth[key_of(tick.rgb)]
        height, width = tick.rgb.shape[:2]
        objects = tuple(
            ObjectMask(object_id=p.object_id, mask=found[str(p.text)], confidence=0.5) for p in self.prompts
        )
        self.out.append(
            TickMasks(frame_index=tick.frame_index, pts_us=tick.pts_us, height=height, width=width, objects=objects)
        )

    def take(self) -> list[TickMasks]:
        taken, self.out = self.out, []
        return taken

    def state_bytes(self) -> int:
        return 0

    def state_dict(self) -> State:
        return {}


def key_of(frame: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(frame).tobytes()).digest()


def small_model(name: str = "mini") -> MeasuredModel:
    config, spec = mini(seed=4)
    resolved = ResolvedModel(
        name=name,
        kind="samwise",
        architecture=spec.architecture,
        architecture_name=None,
        files={},
        sha256=None,
        trained=False,
        tokenizer_dir=None,
        licence="none",
        trained_on=None,
    )
    return MeasuredModel(spec=spec, resolved=resolved, device="cpu", settings={**config.model_dump(), "clip_length": 4})


@pytest.fixture
def mini_is_tiny(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whatever model is asked for, `mini` is measured; gives the names asked for."""
    asked: list[str] = []

    def opened(model: str, *, settings: Mapping[str, object], device: str) -> MeasuredModel:
        asked.append(model)
        return small_model(model)

    monkeypatch.setattr(evaluate_tiny, "open_model", opened)
    monkeypatch.setattr(ablate_tiny, "open_model", opened)
    return asked


def code_of(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as exited:
        masklake(["evaluate", *arguments])
    return exited.value.code


def test_an_oracle_behind_the_engine_scores_1() -> None:
    cases = list(iter_cases(SETS["twins"], SEED, 5))
    oracle = Oracle(cases)
    items = measure_set(oracle, "twins", seed=SEED, clips=5)
    assert len(oracle.opened) == 5, "one session a clip"
    assert len(items) == sum(oracle.opened)
    assert {item.values["j_and_f"] for item in items} == {1.0}
    assert [item.clip_id for item in items] == [case.clip.video_id for case in cases for _ in case.clip.expressions]


def test_a_window_lets_everything_go_after_so_many_frames() -> None:
    cases = list(iter_cases(SETS["temporal"], SEED, 2))
    oracle = Oracle(cases)
    numbers = run_cases(oracle, cases, lambda case, masks: [tick.frame_index for tick in masks], window=6)
    assert numbers == [list(range(16))] * 2
    assert len(oracle.opened) == 2 * 3, "sessions of 6, 6 and 4 frames"


def test_a_case_that_fails_ends_the_run_with_its_error() -> None:
    cases = list(iter_cases(SETS["twins"], SEED, 3))
    knows_one = Oracle(cases[:1])
    with pytest.raises(KeyError):
        run_cases(knows_one, cases, lambda case, masks: None)


def test_masks_are_those_of_each_clip_alone_and_come_from_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = small_model().segmenter("refer")
    cases = list(iter_cases(SETS["plural"], SEED, 3))
    engines: list[Engine] = []

    class WatchedEngine(Engine):
        def shutdown(self) -> None:
            engines.append(self)
            super().shutdown()

    monkeypatch.setattr(clip_runs, "Engine", WatchedEngine)
    together = run_cases(segmenter, cases, lambda case, masks: (case, masks_by_object(case, masks)))
    assert [case.clip.video_id for case, _ in together] == [case.clip.video_id for case in cases]
    (engine,) = engines
    statistics = engine.statistics()
    assert statistics.frames == 3 * 16
    assert statistics.stages["encode"].batches < 3 * 16 / 4, "clips share batches"
    for case, masks in together:
        session = segmenter.open(case.prompts, case.frame_size)
        alone = [tick for shown in case.ticks() for tick in step(segmenter, [session], [shown])[0]]
        alone += finish(segmenter, session)
        expected = masks_by_object(case, alone)
        assert all(np.array_equal(masks[object_id], expected[object_id]) for object_id in expected)


@pytest.mark.parametrize(("task", "follows_motion"), [("track", False), ("guided", True)])
def test_tracking_reads_sam2s_own_memories_with_and_without_motion_prompts(task: Task, follows_motion: bool) -> None:
    tracker = small_model().segmenter(task)
    assert isinstance(tracker, MosamSegmenter)
    config = tracker.config
    assert (config.policy, config.follows_motion, config.selects_pixels) == ("sam2", follows_motion, False)


def test_tracked_objects_are_apart() -> None:
    tracker = small_model().segmenter("track")
    (case,) = iter_cases(SETS["tracks"], SEED, 1)
    short = replace(case, clip=replace(case.clip, frames=case.clip.frames[:5], labels=case.clip.labels[:5]))
    alone = replace(short, prompts=short.prompts[:1])
    (masks,), (first,) = (
        run_cases(tracker, [asked], lambda asked, found: masks_by_object(asked, found)) for asked in (short, alone)
    )
    # Prompts of three kinds share a session: none may change another's masks.
    assert np.array_equal(masks[1], first[1])
    items = measure_tracks(short, masks)
    assert [next(iter(item.slices)) for item in items] == [str(p.query_id).partition(":")[0] for p in short.prompts]


def test_guided_tracks_are_the_masks_of_the_same_clips() -> None:
    (case,), (alone,) = (list(iter_cases(SETS[name], SEED, 1)) for name in ("guided", "tracks"))
    assert np.array_equal(case.clip.labels, alone.clip.labels)
    assert [p.query_id for p in case.prompts] == [p.query_id for p in alone.prompts if p.mask is not None]


def test_the_verb_prints_a_table_and_writes_every_number(
    mini_is_tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "new" / "report.json"
    arguments = ["tiny", "--seed", "3", "--clips", "2", "--slices", "attribute, frozen", "--json", str(report)]
    assert code_of(*arguments) == 0
    written = json.loads(report.read_text())
    assert (written["seed"], written["clips"], written["model"]) == (3, 2, "tiny")
    assert written["commit"].startswith("0.")
    assert list(written["slices"]) == ["attribute", "frozen"]
    assert written["slices"]["frozen"]["n"] == 4
    printed = capsys.readouterr().out
    assert f"{written['slices']['attribute']['J']:.3f}" in printed
    assert mini_is_tiny == ["tiny"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name what to measure: tiny"),
        (["tiny", "--seed", "-1"], "--seed: seed -1: expected 0"),
        (["tiny", "--clips", "0"], "--clips 0"),
        (["tiny", "--slices", "twins"], "slices twins: no such slices"),
        (["tiny", "--set", "clip_length"], "expected KEY=VALUE"),
        (["tiny", "--model", "nowhere.pt"], "nowhere.pt: no such file"),
    ],
)
def test_what_cannot_be_measured_is_told(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(*arguments) in (2, 5)
    assert told in capsys.readouterr().err


def test_settings_are_read_as_yaml_and_refused_by_the_method() -> None:
    assert read_settings(["clip_length=4", "use_cme=false", "hsa=auto"]) == {
        "clip_length": 4,
        "use_cme": False,
        "hsa": "auto",
    }
    with pytest.raises(ConfigError, match="clip_lenght"):
        build_segmenter("samwise", read_settings(["clip_lenght=4"]), mini()[1], "cpu")


def test_ablations_switch_what_they_can_and_say_what_they_need(
    tmp_path: Path, mini_is_tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("memory_off", "motion_prompt", "contextual_prompt", "trained_without_hsa", "trained_without_motion_stem")
    report = tmp_path / "ablations.json"
    checkpoint = "trained_without_motion_stem=other.safetensors"
    assert run_ablations(small_model(), [checkpoint], seed=1, clips=1, json=report, names=names) == 0
    told = json.loads(report.read_text())["ablations"]
    assert list(told) == list(names)
    assert "made without motion_prompt" in told["motion_prompt"]["not_measured"]
    assert told["contextual_prompt"]["not_measured"] == "the model runs so already"
    assert "needs weights of its own" in told["trained_without_hsa"]["not_measured"]
    assert mini_is_tiny == ["other.safetensors"]
    same = told["trained_without_motion_stem"]["slices"]["attribute"]["J"]
    assert same["as_is"] == same["changed"], "the same weights under another name"
    streaming = told["memory_off"]["slices"]["streaming24"]["F"]
    assert streaming["as_is"] != streaming["changed"]
    assert "not measured: needs weights of its own" in capsys.readouterr().out


def test_calibration_mends_an_overconfident_model_and_never_falls() -> None:
    generator = np.random.default_rng(7)
    claims = [
        [Claim(confidence=float(c), is_right=bool(generator.random() < c**3)) for c in generator.uniform(0, 1, size=50)]
        for _ in range(60)
    ]
    found = fit_calibration(claims)
    assert found.num_claims == 3000
    assert found.before.calibration_error > 0.2
    assert found.after.calibration_error < 0.05
    assert found.after.brier_score < found.before.brier_score
    values = found.map(np.linspace(0, 1, 101))
    assert (np.diff(values) >= 0).all()
    # Every second clip is not fitted to: other outcomes there change the errors and not the map.
    flipped = [
        [Claim(confidence=c.confidence, is_right=not c.is_right) for c in clip] if place % 2 else clip
        for place, clip in enumerate(claims)
    ]
    assert fit_calibration(flipped).map == found.map
    assert fit_calibration(flipped).after.calibration_error > 0.2


def test_a_calibration_file_is_written_and_mends_the_confidences_of_its_model(
    mini_is_tiny: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "calibration.json"
    assert code_of("tiny", "--clips", "5", "--calibrate", str(file)) == 0
    written = json.loads(file.read_text())
    assert {"before", "after"} == written["calibration_error"].keys()
    assert written["masks"] > 0
    assert read_calibration(written, name="mini").scores


def test_a_claim_is_right_where_the_object_is_in_view_and_well_covered() -> None:
    seed = held_out_seed(0, base=CALIBRATION_SEEDS)
    names = ("still_pan", "twins_pan", "streaming24", "late", "plural")
    cases = [next(iter_cases(SETS[name], seed, 1)) for name in names]
    found = claims_of(OracleWithScores(cases), seed=seed, clips=5)
    for case, claims in zip(cases, found, strict=True):
        visible = [case.clip.expression_mask(said).any(axis=(1, 2)) for said in case.clip.expressions]
        assert [claim.is_right for claim in claims] == np.stack(visible, axis=1).ravel().tolist()
        assert {claim.confidence for claim in claims} == {0.25}


class OracleWithScores(Oracle):
    """The truth, with the object in view by even odds and an expected IoU of a half."""

    def run(self, stage: str, sessions: Sequence[object]) -> None:
        super().run(stage, sessions)
        for session in sessions:
            assert isinstance(session, OracleSession)
            session.out = [with_scores(masks) for masks in session.out]


def with_scores(masks: TickMasks) -> TickMasks:
    objects = tuple(
        ObjectMask(object_id=o.object_id, mask=o.mask, confidence=1.0, object_score=0.0, predicted_iou=0.5)
        for o in masks.objects
    )
    return TickMasks(
        frame_index=masks.frame_index, pts_us=masks.pts_us, height=masks.height, width=masks.width, objects=objects
    )
