"""The losses of queries over ranks: InfoNCE with the keys of all ranks, and MoCo with a queue."""
