"""The tracker's SAM2 from every kind of checkpoint that holds one."""

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, WeightsError
from pipeline.models.mosam_model import load_tracking_core
from pipeline.models.sam2_core import build_sam2
from pipeline.models.sam2_variants import SAM2_VARIANTS, predictor_config
from pipeline.models.samwise_architecture import read_architecture
from pipeline.models.samwise_checkpoint import checkpoint_tensors
from pipeline.models.samwise_init import random_samwise
from pipeline.models.samwise_variants import ARCHITECTURES
from pipeline.segmenter import ModelSpec
from tests.parity.random_sam2 import tiny_config

MINI = ARCHITECTURES["mini"]


def spec(**fields: object) -> ModelSpec:
    return ModelSpec(**{"name": "m", "architecture": {}, "tensors": None, **fields})  # type: ignore[arg-type]


def test_an_official_sam2_checkpoint_loads_with_and_without_its_outer_key() -> None:
    config = tiny_config()
    given = build_sam2(config, seed=7).model.state_dict()
    for tensors in ({"model": given}, given, {"model": {f"module.{key}": value for key, value in given.items()}}):
        core = load_tracking_core(spec(architecture=config.model_dump(), tensors=tensors))
        assert core.config == predictor_config(config)
        assert all(torch.equal(value, given[key]) for key, value in core.model.state_dict().items())


def test_the_sam2_inside_a_samwise_checkpoint_is_taken_and_the_rest_left() -> None:
    network = random_samwise(read_architecture(MINI, name="mini"), seed=3)
    core = load_tracking_core(spec(architecture_name="mini", tensors={"model": checkpoint_tensors(network)}))
    theirs = network.core.model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in core.model.state_dict().items())
    assert core.config.image_size == network.core.config.image_size


def test_the_size_of_a_published_checkpoint_is_read_off_its_tensors() -> None:
    tensors = build_sam2(SAM2_VARIANTS["sam2.1-hiera-tiny"]).model.state_dict()
    core = load_tracking_core(spec(tensors={"model": tensors}), image_size=256)
    assert core.config.stages == SAM2_VARIANTS["sam2.1-hiera-tiny"].stages
    assert (core.config.image_size, core.config.no_obj_embed_spatial) == (256, True)


def test_random_weights_follow_the_seed_alone_and_see_something() -> None:
    one, same, other = (load_tracking_core(spec(architecture=MINI, seed=seed)) for seed in (1, 1, 2))
    values = [core.model.sam_mask_decoder.output_hypernetworks_mlps[1].layers[-1].weight for core in (one, same, other)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert np.isfinite(values[0].detach().numpy()).all()


def test_what_holds_no_sam2_is_refused() -> None:
    for fields, said in (
        ({}, "neither weights nor an architecture"),
        ({"architecture_name": "sam3"}, "no architecture 'sam3'"),
        ({"architecture": {"depth": 3}}, "not a SAM2's"),
        ({"tensors": {"model": {"text.weight": torch.zeros(2)}}}, "Tracking needs a SAM2 or a SAMWISE"),
    ):
        with pytest.raises(WeightsError, match=said):
            load_tracking_core(spec(**fields))
    with pytest.raises(ConfigError, match="image_size 50"):
        load_tracking_core(spec(architecture=MINI), image_size=50)
