#include "signature.h"

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "dlpack.h"

namespace py = pybind11;

namespace fairtat {
namespace {

constexpr size_t kMaxArguments = 16;
constexpr int kSymbols = 26;
constexpr int64_t kUnbound = -1;

enum class Kind { tensor, amount, number, seed, integer, boolean, bounds, choice };
enum class Form { dense, images, like };

enum class Answer : long { no = 0, on_cpu = 1, elsewhere = 2 };

// A size: a letter, which stands for the same number in all arguments, plus a constant.
struct Size {
  int symbol;
  int64_t plus;
};

struct Rule {
  Kind kind = Kind::tensor;
  Form form = Form::dense;
  std::vector<dlpack::DataType> dtypes;
  bool optional = false, written = false;
  std::vector<std::vector<Size>> shapes;  // dense: one for each number of dimensions; of images, one that goes on
  size_t other = 0;              // like: the argument whose shape and strides it has
  int64_t low = 0, high = 0;     // integer
  std::vector<py::str> choices;  // choice
};

dlpack::DataType dtype_of(const std::string& name) {
  if (name == "float32") return {dlpack::kFloat, 32, 1};
  if (name == "float16") return {dlpack::kFloat, 16, 1};
  if (name == "bfloat16") return {dlpack::kBfloat, 16, 1};
  if (name == "int64") return {dlpack::kInt, 64, 1};
  if (name == "uint8") return {dlpack::kUInt, 8, 1};
  throw py::value_error("a signature knows no dtype " + name);
}

bool is_contiguous(const dlpack::Tensor& t, int64_t elements) {
  if (t.strides == nullptr || elements == 0) return true;
  int64_t expected = 1;
  for (int32_t i = t.ndim - 1; i >= 0; --i) {
    if (t.shape[i] != 1 && t.strides[i] != expected) return false;
    expected *= t.shape[i];
  }
  return true;
}

bool is_channels_last(const dlpack::Tensor& t) {
  if (t.ndim != 4 || t.strides == nullptr) return false;
  int64_t expected = 1;
  for (const int32_t i : {1, 3, 2, 0}) {
    if (t.shape[i] != 1 && t.strides[i] != expected) return false;
    expected *= t.shape[i];
  }
  return true;
}

// A tensor, and where it lies in memory.
struct Span {
  const PyObject* tensor;
  uintptr_t begin, end;
  bool written;
};

class Signature {
 public:
  Signature(py::tuple types, const py::capsule& exchange, const py::list& rules) : types_(std::move(types)) {
    const auto* api = static_cast<const dlpack::Exchange*>(PyCapsule_GetPointer(exchange.ptr(), dlpack::kExchangeName));
    if (api == nullptr) throw py::error_already_set();
    if (api->header.major != dlpack::kMajorVersion || api->view_of_object == nullptr) {
      throw std::runtime_error("DLPack's exchange of tensors is of another version");
    }
    view_ = api->view_of_object;
    is_neg_ = py::object(types_[0].attr("is_neg"));
    if (rules.size() > kMaxArguments) throw py::value_error("a signature has too many arguments");
    for (const py::handle rule : rules) rules_.push_back(parsed(rule.cast<py::dict>()));
  }

  // No error is raised: what does not fit is for checks that can say why.
  Answer fits(PyObject* const* arguments, size_t count) const {
    if (count != rules_.size()) return Answer::no;
    const char* const preferred = std::getenv("FAIRTAT_BACKEND");  // os.environ writes through to it
    if (preferred != nullptr && preferred[0] != '\0') return Answer::no;
    State state;
    for (size_t i = 0; i < count; ++i) {
      if (!fits(rules_[i], arguments[i], i, state)) return Answer::no;
    }
    if (!apart(state)) return Answer::no;
    return state.device.type == dlpack::kCpu ? Answer::on_cpu : Answer::elsewhere;
  }

 private:
  struct State {
    int64_t sizes[kSymbols];
    dlpack::Tensor tensors[kMaxArguments] = {};
    Span spans[kMaxArguments];
    size_t tensors_seen = 0;
    dlpack::Device device{};

    State() {
      for (int64_t& size : sizes) size = kUnbound;
    }
  };

