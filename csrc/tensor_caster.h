// The pybind11 type casters of the core: Python descriptor tuple -> TensorView, tuple -> struct of such.
// A descriptor is (data_ptr, shape, strides in elements, dtype code, device index, owner); see sslspec_fast/_seam.py.
// The owner is there so that the array outlives the call; None stands for an absent optional array.
#pragma once
#include <pybind11/pybind11.h>

#include <tuple>
#include <type_traits>
#include <utility>

#include "common/tensor_view.h"

namespace pybind11::detail {

template <>
struct type_caster<sslspec::TensorView> {
  PYBIND11_TYPE_CASTER(sslspec::TensorView, const_name("TensorView"));

  bool load(handle src, bool) {
    if (src.is_none()) return true;
    if (!PyTuple_Check(src.ptr()) || PyTuple_GET_SIZE(src.ptr()) != 6) return false;
    PyObject* shape = PyTuple_GET_ITEM(src.ptr(), 1);
    PyObject* stride = PyTuple_GET_ITEM(src.ptr(), 2);
    if (!PyTuple_Check(shape) || !PyTuple_Check(stride)) return false;
    const Py_ssize_t ndim = PyTuple_GET_SIZE(shape);
    if (ndim > sslspec::kMaxDim || PyTuple_GET_SIZE(stride) != ndim) return false;
    value.data = PyLong_AsVoidPtr(PyTuple_GET_ITEM(src.ptr(), 0));
    value.ndim = static_cast<int32_t>(ndim);
    for (Py_ssize_t i = 0; i < ndim; ++i) {
      value.shape[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape, i));
      value.stride[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(stride, i));
    }
    value.dtype = static_cast<sslspec::DType>(PyLong_AsLong(PyTuple_GET_ITEM(src.ptr(), 3)));
    value.device = static_cast<int32_t>(PyLong_AsLong(PyTuple_GET_ITEM(src.ptr(), 4)));
    if (PyErr_Occurred()) {
      PyErr_Clear();
      return false;
    }
    return true;
  }
};

// A struct with `fields()`: a tuple with one entry for each of them.
template <typename Struct>
struct type_caster<Struct, std::void_t<decltype(Struct::fields())>> {
  PYBIND11_TYPE_CASTER(Struct, const_name("tuple"));

  bool load(handle src, bool convert) {
    constexpr size_t kFields = std::tuple_size_v<decltype(Struct::fields())>;
    if (!PyTuple_Check(src.ptr()) || PyTuple_GET_SIZE(src.ptr()) != Py_ssize_t{kFields}) return false;
    return load_fields(src, convert, std::make_index_sequence<kFields>{});
  }

 private:
  template <size_t... I>
  bool load_fields(handle src, bool convert, std::index_sequence<I...>) {
    return (load_field(PyTuple_GET_ITEM(src.ptr(), I), convert, value.*std::get<I>(Struct::fields())) && ...);
  }
  template <typename Field>
  static bool load_field(handle src, bool convert, Field& out) {
    make_caster<Field> caster;
    if (!caster.load(src, convert)) return false;
    out = cast_op<Field&&>(std::move(caster));
    return true;
  }
};

}  // namespace pybind11::detail
