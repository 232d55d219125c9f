// The logits of `pairwise` as its entry points take them on every device: s_ij = scale_i a_i . b_j (+ bias) over the
// pairs that are not left out.
#pragma once
#include "common/check.h"

namespace sslspec {

// The pairs that are left out: those with equal ids, those of a pattern in compressed rows, and i == j.
struct LeftOut {
  TensorView ids_a;    // [n] int32 or absent
  TensorView ids_b;    // [m] int32; present when ids_a is, unless there is no b
  TensorView indptr;   // [n + 1] int64 or absent
  TensorView indices;  // [nnz] int64, columns ascending in a row
  bool self = false;
  static constexpr auto fields() {
    return std::make_tuple(&LeftOut::ids_a, &LeftOut::ids_b, &LeftOut::indptr, &LeftOut::indices, &LeftOut::self);
  }
};

struct Logits {
  TensorView a;      // [n, d]
  TensorView b;      // [m, d], or absent: symmetric, b = a
  TensorView scale;  // [] or [n]; [] when symmetric
  TensorView bias;   // [], sigmoid part only
  LeftOut left_out;
  // [] or [n] or absent: pairs with a_i . b_j > limit_i are left out as well. For statistics of a softmax on a CPU, with
  // b, one scale, and rows that are not in bfloat16, whose products may be on the other side.
  TensorView limit = {};
  static constexpr auto fields() {
    return std::make_tuple(&Logits::a, &Logits::b, &Logits::scale, &Logits::bias, &Logits::left_out, &Logits::limit);
  }

  bool symmetric() const { return !b.present(); }
  const TensorView& right() const { return symmetric() ? a : b; }
  int64_t n() const { return a.shape[0]; }
  int64_t m() const { return right().shape[0]; }
  int64_t d() const { return a.shape[1]; }

  // statistics: the dtype of everything but the rows
  void check(const char* op, DType statistics, int device) const {
    SSLSPEC_CHECK(a.ndim == 2, op, ": a must be (n, d), got ", shape_text(a));
    check_matrix(op, "a", a, n(), d(), a.dtype, device);
    SSLSPEC_CHECK(right().ndim == 2, op, ": b must be (m, d), got ", shape_text(right()));
    check_matrix(op, "b", right(), m(), d(), a.dtype, device);
    if (scale.ndim == 1) {
      SSLSPEC_CHECK(!symmetric(), op, ": scale must be a scalar when b is absent, got ", shape_text(scale));
      check_vector(op, "scale", scale, n(), statistics, device);
    } else {
      check_dense(op, "scale", scale, 0, nullptr, statistics, device);
    }
    if (bias.present()) check_dense(op, "bias", bias, 0, nullptr, statistics, device);
    if (limit.present()) {
      SSLSPEC_CHECK(device == kCpu && !symmetric() && scale.ndim == 0 && !bias.present() && a.dtype == statistics, op,
                    ": a limit needs b, one scale, no bias, and rows in float32 or float64 on a CPU");
      if (limit.ndim == 1)
        check_vector(op, "limit", limit, n(), statistics, device);
      else
        check_dense(op, "limit", limit, 0, nullptr, statistics, device);
    }
    const LeftOut& out = left_out;
    SSLSPEC_CHECK(symmetric() || out.ids_a.present() == out.ids_b.present(), op, ": ids_a and ids_b go together");
    if (out.ids_a.present()) check_vector(op, "ids_a", out.ids_a, n(), DType::i32, device);
    if (!symmetric() && out.ids_b.present()) check_vector(op, "ids_b", out.ids_b, m(), DType::i32, device);
    if (!out.indptr.present()) return;
    SSLSPEC_CHECK(!symmetric(), op, ": a pattern of left-out pairs needs b");
    check_vector(op, "indptr", out.indptr, n() + 1, DType::i64, device);
    check_vector(op, "indices", out.indices, out.indices.shape[0], DType::i64, device);
  }
};

}  // namespace sslspec
