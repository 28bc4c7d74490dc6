"""Draws what stands where in a street, and how the camera drives through it."""

import numpy as np

from pipeline.synth.draws import Draws
from pipeline.synth.street_config import StreetConfig
from pipeline.synth.street_looks import (
    FACADE_TILES,
    GROUND_TILE,
    HEDGE_TILE,
    PLANK_TILE,
    ROAD_TILE,
    Rgb,
    draw_colour,
    paint_sky,
    tone_tiles,
)
from pipeline.synth.street_planting import Planting, Stock, between, step_um
from pipeline.synth.street_world import (
    TICKS_PER_FRAME,
    Camera,
    Failure,
    Pavement,
    StreetScene,
    Strip,
    Sway,
    Weather,
)
from pipeline.synth.world import SUBPIXELS

_SIGHT_MM = 46_000
"""From the camera's last place to the wall at the end of the street."""
_BACK_MM = 12_000
"""Things begin this far behind the camera's first place, for cameras that see to the side."""
_SEA_MM = 90_000
"""Half the width of the wall at the end."""
_MOTIONBLUR_SPEED_MPS = 6.0

_LIGHTS: dict[Weather, tuple[Rgb, ...]] = {
    "sun": ((272, 258, 230), (280, 250, 206), (264, 260, 246)),
    "cloud": ((214, 220, 230), (200, 206, 210)),
    "fog": ((220, 222, 226),),
    "rain": ((178, 184, 194),),
    "night": ((230, 232, 250), (250, 226, 190)),
}
"""Illumination in 1/256, before what weather does to the picture."""


def sample_street_scene(config: StreetConfig, name: tuple[int, int, int], draws: Draws) -> StreetScene:
    """A street of this family; `name` (seed, split number, index) names the noise of its sensors.

    Raises:
        ValueError: so long a drive passes more things than there are instance ids.
    """
    weather: Weather = draws.weighted(config.weathers)
    failure: Failure = draws.weighted(config.failures)
    stock = Stock(draws.pick(_LIGHTS[weather]))
    camera = _sample_camera(config, failure, draws)
    last_tick = config.num_frames * TICKS_PER_FRAME
    end_mm = camera.at(last_tick).z_mm + _SIGHT_MM
    road_half_mm = draws.between(3_200, 5_000)
    kerb_mm = road_half_mm + draws.between(2_200, 4_000)
    sky = stock.add(draw_colour("sky", draws), "sky", 0)
    pavement = Pavement(
        road_half_mm=road_half_mm,
        road=stock.add(draw_colour("road", draws), "road", 0),
        ground=stock.add(draw_colour("ground", draws), "ground", 0),
        road_tile=ROAD_TILE,
        ground_tile=GROUND_TILE,
        dash_mm=draws.pick((0, 1_500, 3_000)),
    )
    strips = [_end_strip(end_mm, stock, draws)]
    for side in (-1, 1):
        strips.append(_side_strip(side * (kerb_mm + 9_000), end_mm, stock, draws, "back"))
    for side in (-1, 1):
        strips.append(_side_strip(side * (kerb_mm + 4_500), end_mm, stock, draws, "houses"))
    for side in (-1, 1):
        strips.append(_side_strip(side * kerb_mm, end_mm, stock, draws, "low"))
    planting = Planting(config, camera, stock, draws, end_mm=end_mm, road_half_mm=road_half_mm, kerb_mm=kerb_mm)
    uprights = planting.sample()
    if stock.num_instances > np.iinfo(np.uint16).max:
        raise ValueError(f"{stock.num_instances} instances in one street; at most 65535. Drive slower or fewer frames.")
    reach_x, reach_y = camera.reach_px
    return StreetScene(
        height=config.height,
        width=config.width,
        num_frames=config.num_frames,
        frames_per_second=config.frames_per_second,
        name=name,
        weather=weather,
        failure=failure,
        camera=camera,
        materials=stock.materials(),
        pavement=pavement,
        strips=tuple(strips),
        uprights=tuple(uprights),
        tiles=tone_tiles(draws),
        sky=paint_sky(config.height + 2 * reach_y, config.width + 2 * reach_x, sky, draws),
    )


