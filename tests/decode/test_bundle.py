"""Modalities come out as one tick: the right frames together, in the asked order, at one size; gaps are told."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from pipeline.decode.alignment import Follower, numbers_in, offset_of
from pipeline.decode.bundle import open_bundle
from pipeline.decode.bundle_inputs import Bundle, open_bundle_inputs
from pipeline.decode.bundle_options import BundleOptions
from pipeline.decode.modality_frames import ModalityFrame
from pipeline.decode.options import DecodeOptions
from pipeline.decode.video import open_video
from pipeline.errors import DecodeError
from pipeline.ticks import Tick
from tests.drawn_bundles import HEIGHT, LOSSLESS, THOUSANDS, WIDTH, picture, write_modality
from tests.drawn_video import read_number

WHOLE = DecodeOptions()


def bundle_of(rgb: str, order: Sequence[str] | None = None, *, crop: Any = None, **modalities: str) -> Bundle:
    uris = {name: tuple(uri.split("|")) for name, uri in modalities.items()}
    return Bundle(video_uri=rgb, modalities=uris, order=tuple(order or ("rgb", *modalities)), crop=crop)


def ticks_of(
    bundle: Bundle, options: DecodeOptions = WHOLE, *, scratch: Path, ahead: int = 0, **policy: Any
) -> list[Tick]:
    chosen = BundleOptions(**policy)
    with (
        open_bundle_inputs(bundle, chosen, scratch_dir=str(scratch), max_scratch_bytes=10**9) as inputs,
        open_bundle(bundle, inputs, chosen, options, read_ahead_frames=ahead) as stream,
    ):
        ticks = list(stream)
        for image in (image for tick in ticks for image in tick.images.values()):
            assert image.shape == (stream.height, stream.width, 3)
        return ticks


def numbers_of(tick: Tick) -> dict[str, int]:
    """What each modality's picture shows, less its thousand."""
    return {name: read_number(image) - THOUSANDS[name] for name, image in tick.images.items()}


@pytest.mark.parametrize("align", ["time", "name"])
@pytest.mark.parametrize(
    ("rgb_kind", "depth_kind", "event_kind"),
    [("video", "folder", "array"), ("folder", "video", "array"), ("folder", "array", "folder"), ("video",) * 3],
)
def test_frames_of_one_moment_come_together_in_the_asked_order(
    align: str, rgb_kind: str, depth_kind: str, event_kind: str, tmp_path: Path
) -> None:
    kinds = {"rgb": rgb_kind, "depth": depth_kind, "event": event_kind}
    paths = {name: write_modality(tmp_path, name, kind, range(12)) for name, kind in kinds.items()}
    order = ("event", "rgb", "depth")
    ticks = ticks_of(bundle_of(**paths, order=order), DecodeOptions(fps=25), scratch=tmp_path, ahead=2, align=align)
    assert [tick.frame_index for tick in ticks] == list(range(12))
    assert [tick.pts_us for tick in ticks] == [40_000 * i for i in range(12)]
    assert [list(numbers_of(tick).items()) for tick in ticks] == [[(name, i) for name in order] for i in range(12)]
    assert all(tick.flags == () for tick in ticks)


def test_rgb_in_a_bundle_is_rgb_alone_and_a_range_is_a_slice(tmp_path: Path) -> None:
    rgb = write_modality(tmp_path, "rgb", "video", range(20))
    depth = write_modality(tmp_path, "depth", "folder", range(20))
    options = DecodeOptions(start_frame=3, end_frame=17, stride=4, max_side=24, fps=25)
    ticks = ticks_of(bundle_of(rgb, depth=depth), options, scratch=tmp_path)
    assert [(tick.frame_index, numbers_of(tick)) for tick in ticks] == [
        (i, {"rgb": i, "depth": i}) for i in (3, 7, 11, 15)
    ]
    with open_video(rgb, replace(options, fps=None)) as alone:
        for tick, expected in zip(ticks, alone, strict=True):
            assert np.array_equal(tick.rgb, expected.rgb)
            assert (tick.frame_index, tick.pts_us) == (expected.frame_index, expected.pts_us)


