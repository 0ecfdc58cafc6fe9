"""Parts that many tests share: backends, workers, proxies, stand-ins for RunPod, tensors and frames."""
