"""Architecture families of timm, one small variant each, for `scripts/model_sweep.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family by its smallest variant that is quick on one core."""

    name: str
    """Module of timm that implements it."""
    model: str
    """As `timm.create_model` knows it; weights are random."""
    size: int = 64
    """Height and width of an image, in pixels."""
    arguments: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """Passed to `create_model`: fewer layers, and the image size where it is a part of the model."""


def _family(name: str, model: str, size: int = 64, **arguments: object) -> Family:
    return Family(name=name, model=model, size=size, arguments=MappingProxyType(arguments))


def _sized(name: str, model: str, size: int = 64, **arguments: object) -> Family:
    """A family whose variants are built for one image size."""
    return _family(name, model, size, img_size=size, **arguments)


FAMILIES = (
    _sized("beit", "beit_base_patch16_224", embed_dim=48, depth=2, num_heads=3),
    _family("byoanet", "lambda_resnet26t"),
    _family("byobnet", "mobileone_s0"),
    _sized("cait", "cait_xxs24_224", depth=2, embed_dim=48, num_heads=4),
    _sized("coat", "coat_lite_tiny", serial_depths=(1, 1, 1, 1)),
    _sized("convit", "convit_tiny", depth=2, embed_dim=12, local_up_to_layer=1),
    _family("convmixer", "convmixer_768_32", 28),
    _family("convnext", "convnext_atto", depths=(1, 1, 1, 1)),
    _family("cpubone", "cpubone_nano"),
    _sized("crossvit", "crossvit_tiny_240", 240),
    _family("csatv2", "csatv2", 128),
    _family("cspnet", "cs3darknet_s"),
    _family("cspnext", "cspnext_tiny"),
    _family("davit", "davit_tiny", depths=(1, 1, 1, 1), embed_dims=(24, 24, 48, 48), num_heads=(3, 3, 6, 6)),
    _sized("deit", "deit_tiny_distilled_patch16_224", depth=2, embed_dim=48),
    _family("densenet", "densenet121", block_config=(2, 2, 2, 2), growth_rate=8),
    _family("dla", "dla46_c"),
    _family("dpn", "dpn48b"),
    _family("edgenext", "edgenext_xx_small"),
    _sized("efficientformer", "efficientformer_l1", 224),
    _sized("efficientformer_v2", "efficientformerv2_s0", 64),
    _family("efficientnet", "mnasnet_small"),
    _family("efficientvim", "efficientvim_m1", 128),
    _family("efficientvit_mit", "efficientvit_b0"),
    _sized("efficientvit_msra", "efficientvit_m0", 224),
    _sized("eva", "eva02_tiny_patch14_224", 56, depth=2, embed_dim=48),
    _family("fasternet", "fasternet_t0"),
    _family("fastvit", "fastvit_t8", layers=(1, 1, 1, 1)),
    _family("focalnet", "focalnet_tiny_srf"),
    _sized("gcvit", "gcvit_xxtiny", 128),
    _family("ghostnet", "ghostnet_050"),
    _family("hardcorenas", "hardcorenas_a"),
    _family("hgnet", "hgnetv2_b0"),
    _sized("hiera", "hiera_tiny_224", stages=(1, 1, 1, 1), embed_dim=48),
    _family("hrnet", "hrnet_w18_small"),
    _family("iformer", "iformer_t"),
    _family("inception_next", "inception_next_atto", depths=(1, 1, 1, 1)),
    _family("inception_v3", "inception_v3", 96),
    _family("lcnetv2", "lcnetv2_small"),
    _family("levit", "levit_128s", 224),
    _family("lowformer", "lowformer_b0"),
    _family("mambaout", "mambaout_femto", depths=(1, 1, 1, 1)),
    _family("maxxvit", "test_maxvit", 64, img_size=64),
    _family("metaformer", "poolformerv2_s12"),
    _sized("mlp_mixer", "mixer_s32_224"),
    _family("mobilenetv3", "mobilenetv3_small_050"),
    _family("mobilevit", "mobilevit_xxs"),
    _sized("mvitv2", "mvitv2_tiny"),
    _sized("nest", "nest_tiny"),
    _family("nextvit", "nextvit_small"),
    _family("nfnet", "test_nfnet"),
    _sized("pit", "pit_ti_224"),
    _family("pvt_v2", "pvt_v2_b0", depths=(1, 1, 1, 1)),
    _family("rdnet", "rdnet_tiny"),
    _family("regnet", "regnetx_002"),
    _family("repghost", "repghostnet_050"),
    _family("repvit", "repvit_m0_9"),
    _family("res2net", "res2net50d", layers=(1, 1, 1, 1)),
    _family("resnest", "resnest14d"),
    _family("resnet", "resnet10t", channels=(16, 16, 32, 32), stem_width=16),
    _family("resnetv2", "resnetv2_50", layers=(1, 1, 1, 1)),
    _family("rexnet", "rexnet_100"),
    _family("selecsls", "selecsls42"),
    _family("senet", "legacy_seresnet18"),
    _sized(
        "sequencer",
        "sequencer2d_s",
        56,
        layers=(1, 1, 1, 1),
        embed_dims=(24, 48, 48, 48),
        hidden_sizes=(6, 12, 12, 12),
    ),
    _family("shvit", "shvit_s1", 128),
    _family("sknet", "skresnet18"),
    _family("starnet", "starnet_s050"),
    _family("swiftformer", "swiftformer_xs"),
    _sized(
        "swin_transformer", "swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), embed_dim=24, window_size=4
    ),
    _sized(
        "swin_transformer_v2", "swinv2_tiny_window8_256", depths=(1, 1, 1, 1), embed_dim=24, window_size=4
    ),
    _sized("swin_transformer_v2_cr", "swinv2_cr_tiny_224", depths=(1, 1, 1, 1), embed_dim=24),
    _family("tiny_vit", "tiny_vit_5m_224"),
    _sized("tnt", "tnt_s_patch16_224", depth=2, embed_dim=48, num_heads_outer=4),
    _family("tresnet", "tresnet_m", 64, layers=(1, 1, 1, 1), width_factor=0.25),
    _family("twins", "twins_svt_small", 224, depths=(1, 1, 1, 1), embed_dims=(16, 32, 64, 64)),
    _family("vgg", "vgg11", 32, mlp_ratio=0.05),
    _sized("visformer", "visformer_tiny", 64, embed_dim=48),
    _sized("vision_transformer", "vit_tiny_patch16_224", depth=2, embed_dim=48),
    _sized("vision_transformer_hybrid", "vit_tiny_r_s16_p8_224", depth=2, embed_dim=48),
    _sized("vision_transformer_relpos", "test_vit_relpos", 64),
    _sized("vision_transformer_sam", "samvit_base_patch16", 64, depth=2, embed_dim=48, num_heads=4),
    _sized("vitamin", "vitamin_small_224", 64),
    _sized("volo", "volo_d1_224"),
    _family("vovnet", "ese_vovnet19b_slim_dw"),
    _family("xception_aligned", "xception41", 64),
    _sized("xcit", "xcit_nano_12_p16_224", depth=2, embed_dim=48),
)
"""In alphabetical order; families whose smallest variant takes minutes on one core are absent."""

SMALL_FAMILIES = (
    "convmixer", "convnext", "densenet", "ghostnet", "mlp_mixer", "mobilenetv3", "resnet", "swin_transformer",
    "vision_transformer", "xcit",
)  # fmt: skip
"""Those that a test grows: ten kinds of layout and of forward pass."""
