"""How far rows are from N(0, I), along directions or by a radial kernel of pairs."""
