"""Every number of motion-guided prompting, each with where it comes from."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PromptMode = Literal["off", "points", "box", "points_box", "dense", "all"]
FlowName = Literal["dis", "farneback", "raft_small", "raft_large", "none"]


class MotionConfig(BaseModel):
    """How an object's motion is measured, forecast and turned into prompts.

    Source: MoSAM (arXiv 2505.00739), which is public in part only. Tags: [S] stated by the authors, [F] read off their
    figures, [I] inferred (mostly SAMURAI's published numbers, arXiv 2411.11922), [U] unknown, our choice.

    Attributes:
        mode: which parts of a forecast prompt the decoder: points and box [F]; the dense mask logits are ours [U].
        arbitrate: decode with and without the prompt and choose among all candidates [U].
        flow: who measures dense flow; the paper draws a learned field, not which [F/U].
        flow_weights: local file with the state dict of torchvision's RAFT.
        encoder_weights: local file of trained motion encoders, whose tokens join each motion prompt; None goes without,
            training-free. The figures mark both encoders as trainable [F]; how, is not public [U].
        camera_compensation: the Kalman filter moves with the camera [U].
        num_points: key points on an object [F].
        short_side_px: of the grey image that motion is measured on [I].
        erosion: key points keep this share of the mask's root area from its rim [I].
        camera_features, camera_ransac_px, camera_min_inliers, camera_min_inlier_share: corners looked for outside the
            objects; reprojection error of an inlier; the camera counts as still unless that many agree [I].
        object_margin_px: objects' masks grow by this before corners are looked for [U].
        cut_histogram_distance: a scene cut is a camera not found and grey histograms this far apart, 0..1 [U].
        point_window_px, point_levels: Lucas-Kanade's window [U] and pyramid levels [I].
        max_round_trip_px, min_tracked_points: a point that comes back further off is lost; fewer than so many tell
            nothing [I].
        crop_margin, min_crop_px: flow is measured on the object's box grown by this share of its sides on every side,
            and at least this large [U].
        full_frame_above: more objects than this share one flow field of the whole frame [I].
        agreement_relative, agreement_absolute: forward and backward flow agree where
            |f + b|^2 < relative (|f|^2 + |b|^2) + absolute [I; Sundaram et al., ECCV 2010].
        min_agreement: share of the warped mask that must agree for dense flow to be believed [I].
        min_correlation: where it is textured, the warped mask's old pixels must look like its new ones, by normalised
            correlation. Not in the spec: on drawn videos with a displacement of 5 % of the height that the filter did
            not foresee, agreement was .91 at a warped IoU of .59, and correlation .15 [U].
        sure_fit: flow that fits so well, agreement times correlation, is believed at once, and so is flow that moves
            the object as all its key points were tracked. Not in the spec: on a turning object flow around the filter's
            displacement agreed at .5 to .9 and was wrong, where correlation was .5 to .8; right flow had .97 [U].
        far_flow_cost: of other believed flows the one is taken that fits best, less this times its distance from
            what was to be expected, the filter's displacement or the last step once more, as a share of the longest one
            believed; look-alikes fit equally well [U].
        search_share: if the flow around the filter's displacement does not fit so well, the pixels of an object
            accepted on the frame before are looked for within this share of the short side, and no further than a
            displacement is believed, and flow is measured anew from there; 0 does not look [I].
        far_match_cost: of correlation, in that search, at its furthest; look-alikes again [U].
        kalman_box_std: a box that the filter alone knows grows on every side by so many standard deviations of its
            centre. Not in the spec: a filter that bridged a passage behind something was half a diameter late, since
            what it saw last was an object growing narrower; its box then cut the object, and the part inside was too
            small to be accepted [U].
        box_margin: a forecast box grows by this share of its sides, half on each side [I].
        out_of_view_logit: warped logits of what comes from outside the frame [I].
        accept_predicted_iou: below, a mask neither moves the filter nor counts as seen [I].
        min_area_share: a mask with a smaller share of the object's usual area shows a part of it, beside what hides the
            rest: it is bridged by the filter like no mask, for `coast_max` frames at most. Not in the spec: without it
            prompts followed the last visible sliver, then the occluder, and confirmed themselves [U].
        max_area_share: one with a larger share holds something else too, as two look-alikes that touch do: it moves the
            filter no more than a part does, and, once the filter is stable, takes no part in arbitration beside one
            that is not too large. Not in the spec [U].
        max_box_share: no more does a mask whose box has more than so many times the area of the box last accepted:
            pieces here and there, of what is partly like the object. Not in the spec [U].
        min_iou_share: nor one whose predicted IoU is below this share of the object's usual one: what stands in
            for a hidden object is not as sure as the object was. Not in the spec: without it the filter went over to an
            occluder that is partly like the object [U].
        min_predicted_iou: the last accepted mask must reach this for a motion prompt [I].
        coast_max: frames without an accepted mask that the filter bridges. The spec has 5 [I], too few for look-alikes
            that take ten frames to pass each other, and for what goes into hiding, is hidden and comes out in 21 [U].
        max_jump_diagonals: a measured displacement further from what was to be expected, in object diagonals per
            frame, is not believed [I].
        stable_frames: accepted masks before the filter is believed [I].
        kalman_weight: of the filter's box in arbitration, once stable [I].
        measured_weight: of the box where the measured motion has the object, times how well that motion fits; it takes
            the filter's place, which lags behind what turns. 0 leaves the filter's [U].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: PromptMode = "points_box"
    arbitrate: bool = True
    flow: FlowName = "dis"
    flow_weights: str | None = None
    encoder_weights: str | None = None
    camera_compensation: bool = True

    num_points: int = Field(default=5, ge=1)
    short_side_px: int = Field(default=256, ge=16)
    erosion: float = Field(default=0.08, ge=0)

    camera_features: int = Field(default=300, ge=3)
    camera_ransac_px: float = Field(default=2.0, gt=0)
    camera_min_inliers: int = Field(default=30, ge=3)
    camera_min_inlier_share: float = Field(default=0.5, ge=0, le=1)
    object_margin_px: int = Field(default=8, ge=0)
    cut_histogram_distance: float = Field(default=0.5, gt=0, le=1)

    point_window_px: int = Field(default=15, ge=3)
    point_levels: int = Field(default=5, ge=1)
    max_round_trip_px: float = Field(default=1.0, gt=0)
    min_tracked_points: int = Field(default=3, ge=1)

    crop_margin: float = Field(default=0.25, ge=0)
    min_crop_px: int = Field(default=48, ge=16)
    full_frame_above: int = Field(default=8, ge=0)
    agreement_relative: float = Field(default=0.01, ge=0)
    agreement_absolute: float = Field(default=0.5, gt=0)
    min_agreement: float = Field(default=0.5, ge=0, le=1)
    min_correlation: float = Field(default=0.5, ge=0, le=1)
    sure_fit: float = Field(default=0.8, ge=0, le=1)
    far_flow_cost: float = Field(default=1.0, ge=0)
    search_share: float = Field(default=0.3, ge=0, le=1)
    far_match_cost: float = Field(default=0.3, ge=0)
    kalman_box_std: float = Field(default=0.5, ge=0)
    box_margin: float = Field(default=0.1, ge=0)
    out_of_view_logit: float = Field(default=-8.0, lt=0)

    accept_predicted_iou: float = Field(default=0.3, ge=0, le=1)
    min_area_share: float = Field(default=0.7, ge=0, le=1)
    max_area_share: float = Field(default=1.2, ge=1)
    max_box_share: float = Field(default=2.0, ge=1)
    min_iou_share: float = Field(default=0.7, ge=0, le=1)
    min_predicted_iou: float = Field(default=0.5, ge=0, le=1)
    coast_max: int = Field(default=25, ge=0)
    max_jump_diagonals: float = Field(default=1.5, gt=0)
    stable_frames: int = Field(default=15, ge=0)
    kalman_weight: float = Field(default=0.25, ge=0, le=1)
    measured_weight: float = Field(default=0.25, ge=0, le=1)

    @model_validator(mode="after")
    def _raft_has_weights(self) -> Self:
        if self.flow.startswith("raft") and self.flow_weights is None:
            raise ValueError(
                f"flow={self.flow!r} needs flow_weights: a local file with torchvision's {self.flow} state dict. "
                "Nothing is downloaded; choose flow='dis' to run without weights."
            )
        return self
