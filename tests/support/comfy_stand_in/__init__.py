"""A small stand-in for a ComfyUI checkout, and the fixture that makes it importable for the tests of one file.

`checkout/` is laid out as ComfyUI is. It has those classes and functions of ComfyUI that the package calls, with
the same names, arguments and effects, on models of two weights. Differences between ComfyUI's releases, and
equality bit for bit, are tested in real checkouts: `tests/comfyui/test_*.py`.
"""
