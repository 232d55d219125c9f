"""The fused primitives, one folder per family of csrc; losses and solvers are composed of them."""
