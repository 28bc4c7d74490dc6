"""MCubeS: 20 materials, rgb with angle and degree of linear polarisation and near infrared."""

from collections.abc import Sequence

from pipeline.io.importers.scenes import Imported, Scene, image_size_of, listed_files, listed_names, rows_of
from pipeline.io.manifest_modalities import RGB
from pipeline.io.storage import Store

MCUBES_LEFT_PX = 192
"""Columns on the left that no camera but one saw; every loader cuts them off."""

MCUBES_FILES: dict[str, tuple[str, ...]] = {
    RGB: ("polL_color/{}.png",),
    "aolp": tuple(f"polL_aolp_{part}/{{}}.npy" for part in ("sin", "cos", "sin")),
    "dolp": ("polL_dolp/{}.npy",),
    "nir": ("NIR_warped/{}.png",),
}
"""Modality to its channels' files, where {} stands for a scene's name; in the order in which models read them."""

MCUBES_LABELS = "GT/{}.png"

MCUBES_LISTS = {"train": "train.txt", "val": "test.txt", "test": "test.txt"}
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
    names = listed_names(store, f"list_folder/{MCUBES_LISTS[split]}")
    templates = (MCUBES_LABELS, *(template for parts in MCUBES_FILES.values() for template in parts))
    files = listed_files(store, sorted({template.partition("/")[0] for template in templates}))
    first = next((path for name in names if (path := MCUBES_FILES[RGB][0].format(name)) in files), None)
    crop = None if first is None else _crop(*image_size_of(store, first), is_square=split != "train")
    scenes = (
        Scene(
            name=f"{split}/{name}",
            rgb=MCUBES_FILES[RGB][0].format(name),
            modalities={
                modality: tuple(part.format(name) for part in parts)
                for modality, parts in MCUBES_FILES.items()
                if modality != RGB
            },
            label=MCUBES_LABELS.format(name),
            crop=crop,
            tags={"list": MCUBES_LISTS[split]},
        )
        for name in names
    )
    return rows_of(scenes, store, files, dataset="MCubeS", split=split, order=order)


def _crop(height: int, width: int, *, is_square: bool) -> tuple[int, int, int, int]:
    """What the loader keeps: all but the left columns; for scoring the centred square of that."""
    if not is_square:
        return MCUBES_LEFT_PX, 0, width, height
    side = min(height, width - MCUBES_LEFT_PX)
    x0, y0 = MCUBES_LEFT_PX + round((width - MCUBES_LEFT_PX - side) / 2), round((height - side) / 2)
    return x0, y0, x0 + side, y0 + side