def test_the_nearest_frame_is_found_as_by_comparing_all_of_them() -> None:
    random = np.random.default_rng(5)
    for tolerance in (0, 3, 50):
        times = np.unique(random.integers(0, 400, 60))
        frames = [ModalityFrame(position=(int(time),), load=lambda: np.zeros((1, 1, 3), np.uint8)) for time in times]
        follower = Follower(iter(frames), tolerance=tolerance, name="times")
        for wanted in np.sort(random.integers(-50, 450, 90)):
            distances = np.abs(times - wanted)
            match = follower.at((int(wanted),))
            assert match.offset is not None
            assert abs(match.offset) == distances.min()
            expected = int(times[distances.argmin()]) if distances.min() <= tolerance else None
            assert (match.frame.position[0] if match.frame else None) == expected


@pytest.mark.parametrize(
    ("stem", "numbers"), [("000123_rgb_front", (123,)), ("v2_f10", (2, 10)), ("scene", ()), ("7", (7,))]
)
def test_a_name_is_its_digits(stem: str, numbers: tuple[int, ...]) -> None:
    assert numbers_in(stem) == numbers


def test_positions_compare_in_their_last_number_only() -> None:
    assert offset_of((2, 10), wanted=(2, 7)) == 3
    assert offset_of((1, 10), wanted=(2, 7)) is None
    assert offset_of((10,), wanted=(2, 7)) is None
    assert offset_of((), wanted=()) == 0


def gappy(root: Path) -> Bundle:
    """Depth lacks frame 2, event ends after frame 3."""
    rgb = write_modality(root, "rgb", "folder", range(6))
    depth = write_modality(root, "depth", "folder", (0, 1, 3, 4, 5))
    return bundle_of(rgb, depth=depth, event=write_modality(root, "event", "folder", range(4)))


def test_a_missing_file_shifts_nothing_and_is_dropped_or_skipped_as_asked(tmp_path: Path) -> None:
    bundle = gappy(tmp_path)
    dropped = ticks_of(bundle, scratch=tmp_path, on_missing="drop_modality")
    names = {2: ("rgb", "event"), 4: ("rgb", "depth"), 5: ("rgb", "depth")}
    for tick in dropped:
        expected = names.get(tick.frame_index, ("rgb", "depth", "event"))
        assert numbers_of(tick) == dict.fromkeys(expected, tick.frame_index)
    missing = [(), (), ("missing:depth",), (), ("missing:event",), ("missing:event",)]
    assert [tick.flags for tick in dropped] == missing
    skipped = ticks_of(bundle, scratch=tmp_path, on_missing="skip_frame")
    assert [bool(tick.images) for tick in skipped] == [True, True, False, True, False, False]
    assert [tick.flags for tick in skipped] == [(*flags, "skipped") if flags else () for flags in missing]
    with pytest.raises(DecodeError, match=r"frame 2: modality depth has no frame for number 2, .* is -1 frames"):
        ticks_of(bundle, scratch=tmp_path)


def test_a_tolerance_in_frames_takes_the_neighbour(tmp_path: Path) -> None:
    ticks = ticks_of(gappy(tmp_path), scratch=tmp_path, tolerance_frames=2)
    assert [numbers_of(tick)["depth"] for tick in ticks] == [0, 1, 1, 3, 4, 5]
    assert [numbers_of(tick)["event"] for tick in ticks] == [0, 1, 2, 3, 3, 3]


