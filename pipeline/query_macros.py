"""Ready questions to a lake, as SQL table macros over the views of `open_run`; `masklake query --macros` lists them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Macro:
    """One table macro: `SELECT * FROM name(arguments)`."""

    signature: str
    about: str
    example: str
    sql: str


MACROS: tuple[Macro, ...] = (
    Macro(
        signature="object_in_video(video, object)",
        about="Rows of the masks table of one object of a video, by frame.",
        example="SELECT frame_index, confidence, area FROM object_in_video('clip', 1)",
        sql="SELECT * FROM masks WHERE video_id = video AND object_id = object ORDER BY run_id, frame_index",
    ),
    Macro(
        signature="low_confidence_runs(threshold, min_frames)",
        about="Stretches [start_frame, stop_frame) of at least min_frames processed frames in a row whose confidence "
        "is below threshold, in view or not; num_present tells on how many of them the object is in view.",
        example="SELECT * FROM low_confidence_runs(0.5, 10) WHERE num_present > 0",
        sql="""
        SELECT * FROM (
            SELECT run_id, video_id, object_id, any_value(query_id) AS query_id, any_value(label) AS label,
                   min(frame_index) AS start_frame, max(frame_index) + 1 AS stop_frame, count(*) AS num_frames,
                   count_if(present) AS num_present, avg(confidence) AS confidence_mean
            FROM (
                SELECT *, confidence < threshold AS low,
                       row_number() OVER (PARTITION BY run_id, video_id, object_id ORDER BY frame_index)
                       - row_number() OVER (
                           PARTITION BY run_id, video_id, object_id, confidence < threshold ORDER BY frame_index
                       ) AS stretch
                FROM masks
            )
            WHERE low
            GROUP BY run_id, video_id, object_id, stretch
        )
        WHERE num_frames >= min_frames
        ORDER BY run_id, video_id, object_id, start_frame
        """,
    ),
    Macro(
        signature="area_by_second(video)",
        about="Mean and largest mask area in pixels, and mean share of the frame, of each object in each second of a "
        "video's presentation time; frames without the object count as area 0.",
        example="SELECT second, object_id, area_mean FROM area_by_second('clip')",
        sql="""
        SELECT run_id, object_id, any_value(query_id) AS query_id, any_value(label) AS label,
               CAST(floor(pts_us / 1e6) AS BIGINT) AS second, count(*) AS num_frames, avg(area) AS area_mean,
               max(area) AS area_max, avg(area / (CAST(height AS DOUBLE) * width)) AS area_share
        FROM masks WHERE video_id = video
        GROUP BY run_id, object_id, second
        ORDER BY run_id, object_id, second
        """,
    ),
    Macro(
        signature="presence(video)",
        about="When each object of a video is in view: stretches [start_frame, stop_frame) of processed frames in a "
        "row, with the presentation times in seconds of the first and last of them.",
        example="SELECT label, start_seconds, last_seconds FROM presence('clip')",
        sql="""
        SELECT run_id, object_id, any_value(query_id) AS query_id, any_value(label) AS label,
               min(frame_index) AS start_frame, max(frame_index) + 1 AS stop_frame, count(*) AS num_frames,
               min(pts_us) / 1e6 AS start_seconds, max(pts_us) / 1e6 AS last_seconds,
               avg(confidence) AS confidence_mean
        FROM (
            SELECT *, row_number() OVER (PARTITION BY run_id, object_id ORDER BY frame_index)
                      - row_number() OVER (PARTITION BY run_id, object_id, present ORDER BY frame_index) AS stretch
            FROM masks WHERE video_id = video
        )
        WHERE present
        GROUP BY run_id, object_id, stretch
        ORDER BY run_id, object_id, start_frame
        """,
    ),
    Macro(
        signature="best_frames(n)",
        about="The n frames of each object that hold it with the highest confidence, the earlier of two alike.",
        example="SELECT video_id, object_id, frame_index FROM best_frames(3)",
        sql="""
        SELECT run_id, video_id, object_id, query_id, label, frame_index, pts_us, confidence, area, bbox,
               row_number() OVER best AS place
        FROM masks WHERE present
        WINDOW best AS (PARTITION BY run_id, video_id, object_id ORDER BY confidence DESC, frame_index)
        QUALIFY place <= n
        ORDER BY run_id, video_id, object_id, place
        """,
    ),
    Macro(
        signature="coverage()",
        about="Per video: frames processed, objects asked for and ever seen, share of frames with any object in view, "
        "and mean share of the frame that masks cover (masks that overlap count twice).",
        example="SELECT * FROM coverage() ORDER BY present_share",
        sql="""
        SELECT run_id, video_id, count(*) AS num_frames, max(objects) AS num_objects,
               (SELECT count(DISTINCT object_id) FROM masks seen
                WHERE seen.present AND seen.run_id = ticks.run_id AND seen.video_id = ticks.video_id) AS num_seen,
               avg(CAST(in_view > 0 AS INTEGER)) AS present_share, avg(area_share) AS area_share
        FROM (
            SELECT run_id, video_id, frame_index, count(*) AS objects, count_if(present) AS in_view,
                   sum(area) / any_value(CAST(height AS DOUBLE) * width) AS area_share
            FROM masks GROUP BY run_id, video_id, frame_index
        ) ticks
        GROUP BY run_id, video_id
        ORDER BY run_id, video_id
        """,
    ),
)


def create_macros(connection: Any) -> None:
    """Define the macros in a DuckDB connection that has the view `masks`."""
    for macro in MACROS:
        connection.execute(f"CREATE OR REPLACE TEMP MACRO {macro.signature} AS TABLE {macro.sql}")


def describe_macros() -> str:
    """What each macro answers, with an example, for a terminal."""
    return "\n\n".join(f"{macro.signature}\n    {macro.about}\n    {macro.example}" for macro in MACROS)
