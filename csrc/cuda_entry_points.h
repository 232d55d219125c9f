// The CUDA entry points: cuda::NAME is sslspec_fast._C.cuda_NAME. Read by the bindings, by the stand-ins of a build
// without CUDA, and by the emulator of the tests. A QUERY answers at once and leaves the GPU alone; the others launch.
#pragma once
#include "basis/cuda/basis.h"
#include "fused/cuda/sigmoid_loss.h"
#include "fused/cuda/spectral_contrastive.h"
#include "fused/cuda/two_views.h"
#include "gram/cuda/gram.h"
#include "normality/cuda/normality.h"
#include "pairwise/cuda/pairwise.h"
#include "pairwise/cuda/soft.h"
#include "rows/cuda/moments.h"
#include "rows/unit_rows.h"
#include "sparse/cuda/sparse.h"

#define SSLSPEC_CUDA_ENTRY_POINTS(QUERY, LAUNCH) \
  QUERY(basis_gram_workspace_size)               \
  LAUNCH(basis_gram)                             \
  LAUNCH(basis_combine)                          \
  LAUNCH(basis_random)                           \
  QUERY(gram_workspace_size)                     \
  LAUNCH(gram_prepare)                           \
  LAUNCH(gram_square)                            \
  LAUNCH(gram_finish)                            \
  QUERY(moments_workspace_size)                  \
  LAUNCH(moments_forward)                        \
  LAUNCH(moments_backward)                       \
  LAUNCH(pairwise_kernel_weights)                \
  QUERY(pairwise_workspace_size)                 \
  QUERY(pairwise_is_chained)                     \
  LAUNCH(pairwise_forward)                       \
  LAUNCH(pairwise_backward)                      \
  LAUNCH(pairwise_weight_rows)                   \
  LAUNCH(pairwise_soft_statistics)               \
  LAUNCH(pairwise_soft_weights)                  \
  QUERY(two_views_stats_size)                    \
  QUERY(two_views_workspace_size)                \
  LAUNCH(two_views_forward)                      \
  LAUNCH(two_views_factors)                      \
  QUERY(two_views_vectors_size)                  \
  LAUNCH(two_views_weight_rows)                  \
  LAUNCH(two_views_backward)                     \
  QUERY(sigmoid_loss_sums_size)                  \
  LAUNCH(sigmoid_loss_weights)                   \
  LAUNCH(sigmoid_loss_finish)                    \
  LAUNCH(sigmoid_loss_gradient)                  \
  QUERY(sliced_ecf_slabs)                        \
  LAUNCH(sliced_ecf_sums)                        \
  LAUNCH(sliced_ecf_gradient)                    \
  LAUNCH(spectral_pack)                          \
  LAUNCH(spectral_finish)                        \
  LAUNCH(spmm)                                   \
  LAUNCH(edges)                                  \
  LAUNCH(edge_values)                            \
  LAUNCH(unit_rows_forward)                      \
  LAUNCH(unit_rows_backward)
