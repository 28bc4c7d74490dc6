"""NYU Depth v2, KITTI-360 and MFNet, in the layouts that DELIVER's code reads: rgb with one or three more sensors."""

from collections.abc import Callable, Mapping, Sequence

from pipeline.io.importers.scenes import Imported, Scene, listed_files, listed_names, rows_of
from pipeline.io.storage import Store


def nyu_scenes(store: Store, *, split: str, order: Sequence[str] = ()) -> Imported:
    """NYU Depth v2: `RGB/<name>.jpg`, `HHA/<name>.jpg` (depth), `Label/<name>.png`, `{train,test}.txt`.

    "val" is test.txt. 40 classes; labels are the class id plus one, 0 and 255 are ignored.

    Source: Silberman et al., ECCV 2012; the loader of DELIVER's code.

    Raises:
        ManifestError: not this layout.
        StorageError: the store cannot be read.
    """
    return _listed(
        store,
        lambda name: Scene(
            name=f"{split}/{name}",
            rgb=f"RGB/{name}.jpg",
            modalities={"depth": (f"HHA/{name}.jpg",)},
            label=f"Label/{name}.png",
        ),
        dataset="NYUDepthv2",
        split=split,
        order=order,
        lists=_VAL_IS_TEST,
    )


def mfnet_scenes(store: Store, *, split: str, order: Sequence[str] = ()) -> Imported:
    """MFNet: `rgb/<name>.jpg`, `ther/<name>.jpg` (thermal), `labels/<name>.png`, `{train,test}.txt`.

    "val" is test.txt. 9 classes, labels as stored, 0 is "unlabeled" and counts as a class.

    Source: Ha et al., "MFNet", IROS 2017; the loader of DELIVER's code.

    Raises:
        ManifestError: not this layout.
        StorageError: the store cannot be read.
    """
    return _listed(
        store,
        lambda name: Scene(
            name=f"{split}/{name}",
            rgb=f"rgb/{name}.jpg",
            modalities={"thermal": (f"ther/{name}.jpg",)},
            label=f"labels/{name}.png",
        ),
        dataset="MFNet",
        split=split,
        order=order,
        lists=_VAL_IS_TEST,
    )


def kitti360_scenes(store: Store, *, split: str, order: Sequence[str] = ()) -> Imported:
    """KITTI-360: `data_2d_raw/<drive>/image_00/data_rect/<frame>.png`, listed in `{train,val}.txt`.

    Beside it, for the same frame: `data_2d_hha` (depth; same path), `data_2d_lidar` (`<frame>_color.png`),
    `data_2d_event/<drive>/<frame>_event_image.png`, `data_2d_semantics/train/<drive>/image_00/semantic/<frame>.png`.
    Labels are KITTI-360's ids, of which 19 are classes of Cityscapes.

    Source: Liao et al., "KITTI-360", TPAMI 2022; the loader of DELIVER's code.

    Raises:
        ManifestError: not this layout.
        StorageError: the store cannot be read.
    """
    return _listed(
        store,
        lambda path: _kitti_scene(path, split),
        dataset="KITTI-360",
        split=split,
        order=order,
        lists={"train": "train.txt", "val": "val.txt", "test": "test.txt"},
    )


_VAL_IS_TEST = {"train": "train.txt", "val": "test.txt", "test": "test.txt"}


def _kitti_scene(rgb: str, split: str) -> Scene:
    def in_folder(folder: str) -> str:
        return rgb.replace("data_2d_raw", folder, 1)

    stem = rgb.removesuffix(".png").removeprefix("data_2d_raw/").replace("/image_00/data_rect/", "/", 1)
    return Scene(
        name=f"{split}/{stem}",
        rgb=rgb,
        modalities={
            "depth": (in_folder("data_2d_hha"),),
            "event": (f"data_2d_event/{stem}_event_image.png",),
            "lidar": (in_folder("data_2d_lidar").removesuffix(".png") + "_color.png",),
        },
        label=in_folder("data_2d_semantics/train").replace("data_rect", "semantic", 1),
    )


def _listed(
    store: Store,
    scene_of: Callable[[str], Scene],
    *,
    dataset: str,
    split: str,
    order: Sequence[str],
    lists: Mapping[str, str],
) -> Imported:
    scenes = [scene_of(name) for name in listed_names(store, lists[split])]
    folders = {path.split("/")[0] for scene in scenes for path in (scene.rgb, scene.label)}
    folders |= {path.split("/")[0] for scene in scenes for paths in scene.modalities.values() for path in paths}
    files = listed_files(store, sorted(folders))
    return rows_of(scenes, store, files, dataset=dataset, split=split, order=order)
