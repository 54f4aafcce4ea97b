"""Laws of ``--set`` and ``I/N``: both forms of a value are one value, in recipes and in protocols alike."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from datool.cli import app
from datool.data.batches.augment import Augmentation
from datool.errors import DatoolError
from datool.evaluation import protocols
from datool.evaluation.protocols import PROTOCOLS
from datool.settings import as_text, changed, check_part, split
from datool.training import recipes
from datool.training.recipes import RECIPES


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        (("betas=0.9,0.99", "betas=[0.9,0.99]", "betas= 0.9, 0.99 "), (0.9, 0.99)),
        (("labelled=irs", 'labelled=["irs"]', 'labelled="irs"'), ("irs",)),
        (("labelled=irs,vkitti2", 'labelled=["irs", "vkitti2"]'), ("irs", "vkitti2")),
        (("labelled=", "labelled=[]"), ()),
        (("size_px=518,686", "size_px=[518,686]"), (518, 686)),
        (("sizes=[[0,224,288]]",), ((0.0, 224, 288),)),
        (("ssi=median", 'ssi="median"'), "median"),
        (("clip=1", "clip=1.0", "clip=1e0"), 1.0),
        (("compile=true", "compile=True"), True),
        (("augment=null", "augment=none"), None),
        (("augment={}",), Augmentation()),
    ],
)
def test_both_forms_set_a_recipe(texts, value):
    name = texts[0].partition("=")[0]
    for text in texts:
        assert getattr(recipes.override(RECIPES["student-v2"], [text]), name) == value, text


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        (("metrics=abs_rel,delta1", 'metrics=["abs_rel","delta1"]'), ("abs_rel", "delta1")),
        (("far=10", "far=10.0", "far=1e1"), 10.0),
        (("far=inf", "far=Infinity"), math.inf),
        (("crop=garg", 'crop="garg"'), "garg"),
        (("closed=true", "closed=TRUE"), True),
    ],
)
def test_both_forms_set_a_protocol_and_are_one_protocol(texts, value):
    found = [protocols.override(PROTOCOLS["lsq-disparity"], dict([split(text)])) for text in texts]
    assert all(getattr(one, texts[0].partition("=")[0]) == value for one in found)
    assert len({one.sha256 for one in found}) == len({one.name for one in found}) == 1


@given(st.sampled_from(sorted(RECIPES)), st.sampled_from([field.name for field in fields(recipes.Recipe)]))
def test_every_field_of_every_recipe_is_set_to_itself_by_its_json(name, field):
    recipe = RECIPES[name]
    assert recipes.override(recipe, [f"{field}={json.dumps(asdict(recipe)[field])}"]) == recipe


@given(
    st.sampled_from(sorted(PROTOCOLS)), st.sampled_from([each for each in asdict(PROTOCOLS["midas"]) if each != "name"])
)
def test_every_field_of_every_protocol_is_set_to_itself_by_its_text(name, field):
    protocol = PROTOCOLS[name]
    again = protocols.override(protocol, {field: as_text(getattr(protocol, field))})
    assert again.sha256 == protocol.sha256


def test_fields_are_checked_together():
    near = {"near": "90", "far": "100"}  # near alone would be beyond far
    assert protocols.override(PROTOCOLS["lsq-disparity"], near).near == 90


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("betas=0.9", r"expected \[float, float\], such as 0.9,0.99"),
        ("betas=[0.9", "not a value of betas"),
        ("betas=a,b", "not a value of betas"),
        ("steps=1,2", "not a value of steps, expected int, such as 480000"),
        ("lr_head=nan", "expected float"),
        ("compile=1", "is bool, got 1"),
        ("compile=yes", "expected bool, such as false"),
        ("augment=often", "expected an object or null"),
        ("augment.blur=much", "not a value of blur, expected float"),
        ("=3", "expected key=value"),
        ("betaz=1,2", "Did you mean 'betas'"),
    ],
)
def test_a_wrong_value_says_what_was_expected(setting, said):
    with pytest.raises(DatoolError, match=said):
        changed(RECIPES["student-v2"], [split(setting)], "recipe field")


def test_parts_are_counted_from_zero():
    for number in range(4):
        check_part((number, 4), "--shard")
    for part in ((4, 4), (5, 4), (-1, 4)):
        with pytest.raises(DatoolError, match="counted from 0: 0/4 to 3/4"):
            check_part(part, "--shard")
    for part in ((1, 1), (0, 0)):
        with pytest.raises(DatoolError, match="cannot be"):
            check_part(part, "--worker")


# The commands


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "--manifest", "m.jsonl", "--model", "tiny", "--shard"],
        ["pseudo-label", "photos", "--out", "out", "--model", "tiny", "--worker"],
    ],
    ids=lambda it: it[0],
)
def test_parts_are_counted_alike_in_every_command(arguments):
    last = run(*arguments, "4/4")
    assert last.exit_code == 2 and "counted from 0: 0/4 to 3/4" in " ".join(last.stderr.split())
    assert "expected I/N" in run(*arguments, "half").stderr
    good = run(*arguments, "3/4")
    assert good.exit_code == 1 and "counted" not in good.stderr  # what it lacks are files


def test_both_forms_reach_the_recipe_of_a_command(tmp_path):
    sets = [word for text in ("betas=0.9,0.95", "cutmix_area=[0, 0.5]") for word in ("--set", text)]
    done = run("train-teacher", "--recipe", "nano", "--out", str(tmp_path / "out"), "--dry-run", "--json", *sets)
    assert done.exit_code == 0, done.output
    recipe = json.loads(done.stdout)["recipe"]
    assert recipe["betas"] == [0.9, 0.95] and recipe["cutmix_area"] == [0.0, 0.5]


def test_a_wrong_set_is_told_alike_in_every_command(tmp_path):
    commands = (["eval", "--manifest", "m"], ["train-teacher", "--out", str(tmp_path / "out")])
    for command in commands:
        done = run(*command, "--set", "far")
        assert done.exit_code == 2 and "expected KEY=VALUE" in done.stderr