def test_a_late_modality_is_told_with_its_distance(tmp_path: Path) -> None:
    rgb = write_modality(tmp_path, "rgb", "video", range(6))
    late = replace(LOSSLESS, time_base=Fraction(1, 1000), pts=[35 + 40 * i for i in range(3)])
    event = write_modality(tmp_path, "event", "video", range(3), encoding=late)
    bundle = bundle_of(rgb, event=event)
    ticks = ticks_of(bundle, scratch=tmp_path, tolerance_us=20_000, on_missing="drop_modality")
    # Frame 1 of rgb, at 40 ms, takes the event frame shown at 35 ms; nothing is near frame 0, nor near the end.
    assert [numbers_of(tick).get("event") for tick in ticks] == [None, 0, 1, 2, None, None]
    flags = [flag for tick in ticks for flag in tick.flags]
    assert flags == ["late:event:+35000us", "late:event:-45000us", "late:event:-85000us"]
    with pytest.raises(DecodeError, match=r"modality event has no frame for time 0, the nearest is \+35000 us away"):
        ticks_of(bundle, scratch=tmp_path)


def test_a_file_that_is_not_there_is_a_missing_modality(tmp_path: Path) -> None:
    rgb = write_modality(tmp_path, "rgb", "image", [7])
    bundle = bundle_of(rgb, lidar=str(tmp_path / "nowhere.png"))
    (tick,) = ticks_of(bundle, scratch=tmp_path, on_missing="drop_modality")
    assert (numbers_of(tick), tick.flags) == ({"rgb": 7}, ("missing:lidar",))
    (tick,) = ticks_of(bundle, scratch=tmp_path, on_missing="skip_frame")
    assert (tick.images, tick.flags) == ({}, ("missing:lidar", "skipped"))
    with pytest.raises(DecodeError, match=r"modality lidar is not there: .*nowhere\.png"):
        ticks_of(bundle, scratch=tmp_path)
    with pytest.raises(DecodeError, match="no such file"):
        ticks_of(bundle_of(str(tmp_path / "no.png"), lidar=rgb), scratch=tmp_path, on_missing="drop_modality")
    (tick,) = ticks_of(replace(bundle, order=("lidar",)), scratch=tmp_path, on_missing="drop_modality")
    assert (tick.images, tick.flags) == ({}, ("missing:lidar", "skipped"))


def test_a_smaller_picture_of_one_shape_is_brought_to_size_by_nearest_neighbour(tmp_path: Path) -> None:
    rgb = write_modality(tmp_path, "rgb", "image", [1])
    small = np.random.default_rng(0).integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    PillowImage.fromarray(small).save(tmp_path / "event.png")
    bundle = bundle_of(rgb, event=str(tmp_path / "event.png"))
    (tick,) = ticks_of(bundle, scratch=tmp_path)
    assert np.array_equal(tick.images["event"], small.repeat(4, axis=0).repeat(4, axis=1))
    assert tick.flags == ("resized:event",)
    with pytest.raises(DecodeError, match=r"modality event is 8x12 \(height x width\), rgb 32x48\. Expected one size"):
        ticks_of(bundle, scratch=tmp_path, on_other_size="error")


def test_a_picture_of_another_shape_is_refused(tmp_path: Path) -> None:
    rgb = write_modality(tmp_path, "rgb", "image", [1])
    depth = write_modality(tmp_path, "depth", "image", [1], height=WIDTH, width=HEIGHT)
    with pytest.raises(DecodeError, match=r"depth is 48x32 \(height x width\), rgb 32x48\. Expected one shape"):
        ticks_of(bundle_of(rgb, depth=depth), scratch=tmp_path)


VALUES = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
GREY = {
    "16-bit image": (VALUES, VALUES.astype(np.float32) / np.float32(65535)),
    "uint16": (VALUES, VALUES.astype(np.float32) / np.float32(65535)),
    "float64": (VALUES / 3 - 9000.5, (VALUES / 3 - 9000.5).astype(np.float32)),
    "float32 with a channel": (VALUES.astype(np.float32)[:, :, None], VALUES.astype(np.float32)),
    "uint8": ((VALUES >> 8).astype(np.uint8), (VALUES >> 8).astype(np.uint8)),
}


