// CUDA entry points of `spmm` and `edges`; see csrc/sparse/spmm.h and csrc/sparse/edges.h for the mathematics. The
// array arguments are those of the CPU functions, `stream` takes the place of the thread count.
#pragma once
#include "sparse/spmm.h"

namespace sslspec::cuda {

// upper_from >= 0: only entries j >= i count, the diagonal half, where row r of this call is row i = upper_from + r of
// the matrix (a symmetric A is then U + U^T). indptr may be a slice: its offsets are absolute.
void spmm(const CsrView& a, TensorView x, TensorView own, const Scales& scales, const Combination& combination,
          TensorView y, int64_t upper_from, int64_t stream);

void edges(const CsrView& a, TensorView x, TensorView y, TensorView out, bool squared, int64_t stream);
void edge_values(const CsrView& a, TensorView x, TensorView y, TensorView out, int64_t stream);

}  // namespace sslspec::cuda
