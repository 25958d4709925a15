// The usual form of an op's arguments, checked in one call; see fairtat/backends/signature.py.
#pragma once

#include <pybind11/pybind11.h>

namespace fairtat {

// signature(tensor types, DLPack exchange capsule, rules) -> a function of the arguments: 0 where they do not
// fit, 1 for tensors on the CPU and 2 elsewhere.
void bind_signature(pybind11::module_& m);

}  // namespace fairtat
