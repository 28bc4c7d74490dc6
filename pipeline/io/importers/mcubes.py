"""MCubeS: 20 materials, rgb with angle and degree of linear polarisation and near infrared."""

from collections.abc import Sequence

from pipeline.io.importers.scenes import Imported, Scene, image_size_of, listed_files, listed_names, rows_of
from pipeline.io.storage import Store

LEFT_PX = 192
"""Columns on the left that no camera but one saw; every loader cuts them off."""

_LISTS = {"train": "train.txt", "val": "test.txt", "test": "test.txt"}
"""The published loader reads test.txt for "val"; the official 96 images of val.txt are not used."""


def mcubes_scenes(store: Store, *, split: str, order: Sequence[str] = ()) -> Imported:
    """Scenes of one split; "val" is the test list, as in the published numbers.

    Layout: `{polL_color,NIR_warped,GT}/<name>.png`, `{polL_aolp_sin,polL_aolp_cos,polL_dolp}/<name>.npy`,
    `list_folder/{train,test}.txt`. The angle's channels are sine, cosine, sine. The left 192 columns are cut off; of
    the scenes that are scored, so is what a centred square leaves over (1224 x 1024 becomes 1024 x 1024). Labels are
    0..19 as stored, 255 is ignored.

    Source: Liang et al., "Multimodal Material Segmentation", CVPR 2022; the loader of DELIVER's code.

    Raises:
        ManifestError: not this layout.
        StorageError: the store cannot be read.
    """
    names = listed_names(store, f"list_folder/{_LISTS[split]}")
    folders = ("polL_color", "polL_aolp_sin", "polL_aolp_cos", "polL_dolp", "NIR_warped", "GT")
    files = listed_files(store, folders)
    first = next((path for name in names if (path := f"polL_color/{name}.png") in files), None)
    crop = None if first is None else _crop(*image_size_of(store, first), is_square=split != "train")
    scenes = (
        Scene(
            name=f"{split}/{name}",
            rgb=f"polL_color/{name}.png",
            modalities={
                "aolp": tuple(f"polL_aolp_{part}/{name}.npy" for part in ("sin", "cos", "sin")),
                "dolp": (f"polL_dolp/{name}.npy",),
                "nir": (f"NIR_warped/{name}.png",),
            },
            label=f"GT/{name}.png",
            crop=crop,
            tags={"list": _LISTS[split]},
        )
        for name in names
    )
    return rows_of(scenes, store, files, dataset="MCubeS", split=split, order=order)


def _crop(height: int, width: int, *, is_square: bool) -> tuple[int, int, int, int]:
    """What the loader keeps: all but the left columns; for scoring the centred square of that."""
    if not is_square:
        return LEFT_PX, 0, width, height
    side = min(height, width - LEFT_PX)
    x0, y0 = LEFT_PX + round((width - LEFT_PX - side) / 2), round((height - side) / 2)
    return x0, y0, x0 + side, y0 + side
