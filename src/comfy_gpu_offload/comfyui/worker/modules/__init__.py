"""The kinds of modules that a worker loads and calls, one in each file; `kinds.py` lists them."""
