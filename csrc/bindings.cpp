// Python face of the core: one m.def per entry point, no logic. Every call releases the GIL; outputs and workspaces
// are arguments. Arrays arrive as borrowed descriptors (tensor_caster.h).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "basis/basis.h"
#include "common/check.h"
#include "simd/isa.h"
#include "basis/cuda/basis.h"
#include "gram/cuda/gram.h"
#include "rows/cuda/moments.h"
#include "pairwise/cuda/pairwise.h"
#include "fused/cuda/two_views.h"
#include "sparse/cuda/sparse.h"
#include "fused/cuda/spectral_contrastive.h"
#include "sparse/edges.h"
#include "gram/gram.h"
#include "sparse/graph_cov.h"
#include "normality/cuda/normality.h"
#include "normality/pairwise_kernel.h"
#include "normality/sliced_ecf.h"
#include "rows/moments.h"
#include "pairwise/pairwise.h"
#include "pairwise/prefixes.h"
#include "fused/two_views.h"
#include "fused/spectral_contrastive.h"
#include "sparse/spmm.h"
#include "tensor_caster.h"
#include "rows/unit_rows.h"

namespace py = pybind11;
using namespace sslspec;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled core of sslspec_fast";
  py::register_exception<CudaError>(m, "CudaError", PyExc_RuntimeError);
  const auto no_gil = py::call_guard<py::gil_scoped_release>();

  m.def("isa", &cpu::isa_name, "Instruction set of the CPU kernels in use");
  m.def("bf16_products", &cpu::bf16_products, "Whether `pairwise_forward` and `_backward` take bfloat16 rows");
  m.def("cuda_archs", [] { return SSLSPEC_CUDA_ARCHS; }, "CUDA architectures of this build, empty without CUDA");

  // basis
  m.def("basis_gram_workspace_size", &basis_gram_workspace_size);
  m.def("basis_gram", &basis_gram, no_gil);
  m.def("basis_combine", &basis_combine, no_gil);
  m.def("basis_random", &basis_random, no_gil);

  // gram
  m.def("gram_uses_dual", &gram_uses_dual);
  m.def("gram_may_subtract", &gram_may_subtract);
  m.def("gram_workspace_size", &gram_workspace_size);
  m.def("gram", &gram, no_gil);

  // moments
  m.def("moments_workspace_size", &moments_workspace_size);
  m.def("moments_forward", &moments_forward, no_gil);
  m.def("moments_backward", &moments_backward, no_gil);

  // normality
  m.def("pairwise_kernel_workspace_size", &pairwise_kernel_workspace_size);
  m.def("pairwise_kernel_lengths", &pairwise_kernel_lengths, no_gil);
  m.def("pairwise_kernel_series", &pairwise_kernel_series, no_gil);
  m.def("pairwise_kernel", &pairwise_kernel, no_gil);
  m.def("sliced_ecf_workspace_size", &sliced_ecf_workspace_size);
  m.def("sliced_ecf", &sliced_ecf, no_gil);

  // pairwise
  m.def("pairwise_workspace_size", &pairwise_workspace_size);
  m.def("pairwise_forward", &pairwise_forward, no_gil);
  m.def("pairwise_backward", &pairwise_backward, no_gil);
  m.def("pairwise_sigmoid_forward", &pairwise_sigmoid_forward, no_gil);
  m.def("pairwise_sigmoid_backward", &pairwise_sigmoid_backward, no_gil);
  m.def("pairwise_rows_panel_size", &pairwise_rows_panel_size);
  m.def("pairwise_rows", &pairwise_rows, no_gil);
  m.def("pairwise_views_workspace_size", &pairwise_views_workspace_size);
  m.def("pairwise_views_forward", &pairwise_views_forward, no_gil);
  m.def("pairwise_views_backward", &pairwise_views_backward, no_gil);
  m.def("pairwise_prefixes_workspace_size", &pairwise_prefixes_workspace_size);
  m.def("pairwise_prefixes_forward", &pairwise_prefixes_forward, no_gil);
  m.def("pairwise_prefixes_backward", &pairwise_prefixes_backward, no_gil);

