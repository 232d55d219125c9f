// CUDA entry points of `spmm` and `edges`; see csrc/sparse/spmm.h and csrc/sparse/edges.h for the mathematics. The
// array arguments are those of the CPU functions, `stream` takes the place of the thread count.
#pragma once
#include "common/tensor_view.h"

namespace sslspec::cuda {

// upper_from >= 0: only entries j >= i count, the diagonal half, where row r of this call is row i = upper_from + r of
// the matrix (a symmetric A is then U + U^T). indptr may be a slice: its offsets are absolute.
void spmm(TensorView indptr, TensorView indices, TensorView values, TensorView x, TensorView own, TensorView row_scale,
          TensorView col_scale, TensorView w, TensorView diagonal, TensorView y, bool add_scales, double alpha,
          double beta, double gamma, double delta, int64_t upper_from, int64_t stream);

void edges(TensorView indptr, TensorView indices, TensorView values, TensorView x, TensorView y, TensorView out,
           bool squared, int64_t stream);
void edge_values(TensorView indptr, TensorView indices, TensorView x, TensorView y, TensorView out, int64_t stream);

}  // namespace sslspec::cuda
