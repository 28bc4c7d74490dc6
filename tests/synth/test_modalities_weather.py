"""Weather and failing cameras against their formulas; everything else of a street stays."""

import numpy as np
import pytest

from pipeline.synth.draws import Draws
from pipeline.synth.modalities_weather import Atmosphere, exposed, mean_picture
from pipeline.synth.street import Street, sample_street, street_scene
from pipeline.synth.street_config import StreetConfig
from pipeline.synth.street_render import colours_of, paint_view
from pipeline.synth.street_world import CLASS_ID, TICKS_PER_FRAME, Failure, StreetScene, Weather

GRAIN = 4
"""Read noise moves a grey level by this at most."""


def street(weather: Weather, failure: Failure = "none", index: int = 0, num_frames: int = 1) -> Street:
    return sample_street(config_of(weather, failure, num_frames), 3, "valid", index)


def config_of(weather: Weather, failure: Failure = "none", num_frames: int = 1) -> StreetConfig:
    return StreetConfig(height=72, width=104, num_frames=num_frames, weathers={weather: 1.0}, failures={failure: 1.0})


def scene_of(weather: Weather) -> StreetScene:
    return street_scene(config_of(weather), 3, "valid", 0)


@pytest.mark.parametrize("index", range(3))
def test_fog_follows_koschmieders_law(index: int) -> None:
    scene = street_scene(config_of("fog"), 3, "valid", index)
    painted = paint_view(scene, 0)
    clean = colours_of(painted.codes, scene.materials)
    fog = Atmosphere.draw(scene, Draws(1, index))
    beta = fog.beta_permille / 1000
    assert 0.02 <= beta <= 0.12
    through = np.exp(-beta * painted.depth_mm / 1000)[..., None]
    wanted = clean * through + fog.fog_light * (1 - through)
    assert np.abs(fog.cast(clean, painted, scene, 0, "none", Draws(2)) - wanted).max() < GRAIN + 3


def test_night_is_the_gain_times_a_power_with_the_noise_of_counted_photons() -> None:
    scene = scene_of("night")
    painted = paint_view(scene, 0)
    night = Atmosphere.draw(scene, Draws(1))
    assert 0.15 <= night.night_gain <= 0.35
    far = painted.depth_mm >= 26_000  # the head-lights end there
    for level in (90, 160, 230):
        clean = np.full((72, 104, 3), level, dtype=np.uint8)
        # 220 photons are white; shown levels are whole, and half a level lower on average for read noise and rounding.
        mean = night.night_gain * (level / 255) ** 2.4 * 255
        shown = np.stack([night.cast(clean, painted, scene, 0, "none", Draws(2, n))[far] for n in range(4)])
        lamps = scene.uprights and shown.max() > 200
        values = shown[shown < 150] if lamps else shown
        assert values.mean() == pytest.approx(mean, abs=max(0.12 * mean, 1.5))
        assert values.std() > 0.6 * np.sqrt(mean * 255 / 220)


def test_head_lights_reach_near_things_and_lamps_glow() -> None:
    empty = street_scene(config_of("night").derive(vehicles=(0.0, 0.0)), 3, "valid", 0)
    clean = np.full((72, 104, 3), 128, dtype=np.uint8)
    painted = paint_view(empty, 0)
    grey = Atmosphere.draw(empty, Draws(1)).cast(clean, painted, empty, 0, "none", Draws(2)).mean(axis=2)
    metres = painted.depth_mm / 1000
    is_ahead = np.broadcast_to(np.abs(np.arange(104) - 52) < 16, metres.shape)
    assert grey[is_ahead & (metres < 8)].mean() > 2 * grey[metres > 26].mean()
    assert grey[is_ahead & (metres < 8)].mean() > 1.5 * grey[~is_ahead & (metres < 8)].mean()
    glowing = [street("night", index=index).frames[0] for index in range(4)]
    assert max(frame.rgb[frame.labels == CLASS_ID["vehicle"]].max(initial=0) for frame in glowing) > 200