@pytest.mark.parametrize("kind", GREY)
def test_measured_values_keep_their_depth(kind: str, tmp_path: Path) -> None:
    stored, expected = GREY[kind]
    path = tmp_path / ("depth.png" if kind == "16-bit image" else "depth.npy")
    PillowImage.fromarray(stored).save(path) if path.suffix == ".png" else np.save(path, stored)
    (tick,) = ticks_of(bundle_of(write_modality(tmp_path, "rgb", "image", [1]), depth=str(path)), scratch=tmp_path)
    assert tick.images["depth"].dtype == expected.dtype
    assert np.array_equal(tick.images["depth"], np.repeat(expected[:, :, None], 3, axis=2))


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_a_hole_in_an_array_is_refused_or_set_to_zero_and_told(hole: float, tmp_path: Path) -> None:
    values = VALUES.astype(np.float32)
    values[3, 5] = hole
    np.save(tmp_path / "depth.npy", values)
    bundle = bundle_of(write_modality(tmp_path, "rgb", "image", [1]), depth=str(tmp_path / "depth.npy"))
    with pytest.raises(DecodeError, match=r"frame 0: modality depth: 0\.1% of the values are NaN or infinite"):
        ticks_of(bundle, scratch=tmp_path)
    (tick,) = ticks_of(bundle, scratch=tmp_path, on_nan="zero")
    values[3, 5] = 0
    assert np.array_equal(tick.images["depth"][:, :, 1], values)
    assert tick.flags == ("nan:depth",)


def write_bad_array(path: Path, kind: str) -> None:
    if kind == "pickled":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "archive":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros((4, 6)))
    elif kind == "cut off":
        np.save(path, np.zeros((HEIGHT, WIDTH)))
        path.write_bytes(path.read_bytes()[:500])
    else:
        shapes = {
            "int32": (HEIGHT, WIDTH),
            "one axis": (9,),
            "five axes": (1, 2, 3, 4, 3),
            "four channels": (2, 8, 9, 4),
        }
        np.save(path, np.zeros(shapes[kind], dtype=np.int32 if kind == "int32" else np.float32))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickled", "cannot be read as .npy"),
        ("archive", "an archive of arrays"),
        ("cut off", "cannot be read as .npy"),
        ("int32", "values of type int32"),
        ("one axis", r"shape \(9,\)"),
        ("five axes", r"shape \(1, 2, 3, 4, 3\)"),
        ("four channels", r"shape \(2, 8, 9, 4\)"),
    ],
)
def test_an_array_that_is_no_picture_is_named(kind: str, message: str, tmp_path: Path) -> None:
    write_bad_array(tmp_path / "depth.npy", kind)
    bundle = bundle_of(write_modality(tmp_path, "rgb", "image", [1]), depth=str(tmp_path / "depth.npy"))
    with pytest.raises(DecodeError, match=rf"depth\.npy: .*{message}"):
        ticks_of(bundle, scratch=tmp_path)


