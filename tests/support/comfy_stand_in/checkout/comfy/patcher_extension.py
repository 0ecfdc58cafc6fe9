"""Wrappers around parts of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class WrappersMP:
    """Places for wrappers."""

    OUTER_SAMPLE = "outer_sample"
    DIFFUSION_MODEL = "diffusion_model"


def get_all_wrappers(wrapper_type: str, transformer_options: dict[str, Any]) -> list[Callable[..., Any]]:
    """Return the wrappers for one place, whoever's they are."""
    by_key = transformer_options.get("wrappers", {}).get(wrapper_type, {})
    return [wrapper for wrappers in by_key.values() for wrapper in wrappers]


class WrapperExecutor:
    """A function with wrappers around it, each of which may call the next one."""

    def __init__(self, original: Any, class_obj: Any, wrappers: list[Any], idx: int) -> None:
        self.original, self.class_obj, self.wrappers, self.idx = original, class_obj, wrappers, idx

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the next wrapper, or the function."""
        return WrapperExecutor(self.original, self.class_obj, self.wrappers, self.idx + 1).execute(*args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Call the first wrapper, or the function."""
        if self.idx == len(self.wrappers):
            return self.original(*args, **kwargs)
        return self.wrappers[self.idx](self, *args, **kwargs)

    @classmethod
    def new_class_executor(cls, original: Any, class_obj: Any, wrappers: list[Any]) -> WrapperExecutor:
        """Return an executor for a method of `class_obj`."""
        return cls(original, class_obj, wrappers, 0)
