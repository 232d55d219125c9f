// The one pybind11 type caster of the core: Python descriptor tuple -> TensorView.
// A descriptor is (data_ptr, shape, strides in elements, dtype code, device index, owner); see sslspec_fast/_seam.py.
// The owner is there so that the array outlives the call; None stands for an absent optional array.
#pragma once
#include <pybind11/pybind11.h>

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

}  // namespace pybind11::detail
