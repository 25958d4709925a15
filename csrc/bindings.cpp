// The module fairtat._C: unpacks arguments, and nothing else. Pointers come as integers; the callers in
// fairtat/backends have checked what they point to.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "args.h"
#include "cpu/kernels.h"
#include "cuda/kernels.h"

namespace py = pybind11;

namespace {

using namespace fairtat;

template <typename T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Where an op runs is said by its last two arguments: a CUDA device and a stream on it, or device -1 for the CPU.
cuda::Place place_of(int device, uintptr_t stream) { return {device, at<void>(stream)}; }

void raise_if_bad(const BadIndex& bad, int64_t classes) {
  if (bad.argument == nullptr) return;
  throw py::value_error(std::string(bad.argument) + " must lie in [0, " + std::to_string(classes) + "), got " +
                        std::to_string(bad.value));
}

void pgd_init(uintptr_t out, uintptr_t x, int64_t n, const std::vector<int64_t>& sizes,
              const std::vector<int64_t>& strides, uintptr_t eps_n, float eps, uintptr_t sample_ids, uint64_t seed,
              uint32_t draws, int init, int norm, float lo, float hi, int threads, int device, uintptr_t stream) {
  PgdInitArgs a{};
  if (sizes.size() > kMaxInnerDims) throw py::value_error("x has too many dimensions that no stride merges");
  a.out = at<float>(out);
  a.x = at<const float>(x);
  a.n = n;
  a.dims = static_cast<int>(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    a.sizes[i] = sizes[i];
    a.strides[i] = strides[i];
  }
  a.eps_n = at<const float>(eps_n);
  a.eps = eps;
  a.sample_ids = at<const int64_t>(sample_ids);
  a.seed = seed;
  a.stream = draws;
  a.init = static_cast<Init>(init);
  a.norm = static_cast<Norm>(norm);
  a.lo = lo;
  a.hi = hi;
  a.threads = threads;
  py::gil_scoped_release unlocked;
  if (device >= 0) return cuda::pgd_init(a, place_of(device, stream));
  cpu_kernels().pgd_init(a);
}

void pgd_step(uintptr_t x_adv, uintptr_t grad, int grad_dtype, uintptr_t x, int64_t n, int64_t d, uintptr_t eps_n,
              float eps, uintptr_t step_n, float step, bool targeted, int norm, float lo, float hi,
              uintptr_t model_input, int input_dtype, uintptr_t mean, uintptr_t std, int64_t channels,
              int64_t channel_stride, uintptr_t zero_grad, int threads, int device, uintptr_t stream) {
  PgdStepArgs a{};
  a.x_adv = at<float>(x_adv);
  a.grad = at<const void>(grad);
  a.grad_dtype = static_cast<DType>(grad_dtype);
  a.x = at<const float>(x);
  a.n = n;
  a.d = d;
  a.eps_n = at<const float>(eps_n);
  a.eps = eps;
  a.step_n = at<const float>(step_n);
  a.step = step;
  a.targeted = targeted;
  a.norm = static_cast<Norm>(norm);
  a.lo = lo;
  a.hi = hi;
  a.model_input = at<void>(model_input);
  a.input_dtype = static_cast<DType>(input_dtype);
  a.mean = at<const float>(mean);
  a.std = at<const float>(std);
  a.channels = channels;
  a.channel_stride = channel_stride;
  a.zero_grad = at<int64_t>(zero_grad);
  a.threads = threads;
  py::gil_scoped_release unlocked;
  if (device >= 0) return cuda::pgd_step(a, place_of(device, stream));
  cpu_kernels().pgd_step(a);
}

void logit_loss(uintptr_t logits, int dtype, uintptr_t target, int64_t n, int64_t classes, int kind, uintptr_t y,
                uintptr_t clean_logits, int clean_dtype, uintptr_t loss, uintptr_t dlogits, uintptr_t pred,
                uintptr_t reached, int threads, int device, uintptr_t stream) {
  LogitLossArgs a{};
  a.logits = at<const void>(logits);
  a.logits_dtype = static_cast<DType>(dtype);
  a.target = at<const int64_t>(target);
  a.n = n;
  a.classes = classes;
  a.kind = static_cast<LossKind>(kind);
  a.y = at<const int64_t>(y);
  a.clean_logits = at<const void>(clean_logits);
  a.clean_dtype = static_cast<DType>(clean_dtype);
  a.loss = at<float>(loss);
  a.dlogits = at<void>(dlogits);
  a.pred = at<int64_t>(pred);
  a.reached = at<bool>(reached);
  a.threads = threads;
  BadIndex bad;
  {
    py::gil_scoped_release unlocked;
    if (device >= 0) return cuda::logit_loss(a, place_of(device, stream));
    bad = cpu_kernels().logit_loss(a);
  }
  raise_if_bad(bad, classes);
}

void sample_targets(uintptr_t label, uintptr_t table, int64_t n, int64_t classes, bool by_label, uintptr_t sample_ids,
                    uint64_t seed, uint32_t draws, uintptr_t target, int device, uintptr_t stream) {
  SampleTargetsArgs a{};
  a.label = at<const int64_t>(label);
  a.table = at<const int64_t>(table);
  a.n = n;
  a.classes = classes;
  a.by_label = by_label;
  a.sample_ids = at<const int64_t>(sample_ids);
  a.seed = seed;
  a.stream = draws;
  a.target = at<int64_t>(target);
  if (device >= 0) return cuda::sample_targets(a, place_of(device, stream));
  raise_if_bad(cpu_kernels().sample_targets(a), classes);
}

void class_stats(uintptr_t buffer, int64_t classes, int64_t n, uintptr_t pred, uintptr_t label, uintptr_t loss,
                 uintptr_t target, int device, uintptr_t stream) {
  ClassStatsArgs a{};
  a.buffer = at<int64_t>(buffer);
  a.classes = classes;
  a.n = n;
  a.pred = at<const int64_t>(pred);
  a.label = at<const int64_t>(label);
  a.loss = at<const float>(loss);
  a.target = at<const int64_t>(target);
  if (device >= 0) return cuda::class_stats(a, place_of(device, stream));
  raise_if_bad(cpu_kernels().class_stats(a), classes);
}

WinogradArgs winograd_args(int64_t n, int64_t height, int64_t width, int64_t channels, int64_t rows, int64_t columns,
                           int threads) {
  WinogradArgs a{};
  a.n = n;
  a.height = height;
  a.width = width;
  a.channels = channels;
  a.rows = rows;
  a.columns = columns;
  a.threads = threads;
  return a;
}

void winograd_tiles(uintptr_t image, uintptr_t tiles, int64_t n, int64_t height, int64_t width, int64_t channels,
                    int64_t rows, int64_t columns, int64_t pad_top, int64_t pad_left, int threads) {
  WinogradArgs a = winograd_args(n, height, width, channels, rows, columns, threads);
  a.image = at<const float>(image);
  a.tiles = at<float>(tiles);
  a.pad_top = pad_top;
  a.pad_left = pad_left;
  py::gil_scoped_release unlocked;
  cpu_kernels().winograd_tiles(a);
}

void winograd_image(uintptr_t tiles, uintptr_t image, int64_t n, int64_t height, int64_t width, int64_t channels,
                    int64_t rows, int64_t columns, int threads) {
  WinogradArgs a = winograd_args(n, height, width, channels, rows, columns, threads);
  a.tiles = at<float>(tiles);
  a.image_out = at<float>(image);
  py::gil_scoped_release unlocked;
  cpu_kernels().winograd_image(a);
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const char* const* name = cpu_isas(); *name != nullptr; ++name) names.emplace_back(*name);
  return names;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled core of fairtat; use it through fairtat.ops.";
  m.def("pgd_init", &pgd_init);
  m.def("pgd_step", &pgd_step);
  m.def("logit_loss", &logit_loss);
  m.def("sample_targets", &sample_targets);
  m.def("class_stats", &class_stats);
  m.def("winograd_tiles", &winograd_tiles);
  m.def("winograd_image", &winograd_image);
  m.def("isas", &isas, "Instruction sets that this processor can run, slowest first.");
  m.def("isa", [] { return cpu_kernels().name; }, "The instruction set in use.");
  m.def(
      "set_isa",
      [](const std::string& name) {
        if (!set_cpu_isa(name.c_str())) throw py::value_error("this processor cannot run " + name);
      },
      py::arg("name"), "Use another instruction set from now on: for tests and comparisons.");
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