def test_grey_files_are_stacked_as_channels(tmp_path: Path) -> None:
    angle = np.linspace(-3, 3, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    for name, values in (("sin", np.sin(angle)), ("cos", np.cos(angle))):
        np.save(tmp_path / f"{name}.npy", values)
    rgb = write_modality(tmp_path, "rgb", "image", [1])
    sine, cosine = str(tmp_path / "sin.npy"), str(tmp_path / "cos.npy")
    (tick,) = ticks_of(bundle_of(rgb, aolp=f"{sine}|{cosine}|{sine}"), scratch=tmp_path)
    assert np.array_equal(tick.images["aolp"], np.stack([np.sin(angle), np.cos(angle), np.sin(angle)], axis=2))
    with pytest.raises(DecodeError, match="stacked of 2 parts"):
        ticks_of(bundle_of(rgb, aolp=f"{sine}|{cosine}"), scratch=tmp_path)
    with pytest.raises(DecodeError, match="stacked of coloured parts"):
        ticks_of(bundle_of(rgb, aolp=f"{rgb}|{rgb}|{rgb}"), scratch=tmp_path)


def test_a_crop_is_cut_from_every_modality_before_scaling(tmp_path: Path) -> None:
    rgb = write_modality(tmp_path, "rgb", "image", [9])
    np.save(tmp_path / "depth.npy", VALUES.astype(np.float32))
    bundle = bundle_of(rgb, depth=str(tmp_path / "depth.npy"), crop=(8, 4, 48, 24))
    (tick,) = ticks_of(bundle, scratch=tmp_path)
    assert np.array_equal(tick.rgb, picture("rgb", 9)[4:24, 8:48])
    assert np.array_equal(tick.images["depth"][:, :, 0], VALUES[4:24, 8:48].astype(np.float32))
    (half,) = ticks_of(bundle, DecodeOptions(max_side=20), scratch=tmp_path)
    blocks = VALUES[4:24, 8:48].astype(np.float32).reshape(10, 2, 20, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(half.images["depth"][:, :, 0], blocks, rtol=1e-6)
    assert half.rgb.shape == (10, 20, 3)
    with pytest.raises(DecodeError, match=r"crop \[8, 4, 49, 24\] leaves the picture of 48x32"):
        ticks_of(replace(bundle, crop=(8, 4, 49, 24)), scratch=tmp_path)


def test_zero_filled_modalities_are_zeros_and_are_not_looked_for(tmp_path: Path) -> None:
    rgb = write_modality(tmp_path, "rgb", "video", range(3))
    bundle = bundle_of(rgb, depth=str(tmp_path / "nowhere"), order=("depth", "rgb"))
    ticks = ticks_of(bundle, scratch=tmp_path, zero_filled=("depth", "rgb"))
    assert [tick.pts_us for tick in ticks] == [0, 40_000, 80_000]
    assert all(list(tick.images) == ["depth", "rgb"] for tick in ticks)
    assert not any(image.any() for tick in ticks for image in tick.images.values())


def test_rgb_leads_where_a_method_does_not_see_it(tmp_path: Path) -> None:
    rgb = write_modality(tmp_path, "rgb", "folder", range(3))
    bundle = bundle_of(rgb, depth=write_modality(tmp_path, "depth", "folder", range(3)), order=("depth",))
    assert [numbers_of(tick) for tick in ticks_of(bundle, scratch=tmp_path)] == [{"depth": i} for i in range(3)]


def test_numbers_that_do_not_ascend_are_refused_on_either_side(tmp_path: Path) -> None:
    good = write_modality(tmp_path, "rgb", "folder", range(3))
    bad = Path(write_modality(tmp_path, "depth", "folder", range(3)))
    (bad / "000001_depth_front.png").rename(bad / "000002_a.png")
    with pytest.raises(DecodeError, match="Expected ascending"):
        ticks_of(bundle_of(good, depth=str(bad)), scratch=tmp_path, on_missing="drop_modality")
    with pytest.raises(DecodeError, match="Expected ascending numbers, each once"):
        ticks_of(bundle_of(str(bad), depth=good), scratch=tmp_path)


def test_rgb_is_no_array(tmp_path: Path) -> None:
    rgb = write_modality(tmp_path, "rgb", "array", range(3))
    with pytest.raises(DecodeError, match=r"rgb cannot be a \.npy"):
        ticks_of(bundle_of(rgb, depth=rgb), scratch=tmp_path)


def test_a_bundle_in_a_store_is_read_as_one_on_disk(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    paths = {
        "rgb": write_modality(tmp_path, "rgb", "video", range(5)),
        "depth": write_modality(tmp_path, "depth", "folder", range(5)),
        "event": write_modality(tmp_path, "event", "array", range(5)),
    }
    uris = {}
    for name, path in paths.items():
        target = f"/bundles-in-a-store/{Path(path).name}"
        memory.put(path, target, recursive=True)
        uris[name] = f"memory:/{target}"
    try:
        ticks = ticks_of(bundle_of(**uris), DecodeOptions(fps=25), scratch=tmp_path / "scratch")
    finally:
        memory.rm("/bundles-in-a-store", recursive=True)
    assert [numbers_of(tick) for tick in ticks] == [dict.fromkeys(("rgb", "depth", "event"), i) for i in range(5)]
    assert list((tmp_path / "scratch").iterdir()) == []