  static Rule parsed(const py::dict& from) {
    Rule rule;
    const auto kind = from["kind"].cast<std::string>();
    if (kind == "seed") {
      rule.kind = Kind::seed;
    } else if (kind == "integer") {
      rule.kind = Kind::integer;
      rule.low = from["low"].cast<int64_t>();
      rule.high = from["high"].cast<int64_t>();
    } else if (kind == "number") {
      rule.kind = Kind::number;
    } else if (kind == "bool") {
      rule.kind = Kind::boolean;
    } else if (kind == "bounds") {
      rule.kind = Kind::bounds;
    } else if (kind == "choice") {
      rule.kind = Kind::choice;
      for (const py::handle choice : from["choices"]) rule.choices.push_back(choice.cast<py::str>());
    } else {
      if (kind == "amount") rule.kind = Kind::amount;
      const auto form = from["form"].cast<std::string>();
      rule.form = form == "images" ? Form::images : form == "like" ? Form::like : Form::dense;
      for (const py::handle name : from["dtypes"]) rule.dtypes.push_back(dtype_of(name.cast<std::string>()));
      rule.optional = from["optional"].cast<bool>();
      rule.written = from["written"].cast<bool>();
      rule.other = from["other"].cast<size_t>();
      for (const py::handle shape : from["shapes"]) {
        std::vector<Size>& sizes = rule.shapes.emplace_back();
        for (const py::handle size : shape) {
          const auto [letter, plus] = size.cast<std::pair<std::string, int64_t>>();
          sizes.push_back({letter.at(0) - 'A', plus});
        }
      }
    }
    return rule;
  }

  bool fits(const Rule& rule, PyObject* value, size_t index, State& state) const {
    switch (rule.kind) {
      case Kind::tensor: return (rule.optional && value == Py_None) || fits_tensor(rule, value, index, state);
      case Kind::amount: {
        double number;
        return is_number(value, &number) ? is_amount(number) : fits_tensor(rule, value, index, state);
      }
      case Kind::number: {
        double number;
        return is_number(value, &number) && is_amount(number);
      }
      case Kind::boolean: return PyBool_Check(value);
      case Kind::seed: return is_seed(value);
      case Kind::integer: {
        int overflow = 0;
        if (!PyLong_CheckExact(value)) return false;
        const int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow);
        return overflow == 0 && number >= rule.low && number <= rule.high;
      }
      case Kind::bounds: return are_bounds(value);
      case Kind::choice: {
        if (!PyUnicode_CheckExact(value)) return false;
        for (const py::str& choice : rule.choices) {
          if (value == choice.ptr() || PyUnicode_Compare(value, choice.ptr()) == 0) return true;
        }
        return false;
      }
    }
    return false;
  }

  // A float or an int, exactly: a bool is neither, and a subclass may answer as it likes.
  static bool is_number(PyObject* value, double* number) {
    if (PyFloat_CheckExact(value)) {
      *number = PyFloat_AS_DOUBLE(value);
      return true;
    }
    if (!PyLong_CheckExact(value)) return false;
    *number = PyLong_AsDouble(value);
    if (*number == -1.0 && PyErr_Occurred()) PyErr_Clear();  // too large; -1 is no amount and no bound that fits either
    return true;
  }

  static bool is_amount(double number) { return number >= 0.0 && number <= static_cast<double>(FLT_MAX); }

  static bool is_seed(PyObject* value) {
    if (!PyLong_CheckExact(value)) return false;
    int overflow = 0;
    PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow <= 0) return overflow == 0;
    PyLong_AsUnsignedLongLong(value);
    if (!PyErr_Occurred()) return true;
    PyErr_Clear();
    return false;
  }

  static bool are_bounds(PyObject* value) {
    if (!PyTuple_CheckExact(value) || PyTuple_GET_SIZE(value) != 2) return false;
    double low, high;
    for (const auto& [item, number] : {std::pair{PyTuple_GET_ITEM(value, 0), &low}, {PyTuple_GET_ITEM(value, 1), &high}}) {
      if (!PyFloat_CheckExact(item) || !is_number(item, number)) return false;
      if (!(std::fabs(*number) <= static_cast<double>(FLT_MAX))) return false;
    }
    return low < high;
  }

  bool fits_tensor(const Rule& rule, PyObject* value, size_t index, State& state) const {
    dlpack::Tensor& t = state.tensors[index];
    if (!is_plain(value) || !viewed(value, &t)) return false;
    if (state.tensors_seen == 0) state.device = t.device;
    if (t.device.type != state.device.type || t.device.id != state.device.id) return false;
    bool known = false;
    for (const dlpack::DataType& dtype : rule.dtypes) {
      known = known || (t.dtype.code == dtype.code && t.dtype.bits == dtype.bits && t.dtype.lanes == dtype.lanes);
    }
    if (!known) return false;
    int64_t elements = 1;
    for (int32_t i = 0; i < t.ndim; ++i) elements *= t.shape[i];
    if (t.data == nullptr && elements > 0) return false;
    if (!has_form(rule, t, elements, state)) return false;
    const auto begin = reinterpret_cast<uintptr_t>(t.data) + t.byte_offset;
    const auto bytes = static_cast<uintptr_t>(elements) * (t.dtype.bits / 8u);
    state.spans[state.tensors_seen++] = {value, begin, begin + bytes, rule.written};
    return true;
  }

