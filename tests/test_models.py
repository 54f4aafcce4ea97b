"""The list of models, and fetching one, without a network."""

import pytest

from datool.errors import DatoolError
from datool.jobs.models import get_model, list_models
from datool.models import hub
from datool.models.specs import MODELS


def test_every_model_is_listed_with_what_it_gives_and_where_it_is():
    listed = {info.name: info for info in list_models()}
    assert list(listed) == list(MODELS)
    for name, info in listed.items():
        assert hub.resolve(info.short) == name
        assert info.gives.startswith("metres") == (MODELS[name].max_depth_m is not None)
        assert info.place in ("bundled", "cached", "to fetch", hub.UNPUBLISHED.get(name))
    assert listed["depth-anything-v2-small"].licence == "Apache-2.0" and listed["tiny"].place == "bundled"
    assert "CC-BY-NC-4.0" in listed["depth-anything-v2-large"].licence
    assert listed["depth-anything-v2-metric-outdoor-base"].gives == "metres, to 80"


@pytest.mark.parametrize("name, message", [("v2-giant", "not released"), ("v2-smal", "Did you mean")])
def test_what_cannot_be_fetched_says_why(name, message):
    with pytest.raises(DatoolError, match=message):
        get_model(name, lambda line: None)


def test_the_bundled_model_needs_no_fetching():
    with pytest.raises(DatoolError, match="comes with datool"):
        get_model("tiny", lambda line: None)
