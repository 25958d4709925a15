// The module fairtat._C: unpacks arguments, and nothing else. For each kernel of ops.def it has a function of the
// kernel's fields in order, and a plan. The callers in fairtat/backends have checked what the pointers point to, where
// possible with signature.cpp.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "args.h"
#include "cpu/kernels.h"
#include "cuda/kernels.h"
#include "signature.h"

namespace py = pybind11;

namespace {

using namespace fairtat;

// A field as Python passes it: a pointer as an integer, an enum by its number, a layout as (sizes, strides).
template <typename T>
void assign(T& field, py::handle value) {
  if constexpr (std::is_pointer_v<T>) {
    field = reinterpret_cast<T>(value.cast<uintptr_t>());
  } else if constexpr (std::is_enum_v<T>) {
    field = static_cast<T>(value.cast<int>());
  } else {
    field = value.cast<T>();
  }
}

void assign(Layout& field, py::handle value) {
  const auto [sizes, strides] = value.cast<std::pair<std::vector<int64_t>, std::vector<int64_t>>>();
  if (sizes.size() > kMaxInnerDims) throw py::value_error("x has too many dimensions that no stride merges");
  field.dims = static_cast<int>(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    field.sizes[i] = sizes[i];
    field.strides[i] = strides[i];
  }
}

// Calls visit(field) for each field in order.
#define ARGS(Type)                    \
  template <typename Visit>           \
  void each_field(Type& a, Visit visit) {
#define FIELD(type, name) visit(a.name);
#define END }
#include "ops.def"

// What a kernel needs, from its fields in order and then where it runs: a CUDA device and a stream on it, or device -1
// for the CPU.
template <typename Args>
struct Call {
  Args args{};
  int device = -1;
  void* stream = nullptr;

  explicit Call(const py::tuple& values) {
    size_t given = 0;
    const auto next = [&] {
      if (given == values.size()) throw py::type_error("too few arguments for this kernel");
      return py::handle(PyTuple_GET_ITEM(values.ptr(), static_cast<Py_ssize_t>(given++)));
    };
    each_field(args, [&](auto& field) { assign(field, next()); });
    assign(device, next());
    assign(stream, next());
    if (given != values.size()) throw py::type_error("too many arguments for this kernel");
  }
};

template <typename Args, typename = void>
constexpr bool kShared = false;
template <typename Args>
constexpr bool kShared<Args, std::void_t<decltype(Args::threads)>> = true;

// One kernel on the CPU and its launch on a GPU, where it has one.
template <typename Args, typename Result>
struct Kernel {
  Result (*CpuKernels::*on_cpu)(const Args&);
  void (*on_gpu)(const Args&, cuda::Place);

  void operator()(const Call<Args>& call) const {
    if (on_gpu != nullptr && call.device >= 0) return unlocked([&] { on_gpu(call.args, {call.device, call.stream}); });
    if constexpr (std::is_void_v<Result>) {
      unlocked([&] { (cpu_kernels().*on_cpu)(call.args); });
    } else {
      const BadIndex bad = unlocked([&] { return (cpu_kernels().*on_cpu)(call.args); });
      if (bad.argument == nullptr) return;
      throw py::value_error(std::string(bad.argument) + " must lie in [0, " + std::to_string(call.args.classes) +
                            "), got " + std::to_string(bad.value));
    }
  }

 private:
  // Kernels with work for several threads let Python's others run; the rest are done before a lock changes hands.
  template <typename Body>
  static auto unlocked(Body body) {
    if constexpr (kShared<Args>) {
      py::gil_scoped_release released;
      return body();
    } else {
      return body();
    }
  }
};

// A call that is made again and again: the fields at `varying` come with each call, and so does where it runs.
template <typename Args, typename Result>
class Plan {
 public:
  Plan(Kernel<Args, Result> kernel, const py::tuple& values, std::vector<size_t> varying)
      : kernel_(kernel), call_(values), varying_(std::move(varying)) {}

  void operator()(const py::args& values) {
    if (values.size() != varying_.size() + 2) throw py::type_error("this plan takes other arguments");
    size_t index = 0, given = 0;
    const auto value = [&] { return py::handle(PyTuple_GET_ITEM(values.ptr(), static_cast<Py_ssize_t>(given++))); };
    each_field(call_.args, [&](auto& field) {
      if (given < varying_.size() && index++ == varying_[given]) assign(field, value());
    });
    assign(call_.device, value());
    assign(call_.stream, value());
    kernel_(call_);
  }

 private:
  Kernel<Args, Result> kernel_;
  Call<Args> call_;
  std::vector<size_t> varying_;  // in increasing order
};

template <typename Args, typename Result>
void bind(py::module_& m, const std::string& name, Kernel<Args, Result> kernel) {
  m.def(name.c_str(), [kernel](const py::args& values) { kernel(Call<Args>(values)); });
  m.def((name + "_plan").c_str(), [kernel](const py::tuple& values, std::vector<size_t> varying) {
    Plan<Args, Result> plan(kernel, values, std::move(varying));
    return py::cpp_function([plan](const py::args& given) mutable { plan(given); });
  });
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const char* const* name = cpu_isas(); *name != nullptr; ++name) names.emplace_back(*name);
  return names;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled core of fairtat; use it through fairtat.ops.";
#define OP(name, Type, Result) bind(m, #name, Kernel<Type, Result>{&CpuKernels::name, &cuda::name});
#define CPU_OP(name, Type, Result) bind(m, #name, Kernel<Type, Result>{&CpuKernels::name, nullptr});
#include "ops.def"
  bind_signature(m);
  m.def("isas", &isas, "Instruction sets that this processor can run, slowest first.");
  m.def("isa", [] { return cpu_kernels().name; }, "The instruction set in use.");
  m.def(
      "set_isa",
      [](const std::string& name) {
        if (!set_cpu_isa(name.c_str())) throw py::value_error("this processor cannot run " + name);
      },
      py::arg("name"), "Use another instruction set from now on: for tests and comparisons.");
  m.def("l2_sums", &l2_sums, py::arg("d"), "Numbers that a CUDA step in l2 leaves for each sample of d elements; 0: none.");
  m.def("cuda_trouble", &cuda::trouble, py::arg("device"), "Why the CUDA kernels cannot run on a GPU, or an empty text.");
  m.attr("__version__") = FAIRTAT_VERSION;
#if defined(__clang__)
  m.attr("compiler") = "clang " __clang_version__;
#else
  m.attr("compiler") = "gcc " __VERSION__;
#endif
#ifdef _OPENMP
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
#ifdef FAIRTAT_CUDA
  m.attr("cuda") = true;
#else
  m.attr("cuda") = false;
#endif
}
