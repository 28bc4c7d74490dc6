"""Training scenes: DELIVER and MCubeS as their loaders read them, augmentation with labels, dropped modalities."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from pipeline.decode.bundle import open_bundle
from pipeline.decode.bundle_inputs import Bundle, open_bundle_inputs
from pipeline.decode.bundle_options import BundleOptions
from pipeline.decode.options import DecodeOptions
from pipeline.errors import ConfigError, DecodeError, ManifestError
from pipeline.io.importers.registry import import_scenes
from pipeline.training.memorysam_augment import Augmentation, augmented
from pipeline.training.memorysam_data import SceneReader, kept_modalities
from pipeline.training.memorysam_folders import DeliverFolder, McubesFolder
from pipeline.training.memorysam_sources import open_source
from tests.training.small_mcubes import write_mcubes
from tests.training.small_memorysam import PLAIN, Quarters

HEIGHT, WIDTH = 12, 20
CPU = torch.device("cpu")


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(pixels).save(path)


@pytest.fixture
def deliver(tmp_path: Path) -> Path:
    """One scene, in a folder whose own name holds what the reference's loader replaces."""
    root = tmp_path / "img" / "DELIVER_rgb"
    place = Path("night/train/MAP_1_point2")
    generator = np.random.default_rng(0)
    rgba = generator.integers(0, 255, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    labels = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
    labels[..., 0] = np.arange(WIDTH) % 5
    labels[0, :, 0] = 255
    labels[..., 1:] = 99
    save(root / "img" / place / "000001_rgb_front.png", rgba)
    save(root / "hha" / place / "000001_depth_front.png", rgba[..., ::-1][..., 1:].copy())
    save(root / "lidar" / place / "000001_lidar_front.png", rgba[..., 0])
    save(root / "event" / place / "000001_event_front.png", rgba[::4, ::4, :3])
    save(root / "semantic" / place / "000001_semantic_front.png", labels)
    return root


def test_deliver_is_read_as_its_loader_reads_it(deliver: Path) -> None:
    source = DeliverFolder(deliver, split="train", num_classes=25)
    assert source.num_items == 1
    sample = source.draw(0, ("rgb", "hha", "event", "lidar"))
    assert list(sample.images) == ["rgb", "hha", "event", "lidar"]
    columns = np.arange(WIDTH) % 5
    expected = np.broadcast_to(np.where(columns == 0, 255, columns - 1), (HEIGHT, WIDTH)).copy()
    expected[0] = 255
    np.testing.assert_array_equal(sample.labels, expected)
    rgb, lidar, event = (sample.images[name] for name in ("rgb", "lidar", "event"))
    np.testing.assert_array_equal(sample.images["hha"], rgb[..., ::-1] if rgb.shape[-1] == 3 else rgb)
    np.testing.assert_array_equal(lidar, np.repeat(rgb[..., :1], 3, axis=-1))
    np.testing.assert_array_equal(event, np.kron(rgb[::4, ::4], np.ones((4, 4, 1), dtype=np.uint8)))


def test_what_is_not_there_or_no_class_is_refused(deliver: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="DELIVER's layout"):
        DeliverFolder(deliver, split="val", num_classes=25)
    with pytest.raises(ConfigError, match="expected streets"):
        open_source(f"cityscapes:{tmp_path}", seed=0, num_classes=25)
    with pytest.raises(ConfigError, match="no_such"):
        open_source("streets:no_such", seed=0, num_classes=10)
    source = open_source(f"deliver:{deliver}", seed=0, num_classes=3)
    with pytest.raises(DecodeError, match="stored as 4"):
        source.draw(0, ("rgb",))
    with pytest.raises(ConfigError, match="thermal"):
        source.draw(0, ("thermal",))
    (deliver / "event" / "night/train/MAP_1_point2/000001_event_front.png").write_bytes(b"cut short")
    with pytest.raises(DecodeError, match="cannot be read"):
        DeliverFolder(deliver, split="train", num_classes=25).draw(0, ("event",))


def test_streets_are_drawn_with_the_modalities_asked_for() -> None:
    source = open_source("streets", seed=3, num_classes=10)
    sample = source.draw(5, ("event", "rgb"))
    assert list(sample.images) == ["event", "rgb"]
    assert sample.labels.shape == sample.images["rgb"].shape[:2]
    assert sample.labels.max() <= 9
    with pytest.raises(ConfigError, match="modalities"):
        source.draw(5, ("thermal",))


@pytest.fixture
def mcubes(tmp_path: Path) -> Path:
    """Two scenes to train on and one to score, 300 columns wide; of the first one infrared has 16 bits."""
    write_mcubes(tmp_path / "MCubeS", train=("in_2", "in_1"), test=("out_1",))
    return tmp_path / "MCubeS"


def test_mcubes_is_read_as_its_loader_reads_it(mcubes: Path) -> None:
    source = McubesFolder(mcubes, split="train", num_classes=20)
    assert source.num_items == 2
    sample = source.draw(0, ("nir", "rgb", "aolp", "dolp"))
    assert (sample.sample_id, list(sample.images)) == ("mcubes:in_2", ["nir", "rgb", "aolp", "dolp"])
    arrays = {part: np.load(mcubes / f"polL_{part}/in_2.npy")[:, 192:] for part in ("aolp_sin", "aolp_cos", "dolp")}
    expected = [arrays[part] for part in ("aolp_sin", "aolp_cos", "aolp_sin")]
    np.testing.assert_array_equal(sample.images["aolp"], np.stack(expected, axis=-1))
    np.testing.assert_array_equal(sample.images["dolp"], np.stack([arrays["dolp"]] * 3, axis=-1))
    infrared, colour, labels = (
        np.asarray(PilImage.open(mcubes / folder / "in_2.png"))[:, 192:]
        for folder in ("NIR_warped", "polL_color", "GT")
    )
    np.testing.assert_allclose(sample.images["nir"], np.stack([infrared / 65535] * 3, axis=-1), atol=1e-7)
    np.testing.assert_array_equal(sample.images["rgb"], colour)
    np.testing.assert_array_equal(sample.labels, labels)
    assert {0, 19, 255} <= set(np.unique(sample.labels).tolist()), "ids as stored, none shifted"
    assert McubesFolder(mcubes, split="val", num_classes=20).num_items == 1


@pytest.mark.parametrize("item", [0, 1])
def test_mcubes_is_trained_on_what_the_corpus_job_reads(mcubes: Path, item: int) -> None:
    sample = open_source(f"mcubes:{mcubes}", seed=0, num_classes=20).draw(item, ("rgb", "aolp", "dolp", "nir"))
    row = import_scenes("mcubes", str(mcubes), split="train").rows[item]
    parts = {name: tuple(uri.split("|")) for name, uri in row["modalities"].items()}
    order, crop = tuple(row["modality_order"]), tuple(row["crop"])
    bundle = Bundle(video_uri=row["video_uri"], modalities=parts, order=order, crop=crop)
    options = BundleOptions()
    with (
        open_bundle_inputs(bundle, options, scratch_dir=str(mcubes), max_scratch_bytes=10**9) as inputs,
        open_bundle(bundle, inputs, options, DecodeOptions()) as ticks,
    ):
        (tick,) = ticks
    assert list(tick.images) == list(sample.images)
    for name, image in tick.images.items():
        np.testing.assert_array_equal(image, sample.images[name])


def test_an_mcubes_that_is_not_whole_is_refused(mcubes: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such list"):
        open_source(f"mcubes:{tmp_path}", seed=0, num_classes=20)
    with pytest.raises(ConfigError, match="no folder is named"):
        open_source("mcubes", seed=0, num_classes=20)
    source = open_source(f"mcubes:{mcubes}", seed=0, num_classes=20)
    with pytest.raises(ConfigError, match="MCubeS has rgb, aolp, dolp, nir"):
        source.draw(0, ("depth",))
    with pytest.raises(DecodeError, match="stored as 19"):
        open_source(f"mcubes:{mcubes}", seed=0, num_classes=19).draw(0, ("rgb",))
    np.save(mcubes / "polL_dolp/in_2.npy", np.full((40, 300), np.nan, np.float32))
    with pytest.raises(DecodeError, match="of the values are NaN"):
        source.draw(0, ("dolp",))
    np.save(mcubes / "polL_dolp/in_2.npy", np.zeros((40, 280), np.float32))
    with pytest.raises(DecodeError, match="one size"):
        source.draw(0, ("dolp",))
    (mcubes / "list_folder/train.txt").write_text("\n")
    with pytest.raises(ConfigError, match="names no scene"):
        open_source(f"mcubes:{mcubes}", seed=0, num_classes=20)


def test_blur_takes_the_modalities_it_is_for() -> None:
    names = ("rgb", "nir", "dolp")
    sample = Quarters().draw(0, names)
    options = Augmentation(flip=0.0, jitter=0.0, blur=1.0, scale=None, blurred=("rgb", "nir"), blur_sigma=(0.8, 0.9))
    images, _ = augmented(sample.images, sample.labels, options, np.random.default_rng(0), image_size=64)
    np.testing.assert_array_equal(images["dolp"], sample.images["dolp"])
    for name in ("rgb", "nir"):
        before, after = (part[name].astype(float) for part in (sample.images, images))
        assert after.mean() == pytest.approx(before.mean(), abs=1.0)
        assert np.abs(np.diff(after, axis=1)).mean() < 0.7 * np.abs(np.diff(before, axis=1)).mean()


@pytest.mark.parametrize("seed", range(8))
def test_images_and_labels_change_alike(seed: int) -> None:
    """Labels painted as brightness: away from edges they are read back from every augmented image."""
    height, width, side = 40, 56, 48
    labels = np.kron(np.arange(35).reshape(5, 7), np.ones((8, 8))).astype(np.uint8)
    painted = np.repeat((labels * 7)[..., None], 3, axis=-1)
    options = Augmentation(jitter=0.0, blur=0.0)
    generator = np.random.default_rng(seed)
    assert painted.shape == (height, width, 3)
    images, changed = augmented({"depth": painted, "rgb": painted}, labels, options, generator, image_size=side)
    assert max(changed.shape) <= side
    np.testing.assert_array_equal(images["depth"], images["rgb"])
    inner = np.ones(changed.shape, dtype=bool)
    for axis in (0, 1):
        for shift in (-3, -2, -1, 1, 2, 3):
            inner &= np.roll(changed, shift, axis=axis) == changed
    read_back = images["depth"][..., 0] / 7
    if inner.any():
        assert np.abs(read_back - changed)[inner].max() < 0.5


def test_a_flip_mirrors_and_colours_change_rgb_alone() -> None:
    sample = Quarters().draw(0, ("rgb", "depth"))
    options = Augmentation(flip=1.0, jitter=1.0, blur=1.0, scale=None)
    images, labels = augmented(sample.images, sample.labels, options, np.random.default_rng(0), image_size=64)
    np.testing.assert_array_equal(labels, sample.labels[:, ::-1])
    np.testing.assert_array_equal(images["depth"], sample.images["depth"][:, ::-1])
    assert (images["rgb"] != sample.images["rgb"][:, ::-1]).mean() > 0.5


def test_a_batch_is_padded_with_black_and_unknown_labels() -> None:
    reader = SceneReader(Quarters(), modalities=("rgb", "depth"), augmentation=PLAIN, image_size=64, seed=0)
    batch = reader.read([4, 5, 6], device=CPU)
    assert batch.images_MB3SS.shape == (2, 3, 3, 64, 64)
    assert batch.labels_BSS.shape == (3, 64, 64)
    assert (batch.labels_BSS[:, 48:] == 255).all()
    assert not batch.images_MB3SS[1, :, :, 48:].any()
    assert set(batch.labels_BSS[:, 1:48].unique().tolist()) == {0, 1, 2, 3}


def test_reading_ahead_on_threads_changes_nothing() -> None:
    options = {"modalities": ("rgb",), "augmentation": Augmentation(), "image_size": 64, "seed": 1}
    plain = SceneReader(Quarters(num_items=5), **options)  # type: ignore[arg-type]
    ahead = SceneReader(Quarters(num_items=5), num_threads=2, **options)  # type: ignore[arg-type]
    ahead.look_ahead(range(8))
    for positions in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9]):
        first, second = (reader.read(positions, device=CPU) for reader in (plain, ahead))
        assert torch.equal(first.images_MB3SS, second.images_MB3SS)
        assert torch.equal(first.labels_BSS, second.labels_BSS)
    ahead.close()


