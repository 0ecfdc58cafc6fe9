"""The bundled digits model: a small SD3 transformer, its weights, its sampler and how it was trained.

It is a real diffusion model of 1.1 M parameters which needs no download, so that the demo, the tests and
the codec measurements all end in pictures. Importing this package imports none of its modules.
"""
