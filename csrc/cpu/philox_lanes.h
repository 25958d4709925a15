// Philox for many counters at once, in the lanes of a vector. A lane of 64 bits holds one 32-bit word of a counter: the
// products need 64 bits, so nothing has to move between lanes in the ten rounds. Compilers put words into lanes of 32 bits
// and spend a third of their instructions on moving them.
#pragma once

#include "math/philox.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace fairtat {
namespace FAIRTAT_ISA {

#if defined(__AVX2__)

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#else
constexpr int kVectorBytes = 32;
#endif
typedef uint64_t Lanes __attribute__((vector_size(kVectorBytes)));

// The products of the low words; every other lane of a, each followed by that of b. The masks, which leave out no lane,
// are for GCC 12: without them it warns of its own header.
#if defined(__AVX512F__)
FAIRTAT_FN Lanes product(Lanes a, Lanes b) { return (Lanes)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b); }
FAIRTAT_FN Lanes even_pairs(Lanes a, Lanes b) { return (Lanes)_mm512_maskz_unpacklo_epi64(0xff, (__m512i)a, (__m512i)b); }
FAIRTAT_FN Lanes odd_pairs(Lanes a, Lanes b) { return (Lanes)_mm512_maskz_unpackhi_epi64(0xff, (__m512i)a, (__m512i)b); }
#else
FAIRTAT_FN Lanes product(Lanes a, Lanes b) { return (Lanes)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
FAIRTAT_FN Lanes even_pairs(Lanes a, Lanes b) { return (Lanes)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b); }
FAIRTAT_FN Lanes odd_pairs(Lanes a, Lanes b) { return (Lanes)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b); }
#endif

// Two words to a lane, that of a in its low half.
FAIRTAT_FN Lanes pairs_of(Lanes a, Lanes b) { return (a & 0xffffffffu) | b << 32; }

constexpr int kVectorGroups = kVectorBytes / 8;
constexpr int kVectors = 2;  // side by side: one alone would wait for its own products
constexpr uint32_t kGroupsAtOnce = kVectors * kVectorGroups;

// The words of counters [group, group + kGroupsAtOnce), in order.
FAIRTAT_FN void philox_groups(uint32_t* words, uint32_t group, uint32_t stream, uint64_t id, uint64_t seed) {
  // Pairs of words come out by halves: the even lanes first. So the first half of the groups goes there.
  const Lanes zero = {};
  Lanes order;
  for (int i = 0; i < kVectorGroups; ++i) order[i] = static_cast<uint64_t>(i / 2 + i % 2 * (kVectorGroups / 2));
  const Lanes first_multiplier = zero + 0xd2511f53u, second_multiplier = zero + 0xcd9e8d57u;
  Lanes c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    c0[v] = order + group + static_cast<uint64_t>(v * kVectorGroups);
    c1[v] = zero + stream;
    c2[v] = zero + id;  // of c0 and c2 the products see the low words alone
    c3[v] = zero + (id >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int v = 0; v < kVectors; ++v) {
      const Lanes p0 = product(c0[v], first_multiplier), p1 = product(c2[v], second_multiplier);
      c0[v] = p1 >> 32 ^ c1[v] ^ k0;
      c2[v] = p0 >> 32 ^ c3[v] ^ k1;
      c1[v] = p1;
      c3[v] = p0;
    }
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  for (int v = 0; v < kVectors; ++v) {
    const Lanes first = pairs_of(c0[v], c1[v]), second = pairs_of(c2[v], c3[v]);
    const Lanes halves[2] = {even_pairs(first, second), odd_pairs(first, second)};
    memcpy(words + 4 * v * kVectorGroups, halves, sizeof halves);
  }
}

#else

constexpr uint32_t kGroupsAtOnce = 1;

FAIRTAT_FN void philox_groups(uint32_t* words, uint32_t group, uint32_t stream, uint64_t id, uint64_t seed) {
  const Words w = philox(group, stream, id, seed);
  for (int lane = 0; lane < 4; ++lane) words[lane] = w.w[lane];
}

#endif

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
