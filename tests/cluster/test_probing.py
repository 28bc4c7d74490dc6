"""What a plan knows of bundles: a single scene is one frame, and its size is that of all its files."""

from pathlib import Path

from pipeline.cluster.probing import Probed, probe_all
from schemas.work_unit import WorkItem
from tests.drawn_bundles import write_modality


def item_of(rgb: str, **modalities: str) -> WorkItem:
    return WorkItem(video_id=rgb, video_uri=rgb, queries=(), modalities=modalities)


def test_bundles_are_counted_with_all_their_files(tmp_path: Path) -> None:
    scene, depth = (Path(write_modality(tmp_path, name, "image", [1])) for name in ("rgb", "depth"))
    video = Path(write_modality(tmp_path, "event", "video", range(5)))
    folder = Path(write_modality(tmp_path, "lidar", "folder", range(3)))
    folder_bytes = sum(file.stat().st_size for file in folder.iterdir())
    both = scene.stat().st_size + depth.stat().st_size
    expected = [
        (item_of(str(scene), depth=str(depth)), 1, both),
        (item_of(str(scene), aolp=f"{depth}|{depth}|{depth}"), 1, both + 2 * depth.stat().st_size),
        (item_of(str(scene), lidar=str(tmp_path / "nowhere.png")), 1, None),
        (item_of("memory://scenes/a.png", depth="memory://scenes/b.png"), 1, None),
        (item_of(str(folder), event=str(video)), 3, folder_bytes + video.stat().st_size),
    ]
    found = probe_all([item for item, *_ in expected], scratch_dir=None, needed=True)
    for item, num_frames, num_bytes in expected:
        assert found[item.item_id] == Probed(num_frames=num_frames, num_bytes=num_bytes)
