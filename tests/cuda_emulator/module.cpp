// Python face of the emulated kernels: the CUDA entry points of csrc/bindings.cpp under the same names.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <utility>

#include "cuda_entry_points.h"
#include "emulator.h"
#include "tensor_caster.h"

namespace py = pybind11;
using namespace sslspec;

PYBIND11_MODULE(_emulated, m) {
  m.def("launches", [] { return std::exchange(emulator::launches(), {}); });  // since the last call
#define SSLSPEC_ENTRY(name) m.def("cuda_" #name, &cuda::name);
  SSLSPEC_CUDA_ENTRY_POINTS(SSLSPEC_ENTRY, SSLSPEC_ENTRY)
}