#ifdef SSLSPEC_WITH_CUDA
  m.def("cuda_basis_gram_workspace_size", &cuda::basis_gram_workspace_size);
  m.def("cuda_basis_gram", &cuda::basis_gram, no_gil);
  m.def("cuda_basis_combine", &cuda::basis_combine, no_gil);
  m.def("cuda_basis_random", &cuda::basis_random, no_gil);
  m.def("cuda_sliced_ecf_slabs", &cuda::sliced_ecf_slabs);
  m.def("cuda_sliced_ecf_sums", &cuda::sliced_ecf_sums, no_gil);
  m.def("cuda_sliced_ecf_gradient", &cuda::sliced_ecf_gradient, no_gil);
  m.def("cuda_pairwise_kernel_weights", &cuda::pairwise_kernel_weights, no_gil);
  m.def("cuda_pairwise_workspace", &cuda::pairwise_op_workspace);
  m.def("cuda_pairwise_chained", &cuda::pairwise_op_chained);
  m.def("cuda_pairwise_forward", &cuda::pairwise_op_forward, no_gil);
  m.def("cuda_pairwise_backward", &cuda::pairwise_op_backward, no_gil);
  m.def("cuda_pairwise_weights", &cuda::pairwise_op_weights, no_gil);
  m.def("cuda_pairwise_views_workspace", &cuda::pairwise_views_workspace);
  m.def("cuda_pairwise_views_forward", &cuda::pairwise_views_forward, no_gil);
  m.def("cuda_pairwise_views_factors", &cuda::pairwise_views_factors, no_gil);
  m.def("cuda_pairwise_views_backward", &cuda::pairwise_views_backward, no_gil);
  m.def("cuda_gram_workspace_size", &cuda::gram_workspace_size);
  m.def("cuda_gram_prepare", &cuda::gram_prepare, no_gil);
  m.def("cuda_gram_square", &cuda::gram_square, no_gil);
  m.def("cuda_gram_loss", &cuda::gram_loss, no_gil);
  m.def("cuda_gram_finish", &cuda::gram_finish, no_gil);
  m.def("cuda_spectral_pack", &cuda::spectral_pack, no_gil);
  m.def("cuda_spectral_finish", &cuda::spectral_finish, no_gil);
  m.def("cuda_spmm", &cuda::spmm, no_gil);
  m.def("cuda_edges", &cuda::edges, no_gil);
  m.def("cuda_edge_values", &cuda::edge_values, no_gil);
  m.def("cuda_moments_workspace_size", &cuda::moments_workspace_size);
  m.def("cuda_moments_forward", &cuda::moments_forward, no_gil);
  m.def("cuda_moments_backward", &cuda::moments_backward, no_gil);
  m.def("cuda_unit_rows_forward", &cuda::unit_rows_forward, no_gil);
  m.def("cuda_unit_rows_backward", &cuda::unit_rows_backward, no_gil);
#else
  for (const char* name : {"cuda_basis_gram_workspace_size",
                           "cuda_basis_gram",
                           "cuda_basis_combine",
                           "cuda_basis_random",
                           "cuda_sliced_ecf_slabs",
                           "cuda_sliced_ecf_sums",
                           "cuda_sliced_ecf_gradient",
                           "cuda_pairwise_kernel_weights",
                           "cuda_pairwise_workspace",
                           "cuda_pairwise_chained",
                           "cuda_pairwise_forward",
                           "cuda_pairwise_backward",
                           "cuda_pairwise_weights",
                           "cuda_pairwise_views_workspace",
                           "cuda_pairwise_views_forward",
                           "cuda_pairwise_views_factors",
                           "cuda_pairwise_views_backward",
                           "cuda_gram_workspace_size",
                           "cuda_gram_prepare",
                           "cuda_gram_square",
                           "cuda_gram_loss",
                           "cuda_gram_finish",
                           "cuda_spectral_pack",
                           "cuda_spectral_finish",
                           "cuda_spmm",
                           "cuda_edges",
                           "cuda_edge_values",
                           "cuda_moments_workspace_size",
                           "cuda_moments_forward",
                           "cuda_moments_backward",
                           "cuda_unit_rows_forward",
                           "cuda_unit_rows_backward"})
    m.def(name, [](const py::args&) -> py::object {
      throw CudaError(
          "this build of sslspec_fast has no CUDA kernels: rebuild it where nvcc is found (python -m sslspec_fast "
          "shows what a build has)");
    });
#endif

  // spmm, edges, graph_cov
  m.def("spmm", &spmm, no_gil);
  m.def("edges", &edges, no_gil);
  m.def("edge_values", &edge_values, no_gil);
  m.def("graph_cov_workspace_size", &graph_cov_workspace_size);
  m.def("graph_cov", &graph_cov, no_gil);
  m.def("graph_cov_apply_workspace_size", &graph_cov_apply_workspace_size);
  m.def("graph_cov_apply", &graph_cov_apply, no_gil);

  // spectral_contrastive, unit_rows
  m.def("spectral_contrastive_workspace_size", &spectral_contrastive_workspace_size);
  m.def("spectral_contrastive", &spectral_contrastive, no_gil);
  m.def("unit_rows_forward", &unit_rows_forward, no_gil);
  m.def("unit_rows_backward", &unit_rows_backward, no_gil);
}