def _sample_camera(config: StreetConfig, failure: Failure, draws: Draws) -> Camera:
    side = config.short_side_px
    speed = between(draws, config.camera_speed_mps)
    if failure == "motionblur":
        speed = max(speed, _MOTIONBLUR_SPEED_MPS)

    def sway(amplitude: float) -> Sway:
        period = round(config.frames_per_second * TICKS_PER_FRAME * draws.between(20, 50) / 10)
        return Sway(
            amplitude=round(amplitude * config.sway * draws.between(40, 100) / 100),
            period_ticks=period,
            phase=draws.below(4096),
        )

    shake_px = side * 0.05 if failure == "motionblur" else 0.0
    return Camera(
        x_mm=draws.between(600, 2_200),
        y_mm=draws.between(1_400, 1_900),
        step_um=step_um(speed, config),
        centre_x=config.width * SUBPIXELS // 2 + draws.between(-8, 8) * config.width,
        centre_y=config.height * SUBPIXELS * draws.between(44, 52) // 100,
        focal_px=side * draws.between(80, 100) // 100,
        drift=sway(500),
        bob=sway(60),
        pan=sway(0.06 * side * SUBPIXELS),
        pitch=sway(0.02 * side * SUBPIXELS),
        shake=Sway(
            amplitude=round(shake_px * SUBPIXELS), period_ticks=2 * TICKS_PER_FRAME + 10, phase=draws.below(4096)
        ),
    )


def _strip_of(faces: str, position_mm: int, segments: list[tuple[int, int, int, int, int]], start_mm: int) -> Strip:
    """A strip from segments (length, height, material, tile, texel shift)."""
    table = np.array(segments, dtype=np.int64)
    return Strip(
        faces="front" if faces == "front" else "side",
        position_mm=position_mm,
        edges_mm=np.concatenate([[start_mm], start_mm + np.cumsum(table[:, 0])]),
        heights_mm=table[:, 1],
        materials=table[:, 2],
        tiles=table[:, 3],
        texel_shifts=table[:, 4],
    )


def _house(stock: Stock, draws: Draws, height_mm: tuple[int, int]) -> tuple[int, int, int, int]:
    _, add = stock.new_instance("building")
    return draws.between(*height_mm), add(draw_colour("building", draws)), draws.pick(FACADE_TILES), 6


def _hedge(stock: Stock, draws: Draws, height_mm: tuple[int, int]) -> tuple[int, int, int, int]:
    _, add = stock.new_instance("vegetation")
    return draws.between(*height_mm), add(draw_colour("vegetation", draws)), HEDGE_TILE, draws.pick((5, 6))


def _fence(stock: Stock, draws: Draws, height_mm: tuple[int, int]) -> tuple[int, int, int, int]:
    _, add = stock.new_instance("other")
    return draws.between(*height_mm), add(draw_colour("other", draws)), PLANK_TILE, 5


def _end_strip(end_mm: int, stock: Stock, draws: Draws) -> Strip:
    segments, length = [], 0
    while length < 2 * _SEA_MM:
        wide = draws.between(6_000, 16_000)
        build, tall = (_house, (6_000, 18_000)) if draws.chance(0.6) else (_hedge, (3_000, 9_000))
        segments.append((wide, *build(stock, draws, tall)))
        length += wide
    return _strip_of("front", end_mm, segments, -_SEA_MM)


def _side_strip(position_mm: int, end_mm: int, stock: Stock, draws: Draws, row: str) -> Strip:
    """One row beside the street: a "back" row of houses and woods, the "houses" with gaps, or "low" hedges, fences."""
    segments, z = [], -_BACK_MM
    while z < end_mm:
        if row == "low":
            wide = draws.between(3_000, 12_000)
            build, tall = draws.pick(((_hedge, (700, 1_700)), (_fence, (600, 1_500))))
            is_gap = draws.chance(0.55)
        elif row == "houses":
            wide = draws.between(6_000, 15_000)
            build, tall = _house, (4_000, 15_000)
            is_gap = draws.chance(0.3)
        else:
            wide = draws.between(8_000, 20_000)
            build, tall = (_house, (6_000, 20_000)) if draws.chance(0.5) else (_hedge, (3_000, 8_000))
            is_gap = False
        wide = min(wide, end_mm - z)
        segments.append((wide, 0, 0, 0, 6) if is_gap else (wide, *build(stock, draws, tall)))
        z += wide
    return _strip_of("side", position_mm, segments, -_BACK_MM)
