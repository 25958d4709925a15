#include "cuda/held_row.h"
#include "cuda/launch.h"
#include "math/logit_loss.h"

namespace fairtat {
namespace cuda {
namespace {

// A crew of threads works on a row that no team holds: a warp where it is short, a whole block where it is long.
// Every reduction leaves its result in every thread of the crew, in one fixed order.
template <bool kBlock>
struct Crew {
  __device__ static int size() { return kBlock ? static_cast<int>(blockDim.x) : kWarp; }
  __device__ static int rank() { return kBlock ? static_cast<int>(threadIdx.x) : static_cast<int>(threadIdx.x % kWarp); }

  template <typename Value, typename Merge>
  __device__ static Value reduce(Value value, Merge merge) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) value = merge(value, value.shuffled(offset));
    if (!kBlock) return value;
    __shared__ Value partial[kWarp];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    __syncthreads();  // the previous result has been read
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    Value total = partial[0];
    for (int w = 1; w < static_cast<int>(blockDim.x) / kWarp; ++w) total = merge(total, partial[w]);
    return total;
  }
};

struct Sum {
  float value;
  __device__ Sum shuffled(int offset) const { return {__shfl_xor_sync(~0u, value, offset)}; }
};

struct Best {
  float value;
  int64_t index;  // -1: none yet
  __device__ Best shuffled(int offset) const {
    return {__shfl_xor_sync(~0u, value, offset), __shfl_xor_sync(~0u, index, offset)};
  }
};

// The larger value (NaN is largest), the lower index among equals.
__device__ Best better(Best a, Best b) {
  if (a.index < 0) return b;
  if (b.index < 0) return a;
  if (comes_before(a.value, b.value)) return a;
  if (comes_before(b.value, a.value)) return b;
  return a.index < b.index ? a : b;
}

template <bool kBlock>
__device__ float sum(float value) {
  return Crew<kBlock>::reduce(Sum{value}, [](Sum a, Sum b) { return Sum{a.value + b.value}; }).value;
}

// The best entry of a row among those for which `eligible(index, value)` holds.
template <bool kBlock, typename Row, typename Eligible>
__device__ Best best_of(Row z, int64_t classes, Eligible eligible) {
  Best best{0.0f, -1};
  for (int64_t j = Crew<kBlock>::rank(); j < classes; j += Crew<kBlock>::size()) {
    const float value = z(j);
    if (eligible(j, value)) best = better(best, Best{value, j});
  }
  return Crew<kBlock>::reduce(best, better);
}

template <typename T>
struct Row {
  const T* at;
  __device__ float operator()(int64_t j) const { return to_float(at[j]); }
};

// exp(z_j - z_best), exactly 1 at the best entry, as the CPU has it where that entry is infinite.
template <typename T>
__device__ float weight(Row<T> z, int64_t j, Best best) {
  return j == best.index ? 1.0f : exp_nonpositive(z(j) - best.value);
}

// The sum of the weights of all entries but the best: the normaliser is 1 + this; NaN where the row has no softmax.
template <bool kBlock, typename T>
__device__ float rest_of(Row<T> z, int64_t classes, Best best) {
  float rest = 0.0f;
  for (int64_t j = Crew<kBlock>::rank(); j < classes; j += Crew<kBlock>::size()) {
    if (j != best.index) rest += weight(z, j, best);
  }
  return sum<kBlock>(rest) + nan_unless_finite(best.value);
}

template <bool kBlock, typename T>
__device__ float cross_entropy(Row<T> z, T* dz, int64_t classes, Best best, int64_t target) {
  const float rest = rest_of<kBlock>(z, classes, best);
  float others = 0.0f;
  for (int64_t j = Crew<kBlock>::rank(); j < classes; j += Crew<kBlock>::size()) {
    if (j == target) continue;
    const float p = weight(z, j, best) / (1.0f + rest);
    others += p;
    store(dz + j, p);
  }
  others = sum<kBlock>(others);
  if (Crew<kBlock>::rank() == 0) store(dz + target, -others);
  return log1pf(rest) + (best.value - z(target));
}

template <bool kBlock, typename T, typename Clean>
__device__ float divergence(Row<T> z, Row<Clean> clean, T* dz, int64_t classes, Best best) {
  const Best clean_best = best_of<kBlock>(clean, classes, [](int64_t, float) { return true; });
  const float clean_rest = rest_of<kBlock>(clean, classes, clean_best);
  const float rest = rest_of<kBlock>(z, classes, best);
  const float log_scales = log1pf(rest) - log1pf(clean_rest);
  float total = 0.0f;
  for (int64_t j = Crew<kBlock>::rank(); j < classes; j += Crew<kBlock>::size()) {
    const float p = weight(clean, j, clean_best) / (1.0f + clean_rest);
    total += divergence_term(clean(j), clean_best.value, z(j), best.value, p, log_scales);
    store(dz + j, weight(z, j, best) / (1.0f + rest) - p);
  }
  return sum<kBlock>(total);
}

// What comes after `last` in the descending order.
template <bool kBlock, typename T>
__device__ Best next_of(Row<T> z, int64_t classes, Best last) {
  return best_of<kBlock>(z, classes, [=](int64_t j, float value) {
    return comes_before(last.value, value) || (!comes_before(value, last.value) && j > last.index);
  });
}

// (z_plus - z_minus), over the spread of the leading logits for DLR.
template <bool kBlock, typename T>
__device__ float difference(const LogitLossArgs& a, bool dlr, Row<T> z, T* dz, Best best, int64_t plus, int64_t minus,
                            bool targeted) {
  const float gap = z(plus) - z(minus);
  Best third = best, fourth = best;
  float scale = 1.0f;
  if (dlr) {
    third = next_of<kBlock>(z, a.classes, next_of<kBlock>(z, a.classes, best));
    // Differences first: a large offset common to all logits then costs no accuracy.
    const float to_third = best.value - third.value;
    scale = to_third + kDlrEps;
    if (targeted) {
      fourth = next_of<kBlock>(z, a.classes, third);
      scale = 0.5f * (to_third + (best.value - fourth.value)) + kDlrEps;
    }
  }
  const float loss = gap / scale;
  for (int64_t j = Crew<kBlock>::rank(); j < a.classes; j += Crew<kBlock>::size()) {
    float d = 0.0f;
    if (j == plus) d += 1.0f;
    if (j == minus) d -= 1.0f;
    if (dlr && j == best.index) d -= loss;
    if (dlr && j == third.index) d += targeted ? 0.5f * loss : loss;
    if (dlr && targeted && j == fourth.index) d += 0.5f * loss;
    // The division comes last, so that 1 - 1 cancels exactly where gap equals scale.
    store(dz + j, loss != loss ? loss : d / scale);
  }
  return loss;
}

template <bool kBlock, typename T>
__device__ float kl(const LogitLossArgs& a, Row<T> z, T* dz, int64_t at, Best best) {
  switch (a.clean_dtype) {
    case DType::float32:
      return divergence<kBlock>(z, Row<float>{static_cast<const float*>(a.clean_logits) + at}, dz, a.classes, best);
    case DType::bfloat16:
      return divergence<kBlock>(z, Row<BFloat16>{static_cast<const BFloat16*>(a.clean_logits) + at}, dz, a.classes, best);
    case DType::float16:
      return divergence<kBlock>(z, Row<Float16>{static_cast<const Float16*>(a.clean_logits) + at}, dz, a.classes, best);
  }
  return 0.0f;
}

__device__ LossKind kind_of(const LogitLossArgs& a, int64_t sample) { return is_towards(a, sample) ? a.kind : a.kind_away; }

// Cross-entropy of a row that a team holds in registers: one read of the logits, whose loads are all in flight at once,
// one exponential for each and one write. Rows of other kinds are left alone.
template <typename T, int kWarps>
__global__ void __launch_bounds__(Team<kWarps>::kBlock, Team<kWarps>::kBlocks) cross_entropy_kernel(LogitLossArgs a) {
  using Team = Team<kWarps>;
  constexpr int kWidth = Vector<T>::kWidth, kVectors = Team::kHeld / kWidth;
  const int64_t s = Team::row();
  if (s >= a.n || kind_of(a, s) != LossKind::ce) return;
  const int rank = Team::rank(), classes = static_cast<int>(a.classes);
  const T* row = static_cast<const T*>(a.logits) + s * classes;
  T* dz = static_cast<T*>(a.dlogits) + s * classes;
  Words16 words[kVectors];
  load_row<T, kWarps>(row, classes, words);
  const int64_t target = a.target[s];
  const bool in_range = static_cast<uint64_t>(target) < static_cast<uint64_t>(a.classes);
  const float at_target = in_range ? to_float(row[target]) : 0.0f;

  HeldRow<Team::kHeld> held;
  weigh_row<T, kWarps>(words, classes, held);
  const float top = held.top, rest = held.rest;
  const bool has_softmax = rest == rest;
  int64_t best = held.best;
  if (has_softmax && in_range) {
    const float scale = hardware_reciprocal(1.0f + rest);
    for (int i = 0; i < kVectors; ++i) {
      const int j = (i * Team::kSize + rank) * kWidth;
      Vector<T> out;
      const float* weight = held.weight + i * kWidth;
      for (int k = 0; k < kWidth; k += 2) store_two(&out.at[k], weight[k] * scale, weight[k + 1] * scale);
      if (j < classes) *reinterpret_cast<Vector<T>*>(dz + j) = out;
    }
    // After the vector that holds it, in the same thread. Not p - 1: a confident sample keeps a gradient.
    if (static_cast<int>(target) / kWidth % Team::kSize == rank) {
      const float others = target == best ? rest : 1.0f + (rest - hardware_exp(at_target - top));
      store(dz + target, -(others * scale));
    }
  } else {
    if (!has_softmax) best = best_of<false>(Row<T>{row}, classes, [](int64_t, float) { return true; }).index;
    for (int j = rank; j < classes; j += Team::kSize) store(dz + j, nanf(""));
  }
  if (rank == 0) {
    a.loss[s] = in_range ? log1pf(rest) + (top - at_target) : nanf("");
    a.pred[s] = best;
    a.reached[s] = best == target;
  }
}

// `done`: rows of cross-entropy have been served.
template <bool kBlock, typename T>
__global__ void logit_loss_kernel(LogitLossArgs a, bool done) {
  const int64_t teams = kBlock ? gridDim.x : gridDim.x * (blockDim.x / kWarp);
  int64_t s = kBlock ? blockIdx.x : blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  for (; s < a.n; s += teams) {
    const bool towards = is_towards(a, s);
    const LossKind kind = kind_of(a, s);
    if (done && kind == LossKind::ce) continue;
    const int64_t target = a.target[s], at = s * a.classes;
    const Row<T> z{static_cast<const T*>(a.logits) + at};
    T* dz = static_cast<T*>(a.dlogits) + at;
    const Best best = best_of<kBlock>(z, a.classes, [](int64_t, float) { return true; });
    const bool targeted = kind == LossKind::dlr && towards && a.y != nullptr;
    const int64_t y = targeted ? a.y[s] : 0;
    float loss;
    const bool in_range = target >= 0 && target < a.classes && y >= 0 && y < a.classes;
    if (!in_range || nan_unless_finite(best.value) != 0.0f) {
      // No softmax; or an index out of range, which cannot raise without a synchronisation.
      loss = nanf("");
      for (int64_t j = Crew<kBlock>::rank(); j < a.classes; j += Crew<kBlock>::size()) store(dz + j, loss);
    } else if (kind == LossKind::ce) {
      loss = cross_entropy<kBlock>(z, dz, a.classes, best, target);
    } else if (kind == LossKind::kl) {
      loss = kl<kBlock>(a, z, dz, at, best);
    } else {
      const int64_t plus = targeted ? y : best_of<kBlock>(z, a.classes, [=](int64_t j, float) { return j != target; }).index;
      loss = difference<kBlock>(a, kind == LossKind::dlr, z, dz, best, plus, target, targeted);
    }
    if (Crew<kBlock>::rank() == 0) {
      a.loss[s] = loss;
      a.pred[s] = best.index;
      a.reached[s] = best.index == target;
    }
  }
}

template <typename T>
void launch(const LogitLossArgs& a, cudaStream_t stream) {
  constexpr int64_t kLongRow = 1024;
  constexpr int kRows = kThreads / kWarp;
  const bool mixed = a.targeted != nullptr;
  const bool some = a.kind == LossKind::ce || (mixed && a.kind_away == LossKind::ce);
  const bool done = some && is_held<T>(a.logits, a.classes) && is_aligned(a.dlogits);
  // The same kernel whatever else the batch holds: a sample has the same bits in any company.
  if (done) {
    if (a.classes <= kShortRow) {
      cross_entropy_kernel<T, 1><<<Team<1>::blocks(a.n), Team<1>::kBlock, 0, stream>>>(a);
    } else {
      cross_entropy_kernel<T, 2><<<Team<2>::blocks(a.n), Team<2>::kBlock, 0, stream>>>(a);
    }
    const bool all = a.kind == LossKind::ce && (!mixed || a.kind_away == LossKind::ce);
    if (all) return;
  }
  if (a.classes > kLongRow) {
    logit_loss_kernel<true, T><<<grid_for(a.n, 1), kThreads, 0, stream>>>(a, done);
  } else {
    logit_loss_kernel<false, T><<<grid_for(a.n, kRows), kThreads, 0, stream>>>(a, done);
  }
}

}  // namespace

void logit_loss(const LogitLossArgs& a, Place place) {
  if (a.n == 0) return;
  launch_on(place, "logit_loss", [&](cudaStream_t stream) {
    with_type(a.logits_dtype, [&](auto logit) { launch<decltype(logit)>(a, stream); });
  });
}

}  // namespace cuda
}  // namespace fairtat
