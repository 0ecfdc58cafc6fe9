"""The warning that node packs have replaced code of ComfyUI's in this process: the worker runs ComfyUI's own."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from .. import node_lines
from ..remote_state import record_of
from . import code_origin
from .network_parts import Change

logger = logging.getLogger(__name__)

# The most names that a node shows of each pack; the log has all of them.
_SHOWN = 3


def warn_of_foreign(model: Any, *, whole_loop: bool = False) -> None:
    """Warn, in the log and on the running node, of packs that have replaced code which the worker runs.

    Args:
        model: the ComfyUI model, whose network is remote.
        whole_loop: whether the worker also runs the sampling loop.
    """
    warn_of_foreign_code(
        [*model.diffusion_model.foreign, *(record_of(model).as_loaded.foreign if whole_loop else ())]
    )


def warn_of_foreign_code(found: Iterable[Change]) -> None:
    """Warn, in the log and on the running node, of names that packs have replaced; say nothing of none."""
    by_pack: dict[str, list[str]] = {}
    for change in found:
        pack = (code_origin.name_of(change.value) or "a node pack").partition(":")[0]
        by_pack.setdefault(pack, []).append(change.part)
    if not by_pack:
        return
    logger.warning("%s", _text(by_pack, None))
    node_lines.show(_text(by_pack, _SHOWN))


def _text(by_pack: dict[str, list[str]], most: int | None) -> str:
    packs = "; ".join(f"{pack} ({node_lines.listed(names, most)})" for pack, names in by_pack.items())
    return (
        f"Node packs have replaced code of ComfyUI's that this model runs: {packs}. The worker runs ComfyUI's own "
        "code, so these changes have no effect there."
    )
