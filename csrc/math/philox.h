// Philox4x32-10 (Salmon et al., SC 2011): four 32-bit words as a pure function of a counter and a key.
#pragma once

#include "math/common.h"

namespace fairtat {
namespace FAIRTAT_ISA {

// Positions outside any image, so that a sample's radius and target share no word with its pixels.
constexpr uint32_t kRadiusPosition = 0xfffffffeu;
constexpr uint32_t kTargetPosition = 0xffffffffu;

struct Words {
  uint32_t w[4];
};

// Both halves of a product, which is one instruction of a GPU; of 64-bit C++ nvcc makes two.
FAIRTAT_FN void wide_product(uint32_t a, uint32_t b, uint32_t* high, uint32_t* low) {
#ifdef __CUDA_ARCH__
  asm("{\n\t.reg .b64 product;\n\tmul.wide.u32 product, %2, %3;\n\tmov.b64 {%1, %0}, product;\n\t}"
      : "=r"(*high), "=r"(*low)
      : "r"(a), "r"(b));
#else
  const uint64_t product = static_cast<uint64_t>(a) * b;
  *high = static_cast<uint32_t>(product >> 32);
  *low = static_cast<uint32_t>(product);
#endif
}

// The two words of the key in each round.
struct PhiloxKeys {
  uint32_t of[10][2];
};

FAIRTAT_FN PhiloxKeys philox_keys(uint64_t seed) {
  PhiloxKeys keys;
  uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
  for (auto& key : keys.of) {
    key[0] = low;
    key[1] = high;
    low += 0x9e3779b9u;
    high += 0xbb67ae85u;
  }
  return keys;
}

// counter = (position, stream, sample id low, sample id high)
FAIRTAT_FN Words philox(uint32_t position, uint32_t stream, uint64_t sample_id, const PhiloxKeys& keys) {
  uint32_t c0 = position, c1 = stream;
  uint32_t c2 = static_cast<uint32_t>(sample_id), c3 = static_cast<uint32_t>(sample_id >> 32);
  for (const auto& key : keys.of) {
    uint32_t high0, low0, high1, low1;
    wide_product(0xd2511f53u, c0, &high0, &low0);
    wide_product(0xcd9e8d57u, c2, &high1, &low1);
    c0 = high1 ^ c1 ^ key[0];
    c1 = low1;
    c2 = high0 ^ c3 ^ key[1];
    c3 = low0;
  }
  return {{c0, c1, c2, c3}};
}

// key = (seed low, seed high)
FAIRTAT_FN Words philox(uint32_t position, uint32_t stream, uint64_t sample_id, uint64_t seed) {
  return philox(position, stream, sample_id, philox_keys(seed));
}

// U[-1, 1): exact in float, so every backend gets the same bits.
FAIRTAT_FN float symmetric_uniform(uint32_t word) { return multiply_add(static_cast<float>(word >> 8), 0x1p-23f, -1.0f); }

// (0, 1]: a radius or the argument of a logarithm
FAIRTAT_FN float positive_uniform(uint32_t word) { return static_cast<float>((word >> 8) + 1u) * 0x1p-24f; }

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