def test_night_hides_colour() -> None:
    def colourfulness(weather: Weather) -> float:
        frames = [street(weather, index=index).frames[0] for index in range(4)]
        return float(np.mean([np.ptp(frame.rgb.astype(int), axis=2).mean() for frame in frames]))

    assert street("night").frames[0].rgb.mean() < 0.4 * street("cloud").frames[0].rgb.mean()
    assert colourfulness("night") < 0.7 * colourfulness("cloud")


def test_rain_dulls_the_picture_and_falls_elsewhere_in_each_frame() -> None:
    scene = scene_of("rain")
    painted = paint_view(scene, 0)
    clean = np.full((72, 104, 3), 60, dtype=np.uint8)
    rain = Atmosphere.draw(scene, Draws(1))
    first, second = (rain.cast(clean, painted, scene, 0, "none", Draws(2, n)).astype(int) for n in range(2))
    dull = 60 * 190 // 256 + 118 * 66 // 256
    streaks = [np.abs(picture - dull).max(axis=2) > GRAIN for picture in (first, second)]
    assert all(0.02 < streak.mean() < 0.4 for streak in streaks)
    assert (streaks[0] & streaks[1]).mean() < 0.6 * streaks[0].mean()
    dark_to_light = street("rain").frames[0]
    assert np.ptp(np.percentile(dark_to_light.rgb, (5, 95))) < np.ptp(np.percentile(dark_to_light.clean_rgb, (5, 95)))


def test_the_sun_glares_in_one_place() -> None:
    scene = scene_of("sun")
    clean = np.full((72, 104, 3), 60, dtype=np.uint8)
    glares = []
    for seed in range(4):
        sun = Atmosphere.draw(scene, Draws(1, seed))
        shown = sun.cast(clean, paint_view(scene, 0), scene, 0, "none", Draws(2))
        grey = shown.astype(int).mean(axis=2)
        glares.append(grey.max() - grey[-1].min())
        assert grey[-1].min() == pytest.approx(60 * 280 / 256 - 10, abs=GRAIN)
    assert max(glares) > 30


@pytest.mark.parametrize(("failure", "gain"), [("overexposure", 2.2), ("underexposure", 0.25)])
def test_a_failing_exposure_scales_and_clips(failure: Failure, gain: float) -> None:
    right, wrong = street("cloud").frames[0], street("cloud", failure).frames[0]
    assert np.array_equal(right.labels, wrong.labels)
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    assert np.abs(exposed(ramp, failure).astype(float) - np.minimum(ramp * gain, 255)).max() < 1.1
    wanted = np.clip(right.rgb.astype(float) * gain, 0, 255)
    assert np.abs(wrong.rgb - wanted).max() <= GRAIN * gain + GRAIN + 2


def test_motion_blur_is_the_mean_over_the_exposure_and_leaves_the_labels() -> None:
    config = config_of("cloud", "motionblur", num_frames=2)
    scene = street_scene(config, 3, "valid", 1)
    blurred = sample_street(config, 3, "valid", 1).frames[1]
    smoothest = []
    for count in (5, 7, 9):
        step = TICKS_PER_FRAME // (count - 1)
        ticks = [TICKS_PER_FRAME + (k - count // 2) * step for k in range(count)]
        mean = mean_picture([colours_of(paint_view(scene, tick).codes, scene.materials) for tick in ticks])
        wanted = mean.astype(int) * 214 // 256 + 20
        smoothest.append(np.abs(blurred.rgb - wanted).max())
    assert min(smoothest) <= GRAIN + 1, "one of the three counts of sub-frames"
    change = [np.abs(np.diff(picture.astype(int), axis=1)).mean() for picture in (blurred.rgb, blurred.clean_rgb)]
    assert change[0] < 0.8 * change[1]


def test_the_mean_of_pictures_is_rounded() -> None:
    pictures = [np.full((2, 3, 3), value, dtype=np.uint8) for value in (255, 254, 255, 255, 255)]
    assert (mean_picture(pictures) == 255).all()
    assert (mean_picture(pictures[:2]) == 255).all()
