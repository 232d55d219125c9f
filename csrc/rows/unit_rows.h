// Rows of unit or bounded length, and the similarity of paired rows.
//   x_i = z_i / max(|z_i|, 1e-12), or with longest > 0: z_i min(1, longest / |z_i|);   dot_i = x_i . y_i
// Backward, g = grad_x + grad_dot y:  grad_z = f (g - x (g . x) / |x|^2), f the factor of the row; without the second
// term where f is constant.
#pragma once
#include <vector>

#include "common/check.h"

namespace sslspec {

void unit_rows_forward(const std::vector<TensorView>& z,     // 1 or 2 of [n, d]
                       double longest,                       // 0: unit rows
                       const std::vector<TensorView>& x,     // [n, d] out, one for each z
                       const std::vector<TensorView>& norm,  // [n] out
                       TensorView dot,                       // [n] out, two operands only
                       int threads);

void unit_rows_backward(const std::vector<TensorView>& x, const std::vector<TensorView>& norm, double longest,
                        const std::vector<TensorView>& grad,    // [n, d]
                        TensorView grad_dot,                    // [n] or absent
                        const std::vector<TensorView>& grad_z,  // [n, d] out
                        int threads);

namespace cuda {  // the same on the GPU

void unit_rows_forward(const std::vector<TensorView>& z, double longest, const std::vector<TensorView>& x,
                       const std::vector<TensorView>& norm, TensorView dot, int64_t stream);
void unit_rows_backward(const std::vector<TensorView>& x, const std::vector<TensorView>& norm, double longest,
                        const std::vector<TensorView>& grad, TensorView grad_dot, const std::vector<TensorView>& grad_z,
                        int64_t stream);

}  // namespace cuda

// What both devices ask of the arguments, those of either pass as inputs [n, d] -> outputs [n, d].
inline void check_unit_rows(const std::vector<TensorView>& in, const std::vector<TensorView>& out,
                            const std::vector<TensorView>& norm, const TensorView& dot) {
  constexpr const char* kOp = "unit_rows";
  SSLSPEC_CHECK(in.size() == 1 || in.size() == 2, kOp, ": there must be 1 or 2 operands, got ", in.size());
  SSLSPEC_CHECK(out.size() == in.size() && norm.size() == in.size(), kOp,
                ": outputs and norms must match the operands, ", in.size(), ", got ", out.size(), " and ", norm.size());
  const TensorView& first = in[0];
  SSLSPEC_CHECK(first.ndim == 2, kOp, ": rows must be (n, d), got ", shape_text(first));
  SSLSPEC_CHECK(first.dtype == DType::f32 || first.dtype == DType::f64, kOp, ": rows must be float32 or float64, got ",
                first.dtype);
  const int64_t n = first.shape[0], d = first.shape[1];
  for (size_t o = 0; o < in.size(); ++o) {
    check_matrix(kOp, "rows", in[o], n, d, first.dtype, first.device);
    check_matrix(kOp, "out", out[o], n, d, first.dtype, first.device);
    SSLSPEC_CHECK(n <= 1 || d == 0 || out[o].stride[0] == d, kOp, ": out must be contiguous, got row stride ",
                  out[o].stride[0]);
    check_vector(kOp, "norm", norm[o], n, first.dtype, first.device);
  }
  if (dot.present()) check_vector(kOp, "dot", dot, n, first.dtype, first.device);
}

}  // namespace sslspec
