"""The named protocols: what each is said to do."""

from dataclasses import FrozenInstanceError

import pytest

from pipeline.evaluate.protocols import PROTOCOLS, scoring_protocol


@pytest.mark.parametrize(
    ("name", "frames", "counting", "matching"),
    [
        ("davis_semi", "inner", "every_frame", "by_id"),
        ("davis_unsup", "all", "every_frame", "best"),
        ("ref_davis", "all", "every_frame", "best"),
        ("mevis", "all", "every_frame", "by_id"),
        ("mevis_samwise_text_keyed", "all", "every_frame", "by_id"),
        ("ref_ytvos", "all", "every_frame", "by_id"),
        ("vos_benchmark", "inner", "once_seen", "by_id"),
        ("sa_v", "inner", "once_seen", "by_id"),
    ],
)
def test_a_protocol_counts_frames_and_matches_as_its_script_does(
    name: str, frames: str, counting: str, matching: str
) -> None:
    protocol = scoring_protocol(name)
    assert (protocol.name, protocol.frames, protocol.counting, protocol.matching) == (name, frames, counting, matching)


def test_void_is_left_out_where_objects_are_matched() -> None:
    assert {name for name, protocol in PROTOCOLS.items() if protocol.excludes_void} == {"davis_unsup", "ref_davis"}


def test_a_protocol_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        scoring_protocol("mevis").frames = "inner"  # type: ignore[misc]


def test_an_unknown_protocol_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="'J&F'; expected one of davis_semi, davis_unsup"):
        scoring_protocol("J&F")
