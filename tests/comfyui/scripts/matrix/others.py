"""Models of sound alone, or of shapes."""

from __future__ import annotations

from architecture import Architecture
from drawn import Drawn
from small_models import SmallModel

OTHERS = (
    Architecture(
        SmallModel(
            "StableAudio",
            {
                "io_channels": 64,
                "global_cond_dim": 1536,
                "project_cond_tokens": False,
                "embed_dim": 1536,
                "depth": 1,
                "timestep_features_type": "learned",
            },
            folder="checkpoints",
            prefix="model.model.",
            further={
                f"conditioner.conditioners.{part}.embedder.embedding.{name}": shape
                for part in ("seconds_start", "seconds_total")
                for name, shape in {"0.weights": (128,), "1.weight": (768, 257), "1.bias": (768,)}.items()
            },
        ),
        "audio",
        (1, 64, 16),
        (7, 768),
        own={"seconds": {"seconds_start": 3, "seconds_total": 30}},
    ),
    Architecture(
        SmallModel(
            "StableAudio3",
            {
                "io_channels": 64,
                "global_cond_dim": 768,
                "project_cond_tokens": False,
                "embed_dim": 1536,
                "depth": 1,
                "timestep_features_type": "learned",
                "global_cond_type": "adaLN",
                "local_add_cond_dim": 65,
            },
            folder="checkpoints",
            prefix="model.model.",
            further={
                f"conditioner.conditioners.seconds_total.embedder.embedding.{name}": shape
                for name, shape in {"0.weights": (128,), "1.weight": (768, 257), "1.bias": (768,)}.items()
            },
        ),
        "audio",
        (1, 64, 16),
        (7, 768),
        own={"seconds": {"seconds_total": 30}},
    ),
    Architecture(
        SmallModel(
            "ACEStep15",
            {
                "hidden_size": 2048,
                "intermediate_size": 128,
                "num_heads": 8,
                "encoder_hidden_size": 2048,
                "encoder_num_heads": 8,
                "encoder_intermediate_size": 128,
                "num_dit_layers": 1,
            },
        ),
        "audio",
        (1, 64, 20),
        (7, 1024),
        {"conditioning_lyrics": Drawn(1, 5, 1024)},
        {"reference audio": {"reference_audio_timbre_latents": [Drawn(1, 64, 20)]}},
    ),
    Architecture(
        SmallModel(
            "Hunyuan3Dv2",
            {
                "in_channels": 64,
                "context_in_dim": 64,
                "hidden_size": 1024,
                "mlp_ratio": 4.0,
                "num_heads": 16,
                "depth": 1,
                "depth_single_blocks": 1,
                "qkv_bias": True,
                "guidance_embed": True,
            },
        ),
        "3D",
        (1, 64, 12),
        (7, 64),
        own={"guidance": {"guidance": 3.0}},
    ),
    Architecture(
        SmallModel(
            "Hunyuan3Dv2mini",
            {
                "in_channels": 64,
                "context_in_dim": 64,
                "hidden_size": 256,
                "mlp_ratio": 4.0,
                "num_heads": 16,
                "depth": 8,
                "depth_single_blocks": 1,
                "qkv_bias": True,
                "guidance_embed": False,
            },
        ),
        "3D",
        (1, 64, 12),
        (7, 64),
    ),
    Architecture(
        SmallModel(
            "Hunyuan3Dv2_1",
            {
                "in_channels": 64,
                "context_dim": 1024,
                "hidden_size": 256,
                "mlp_ratio": 4.0,
                "num_heads": 16,
                "depth": 7,
                "qkv_bias": False,
                "guidance_cond_proj_dim": None,
            },
        ),
        "3D",
        (1, 64, 12),
        (7, 1024),
    ),
)
