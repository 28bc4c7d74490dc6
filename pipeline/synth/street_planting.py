"""Sets things along a street: trees, poles, signs, vehicles, persons and others, and the stock of their materials."""

from collections.abc import Callable

import numpy as np

from pipeline.synth.draws import Draws
from pipeline.synth.street_config import Range, StreetConfig
from pipeline.synth.street_looks import (
    AddMaterial,
    Rgb,
    other_sprite,
    person_sprite,
    pole_sprite,
    sign_sprite,
    tree_sprite,
    vehicle_sprite,
)
from pipeline.synth.street_world import (
    CLASS_ID,
    TICKS_PER_FRAME,
    Camera,
    Codes,
    Materials,
    StreetClass,
    Upright,
)

SpriteOf = Callable[[Draws, AddMaterial], Codes]

_DRIVING_MIN_GAP_MM = 5_000


class Stock:
    """The materials and instances of a street in the making."""

    def __init__(self, light: Rgb) -> None:
        self._light = light
        self._rows: list[tuple[Rgb, int, int]] = [((0, 0, 0), 0, 0)]
        self.num_instances = 0

    def add(self, rgb: Rgb, name: StreetClass, instance_id: int) -> int:
        self._rows.append((rgb, CLASS_ID[name], instance_id))
        return len(self._rows) - 1

    def new_instance(self, name: StreetClass) -> tuple[int, AddMaterial]:
        """Id of a new instance, and what adds a colour to it."""
        self.num_instances += 1
        instance_id = self.num_instances
        return instance_id, lambda rgb: self.add(rgb, name, instance_id)

    def materials(self) -> Materials:
        rgb = np.array([row[0] for row in self._rows], dtype=np.int64) * np.array(self._light) >> 8
        return Materials(
            rgb=np.minimum(rgb, 255).astype(np.uint16),
            class_ids=np.array([row[1] for row in self._rows], dtype=np.uint8),
            instance_ids=np.array([row[2] for row in self._rows], dtype=np.uint16),
        )


