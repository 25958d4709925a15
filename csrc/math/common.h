// What every header of csrc/math builds on: host and device markers, and the 16-bit floats.
//
// The CPU sources are compiled once for each instruction set, so everything lives in a namespace named
// after it and has internal linkage: the linker must never merge an AVX-512 body into the baseline.
// For the same reason nothing here instantiates a template of the standard library.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifndef FAIRTAT_ISA
#define FAIRTAT_ISA device
#endif

#if defined(__CUDACC__)
#define FAIRTAT_FN static __host__ __device__ __forceinline__
#else
#define FAIRTAT_FN static inline __attribute__((always_inline, unused))
#endif

namespace fairtat {
namespace FAIRTAT_ISA {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

FAIRTAT_FN uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

FAIRTAT_FN float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// a * b + c in one instruction of a GPU, which does not round the product: for products that are exact, and for results
// that are compared with a tolerance.
FAIRTAT_FN float multiply_add(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return a * b + c;
#endif
}

FAIRTAT_FN float to_float(float value) { return value; }

FAIRTAT_FN float to_float(BFloat16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }

FAIRTAT_FN float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)
  float converted;
  asm("cvt.f32.f16 %0, %1;" : "=f"(converted) : "h"(value.bits));
  return converted;
#else
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  // The exponent biases differ by 112; a product with 2**112 also normalises the subnormals.
  const uint32_t finite = bits_of(float_of(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7f800000u;  // infinity or NaN
  return float_of(sign | (magnitude >= 0x0f800000u ? special : finite));
#endif
}

// Round to nearest, ties to even, as PyTorch does. A GPU has instructions for it, whose NaN has other bits.
FAIRTAT_FN void store(float* out, float value) { *out = value; }

FAIRTAT_FN void store(BFloat16* out, float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out->bits) : "f"(value));
#else
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out->bits = static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
#endif
}

FAIRTAT_FN void store(Float16* out, float value) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(value));
#else
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // A subnormal half is a multiple of 2**-24, the spacing of floats at 0.5: the addition rounds.
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // 65520 and above round to infinity
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  out->bits = static_cast<uint16_t>(sign | half);
#endif
}

// Two values side by side, the first at an even place: a GPU rounds both in one instruction.
FAIRTAT_FN void store_two(float* out, float first, float second) {
  out[0] = first;
  out[1] = second;
}

FAIRTAT_FN void store_two(BFloat16* out, float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  memcpy(out, &both, sizeof both);
#else
  store(out, first);
  store(out + 1, second);
#endif
}

FAIRTAT_FN void store_two(Float16* out, float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  memcpy(out, &both, sizeof both);
#else
  store(out, first);
  store(out + 1, second);
#endif
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
