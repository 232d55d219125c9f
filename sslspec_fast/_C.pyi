"""The compiled core: descriptors of _seam.view and plain numbers in, results written in place.

Shapes and dtypes are checked on the C++ side. Kept by hand; a test compares it with the module.
"""

from typing import Any

View = tuple[int, tuple[int, ...], tuple[int, ...], int, int, Any]
Maybe = View | None  # an optional argument

class CudaError(RuntimeError): ...

def isa() -> str: ...
def bf16_products() -> bool: ...
def cuda_archs() -> str: ...

# fmt: off
# ---- CPU kernels: csrc/*.h says what each argument is ----
def basis_gram_workspace_size(n: int, p: int, q: int, /) -> int: ...
def basis_gram(
    a: list[View], b: View, w: View | None, g: View, workspace: View, exact: bool, threads: int, /
) -> None: ...
def basis_combine(
    y: View, v: list[View], c: list[View], beta: float, threads: int, /
) -> None: ...
def basis_random(y: View, seed: int, threads: int, /) -> None: ...
def gram_uses_dual(n: int, d: int, off_diagonal: bool, /) -> bool: ...
def gram_workspace_size(
    n: int, d: int, dtype: int, operands: int, cross: bool, off_diagonal: bool, /
) -> int: ...
def gram(
    x: View, y: Maybe, cross: bool, off_diagonal: bool, project: bool, shift: Maybe,
    scale: Maybe, diagonal: Maybe, alpha: float, own: Maybe, other: Maybe, near: float,
    value: View, grad_x: Maybe, grad_y: Maybe, workspace: View, threads: int, /
) -> None: ...
def moments_workspace_size(n: int, d: int, operands: int, /) -> int: ...
def moments_forward(
    x: View, y: Maybe, mean: View, m2: View, workspace: View, threads: int, /
) -> None: ...
def moments_backward(
    x: View, mean: View, grad_mean: View, grad_var: View, grad_x: View, threads: int, /
) -> None: ...
def pairwise_workspace_size(
    n: int, m: int, d: int, dtype: int, symmetric: bool, backward: bool, /
) -> int: ...
def pairwise_forward(
    a: View, b: Maybe, scale: View, ids_a: Maybe, ids_b: Maybe, skip_indptr: Maybe,
    skip_indices: Maybe, skip_self: bool, row_lse: View, col_lse: Maybe, workspace: View,
    threads: int, /
) -> None: ...
def pairwise_backward(
    a: View, b: Maybe, scale: View, ids_a: Maybe, ids_b: Maybe, skip_indptr: Maybe,
    skip_indices: Maybe, skip_self: bool, row_lse: View, col_lse: Maybe, grad_row: View,
    grad_col: Maybe, grad_a: View, grad_b: Maybe, workspace: View, threads: int, /
) -> None: ...
def pairwise_sigmoid_forward(
    a: View, b: Maybe, scale: View, bias: View, skip_self: bool, row_sum: View, workspace: View,
    threads: int, /
) -> None: ...
def pairwise_sigmoid_backward(
    a: View, b: Maybe, scale: View, bias: View, skip_self: bool, grad_row: View,
    grad_bias: View, row_sum: Maybe, grad_a: View, grad_b: Maybe, workspace: View, threads: int, /
) -> None: ...
def pairwise_rows_panel_size(m: int, dtype: int, /) -> int: ...
def pairwise_rows(
    a: View, b: View, scale: View, skip_self: bool, positive: View, weight: View, rows: View,
    pull: View, grad_a: View, grad_b: Maybe, workspace: View, panel: View, threads: int, /
) -> None: ...
def pairwise_views_workspace_size(n: int, d: int, dtype: int, backward: bool, /) -> int: ...
def pairwise_views_forward(
    z1: View, z2: View, scale: View, u: View, norm: View, negatives: View, rows: View,
    workspace: View, threads: int, /
) -> None: ...
def pairwise_views_backward(
    scale: View, u: View, norm: View, negatives: View, grad: View, grad_z: View,
    grad_scale: View, workspace: View, threads: int, /
) -> None: ...
def pairwise_prefixes_workspace_size(
    n: int, m: int, d: int, prefixes: int, dtype: int, symmetric: bool, backward: bool, /
) -> int: ...
def pairwise_prefixes_forward(
    a: View, b: Maybe, dims: View, alpha: View, beta: Maybe, ids: Maybe,
    row_lse: View, col_lse: Maybe, workspace: View, threads: int, /
) -> None: ...
def pairwise_prefixes_backward(
    a: View, b: Maybe, dims: View, alpha: View, beta: Maybe, ids: Maybe,
    row_lse: View, col_lse: Maybe, grad_row: View, grad_col: Maybe, grad_a: View, grad_b: Maybe,
    grad_alpha: View, grad_beta: Maybe, workspace: View, threads: int, /
) -> None: ...
def spmm(
    indptr: View, indices: View, values: Maybe, x: View, own: Maybe, row_scale: Maybe,
    col_scale: Maybe, w: Maybe, diagonal: Maybe, y: View, add_scales: bool, alpha: float,
    beta: float, gamma: float, delta: float, threads: int, /
) -> None: ...
def edges(
    indptr: View, indices: View, values: Maybe, x: View, y: View, out: View, squared: bool,
    threads: int, /
) -> None: ...
def edge_values(
    indptr: View, indices: View, x: View, y: View, out: View, threads: int, /
) -> None: ...
def graph_cov_workspace_size(n: int, d: int, e: int, dtype: int, /) -> int: ...
def graph_cov(
    indptr: View, indices: View, values: Maybe, x: View, y: Maybe, out: View, workspace: View,
    threads: int, /
) -> None: ...
def graph_cov_apply_workspace_size(e: int, d: int, dtype: int, /) -> int: ...
def graph_cov_apply(
    indptr: View, indices: View, values: Maybe, y: View, mat: View, u: Maybe, v: Maybe,
    out: View, workspace: View, threads: int, /
) -> None: ...
def spectral_views_workspace_size(n: int, d: int, dtype: int, /) -> int: ...
def spectral_views(
    z1: View, z2: View, longest: float, attraction: float, repulsion: float, value: View,
    grad_1: Maybe, grad_2: Maybe, workspace: View, threads: int, /
) -> None: ...
def unit_rows_forward(
    z: list[View], longest: float, x: list[View], norm: list[View], dot: Maybe, threads: int, /
) -> None: ...
def unit_rows_backward(
    x: list[View], norm: list[View], longest: float, grad: list[View], grad_dot: Maybe,
    grad_z: list[View], threads: int, /
) -> None: ...
# ---- CUDA kernels: csrc/cuda/*.h; they raise CudaError in a build without CUDA ----
def cuda_pairwise_workspace(
    n: int, m: int, d: int, dtype: int, symmetric: bool, columns: bool, which: int, /
) -> int: ...
def cuda_pairwise_chained(d: int, dtype: int, device: int, /) -> bool: ...
def cuda_pairwise_forward(
    a: View, b: Maybe, scale: View, bias: Maybe, ids_a: Maybe, ids_b: Maybe, skip_indptr: Maybe,
    skip_indices: Maybe, skip_self: bool, row: View, col: Maybe, workspace: View, fast: bool,
    stream: int, /
) -> None: ...
def cuda_pairwise_backward(
    a: View, b: Maybe, scale: View, bias: Maybe, ids_a: Maybe, ids_b: Maybe, skip_indptr: Maybe,
    skip_indices: Maybe, skip_self: bool, row_lse: Maybe, col_lse: Maybe, grad_row: View,
    grad_col: Maybe, grad_a: View, grad_b: Maybe, row_dot: View, row_total: Maybe,
    workspace: View, fast: bool, stream: int, /
) -> None: ...
def cuda_pairwise_weights(
    a: View, b: Maybe, scale: View, bias: Maybe, ids_a: Maybe, ids_b: Maybe, skip_indptr: Maybe,
    skip_indices: Maybe, skip_self: bool, row_lse: Maybe, col_lse: Maybe, grad_row: View,
    grad_col: Maybe, row0: int, weights: View, workspace: View, fast: bool, stream: int, /
) -> None: ...
def cuda_gram_slabs(n: int, /) -> int: ...
def cuda_gram_pack(
    x: View, y: Maybe, shift: Maybe, scale: Maybe, cross: bool, x_out: View, y_out: Maybe,
    parts: Maybe, stream: int, /
) -> None: ...
def cuda_gram_finish(
    x: View, y: Maybe, which: int, shift: Maybe, scale: Maybe, made: View, diagonal: Maybe,
    own: Maybe, other: Maybe, alpha: float, near: float, cross: bool, half: bool, means: Maybe,
    parts: Maybe, out: Maybe, stream: int, /
) -> None: ...
def cuda_spmm(
    indptr: View, indices: View, values: Maybe, x: View, own: Maybe, row_scale: Maybe,
    col_scale: Maybe, w: Maybe, diagonal: Maybe, y: View, add_scales: bool, alpha: float,
    beta: float, gamma: float, delta: float, upper_from: int, stream: int, /
) -> None: ...
def cuda_edges(
    indptr: View, indices: View, values: Maybe, x: View, y: View, out: View, squared: bool,
    stream: int, /
) -> None: ...
def cuda_edge_values(
    indptr: View, indices: View, x: View, y: View, out: View, stream: int, /
) -> None: ...
def cuda_moments_workspace_size(n: int, d: int, operands: int, /) -> int: ...
def cuda_moments_forward(
    x: View, y: Maybe, mean: View, m2: View, workspace: View, stream: int, /
) -> None: ...
def cuda_moments_backward(
    x: View, mean: View, grad_mean: View, grad_var: View, grad_x: View, stream: int, /
) -> None: ...
def cuda_unit_rows_forward(
    z: list[View], longest: float, x: list[View], norm: list[View], dot: Maybe, stream: int, /
) -> None: ...
def cuda_unit_rows_backward(
    x: list[View], norm: list[View], longest: float, grad: list[View], grad_dot: Maybe,
    grad_z: list[View], stream: int, /
) -> None: ...
