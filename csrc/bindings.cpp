// Python face of the core: one m.def per entry point, no logic. Every call releases the GIL; outputs and workspaces
// are arguments. Arrays arrive as borrowed descriptors (tensor_caster.h).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "basis/basis.h"
#include "common/check.h"
#include "common/workspace.h"
#include "cuda_entry_points.h"
#include "fused/guided.h"
#include "fused/per_positive.h"
#include "fused/spectral_contrastive.h"
#include "fused/two_views.h"
#include "gram/gram.h"
#include "normality/pairwise_kernel.h"
#include "normality/sliced_ecf.h"
#include "pairwise/pairwise.h"
#include "pairwise/prefixes.h"
#include "pairwise/soft.h"
#include "pairwise/soft_self.h"
#include "rows/moments.h"
#include "rows/unit_rows.h"
#include "simd/isa.h"
#include "simd/kept.h"
#include "simd/team.h"
#include "sparse/edges.h"
#include "sparse/graph_cov.h"
#include "sparse/spmm.h"
#include "tensor_caster.h"

namespace py = pybind11;
using namespace sslspec;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled core of sslspec_fast";
  py::register_exception<CudaError>(m, "CudaError", PyExc_RuntimeError);
  const auto no_gil = py::call_guard<py::gil_scoped_release>();

  m.def("isa", &cpu::isa_name, "Instruction set of the CPU kernels in use");
  m.def("bf16_products", &cpu::bf16_products, "Whether `pairwise_forward` and `_backward` take bfloat16 rows");
  m.def("next_runs_alone", &cpu::next_runs_alone, "Whether a short pass should have one thread, as threads were late");
  m.def("kept_limit", &cpu::kept_limit, no_gil);
  m.def("set_kept_limit", &cpu::set_kept_limit, no_gil);
  m.def("release_kept", &cpu::release_kept, no_gil);
  m.def(
      "prefer_huge_pages",
      [](uintptr_t data, int64_t bytes) { prefer_huge_pages(reinterpret_cast<void*>(data), bytes); },
      "For fresh memory of a CPU");
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
  m.def("sliced_ecf_sums", &sliced_ecf_sums, no_gil);
  m.def("sliced_ecf_gradient", &sliced_ecf_gradient, no_gil);

  // pairwise
  m.def("pairwise_tasks", &pairwise_tasks);
  m.def("pairwise_workspace_size", &pairwise_workspace_size);
  m.def("pairwise_forward", &pairwise_forward, no_gil);
  m.def("pairwise_backward", &pairwise_backward, no_gil);
  m.def("pairwise_sigmoid_forward", &pairwise_sigmoid_forward, no_gil);
  m.def("pairwise_sigmoid_backward", &pairwise_sigmoid_backward, no_gil);
  m.def("pairwise_one_positive_panel_size", &pairwise_one_positive_panel_size);
  m.def("pairwise_one_positive", &pairwise_one_positive, no_gil);
  m.def("two_views_workspace_size", &two_views_workspace_size);
  m.def("two_views", &two_views, no_gil);
  m.def("pairwise_prefixes_workspace_size", &pairwise_prefixes_workspace_size);
  m.def("pairwise_prefixes_forward", &pairwise_prefixes_forward, no_gil);
  m.def("pairwise_prefixes_backward", &pairwise_prefixes_backward, no_gil);
  m.def("pairwise_soft_workspace_size", &pairwise_soft_workspace_size);
  m.def("pairwise_soft", &pairwise_soft, no_gil);
  m.def("pairwise_soft_self_workspace_size", &pairwise_soft_self_workspace_size);
  m.def("pairwise_soft_self", &pairwise_soft_self, no_gil);

#ifdef SSLSPEC_WITH_CUDA
#define SSLSPEC_QUERY(name) m.def("cuda_" #name, &cuda::name);
#define SSLSPEC_LAUNCH(name) m.def("cuda_" #name, &cuda::name, no_gil);
  SSLSPEC_CUDA_ENTRY_POINTS(SSLSPEC_QUERY, SSLSPEC_LAUNCH)
#else
  const auto absent = [](const py::args&) -> py::object {
    throw CudaError(
        "this build of sslspec_fast has no CUDA kernels: rebuild it where nvcc is found (python -m sslspec_fast "
        "shows what a build has)");
  };
#define SSLSPEC_ABSENT(name) m.def("cuda_" #name, absent);
  SSLSPEC_CUDA_ENTRY_POINTS(SSLSPEC_ABSENT, SSLSPEC_ABSENT)
#endif

  // spmm, edges, graph_cov
  m.def("spmm", &spmm, no_gil);
  m.def("edges", &edges, no_gil);
  m.def("edge_values", &edge_values, no_gil);
  m.def("graph_cov_workspace_size", &graph_cov_workspace_size);
  m.def("graph_cov", &graph_cov, no_gil);
  m.def("graph_cov_apply_workspace_size", &graph_cov_apply_workspace_size);
  m.def("graph_cov_apply", &graph_cov_apply, no_gil);

  // guided, per_positive, spectral_contrastive, unit_rows
  m.def("guided_workspace_size", &guided_workspace_size);
  m.def("guided", &guided, no_gil);
  m.def("per_positive", &per_positive, no_gil);
  m.def("spectral_contrastive_workspace_size", &spectral_contrastive_workspace_size);
  m.def("spectral_contrastive", &spectral_contrastive, no_gil);
  m.def("unit_rows_forward", &unit_rows_forward, no_gil);
  m.def("unit_rows_backward", &unit_rows_backward, no_gil);
}
