"""Models of other projects: tiny random ones saved into folders, and plain functions. No network."""

import sys

import numpy as np
import pytest

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.estimators.rivals import Asked, is_rival, load_rival

CPU = Asked(device="cpu")
RELATIVE = (Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT)
METRES = (Quantity.DEPTH, Ambiguity.NONE)


def photo(height=40, width=61):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def dinov2():
    from transformers import Dinov2Config

    return Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        patch_size=14,
        image_size=56,
        out_indices=[1, 2, 3, 4],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )


def depth_anything(kind="relative"):
    import transformers as hf

    config = hf.DepthAnythingConfig(
        backbone_config=dinov2(),
        reassemble_hidden_size=32,
        patch_size=14,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1,
    )
    processor = hf.DPTImageProcessor(size={"height": 56, "width": 56}, ensure_multiple_of=14, keep_aspect_ratio=True)
    return hf.DepthAnythingForDepthEstimation(config), processor


def dpt():
    import transformers as hf

    config = hf.DPTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
    )
    return hf.DPTForDepthEstimation(config), hf.DPTImageProcessor(size={"height": 32, "width": 32})


def glpn():
    import transformers as hf

    config = hf.GLPNConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
    )
    return hf.GLPNForDepthEstimation(config), hf.GLPNImageProcessor()


def zoedepth():
    import transformers as hf

    backbone = hf.BeitConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=16,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = hf.ZoeDepthConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=8,
    )
    processor = hf.ZoeDepthImageProcessor(size={"height": 32, "width": 32})
    return hf.ZoeDepthForDepthEstimation(config), processor


@pytest.mark.parametrize(
    "make, meaning",
    [
        (depth_anything, RELATIVE),
        (lambda: depth_anything("metric"), METRES),
        (dpt, RELATIVE),
        (glpn, METRES),
        (zoedepth, METRES),
    ],
    ids=["depth_anything", "depth_anything metric", "dpt", "glpn", "zoedepth"],
)
def test_models_of_transformers_give_maps_of_the_photos_size_with_their_meaning(tmp_path, make, meaning):
    import torch

    torch.manual_seed(0)
    for part in make():
        part.save_pretrained(tmp_path)
    # What is given is for those that do not say.
    rival = load_rival(f"hf:{tmp_path}", Asked("cpu", "fp32", Quantity.DEPTH, Ambiguity.SCALE))
    (found,) = rival.predict([photo()])
    assert found.shape == (40, 61) and (found.quantity, found.ambiguity) == meaning
    (again,) = load_rival(f"hf:{tmp_path}", CPU).predict([photo()])
    np.testing.assert_array_equal(found.values, again.values)
    assert rival.identity.startswith(f"hf:{tmp_path} ")


def test_a_depth_anything_of_transformers_is_what_transformers_computes(tmp_path):
    import torch

    torch.manual_seed(0)
    model, processor = depth_anything()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (found,) = load_rival(f"hf:{tmp_path}", CPU).predict([photo()])
    with torch.inference_mode():
        outputs = model.eval()(**processor(images=photo(), return_tensors="pt", input_data_format="channels_last"))
    wanted = processor.post_process_depth_estimation(outputs, [(40, 61)])[0]["predicted_depth"]
    np.testing.assert_allclose(found.values, wanted.numpy(), atol=1e-6)


