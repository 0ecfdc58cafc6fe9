"""RunPod's REST API, version 2: pods, serverless endpoints, volumes, prices and bills."""

from .client import RestClient as RestClient
