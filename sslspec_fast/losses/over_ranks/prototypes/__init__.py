"""The losses over prototypes, over ranks, and what a teacher adds to its logits."""
