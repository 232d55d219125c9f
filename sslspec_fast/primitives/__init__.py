"""The fused primitives, one module per csrc stem; every loss and solver is a short composition of them."""