def test_dropped_modalities_keep_their_order_and_never_all_go() -> None:
    names = ("rgb", "hha", "event", "lidar")
    drawn = [kept_modalities(names, drop=0.6, seed=0, position=position) for position in range(400)]
    assert all(kept and kept == tuple(name for name in names if name in kept) for kept in drawn)
    assert {len(kept) for kept in drawn} == {1, 2, 3, 4}
    share = np.mean([[name in kept for name in names] for kept in drawn])
    assert share == pytest.approx(0.4 + 0.6**4 / 4, abs=0.05)
    assert kept_modalities(names, drop=0.0, seed=0, position=0) == names


def test_a_blank_modality_is_black_as_often_as_asked_and_never_all_of_them() -> None:
    images = {name: np.full((6, 9, 3), 200, dtype=np.uint8) for name in ("rgb", "hha", "lidar")}
    labels = np.ones((6, 9), dtype=np.uint8)
    option = Augmentation(flip=0, jitter=0, blur=0, scale=None, blank=0.4)
    blank = []
    for seed in range(600):
        changed, kept = augmented(images, labels, option, np.random.default_rng(seed), image_size=16)
        assert (kept == 1).all()
        assert {tuple(np.unique(image)) for image in changed.values()} <= {(0,), (200,)}
        blank.append([not image.any() for image in changed.values()])
    shares = np.mean(blank, axis=0)
    assert not np.all(blank, axis=1).any()
    # Where chance blanks all three (0.4^3), one of them at random is shown after all.
    np.testing.assert_allclose(shares, 0.4 - 0.4**3 / 3, atol=0.06)


def test_blanking_changes_nothing_else_of_a_scene() -> None:
    generator = np.random.default_rng(5)
    images = {name: generator.integers(1, 255, (20, 30, 3), dtype=np.uint8) for name in ("rgb", "hha")}
    labels = generator.integers(0, 4, (20, 30), dtype=np.uint8)
    plain, plain_labels = augmented(images, labels, Augmentation(), np.random.default_rng(1), image_size=16)
    option = Augmentation(blank=0.6)
    changed, changed_labels = augmented(images, labels, option, np.random.default_rng(1), image_size=16)
    np.testing.assert_array_equal(plain_labels, changed_labels)
    shown = [name for name, image in changed.items() if image.any()]
    assert len(shown) == 1
    np.testing.assert_array_equal(plain[shown[0]], changed[shown[0]])
