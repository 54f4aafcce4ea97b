"""The network equals the independent one in transformers, once that one has DINOv2's own position rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datool.depth import Ambiguity, Quantity
from datool.errors import DatoolError
from datool.models.depth_anything import DepthAnything, build_model
from datool.models.encoders import ENCODERS, ViTEncoder
from datool.models.specs import MODELS, ModelSpec

HEADS = {384: 6, 768: 12, 1024: 16, 1536: 24}
SMALL, V1 = "depth-anything-v2-small", "depth-anything-v1-small"
METRIC, GIANT = "depth-anything-v2-metric-indoor-small", "giant, 4 blocks"
SIZES = [(518, 518), (518, 686), (266, 378), (784, 518)]


def error(ours: Tensor, theirs: Tensor) -> float:
    """Distance over the spread of the truth: random heads are nearly constant, so the mean must not count."""
    return float((ours - theirs).norm() / (theirs - theirs.mean()).norm())


def randomise(model: DepthAnything, seed: int = 0) -> DepthAnything:
    """Weights with which every block counts (LayerScale about 1) and the output varies and stays above zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("gamma"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif "norm" in name and name.endswith("weight"):
                tensor.uniform_(0.8, 1.2, generator=generator)
            elif name.endswith(("pos_embed", "cls_token")):
                tensor.normal_(0, 0.3, generator=generator)
            elif name.endswith("bias"):
                tensor.normal_(0, 0.05, generator=generator)
            else:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    return model.eval()


def scale_output(model: DepthAnything, image: Tensor) -> None:
    """Shift and scale the last layer so that its values spread by 1 for this image: around 3, or 0 before a sigmoid."""
    last = model.head.output2
    seen: list[Tensor] = []
    hook = last[2].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.inference_mode():
        model(image)
    hook.remove()
    with torch.no_grad():
        gain = 1 / float(seen[0].std())
        last[2].weight.mul_(gain)
        last[2].bias.copy_(gain * (last[2].bias - seen[0].mean()))
        last[2].bias.add_(3 if model.spec.max_depth_m is None else 0)


def in_transformers(model: DepthAnything) -> nn.Module:
    """The same weights in transformers' DepthAnythingForDepthEstimation, by names written out here."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    row, encoder = model.spec, model.encoder.spec
    giant = encoder.timm_name.startswith("vit_giant")
    blocks = len(model.encoder.vit.blocks)
    with torch.device("meta"):
        theirs = DepthAnythingForDepthEstimation(
            DepthAnythingConfig(
                backbone_config=Dinov2Config(
                    hidden_size=encoder.width,
                    num_hidden_layers=blocks,
                    num_attention_heads=HEADS[encoder.width],
                    image_size=518,
                    patch_size=14,
                    use_swiglu_ffn=giant,
                    out_indices=[tap + 1 for tap in row.taps],
                    apply_layernorm=True,
                    reshape_hidden_states=False,
                ),
                patch_size=14,
                reassemble_hidden_size=encoder.width,
                neck_hidden_sizes=list(row.channels),
                fusion_hidden_size=row.features,
                depth_estimation_type="relative" if row.max_depth_m is None else "metric",
                max_depth=int(row.max_depth_m or 1),
            )
        ).eval()
    ours = model.state_dict()
    state: dict[str, Tensor] = {
        "backbone.embeddings.cls_token": ours["encoder.vit.cls_token"],
        "backbone.embeddings.position_embeddings": ours["encoder.vit.pos_embed"],
    }
    pairs = {
        "encoder.vit.patch_embed.proj": "backbone.embeddings.patch_embeddings.projection",
        "encoder.vit.norm": "backbone.layernorm",
        "head.output1": "head.conv1",
        "head.output2.0": "head.conv2",
        "head.output2.2": "head.conv3",
    }
    newer = "backbone.encoder.layer.0.attention.q_proj.weight" in theirs.state_dict()
    for block in range(blocks):
        mine, other = f"encoder.vit.blocks.{block}", f"backbone.encoder.layer.{block}"
        pairs |= {f"{mine}.norm1": f"{other}.norm1", f"{mine}.norm2": f"{other}.norm2"}
        pairs[f"{mine}.attn.proj"] = f"{other}.attention.{'o_proj' if newer else 'output.dense'}"
        state[f"{other}.layer_scale1.lambda1"] = ours[f"{mine}.ls1.gamma"]
        state[f"{other}.layer_scale2.lambda1"] = ours[f"{mine}.ls2.gamma"]
        names = ("q_proj", "k_proj", "v_proj") if newer else ("attention.query", "attention.key", "attention.value")
        for kind in ("weight", "bias"):
            for name, part in zip(names, ours[f"{mine}.attn.qkv.{kind}"].chunk(3), strict=True):
                state[f"{other}.attention.{name}.{kind}"] = part
            if giant and newer:  # gate before value, in one tensor in every published file
                gate, value = ours[f"{mine}.mlp.fc1.{kind}"].chunk(2)
                state |= {f"{other}.mlp.gate_proj.{kind}": gate, f"{other}.mlp.up_proj.{kind}": value}
        if not (giant and newer):
            pairs[f"{mine}.mlp.fc1"] = f"{other}.mlp.{'weights_in' if giant else 'fc1'}"
        down = ("down_proj" if newer else "weights_out") if giant else "fc2"
        pairs[f"{mine}.mlp.fc2"] = f"{other}.mlp.{down}"
    for level in range(4):
        pairs[f"head.projects.{level}"] = f"neck.reassemble_stage.layers.{level}.projection"
        pairs[f"head.resizes.{level}"] = f"neck.reassemble_stage.layers.{level}.resize"
        pairs[f"head.adapts.{level}"] = f"neck.convs.{level}"
        fusion = f"neck.fusion_stage.layers.{3 - level}"
        pairs[f"head.fusions.{level}.project"] = f"{fusion}.projection"
        for unit in (1, 2):
            for conv in (1, 2):
                mine = f"head.fusions.{level}.unit{unit}.conv{conv}"
                pairs[mine] = f"{fusion}.residual_layer{unit}.convolution{conv}"
    for mine, other in pairs.items():
        for kind in ("weight", "bias"):
            if f"{mine}.{kind}" in ours:
                state[f"{other}.{kind}"] = ours[f"{mine}.{kind}"]
    unused = ("backbone.embeddings.mask_token", "neck.fusion_stage.layers.0.residual_layer1.")
    wanted = theirs.state_dict()
    state |= {key: torch.full(wanted[key].shape, torch.nan) for key in wanted if key.startswith(unused)}
    theirs.load_state_dict({key: tensor.clone() for key, tensor in state.items()}, assign=True)
    assert not any(tensor.is_meta for tensor in (*theirs.parameters(), *theirs.buffers()))
    return theirs


def published_rule(self: nn.Module, embeddings: Tensor, height: int, width: int) -> Tensor:
    """DINOv2's ``interpolate_pos_encoding`` (offset 0.1, no antialias) for transformers' Dinov2Embeddings."""
    table = self.position_embeddings
    rows, columns = height // 14, width // 14
    if (rows, columns) == (37, 37):
        return table
    grid = table[:, 1:].view(1, 37, 37, -1).movedim(-1, 1)
    grid = F.interpolate(grid, scale_factor=((rows + 0.1) / 37, (columns + 0.1) / 37), mode="bicubic")
    assert grid.shape[-2:] == (rows, columns)
    return torch.cat([table[:, :1], grid.movedim(1, -1).flatten(1, 2)], 1)


@pytest.fixture
def dinov2_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

    monkeypatch.setattr(Dinov2Embeddings, "interpolate_pos_encoding", published_rule)


@pytest.fixture(scope="module")
def twins() -> Callable[[str], tuple[DepthAnything, nn.Module]]:
    """Each pair is built once: (ours, transformers') with the same random weights."""
    made: dict[str, tuple[DepthAnything, nn.Module]] = {}

    def pair(name: str) -> tuple[DepthAnything, nn.Module]:
        if name not in made:
            with torch.device("meta"):
                model = four_blocks() if name == GIANT else build_model(name)
            randomise(model.to_empty(device="cpu"))
            scale_output(model, photo((140, 196)))
            made[name] = (model, in_transformers(model))
        return made[name]

    return pair


def four_blocks() -> DepthAnything:
    """Giant in all but depth: width 1536, 24 heads, SwiGLU, the head's full size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "giant-4", replace(ENCODERS["dinov2-giant"], num_blocks=4, options={"depth": 4}))
        return DepthAnything(replace(MODELS["depth-anything-v2-giant"], encoder="giant-4", taps=(0, 1, 2, 3)))


def photo(size: tuple[int, int]) -> Tensor:
    """Normalised image with structure at several scales."""
    generator = torch.Generator().manual_seed(1)
    layers = [torch.randn(1, 3, n, n, generator=generator) for n in (3, 9, 40)]
    return torch.stack([F.interpolate(layer, size, mode="bicubic") for layer in layers]).sum(0)


CASES = [
    *((SMALL, size) for size in SIZES[1:3]),  # 518 x 518 too, in the test of the position rule
    pytest.param(SMALL, SIZES[3], marks=pytest.mark.slow),
    (METRIC, SIZES[2]),
    (V1, SIZES[2]),
    (GIANT, (154, 98)),
    (GIANT, SIZES[2]),
    *(pytest.param(GIANT, size, marks=pytest.mark.slow) for size in (SIZES[0], SIZES[1], SIZES[3])),
    *(pytest.param(name, size, marks=pytest.mark.slow) for name in (METRIC, V1) for size in (SIZES[1], SIZES[3])),
]


@pytest.mark.usefixtures("dinov2_positions")
@pytest.mark.parametrize(("name", "size"), CASES)
def test_same_depth_as_transformers(name: str, size: tuple[int, int], twins: Callable) -> None:
    ours, theirs = twins(name)
    image = photo(size)
    with torch.inference_mode():
        got, expected = ours(image), theirs(image).predicted_depth
    assert got.shape == expected.shape == (1, *size)
    assert expected.std() > 0.05 * expected.mean() > 0, "nearly constant: nothing would be proved"
    assert error(got, expected) < 1e-4


def test_positions_by_size_give_another_depth(twins: Callable) -> None:
    """Why there is a position rule: transformers' own is percents off wherever the grid is not 37 x 37."""
    ours, theirs = twins(SMALL)
    with torch.inference_mode():
        off = error(theirs(photo((266, 378))).predicted_depth, ours(photo((266, 378))))
        same = error(theirs(photo((518, 518))).predicted_depth, ours(photo((518, 518))))
    assert off > 0.01
    assert same < 1e-4


def test_wrong_taps_give_another_depth(twins: Callable) -> None:
    """V1 and V2 differ in taps alone; a file loaded as the other version is wrong, not a little off."""
    v2, _ = twins(SMALL)
    v1 = build_model(V1)
    v1.load_state_dict(v2.state_dict())
    with torch.inference_mode():
        assert error(v1.eval()(photo((140, 196))), v2(photo((140, 196)))) > 0.1


def test_every_row_is_consistent() -> None:
    for name, row in MODELS.items():
        encoder = ENCODERS[row.encoder]
        assert len(set(row.taps)) == 4 and list(row.taps) == sorted(row.taps), name
        assert row.taps[-1] == encoder.num_blocks - 1, name
        assert row.size_px % encoder.patch_px == 0, name
        assert (row.quantity, row.ambiguity) in {
            (Quantity.DISPARITY, Ambiguity.SCALE_AND_SHIFT),
            (Quantity.DEPTH, Ambiguity.NONE),
        }
        assert (row.quantity is Quantity.DEPTH) == ("metric" in name)
        with torch.device("meta"):
            model = DepthAnything(row)
        if encoder.pyramid:
            assert tuple(model.encoder.net.feature_info.channels()) == encoder.pyramid, name
            assert encoder.width == encoder.pyramid[-1] and encoder.num_blocks == len(encoder.pyramid), name
        else:
            assert model.encoder.vit.embed_dim == encoder.width, name
            assert len(model.encoder.vit.blocks) == encoder.num_blocks, name
        stored = model.state_dict()
        assert all(key in stored for key, _ in model.named_buffers()), "it would stay on meta when weights are loaded"


@pytest.mark.parametrize("max_depth_m", [None, 20.0])
def test_output_stays_in_range(max_depth_m: float | None) -> None:
    torch.manual_seed(0)
    model = DepthAnything(ModelSpec("nano", 16, (16, 16, 32, 32), (0, 1, 2, 3), max_depth_m)).eval()
    with torch.inference_mode():
        pred, tokens = model(torch.randn(2, 3, 98, 126), features=True)
    assert pred.shape == (2, 98, 126)
    assert tokens.shape == (2, 64, 7, 9)
    assert pred.min() >= 0
    assert max_depth_m is None or pred.max() <= max_depth_m


def test_batch_equals_one_by_one() -> None:
    torch.manual_seed(0)
    model = randomise(build_model("nano"))
    images = torch.randn(3, 3, 112, 84)
    with torch.inference_mode():
        together = model(images)
        apart = torch.cat([model(image[None]) for image in images])
    assert error(together, apart) < 1e-5


def test_unknown_row_is_named() -> None:
    with pytest.raises(DatoolError, match="depth-anything-v2-small"):
        build_model("depth-anything-v2-smal")


def test_encoder_alone_gives_normalised_taps() -> None:
    torch.manual_seed(0)
    encoder = ViTEncoder(ENCODERS["nano"]).eval()
    with torch.inference_mode():
        maps = encoder(torch.randn(1, 3, 112, 112), (1, 3))
    assert [tuple(tokens.shape) for tokens in maps] == [(1, 64, 8, 8)] * 2
    for tokens in maps:
        assert torch.allclose(tokens.mean(1), torch.zeros(1, 8, 8), atol=1e-5)