def marigold(folder):
    import json

    import diffusers
    import torch
    import transformers as hf

    torch.manual_seed(0)
    (folder / "words").mkdir()
    words = ["<|startoftext|>", "<|endoftext|>", "a", "a</w>"]
    (folder / "words/vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "words/merges.txt").write_text("#version: 0.2\n")
    pipe = diffusers.MarigoldDepthPipeline(
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=4,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=8,
        ),
        vae=diffusers.AutoencoderKL(
            block_out_channels=(16, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=16,
        ),
        scheduler=diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False, steps_offset=1),
        text_encoder=hf.CLIPTextModel(
            hf.CLIPTextConfig(
                vocab_size=4,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        ),
        tokenizer=hf.CLIPTokenizer(
            str(folder / "words/vocab.json"), str(folder / "words/merges.txt"), model_max_length=8
        ),
        prediction_type="depth",
        default_denoising_steps=1,
        default_processing_resolution=32,
    )
    pipe.save_pretrained(folder / "marigold")
    return f"marigold:{folder / 'marigold'}"


def test_marigold_gives_affine_depth_and_the_same_every_time(tmp_path):
    pytest.importorskip("diffusers")
    spec = marigold(tmp_path)
    (found,) = load_rival(spec, CPU).predict([photo()])
    assert found.shape == (40, 61)
    assert (found.quantity, found.ambiguity) == (Quantity.DEPTH, Ambiguity.SCALE_AND_SHIFT)
    (again,) = load_rival(spec, CPU).predict([photo()])
    np.testing.assert_array_equal(found.values, again.values)


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "mine_of_tests.py").write_text(
        "import numpy as np\nfrom datool.depth import *\n"
        "def red(image): return image[:, :, 0].astype(float) + 1\n"
        "def said(image): return DepthMap(red(image).astype(np.float32), Quantity.DEPTH, Ambiguity.SCALE)\n"
        "def flat(image): return image.ravel()[:5]\n"
        "def unknown(image): return image[:, :, 0] * np.nan\n"
        "NUMBER = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "python:mine_of_tests"
    sys.modules.pop("mine_of_tests", None)


def test_functions_are_taken_with_their_meaning(functions):
    given = Asked(quantity=Quantity.DISPARITY, ambiguity=Ambiguity.SCALE_AND_SHIFT)
    (found,) = load_rival(f"{functions}:red", given).predict([photo()])
    np.testing.assert_array_equal(found.values, photo()[:, :, 0] + np.float32(1))
    assert (found.quantity, found.ambiguity) == RELATIVE
    (said,) = load_rival(f"{functions}:said", CPU).predict([photo()])
    assert isinstance(said, DepthMap) and said.ambiguity is Ambiguity.SCALE


def test_what_is_wrong_with_a_rival_is_said(functions, tmp_path):
    given = Asked(quantity=Quantity.DISPARITY, ambiguity=Ambiguity.SCALE_AND_SHIFT)
    for spec, words in (
        ("python:no_such_module:f", "no module 'no_such_module'"),
        (f"{functions}:NUMBER", "is no function"),
        (f"{functions}", "is no function"),
        (f"hf:{tmp_path}", "no depth model"),
        (f"marigold:{tmp_path}", "no Marigold"),
    ):
        with pytest.raises(DatoolError, match=words):
            load_rival(spec, given)
    for name, asked, words in (
        ("red", CPU, "Give --quantity"),
        ("flat", given, r"expected \(H, W\)"),
        ("unknown", given, "undefined"),
    ):
        with pytest.raises(DatoolError, match=words):
            load_rival(f"{functions}:{name}", asked).predict([photo()])


def test_a_stream_tells_what_failed_in_its_place():
    from datool.estimators.rivals import Rival

    class Half(Rival):
        def estimate(self, image):
            return DepthMap(image[:, :, 0].astype(np.float32), *RELATIVE)

    def read(number):
        if number == 1:
            raise DatoolError("no photo 1.")
        return photo()

    found = list(Half("half").stream(range(3), read))
    assert [prediction.item for prediction in found] == [0, 1, 2]
    assert isinstance(found[1].result, DatoolError) and found[1].image_size is None
    assert found[2].result.shape == (40, 61)


def test_names_of_rivals():
    assert is_rival("hf:a/b") and is_rival("python:m:f") and is_rival("marigold:x")
    assert not is_rival("tiny") and not is_rival("C:/models") and not is_rival("hf")
