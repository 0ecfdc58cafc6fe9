"""FreeU, reduced to a factor."""

from typing import Any


class FreeU:
    """Scales what a block gives."""

    def patch(self, model: Any, b1: float) -> tuple[Any]:
        """Put the patch on a clone of the model."""

        def output_block_patch(h: Any, hsp: Any, transformer_options: Any) -> tuple[Any, Any]:
            return h * transformer_options.get("factor", b1), hsp

        made = model.clone()
        patches = made.model_options["transformer_options"].setdefault("patches", {})
        patches.setdefault("output_block_patch", []).append(output_block_patch)
        return (made,)