class Planting:
    """Sets upright things along a street."""

    def __init__(
        self,
        config: StreetConfig,
        camera: Camera,
        stock: Stock,
        draws: Draws,
        *,
        end_mm: int,
        road_half_mm: int,
        kerb_mm: int,
    ) -> None:
        self._config, self._camera, self._stock, self._draws = config, camera, stock, draws
        self._end_mm, self._road_half_mm, self._kerb_mm = end_mm, road_half_mm, kerb_mm
        self._last_tick = config.num_frames * TICKS_PER_FRAME
        self._uprights: list[Upright] = []

    def sample(self) -> list[Upright]:
        for side in (-1, 1):
            self._plant_trees(side)
            self._set_poles(side)
        for limits, place in (
            (self._config.vehicles, self._vehicle),
            (self._config.persons, self._person),
            (self._config.others, self._other),
        ):
            per_metre = between(self._draws, limits) / 10
            for _ in range(max(round(per_metre * self._end_mm / 1000), 1 if limits[1] > 0 else 0)):
                place()
        return self._uprights

    def _add(
        self,
        name: StreetClass,
        kind: str,
        place_mm: tuple[int, int, int],
        size_mm: tuple[int, int],
        sprite_of: SpriteOf,
        step_um: tuple[int, int] = (0, 0),
    ) -> None:
        instance_id, add = self._stock.new_instance(name)
        x, y, z = place_mm
        self._uprights.append(
            Upright(
                instance_id=instance_id,
                class_id=CLASS_ID[name],
                kind=kind,
                x_mm=x,
                y_mm=y,
                z_mm=z,
                step_um=step_um,
                width_mm=size_mm[0],
                height_mm=size_mm[1],
                sprite=sprite_of(self._draws, add),
            )
        )

    def _places_along(self, limits: Range) -> list[int]:
        """Places along the street, apart by what `limits` (m) say, from the camera to the end."""
        places: list[int] = []
        z = self._draws.between(0, round(limits[1] * 1000))
        while z < self._end_mm - 500:
            places.append(z)
            z += self._draws.between(round(limits[0] * 1000), round(limits[1] * 1000))
        return places

    def _plant_trees(self, side: int) -> None:
        for z in self._places_along(self._config.trees):
            if self._draws.chance(0.35):  # a bush between the low row and the houses
                wide, tall = self._draws.between(1_200, 2_400), self._draws.between(800, 1_800)
                x = side * (self._kerb_mm + self._draws.between(1_400, 3_000))
                self._add(
                    "vegetation", "bush", (x, 0, z), (wide, tall), lambda d, a: tree_sprite(d, a, has_trunk=False)
                )
            else:
                wide, tall = self._draws.between(2_000, 3_600), self._draws.between(3_500, 6_500)
                x = side * (self._kerb_mm + self._draws.between(1_900, 2_600))
                self._add("vegetation", "tree", (x, 0, z), (wide, tall), lambda d, a: tree_sprite(d, a, has_trunk=True))

    def _set_poles(self, side: int) -> None:
        x = side * (self._road_half_mm + 450)
        for z in self._places_along(self._config.poles):
            wide, tall = self._draws.between(130, 320), self._draws.between(3_000, 6_500)
            self._add("pole", "pole", (x, 0, z), (wide, tall), pole_sprite)
            if self._draws.chance(self._config.sign_fraction):
                size = self._draws.between(650, 1_150)
                self._add("sign", "sign", (x, self._draws.between(1_700, 2_700), z - 20), (size, size), sign_sprite)

    def _along(self) -> int:
        return self._draws.between(3_500, self._end_mm - 1_500)

    def _vehicle(self) -> None:
        draws = self._draws
        is_tall = draws.chance(0.3)
        size = (
            (draws.between(1_900, 2_500), draws.between(2_200, 3_400))
            if is_tall
            else (draws.between(1_600, 1_950), draws.between(1_350, 1_700))
        )
        z = self._along()
        way = draws.pick(("parked", "parked", "ahead", "oncoming"))
        if way == "parked":
            x, step = draws.pick((-1, 1)) * (self._road_half_mm - size[0] // 2 - 100), 0
        elif way == "ahead":
            x = max(self._camera.x_mm, size[0] // 2)
            step = self._step_ahead(z, step_um(draws.between(30, 110) / 10, self._config))
        else:
            x, step = -self._road_half_mm // 2, -step_um(draws.between(30, 90) / 10, self._config)
        shows_front = way == "oncoming" or (way == "parked" and draws.chance(0.5))
        self._add(
            "vehicle",
            "lorry" if is_tall else "car",
            (x, 0, z),
            size,
            lambda d, a: vehicle_sprite(d, a, is_tall=is_tall, shows_front=shows_front),
            (0, step),
        )

    def _step_ahead(self, z_mm: int, step_um: int) -> int:
        """The speed of a vehicle in the camera's own lane: not so slow that the camera drives into it."""
        last_gap = z_mm + (step_um - self._camera.step_um) * self._last_tick // 1000
        return step_um if last_gap >= _DRIVING_MIN_GAP_MM else max(step_um, self._camera.step_um)

    def _person(self) -> None:
        draws = self._draws
        size = (draws.between(480, 700), draws.between(1_450, 1_900))
        walk_mm = self._kerb_mm - size[0] // 2 - 100
        speed = step_um(draws.between(4, 16) / 10, self._config)
        z, x = self._along(), draws.pick((-1, 1)) * draws.between(self._road_half_mm + 300, walk_mm)
        way = draws.pick(("stands", "along", "across"))
        step = (0, 0)
        if way == "along":
            step = (0, draws.pick((-1, 1)) * speed)
        elif way == "across":
            room_um = (walk_mm + abs(x)) * 1000
            step = ((-1 if x > 0 else 1) * min(speed, room_um // self._last_tick), 0)
        self._add("person", "person", (x, 0, z), size, person_sprite, step)

    def _other(self) -> None:
        size = (self._draws.between(500, 1_500), self._draws.between(600, 1_300))
        edge = self._kerb_mm - size[0] // 2 - 100
        x = self._draws.pick((-1, 1)) * self._draws.between(min(self._road_half_mm + 200, edge), edge)
        self._add("other", "thing", (x, 0, self._along()), size, other_sprite)


def step_um(metres_per_second: float, config: StreetConfig) -> int:
    """Micrometres per tick."""
    return round(metres_per_second * 1_000_000 / (config.frames_per_second * TICKS_PER_FRAME))


def between(draws: Draws, limits: Range) -> float:
    """A number in a range, in steps of a thousandth of it."""
    return limits[0] + (limits[1] - limits[0]) * draws.between(0, 1000) / 1000
