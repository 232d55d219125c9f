"""The fused primitives, one module per csrc stem; losses and solvers are compositions of them."""
