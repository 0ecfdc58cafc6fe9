"""The text encoder and the VAE that go with each architecture, by the names under which the tests compare them."""

from __future__ import annotations

from collections.abc import Mapping

# Of scripts/encoders/families.py, for the classes of `comfy.supported_models` whose encoder is among those.
ENCODERS: Mapping[str, str] = {
    **dict.fromkeys(("SD15", "SD15_instructpix2pix"), "CLIP-L"),
    **dict.fromkeys(("SDXL", "SDXL_instructpix2pix", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B"), "SDXL"),
    "SDXLRefiner": "CLIP-G",
    "SD3": "SD3 of three",
    **dict.fromkeys(("Flux", "FluxInpaint", "FluxSchnell"), "Flux"),
    "Chroma": "T5-XXL (Chroma)",
    **dict.fromkeys(("PixArtAlpha", "PixArtSigma"), "T5-XXL (PixArt)"),
    "Lumina2": "Gemma 2 (Lumina)",
    "QwenImage": "Qwen2.5-VL (Qwen-Image)",
    "Anima": "Qwen3 (Anima)",
    "HiDream": "HiDream of four",
    "LTXV": "T5-XXL (LTXV)",
    "LTXAV": "Gemma 3 (LTXAV)",
    **dict.fromkeys(("HunyuanVideo", "HunyuanVideoI2V", "HunyuanVideoSkyreelsI2V"), "Llama (HunyuanVideo)"),
    **dict.fromkeys(
        (
            *("WAN21_T2V", "WAN21_CausalAR_T2V", "WAN21_I2V", "WAN21_FunControl2V", "WAN21_Camera", "WAN21_Vace"),
            *("WAN22_Camera", "WAN22_S2V", "WAN22_T2V", "WAN21_FlowRVS", "WAN21_SCAIL", "WAN_Animate2"),
            *("WAN21_SCAIL2", "WAN22_WanDancer", "WAN21_HuMo", "WAN22_Animate"),
        ),
        "umT5 (Wan)",
    ),
    "ACEStep": "umT5 base (ACE-Step)",
    "ACEStep15": "Qwen3 of two (ACE-Step 1.5)",
}

# Of scripts/vaes/run.py.
_SD15 = ("SD15", "SD20", "SD21UnclipL", "SD21UnclipH", "Stable_Zero123", "SD15_instructpix2pix", "LotusD")
_SDXL = ("SDXL", "SDXLRefiner", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B", "SDXL_instructpix2pix")
_FLUX = ("Flux", "FluxInpaint", "FluxSchnell", "Chroma", "Lumina2", "ZImage", "HiDream", "LongCatImage", "SD3")
VAES: Mapping[str, str] = {
    **dict.fromkeys((*_SD15, *_SDXL, "AuraFlow", "PixArtAlpha", "PixArtSigma", "HunyuanDiT"), "sd15"),
    **dict.fromkeys(_FLUX, "flux"),
    **{name: "wan21" for name, family in ENCODERS.items() if family == "umT5 (Wan)"},
    **dict.fromkeys(("QwenImage", "CosmosT2IPredict2", "CosmosI2VPredict2", "Anima"), "wan21"),
    "WAN22_T2V": "wan22",
    **dict.fromkeys(("LTXV",), "ltxv"),
    "StableAudio": "oobleck",
}