  // A subclass may have no memory, or want to see what is called.
  bool is_plain(PyObject* value) const {
    auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(value));
    for (py::ssize_t i = 0; i < PyTuple_GET_SIZE(types_.ptr()); ++i) {
      if (PyTuple_GET_ITEM(types_.ptr(), i) == type) return true;
    }
    return false;
  }

  // DLPack says nothing of a negation that is still to be carried out.
  bool viewed(PyObject* value, dlpack::Tensor* t) const {
    PyObject* const negative = PyObject_CallOneArg(is_neg_.ptr(), value);
    const bool plain = negative == Py_False;
    Py_XDECREF(negative);
    if (plain && view_(value, t) == 0) return true;
    PyErr_Clear();
    return false;
  }

  bool has_form(const Rule& rule, const dlpack::Tensor& t, int64_t elements, State& state) const {
    if (rule.form == Form::like) {
      const dlpack::Tensor& other = state.tensors[rule.other];
      if (t.ndim != other.ndim || t.strides == nullptr || other.strides == nullptr) return false;
      for (int32_t i = 0; i < t.ndim; ++i) {
        if (t.shape[i] != other.shape[i] || t.strides[i] != other.strides[i]) return false;
      }
      return true;
    }
    const bool images = rule.form == Form::images;
    const auto dims = static_cast<size_t>(t.ndim);
    for (const std::vector<Size>& sizes : rule.shapes) {
      if (images ? dims >= 2 && dims >= sizes.size() : dims == sizes.size()) {
        return has_sizes(t, sizes, state) && (is_contiguous(t, elements) || (images && is_channels_last(t)));
      }
    }
    return false;
  }

  static bool has_sizes(const dlpack::Tensor& t, const std::vector<Size>& sizes, State& state) {
    const int64_t* given = t.shape;
    for (const Size& size : sizes) {
      int64_t& bound = state.sizes[size.symbol];
      if (bound == kUnbound) bound = *given - size.plus;
      if (bound < 0 || *given++ != bound + size.plus) return false;
    }
    return true;
  }

  // What is written shares memory with nothing else, and is given once, also where it has no elements.
  static bool apart(const State& state) {
    for (size_t i = 0; i < state.tensors_seen; ++i) {
      const Span& output = state.spans[i];
      if (!output.written) continue;
      for (size_t j = 0; j < state.tensors_seen; ++j) {
        const Span& other = state.spans[j];
        if (i == j) continue;
        if (output.tensor == other.tensor || (output.begin < other.end && other.begin < output.end)) return false;
      }
    }
    return true;
  }

  py::tuple types_;
  int (*view_)(void*, dlpack::Tensor*) = nullptr;
  py::object is_neg_;  // of the first type, which the others inherit
  std::vector<Rule> rules_;
};

constexpr const char* kCapsule = "fairtat.signature";

// Python's own calling convention: unpacking by pybind11 would take as long as the check.
PyObject* call(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  const auto* signature = static_cast<const Signature*>(PyCapsule_GetPointer(self, kCapsule));
  return PyLong_FromLong(static_cast<long>(signature->fits(arguments, static_cast<size_t>(count))));
}

PyMethodDef kCall = {"signature", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call)), METH_FASTCALL,
                     "Whether the arguments have their usual form, and where they are."};

py::object signature(py::tuple types, const py::capsule& exchange, const py::list& rules) {
  auto made = std::make_unique<Signature>(std::move(types), exchange, rules);
  const py::capsule owner(made.get(), kCapsule, [](PyObject* self) {
    delete static_cast<Signature*>(PyCapsule_GetPointer(self, kCapsule));
  });
  made.release();
  PyObject* const function = PyCFunction_New(&kCall, owner.ptr());
  if (function == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(function);
}

}  // namespace

void bind_signature(py::module_& m) {
  m.def("signature", &signature, "A function that says whether its arguments have the form that the rules describe.");
}

}  // namespace fairtat
