"""What the demo shows: attributes, opposed twins, one sentence without referent, a late entry."""

from pipeline.cluster.demo import NUM_CLIPS, demo_clips
from pipeline.synth.clip import Clip
from pipeline.synth.presets import DEMO_SCENES


def kinds(clip: Clip) -> list[str]:
    return [said.kind for said in clip.expressions]


def test_six_clips_of_three_sentences_show_what_the_model_is_about() -> None:
    clips = demo_clips(NUM_CLIPS)
    assert len(clips) == len(DEMO_SCENES) == NUM_CLIPS
    assert all(len(clip.expressions) == 3 for clip in clips)
    attributes, twins, no_target, late, pan, crossing = clips
    assert kinds(attributes) == ["attribute"] * 3
    for clip in (twins, no_target, pan, crossing):
        one, other = (clip.truth.objects[object_id - 1] for object_id in clip.twins or ())
        assert one.motion != other.motion
        assert [said.target_ids for said in clip.expressions[:2]] == [(1,), (2,)]
        assert kinds(clip)[:2] == ["motion", "motion"]
    assert [kinds(clip).count("none") for clip in clips] == [0, 0, 1, 0, 0, 0]
    assert late.expressions[0].flags.late
    assert not late.expression_mask(late.expressions[0])[0].any()
    assert pan.truth.camera_px.any()


def test_more_clips_are_more_of_the_same_scenes() -> None:
    clips = demo_clips(NUM_CLIPS + 2)
    assert len({clip.video_id for clip in clips}) == NUM_CLIPS + 2
    assert kinds(clips[NUM_CLIPS]) == kinds(clips[0])
    assert [clip.video_id for clip in clips[:2]] == [clip.video_id for clip in demo_clips(2)]
