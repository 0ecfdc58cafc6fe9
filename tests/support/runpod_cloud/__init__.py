"""A stand-in for RunPod on this machine: its REST API, GraphQL and proxy, with real workers in its pods."""

from .cloud import RunpodCloud as RunpodCloud
from .plan import Capacity as Capacity
from .plan import PodPlan as PodPlan
