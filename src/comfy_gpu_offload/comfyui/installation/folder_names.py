"""ComfyUI's names of folders that both ends speak of. Needs no ComfyUI."""

CONTROL_NET_FOLDER = "controlnet"
TEXT_ENCODER_FOLDER = "text_encoders"
CHECKPOINT_FOLDER = "checkpoints"
VAE_FOLDER = "vae"
APPROXIMATE_VAE_FOLDER = "vae_approx"
