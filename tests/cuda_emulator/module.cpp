// Python face of the emulated kernels: the CUDA entry points of csrc/bindings.cpp under the same names.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "basis/cuda/basis.h"
#include "gram/cuda/gram.h"
#include "rows/cuda/moments.h"
#include "pairwise/cuda/pairwise.h"
#include "fused/cuda/two_views.h"
#include "sparse/cuda/sparse.h"
#include "fused/cuda/spectral_contrastive.h"
#include "normality/cuda/normality.h"
#include "tensor_caster.h"
#include "rows/unit_rows.h"

namespace py = pybind11;
using namespace sslspec;

PYBIND11_MODULE(_emulated, m) {
  m.def("cuda_basis_gram_workspace_size", &cuda::basis_gram_workspace_size);
  m.def("cuda_basis_gram", &cuda::basis_gram);
  m.def("cuda_basis_combine", &cuda::basis_combine);
  m.def("cuda_basis_random", &cuda::basis_random);
  m.def("cuda_sliced_ecf_slabs", &cuda::sliced_ecf_slabs);
  m.def("cuda_sliced_ecf_sums", &cuda::sliced_ecf_sums);
  m.def("cuda_sliced_ecf_gradient", &cuda::sliced_ecf_gradient);
  m.def("cuda_pairwise_kernel_weights", &cuda::pairwise_kernel_weights);
  m.def("cuda_pairwise_workspace", &cuda::pairwise_op_workspace);
  m.def("cuda_pairwise_chained", &cuda::pairwise_op_chained);
  m.def("cuda_pairwise_forward", &cuda::pairwise_op_forward);
  m.def("cuda_pairwise_backward", &cuda::pairwise_op_backward);
  m.def("cuda_pairwise_weights", &cuda::pairwise_op_weights);
  m.def("cuda_pairwise_views_workspace", &cuda::pairwise_views_workspace);
  m.def("cuda_pairwise_views_forward", &cuda::pairwise_views_forward);
  m.def("cuda_pairwise_views_factors", &cuda::pairwise_views_factors);
  m.def("cuda_pairwise_views_backward", &cuda::pairwise_views_backward);
  m.def("cuda_gram_workspace_size", &cuda::gram_workspace_size);
  m.def("cuda_gram_prepare", &cuda::gram_prepare);
  m.def("cuda_gram_square", &cuda::gram_square);
  m.def("cuda_gram_loss", &cuda::gram_loss);
  m.def("cuda_gram_finish", &cuda::gram_finish);
  m.def("cuda_spectral_pack", &cuda::spectral_pack);
  m.def("cuda_spectral_finish", &cuda::spectral_finish);
  m.def("cuda_spmm", &cuda::spmm);
  m.def("cuda_edges", &cuda::edges);
  m.def("cuda_edge_values", &cuda::edge_values);
  m.def("cuda_moments_workspace_size", &cuda::moments_workspace_size);
  m.def("cuda_moments_forward", &cuda::moments_forward);
  m.def("cuda_moments_backward", &cuda::moments_backward);
  m.def("cuda_unit_rows_forward", &cuda::unit_rows_forward);
  m.def("cuda_unit_rows_backward", &cuda::unit_rows_backward);
}
