"""The seconds and dollars of a picture over a given link: figures, and the arithmetic with them."""
