"""Measured steps and jobs of a trained model (see mosaic.py) with each compression setting, for predictions."""

from __future__ import annotations

import statistics
from dataclasses import replace
from time import perf_counter

import torch

from comfy_gpu_offload.client.encoding.step_time import EncodingKind
from comfy_gpu_offload.client.session import Session, SessionOptions
from comfy_gpu_offload.tuning.encoding_costs import SETTLING, WAYS, Shape
from comfy_gpu_offload.tuning.step_prediction import OF_CHOICE
from each_step_runs import follow, session_over


def options_of(choice: str) -> SessionOptions:
    """Return a session's options with that setting, at a worker that is taken for one elsewhere."""
    options = WAYS[OF_CHOICE[choice][-1]]
    return replace(options, begin_with=EncodingKind.PREDICTED) if choice == "auto" else options


def session_with(choice: str, port: int) -> Session:
    """Return a session with that setting, over a link."""
    return session_over(port, options_of(choice))


def measured_step_s(choice: str, port: int, shape: Shape) -> float:
    """Return the seconds of a step, by a run."""
    with session_with(choice, port) as session:
        run = follow(session, shape.latent, shape.dtype, {}, steps=shape.measured_steps, seed=shape.seed)
        return statistics.median(run.times[SETTLING:])


def measured_whole_s(choice: str, port: int, shape: Shape) -> float:
    """Return the seconds of a step of a run that is one job, by one."""
    begun = torch.zeros if shape.begins_empty else torch.randn
    job = {"latent": begun(1, *shape.latent[1:]), "positive": [], "negative": []}
    fields = {"sampler": "euler", "scheduler": "simple", "seed": 0, "steps": shape.steps, "cfg": 1.0}
    with session_with(choice, port) as session:
        model = session.model("echo")
        started = perf_counter()
        model.sample(fields, job)
        return (perf_counter() - started) / shape.steps
