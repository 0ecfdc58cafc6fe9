"""The bundled digits model: a small SD3 transformer, its weights and its sampler.

It is a real diffusion model of 1.1 M parameters which needs no download, so that the demo, the tests and
the codec measurements all end in pictures. `benchmarks/train_digits.py` trained it. Importing this package
imports none of its modules. An installation may lack the whole folder: all else works without it.
"""
