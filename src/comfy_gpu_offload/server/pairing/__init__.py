"""A worker's pairing with other machines: certificate, tokens, and the lines that hold them."""
